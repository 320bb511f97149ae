"""`show`: the trials of a study as a table, JSON or CSV, the best first."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fmasearch.cli.folders import Folders
from fmasearch.cli.json_text import json_text
from fmasearch.cli.recorded import Recorded, read_recorded
from fmasearch.config import did_you_mean
from fmasearch.errors import StudyError, UserError
from fmasearch.records import Objective, Scalar, StudyRecord, TrialRecord, TrialState
from fmasearch.report.findings import space_of, varied
from fmasearch.report.text import value

GAP = 2
"""Spaces between two columns of the table."""
MOST_REASONS = 5
"""Failed trials whose reasons the table is followed by."""


@dataclass(frozen=True, slots=True)
class ShowOptions:
    """Which trials, in which order, and how."""

    sort: str | None = None
    reverse: bool = False
    top: int | None = None
    state: str | None = None
    only_changed: bool = False
    as_json: bool = False
    as_csv: bool = False


Cell: TypeAlias = Callable[[TrialRecord], Scalar]


def show(study: str, folders: Folders, options: ShowOptions) -> None:
    """Print trials; with `--json` or `--csv` nothing else, and every number as it was recorded."""
    if options.as_json and options.as_csv:
        raise UserError("--json and --csv: expected one of them, got both")
    recorded = read_recorded(study, folders)
    columns = columns_of(recorded.record)
    key = _sort_key(options.sort, columns, recorded.record.objective)
    trials = chosen_trials(recorded, columns[key], options, by_objective=key == recorded.record.objective.metric)
    shown = replace(recorded.record, trials=tuple(trials))
    params = [path for path in _params(shown) if not options.only_changed or path in varied(shown)]
    if options.as_json:
        typer.echo(json_text(_as_json(shown, params)), nl=False)
    elif options.as_csv:
        typer.echo(_as_csv(shown, columns, params), nl=False)
    else:
        _print(Console(), recorded, shown, params, key)


def columns_of(record: StudyRecord) -> dict[str, Cell]:
    """What is known of a trial by name: the trial's own facts, the metrics of its best epoch, its parameters."""
    facts: dict[str, Cell] = {
        "trial": lambda trial: trial.name,
        "label": lambda trial: trial.start.label,
        "state": lambda trial: str(trial.state),
        record.objective.metric: lambda trial: trial.best.best_objective if trial.best else None,
        "best_epoch": lambda trial: trial.best.epoch if trial.best else None,
        "epochs": lambda trial: len(trial.epochs),
        "seconds": lambda trial: trial.seconds,
        "seed": lambda trial: trial.start.seed,
        "error": lambda trial: trial.error,
    }
    metrics = dict.fromkeys(name for trial in record.trials if trial.best for name in trial.best.metrics)
    rest = {name: _metric(name) for name in metrics if name not in facts}
    return {**facts, **rest, **{path: _param(path) for path in _params(record)}}


def chosen_trials(
    recorded: Recorded, cell: Cell, options: ShowOptions, *, by_objective: bool = True
) -> list[TrialRecord]:
    """The trials asked for, in order; those without a value last.

    Raises:
        StudyError: if none is left.
    """
    trials = [t for t in recorded.record.trials if options.state is None or t.state == options.state]
    if not trials:
        of_state = f" {options.state}" if options.state else ""
        raise StudyError(f"{recorded.folder}: has no{of_state} trials")
    highest_first = (by_objective and recorded.record.objective.mode == "max") != options.reverse
    measured = [trial for trial in trials if not _is_absent(cell(trial))]
    measured.sort(key=lambda trial: _order(cell(trial)), reverse=highest_first)
    if by_objective:  # a trial that diverged is not the best, whatever it reached before
        measured.sort(key=lambda trial: trial.state is TrialState.FAILED)
    return [*measured, *(trial for trial in trials if _is_absent(cell(trial)))][: options.top]


