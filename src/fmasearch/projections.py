"""Projections: vectors of many dimensions as points of two or three. `projection_quality` says what that keeps.

Shapes: N tracks, E dimensions of the vectors, D of the points.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import minimum_spanning_tree
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE, Isomap, smacof, spectral_embedding
from sklearn.metrics import pairwise_distances
from sklearn.neighbors import kneighbors_graph

from fmasearch.errors import UserError

Floats: TypeAlias = NDArray[np.float64]
Points: TypeAlias = NDArray[np.float32]

FEWEST_TRACKS = 5
"""The fewest that have neighbours to speak of: three dimensions and their mean take four."""
MOST_DIMENSIONS = 50
"""t-SNE and UMAP look at so many principal components (van der Maaten & Hinton, 2008, took 30)."""
PERPLEXITY, NEIGHBOURS = 30.0, 15


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
