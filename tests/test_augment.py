"""SpecAugment: torchaudio's masks, drawn per clip from the generator that the trainer lends."""

import pytest
import torch
from torch import Tensor

from fmasearch.augment import spec_augment
from fmasearch.config import AugmentConfig

FREQUENCY = AugmentConfig(num_freq_masks=2, freq_mask_bins=8)
TIME = AugmentConfig(num_time_masks=2, time_mask_frames=15)
BOTH = AugmentConfig(num_freq_masks=1, freq_mask_bins=8, num_time_masks=2, time_mask_frames=15)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def ones(num_clips: int, num_frames: int = 50, num_bins: int = 20) -> Tensor:
    return torch.ones(num_clips, num_frames, num_bins)


def test_widths_and_places_are_uniform() -> None:
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
    augmented = spec_augment(x_BTF, BOTH)
    assert torch.equal(x_BTF, before)
    assert torch.equal(augmented[augmented != 0], x_BTF[augmented != 0])


def test_masks_wider_than_the_input_leave_some_of_it() -> None:
    config = AugmentConfig(num_freq_masks=1, freq_mask_bins=100)
    assert (spec_augment(ones(500), config) == 1).flatten(1).any(1).all()


def test_probability_decides_for_each_clip() -> None:
    # Three in ten clips are masked, but for the one in 15 * 15 whose masks both have width 0.
    config = TIME.model_copy(update={"probability": 0.3})
    untouched = (spec_augment(ones(10_000), config) == 1).flatten(1).all(1)
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
    x_BTF, before = ones(4), torch.get_rng_state()
    assert spec_augment(x_BTF, config) is x_BTF
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.gpu
def test_masking_on_the_gpu_does_not_wait_for_it() -> None:
    x_BTF = ones(8).cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        spec_augment(x_BTF, BOTH.model_copy(update={"probability": 0.5}))
    finally:
        torch.cuda.set_sync_debug_mode("default")
