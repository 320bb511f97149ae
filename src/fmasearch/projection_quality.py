"""The quality of a projection: numbers for how much of the vectors, of the classes and of the targets its points keep.

A picture of points invites judging by shape, and the shapes of t-SNE and UMAP are partly their own (Wattenberg et
al., Distill 2016). So every projection is judged beside the vectors themselves, and beside chance.

Shapes: N tracks, E dimensions of the vectors, D of the points, K neighbours, M other points.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import nan
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.manifold import trustworthiness
from sklearn.metrics import pairwise_distances, silhouette_score
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fmasearch.metrics import regression_scores

Floats: TypeAlias = NDArray[np.float64]
Codes: TypeAlias = NDArray[np.integer[Any]]

NUM_NEIGHBOURS, FOLDS = 10, 5
RIDGE_PENALTIES = np.logspace(-2, 4, 13)
"""Chosen among on the training part of a fold: what is right depends on how many dimensions and tracks there are."""


@dataclass(frozen=True, slots=True)
class TargetQuality:
    """How much of a numeric label a projection keeps, of 1 at best; 0 is no better than its mean. NaN where fewer than
    two different values are known."""

    knn_r2: float
    """R² of the mean of a track's 10 nearest neighbours, tracks of its own artist left out."""
    knn_spearman: float
    """Rank correlation of that mean with the label, -1 to 1."""
    probe_r2: float
    """R² of a ridge regression, cross-validated, no artist in both training and test."""


@dataclass(frozen=True, slots=True)
class ProjectionQuality:
    """What a projection keeps, of 1 at best. NaN where tracks have fewer than two classes."""

    silhouette: float
    """-1 to 1: how much closer a track is to its own class than to the next one, mean over tracks."""
    purity: float
    """0 to 1: share of a track's 10 nearest neighbours, tracks of its own artist left out, that are of its class."""
    trustworthiness: float
    """0 to 1: whether neighbours here are neighbours in the vectors, too; 0.5 is chance (Venna & Kaski, 2001)."""
    probe: float
    """0 to 1: accuracy of a logistic regression, cross-validated, no artist in both training and test."""
    targets: Mapping[str, TargetQuality] = field(default_factory=dict)
    """By the name of a numeric label."""

    def to_json(self) -> dict[str, float]:
        """Flat: the numbers of a target are called `<target>_knn_r2` and so on."""
        values: dict[str, float] = {name: getattr(self, name) for name in CLASS_KEYS}
        for target, quality in self.targets.items():
            values |= {f"{target}_{key}": value for key, value in asdict(quality).items()}
        return values


CLASS_KEYS = ("silhouette", "purity", "trustworthiness", "probe")


