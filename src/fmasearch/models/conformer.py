"""The Conformer: attention over the whole clip and convolutions over its neighbourhood in every block.

Gulati et al., "Conformer: Convolution-augmented Transformer for Speech Recognition", Interspeech 2020. We take it
for the strongest small sequence model on spectrograms: the convolutions see timbre and rhythm, attention sees the
form of the piece, and it learns from thousands of clips, where a patch transformer (AST) wants pretraining. MusicFM
has it for its backbone, too (Won, Hung & Le, "A Foundation Model for Music Informatics", arXiv 2311.03318).

Differences from the paper, each with its reason:
- Rotary positions in place of relative ones: fewer errors in speech (Li, Xu & Zhang, arXiv 2107.05907), and
  attention stays one fused kernel.
- Layer norm in place of batch norm in the convolution module: its statistics see no padding and no batch.

torchaudio's Conformer is not used: its convolutions read the padding's states, so padding changes a prediction; it
waits for the device to learn the longest length; and it has no positions.

Axes: B batch, T frames, F feature bins, C channels, H hidden, N heads, E width of a head.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmasearch.errors import ConfigError
from fmasearch.models.clip_model import ClipModel, Head, padding_mask, trim
from fmasearch.models.hyperparameters import Count, Depth, DropoutRate, KernelSize
from fmasearch.models.pooling import Pooling, TimePooling

Rotation: TypeAlias = tuple[Tensor, Tensor]  # cosines and sines of (T, E / 2)


def conformer(
    *,
    input_dim: Count,
    num_frames: Count,
    output_dim: Count,
    hidden_dim: Count = 144,
    num_layers: Depth = 4,
    num_heads: Count = 4,
    kernel_size: KernelSize = 15,
    num_conv_layers: Depth = 2,
    conv_channels: Count = 32,
    expansion: Count = 4,
    dropout: DropoutRate = 0.1,
    head_dropout: DropoutRate = 0.3,
    pooling: Pooling = "mean_max",
) -> ClipModel:
    """Convolutions that shorten a clip, Conformer blocks, pooling over time, one linear layer.

    Args:
        input_dim, num_frames, output_dim: F, T and K; any number of frames fits.
        hidden_dim: width of the blocks; 144 is the paper's small model, which has 16 blocks.
        num_heads: divides `hidden_dim` into heads of an even width.
        kernel_size: of the convolution in each block, in shortened frames.
        num_conv_layers: each halves time and bins; 2 make a step of 93 ms at 43 frames a second.
        expansion: width of the feed-forward layers over `hidden_dim`.
        dropout: in every block; `head_dropout` before the last linear layer.

    Raises:
        ConfigError: if the heads do not divide the width evenly.
    """
    if hidden_dim % (2 * num_heads):
        expected = f"expected a number whose double divides model.hidden_dim {hidden_dim}"
        raise ConfigError(f"model.num_heads: {expected}, got {num_heads}")
    subsampling = Subsampling(input_dim, conv_channels, hidden_dim, num_conv_layers, dropout)
    layers = [ConformerBlock(hidden_dim, num_heads, kernel_size, expansion, dropout) for _ in range(num_layers)]
    pool = TimePooling(pooling, hidden_dim)
    head = Head(nn.Dropout(head_dropout), pool.output_dim, output_dim)
    return ClipModel(ConformerBackbone(subsampling, layers, pool), head)


class ConformerBackbone(nn.Module):
    """Subsampling, blocks, pooling."""

    def __init__(self, subsampling: Subsampling, layers: list[ConformerBlock], pool: TimePooling) -> None:
        super().__init__()
        self.subsampling = subsampling
        self.layers = nn.ModuleList(layers)
        self.pool = pool
        self.head_dim = layers[0].attention.head_dim

    def forward(self, x_BTF: Tensor, lengths_B: Tensor) -> Tensor:
        states_BTH, lengths = self.subsampling(*trim(x_BTF, lengths_B))
        num_frames, device = states_BTH.shape[1], states_BTH.device
        padding_BT = None if lengths is None else padding_mask(lengths, num_frames, device)
        rotation = rotary_angles(num_frames, self.head_dim, device)
        for layer in self.layers:
            states_BTH = layer(states_BTH, padding_BT, rotation)
        on_device = None if lengths is None else lengths.to(device, non_blocking=True)
        pooled_BD: Tensor = self.pool(states_BTH.transpose(0, 1), on_device)
        return pooled_BD

    def blocks(self) -> tuple[nn.Module, ...]:
        """Subsampling, then each Conformer block, the last with the pooling after it."""
        return (self.subsampling, *self.layers[:-1], nn.ModuleList([self.layers[-1], self.pool]))


class Subsampling(nn.Module):
    """2-D convolutions that each halve time and bins, then a linear layer over what is left of the bins."""

    def __init__(self, input_dim: int, channels: int, hidden_dim: int, num_layers: int, dropout: float) -> None:
        super().__init__()
        sizes = [1] + [channels] * num_layers
        self.convs = nn.ModuleList(
            nn.Conv2d(before, after, 3, stride=2, padding=1) for before, after in pairwise(sizes)
        )
        self.project = nn.Linear(channels * -(-input_dim // 2**num_layers), hidden_dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BTF: Tensor, lengths_B: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Returns states_BTH and the lengths in their frames; an odd number of frames is halved upwards."""
        x_BCTF = x_BTF[:, None]
        for conv in self.convs:
            x_BCTF = F.relu(conv(x_BCTF))
            lengths_B = _halved(lengths_B)
            if lengths_B is not None:
                padding_BT = padding_mask(lengths_B, x_BCTF.shape[2], x_BCTF.device)
                x_BCTF = x_BCTF.masked_fill(padding_BT[:, None, :, None], 0)
        return self.dropout(self.project(x_BCTF.transpose(1, 2).flatten(2))), lengths_B


