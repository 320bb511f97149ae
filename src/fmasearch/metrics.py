"""Scores of a classifier: an accumulator on the device, and plain functions on a confusion matrix.

Axes: B batch, N tracks, G groups, R resamples, K classes. `confusion_KK[i, j]` counts true class i, predicted
class j. All numbers equal scikit-learn's with `labels=range(K), zero_division=0`: a class of the task that a
split lacks counts as 0 in macro F1, so that scores on one split are comparable whatever a model predicts;
balanced accuracy averages over the classes that occur. Without a single labelled track every score is NaN.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from fmasearch.records import Interval

Floats: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.integer[Any]]
Counts: TypeAlias = npt.NDArray[Any]  # whole numbers, of an integer or float type


class Metrics(Protocol):
    """Scores of one pass over a split, accumulated where the outputs are."""

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Add a batch. Never leaves the device."""

    def compute(self) -> dict[str, float]:
        """Scores of everything added, by name without a split's prefix. The one transfer of a pass."""


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
        precision=_ratio(hits, predicted),
        recall=_ratio(hits, support),
        f1=_ratio(2 * hits, support + predicted),
        support=support.astype(np.int64),
        predicted=predicted.astype(np.int64),
    )


def summary(confusion_KK: npt.ArrayLike) -> dict[str, float]:
    """accuracy, balanced_accuracy, macro_f1, weighted_f1 and micro_f1 of a confusion matrix."""
    confusion = np.asarray(confusion_KK)
    scores = _summarise(np.diagonal(confusion), confusion.sum(1), confusion.sum(0))
    return {name: float(value) for name, value in scores.items()}


def bootstrap_intervals(
    targets: Integers,
    predictions: Integers,
    groups: Integers,
    *,
    num_classes: int,
    num_resamples: int = 2000,
    seed: int,
    confidence: float = 0.95,
) -> dict[str, Interval]:
    """Percentile intervals of `summary`'s scores by cluster bootstrap (Field & Welsh, 2007).

    Tracks of one artist are alike, so whole artists are drawn with replacement; drawing tracks would give
    intervals that are too narrow. A class that occurs, but in no artist of a resample, takes no part in that
    resample's macro F1: counted as 0 it would push the interval below the estimate where artists are few.

    Args:
        targets: (N,) classes; -1 = no label, left out.
        predictions: (N,) classes, all in 0..K-1.
        groups: (N,) ids, e.g. of artists; -1 = unknown, a group of its own. `np.arange(N)` resamples tracks.
        num_classes: K.
        num_resamples: how often the groups are drawn.
        seed: of the drawing; equal seeds give equal intervals.
        confidence: share of resamples inside the interval, in (0, 1).
    """
    labelled = targets >= 0
    sums_G3K = _sums_by_group(targets[labelled], predictions[labelled], groups[labelled], num_classes)
    draws = _resampled_sums(sums_G3K, num_resamples, np.random.default_rng(seed))
    hits, support, predicted = sums_G3K.sum(0)
    values = _summarise(hits, support, predicted)
    resampled = _summarise(*np.moveaxis(draws, 1, 0), lacking_K=support == 0)
    tail = (1 - confidence) / 2
    return {
        name: Interval(float(value), *(float(end) for end in np.quantile(resampled[name], [tail, 1 - tail])))
        for name, value in values.items()
    }


def _summarise(
    hits: Counts, support: Counts, predicted: Counts, *, lacking_K: Counts | None = None
) -> dict[str, Floats]:
    """Scores from counts (..., K): a confusion matrix's diagonal and margins are all that they need.

    Macro F1 is over all classes; with `lacking_K`, over those that occur and those that are known to be lacking.
    """
    total = support.sum(-1)
    f1 = _ratio(2 * hits, support + predicted)
    num_present = (support > 0).sum(-1)
    counted = np.ones(f1.shape) if lacking_K is None else (support > 0) | lacking_K
    scores = {
        "accuracy": _ratio(hits.sum(-1), total),
        "balanced_accuracy": _ratio(_ratio(hits, support).sum(-1), num_present),
        "macro_f1": _ratio((f1 * counted).sum(-1), counted.sum(-1)),
        "weighted_f1": _ratio((f1 * support).sum(-1), total),
        "micro_f1": _ratio(2 * hits.sum(-1), (support + predicted).sum(-1)),
    }
    return {name: np.where(total > 0, value, np.nan) for name, value in scores.items()}


def _ratio(numerator: npt.NDArray[Any], denominator: Counts) -> Floats:
    """Quotient that is 0 where the denominator is."""
    quotient: Floats = np.zeros(np.shape(denominator))
    np.divide(numerator, denominator, out=quotient, where=denominator > 0)
    return quotient


def _sums_by_group(targets: Integers, predictions: Integers, groups: Integers, num_classes: int) -> Floats:
    """Hits, support and predictions of every group and class, (G, 3, K)."""
    ids = groups.astype(np.int64)
    unknown = ids < 0
    ids[unknown] = ids.max(initial=0) + 1 + np.arange(unknown.sum())
    names, group_of = np.unique(ids, return_inverse=True)
    sums: Floats = np.zeros((3, len(names), num_classes))
    hit = targets == predictions
    np.add.at(sums[0], (group_of[hit], targets[hit]), 1)
    np.add.at(sums[1], (group_of, targets), 1)
    np.add.at(sums[2], (group_of, predictions), 1)
    return sums.swapaxes(0, 1)


def _resampled_sums(sums_G3K: Floats, num_resamples: int, generator: np.random.Generator) -> Floats:
    """Sums over G groups drawn with replacement, (R, 3, K): how often each group was drawn, times its sums.

    100 resamples at a time, so that 10,000 groups take 8 MB and not 160.
    """
    num_groups = len(sums_G3K)
    if num_groups == 0:
        return np.zeros((num_resamples, *sums_G3K.shape[1:]))
    flat = sums_G3K.reshape(num_groups, -1)
    parts = []
    for start in range(0, num_resamples, 100):
        rows = min(100, num_resamples - start)
        drawn = generator.integers(num_groups, size=(rows, num_groups))
        cells = drawn + num_groups * np.arange(rows)[:, None]
        weights_RG = np.bincount(cells.ravel(), minlength=rows * num_groups).reshape(rows, num_groups)
        parts.append(weights_RG.astype(np.float64) @ flat)
    return np.concatenate(parts).reshape(num_resamples, *sums_G3K.shape[1:])
