"""One class per clip.

Axes: B batch, C crops of a track, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from fmasearch.config import LossConfig
from fmasearch.errors import ConfigError
from fmasearch.metrics import ClassificationMetrics, Metrics
from fmasearch.records import Objective
from fmasearch.tasks.base import on_device


@dataclass(frozen=True, slots=True)
class Classification:
    """One class per clip: cross entropy. Targets are int64 (B,), -1 = no label.

    `class_weights` (one per class, None = all 1) and `label_smoothing` act on the training loss alone: metrics
    report the plain log loss, which is comparable between trials.
    """

    class_names: tuple[str, ...]
    objective_metric: str = "macro_f1"
    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] | None = None

    num_learned_weights: ClassVar[int] = 0

    @property
    def output_dim(self) -> int:
        return len(self.class_names)

    @property
    def objective(self) -> Objective:
        return Objective(f"val_{self.objective_metric}", "max")

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Cross entropy of logits (B, K), weighted by each clip's class, over the number of labelled clips.

        In float32 whatever autocast made of the logits. torch's `weight` would also weigh the smoothed share of a
        target by the classes it is spread over: with rare classes every clip would be pushed towards those. And
        torch's mean divides by the weights of a batch, so that a batch of one class knows no weights.
        """
        # torch's own mean is NaN without a label; a sum of nothing is 0 and keeps its graph.
        num_labelled = (targets >= 0).sum().clamp(min=1)
        if self.class_weights is None:
            return self._cross_entropy(outputs, targets, "sum") / num_labelled
        weights_B = on_device(self.class_weights, outputs.device)[targets.clamp(min=0)]
        return (weights_B * self._cross_entropy(outputs, targets, "none")).sum() / num_labelled

    def combine(self, outputs_BCK: Tensor) -> Tensor:
        """Logarithm of the crops' mean probabilities: as logits they give that mean, its argmax and its log loss."""
        log_probabilities_BCK = outputs_BCK.float().log_softmax(-1)
        return log_probabilities_BCK.logsumexp(1) - math.log(outputs_BCK.shape[1])

    def metrics(self, device: torch.device) -> Metrics:
        return ClassificationMetrics(self.output_dim, device)

    def _cross_entropy(self, outputs: Tensor, targets: Tensor, reduction: str) -> Tensor:
        return F.cross_entropy(
            outputs.float(), targets, ignore_index=-1, reduction=reduction, label_smoothing=self.label_smoothing
        )


def class_weights(
    loss: LossConfig, class_names: Sequence[str], class_counts: Sequence[int] | None
) -> tuple[float, ...]:
    """Weights whose mean over the training tracks is 1; a class without tracks has 0."""
    assert class_counts is not None, "class weights need the training split's counts"
    assert len(class_counts) == len(class_names)
    num_tracks = sum(class_counts)
    if num_tracks == 0:
        raise ConfigError(f"loss.class_weights: {loss.class_weights!r} needs labelled training tracks, got none")
    raw = [_raw_weight(loss, count) if count else 0.0 for count in class_counts]
    mean = sum(weight * count for weight, count in zip(raw, class_counts, strict=True)) / num_tracks
    return tuple(weight / mean for weight in raw)


def _raw_weight(loss: LossConfig, count: int) -> float:
    if loss.class_weights == "balanced":
        return 1 / count
    if loss.class_weights == "sqrt":
        return 1 / math.sqrt(count)
    beta = loss.effective_beta
    return (1 - beta) / (1 - beta**count)
