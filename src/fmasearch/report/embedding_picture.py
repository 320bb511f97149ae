"""The picture of a projection: small multiples, one panel for each class, so that none hides behind another."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fmasearch.files import replacing
from fmasearch.report.embedding_view import Categories, EmbeddingView, Look, Numbers, Projection
from fmasearch.report.pictures import PNG_DPI, STYLE

COLUMNS = (5, 4, 3)  # panels beside each other: what leaves the fewest places empty
SIDE = 2.1  # inches
FAINT = "#E3E3E3"
MOST_PANELS = 16
MARKERS = {"circle": "o", "diamond": "D", "square": "s", "x": "X"}


def save_picture(view: EmbeddingView, projection: Projection, path: Path) -> None:
    """Draw a projection of two dimensions into a PNG."""
    with matplotlib.rc_context(STYLE), replacing(path) as temporary:
        picture(view, projection).savefig(temporary, dpi=PNG_DPI, metadata={"Software": None})


def picture(view: EmbeddingView, projection: Projection) -> Figure:
    """All tracks by colour, then each class before the others in grey; numbers get a panel for each of them."""
    colouring = view.colourings[view.colour]
    if isinstance(colouring, Numbers):
        numbers = [each for each in view.colourings.values() if isinstance(each, Numbers)][:MOST_PANELS]
        figure, panels = _grid(len(numbers))
        for axes, each in zip(panels, numbers, strict=False):
            _by_number(axes, figure, projection, each)
    else:
        figure, panels = _grid(1 + len(_largest(colouring)))
        _by_category(panels[0], projection, colouring)
        for axes, (code, look) in zip(panels[1:], _largest(colouring).items(), strict=False):
            _one_category(axes, projection, colouring, code, look)
    title = f"{projection.name}, by {_literal(colouring.title)}\n{_words(view, projection)}"
    figure.suptitle(title, fontsize=8.5, x=0.01, ha="left")
    return figure


def _grid(num_panels: int) -> tuple[Figure, list[Axes]]:
    columns = min(num_panels, min(COLUMNS, key=lambda count: -num_panels % count))
    rows = math.ceil(num_panels / columns)
    figure = Figure(figsize=(max(2.6, columns) * SIDE, rows * (SIDE + 0.2) + 0.5), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in panels[num_panels:]:
        axes.set_visible(False)
    for axes in panels[:num_panels]:
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_aspect("equal", adjustable="datalim")
        axes.spines[:].set_visible(True)
        axes.spines[:].set_color("#E4E4E4")
    return figure, panels[:num_panels]


def _largest(colouring: Categories) -> dict[int, Look]:
    """Categories that have a look and tracks, in their order; the largest ones if there are too many for a picture."""
    counts = np.bincount(colouring.codes_N[colouring.codes_N >= 0], minlength=len(colouring.names))
    looks = {code: look for code, look in colouring.looks().items() if counts[code]}
    kept = sorted(looks, key=lambda code: -counts[code])[: MOST_PANELS - 1]
    return {code: look for code, look in looks.items() if code in kept}


def _by_category(axes: Axes, projection: Projection, colouring: Categories) -> None:
    looks = colouring.looks()
    plain = ~np.isin(colouring.codes_N, list(looks))
    _dots(axes, projection, plain, Look(FAINT))
    for code, look in looks.items():
        _dots(axes, projection, colouring.codes_N == code, look)
    axes.set_title(f"all ({len(colouring.codes_N):,})", fontsize=8, loc="left")


def _one_category(axes: Axes, projection: Projection, colouring: Categories, code: int, look: Look) -> None:
    of_it = colouring.codes_N == code
    _dots(axes, projection, ~of_it, Look(FAINT))
    _dots(axes, projection, of_it, look)
    title = f"{_literal(colouring.names[code])} ({int(of_it.sum()):,})"
    axes.set_title(title, fontsize=8, loc="left", color=look.colour, weight="bold")


def _by_number(axes: Axes, figure: Figure, projection: Projection, numbers: Numbers) -> None:
    known = np.isfinite(numbers.values_N)
    _dots(axes, projection, ~known, Look(FAINT))
    look: dict[str, Any] = {"c": numbers.values_N[known], "cmap": "cividis", "s": _area(projection), "linewidths": 0}
    dots = axes.scatter(projection.points_ND[known, 0], projection.points_ND[known, 1], **look)
    axes.set_title(_literal(numbers.title), fontsize=8, loc="left")
    if known.any():
        bar = figure.colorbar(dots, ax=axes, shrink=0.8, pad=0.02)
        bar.outline.set_visible(False)
        bar.ax.tick_params(labelsize=7)


def _dots(axes: Axes, projection: Projection, rows: Any, look: Look) -> None:
    points_ND = projection.points_ND[rows]
    style: dict[str, Any] = {"marker": MARKERS[look.symbol], "color": look.colour, "linewidths": 0, "alpha": 0.85}
    axes.scatter(points_ND[:, 0], points_ND[:, 1], s=_area(projection), **style)


def _area(projection: Projection) -> float:
    """Square points: less for many tracks."""
    return float(np.clip(4000 / len(projection.points_ND), 4, 22))


def _literal(text: str) -> str:
    """Names come from the file: a dollar sign would begin a formula."""
    return text.replace("$", r"\$")


def _words(view: EmbeddingView, projection: Projection) -> str:
    """The numbers, and what they are about."""
    quality, words = projection.quality, []
    if view.judged_by is not None and isinstance(view.colourings[view.colour], Categories):
        numbers = {"k-NN purity": quality["purity"], "linear probe": quality["probe"]}
        words = [_about(view.judged_by, numbers)] * (not math.isnan(quality["purity"]))
    elif isinstance(view.colourings[view.colour], Numbers):
        for target in view.judged_targets:
            numbers = {"k-NN R²": quality[f"{target}_knn_r2"], "linear probe R²": quality[f"{target}_probe_r2"]}
            words += [_about(target, numbers)] * (not math.isnan(quality[f"{target}_knn_r2"]))
    return " · ".join([*words, f"trustworthiness {quality['trustworthiness']:.2f}"])


def _about(name: str, numbers: Mapping[str, float]) -> str:
    told = [f"{title} {'−' if value < 0 else ''}{abs(value):.2f}" for title, value in numbers.items()]
    return f"{_literal(name)}: {', '.join(told)}"
