"""SpecAugment: torchaudio's masks from our own generator, inside each clip."""

import pytest
import torch
from torch import Tensor
from torchaudio.functional import mask_along_axis_iid

from fmasearch.augment import spec_augment
from fmasearch.config import AugmentConfig


def ones(num_clips: int, num_frames: int = 50, num_bins: int = 20) -> Tensor:
    return torch.ones(num_clips, num_frames, num_bins)


def full(num_clips: int, num_frames: int = 50) -> Tensor:
    return torch.full((num_clips,), num_frames)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


FREQUENCY = AugmentConfig(num_freq_masks=2, freq_mask_bins=8)
TIME = AugmentConfig(num_time_masks=2, time_mask_frames=15)
BOTH = AugmentConfig(num_freq_masks=1, freq_mask_bins=8, num_time_masks=2, time_mask_frames=15)


@pytest.mark.parametrize("seed", range(3))
def test_equal_random_numbers_make_the_masks_of_torchaudio(seed: int) -> None:
    x_BTF = torch.randn(64, 50, 20)
    augmented = spec_augment(x_BTF, full(64), BOTH, seeded(seed))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.rand(64)  # our draw for `probability`
        expected = x_BTF[:, None]  # torchaudio masks each channel of each clip: ours have one
        expected = mask_along_axis_iid(expected, 8, 0.0, axis=3)
        expected = mask_along_axis_iid(expected, 15, 0.0, axis=2)
        expected = mask_along_axis_iid(expected, 15, 0.0, axis=2)[:, 0]
    assert torch.equal(augmented, expected)


def test_widths_and_places_are_uniform() -> None:
    config = AugmentConfig(num_time_masks=1, time_mask_frames=10)
    masked_BT = spec_augment(ones(20_000), full(20_000), config, seeded())[:, :, 0] == 0
    widths = masked_BT.sum(1).bincount(minlength=11) / 20_000
    # 0 to 9 frames, each 1 in 10; the standard error of a share is 0.002.
    torch.testing.assert_close(widths, torch.tensor([0.1] * 10 + [0.0]), atol=0.01, rtol=0)
    starts = masked_BT[masked_BT.sum(1) == 9].float().argmax(1)
    assert (int(starts.min()), int(starts.max())) == (0, 40)
    assert starts.float().mean().item() == pytest.approx(20, abs=1)


def test_frequency_masks_are_whole_bands_and_time_masks_whole_frames() -> None:
    by_bin = spec_augment(ones(32), full(32), FREQUENCY, seeded())
    assert torch.equal(by_bin, by_bin[:, :1].expand_as(by_bin))
    assert (by_bin == 0).any()
    by_frame = spec_augment(ones(32), full(32), TIME, seeded())
    assert torch.equal(by_frame, by_frame[:, :, :1].expand_as(by_frame))
    assert (by_frame == 0).any()


def test_every_clip_has_masks_of_its_own() -> None:
    augmented = spec_augment(ones(16), full(16), BOTH, seeded())
    assert len(augmented.flatten(1).unique(dim=0)) == 16


def test_what_is_not_masked_is_not_touched() -> None:
    x_BTF = torch.randn(16, 50, 20)
    before = x_BTF.clone()
    augmented = spec_augment(x_BTF, full(16), BOTH, seeded())
    assert torch.equal(x_BTF, before)
    assert torch.equal(augmented[augmented != 0], x_BTF[augmented != 0])


def test_time_masks_fall_inside_short_clips_and_leave_some_of_them() -> None:
    lengths_B = torch.tensor([1, 4, 10, 50]).repeat(200)
    inside_BT = torch.arange(50) < lengths_B[:, None]
    config = AugmentConfig(num_time_masks=1, time_mask_frames=30)
    kept_BT = spec_augment(ones(800), lengths_B, config, seeded())[:, :, 0] == 1
    assert kept_BT[~inside_BT].all()  # no mask is wasted on padding
    assert (kept_BT & inside_BT).any(1).all()  # a mask is shorter than its clip
    # Widest is the clip's own length 10: 0 to 9 frames masked, 4.5 on average.
    masked = (~kept_BT[lengths_B == 10]).sum(1).float()
    assert masked.max() == 9
    assert masked.mean().item() == pytest.approx(4.5, abs=0.8)


def test_padding_stays_0() -> None:
    x_BTF, lengths_B = torch.randn(8, 50, 20), torch.tensor([50, 30, 20, 10, 5, 2, 1, 50])
    x_BTF[torch.arange(50) >= lengths_B[:, None]] = 0
    augmented = spec_augment(x_BTF, lengths_B, BOTH, seeded())
    assert (augmented[torch.arange(50) >= lengths_B[:, None]] == 0).all()


def test_masks_wider_than_the_input_leave_some_of_it() -> None:
    config = AugmentConfig(num_freq_masks=1, freq_mask_bins=100)
    assert (spec_augment(ones(500), full(500), config, seeded()) == 1).flatten(1).any(1).all()


def test_probability_decides_for_each_clip() -> None:
    # Three in ten clips are masked, but for the one in 15 * 15 whose masks both have width 0.
    config = TIME.model_copy(update={"probability": 0.3})
    untouched = (spec_augment(ones(10_000), full(10_000), config, seeded()) == 1).flatten(1).all(1)
    assert untouched.float().mean().item() == pytest.approx(1 - 0.3 * (1 - 1 / 225), abs=0.015)


@pytest.mark.parametrize(
    "config",
    [
        AugmentConfig(),
        BOTH.model_copy(update={"probability": 0.0}),
        AugmentConfig(num_freq_masks=2, freq_mask_bins=0, num_time_masks=2, time_mask_frames=0),
    ],
)
def test_nothing_to_mask_returns_the_batch_and_draws_nothing(config: AugmentConfig) -> None:
    x_BTF, generator = ones(4), seeded()
    assert spec_augment(x_BTF, full(4), config, generator) is x_BTF
    assert torch.equal(generator.get_state(), seeded().get_state())


def test_masks_come_from_the_generator_alone() -> None:
    torch.manual_seed(0)
    first = spec_augment(ones(8), full(8), BOTH, seeded(3))
    untouched = torch.random.get_rng_state()
    torch.manual_seed(1)
    assert torch.equal(first, spec_augment(ones(8), full(8), BOTH, seeded(3)))
    torch.manual_seed(0)
    assert torch.equal(untouched, torch.random.get_rng_state())  # the global generator was not drawn from


def test_masks_continue_from_a_saved_state() -> None:
    generator = seeded()
    spec_augment(ones(8), full(8), BOTH, generator)
    state = generator.get_state()
    expected = spec_augment(ones(8), full(8), BOTH, generator)
    resumed = torch.Generator()
    resumed.set_state(state)
    assert torch.equal(spec_augment(ones(8), full(8), BOTH, resumed), expected)


@pytest.mark.gpu
def test_a_generator_on_the_cpu_makes_equal_masks_on_the_gpu_without_waiting() -> None:
    x_BTF = ones(8).cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        augmented = spec_augment(x_BTF, full(8), BOTH, seeded())
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(augmented.cpu(), spec_augment(ones(8), full(8), BOTH, seeded()))
