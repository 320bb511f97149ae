"""`importance`: which keys set the best trials of a study apart, on final values and on those of an early rung."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fmasearch.cli.folders import Folders
from fmasearch.cli.json_text import json_text
from fmasearch.cli.recorded import read_recorded
from fmasearch.errors import StudyError
from fmasearch.records import Params, StudyRecord, TrialRecord, TrialState
from fmasearch.report.findings import rungs, space_of
from fmasearch.report.text import count
from fmasearch.searcher import Importance, importance
from fmasearch.searcher.importance import ENOUGH_TRIALS, FEWEST_TOP, LARGEST_SHARE
from fmasearch.space import Space

BAR = 20
"""Characters of the bar of the most important key."""


@dataclass(frozen=True, slots=True)
class Values:
    """What trials are judged by: a value for each of those that have one."""

    name: str
    words: str
    epoch: int | None
    points: tuple[tuple[Params, float], ...]


def importances(study: str, folders: Folders, *, as_json: bool) -> None:
    """Print both tables, or both as JSON.

    Raises:
        StudyError: if the space of the study cannot be read by this version, or no trial has trained an epoch.
    """
    record = read_recorded(study, folders).record
    space = space_of(record)
    if space is None:
        raise StudyError(f"{record.name}: its space {record.space_name} cannot be read by this version of fmasearch")
    if not any(trial.epochs for trial in record.trials):
        raise StudyError(f"{record.name}: no trial has finished an epoch yet")
    kinds = [final_values(record), rung_values(record)]
    found = [importance(space, values.points, record.objective) for values in kinds]
    if as_json:
        typer.echo(json_text(_as_json(record, list(zip(kinds, found, strict=True)))), nl=False)
        return
    console = Console()
    _say(console, f"[bold]{escape(record.name)}[/]: what sets the best trials apart by {record.objective.metric}")
    for values, result in zip(kinds, found, strict=True):
        _print(console, values, result, space)
    _say(
        console,
        "[dim]PED-ANOVA: a key's share grows with how much its values in the best trials differ from those in all. "
        "interval: 90 % bootstrap over trials. by chance: what the share exceeds in 1 of 20 shufflings of the values "
        "among the trials; * is above it, as 1 key in 20 would be that does not matter at all. A key with conditions "
        "is judged among the trials in which it was active.[/]",
    )


def final_values(record: StudyRecord) -> Values:
    """The best objective of every trial that completed."""
    completed = [trial for trial in record.trials if trial.state is TrialState.COMPLETED]
    points = [(t.start.params, t.best.best_objective) for t in completed if t.best is not None]
    return Values("final", f"final values: {count(len(points), 'trial')} completed", None, tuple(points))


def rung_values(record: StudyRecord) -> Values:
    """Every trial's best objective up to the first rung that most trials reached, stopped and failed ones included."""
    epoch = common_epoch(record)
    points = [(t.start.params, best) for t in record.trials if (best := _best_until(t, epoch)) is not None]
    words = f"up to epoch {epoch}: {len(points)} of {count(len(record.trials), 'trial')} got there"
    return Values("rung", words, epoch, tuple(points))


def common_epoch(record: StudyRecord) -> int:
    """The first rung if most trials reached it; else the last epoch that most of those that trained at all reached.

    Without rungs that is the search's grace period, which a search has even if its scheduler does not read it.
    """
    trained = sorted(len(trial.epochs) for trial in record.trials if trial.epochs)
    most_reached = trained[(len(trained) - 1) // 2]
    grace_period = record.search.get("scheduler", {}).get("grace_period", 1)
    return min([*rungs(record), int(grace_period)][0], most_reached)


def _best_until(trial: TrialRecord, epoch: int) -> float | None:
    return next((each.best_objective for each in trial.epochs if each.epoch == epoch), None)


def _print(console: Console, values: Values, result: Importance, space: Space) -> None:
    console.print()
    best = f"; the best {result.num_top} against all" if result.keys else ""
    _say(console, f"[bold]{values.words}[/]{best}")
    if not result.enough:
        _say(console, f"[yellow]{_too_few(result)}[/]")
    if not result.keys:
        return
    console.print(_table(result, space, narrow=console.width < 100))


def _table(result: Importance, space: Space, *, narrow: bool) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("key", no_wrap=True)
    for heading in ("share", "interval", "by chance", "trials"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    longest = max(each.share for each in result.keys) or 1.0
    for each in result.keys:
        when = "†" if each.key in space.conditions else ""
        mark = "*" if each.share > each.chance else " "
        table.add_row(
            f"{escape(each.key)}{when}",
            f"{each.share:.3f}{mark}",
            f"{each.low:.2f} – {each.high:.2f}",
            f"{each.chance:.2f}",
            str(each.num_trials),
            "█" * round((BAR // 2 if narrow else BAR) * each.share / longest),
        )
    if any(each.key in space.conditions for each in result.keys):
        table.caption, table.caption_justify = "† not active in every trial", "left"
    return table


def _too_few(result: Importance) -> str:
    """Why nothing, or little, can be concluded."""
    if not result.keys:
        return f"{count(result.num_trials, 'trial')}: too few to say anything"
    return (
        f"{count(result.num_trials, 'trial')}: too few to conclude from. The best {result.num_top} are compared; "
        f"{FEWEST_TOP} that are no more than the best {LARGEST_SHARE:.0%} take {ENOUGH_TRIALS} trials"
    )


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, soft_wrap=True)


def _as_json(record: StudyRecord, both: list[tuple[Values, Importance]]) -> dict[str, Any]:
    return {
        "study": record.name,
        "objective": {"metric": record.objective.metric, "mode": record.objective.mode},
        "importance": [
            {
                "values": values.name,
                "epoch": values.epoch,
                "num_trials": result.num_trials,
                "num_best": result.num_top,
                "enough_trials": result.enough,
                "keys": [asdict(each) for each in result.keys],
            }
            for values, result in both
        ],
    }
