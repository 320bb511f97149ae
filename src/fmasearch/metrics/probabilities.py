"""Scores of a classifier's probabilities: whether it ranks well, and whether it is as sure as it is right.

Axes: N tracks, K classes. Targets are (N,) classes, -1 = no label, left out. Without a labelled track, or with a
NaN beside a label, every score is NaN.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fmasearch.metrics.arrays import Floats, Integers, midranks, ratio

NUM_BINS = 15  # Guo et al. (2017)


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Tracks whose highest probability lies in (low, high]. Both means are NaN where `count` is 0."""

    low: float
    high: float
    count: int
    confidence: float  # mean of the highest probability
    accuracy: float  # share that was right


def probability_scores(targets_N: Integers, probabilities_NK: npt.ArrayLike) -> dict[str, float]:
    """roc_auc, ece, brier, and top_3_accuracy where there are more than three classes."""
    probabilities = np.asarray(probabilities_NK, np.float64)
    top = {"top_3_accuracy": top_k_accuracy(targets_N, probabilities, 3)} if probabilities.shape[1] > 3 else {}
    return top | {
        "roc_auc": roc_auc(targets_N, probabilities),
        "ece": ece(targets_N, probabilities),
        "brier": brier(targets_N, probabilities),
    }


def softmax(logits_NK: npt.ArrayLike) -> Floats:
    """Probabilities (N, K) of logits, in float64."""
    logits = np.asarray(logits_NK, np.float64)
    powers = np.exp(logits - logits.max(1, keepdims=True))
    probabilities: Floats = powers / powers.sum(1, keepdims=True)
    return probabilities


def top_k_accuracy(targets_N: Integers, scores_NK: npt.ArrayLike, k: int) -> float:
    """Share of tracks whose class is among the k with the highest probabilities or logits.

    Of equal scores the class of the higher index comes first, as in sklearn.metrics.top_k_accuracy_score.
    """
    assert k >= 1
    targets, scores = _labelled(targets_N, scores_NK)
    if not _can_be_ranked(scores):
        return float("nan")
    own_N1 = np.take_along_axis(scores, targets[:, None], axis=1)
    comes_first = (scores > own_N1) | ((scores == own_N1) & (np.arange(scores.shape[1]) > targets[:, None]))
    return float((comes_first.sum(1) < k).mean())


def roc_auc(targets_N: Integers, scores_NK: npt.ArrayLike) -> float:
    """Mean of `roc_auc_per_class` over the classes that have one (macro, one versus rest); NaN if none has."""
    areas_K = roc_auc_per_class(targets_N, scores_NK)
    defined = areas_K[~np.isnan(areas_K)]
    return float(defined.mean()) if len(defined) else float("nan")


def roc_auc_per_class(targets_N: Integers, scores_NK: npt.ArrayLike) -> Floats:
    """How likely a track of the class has a higher score for it than one of the rest (ties count half), (K,).

    Equals sklearn.metrics.roc_auc_score of each column. NaN for a class that no track has, or all have. Give
    probabilities: logits are comparable within a track, not between tracks.
    """
    targets, scores = _labelled(targets_N, scores_NK)
    num_classes = scores.shape[1]
    if not _can_be_ranked(scores):
        return np.full(num_classes, np.nan)
    return np.array([_area(targets == k, scores[:, k]) for k in range(num_classes)])


def ece(targets_N: Integers, probabilities_NK: npt.ArrayLike, num_bins: int = NUM_BINS) -> float:
    """Expected calibration error (Guo et al., ICML 2017, equation 3): how far accuracy is from confidence, 0..1.

    The bins' mean of |accuracy - confidence|, weighted by their tracks.
    """
    bins = [bin_ for bin_ in reliability_bins(targets_N, probabilities_NK, num_bins) if bin_.count]
    total = sum(bin_.count for bin_ in bins)
    gaps = sum(bin_.count * abs(bin_.accuracy - bin_.confidence) for bin_ in bins)
    return gaps / total if total else float("nan")


def reliability_bins(
    targets_N: Integers, probabilities_NK: npt.ArrayLike, num_bins: int = NUM_BINS
) -> tuple[ReliabilityBin, ...]:
    """Confidence and accuracy in bins of equal width over 0..1, lowest first: a reliability diagram."""
    targets, probabilities = _labelled_probabilities(targets_N, probabilities_NK)
    confidence_N, right_N = probabilities.max(1), probabilities.argmax(1) == targets
    edges = np.linspace(0, 1, num_bins + 1)
    bin_of_N = np.searchsorted(edges[1:-1], confidence_N, side="left")  # left: a bin holds its upper edge
    counts = np.bincount(bin_of_N, minlength=num_bins)
    confidence = _means(np.bincount(bin_of_N, confidence_N, num_bins), counts)
    accuracy = _means(np.bincount(bin_of_N, right_N, num_bins), counts)
    return tuple(
        ReliabilityBin(*ends, count, sure, right)
        for ends, count, sure, right in zip(
            zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True),
            counts.tolist(),
            confidence.tolist(),
            accuracy.tolist(),
            strict=True,
        )
    )


def brier(targets_N: Integers, probabilities_NK: npt.ArrayLike) -> float:
    """Mean over tracks of the squared distance between probabilities and the truth (Brier, 1950), 0..2.

    The sum over all K classes, as Brier defined it: for two classes twice the common one-column form.
    """
    targets, probabilities = _labelled_probabilities(targets_N, probabilities_NK)
    truth_NK = np.arange(probabilities.shape[1]) == targets[:, None]
    distances_N = ((probabilities - truth_NK) ** 2).sum(1)
    return float(distances_N.mean()) if len(targets) else float("nan")


def _labelled(targets_N: Integers, scores_NK: npt.ArrayLike) -> tuple[Integers, Floats]:
    scores = np.asarray(scores_NK, np.float64)
    assert scores.shape[:1] == targets_N.shape
    return targets_N[targets_N >= 0], scores[targets_N >= 0]


def _labelled_probabilities(targets_N: Integers, probabilities_NK: npt.ArrayLike) -> tuple[Integers, Floats]:
    targets, probabilities = _labelled(targets_N, probabilities_NK)
    sums = probabilities.sum(1)
    assert np.isclose(sums, 1, atol=0.02)[~np.isnan(sums)].all(), "these are no probabilities: logits?"
    return targets, probabilities


def _can_be_ranked(scores_NK: Floats) -> bool:
    return len(scores_NK) > 0 and not np.isnan(scores_NK).any()


def _area(positive_N: npt.NDArray[np.bool_], score_N: Floats) -> float:
    """Mann and Whitney's U over the number of pairs: the area under the ROC curve."""
    num_positive, num_negative = int(positive_N.sum()), int((~positive_N).sum())
    if not num_positive or not num_negative:
        return float("nan")
    ranks_1N, _ = midranks(np.ones((1, len(score_N))), score_N)
    rank_sum = float(ranks_1N[0, positive_N].sum())
    return (rank_sum - num_positive * (num_positive + 1) / 2) / (num_positive * num_negative)


def _means(sums: npt.NDArray[Any], counts: npt.NDArray[np.int64]) -> Floats:
    return np.where(counts > 0, ratio(sums, counts), np.nan)
