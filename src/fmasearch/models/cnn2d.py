"""CNN: blocks of 2-D convolution, batch norm, ReLU and max-pool over time and bins, pooling over time, a small head.

Axes: B batch, T frames, F feature bins, D channels times bins, P pooled.
"""

from __future__ import annotations

from torch import Tensor, nn

from fmasearch.models.clip_model import ClipModel, mlp_head
from fmasearch.models.convolution2d import ConvStack2d
from fmasearch.models.hyperparameters import Count, Depth, DropoutRate, KernelSize
from fmasearch.models.pooling import Pooling, TimePooling


def cnn2d(
    *,
    input_dim: Count,
    num_frames: Count,
    output_dim: Count,
    base_channels: Count = 32,
    num_blocks: Depth = 4,
    first_kernel_size: KernelSize = 5,
    kernel_size: KernelSize = 3,
    pool_bins: Count = 4,
    pooling: Pooling = "mean_max",
    feature_size: Count = 256,
    dropout: DropoutRate = 0.3,
) -> ClipModel:
    """The CNN of the Greek reference report (NTUA PatRec lab 2, 2024; written anew), but for its flatten.

    The report flattens the last feature map into its layer of 256 features. That one layer then holds 41.9 M of
    42.4 M parameters (0.42 M are convolutions), knows every pattern apart for every place in time, and takes clips of
    one length alone. Here bins are averaged to `pool_bins` and time is pooled over a clip's own frames: 0.52 M
    parameters in that layer, any length, and no gap between what is learnt at the start and at the end of a clip.
    """
    convs = ConvStack2d(input_dim, base_channels, num_blocks, first_kernel_size, kernel_size, pool_bins, pool_last=True)
    backbone = Cnn2d(convs, TimePooling(pooling, convs.output_dim))
    return ClipModel(backbone, mlp_head(backbone.pool.output_dim, feature_size, output_dim, dropout))


class Cnn2d(nn.Module):
    """Backbone: convolutions and pooling over time."""

    def __init__(self, convs: ConvStack2d, pool: TimePooling) -> None:
        super().__init__()
        self.convs = convs
        self.pool = pool

    def forward(self, x_BTF: Tensor, lengths_B: Tensor) -> Tensor:
        """Returns (B, P)."""
        x_BDT, lengths = self.convs(x_BTF, lengths_B)
        if lengths is not None:
            lengths = lengths.to(x_BDT.device, non_blocking=True)
        pooled_BP: Tensor = self.pool(x_BDT.permute(2, 0, 1), lengths)
        return pooled_BP

    def blocks(self) -> tuple[nn.Module, ...]:
        learns = self.pool.score is not None
        return (*self.convs.blocks, self.pool) if learns else tuple(self.convs.blocks)
