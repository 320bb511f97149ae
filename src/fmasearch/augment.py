"""SpecAugment on a batch that is already on the device.

Axes: B batch, T frames, F feature bins.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchaudio.functional import mask_along_axis_iid

from fmasearch.config import AugmentConfig


def spec_augment(x_BTF: Tensor, config: AugmentConfig) -> Tensor:
    """Blank random bands of bins and stretches of frames (SpecAugment, Park et al., 2019, without its warp).

    Every clip draws its own masks: width u * widest, start u' * (size - width), both rounded down, so that a mask
    blanks 0 to widest - 1 cells. torchaudio draws from torch's global generator of the device; the trainer lends
    it a state of its own for an epoch, so masks too resume bit for bit.

    Args:
        x_BTF: standardised batch; masked cells become 0, which is the training mean. Padding is 0 and stays so.
        config: counts and widths of masks; `probability` decides for each clip whether it is augmented.

    Returns:
        A new tensor like x_BTF, or x_BTF itself if the configuration masks nothing.
    """
    num_freq_masks = config.num_freq_masks if config.freq_mask_bins else 0
    num_time_masks = config.num_time_masks if config.time_mask_frames else 0
    if config.probability == 0 or num_freq_masks + num_time_masks == 0:
        return x_BTF
    num_clips, num_frames, num_bins = x_BTF.shape
    masked_B1TF = x_BTF[:, None]  # torchaudio masks each channel of each clip; ours have one
    for _ in range(num_freq_masks):
        masked_B1TF = mask_along_axis_iid(masked_B1TF, min(config.freq_mask_bins, num_bins), 0.0, axis=3)
    for _ in range(num_time_masks):
        masked_B1TF = mask_along_axis_iid(masked_B1TF, min(config.time_mask_frames, num_frames), 0.0, axis=2)
    if config.probability == 1:
        return masked_B1TF[:, 0]
    chosen_B = torch.rand(num_clips, device=x_BTF.device) < config.probability
    return torch.where(chosen_B[:, None, None], masked_B1TF[:, 0], x_BTF)
