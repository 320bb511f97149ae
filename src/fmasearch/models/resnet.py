"""ResNet: the short-chunk CNN with residual blocks (Won et al., SMC 2020), the best tagger of their comparison.

3 x 3 convolutions, each block halves time and bins by a stride of 2, pooling over what is left, a small head. The
paper trains on crops of 3.7 s and averages a track's crops: see `crop` in a training's configuration.

Axes: B batch, C channels, T frames, F feature bins, D pooled.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from fmasearch.models.clip_model import ClipModel, mlp_head, trim
from fmasearch.models.convolution2d import channels_last, silence_
from fmasearch.models.hyperparameters import Count, DropoutRate, Range
from fmasearch.models.pooling import TimePooling, mean_over_time


def resnet(
    *,
    input_dim: Count,
    num_frames: Count,
    output_dim: Count,
    base_channels: Count = 32,
    num_blocks: Annotated[int, Range(4, 8)] = 7,
    se_ratio: Count | None = None,
    pooling: Literal["mean", "max", "mean_max", "attention"] = "mean_max",
    head_dim: Count | None = None,
    dropout: DropoutRate = 0.5,
) -> ClipModel:
    """Channels are c, c, 2c ... 2c, 4c for a base of c.

    The paper has 128 channels, 7 blocks (128 bins and 231 frames become 1 x 2) and pooling `max`.

    Args:
        se_ratio: squeeze-and-excitation with so many times fewer hidden units than channels; None has none.
        pooling: over a clip's own frames and all bins alike.
        head_dim: width of the head; None is as many as the last block's channels.
    """
    channels = [base_channels] * 2 + [2 * base_channels] * (num_blocks - 3) + [4 * base_channels]
    backbone = ResNet(channels, se_ratio, TimePooling(pooling, channels[-1]))
    return ClipModel(backbone, mlp_head(backbone.pool.output_dim, head_dim or channels[-1], output_dim, dropout))


class ResNet(nn.Module):
    """Backbone: batch norm of the input, residual blocks, pooling over time and bins."""

    def __init__(self, channels: list[int], se_ratio: int | None, pool: TimePooling) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(1)
        self.residuals = nn.ModuleList(
            ResidualBlock(narrow, wide, se_ratio) for narrow, wide in zip([1, *channels[:-1]], channels, strict=True)
        )
        self.pool = pool
        channels_last(self)

    def forward(self, x_BTF: Tensor, lengths_B: Tensor) -> Tensor:
        """Returns (B, D)."""
        x_BTF, lengths = trim(x_BTF, lengths_B)
        x_BCTF = self.norm(x_BTF[:, None])
        if lengths is not None:
            silence_(x_BCTF, lengths)
        for block in self.residuals:
            x_BCTF, lengths = block(x_BCTF, lengths)
        num_bins = x_BCTF.shape[3]
        if lengths is not None:  # frame by frame, so that a clip's own places come first
            lengths = (lengths * num_bins).to(x_BCTF.device, non_blocking=True)
        pooled_BD: Tensor = self.pool(x_BCTF.flatten(2).permute(2, 0, 1), lengths)
        return pooled_BD

    def blocks(self) -> tuple[nn.Module, ...]:
        learns = self.pool.score is not None
        return (self.norm, *self.residuals, *([self.pool] if learns else []))


class ResidualBlock(nn.Module):
    """Two convolutions and a third in the shortcut; of n frames or bins ceil(n / 2) are left, so a single one stays.

    Frame t of the output is centred on frame 2t of the input: it is a clip's own if and only if that one is.
    """

    def __init__(self, input_dim: int, output_dim: int, se_ratio: int | None) -> None:
        super().__init__()
        self.first_conv = nn.Conv2d(input_dim, output_dim, 3, stride=2, padding=1)
        self.first_norm = nn.BatchNorm2d(output_dim)
        self.second_conv = nn.Conv2d(output_dim, output_dim, 3, padding=1)
        self.second_norm = nn.BatchNorm2d(output_dim)
        self.shortcut_conv = nn.Conv2d(input_dim, output_dim, 3, stride=2, padding=1)
        self.shortcut_norm = nn.BatchNorm2d(output_dim)
        self.excite = None if se_ratio is None else Excitation(output_dim, max(1, output_dim // se_ratio))

    def forward(self, x_BCTF: Tensor, lengths_B: Tensor | None) -> tuple[Tensor, Tensor | None]:
        lengths = None if lengths_B is None else (lengths_B + 1) // 2
        residual_BCTF = self.first_norm(self.first_conv(x_BCTF))
        if lengths is not None:  # the second convolution must see no padding
            silence_(residual_BCTF, lengths)
        residual_BCTF = self.second_norm(self.second_conv(F.relu_(residual_BCTF)))
        if self.excite is not None:
            residual_BCTF = self.excite(residual_BCTF, lengths)
        x_BCTF = residual_BCTF + self.shortcut_norm(self.shortcut_conv(x_BCTF))
        if lengths is not None:
            silence_(x_BCTF, lengths)
        return F.relu_(x_BCTF), lengths


class Excitation(nn.Module):
    """Squeeze-and-excitation (Hu et al., CVPR 2018): a channel is scaled by what all channels are on average."""

    def __init__(self, channels: int, hidden_dim: int) -> None:
        super().__init__()
        self.gates = nn.Sequential(
            nn.Linear(channels, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, channels), nn.Sigmoid()
        )

    def forward(self, x_BCTF: Tensor, lengths_B: Tensor | None) -> Tensor:
        """Scales x_BCTF; the average is over a clip's own frames, and frames after them may hold anything finite."""
        if lengths_B is not None:
            lengths_B = lengths_B.to(x_BCTF.device, non_blocking=True)
        mean_BC = mean_over_time(x_BCTF.mean(3).permute(2, 0, 1), lengths_B)
        gates_BC: Tensor = self.gates(mean_BC)
        return x_BCTF * gates_BC[:, :, None, None]