def _sort_key(asked: str | None, columns: Mapping[str, Cell], objective: Objective) -> str:
    """The column that `asked` names, in full or by the last part of its path."""
    if asked is None or asked == "objective":
        return objective.metric
    if asked in columns:
        return asked
    by_last_part = [name for name in columns if name.rpartition("/")[2] == asked]
    if len(by_last_part) == 1:
        return by_last_part[0]
    if by_last_part:
        raise UserError(f"--sort {asked}: which one? {', '.join(by_last_part)}")
    known = [*columns] if "/" in asked else list(_short_names(list(columns)).values())
    raise UserError(f"--sort {asked}: no such column{did_you_mean(asked, known)}")


def _metric(name: str) -> Cell:
    return lambda trial: trial.best.metrics.get(name) if trial.best else None


def _param(path: str) -> Cell:
    return lambda trial: trial.start.params.get(path)


def _params(record: StudyRecord) -> list[str]:
    """Every sampled key that was active in some trial, in the order of the space."""
    space = space_of(record)
    active = dict.fromkeys(path for trial in record.trials for path in trial.start.params)
    in_order = [path for path in space.distributions if path in active] if space else []
    return list(dict.fromkeys([*in_order, *active]))


def _is_absent(cell: Scalar) -> bool:
    return cell is None or (isinstance(cell, float) and math.isnan(cell))


def _order(cell: Scalar) -> tuple[bool, float, str]:
    """Numbers by size, then words by the alphabet: a choice may hold both."""
    return (True, 0.0, cell) if isinstance(cell, str) else (False, float(cell or 0), "")


def _as_json(record: StudyRecord, params: Sequence[str]) -> dict[str, Any]:
    return {
        "study": record.name,
        "objective": {"metric": record.objective.metric, "mode": record.objective.mode},
        "trials": [_trial_as_json(trial, params) for trial in record.trials],
    }


def _trial_as_json(trial: TrialRecord, params: Sequence[str]) -> dict[str, Any]:
    best = trial.best
    return {
        "trial": trial.name,
        "label": trial.start.label,
        "state": str(trial.state),
        "objective": best.best_objective if best else None,
        "best_epoch": best.epoch if best else None,
        "epochs": len(trial.epochs),
        "seconds": trial.seconds,
        "seed": trial.start.seed,
        "error": trial.error,
        "metrics": dict(best.metrics) if best else {},
        "params": {path: trial.start.params[path] for path in params if path in trial.start.params},
    }


