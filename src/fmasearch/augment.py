"""SpecAugment on a batch that is already on the device: a pure function of the batch and a generator.

Axes: B batch, T frames, F feature bins, M masks.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fmasearch.config import AugmentConfig


def spec_augment(
    x_BTF: Tensor, lengths_B: Tensor, config: AugmentConfig, generator: torch.Generator
) -> Tensor:
    """Blank random bands of bins and stretches of frames (SpecAugment, Park et al., 2019, without its warp).

    Every clip draws its own masks as `torchaudio.functional.mask_along_axis_iid` does: a width u * widest and
    a start u' * (size - width), both rounded down, so a mask blanks 0 to widest - 1 cells. Written anew, as
    torchaudio draws from torch's global generator, which nobody owns, and spreads time masks over the padded
    length, where they miss short clips. Equal random numbers make equal masks in both (a test compares them).

    Args:
        x_BTF: standardised batch; masked cells become 0, which is the training mean. Padding stays 0.
        lengths_B: int64 on the CPU. Time masks fall inside a clip and never blank all of it by one mask.
        config: counts and widths of masks; `probability` decides for each clip whether it is augmented.
        generator: on the CPU or on the batch's device; B and the counts alone decide how much is drawn.
            One on the CPU makes equal masks on every device, and its few numbers are copied without waiting.

    Returns:
        A new tensor like x_BTF, or x_BTF itself if the configuration masks nothing.
    """
    num_freq_masks = config.num_freq_masks if config.freq_mask_bins else 0
    num_time_masks = config.num_time_masks if config.time_mask_frames else 0
    if config.probability == 0 or num_freq_masks + num_time_masks == 0:
        return x_BTF
    num_clips, num_frames, num_bins = x_BTF.shape
    shape = (1 + 2 * (num_freq_masks + num_time_masks), num_clips)
    uniform = torch.rand(shape, generator=generator, device=generator.device)
    uniform = uniform.to(x_BTF.device, non_blocking=True)
    chosen_B, freq, time = uniform[0], uniform[1 : 1 + 2 * num_freq_masks], uniform[1 + 2 * num_freq_masks :]
    bins_B = torch.full_like(chosen_B, num_bins)
    frames_B = lengths_B.to(x_BTF.device, chosen_B.dtype, non_blocking=True)
    masked_BF = _masks(freq.view(num_freq_masks, 2, num_clips), config.freq_mask_bins, bins_B, num_bins)
    masked_BT = _masks(time.view(num_time_masks, 2, num_clips), config.time_mask_frames, frames_B, num_frames)
    masked_BTF = (masked_BT[:, :, None] | masked_BF[:, None]) & (chosen_B < config.probability)[:, None, None]
    return x_BTF.masked_fill(masked_BTF, 0)


def _masks(uniform_M2B: Tensor, widest: int, sizes_B: Tensor, size: int) -> Tensor:
    """Union of M masks over `size` cells, of which a clip owns the first `sizes_B`. Returns (B, size)."""
    width_MB = uniform_M2B[:, 0] * sizes_B.clamp(max=widest)
    start_MB = (uniform_M2B[:, 1] * (sizes_B - width_MB)).long()
    stop_MB = start_MB + width_MB.long()
    cells = torch.arange(size, device=uniform_M2B.device)
    return ((cells >= start_MB[..., None]) & (cells < stop_MB[..., None])).any(0)
