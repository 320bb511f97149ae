"""The pictures of a study: learning curves, confusion matrix, objective against every sampled parameter.

Figures are built without pyplot, so nothing global is left behind. Colours are Okabe and Ito's, which colour-
blind readers tell apart; what matters is also told by width, shape or words.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from fmasearch.records import Scalar, StudyRecord, TestReport, TrialRecord, TrialState
from fmasearch.report.findings import rungs, varied, winner
from fmasearch.report.text import score, value
from fmasearch.space import Choice, Distribution

BLUE, SKY, VERMILION, GREY, FAINT, INK = "#0072B2", "#56B4E9", "#D55E00", "#8C8C8C", "#CCCCCC", "#333333"
MOST_MARKS = 1500  # more points or lines than this are painted into the SVG, which would pass 200 kB
PNG_DPI = 120  # 960 pixels, the width of a README
MOST_SIDE_BY_SIDE = 7  # values of a whole number that get a column each, as words do
COLUMNS = 4  # panels beside each other in the parameters' picture
STYLE: dict[Any, Any] = {
    # DejaVu Sans comes with matplotlib. An SVG names its font instead of drawing each letter, which makes it
    # small; whoever lacks DejaVu sees Verdana, which is as wide.
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial", "sans-serif"],
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.edgecolor": "#BBBBBB",
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "svg.hashsalt": "fmasearch",  # names inside an SVG are random otherwise
}


def save(draw: Callable[[], Figure], folder: Path, name: str) -> list[Path]:
    """Draw, and write `name`.svg and `name`.png; an equal study gives equal files."""
    svg, png = folder / f"{name}.svg", folder / f"{name}.png"
    with matplotlib.rc_context(STYLE):
        figure = draw()
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # laid out once; it is most of the time that a picture takes
        figure.savefig(svg, dpi=PNG_DPI, metadata={"Date": None, "Creator": None})
        figure.savefig(png, dpi=PNG_DPI, metadata={"Software": None})
    svg.write_text(_slim(svg.read_text(encoding="utf-8")), encoding="utf-8")
    return [svg, png]


def learning_curves(record: StudyRecord) -> Figure:
    """The objective of every trial by epoch: pruned faint, completed coloured, the winner bold."""
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    chosen = next((trial for trial in record.trials if trial.name == winner(record)), None)
    for trial in record.trials:
        if trial is not chosen:
            _draw_curve(axes, trial, painted=10 * len(record.trials) > MOST_MARKS)
    if chosen is not None:
        _draw_winner(axes, chosen)
    for rung in rungs(record):
        axes.axvline(rung, color=GREY, linewidth=0.8, linestyle=(0, (1, 3)), zorder=0)
        place: dict[str, Any] = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
        axes.annotate(f"rung {rung}", (rung, 0), xytext=(3, 3), color=GREY, fontsize=8, **place)
    axes.set_xlabel("epoch")
    axes.set_ylabel(record.objective.metric)
    axes.set_xlim(left=0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(axis="y", color="#EEEEEE", zorder=0)
    axes.set_axisbelow(True)
    _name_the_kinds(axes, record, chosen)
    return figure


def confusion_matrix(test: TestReport) -> Figure:
    """Rows are true classes, shaded by the share of the row; the numbers are tracks."""
    names = [each.name for each in test.classes]
    shares = [[cell / max(sum(row), 1) for cell in row] for row in test.confusion]
    side = max(1.5, 0.5 * len(names))
    figure = Figure(figsize=(side + 3.2, side + 1.3), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for i, row in enumerate(test.confusion):
        for j, tracks in enumerate(row):
            if tracks:
                colour = "white" if shares[i][j] > 0.55 else INK
                weight = "bold" if i == j else "normal"
                axes.text(j, i, f"{tracks:,}", ha="center", va="center", color=colour, weight=weight, fontsize=8)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), [f"{each.name}  (n={each.support:,})" for each in test.classes])
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axes, shrink=0.7, label="share of the true class")
    bar.outline.set_visible(False)
    return figure


def parameters(record: StudyRecord, distributions: Mapping[str, Distribution]) -> Figure:
    """Best objective of every trial against each sampled key that varied, one small panel a key."""
    keys = varied(record, distributions)
    num_rows = math.ceil(len(keys) / COLUMNS)
    figure = Figure(figsize=(8.4, 1.75 * num_rows + 0.35), layout="constrained")
    grid = figure.subplots(num_rows, COLUMNS, sharey=True, squeeze=False)
    panels = [axes for row in grid for axes in row]
    for axes, key in zip(panels, keys, strict=False):
        painted = len(keys) * len(record.trials) > MOST_MARKS
        _draw_panel(axes, record, key, distributions.get(key), painted=painted)
    for axes in panels[len(keys) :]:
        axes.set_visible(False)
    for row in grid:
        row[0].set_ylabel(record.objective.metric, fontsize=8)
    figure.suptitle("best objective of each trial   ● completed   ○ pruned (fewer epochs)   ◆ winner", fontsize=9)
    return figure


def _slim(svg: str) -> str:
    """Coordinates to hundredths of a point and no indentation: a third less, and no visible difference."""
    return re.sub(r"^ +", "", re.sub(r"(\d\.\d\d)\d+", r"\1", svg), flags=re.MULTILINE)


def _draw_curve(axes: Axes, trial: TrialRecord, *, painted: bool) -> None:
    epochs = [result.epoch for result in trial.epochs]
    objectives = [result.objective for result in trial.epochs]
    if trial.state is TrialState.COMPLETED:
        axes.plot(epochs, objectives, color=SKY, linewidth=1.1, alpha=0.9, zorder=2, rasterized=painted)
        return
    axes.plot(epochs, objectives, color=FAINT, linewidth=0.8, zorder=1, rasterized=painted)
    # A dot keeps trials of one epoch visible; a cross is an end that nobody chose.
    failed = trial.state is TrialState.FAILED
    mark, size = ("x", 5) if failed else (".", 3)
    axes.plot(epochs[-1:], objectives[-1:], mark, color=GREY, markersize=size, rasterized=painted)


def _draw_winner(axes: Axes, trial: TrialRecord) -> None:
    axes.plot(
        [result.epoch for result in trial.epochs],
        [result.objective for result in trial.epochs],
        color=VERMILION,
        linewidth=2.4,
        zorder=3,
    )
    if trial.best is not None:
        best = (trial.best.epoch, trial.best.objective)
        axes.plot(*best, "o", color=VERMILION, markersize=7, markeredgecolor="white", zorder=4)
        axes.annotate(
            score(trial.best.objective),
            best,
            xytext=(0, 7),
            textcoords="offset points",
            ha="center",
            color=VERMILION,
            weight="bold",
        )


def _name_the_kinds(axes: Axes, record: StudyRecord, chosen: TrialRecord | None) -> None:
    """A line of coloured words above the plot: a legend that needs no looking up."""
    completed, pruned, failed = (
        sum(trial.state is state and trial is not chosen for trial in record.trials)
        for state in (TrialState.COMPLETED, TrialState.PRUNED, TrialState.FAILED)
    )
    words = [(f"━ {chosen.name}, the winner", VERMILION)] if chosen else []
    words += [(f"━ {completed} {'others ' if chosen else ''}completed", BLUE)] if completed else []
    words += [(f"━ {pruned} pruned", GREY)] if pruned else []
    words += [(f"× {failed} failed", GREY)] if failed else []
    before: Any = None
    for word, colour in words:
        where = {"xy": (0, 1.03), "xycoords": "axes fraction"} if before is None else {"xycoords": before}
        place: dict[str, Any] = {"xy": (1, 0), "xytext": (0 if before is None else 14, 0), **where}
        before = axes.annotate(word, **place, textcoords="offset points", color=colour, va="bottom")


def _draw_panel(axes: Axes, record: StudyRecord, key: str, distribution: Distribution | None, *, painted: bool) -> None:
    shown = [trial for trial in record.ranked() if key in trial.start.params]
    place = _scale(axes, [trial.start.params[key] for trial in shown], distribution)
    chosen = winner(record)
    completed = [t for t in shown if t.state is TrialState.COMPLETED and t.name != chosen]
    pruned = [t for t in shown if t.state is not TrialState.COMPLETED and t.name != chosen]
    looks: list[tuple[list[TrialRecord], dict[str, Any]]] = [
        (pruned, {"marker": "o", "color": GREY, "markersize": 3.5, "fillstyle": "none", "mew": 0.7}),
        (completed, {"marker": "o", "color": BLUE, "markersize": 4, "alpha": 0.8, "mew": 0}),
        ([t for t in shown if t.name == chosen], {"marker": "D", "color": VERMILION, "mec": "white"}),
    ]
    for trials, look in looks:
        across = [place(trial.start.params[key], trial.start.number) for trial in trials]
        up = [trial.best.objective for trial in trials if trial.best is not None]
        axes.plot(across, up, linestyle="none", rasterized=painted, **look)
    axes.set_title(key, fontsize=8, loc="left")
    axes.tick_params(labelsize=7)
    axes.grid(axis="y", color="#EEEEEE")
    axes.set_axisbelow(True)


def _scale(axes: Axes, values: list[Scalar], distribution: Distribution | None) -> Callable[[Scalar, int], float]:
    """Set up the horizontal axis; returns where a value of a trial number lies on it."""
    if (listed := _few(values, distribution)) is None:
        if getattr(distribution, "log", False):
            axes.set_xscale("log")
            axes.xaxis.set_minor_locator(NullLocator())
        else:
            axes.xaxis.set_major_locator(MaxNLocator(4))
        return lambda v, number: float(v)  # type: ignore[arg-type]
    names = [value(each) for each in listed]
    axes.set_xticks(range(len(names)), names)
    axes.set_xlim(-0.6, len(names) - 0.4)
    # Spread equal values by the golden ratio of the trial's number: even, and the same every time.
    return lambda v, number: names.index(value(v)) + 0.5 * ((number * 0.618034) % 1 - 0.5)


def _few(values: list[Scalar], distribution: Distribution | None) -> tuple[Scalar, ...] | None:
    """The values side by side, if there are few of them or they are words; None for a scale of numbers."""
    points = distribution.points() if distribution else None
    if points is not None and (isinstance(distribution, Choice) or len(points) <= MOST_SIDE_BY_SIDE):
        return points
    numbers = all(isinstance(each, int | float) and not isinstance(each, bool) for each in values)
    return None if numbers else tuple(dict.fromkeys(values))