def _halved(lengths_B: Tensor | None) -> Tensor | None:
    """Lengths after a convolution; None once they have become equal, as those of FMA's 1291 to 1293 frames may."""
    if lengths_B is None:
        return None
    lengths_B = (lengths_B + 1) // 2
    if torch.compiler.is_exporting():  # as in `trim`
        return lengths_B
    shortest, longest = (int(length) for length in lengths_B.aminmax())
    return None if shortest == longest else lengths_B


class ConformerBlock(nn.Module):
    """Half a feed-forward step, attention, convolution, half a feed-forward step, norm (paper, §2.4, eq. 1)."""

    def __init__(self, hidden_dim: int, num_heads: int, kernel_size: int, expansion: int, dropout: float) -> None:
        super().__init__()
        self.feed_forward_in = _feed_forward(hidden_dim, expansion, dropout)
        self.attention = RotaryAttention(hidden_dim, num_heads, dropout)
        self.convolution = ConvolutionModule(hidden_dim, kernel_size, dropout)
        self.feed_forward_out = _feed_forward(hidden_dim, expansion, dropout)
        self.norm = nn.LayerNorm(hidden_dim)

    def forward(self, x_BTH: Tensor, padding_BT: Tensor | None, rotation: Rotation) -> Tensor:
        x_BTH = x_BTH + 0.5 * self.feed_forward_in(x_BTH)
        x_BTH = x_BTH + self.attention(x_BTH, padding_BT, rotation)
        x_BTH = x_BTH + self.convolution(x_BTH, padding_BT)
        x_BTH = x_BTH + 0.5 * self.feed_forward_out(x_BTH)
        normed_BTH: Tensor = self.norm(x_BTH)
        return normed_BTH


def _feed_forward(hidden_dim: int, expansion: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(hidden_dim),
        nn.Linear(hidden_dim, expansion * hidden_dim),
        nn.SiLU(),
        nn.Dropout(dropout),
        nn.Linear(expansion * hidden_dim, hidden_dim),
        nn.Dropout(dropout),
    )


class RotaryAttention(nn.Module):
    """Multi-head self-attention over a clip's own frames, in which distance in time turns queries against keys."""

    def __init__(self, hidden_dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = hidden_dim // num_heads
        self.norm = nn.LayerNorm(hidden_dim)
        self.query_key_value = nn.Linear(hidden_dim, 3 * hidden_dim)
        self.project = nn.Linear(hidden_dim, hidden_dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BTH: Tensor, padding_BT: Tensor | None, rotation: Rotation) -> Tensor:
        joint_BTH3 = self.query_key_value(self.norm(x_BTH))
        joint_3BNTE = joint_BTH3.unflatten(2, (3, self.num_heads, self.head_dim)).permute(2, 0, 3, 1, 4)
        query_BNTE, key_BNTE, value_BNTE = joint_3BNTE.unbind(0)
        mixed_BNTE = F.scaled_dot_product_attention(
            rotate(query_BNTE, rotation),
            rotate(key_BNTE, rotation),
            value_BNTE,
            # Without a mask attention may take the flash kernel.
            attn_mask=None if padding_BT is None else ~padding_BT[:, None, None, :],
            dropout_p=self.dropout.p if self.training else 0.0,
        )
        attended_BTH: Tensor = self.dropout(self.project(mixed_BNTE.transpose(1, 2).flatten(2)))
        return attended_BTH


def rotary_angles(num_frames: int, head_dim: int, device: torch.device) -> Rotation:
    """Cosines and sines of frame times frequency; frequencies fall from 1 to 1e-4 (Su et al., 2021, §3.2.2)."""
    steps = torch.arange(0, head_dim, 2, device=device, dtype=torch.float32)
    frames_T = torch.arange(num_frames, device=device, dtype=torch.float32)
    angles_TE = frames_T[:, None] * 10_000 ** (-steps / head_dim)
    return angles_TE.cos(), angles_TE.sin()


def rotate(x_BNTE: Tensor, rotation: Rotation) -> Tensor:
    """Turn each pair of coordinates (e, e + E/2) by its frame's angle; in float32, whatever the input's type."""
    cosines_TE, sines_TE = rotation
    first, second = x_BNTE.float().chunk(2, dim=-1)
    turned = [first * cosines_TE - second * sines_TE, first * sines_TE + second * cosines_TE]
    return torch.cat(turned, dim=-1).to(x_BNTE.dtype)


class ConvolutionModule(nn.Module):
    """Gated pointwise, depthwise and pointwise convolution (paper, §2.2); padding is zeroed where kernels see it."""

    def __init__(self, hidden_dim: int, kernel_size: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden_dim)
        self.gated = nn.Linear(hidden_dim, 2 * hidden_dim)
        self.depthwise = nn.Conv1d(hidden_dim, hidden_dim, kernel_size, padding=kernel_size // 2, groups=hidden_dim)
        self.depthwise_norm = nn.LayerNorm(hidden_dim)
        self.project = nn.Linear(hidden_dim, hidden_dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BTH: Tensor, padding_BT: Tensor | None) -> Tensor:
        x_BTH = F.glu(self.gated(self.norm(x_BTH)), dim=2)
        if padding_BT is not None:
            x_BTH = x_BTH.masked_fill(padding_BT[:, :, None], 0)
        x_BTH = self.depthwise(x_BTH.transpose(1, 2)).transpose(1, 2)
        convolved_BTH: Tensor = self.dropout(self.project(F.silu(self.depthwise_norm(x_BTH))))
        return convolved_BTH
