"""What the live view says of trials: first as rows, which `status --json` prints, then as tables."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from rich.table import Table
from rich.text import Text

from fmasearch.records import EpochResult, Objective, TrialStart, TrialState

MOST_ROWS = 12
"""Of a table; a view that scrolls away shows nothing."""


@dataclass
class SeenTrial:
    """One trial as the view knows it."""

    start: TrialStart
    epochs: list[EpochResult] = field(default_factory=list)
    state: TrialState = TrialState.RUNNING

    @property
    def best(self) -> float:
        return self.epochs[-1].best_objective if self.epochs else float("nan")

    @property
    def node(self) -> str:
        """Where its last epoch was trained; empty before the first, and on a single machine."""
        return self.epochs[-1].node if self.epochs else ""


@dataclass(frozen=True, slots=True)
class RungRow:
    """What trials had reached at an epoch at which they are compared; None if none got there."""

    epoch: int
    reached: int
    best: float | None
    median: float | None


def best_of(trials: Iterable[SeenTrial], objective: Objective) -> SeenTrial | None:
    """The best trial that did not fail; the first of equals."""
    best: SeenTrial | None = None
    for trial in trials:
        if not trial.epochs or trial.state is TrialState.FAILED:
            continue
        if best is None or objective.better(trial.best, best.best):
            best = trial
    return best


def rung_rows(trials: Sequence[SeenTrial], rungs: Sequence[int], objective: Objective) -> list[RungRow]:
    """One row for each rung."""
    extreme = max if objective.mode == "max" else min
    rows = []
    for rung in rungs:
        values = [e.best_objective for trial in trials for e in trial.epochs if e.epoch == rung]
        best, median = (extreme(values), statistics.median(values)) if values else (None, None)
        rows.append(RungRow(rung, len(values), best, median))
    return rows


def rung_table(rows: Sequence[RungRow]) -> Table:
    """Rungs by their epoch."""
    table = small_table("rung (epoch)>", "reached>", "best>", "median>")
    for row in rows:
        table.add_row(str(row.epoch), str(row.reached), _score(row.best), _score(row.median))
    return table


def running_table(trials: Sequence[SeenTrial], title: str) -> Table:
    """Trials that have not ended, with their node where there are several."""
    with_nodes = any(trial.node for trial in trials)
    table = small_table(title, "epoch>", "best>", "s/epoch>", *(["node"] if with_nodes else []))
    for trial in trials[:MOST_ROWS]:
        cells = ["0", "–", "–"]
        if trial.epochs:
            last = trial.epochs[-1]
            cells = [str(last.epoch), _score(last.best_objective), f"{last.epoch_seconds:.1f}"]
        table.add_row(trial.start.name, *cells, *([trial.node or "–"] if with_nodes else []))
    return cut_short(table, len(trials))


def small_table(*headings: str) -> Table:
    """Without lines; columns by their headings; those of numbers end with `>`."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in headings:
        table.add_column(heading.removesuffix(">"), justify="right" if heading.endswith(">") else "left", no_wrap=True)
    return table


def cut_short(table: Table, num_rows: int) -> Table:
    """The table, with how many of `num_rows` rows it leaves out."""
    if num_rows > MOST_ROWS:
        table.add_row(f"and {num_rows - MOST_ROWS} more", style="dim")
    return table


def fill_lines(parts: Sequence[Text], width: int) -> Text:
    """Parts beside each other, as many as fit into a line: none is broken."""
    lines: list[Text] = []
    for part in parts:
        if lines and lines[-1].cell_len + 2 + part.cell_len <= width:
            lines[-1].append("  ").append_text(part)
        else:
            lines.append(Text("  " if lines else "").append_text(part))
    return Text("\n").join(lines)


def _score(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
