"""What every architecture is made of: a backbone that turns a clip into one vector, and a head on top of it.

Axes: B batch, T frames, F feature bins, D pooled, E embedding, K outputs.

A backbone is a module with

    forward(x_BTF, lengths_B) -> pooled_BD
    blocks() -> its parts from input to output, which together own every parameter once

Padding never changes a prediction in eval mode. Frames at and after a clip's length are 0 when they come in; what
makes them non-zero (a bias, a norm) is followed by a mask, and no pooled state has seen them. `lengths_B` is int64
on the CPU; below `trim` it is None where every clip fills the tensor: then nothing is masked or packed. In a program
that torch.export makes it never is, since one program serves all lengths.
"""

from __future__ import annotations

from typing import Protocol, Self

import torch
from torch import Tensor, nn


class Backbone(Protocol):
    """See the module's docstring; a Protocol for type checkers alone."""

    def __call__(self, x_BTF: Tensor, lengths_B: Tensor) -> Tensor: ...

    def blocks(self) -> tuple[nn.Module, ...]:
        """Parts from input to output: what is frozen together, and learns at one rate under layer decay."""


class Head(nn.Module):
    """What comes after the backbone: `hidden` gives the embedding, `output` is the last linear layer."""

    def __init__(self, hidden: nn.Module, embedding_dim: int, output_dim: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.output = nn.Linear(embedding_dim, output_dim)
        self.log_variances: nn.Parameter | None = None


def mlp_head(input_dim: int, hidden_dim: int, output_dim: int, dropout: float) -> Head:
    """Linear, ReLU and dropout before the last linear layer."""
    hidden = nn.Sequential(nn.Linear(input_dim, hidden_dim), nn.ReLU(), nn.Dropout(dropout))
    return Head(hidden, hidden_dim, output_dim)


class ClipModel(nn.Module):
    """A backbone and a head, one after the other.

    The first `num_frozen` blocks stay in eval mode whatever `train` is called with: their batch norms keep their
    statistics, their dropout lets everything through.
    """

    def __init__(self, backbone: Backbone, head: Head) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.num_frozen = 0

    def embed(self, x_BTF: Tensor, lengths_B: Tensor) -> Tensor:
        """The vector before the last linear layer, (B, E)."""
        embedding_BE: Tensor = self.head.hidden(self.backbone(x_BTF, lengths_B))
        return embedding_BE

    def forward(self, x_BTF: Tensor, lengths_B: Tensor) -> Tensor:
        """Returns outputs_BK."""
        outputs_BK: Tensor = self.head.output(self.embed(x_BTF, lengths_B))
        if self.head.log_variances is None:
            return outputs_BK
        return torch.cat([outputs_BK, self.head.log_variances.expand(len(outputs_BK), -1)], dim=1)

    def learn_weights(self, num_parts: int) -> None:
        """Learn a variance for each part of a multitask (Kendall et al., CVPR 2018).

        Outputs get as many more columns: the variances' logarithms, 0 at first, the same for every clip.
        """
        if num_parts:
            self.head.log_variances = nn.Parameter(torch.zeros(num_parts, device=self.head.output.weight.device))

    def blocks(self) -> tuple[nn.Module, ...]:
        """Blocks from input to output; the last is the head."""
        return (*self.backbone.blocks(), self.head)

    def frozen(self) -> tuple[nn.Module, ...]:
        """The frozen blocks; the whole backbone if they are all of it, since dropout may lie between two blocks."""
        if self.num_frozen == len(self.blocks()) - 1:
            return (self.get_submodule("backbone"),)
        return self.blocks()[: self.num_frozen]

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for module in self.frozen():
            module.eval()
        return self


def trim(x_BTF: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor | None]:
    """Cut the frames that no clip reaches; lengths become None if every clip fills what is left.

    An exported program keeps both: there lengths are values that nobody knows yet.
    """
    if torch.compiler.is_exporting():
        return x_BTF, lengths_B
    shortest, longest = (int(length) for length in lengths_B.aminmax())
    return x_BTF[:, :longest], None if shortest == longest else lengths_B


def padding_mask(lengths_B: Tensor, num_frames: int, device: torch.device) -> Tensor:
    """True at frames at and after a clip's length, bool (B, T) on `device`; never waits for it."""
    frames_T = torch.arange(num_frames, device=device)
    return frames_T >= lengths_B.to(device, non_blocking=True)[:, None]
