"""Tasks: what is predicted, hence how many outputs, which loss, which metrics, which objective.

Axes: B batch, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from fmasearch.config import TaskConfig
from fmasearch.errors import ConfigError
from fmasearch.metrics import ClassificationMetrics, Metrics
from fmasearch.records import Objective


class Task(Protocol):
    """What the trainer needs to know about a prediction. Targets that are missing contribute nothing."""

    @property
    def output_dim(self) -> int:
        """Outputs that a model needs per clip."""

    @property
    def objective(self) -> Objective:
        """The validation metric that a search optimises, with its prefix, e.g. `val_macro_f1`."""

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean loss over the targets that exist, a scalar; 0 if none does."""

    def metrics(self, device: torch.device) -> Metrics:
        """A fresh accumulator on `device`."""


@dataclass(frozen=True, slots=True)
class Classification:
    """One class per clip: cross entropy. Targets are int64 (B,), -1 = no label."""

    class_names: tuple[str, ...]
    objective_metric: str = "macro_f1"

    @property
    def output_dim(self) -> int:
        return len(self.class_names)

    @property
    def objective(self) -> Objective:
        return Objective(f"val_{self.objective_metric}", "max")

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean cross entropy of logits (B, K), in float32 whatever autocast made them."""
        total = F.cross_entropy(outputs.float(), targets, ignore_index=-1, reduction="sum")
        # torch's own mean is NaN without a label; a sum of nothing is 0 and keeps its graph.
        return total / (targets >= 0).sum().clamp(min=1)

    def metrics(self, device: torch.device) -> Metrics:
        return ClassificationMetrics(self.output_dim, device)


def build_task(config: TaskConfig, class_names: Sequence[str]) -> Task:
    """The task that a configuration names, over the classes that the data has.

    Raises:
        ConfigError: if there is nothing to tell apart.
    """
    if len(class_names) < 2:
        name, found = config.classification, list(class_names)
        raise ConfigError(f"task.classification: {name!r} needs at least two classes, got {found}")
    return Classification(tuple(class_names), config.objective)
