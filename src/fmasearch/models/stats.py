"""Statistics and an MLP: the cheap baseline that every leaderboard should show first.

Mean, spread and movement of each bin, with no idea of order: where a network does little better, the data holds
little else, or the training does not find it.

Axes: B batch, T frames, F feature bins, S statistics.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

import torch
from torch import Tensor, nn

from fmasearch.models.clip_model import ClipModel, Head, padding_mask
from fmasearch.models.hyperparameters import Count, DropoutRate, Range


def stats(
    *,
    input_dim: Count,
    num_frames: Count,
    output_dim: Count,
    hidden_dim: Count = 256,
    num_layers: Annotated[int, Range(0, 8)] = 1,
    dropout: DropoutRate = 0.3,
) -> ClipModel:
    """Each bin's mean, standard deviation and mean absolute delta over a clip's own frames, then an MLP.

    With 0 layers it is a linear probe: `hidden_dim` and `dropout` then do nothing.
    """
    backbone = StatsMlp(input_dim, hidden_dim, num_layers, dropout)
    return ClipModel(backbone, Head(nn.Identity(), backbone.output_dim, output_dim))


class StatsMlp(nn.Module):
    """Backbone: statistics and hidden layers of linear, ReLU and dropout."""

    def __init__(self, input_dim: int, hidden_dim: int, num_layers: int, dropout: float) -> None:
        super().__init__()
        dims = [3 * input_dim] + [hidden_dim] * num_layers
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(wide, narrow), nn.ReLU(), nn.Dropout(dropout)) for wide, narrow in pairwise(dims)
        )
        self.output_dim = dims[-1]

    def forward(self, x_BTF: Tensor, lengths_B: Tensor) -> Tensor:
        hidden_BS = clip_statistics(x_BTF, lengths_B)
        for layer in self.layers:
            hidden_BS = layer(hidden_BS)
        return hidden_BS

    def blocks(self) -> tuple[nn.Module, ...]:
        return tuple(self.layers)


def clip_statistics(x_BTF: Tensor, lengths_B: Tensor) -> Tensor:
    """Mean, standard deviation and mean absolute delta of each bin, (B, 3 F). A single frame has no spread or delta."""
    own_BT1 = ~padding_mask(lengths_B, x_BTF.shape[1], x_BTF.device)[:, :, None]
    frames_B1 = lengths_B.to(x_BTF.device, non_blocking=True)[:, None]
    mean_BF = x_BTF.sum(1) / frames_B1  # padding is 0
    variance_BF = ((x_BTF - mean_BF[:, None]).square() * own_BT1).sum(1) / frames_B1
    deltas_BTF = x_BTF.diff(dim=1).abs() * own_BT1[:, 1:]
    delta_BF = deltas_BTF.sum(1) / (frames_B1 - 1).clamp(min=1)
    return torch.cat([mean_BF, variance_BF.sqrt(), delta_BF], dim=1)
