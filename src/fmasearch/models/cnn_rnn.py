"""CNN-RNN: convolutions over time with feature bins as channels, a recurrent layer, pooling, a small head.

The three architectures of the Catalan reference report (UAB XNAP 2025, Apache-2.0; written anew): defaults
reproduce its shapes. They differ in cell, direction, pooling and the widths of RNN and head.

Axes: B batch, T frames, F feature bins, C channels, D pooled.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmasearch.models.clip_model import ClipModel, mlp_head, padding_mask, trim
from fmasearch.models.convolution2d import ConvStack2d
from fmasearch.models.hyperparameters import Count, Depth, DropoutRate, KernelSize
from fmasearch.models.pooling import Pooling
from fmasearch.models.recurrent import PooledRnn


def cnn_gru(
    *,
    input_dim: Count,
    num_frames: Count,
    output_dim: Count,
    hidden_dim: Count = 128,
    num_conv_layers: Depth = 3,
    first_kernel_size: KernelSize = 5,
    kernel_size: KernelSize = 3,
    pool_size: Count = 2,
    rnn_dim: Count | None = None,
    num_layers: Depth = 2,
    dropout: DropoutRate = 0.3,
    rnn_dropout: DropoutRate = 0.0,
    pooling: Pooling = "mean",
) -> ClipModel:
    """Bidirectional GRU, averaged over time. The RNN is `2 * hidden_dim` wide, the head `hidden_dim`."""
    rnn_dim = 2 * hidden_dim if rnn_dim is None else rnn_dim
    convs = ConvStack(input_dim, hidden_dim, num_conv_layers, first_kernel_size, kernel_size, pool_size, dropout)
    rnn = PooledRnn(nn.GRU, convs.output_dim, rnn_dim, num_layers, rnn_dropout, pooling, bidirectional=True)
    return ClipModel(CnnRnn(convs, rnn), mlp_head(rnn.output_dim, hidden_dim, output_dim, dropout))


def cnn_lstm(
    *,
    input_dim: Count,
    num_frames: Count,
    output_dim: Count,
    hidden_dim: Count = 128,
    num_conv_layers: Depth = 3,
    first_kernel_size: KernelSize = 5,
    kernel_size: KernelSize = 3,
    pool_size: Count = 2,
    rnn_dim: Count | None = None,
    num_layers: Depth = 2,
    dropout: DropoutRate = 0.3,
    rnn_dropout: DropoutRate = 0.0,
    pooling: Pooling = "last",
) -> ClipModel:
    """Unidirectional LSTM, state after the last frame. The RNN is 128 wide, the head half of that."""
    rnn_dim = 128 if rnn_dim is None else rnn_dim
    convs = ConvStack(input_dim, hidden_dim, num_conv_layers, first_kernel_size, kernel_size, pool_size, dropout)
    rnn = PooledRnn(nn.LSTM, convs.output_dim, rnn_dim, num_layers, rnn_dropout, pooling, bidirectional=False)
    return ClipModel(CnnRnn(convs, rnn), mlp_head(rnn.output_dim, max(1, rnn_dim // 2), output_dim, dropout))


def cnn_bilstm(
    *,
    input_dim: Count,
    num_frames: Count,
    output_dim: Count,
    hidden_dim: Count = 128,
    num_conv_layers: Depth = 3,
    first_kernel_size: KernelSize = 5,
    kernel_size: KernelSize = 3,
    pool_size: Count = 2,
    rnn_dim: Count | None = None,
    num_layers: Depth = 2,
    dropout: DropoutRate = 0.3,
    rnn_dropout: DropoutRate = 0.0,
    pooling: Pooling = "mean_max",
) -> ClipModel:
    """Bidirectional LSTM, average and maximum over time. RNN (each direction) and head are 128 wide."""
    rnn_dim = 128 if rnn_dim is None else rnn_dim
    convs = ConvStack(input_dim, hidden_dim, num_conv_layers, first_kernel_size, kernel_size, pool_size, dropout)
    rnn = PooledRnn(nn.LSTM, convs.output_dim, rnn_dim, num_layers, rnn_dropout, pooling, bidirectional=True)
    return ClipModel(CnnRnn(convs, rnn), mlp_head(rnn.output_dim, rnn_dim, output_dim, dropout))


class CnnRnn(nn.Module):
    """Backbone: convolutions over time, or over time and bins, and a pooled RNN."""

    def __init__(self, convs: ConvStack | ConvStack2d, rnn: PooledRnn) -> None:
        super().__init__()
        self.convs = convs
        self.rnn = rnn

    def forward(self, x_BTF: Tensor, lengths_B: Tensor) -> Tensor:
        pooled_BD: Tensor = self.rnn(*self.convs(x_BTF, lengths_B))
        return pooled_BD

    def blocks(self) -> tuple[nn.Module, ...]:
        return (*self.convs.blocks, self.rnn)


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
        x_BTF, lengths = trim(x_BTF, lengths_B)
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
        return padding_mask(kept_B, x_BCT.shape[2], x_BCT.device)[:, None]
