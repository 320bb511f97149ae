"""Several predictions from one backbone.

Axes: B batch, C crops of a track, K outputs, P parts, R targets.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from fmasearch.metrics import Metrics
from fmasearch.records import Objective
from fmasearch.tasks.base import on_device
from fmasearch.tasks.classification import Classification
from fmasearch.tasks.regression import Regression

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a multitask: its name, its task, and its columns of outputs and targets."""

    name: str
    task: Classification | Regression
    outputs: slice
    targets: slice
    weight: float = 1.0

    def outputs_of(self, outputs: Tensor) -> Tensor:
        return outputs[..., self.outputs]

    def targets_of(self, targets: Tensor) -> Tensor:
        """The part's targets as its task wants them: classes as int64 (B,), numbers as float32 (B, R)."""
        if isinstance(self.task, Regression):
            return targets[:, self.targets]
        codes_B = targets[:, self.targets.start]
        return torch.where(codes_B.isnan(), -1, codes_B).long()


@dataclass(frozen=True, slots=True)
class Multitask:
    """Several predictions from one backbone. Targets are float32 (B, 1 + R), the class first, NaN = no label.

    A clip that lacks a part's label takes no part in that part's loss and metrics. Parts are weighed by fixed
    numbers, or by variances that the model learns (Kendall et al., CVPR 2018): outputs have one more column for each
    part then, the logarithm of its variance.
    """

    parts: tuple[Part, ...]
    objective_part: str = "mean"
    learns_weights: bool = False

    @property
    def output_dim(self) -> int:
        return sum(part.task.output_dim for part in self.parts)

    @property
    def num_learned_weights(self) -> int:
        return len(self.parts) if self.learns_weights else 0

    @property
    def objective(self) -> Objective:
        if self.objective_part == "mean":
            return Objective("val_mean", "max")
        part = next(part for part in self.parts if part.name == self.objective_part)
        return Objective(f"val_{part.name}_{part.task.objective_metric}", "max")

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Weighted sum of the parts' losses; with learned variances, of Kendall's terms for the parts that occur."""
        losses_P = torch.stack(
            [part.task.loss(part.outputs_of(outputs), part.targets_of(targets)) for part in self.parts]
        )
        if not self.learns_weights:
            return (losses_P * on_device(tuple(part.weight for part in self.parts), outputs.device)).sum()
        log_variances_P = outputs[0, self.output_dim :].float()
        halves = tuple(0.5 if isinstance(part.task, Regression) else 1.0 for part in self.parts)
        terms_P = on_device(halves, outputs.device) * torch.exp(-log_variances_P) * losses_P + 0.5 * log_variances_P
        occurs_P = torch.stack([_any_label(part.targets_of(targets)) for part in self.parts])
        return torch.where(occurs_P, terms_P, 0.0).sum()

    def combine(self, outputs_BCK: Tensor) -> Tensor:
        combined = [part.task.combine(part.outputs_of(outputs_BCK)) for part in self.parts]
        return torch.cat([*combined, outputs_BCK[:, 0, self.output_dim :].float()], dim=-1)

    def metrics(self, device: torch.device) -> Metrics:
        return MultitaskMetrics(self.parts, device)


class MultitaskMetrics:
    """Every part's scores: classes under the part's name, targets under their own, their means under the part's.

    `mean` is the mean of the parts' objectives, `loss` the weighted sum of their plain losses.
    """

    def __init__(self, parts: Sequence[Part], device: torch.device) -> None:
        self._parts = [(part, part.task.metrics(device)) for part in parts]

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        for part, metrics in self._parts:
            metrics.update(part.outputs_of(outputs), part.targets_of(targets))

    def compute(self) -> dict[str, float]:
        scores: dict[str, float] = {}
        objectives, loss = [], 0.0
        for part, metrics in self._parts:
            of_part = metrics.compute()
            objectives.append(of_part[part.task.objective_metric])
            part_loss = of_part["loss"]
            loss += 0.0 if math.isnan(part_loss) else part.weight * part_loss
            scores |= part_scores(part, of_part)
        return scores | {"mean": sum(objectives) / len(objectives), "loss": loss}


def part_scores(part: Part, scores: Mapping[str, T]) -> dict[str, T]:
    """A part's scores by their names in the multitask: what belongs to one target keeps its name."""
    names = [target.name for target in part.task.targets] if isinstance(part.task, Regression) else []
    own = [metric for metric in scores if any(metric.startswith(f"{name}_") for name in names)]
    return {metric if metric in own else f"{part.name}_{metric}": value for metric, value in scores.items()}


def _any_label(targets: Tensor) -> Tensor:
    """Whether a batch has any label of a part, on the device."""
    return (~targets.isnan()).any() if targets.is_floating_point() else (targets >= 0).any()
