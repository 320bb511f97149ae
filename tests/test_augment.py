"""Shift, gain, masks and mixup, drawn from the generators that the trainer lends."""

import pytest
import torch
from torch import Tensor
from torchaudio.functional import mask_along_axis_iid

from fmasearch.augment import augment, mixup, random_gain, spec_augment, time_shift
from fmasearch.config import AugmentConfig

FREQUENCY = AugmentConfig(num_freq_masks=2, freq_mask_bins=8)
TIME = AugmentConfig(num_time_masks=2, time_mask_frames=15)
BOTH = AugmentConfig(num_freq_masks=1, freq_mask_bins=8, num_time_masks=2, time_mask_frames=15)
EVERYTHING = BOTH.model_copy(update={"shift_fraction": 0.5, "gain_db": 6.0})


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def ones(num_clips: int, num_frames: int = 50, num_bins: int = 20) -> Tensor:
    return torch.ones(num_clips, num_frames, num_bins)


def ramps(lengths: list[int], num_frames: int) -> tuple[Tensor, Tensor]:
    """Clips of one bin whose frames are 1, 2, 3, ..., and 0 at and after their lengths."""
    lengths_B = torch.tensor(lengths)
    frames_T = torch.arange(num_frames)
    return torch.where(frames_T < lengths_B[:, None], frames_T + 1.0, 0.0)[:, :, None], lengths_B


def augmented(x_BTF: Tensor, config: AugmentConfig) -> Tensor:
    """Clips that fill the tensor, 1 unit per dB."""
    num_clips, num_frames, num_bins = x_BTF.shape
    return augment(x_BTF, torch.full((num_clips,), num_frames), torch.ones(num_bins), config)


def test_masks_have_uniform_widths_and_places() -> None:
    config = AugmentConfig(num_time_masks=1, time_mask_frames=10)
    masked_BT = spec_augment(ones(20_000), config)[:, :, 0] == 0
    widths = masked_BT.sum(1).bincount(minlength=11) / 20_000
    # 0 to 9 frames, each 1 in 10; the standard error of a share is 0.002.
    torch.testing.assert_close(widths, torch.tensor([0.1] * 10 + [0.0]), atol=0.01, rtol=0)
    starts = masked_BT[masked_BT.sum(1) == 9].float().argmax(1)
    assert (int(starts.min()), int(starts.max())) == (0, 40)


def test_frequency_masks_are_whole_bands_and_time_masks_whole_frames() -> None:
    by_bin = spec_augment(ones(32), FREQUENCY)
    assert torch.equal(by_bin, by_bin[:, :1].expand_as(by_bin))
    assert (by_bin == 0).any()
    by_frame = spec_augment(ones(32), TIME)
    assert torch.equal(by_frame, by_frame[:, :, :1].expand_as(by_frame))
    assert (by_frame == 0).any()


def test_every_clip_has_masks_of_its_own() -> None:
    assert len(spec_augment(ones(16), BOTH).flatten(1).unique(dim=0)) == 16


def test_what_is_not_masked_is_not_touched() -> None:
    x_BTF = torch.randn(16, 50, 20)
    before = x_BTF.clone()
    masked = spec_augment(x_BTF, BOTH)
    assert torch.equal(x_BTF, before)
    assert torch.equal(masked[masked != 0], x_BTF[masked != 0])


def test_masks_wider_than_the_input_leave_some_of_it() -> None:
    config = AugmentConfig(num_freq_masks=1, freq_mask_bins=100)
    assert (spec_augment(ones(500), config) == 1).flatten(1).any(1).all()


def test_masks_alone_draw_as_in_the_first_release() -> None:
    config = BOTH.model_copy(update={"probability": 0.6})
    x_BTF = torch.randn(16, 50, 20)
    torch.manual_seed(3)
    masked = x_BTF[:, None]
    for widest, axis in ((8, 3), (15, 2), (15, 2)):
        masked = mask_along_axis_iid(masked, widest, 0.0, axis=axis)
    expected = torch.where((torch.rand(16) < 0.6)[:, None, None], masked[:, 0], x_BTF)
    torch.manual_seed(3)
    assert torch.equal(augmented(x_BTF, config), expected)


