"""Two models on the same tracks: how much they differ, and whether chance would explain it.

Axes: N tracks, R targets. The two are compared on common resamples: what makes a draw of artists easy makes it
easy for both, so their difference is known better than either score.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fmasearch.metrics.arrays import Floats, Integers
from fmasearch.metrics.classification import CLASSIFICATION_SCORES, scores_of_counts
from fmasearch.metrics.intervals import scores_of_sums, sums_by_group
from fmasearch.metrics.regression import REGRESSION_SCORES, regression_scores, scores_of_draws
from fmasearch.metrics.resampling import drawn_counts, group_rows, percentiles

MIN_DISCORDANT = 25  # below, the chi-square is a poor approximation of the binomial


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """Score of model a minus score of model b, with its bootstrap interval.

    `p_value` is two-sided: twice the share of resamples on the rarer side of 0 (Efron & Tibshirani 1993, chapter
    15; one is added to counts and resamples, so that it is never 0, Davison & Hinkley 1997, section 4.4).
    """

    difference: float
    low: float
    high: float
    p_value: float


@dataclass(frozen=True, slots=True)
class McNemar:
    """How many tracks only one of two models got right, and how likely so uneven a share is among equals."""

    only_a: int
    only_b: int
    p_value: float


def paired_bootstrap(
    score: str,
    targets: npt.NDArray[Any],
    a: npt.NDArray[Any],
    b: npt.NDArray[Any],
    groups: Integers,
    *,
    num_classes: int | None = None,
    num_resamples: int = 2000,
    seed: int,
    confidence: float = 0.95,
) -> PairedDifference:
    """One score's difference. For several scores `paired_classification` and `paired_regression` cost no more.

    Args:
        score: one of CLASSIFICATION_SCORES or REGRESSION_SCORES; the latter is the mean over targets.
        targets: classes (N,), -1 = none; or labels (N,) or (N, R), NaN = none.
        a: predictions of one model, like `targets`.
        b: predictions of the other.
        groups: (N,) ids, e.g. of artists; -1 = unknown, a group of its own. `np.arange(N)` resamples tracks.
        num_classes: of the task; needed for classes.
        num_resamples: how often the groups are drawn, for both models at once.
        seed: of the drawing.
        confidence: share of resamples inside the interval, in (0, 1).

    Raises:
        ValueError: if there is no such score.
    """
    if score in CLASSIFICATION_SCORES:
        assert num_classes is not None
        return paired_classification(
            targets,
            a,
            b,
            groups,
            num_classes=num_classes,
            num_resamples=num_resamples,
            seed=seed,
            confidence=confidence,
        )[score]
    if score not in REGRESSION_SCORES:
        expected = ", ".join(CLASSIFICATION_SCORES + REGRESSION_SCORES)
        raise ValueError(f"score: expected one of {expected}; got {score}")
    columns = [array.reshape(len(array), -1) for array in (targets, a, b)]
    names = [str(i) for i in range(columns[0].shape[1])]
    return paired_regression(
        columns[0], columns[1], columns[2], groups, names, num_resamples=num_resamples, seed=seed, confidence=confidence
    )[score]


def paired_classification(
    targets_N: Integers,
    a_N: Integers,
    b_N: Integers,
    groups_N: Integers,
    *,
    num_classes: int,
    num_resamples: int = 2000,
    seed: int,
    confidence: float = 0.95,
) -> dict[str, PairedDifference]:
    """Differences of all of `summary`'s scores. Arguments as in `bootstrap_intervals`, with two predictions."""
    labelled = targets_N >= 0
    targets, (num_groups, group_of_N) = targets_N[labelled], group_rows(groups_N[labelled])
    sums = [sums_by_group(targets, x[labelled], num_groups, group_of_N, num_classes) for x in (a_N, b_N)]
    draws = [
        _subtract(scores_of_sums(sums[0], counts_DG), scores_of_sums(sums[1], counts_DG))
        for counts_DG in drawn_counts(num_groups, num_resamples, seed)
    ]
    return _differences(_subtract(*(scores_of_counts(*sums_G3K.sum(0)) for sums_G3K in sums)), draws, confidence)


def paired_regression(
    targets_NR: Floats,
    a_NR: Floats,
    b_NR: Floats,
    groups_N: Integers,
    names: Sequence[str],
    *,
    num_resamples: int = 2000,
    seed: int,
    confidence: float = 0.95,
) -> dict[str, PairedDifference]:
    """Differences of all of `regression_scores`. Arguments as in `bootstrap_regression`, with two predictions."""
    labelled_N = ~np.isnan(targets_NR).all(1)
    targets, a, b = targets_NR[labelled_N], a_NR[labelled_N], b_NR[labelled_N]
    num_groups, group_of_N = group_rows(groups_N[labelled_N])
    draws = []
    for counts_DG in drawn_counts(num_groups, num_resamples, seed):
        counts_DN = counts_DG[:, group_of_N]
        draws.append(_subtract(*(scores_of_draws(counts_DN, targets, values, names) for values in (a, b))))
    return _differences(_subtract(*(regression_scores(targets, x, names) for x in (a, b))), draws, confidence)


def mcnemar(targets_N: Integers, a_N: Integers, b_N: Integers) -> McNemar:
    """McNemar's test on the tracks that one of two classifiers gets right and the other wrong.

    Exact binomial below 25 such tracks, else chi-square with continuity correction (Edwards, 1948). The correction
    does not go below 0: equally many on both sides have a p-value of 1, as in R's mcnemar.test. Tracks count as
    independent; where artists have several, `paired_bootstrap` by artist is the more careful answer.

    Args:
        targets_N: classes, -1 = no label, left out.
        a_N: predicted classes of one model, all in 0..K-1.
        b_N: predicted classes of the other.
    """
    right_a, right_b = a_N == targets_N, b_N == targets_N  # without a label neither is right
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    exact = only_a + only_b < MIN_DISCORDANT
    return McNemar(only_a, only_b, (_binomial_p_value if exact else _chi_square_p_value)(only_a, only_b))


def _subtract(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Any]:
    return {name: a[name] - b[name] for name in a}


def _differences(
    full: Mapping[str, Any], draws: Sequence[Mapping[str, Floats]], confidence: float
) -> dict[str, PairedDifference]:
    return {name: _difference(float(full[name]), [d[name] for d in draws], confidence) for name in full}


def _difference(value: float, parts: Sequence[Floats], confidence: float) -> PairedDifference:
    draws_D = np.concatenate(parts)
    return PairedDifference(value, *percentiles(draws_D, confidence), _bootstrap_p_value(draws_D))


def _bootstrap_p_value(draws_D: Floats) -> float:
    defined = draws_D[~np.isnan(draws_D)]
    if not len(defined):
        return float("nan")
    rarer = int(min((defined <= 0).sum(), (defined >= 0).sum()))
    return min(1.0, 2 * (rarer + 1) / (len(defined) + 1))


def _binomial_p_value(only_a: int, only_b: int) -> float:
    """Two-sided, of a fair coin: in whole numbers, hence exact."""
    total = only_a + only_b
    tail = sum(math.comb(total, i) for i in range(min(only_a, only_b) + 1))
    return min(1.0, tail / 2.0 ** (total - 1))


def _chi_square_p_value(only_a: int, only_b: int) -> float:
    statistic = max(abs(only_a - only_b) - 1, 0) ** 2 / (only_a + only_b)
    return math.erfc(math.sqrt(statistic / 2))  # the upper tail of chi-square with one degree of freedom
