"""Augmentation of a batch that is already on the device.

Axes: B batch, T frames, F feature bins. Random numbers come from torch's global generators: those of single clips
from the device's, those of a whole batch from the CPU's, so that nothing waits for the device. The trainer lends
states of its own for an epoch, so augmentation too resumes bit for bit.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Beta
from torchaudio.functional import mask_along_axis_iid

from fmasearch.config import AugmentConfig


def augment(x_BTF: Tensor, lengths_B: Tensor, per_decibel_F: Tensor, config: AugmentConfig) -> Tensor:
    """Shift, amplify and mask clips, in this order. One draw per clip decides whether any of it happens.

    Args:
        x_BTF: standardised batch. Padding is 0 and stays so.
        lengths_B: frames of each clip, int64 on the CPU, at least 1.
        per_decibel_F: standardised units per dB of each bin; 0 for feature sets that are not in dB. On x's device.
        config: strengths; `probability` is that of each clip. `mixup_alpha` is `mixup`'s.

    Returns:
        A new tensor like x_BTF, or x_BTF itself, and no random number drawn, if there is nothing to do.
    """
    if config.probability == 0:
        return x_BTF
    augmented_BTF = x_BTF
    if config.shift_fraction > 0:
        augmented_BTF = time_shift(augmented_BTF, lengths_B, config.shift_fraction)
    if config.gain_db > 0:
        augmented_BTF = random_gain(augmented_BTF, lengths_B, per_decibel_F, config.gain_db)
    augmented_BTF = spec_augment(augmented_BTF, config)
    if augmented_BTF is x_BTF or config.probability == 1:
        return augmented_BTF
    chosen_B = torch.rand(len(x_BTF), device=x_BTF.device) < config.probability
    return torch.where(chosen_B[:, None, None], augmented_BTF, x_BTF)


def time_shift(x_BTF: Tensor, lengths_B: Tensor, fraction: float) -> Tensor:
    """Roll each clip within its own length: what leaves at one end comes back at the other.

    The number of frames is uniform over the whole numbers from -m to m, m = `fraction` of the length, rounded down.
    """
    num_clips, num_frames, _ = x_BTF.shape
    lengths_B1 = lengths_B.to(x_BTF.device, non_blocking=True)[:, None]
    furthest_B1 = (lengths_B1 * fraction).long()
    uniform_B1 = torch.rand(num_clips, 1, device=x_BTF.device)
    shift_B1 = (uniform_B1 * (2 * furthest_B1 + 1)).long() - furthest_B1
    frames_T = torch.arange(num_frames, device=x_BTF.device)
    source_BT = torch.where(frames_T < lengths_B1, (frames_T - shift_B1) % lengths_B1, frames_T)
    clips_B1 = torch.arange(num_clips, device=x_BTF.device)[:, None]
    return x_BTF[clips_B1, source_BT]


def random_gain(x_BTF: Tensor, lengths_B: Tensor, per_decibel_F: Tensor, gain_db: float) -> Tensor:
    """Make each clip louder or softer by its own uniform(-gain_db, gain_db) dB."""
    num_clips, num_frames, _ = x_BTF.shape
    gain_B1 = (2 * torch.rand(num_clips, 1, device=x_BTF.device) - 1) * gain_db
    frames_T = torch.arange(num_frames, device=x_BTF.device)
    own_BT = frames_T < lengths_B.to(x_BTF.device, non_blocking=True)[:, None]
    return x_BTF + (gain_B1 * own_BT)[:, :, None] * per_decibel_F


def spec_augment(x_BTF: Tensor, config: AugmentConfig) -> Tensor:
    """Blank random bands of bins and stretches of frames (SpecAugment, Park et al., 2019, without its warp).

    Every clip draws its own masks: width u * widest, start u' * (size - width), both rounded down, so that a mask
    blanks 0 to widest - 1 cells. Masked cells become 0, which is the training mean.

    Returns:
        A new tensor like x_BTF, or x_BTF itself if the configuration masks nothing.
    """
    num_freq_masks = config.num_freq_masks if config.freq_mask_bins else 0
    num_time_masks = config.num_time_masks if config.time_mask_frames else 0
    if num_freq_masks + num_time_masks == 0:
        return x_BTF
    _, num_frames, num_bins = x_BTF.shape
    masked_B1TF = x_BTF[:, None]  # torchaudio masks each channel of each clip; ours have one
    for _ in range(num_freq_masks):
        masked_B1TF = mask_along_axis_iid(masked_B1TF, min(config.freq_mask_bins, num_bins), 0.0, axis=3)
    for _ in range(num_time_masks):
        masked_B1TF = mask_along_axis_iid(masked_B1TF, min(config.time_mask_frames, num_frames), 0.0, axis=2)
    return masked_B1TF[:, 0]


class Mixed(NamedTuple):
    """A batch of blended pairs. Its loss is share * loss(targets) + (1 - share) * loss(targets[partner_B])."""

    x_BTF: Tensor
    lengths_B: Tensor
    """Frames of the longer of the two, int64 on the CPU."""
    partner_B: Tensor
    """Whom each clip was blended with, a permutation, int64 on the CPU."""
    share: float
    """Of the clip itself, in [0.5, 1]; its partner has the rest."""


def mixup(x_BTF: Tensor, lengths_B: Tensor, alpha: float) -> Mixed:
    """Blend each clip with a random one of the batch (mixup, Zhang et al., ICLR 2018), by one share for all of them.

    The share comes from Beta(alpha, alpha), folded to its upper half: a pair and its mirror image are one example,
    and the first of the two is the one that training metrics count. Where one clip is longer it is blended with
    the other's padding, 0, which is the training mean: it goes on softer, as over a silent partner.

    Args:
        x_BTF: standardised batch.
        lengths_B: frames of each clip, int64 on the CPU.
        alpha: above 0; small values blend little, 1 draws shares uniformly.
    """
    concentration = torch.tensor(alpha, dtype=torch.float64)
    drawn = float(Beta(concentration, concentration, validate_args=False).sample())
    share = max(drawn, 1 - drawn)
    partner_B = torch.randperm(len(x_BTF))
    partner_BTF = x_BTF.index_select(0, partner_B.to(x_BTF.device, non_blocking=True))
    return Mixed(
        torch.lerp(partner_BTF, x_BTF, share), torch.maximum(lengths_B, lengths_B[partner_B]), partner_B, share
    )
