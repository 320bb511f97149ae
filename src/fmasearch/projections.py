"""Projections: vectors of many dimensions as points of two or three, and numbers for what that keeps.

A picture of points invites judging by shape, and the shapes of t-SNE and UMAP are partly their own (Wattenberg et
al., Distill 2016). So every projection is judged beside the vectors themselves, and beside chance.

Shapes: N tracks, E dimensions of the vectors, D of the points, K neighbours.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from math import nan
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import minimum_spanning_tree
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.manifold import TSNE, Isomap, smacof, spectral_embedding, trustworthiness
from sklearn.metrics import pairwise_distances, silhouette_score
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from sklearn.neighbors import kneighbors_graph
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fmasearch.errors import UserError

Floats: TypeAlias = NDArray[np.float64]
Points: TypeAlias = NDArray[np.float32]
Codes: TypeAlias = NDArray[np.integer[Any]]

FEWEST_TRACKS = 5
"""The fewest that have neighbours to speak of: three dimensions and their mean take four."""
MOST_DIMENSIONS = 50
"""t-SNE and UMAP look at so many principal components (van der Maaten & Hinton, 2008, took 30)."""
PERPLEXITY, NEIGHBOURS, PURITY_NEIGHBOURS, FOLDS = 30.0, 15, 10, 5


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

    def to_json(self) -> dict[str, float]:
        return asdict(self)


def available_methods() -> tuple[str, ...]:
    """Names for `project`, in the order in which to show them; without `umap` where it is not installed."""
    return tuple(name for name in METHODS if name != "umap" or find_spec("umap") is not None)


def require_methods(names: Sequence[str]) -> None:
    """Fail before the work starts.

    Raises:
        UserError: for a name that is none, or one whose package is absent.
    """
    for name in names:
        if name not in METHODS:
            raise UserError(f"methods: unknown method {name!r}; known are {', '.join(METHODS)}")
        if name not in available_methods():
            raise UserError("methods: umap needs umap-learn, which is absent: pip install 'fmasearch[umap]'")


def require_vectors(vectors_NE: NDArray[Any], dimensions: int) -> None:
    """What every method needs.

    Raises:
        UserError: for too few tracks, too few dimensions, vectors that are not finite, or that are all the same.
    """
    num_tracks, num_dimensions = vectors_NE.shape
    if num_tracks < FEWEST_TRACKS:
        raise UserError(f"a projection needs at least {FEWEST_TRACKS} tracks, got {num_tracks}: take another split")
    if num_dimensions < dimensions:
        raise UserError(f"dimensions: the model's vectors have {num_dimensions}, fewer than the {dimensions} asked for")
    if not np.isfinite(vectors_NE).all():
        raise UserError("the model's vectors hold NaN or infinity: its training diverged, or its file is damaged")
    if np.ptp(vectors_NE, axis=0).max() == 0:
        raise UserError("the model gives every track the same vector: it has collapsed, and there is nothing to draw")


def project(vectors_NE: NDArray[Any], method: str, dimensions: int, seed: int) -> Points:
    """Points (N, D) of the vectors; the same for the same seed.

    Dimensions keep their own scales, as the model's last layer sees them: standardising would blow up the units
    that hardly ever fire. Only the common scale is taken out. Numbers of neighbours are cut down to what N allows.

    Args:
        method: one of `available_methods()`.
        dimensions: of the points, 2 or 3.

    Raises:
        UserError: as `require_methods` and `require_vectors`.
    """
    require_methods([method])
    require_vectors(vectors_NE, dimensions)
    centred_NE = vectors_NE.astype(np.float64) - vectors_NE.mean(axis=0, dtype=np.float64)
    # They warn of graphs in several pieces (well separated classes), of tiny N and of seeds that cost parallelism.
    with warnings.catch_warnings(action="ignore"):
        points_ND = METHODS[method](centred_NE / centred_NE.std(), dimensions, seed)
    return np.asarray(points_ND, np.float32)


def judge_projection(
    vectors_NE: NDArray[Any], points_ND: NDArray[Any], labels_N: Codes, groups_N: Codes, seed: int
) -> ProjectionQuality:
    """How much of the vectors' neighbourhoods, and of the classes, the points keep.

    The vectors judged as points of their own are the reference.

    Args:
        labels_N: class codes; a track with -1 has none, and counts for trustworthiness alone.
        groups_N: artists; -1 = unknown, which is taken for an artist of its own.
    """
    num_neighbours = max(1, min(PURITY_NEIGHBOURS, (len(vectors_NE) - 1) // 2))
    trust = float(trustworthiness(vectors_NE, points_ND, n_neighbors=num_neighbours))
    labelled = labels_N >= 0
    labels, groups, points = labels_N[labelled], groups_N[labelled], points_ND[labelled].astype(np.float64)
    num_classes = len(np.unique(labels))
    if num_classes < 2:
        return ProjectionQuality(nan, nan, trust, nan)
    return ProjectionQuality(
        silhouette=float(silhouette_score(points, labels)) if num_classes < len(labels) else nan,
        purity=_purity(points, labels, groups),
        trustworthiness=trust,
        probe=_probe(points, labels, groups, seed),
    )


def chance(labels_N: Codes) -> ProjectionQuality:
    """What points that know nothing of the classes would get: as many neighbours of a class as its share."""
    _, counts = np.unique(labels_N[labels_N >= 0], return_counts=True)
    if len(counts) < 2:
        return ProjectionQuality(nan, nan, 0.5, nan)
    shares = counts / counts.sum()
    return ProjectionQuality(0.0, float((shares**2).sum()), 0.5, float(shares.max()))


def _pca(vectors_NE: Floats, dimensions: int, seed: int) -> Floats:
    points_ND: Floats = PCA(dimensions, random_state=seed).fit_transform(vectors_NE)
    return points_ND


def _tsne(vectors_NE: Floats, dimensions: int, seed: int) -> Floats:
    perplexity = min(PERPLEXITY, (len(vectors_NE) - 1) / 3)
    # N over early exaggeration, which scikit-learn wants in quarters (Belkina et al., 2019), as its own "auto" does;
    # but that is never below 50, which throws 60 tracks about in 3-D: three blobs 30 deviations apart came out mixed.
    learning_rate = max(len(vectors_NE) / 12 / 4, 5.0)
    # From the principal components on, which keeps the large distances in order (Kobak & Berens, 2019).
    tsne = TSNE(dimensions, perplexity=perplexity, init="pca", learning_rate=learning_rate, random_state=seed)
    points_ND: Floats = tsne.fit_transform(_leading(vectors_NE, seed))
    return points_ND


def _umap(vectors_NE: Floats, dimensions: int, seed: int) -> Floats:
    from umap import UMAP  # optional, and ten seconds to import: only who wants it pays for it

    umap = UMAP(
        n_neighbors=min(NEIGHBOURS, len(vectors_NE) - 1),
        n_components=dimensions,
        init="pca",
        random_state=seed,
        n_jobs=1,
    )
    points_ND: Floats = umap.fit_transform(_leading(vectors_NE, seed))
    return points_ND


def _spectral(vectors_NE: Floats, dimensions: int, seed: int) -> Floats:
    points_ND: Floats = spectral_embedding(
        _neighbour_graph(vectors_NE), n_components=dimensions, random_state=seed, eigen_solver="arpack"
    )
    return points_ND


def _mds(vectors_NE: Floats, dimensions: int, seed: int) -> Floats:
    """Metric MDS from the principal components on: one start, and hence nothing random."""
    points_ND, _ = smacof(
        pairwise_distances(vectors_NE),
        n_components=dimensions,
        init=_pca(vectors_NE, dimensions, seed),
        n_init=1,
        max_iter=100,
    )
    return np.asarray(points_ND, np.float64)


def _isomap(vectors_NE: Floats, dimensions: int, seed: int) -> Floats:
    isomap = Isomap(n_neighbors=min(NEIGHBOURS, len(vectors_NE) - 1), n_components=dimensions)
    points_ND: Floats = isomap.fit_transform(vectors_NE)
    return points_ND


METHODS: dict[str, Callable[[Floats, int, int], Floats]] = {
    "pca": _pca,
    "tsne": _tsne,
    "umap": _umap,
    "spectral": _spectral,
    "mds": _mds,
    "isomap": _isomap,
}


def _leading(vectors_NE: Floats, seed: int) -> Floats:
    most = min(MOST_DIMENSIONS, len(vectors_NE))
    return vectors_NE if vectors_NE.shape[1] <= most else _pca(vectors_NE, most, seed)


def _neighbour_graph(vectors_NE: Floats) -> Any:
    """Who is near whom, symmetric, in one piece: each one's neighbours, and the shortest tree that joins them all.

    In several pieces the first eigenvectors would be any mixture of the pieces, and two could fall together.
    """
    nearest = kneighbors_graph(vectors_NE, min(NEIGHBOURS, len(vectors_NE) - 1))
    # A distance of 0 would be no edge to the tree, and tracks can be equal.
    tree = csr_matrix(minimum_spanning_tree(pairwise_distances(vectors_NE) + 1e-9))
    tree.data[:] = 1.0
    graph = nearest.maximum(tree)
    return 0.5 * (graph + graph.T)


def _purity(points_ND: Floats, labels_N: Codes, groups_N: Codes) -> float:
    """Tracks of one artist are alike whatever their class (Flexer & Schnitzer, 2010), so they are no neighbours."""
    distances_NN = pairwise_distances(points_ND)
    distances_NN[(groups_N[:, None] == groups_N) & (groups_N >= 0)] = np.inf
    np.fill_diagonal(distances_NN, np.inf)
    num_neighbours = min(PURITY_NEIGHBOURS, len(labels_N) - 1)
    nearest_NK = np.argpartition(distances_NN, num_neighbours - 1, axis=1)[:, :num_neighbours]
    reached_NK = np.isfinite(np.take_along_axis(distances_NN, nearest_NK, axis=1))
    same_NK = (labels_N[nearest_NK] == labels_N[:, None]) & reached_NK
    some_N = reached_NK.any(axis=1)
    return float((same_NK.sum(axis=1)[some_N] / reached_NK.sum(axis=1)[some_N]).mean()) if some_N.any() else nan


def _probe(points_ND: Floats, labels_N: Codes, groups_N: Codes, seed: int) -> float:
    artists_N = np.where(groups_N >= 0, groups_N, groups_N.max(initial=0) + 1 + np.arange(len(groups_N)))
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
