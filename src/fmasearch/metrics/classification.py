"""Scores of a classifier: an accumulator on the device, and plain functions on a confusion matrix.

Axes: B batch, K classes. `confusion_KK[i, j]` counts true class i, predicted class j. All numbers equal
scikit-learn's with `labels=range(K), zero_division=0`: a class of the task that a split lacks counts as 0 in
macro F1, so that scores on one split are comparable whatever a model predicts; balanced accuracy averages over
the classes that occur. Without a single labelled track every score is NaN.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from fmasearch.metrics.arrays import Counts, Floats, ratio

CLASSIFICATION_SCORES = ("accuracy", "balanced_accuracy", "macro_f1", "weighted_f1", "micro_f1")


class ClassificationMetrics:
    """Confusion matrix and summed log loss. Targets of -1 have no label and contribute nothing."""

    def __init__(self, num_classes: int, device: torch.device | str = "cpu") -> None:
        self.num_classes = num_classes
        self._counts = torch.zeros(num_classes * num_classes, dtype=torch.int64, device=device)
        self._log_loss = torch.zeros((), dtype=torch.float64, device=device)

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Add logits (B, K) of any float type and int64 targets (B,)."""
        logits_BK, targets_B = outputs.detach().float(), targets
        self._log_loss += F.cross_entropy(logits_BK, targets_B, ignore_index=-1, reduction="sum")
        cells_B = targets_B.clamp(min=0) * self.num_classes + logits_BK.argmax(1)
        # Not torch.bincount, which reads the largest index back from the device.
        self._counts.index_add_(0, cells_B, (targets_B >= 0).to(torch.int64))

    def compute(self) -> dict[str, float]:
        """`summary` of the confusion matrix and `loss`, the mean log loss."""
        *counts, log_loss = torch.cat([self._counts.double(), self._log_loss[None]]).tolist()
        confusion_KK = np.array(counts).reshape(self.num_classes, self.num_classes)
        num_labelled = float(confusion_KK.sum())  # numpy's own floats would not load with weights_only=True
        return summary(confusion_KK) | {"loss": log_loss / num_labelled if num_labelled else float("nan")}

    def confusion(self) -> npt.NDArray[np.int64]:
        """The confusion matrix (K, K) on the host, for the final report."""
        counts: npt.NDArray[np.int64] = self._counts.cpu().numpy()
        return counts.reshape(self.num_classes, self.num_classes).copy()


@dataclass(frozen=True, slots=True)
class PerClass:
    """One number per class, each (K,). `support` counts a class's tracks, `predicted` those given to it."""

    precision: Floats
    recall: Floats
    f1: Floats
    support: npt.NDArray[np.int64]
    predicted: npt.NDArray[np.int64]


def per_class(confusion_KK: npt.ArrayLike) -> PerClass:
    """Precision, recall and F1 of every class; 0 where a class was never predicted or does not occur."""
    confusion = np.asarray(confusion_KK)
    hits, support, predicted = np.diagonal(confusion), confusion.sum(1), confusion.sum(0)
    return PerClass(
        precision=ratio(hits, predicted),
        recall=ratio(hits, support),
        f1=ratio(2 * hits, support + predicted),
        support=support.astype(np.int64),
        predicted=predicted.astype(np.int64),
    )


def summary(confusion_KK: npt.ArrayLike) -> dict[str, float]:
    """accuracy, balanced_accuracy, macro_f1, weighted_f1 and micro_f1 of a confusion matrix."""
    confusion = np.asarray(confusion_KK)
    scores = scores_of_counts(np.diagonal(confusion), confusion.sum(1), confusion.sum(0))
    return {name: float(value) for name, value in scores.items()}


def scores_of_counts(
    hits: Counts, support: Counts, predicted: Counts, *, lacking_K: Counts | None = None
) -> dict[str, Floats]:
    """Scores from counts (..., K): a confusion matrix's diagonal and margins are all that they need.

    Macro F1 is over all classes; with `lacking_K`, over those that occur and those that are known to be lacking.
    """
    total = support.sum(-1)
    f1 = ratio(2 * hits, support + predicted)
    num_present = (support > 0).sum(-1)
    counted = np.ones(f1.shape) if lacking_K is None else (support > 0) | lacking_K
    scores = {
        "accuracy": ratio(hits.sum(-1), total),
        "balanced_accuracy": ratio(ratio(hits, support).sum(-1), num_present),
        "macro_f1": ratio((f1 * counted).sum(-1), counted.sum(-1)),
        "weighted_f1": ratio((f1 * support).sum(-1), total),
        "micro_f1": ratio(2 * hits.sum(-1), (support + predicted).sum(-1)),
    }
    return {name: np.where(total > 0, value, np.nan) for name, value in scores.items()}
