"""Layers that architectures are composed of: a convolution stack over time, a pooled RNN, and a head.

Axes: B batch, T frames, F feature bins, C channels, H hidden (both directions), D pooled, K outputs.

Padding never changes a prediction in eval mode. Frames at and after a clip's length are 0 when they come in;
batch norm makes them non-zero, so every block zeroes them again; no state that is pooled has seen them.
`lengths_B` is int64 on the CPU, and None where every clip fills the tensor: then nothing is masked or packed.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

Pooling: TypeAlias = Literal["last", "mean", "max", "mean_max"]
FinalState: TypeAlias = Tensor | tuple[Tensor, Tensor]  # an LSTM returns its cell state, too


class ConvStack(nn.Module):
    """Convolutions over time with feature bins as channels.

    Layer i has `hidden_dim * 2**i` channels: convolution, batch norm, ReLU, max-pool over `pool_size` frames;
    the last layer has dropout in place of the pool. The first layer has its own kernel size.
    """

    def __init__(
        self,
        input_dim: int,
        hidden_dim: int,
        num_layers: int,
        first_kernel_size: int,
        kernel_size: int,
        pool_size: int,
        dropout: float,
    ) -> None:
        super().__init__()
        channels = [input_dim, *(hidden_dim * 2**layer for layer in range(num_layers))]
        kernels = [first_kernel_size] + [kernel_size] * (num_layers - 1)
        pools = [pool_size] * (num_layers - 1) + [1]
        self.blocks = nn.ModuleList(map(ConvBlock, channels[:-1], channels[1:], kernels, pools))
        self.dropout = nn.Dropout(dropout)
        self.output_dim = channels[-1]

    def forward(self, x_BTF: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor | None]:
        """Returns x_BCT and the clips' lengths in pooled frames, None if all clips fill x_BCT."""
        x_BTF, lengths = _trim(x_BTF, lengths_B)
        x_BCT = x_BTF.transpose(1, 2)
        for block in self.blocks:
            x_BCT, lengths = block(x_BCT, lengths)
        return self.dropout(x_BCT), lengths