def judge_projection(
    vectors_NE: NDArray[Any],
    points_ND: NDArray[Any],
    labels_N: Codes,
    groups_N: Codes,
    seed: int,
    targets: Mapping[str, NDArray[Any]] | None = None,
) -> ProjectionQuality:
    """How much of the vectors' neighbourhoods, of the classes and of numeric labels, the points keep.

    The vectors judged as points of their own are the reference.

    Args:
        labels_N: class codes; a track with -1 has none, and takes no part in what is said of classes.
        groups_N: artists; -1 = unknown, which is taken for an artist of its own.
        targets: numeric labels (N,) by name; NaN = none, which takes no part in what is said of that label.
    """
    num_neighbours = max(1, min(NUM_NEIGHBOURS, (len(vectors_NE) - 1) // 2))
    trust = float(trustworthiness(vectors_NE, points_ND, n_neighbors=num_neighbours))
    points = points_ND.astype(np.float64)
    of_targets = {
        name: _target_quality(points, np.asarray(values_N, np.float64), groups_N, seed)
        for name, values_N in (targets or {}).items()
    }
    labelled = labels_N >= 0
    labels, groups, points = labels_N[labelled], groups_N[labelled], points[labelled]
    num_classes = len(np.unique(labels))
    if num_classes < 2:
        return ProjectionQuality(nan, nan, trust, nan, of_targets)
    return ProjectionQuality(
        silhouette=float(silhouette_score(points, labels)) if num_classes < len(labels) else nan,
        purity=_purity(points, labels, groups),
        trustworthiness=trust,
        probe=_probe(points, labels, groups, seed),
        targets=of_targets,
    )


def chance(labels_N: Codes, targets: Sequence[str] = ()) -> ProjectionQuality:
    """What points that know nothing of the labels would get: as many neighbours of a class as its share."""
    of_targets = dict.fromkeys(targets, TargetQuality(0.0, 0.0, 0.0))
    _, counts = np.unique(labels_N[labels_N >= 0], return_counts=True)
    if len(counts) < 2:
        return ProjectionQuality(nan, nan, 0.5, nan, of_targets)
    shares = counts / counts.sum()
    return ProjectionQuality(0.0, float((shares**2).sum()), 0.5, float(shares.max()), of_targets)


def _target_quality(points_ND: Floats, values_N: Floats, groups_N: Codes, seed: int) -> TargetQuality:
    known = np.isfinite(values_N)
    points, values, groups = points_ND[known], values_N[known], groups_N[known]
    if len(np.unique(values)) < 2:
        return TargetQuality(nan, nan, nan)
    nearest_NK, reached_NK = _neighbours(points, groups)
    some_N = reached_NK.any(axis=1)
    sums_N = np.where(reached_NK, values[nearest_NK], 0).sum(axis=1)
    means_N = sums_N[some_N] / reached_NK.sum(axis=1)[some_N]
    by_neighbours = _scores(values[some_N], means_N)
    by_probe = _scores(values, _ridge(points, values, groups, seed))
    return TargetQuality(by_neighbours["x_r2"], by_neighbours["x_spearman"], by_probe["x_r2"])


def _scores(values_N: Floats, predicted_N: Floats) -> dict[str, float]:
    return regression_scores(values_N[:, None], predicted_N[:, None], ("x",))


def _ridge(points_ND: Floats, values_N: Floats, groups_N: Codes, seed: int) -> Floats:
    """Each track's value by a regression on the tracks of other folds; NaN if there is one artist alone."""
    predicted_N: Floats = np.full(len(values_N), nan)
    artists_N = _artists(groups_N)
    num_folds = min(FOLDS, len(np.unique(artists_N)))
    if num_folds < 2:
        return predicted_N
    folds = GroupKFold(num_folds, shuffle=True, random_state=seed)
    for train, test in folds.split(points_ND, values_N, artists_N):
        probe = make_pipeline(StandardScaler(), RidgeCV(RIDGE_PENALTIES))
        predicted_N[test] = probe.fit(points_ND[train], values_N[train]).predict(points_ND[test])
    return predicted_N


def _purity(points_ND: Floats, labels_N: Codes, groups_N: Codes) -> float:
    nearest_NK, reached_NK = _neighbours(points_ND, groups_N)
    same_NK = (labels_N[nearest_NK] == labels_N[:, None]) & reached_NK
    some_N = reached_NK.any(axis=1)
    return float((same_NK.sum(axis=1)[some_N] / reached_NK.sum(axis=1)[some_N]).mean()) if some_N.any() else nan


def _neighbours(points_ND: Floats, groups_N: Codes) -> tuple[Codes, NDArray[np.bool_]]:
    """Rows of each track's nearest others, and which of them count (N, K).

    Tracks of one artist are alike whatever their labels (Flexer & Schnitzer, 2010), so they are no neighbours.
    """
    distances_NN = pairwise_distances(points_ND)
    distances_NN[(groups_N[:, None] == groups_N) & (groups_N >= 0)] = np.inf
    np.fill_diagonal(distances_NN, np.inf)
    num_neighbours = min(NUM_NEIGHBOURS, len(points_ND) - 1)
    nearest_NK = np.argpartition(distances_NN, num_neighbours - 1, axis=1)[:, :num_neighbours]
    return nearest_NK, np.isfinite(np.take_along_axis(distances_NN, nearest_NK, axis=1))


def _artists(groups_N: Codes) -> Codes:
    """The groups, each unknown one an artist of its own."""
    artists_N: Codes = np.where(groups_N >= 0, groups_N, groups_N.max(initial=0) + 1 + np.arange(len(groups_N)))
    return artists_N


def _probe(points_ND: Floats, labels_N: Codes, groups_N: Codes, seed: int) -> float:
    artists_N = _artists(groups_N)
    num_folds = min(FOLDS, int(np.unique(labels_N, return_counts=True)[1].max()), len(np.unique(artists_N)))
    if num_folds < 2:
        return nan
    by_artist = len(np.unique(artists_N)) < len(artists_N)
    split = (StratifiedGroupKFold if by_artist else StratifiedKFold)(num_folds, shuffle=True, random_state=seed)
    right_N = np.zeros(len(labels_N), bool)
    # A class with fewer tracks than folds, or a fit that stops at max_iter, is no news here.
    with warnings.catch_warnings(action="ignore"):
        for train, test in split.split(points_ND, labels_N, artists_N):
            right_N[test] = _fitted(points_ND[train], labels_N[train], points_ND[test]) == labels_N[test]
    return float(right_N.mean())


def _fitted(points_ND: Floats, labels_N: Codes, others_MD: Floats) -> Codes:
    """Classes of the other points; a fold whose training part has one class knows no other."""
    if len(np.unique(labels_N)) < 2:
        return np.full(len(others_MD), labels_N[0] if len(labels_N) else -1)
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
    predicted_M: Codes = probe.fit(points_ND, labels_N).predict(others_MD)
    return predicted_M
