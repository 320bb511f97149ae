"""The view of an embedding: projections, what colours them, and how good they are. Page and picture show the same.

Shapes: N tracks, D dimensions of a projection.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

PALETTE = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#444444")
"""Okabe and Ito's, which colour-blind readers tell apart; their yellow is too faint for dots on white."""
SYMBOLS = ("circle", "diamond", "square", "x")
"""The palette starts anew with the next symbol: 28 looks in all."""
OTHERS = "#C9C9C9"

METHOD_TITLES = {
    "pca": "PCA",
    "tsne": "t-SNE",
    "umap": "UMAP",
    "spectral": "Spectral",
    "mds": "MDS",
    "isomap": "Isomap",
}
TRUST_TITLES = {"trustworthiness": "trustworthiness"}
CLASS_TITLES = {"silhouette": "silhouette", "purity": "k-NN purity", "probe": "linear probe"}
TARGET_TITLES = {"knn_r2": "k-NN R²", "knn_spearman": "k-NN Spearman", "probe_r2": "linear probe R²"}
"""How `ProjectionQuality.to_json` calls its numbers, and what people read above them."""


@dataclass(frozen=True, slots=True)
class Look:
    """Colour and symbol of a category; symbols are Plotly's names."""

    colour: str
    symbol: str = "circle"


@dataclass(frozen=True)
class Categories:
    """A name for each track: `names[codes_N]`, -1 = none."""

    title: str
    names: tuple[str, ...]
    codes_N: NDArray[np.int64]
    own_looks: tuple[Look, ...] = ()
    """One for each name; empty takes them from the palette."""

    def looks(self) -> dict[int, Look]:
        """By code; with more categories than looks, the most frequent ones have a colour, and no other has."""
        if self.own_looks:
            return dict(enumerate(self.own_looks))
        codes = list(range(len(self.names)))
        if len(codes) > len(LOOKS):
            counts = np.bincount(self.codes_N[self.codes_N >= 0], minlength=len(codes))
            codes = [int(code) for code in np.argsort(-counts, kind="stable")[: len(PALETTE)]]
        return dict(zip(codes, LOOKS, strict=False))


@dataclass(frozen=True)
class Numbers:
    """A number for each track, NaN = none."""

    title: str
    values_N: NDArray[np.float64]


Colouring: TypeAlias = Categories | Numbers

LOOKS = tuple(Look(colour, symbol) for symbol in SYMBOLS for colour in PALETTE)
RIGHT_OR_WRONG = (Look("#9CC3DC"), Look("#D55E00", "x"))


@dataclass(frozen=True)
class Projection:
    """Points of the tracks by one method, and how they were judged."""

    method: str
    points_ND: NDArray[np.float32]
    quality: Mapping[str, float]

    @property
    def dimensions(self) -> int:
        return int(self.points_ND.shape[1])

    @property
    def name(self) -> str:
        """As people read it: `t-SNE, 2-D`."""
        return f"{METHOD_TITLES.get(self.method, self.method)}, {self.dimensions}-D"


@dataclass(frozen=True)
class EmbeddingView:
    """Everything that is shown. All of `colourings` and `projections` are of the tracks of `track_ids`."""

    title: str
    facts: str
    """One sentence below the title: which model, which tracks."""
    track_ids: tuple[str, ...]
    colourings: Mapping[str, Colouring]
    """By what `--color` calls them; hovering over a track shows all of them."""
    colour: str
    """The key of the colouring that is shown first."""
    judged_by: str | None
    """The title of the classes that the numbers are about; None where there are none."""
    projections: tuple[Projection, ...]
    vectors_quality: Mapping[str, float]
    chance_quality: Mapping[str, float]
    num_dimensions: int
    """Of the vectors."""
    notes: tuple[str, ...] = ()
    """What a reader must know of these tracks."""
    judged_targets: tuple[str, ...] = ()
    """Numeric labels that the numbers are about, too."""

    def quality_groups(self) -> list[tuple[str, dict[str, str]]]:
        """What the numbers are about, and the titles of the numbers by their keys in a row of `quality_rows`."""
        classes = [] if self.judged_by is None else [(self.judged_by, CLASS_TITLES)]
        targets = [
            (target, {f"{target}_{key}": title for key, title in TARGET_TITLES.items()})
            for target in self.judged_targets
        ]
        return [("neighbourhoods", TRUST_TITLES), *classes, *targets]

    def quality_rows(self) -> list[tuple[str, Mapping[str, float]]]:
        """The vectors first, then each projection, then chance."""
        return [
            (f"the vectors, {self.num_dimensions}-D", self.vectors_quality),
            *((projection.name, projection.quality) for projection in self.projections),
            ("chance", self.chance_quality),
        ]

    def to_json(self) -> dict[str, Any]:
        """Plain values for the page; NaN becomes None."""
        return {
            "track_ids": list(self.track_ids),
            "colour": self.colour,
            "colourings": {key: _plain(colouring) for key, colouring in self.colourings.items()},
            "projections": [
                {
                    "method": each.method,
                    "method_title": METHOD_TITLES.get(each.method, each.method),
                    "dimensions": each.dimensions,
                    "points": [_rounded(axis) for axis in each.points_ND.T],
                }
                for each in self.projections
            ],
        }


def _plain(colouring: Colouring) -> dict[str, Any]:
    if isinstance(colouring, Numbers):
        return {"title": colouring.title, "kind": "numbers", "values": _rounded(colouring.values_N)}
    looks = [[code, look.colour, look.symbol] for code, look in colouring.looks().items()]
    return {
        "title": colouring.title,
        "kind": "categories",
        "names": list(colouring.names),
        "codes": colouring.codes_N.tolist(),
        "looks": looks,
        "others": OTHERS,
    }


def _rounded(values: NDArray[Any]) -> list[float | None]:
    """To five digits, which no screen resolves."""
    return [float(f"{value:.5g}") if np.isfinite(value) else None for value in values.tolist()]