def test_a_shift_rolls_each_clip_within_its_own_length() -> None:
    x_BTF, lengths_B = ramps([1, 5, 8], 8)
    for _ in range(20):
        shifted = time_shift(x_BTF, lengths_B, 1.0)[:, :, 0]
        for clip, row, length in zip(x_BTF[:, :, 0], shifted, lengths_B.tolist(), strict=True):
            roll = int((row[:length] == 1).float().argmax())
            assert torch.equal(row[:length], clip[:length].roll(roll))
            assert not row[length:].any()


def test_all_bins_of_a_frame_move_together() -> None:
    x_BTF = (ramps([8], 8)[0] + torch.tensor([0.0, 100.0])).expand(20, 8, 2)
    shifted = time_shift(x_BTF, torch.full((20,), 8), 1.0)
    assert not torch.equal(shifted, x_BTF)
    assert torch.equal(shifted[:, :, 1], shifted[:, :, 0] + 100)


def test_shifts_are_uniform_up_to_their_share() -> None:
    x_BTF, lengths_B = ramps([10] * 14_000, 12)
    # 0.3 of 10 frames: 7 shifts from -3 to 3, each 2000 times of 14,000; standard error 41.
    first = time_shift(x_BTF, lengths_B, 0.3)[:, 0, 0].long()
    counts = first.bincount(minlength=12).tolist()
    # Rolled back by 3 a clip begins with its frame 4, rolled on by 3 with its frame 8.
    assert [frame for frame, count in enumerate(counts) if count] == [1, 2, 3, 4, 8, 9, 10]
    assert all(count == pytest.approx(2000, abs=200) for count in counts if count)


def test_gain_adds_the_same_decibels_to_each_bin_in_its_units() -> None:
    x_BTF, lengths_B = torch.zeros(4, 6, 3), torch.tensor([6, 6, 2, 1])
    gained = random_gain(x_BTF, lengths_B, torch.tensor([0.1, 0.2, 0.0]), 12.0)
    for clip, length in zip(gained, lengths_B.tolist(), strict=True):
        assert torch.equal(clip[:length], clip[:1].expand(length, 3))
        assert clip[0, 1].item() == pytest.approx(2 * clip[0, 0].item())
        assert clip[0, 2] == 0
        assert not clip[length:].any()
    assert len(gained[:, 0, 0].unique()) == 4


def test_gains_are_uniform_between_softer_and_louder() -> None:
    gains = random_gain(torch.zeros(20_000, 1, 1), torch.ones(20_000, dtype=torch.int64), torch.ones(1), 12.0)
    assert gains.min().item() == pytest.approx(-12, abs=0.02)
    assert gains.max().item() == pytest.approx(12, abs=0.02)
    # Uniform on (-12, 12): mean 0, standard deviation 12 / sqrt(3).
    assert gains.mean().item() == pytest.approx(0, abs=0.2)
    assert gains.std().item() == pytest.approx(12 / 3**0.5, abs=0.1)


def test_masked_cells_are_0_after_the_gain() -> None:
    x_BTF = torch.full((64, 50, 20), 100.0)
    changed = augmented(x_BTF, EVERYTHING)
    levels = [clip[clip != 0].unique() for clip in changed]
    assert (changed == 0).any()
    assert all(len(level) == 1 for level in levels)  # one gain a clip, or a 0
    assert len(torch.cat(levels).unique()) == 64


def test_padding_stays_0() -> None:
    lengths_B = torch.tensor([50, 20, 1, 33])
    padding_BT = torch.arange(50) >= lengths_B[:, None]
    x_BTF = torch.randn(4, 50, 20).masked_fill(padding_BT[:, :, None], 0)
    changed = augment(x_BTF, lengths_B, torch.ones(20), EVERYTHING)
    assert not changed[padding_BT].any()
    assert changed[~padding_BT].any()


@pytest.mark.parametrize("config", [TIME, EVERYTHING], ids=["masks", "everything"])
def test_probability_decides_for_each_clip(config: AugmentConfig) -> None:
    x_BTF = torch.randn(1, 50, 20).expand(5_000, 50, 20)
    changed = (augmented(x_BTF, config.model_copy(update={"probability": 0.3})) != x_BTF).flatten(1)
    # Three in ten clips, but for the one in 15 * 15 whose time masks both have width 0; a gain changes all cells.
    share = 0.3 * (1 - 1 / 225) if config is TIME else 0.3
    assert changed.any(1).float().mean().item() == pytest.approx(share, abs=0.02)


