"""Convolution blocks over time and feature bins: what the plain 2-D architectures share.

Axes: B batch, C channels, T frames, F feature bins, D channels times bins.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmasearch.models.clip_model import padding_mask, trim


class ConvStack2d(nn.Module):
    """A clip as an image of one channel, through blocks that double the channels from `base_channels` on.

    The first half of the blocks (rounded down, at least one) has `first_kernel_size`, the others `kernel_size`: of 5
    and 3 four blocks make report G's 5, 5, 3, 3, three blocks report C's 5, 3, 3. Pools halve time and bins until
    a side is used up: 12 chroma bins become 6, 3, 1, 1. The bins left are averaged to `pool_bins`, or stay if fewer.

    Args:
        pool_last: whether the last block pools; else it has `dropout` of whole channels in place of the pool.
    """

    def __init__(
        self,
        input_dim: int,
        base_channels: int,
        num_blocks: int,
        first_kernel_size: int,
        kernel_size: int,
        pool_bins: int,
        *,
        pool_last: bool,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        channels = [1, *(base_channels * 2**block for block in range(num_blocks))]
        num_first = max(1, num_blocks // 2)
        kernels = [first_kernel_size] * num_first + [kernel_size] * (num_blocks - num_first)
        pools = [2] * (num_blocks - 1) + [2 if pool_last else 1]
        self.blocks = nn.ModuleList(map(ConvBlock2d, channels[:-1], channels[1:], kernels, pools))
        self.dropout = nn.Dropout2d(dropout)
        self.num_bins = min(pool_bins, max(1, input_dim // 2 ** pools.count(2)))
        self.output_dim = channels[-1] * self.num_bins
        channels_last(self)

    def forward(self, x_BTF: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor | None]:
        """Returns x_BDT and the clips' lengths in pooled frames, None if all clips fill x_BDT."""
        x_BTF, lengths = trim(x_BTF, lengths_B)
        x_BCTF = x_BTF[:, None]
        for block in self.blocks:
            x_BCTF, lengths = block(x_BCTF, lengths)
        x_BCTF = F.adaptive_avg_pool2d(self.dropout(x_BCTF), (None, self.num_bins))
        return x_BCTF.transpose(2, 3).flatten(1, 2), lengths


class ConvBlock2d(nn.Module):
    """Convolution, batch norm, ReLU and max-pool; a clip shorter than the pool keeps one frame."""

    def __init__(self, input_dim: int, output_dim: int, kernel_size: int, pool_size: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(input_dim, output_dim, kernel_size, padding=kernel_size // 2)
        self.norm = nn.BatchNorm2d(output_dim)
        self.pool_size = pool_size

    def forward(self, x_BCTF: Tensor, lengths_B: Tensor | None) -> tuple[Tensor, Tensor | None]:
        x_BCTF = self.norm(self.conv(x_BCTF))
        if lengths_B is not None:
            silence_(x_BCTF, self._whole_pools(lengths_B))
        x_BCTF = F.relu_(x_BCTF)
        if self.pool_size == 1:
            return x_BCTF, lengths_B
        frames, bins = x_BCTF.shape[2:]
        if frames < self.pool_size:
            x_BCTF = F.pad(x_BCTF, (0, 0, 0, self.pool_size - frames))
        pooled = None if lengths_B is None else (lengths_B // self.pool_size).clamp(min=1)
        return F.max_pool2d(x_BCTF, (self.pool_size, min(self.pool_size, bins))), pooled

    def _whole_pools(self, lengths_B: Tensor) -> Tensor:
        """Lengths without the last frames that fill no pool: a clip that ends the tensor loses them in the pool."""
        whole_B = lengths_B // self.pool_size * self.pool_size
        return torch.where(lengths_B < self.pool_size, lengths_B, whole_B)


def channels_last(module: nn.Module) -> None:
    """Lay the kernels out with channels last; the maps that pass through them follow.

    A step of cnn2d takes 960 ms and not 1,200, of cnn2d_gru 740 and not 980, of resnet 335 and not 370 (defaults,
    16 clips of 256 x 128, 1 CPU thread, torch 2.11); tensor cores want this layout, too.
    """
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def silence_(x_BCTF: Tensor, lengths_B: Tensor) -> None:
    """Zero the frames at and after the clips' lengths, in place; they may hold anything finite."""
    # A product, because masked_fill_ takes 16 ms where mul_ takes 3 (16 x 32 x 256 x 128, 1 CPU thread, torch 2.11).
    own_BT = ~padding_mask(lengths_B, x_BCTF.shape[2], x_BCTF.device)
    x_BCTF.mul_(own_BT.to(x_BCTF.dtype)[:, None, :, None])
