"""What a task is to the trainer, and how its constants get to the device.

Axes: B batch, C crops of a track, K outputs.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

from fmasearch.metrics import Metrics
from fmasearch.records import Objective


class Task(Protocol):
    """What the trainer needs to know about a prediction. Targets that are missing contribute nothing."""

    @property
    def output_dim(self) -> int:
        """Outputs that a model needs per clip."""

    @property
    def objective(self) -> Objective:
        """The validation metric that a search optimises, with its prefix, e.g. `val_macro_f1`."""

    @property
    def num_learned_weights(self) -> int:
        """Outputs beside `output_dim` that are no predictions: see `ClipModel.learn_weights`."""

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean training loss over the targets that exist, a scalar; 0 if none does."""

    def combine(self, outputs_BCK: Tensor) -> Tensor:
        """One prediction per track from those of its crops, outputs (B, K)."""

    def metrics(self, device: torch.device) -> Metrics:
        """A fresh accumulator on `device`."""


@lru_cache(maxsize=32)
def on_device(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Copied once, and not at every step."""
    with torch.inference_mode(False):  # a tensor made in inference mode could never be trained with
        return torch.tensor(values).to(device, non_blocking=True)
