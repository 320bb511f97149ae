"""Numbers per clip.

Axes: B batch, C crops of a track, R targets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from fmasearch.config import ERRORS
from fmasearch.metrics import Metrics, RegressionMetrics
from fmasearch.records import Objective, TargetStats
from fmasearch.tasks.base import on_device


@dataclass(frozen=True, slots=True)
class Regression:
    """Numbers per clip. Targets are float32 (B, R) in the labels' own units, NaN = no label.

    A model puts out standardised values, so that targets weigh alike in the loss whatever their units; metrics are
    in the labels' own units, but for `loss`, the mean squared standardised error, which is comparable between trials.
    """

    targets: tuple[TargetStats, ...]
    objective_metric: str = "spearman"
    error: Literal["mse", "mae", "huber", "ccc"] = "mse"
    huber_delta: float = 1.0

    num_learned_weights: ClassVar[int] = 0

    @property
    def output_dim(self) -> int:
        return len(self.targets)

    @property
    def objective(self) -> Objective:
        return Objective(f"val_{self.objective_metric}", "min" if self.objective_metric.endswith(ERRORS) else "max")

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean over the targets that have a label in the batch (two, for ccc) of each one's error over its labels."""
        known_BR = ~targets.isnan()
        mean_R, std_R = self._stats(outputs.device)
        # What is unknown is replaced on both sides: a NaN times 0 would still be NaN, in the gradient, too.
        wanted_BR = torch.where(known_BR, (targets - mean_R) / std_R, 0.0)
        outputs_BR = torch.where(known_BR, outputs.float(), 0.0)
        counts_R = known_BR.sum(0)
        if self.error == "ccc":
            defined_R = counts_R > 1
            errors_R = torch.where(defined_R, _concordance_errors(outputs_BR, wanted_BR, known_BR), 0.0)
        else:
            defined_R = counts_R > 0
            errors_R = self._errors(outputs_BR, wanted_BR).sum(0) / counts_R.clamp(min=1)
        return errors_R.sum() / defined_R.sum().clamp(min=1)

    def combine(self, outputs_BCK: Tensor) -> Tensor:
        """The mean over crops."""
        return outputs_BCK.float().mean(1)

    def values(self, outputs: Tensor) -> Tensor:
        """Outputs (B, R) in the labels' own units."""
        mean_R, std_R = self._stats(outputs.device)
        return outputs.float() * std_R + mean_R

    def metrics(self, device: torch.device) -> Metrics:
        return _InUnits(self, RegressionMetrics([t.name for t in self.targets], [t.std for t in self.targets], device))

    def _errors(self, outputs_BR: Tensor, wanted_BR: Tensor) -> Tensor:
        if self.error == "mae":
            return (outputs_BR - wanted_BR).abs()
        if self.error == "huber":
            return F.huber_loss(outputs_BR, wanted_BR, reduction="none", delta=self.huber_delta)
        return (outputs_BR - wanted_BR).square()

    def _stats(self, device: torch.device) -> tuple[Tensor, Tensor]:
        means, stds = tuple(t.mean for t in self.targets), tuple(t.std for t in self.targets)
        return on_device(means, device), on_device(stds, device)


class _InUnits:
    """Scores of standardised outputs, turned into the labels' own units on the device."""

    def __init__(self, task: Regression, metrics: RegressionMetrics) -> None:
        self._task = task
        self._metrics = metrics

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        self._metrics.update(self._task.values(outputs.detach()), targets)

    def compute(self) -> dict[str, float]:
        return self._metrics.compute()


def _concordance_errors(outputs_BR: Tensor, wanted_BR: Tensor, known_BR: Tensor) -> Tensor:
    """1 - Lin's concordance (1989) over the batch, for each target; of no meaning with fewer than two labels."""
    num_R = known_BR.sum(0).clamp(min=1)
    outputs_mean_R, wanted_mean_R = outputs_BR.sum(0) / num_R, wanted_BR.sum(0) / num_R
    outputs_BR = torch.where(known_BR, outputs_BR - outputs_mean_R, 0.0)
    wanted_BR = torch.where(known_BR, wanted_BR - wanted_mean_R, 0.0)
    covariance_R = (outputs_BR * wanted_BR).sum(0) / num_R
    spread_R = (outputs_BR.square() + wanted_BR.square()).sum(0) / num_R + (outputs_mean_R - wanted_mean_R).square()
    return 1 - 2 * covariance_R / spread_R.clamp(min=1e-8)
