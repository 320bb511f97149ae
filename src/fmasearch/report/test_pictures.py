"""The pictures of a test: shares of the confusion matrix, F1 of every class, calibration, true against predicted.

Axes: N tracks, R targets.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from fmasearch.records import TestReport
from fmasearch.report.pictures import BLUE, FAINT, GREY, INK, MOST_MARKS, VERMILION
from fmasearch.report.text import score

if TYPE_CHECKING:
    from fmasearch.metrics import ReliabilityBin

PANELS = 3  # targets beside each other


def confusion_shares(test: TestReport) -> Figure:
    """Rows are true classes, shaded and numbered by the share of the row, in per cent; a row adds up to 100."""
    names = [each.name for each in test.classes]
    shares = [[cell / sum(row) if sum(row) else math.nan for cell in row] for row in test.confusion]
    side = max(1.5, 0.5 * len(names))
    figure = Figure(figsize=(side + 3.2, side + 1.3), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for i, row in enumerate(shares):
        for j, share in enumerate(row):
            if share > 0:
                colour = "white" if share > 0.55 else INK
                weight = "bold" if i == j else "normal"
                words = f"{share:.0%}".replace("%", "") if share >= 0.005 else "<1"
                axes.text(j, i, words, ha="center", va="center", color=colour, weight=weight, fontsize=8)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), [f"{each.name}  (n={each.support:,})" for each in test.classes])
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axes, shrink=0.7, label="share of the true class (numbers: %)")
    bar.outline.set_visible(False)
    return figure


def class_scores(test: TestReport) -> Figure:
    """F1 of every class as a bar, the best above; precision and recall as marks on it."""
    rows = sorted(test.classes, key=lambda each: each.f1)
    figure = Figure(figsize=(7, 0.32 * len(rows) + 1.1), layout="constrained")
    axes = figure.subplots()
    places = range(len(rows))
    axes.barh(places, [each.f1 for each in rows], color=BLUE, height=0.62, alpha=0.85)
    marks: dict[str, Any] = {"linestyle": "none", "markersize": 5, "color": INK, "clip_on": False}
    axes.plot([each.precision if each.predicted else math.nan for each in rows], places, "|", mew=1.6, **marks)
    axes.plot([each.recall for each in rows], places, "o", fillstyle="none", mew=1, **marks)
    for place, each in zip(places, rows, strict=True):
        words = score(each.f1) if each.predicted else "never predicted"
        axes.annotate(words, (1.01, place), xycoords=("axes fraction", "data"), va="center", fontsize=8)
    axes.axvline(sum(each.f1 for each in rows) / len(rows), color=GREY, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.set_yticks(places, [f"{each.name}  (n={each.support:,})" for each in rows])
    axes.set_xlim(0, 1)
    axes.set_title("bar F1   | precision   ○ recall   ┆ mean of F1", loc="left")
    axes.grid(axis="x", color="#EEEEEE")
    axes.set_axisbelow(True)
    return figure


def reliability(bins: Sequence[ReliabilityBin]) -> Figure:
    """Accuracy against confidence, bin by bin, and below how many tracks are in each; on the diagonal is calibrated."""
    figure = Figure(figsize=(4.6, 5.2), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=(0, (4, 3)))
    for each in bins:
        middle, width = (each.low + each.high) / 2, each.high - each.low
        lower.bar(middle, each.count, width=0.92 * width, color=FAINT)
        if each.count:
            upper.bar(middle, each.accuracy, width=0.92 * width, color=BLUE, alpha=0.85)
            upper.plot([each.confidence] * 2, [each.accuracy, each.confidence], color=VERMILION, linewidth=1.6)
            upper.plot(each.confidence, each.confidence, ".", color=VERMILION)
    total = sum(each.count for each in bins)
    gaps = [each.count * abs(each.accuracy - each.confidence) for each in bins if each.count]
    error = sum(gaps) / total if total else math.nan
    upper.set_title(f"expected calibration error {score(error)}   red: the gap", loc="left")
    upper.set_ylabel("accuracy")
    upper.set_xlim(0, 1)
    upper.set_ylim(0, 1)
    lower.set_xlabel("confidence: probability of the most likely class")
    lower.set_ylabel("tracks")
    lower.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    return figure


def scatter(
    names: Sequence[str], targets_NR: NDArray[np.float64], values_NR: NDArray[np.float64], metrics: Mapping[str, float]
) -> Figure:
    """Predictions against labels, a panel a target, in its own unit; on the diagonal is right."""
    num_rows = math.ceil(len(names) / PANELS)
    num_columns = min(PANELS, len(names))
    figure = Figure(figsize=(2.9 * num_columns + 0.4, 3.1 * num_rows), layout="constrained")
    panels = figure.subplots(num_rows, num_columns, squeeze=False).flatten()
    for axes in panels[len(names) :]:
        axes.set_visible(False)
    for axes, name, target_N, value_N in zip(panels, names, targets_NR.T, values_NR.T, strict=False):
        labelled = ~np.isnan(target_N)
        painted = labelled.sum() * len(names) > MOST_MARKS
        look: dict[str, Any] = {"color": BLUE, "markersize": 3, "alpha": 0.6, "mew": 0, "rasterized": bool(painted)}
        axes.plot(target_N[labelled], value_N[labelled], "o", **look)
        both = np.concatenate([target_N[labelled], value_N[labelled]])
        if len(both) and np.isfinite(both).all():
            ends = [float(both.min()), float(both.max())]
            axes.plot(ends, ends, color=GREY, linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
            axes.set_aspect("equal", adjustable="datalim")
        words = [f"{word} {score(metrics[key])}" for word, key in _scores_of(name) if key in metrics]
        axes.set_title(f"{name}   {', '.join(words)}", loc="left", fontsize=8)
        axes.set_xlabel("label")
        axes.set_ylabel("predicted")
    return figure


def _scores_of(name: str) -> tuple[tuple[str, str], ...]:
    return (("Spearman", f"{name}_spearman"), ("R²", f"{name}_r2"))