class ConvBlock(nn.Module):
    """Convolution, batch norm, ReLU and max-pool; a clip shorter than the pool keeps one frame."""

    def __init__(self, input_dim: int, output_dim: int, kernel_size: int, pool_size: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(input_dim, output_dim, kernel_size, padding=kernel_size // 2)
        self.norm = nn.BatchNorm1d(output_dim)
        self.pool_size = pool_size

    def forward(self, x_BCT: Tensor, lengths_B: Tensor | None) -> tuple[Tensor, Tensor | None]:
        x_BCT = self.norm(self.conv(x_BCT))
        if lengths_B is not None:
            x_BCT.masked_fill_(self._padding(lengths_B, x_BCT), 0)
        x_BCT = F.relu_(x_BCT)
        if self.pool_size == 1:
            return x_BCT, lengths_B
        if x_BCT.shape[2] < self.pool_size:
            x_BCT = F.pad(x_BCT, (0, self.pool_size - x_BCT.shape[2]))
        pooled = None if lengths_B is None else (lengths_B // self.pool_size).clamp(min=1)
        return F.max_pool1d(x_BCT, self.pool_size), pooled

    def _padding(self, lengths_B: Tensor, x_BCT: Tensor) -> Tensor:
        """Frames to zero, bool (B, 1, T): padding, and a clip's last frames if they fill no pool.

        The pool drops those where they end the tensor; so one mask before it leaves zeros after it, too.
        """
        whole_B = lengths_B // self.pool_size * self.pool_size
        kept_B = torch.where(lengths_B < self.pool_size, lengths_B, whole_B)
        frames_T = torch.arange(x_BCT.shape[2], device=x_BCT.device)
        return (frames_T >= kept_B.to(x_BCT.device, non_blocking=True)[:, None])[:, None]


class PooledRnn(nn.Module):
    """A GRU or LSTM over time and one vector per clip from its states.

    `rnn_dim` is per direction. `dropout` acts between layers, hence not on a single one. Pooling: `last` is
    the state after a clip's last frame (backwards: after its first); `mean` and `max` are over a clip's own
    frames; `mean_max` is both, concatenated.
    """

    def __init__(
        self,
        cell: type[nn.GRU] | type[nn.LSTM],
        input_dim: int,
        rnn_dim: int,
        num_layers: int,
        dropout: float,
        pooling: Pooling,
        *,
        bidirectional: bool,
    ) -> None:
        super().__init__()
        between_layers = dropout if num_layers > 1 else 0.0  # torch warns about dropout on a single layer
        self.rnn = cell(input_dim, rnn_dim, num_layers, dropout=between_layers, bidirectional=bidirectional)
        self.pooling = pooling
        self.num_directions = 1 + bidirectional
        self.output_dim = rnn_dim * self.num_directions * (2 if pooling == "mean_max" else 1)

    def forward(self, x_BCT: Tensor, lengths_B: Tensor | None) -> Tensor:
        """Returns (B, D)."""
        x_TBC = x_BCT.permute(2, 0, 1)
        if lengths_B is None:
            states_TBH, final = self.rnn(x_TBC)
            return self._pool(states_TBH, self._last(final), None)
        if self.num_directions == 1:
            # Padding follows a clip and cannot reach its states; with packing a step of cnn_lstm takes 116 ms
            # and not 79 (16 clips of 200 to 320 frames, hidden_dim 64, 1 CPU thread, torch 2.11).
            states_TBH, _ = self.rnn(x_TBC)
            ends_B = lengths_B.to(x_TBC.device, non_blocking=True)
            last_BH = states_TBH[ends_B - 1, torch.arange(len(ends_B), device=ends_B.device)]
            return self._pool(states_TBH, last_BH, ends_B)
        # Sorted here and not by pack_padded_sequence, which would wait for the device to copy the order.
        sorted_B, order_B = lengths_B.sort(descending=True, stable=True)
        x_TBC = x_TBC.index_select(1, order_B.to(x_TBC.device, non_blocking=True))
        packed, final = self.rnn(pack_padded_sequence(x_TBC, sorted_B))
        states_TBH, _ = pad_packed_sequence(packed)
        ends_B = sorted_B.to(x_TBC.device, non_blocking=True)
        pooled_BD = self._pool(states_TBH, self._last(final), ends_B)
        return pooled_BD.index_select(0, order_B.argsort().to(x_TBC.device, non_blocking=True))

    def _last(self, final: FinalState) -> Tensor:
        hidden = final if isinstance(final, Tensor) else final[0]
        return hidden[-self.num_directions :].transpose(0, 1).flatten(1)

    def _pool(self, states_TBH: Tensor, last_BH: Tensor, lengths_B: Tensor | None) -> Tensor:
        if self.pooling == "last":
            return last_BH
        if self.pooling == "mean":
            return mean_over_time(states_TBH, lengths_B)
        if self.pooling == "max":
            return max_over_time(states_TBH, lengths_B)
        return torch.cat([mean_over_time(states_TBH, lengths_B), max_over_time(states_TBH, lengths_B)], dim=1)


class Head(nn.Module):
    """Linear, ReLU and dropout (`hidden`), then the last linear layer (`output`)."""

    def __init__(self, input_dim: int, hidden_dim: int, output_dim: int, dropout: float) -> None:
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(input_dim, hidden_dim), nn.ReLU(), nn.Dropout(dropout))
        self.output = nn.Linear(hidden_dim, output_dim)


def mean_over_time(states_TBH: Tensor, lengths_B: Tensor | None) -> Tensor:
    """Average each clip over its own frames; padding takes no part. Returns (B, H)."""
    if lengths_B is None:
        return states_TBH.mean(0)
    return states_TBH.masked_fill(_padding(states_TBH, lengths_B), 0).sum(0) / lengths_B[:, None]


def max_over_time(states_TBH: Tensor, lengths_B: Tensor | None) -> Tensor:
    """Largest state of each clip over its own frames; padding takes no part. Returns (B, H)."""
    if lengths_B is None:
        return states_TBH.amax(0)
    return states_TBH.masked_fill(_padding(states_TBH, lengths_B), -torch.inf).amax(0)


def _padding(states_TBH: Tensor, lengths_B: Tensor) -> Tensor:
    frames_T = torch.arange(len(states_TBH), device=states_TBH.device)
    return (frames_T[:, None] >= lengths_B)[:, :, None]


def _trim(x_BTF: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor | None]:
    """Cut the frames that no clip reaches; lengths become None if every clip fills what is left."""
    shortest, longest = (int(length) for length in lengths_B.aminmax())
    return x_BTF[:, :longest], None if shortest == longest else lengths_B