def test_one_draw_decides_for_shift_gain_and_masks() -> None:
    x_BTF = torch.randn(500, 50, 20)
    same = (augmented(x_BTF, EVERYTHING.model_copy(update={"probability": 0.5})) == x_BTF).flatten(1)
    # A gain changes every cell, unmasked or not: a clip stays as it is, or none of its cells does.
    assert torch.equal(same.any(1), same.all(1))


def test_a_seed_repeats_the_batch() -> None:
    x_BTF = torch.randn(8, 50, 20)
    first, second = (_seeded(x_BTF, seed) for seed in (1, 1))
    assert torch.equal(first, second)
    assert not torch.equal(first, _seeded(x_BTF, 2))


@pytest.mark.parametrize(
    "config",
    [
        AugmentConfig(),
        EVERYTHING.model_copy(update={"probability": 0.0}),
        AugmentConfig(probability=0.5, mixup_alpha=0.4),
        AugmentConfig(num_freq_masks=2, freq_mask_bins=0, num_time_masks=2, time_mask_frames=0),
    ],
)
def test_nothing_to_do_returns_the_batch_and_draws_nothing(config: AugmentConfig) -> None:
    x_BTF, before = ones(4), torch.get_rng_state()
    assert augmented(x_BTF, config) is x_BTF
    assert torch.equal(torch.get_rng_state(), before)


def test_mixup_blends_each_clip_with_its_partner() -> None:
    x_BTF, lengths_B = ramps([2, 6, 4, 3], 6)
    mixed = mixup(x_BTF, lengths_B, 0.4)
    assert sorted(mixed.partner_B.tolist()) == [0, 1, 2, 3]
    for row, partner in enumerate(mixed.partner_B.tolist()):
        expected = mixed.share * x_BTF[row] + (1 - mixed.share) * x_BTF[partner]
        torch.testing.assert_close(mixed.x_BTF[row], expected)
        assert mixed.lengths_B[row] == max(lengths_B[row], lengths_B[partner])
    assert mixed.partner_B.dtype is mixed.lengths_B.dtype is torch.int64


def test_padding_stays_0_where_both_partners_have_it() -> None:
    x_BTF, lengths_B = ramps([2, 3, 1], 6)
    mixed = mixup(x_BTF, lengths_B, 1.0)
    for clip, length in zip(mixed.x_BTF, mixed.lengths_B.tolist(), strict=True):
        assert (clip[:length] != 0).all()
        assert not clip[length:].any()


@pytest.mark.parametrize(("alpha", "mean"), [(1.0, 0.75), (0.02, 0.99), (2.0, 0.6875)])
def test_shares_are_those_of_a_folded_beta_distribution(alpha: float, mean: float) -> None:
    # Beta(1, 1) is uniform: folded, on [0.5, 1]. Beta(2, 2) has density 6 s (1 - s): folded mean 11 / 16. For small
    # alpha the partner's share u has density alpha / u up to 1/2, so that its mean is alpha / 2.
    x_BTF, lengths_B = ramps([2], 2)
    shares = torch.tensor([mixup(x_BTF, lengths_B, alpha).share for _ in range(2000)])
    assert shares.min() >= 0.5
    assert shares.max() <= 1
    assert shares.mean().item() == pytest.approx(mean, abs=0.012)


def test_mixup_repeats_from_the_generator_of_the_cpu() -> None:
    x_BTF, lengths_B = ramps([2, 6, 4, 3], 6)
    state = torch.get_rng_state()
    first = mixup(x_BTF, lengths_B, 0.4)
    torch.set_rng_state(state)
    second = mixup(x_BTF, lengths_B, 0.4)
    assert first.share == second.share
    assert torch.equal(first.x_BTF, second.x_BTF)


@pytest.mark.gpu
def test_augmentation_on_the_gpu_does_not_wait_for_it() -> None:
    x_BTF, lengths_B, per_decibel_F = ones(8).cuda(), torch.full((8,), 40), torch.ones(20).cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        changed = augment(x_BTF, lengths_B, per_decibel_F, EVERYTHING.model_copy(update={"probability": 0.5}))
        mixup(changed, lengths_B, 0.4)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def _seeded(x_BTF: Tensor, seed: int) -> Tensor:
    torch.manual_seed(seed)
    return augmented(x_BTF, EVERYTHING)