def _as_csv(record: StudyRecord, columns: Mapping[str, Cell], params: Sequence[str]) -> str:
    """A line a trial. A key that did not apply is empty, one that was null says so."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    facts = [name for name in columns if "/" not in name]
    writer.writerow([*facts, *params])
    for trial in record.trials:
        given = trial.start.params
        values = ["" if path not in given else "null" if given[path] is None else given[path] for path in params]
        writer.writerow(
            [*("" if _is_absent(columns[name](trial)) else columns[name](trial) for name in facts), *values]
        )
    return text.getvalue()


@dataclass(frozen=True, slots=True)
class _Shown:
    """A column of the table, its heading broken into lines as narrow as its cells allow."""

    heading: str
    cells: tuple[str, ...]
    right: bool = True

    @property
    def width(self) -> int:
        return max(len(text) for text in (*self.heading.split("\n"), *self.cells))


def _print(console: Console, recorded: Recorded, shown: StudyRecord, params: Sequence[str], key: str) -> None:
    console.print(_title(recorded, shown, key), highlight=False, soft_wrap=True)
    names = _short_names(_params(recorded.record))
    first = _fact_columns(recorded, shown, key)
    of_params = {path: _param_column(names[path], path, shown.trials) for path in params}
    fitting = _fitting(of_params, key, console.width - sum(column.width + GAP for column in first) + GAP)
    columns = [*first, *(of_params[path] for path in params if path in fitting)]
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), collapse_padding=True, header_style="dim")
    for column in columns:
        table.add_column(column.heading, justify="right" if column.right else "left", no_wrap=True, vertical="bottom")
    for cells in zip(*(column.cells for column in columns), strict=True):
        table.add_row(*(escape(cell) for cell in cells))
    console.print(table)
    for line in (*_left_out([names[p] for p in params if p not in fitting]), *_reasons(shown.trials)):
        console.print(line, style="dim", highlight=False, soft_wrap=True, markup=False)


def _fitting(columns: Mapping[str, _Shown], key: str, width: int) -> set[str]:
    """The parameters that fit beside each other: first what is sorted by, then what tells most trials apart."""
    fitting: set[str] = set()
    for path in sorted(columns, key=lambda path: (path != key, -len(set(columns[path].cells)))):
        if (needed := columns[path].width + GAP) <= width:
            fitting.add(path)
            width -= needed
    return fitting


def _title(recorded: Recorded, shown: StudyRecord, key: str) -> str:
    record = recorded.record
    counts = ", ".join(f"{record.count(state)} {state}" for state in TrialState if record.count(state))
    words = f"[bold]{escape(record.name)}[/]  {recorded.activity}: {len(record.trials)} trials ({counts})"
    some = f"; {len(shown.trials)} of them" if len(shown.trials) < len(record.trials) else ""
    return f"{words}{some}, sorted by {escape(key)}"


def _fact_columns(recorded: Recorded, shown: StudyRecord, key: str) -> list[_Shown]:
    """The columns that are always there, and the one that is sorted by."""
    trials, metric = shown.trials, shown.objective.metric
    names = [f"{t.name} ({t.start.label})" if t.start.label else t.name for t in trials]
    states = [_state(trial, recorded) for trial in trials]
    epochs = [f"{t.best.epoch}/{len(t.epochs)}" if t.best else "–" for t in trials]
    columns = [
        _column("trial", names, right=False),
        _column("state", states, right=False),
        _column(metric, [_score(trial.best.best_objective if trial.best else None) for trial in trials]),
        _column("best/ epochs", epochs),
    ]
    known = columns_of(shown)
    if key not in ("trial", "state", metric, "best_epoch", "epochs") and "/" not in key:
        columns.append(_column(key, [_fact(known[key](trial)) for trial in trials]))
    return columns


def _state(trial: TrialRecord, recorded: Recorded) -> str:
    stands_still = trial.state is TrialState.RUNNING and recorded.activity != "running"
    return "cut off" if stands_still else str(trial.state)


def _param_column(heading: str, path: str, trials: Sequence[TrialRecord]) -> _Shown:
    """A key's values to three digits, as the report has them; empty where the key did not apply."""
    given = [trial.start.params for trial in trials]
    numbers = all(isinstance(params.get(path), int | float | None) for params in given)
    return _column(heading, [value(params[path]) if path in params else "" for params in given], right=numbers)


def _column(heading: str, cells: Sequence[str], *, right: bool = True) -> _Shown:
    """Break the heading after `_`, `/` and spaces wherever its cells are narrower."""
    parts = heading.replace("_", "_\0").replace("/", "/\0").replace(" ", "\0").split("\0")
    width = max([len(part) for part in parts] + [len(cell) for cell in cells])
    lines = [""]
    for part in parts:
        if lines[-1] and len(lines[-1]) + len(part) > width:
            lines.append("")
        lines[-1] += part
    return _Shown("\n".join(lines), tuple(cells), right)


def _short_names(paths: Sequence[str]) -> dict[str, str]:
    """The last part of each path, or the whole path where another one ends alike."""
    last = [path.rpartition("/")[2] for path in paths]
    return {path: part if last.count(part) == 1 else path for path, part in zip(paths, last, strict=True)}


def _fact(cell: Scalar) -> str:
    if _is_absent(cell):
        return "–"
    return f"{cell:.4f}" if isinstance(cell, float) else str(cell)


def _score(best: float | None) -> str:
    return "–" if best is None or math.isnan(best) else f"{best:.4f}"


def _left_out(names: Sequence[str]) -> list[str]:
    return [f"not shown, for want of width: {', '.join(names)}; --csv and --json have every column"] if names else []


def _reasons(trials: Sequence[TrialRecord]) -> list[str]:
    failed = [trial for trial in trials if trial.error]
    lines = [f"{trial.name}: {' '.join((trial.error or '').split())}" for trial in failed[:MOST_REASONS]]
    return lines + [f"and {len(failed) - MOST_REASONS} more that failed"] * (len(failed) > MOST_REASONS)
