"""CNN-RNN in two dimensions: convolutions over time and bins, then a recurrent layer, pooling, a small head.

Report C's best family on its test split (UAB XNAP 2025, Apache-2.0; written anew). There the last convolution's 32
bins all go into the RNN, 4 * base_channels * 32 inputs, which puts most of the weights there (0.79 M of 0.91 M at a
base of 32); `pool_bins` averages them to a few first, and at 32 it is the report's shape.
"""

from __future__ import annotations

from torch import nn

from fmasearch.models.clip_model import ClipModel, mlp_head
from fmasearch.models.cnn_rnn import CnnRnn
from fmasearch.models.convolution2d import ConvStack2d
from fmasearch.models.hyperparameters import Count, Depth, DropoutRate, KernelSize
from fmasearch.models.pooling import Pooling
from fmasearch.models.recurrent import PooledRnn


def cnn2d_gru(
    *,
    input_dim: Count,
    num_frames: Count,
    output_dim: Count,
    base_channels: Count = 32,
    num_blocks: Depth = 3,
    first_kernel_size: KernelSize = 5,
    kernel_size: KernelSize = 3,
    pool_bins: Count = 4,
    rnn_dim: Count = 64,
    num_layers: Depth = 1,
    dropout: DropoutRate = 0.3,
    rnn_dropout: DropoutRate = 0.0,
    pooling: Pooling = "mean",
) -> ClipModel:
    """Bidirectional GRU, averaged over time. RNN (each direction) and head are `rnn_dim` wide."""
    convs = ConvStack2d(
        input_dim,
        base_channels,
        num_blocks,
        first_kernel_size,
        kernel_size,
        pool_bins,
        pool_last=False,
        dropout=dropout,
    )
    rnn = PooledRnn(nn.GRU, convs.output_dim, rnn_dim, num_layers, rnn_dropout, pooling, bidirectional=True)
    return ClipModel(CnnRnn(convs, rnn), mlp_head(rnn.output_dim, rnn_dim, output_dim, dropout))


def cnn2d_lstm(
    *,
    input_dim: Count,
    num_frames: Count,
    output_dim: Count,
    base_channels: Count = 32,
    num_blocks: Depth = 3,
    first_kernel_size: KernelSize = 5,
    kernel_size: KernelSize = 3,
    pool_bins: Count = 4,
    rnn_dim: Count = 128,
    num_layers: Depth = 1,
    dropout: DropoutRate = 0.3,
    rnn_dropout: DropoutRate = 0.0,
    pooling: Pooling = "mean_max",
) -> ClipModel:
    """Bidirectional LSTM, average and maximum over time. RNN (each direction) and head are `rnn_dim` wide."""
    convs = ConvStack2d(
        input_dim,
        base_channels,
        num_blocks,
        first_kernel_size,
        kernel_size,
        pool_bins,
        pool_last=False,
        dropout=dropout,
    )
    rnn = PooledRnn(nn.LSTM, convs.output_dim, rnn_dim, num_layers, rnn_dropout, pooling, bidirectional=True)
    return ClipModel(CnnRnn(convs, rnn), mlp_head(rnn.output_dim, rnn_dim, output_dim, dropout))
