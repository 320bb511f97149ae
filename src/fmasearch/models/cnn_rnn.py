"""CNN-RNN: convolutions over time with feature bins as channels, a recurrent layer, pooling, a small head.

The three architectures of the Catalan reference report (UAB XNAP 2025, Apache-2.0; written anew): defaults
reproduce its shapes. They differ in cell, direction, pooling and the widths of RNN and head.

Axes: B batch, T frames, F feature bins, D embedding, K outputs.
"""

from __future__ import annotations

from torch import Tensor, nn

from fmasearch.models.hyperparameters import Count, Depth, DropoutRate, KernelSize
from fmasearch.models.layers import ConvStack, Head, PooledRnn, Pooling


class CnnRnn(nn.Module):
    """Convolutions, a pooled RNN and a head, one after the other."""

    def __init__(self, convs: ConvStack, rnn: PooledRnn, head: Head) -> None:
        super().__init__()
        self.convs = convs
        self.rnn = rnn
        self.head = head

    def embed(self, x_BTF: Tensor, lengths_B: Tensor) -> Tensor:
        """The vector before the last linear layer, (B, D)."""
        embedding_BD: Tensor = self.head.hidden(self.rnn(*self.convs(x_BTF, lengths_B)))
        return embedding_BD

    def forward(self, x_BTF: Tensor, lengths_B: Tensor) -> Tensor:
        """Returns outputs_BK."""
        outputs_BK: Tensor = self.head.output(self.embed(x_BTF, lengths_B))
        return outputs_BK


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
) -> CnnRnn:
    """Bidirectional GRU, averaged over time. The RNN is `2 * hidden_dim` wide, the head `hidden_dim`."""
    rnn_dim = 2 * hidden_dim if rnn_dim is None else rnn_dim
    convs = ConvStack(input_dim, hidden_dim, num_conv_layers, first_kernel_size, kernel_size, pool_size, dropout)
    rnn = PooledRnn(nn.GRU, convs.output_dim, rnn_dim, num_layers, rnn_dropout, pooling, bidirectional=True)
    return CnnRnn(convs, rnn, Head(rnn.output_dim, hidden_dim, output_dim, dropout))


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
) -> CnnRnn:
    """Unidirectional LSTM, state after the last frame. The RNN is 128 wide, the head half of that."""
    rnn_dim = 128 if rnn_dim is None else rnn_dim
    convs = ConvStack(input_dim, hidden_dim, num_conv_layers, first_kernel_size, kernel_size, pool_size, dropout)
    rnn = PooledRnn(nn.LSTM, convs.output_dim, rnn_dim, num_layers, rnn_dropout, pooling, bidirectional=False)
    return CnnRnn(convs, rnn, Head(rnn.output_dim, max(1, rnn_dim // 2), output_dim, dropout))


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
) -> CnnRnn:
    """Bidirectional LSTM, average and maximum over time. RNN (each direction) and head are 128 wide."""
    rnn_dim = 128 if rnn_dim is None else rnn_dim
    convs = ConvStack(input_dim, hidden_dim, num_conv_layers, first_kernel_size, kernel_size, pool_size, dropout)
    rnn = PooledRnn(nn.LSTM, convs.output_dim, rnn_dim, num_layers, rnn_dropout, pooling, bidirectional=True)
    return CnnRnn(convs, rnn, Head(rnn.output_dim, rnn_dim, output_dim, dropout))
