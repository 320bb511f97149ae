"""`status`: what a study is doing, read from its folder; and what can be done about it next."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from fmasearch.cli.environment import program
from fmasearch.cli.folders import Folders
from fmasearch.cli.live import LiveView, duration, rung_epochs
from fmasearch.cli.live_tables import SeenTrial
from fmasearch.errors import StudyError, UserError
from fmasearch.records import TrialState
from fmasearch.searcher import num_trials
from fmasearch.study.progress import Activity, Progress, Stage, read_progress
from fmasearch.tracking import JournalReader

STYLES = {
    Activity.RUNNING: "cyan",
    Activity.INTERRUPTED: "yellow",
    Activity.GONE: "red",
    Activity.FINISHED: "green",
}


def status(name: str | None, folders: Folders, *, as_json: bool) -> None:
    """Print what a study is doing, or a table of all studies."""
    console = Console()
    if name is None:
        _list(folders, console, as_json=as_json)
        return
    progress = read_study(name, folders)
    if as_json:
        typer.echo(json.dumps(_as_json(progress, folders), indent=1))
        return
    console.print(headline(progress))
    for view in _views(progress, console):
        console.print(view.render())
    print_next(progress, folders, console)


def read_study(name: str, folders: Folders) -> Progress:
    """A study by its name, or by the path of its folder.

    Raises:
        StudyError: if there is no such study, naming those that there are.
    """
    return read_progress(folders.runs / Path(name).name)


def headline(progress: Progress) -> Text:
    """Name, stage, who runs it where, and since when nothing was heard."""
    text = Text.assemble(
        (progress.plan.name, "bold"), "  ", (_words(progress), STYLES[progress.activity]), overflow="fold"
    )
    if progress.driver is not None:
        gone = progress.activity is not Activity.RUNNING
        text.append(f"  {'was ' if gone else ''}process {progress.driver.pid} on {progress.driver.host}", "dim")
    return text.append(f"  last event {_age(progress.quiet_seconds)} ago", "dim")


def search_view(progress: Progress, console: Console) -> LiveView:
    """The view of the search that its driver shows, still without any trial; see `JournalReader`."""
    plan, here = progress.plan, progress.stage is Stage.SEARCH
    return LiveView(
        console,
        f"search {plan.space.name}",
        progress.objective,
        total=num_trials(plan.search, plan.space),
        rungs=rung_epochs(plan.search) if here else (),
        elapsed=progress.stage_seconds if here else None,
        unfinished=_unfinished(progress, Stage.SEARCH),
    )


def confirm_view(progress: Progress, console: Console) -> LiveView:
    """The same of the confirmation."""
    return LiveView(
        console,
        "confirm over seeds",
        progress.objective,
        total=progress.num_confirmations,
        elapsed=progress.stage_seconds if progress.stage is Stage.CONFIRM else None,
        unfinished=_unfinished(progress, Stage.CONFIRM),
    )


def print_next(progress: Progress, folders: Folders, console: Console) -> None:
    """What was found, if it was, and what to do next."""
    if progress.final is not None:
        test = progress.final.test
        name = test.headline(progress.objective)
        line = f"test {name} {test.metrics[name]:.3f} of {progress.final.trial}, on {test.num_tracks} tracks"
        console.print(line, highlight=False)
    for words, what in _next(progress, folders):
        console.print(f"{words}: [bold]{escape(what)}[/]", highlight=False, soft_wrap=True)


def resume_command(progress: Progress, folders: Folders) -> str:
    """How to go on with a study, tracked where it was started to be tracked."""
    words = shlex.split(progress.plan.command)
    uri = words[words.index("--mlflow") + 1] if "--mlflow" in words[:-1] else None
    mlflow = f" --mlflow {shlex.quote(uri)}" if uri else ""
    return f"{program()} tune --resume {progress.plan.name}{folders.runs_option}{mlflow}{folders.results_option}"


def _views(progress: Progress, console: Console) -> Iterator[LiveView]:
    search = search_view(progress, console)
    JournalReader(progress.folder.journal).tell(search)
    yield search
    if progress.stage is not Stage.SEARCH:
        confirm = confirm_view(progress, console)
        JournalReader(progress.folder.confirm_journal).tell(confirm)
        yield confirm


def _unfinished(progress: Progress, stage: Stage) -> str:
    stands_still = progress.stage is stage and progress.activity is not Activity.RUNNING
    return "cut off" if stands_still else "running"


def _words(progress: Progress) -> str:
    """`search`, `interrupted in its search`, `finished`."""
    if progress.activity is Activity.FINISHED:
        return str(progress.activity)
    if progress.activity is Activity.RUNNING:
        return str(progress.stage)
    return f"{progress.activity}, its {progress.stage} is unfinished"


def _next(progress: Progress, folders: Folders) -> Iterator[tuple[str, str]]:
    name, record = progress.plan.name, folders.results / progress.plan.name
    if progress.activity is Activity.RUNNING:
        yield "watch it", f"{program()} watch {name}{folders.runs_option}"
        yield "stop it", f"{program()} stop {name}{folders.runs_option}"
    elif record.exists():
        yield "its record is in", str(record)
    else:
        yield "go on with it", resume_command(progress, folders)


def _as_json(progress: Progress, folders: Folders) -> dict[str, Any]:
    console = Console()
    views = list(_views(progress, console))
    return {
        "study": progress.plan.name,
        "activity": str(progress.activity),
        "stage": str(progress.stage),
        "driver": asdict(progress.driver) if progress.driver else None,
        "last_event_seconds": round(progress.quiet_seconds, 1),
        "objective": asdict(progress.objective),
        "search": _view_as_json(views[0]),
        "confirm": _view_as_json(views[1]) if len(views) > 1 else None,
        "test": dict(progress.final.test.metrics) if progress.final else None,
        "next": [command for _, command in _next(progress, folders)],
    }


def _view_as_json(view: LiveView) -> dict[str, Any]:
    counts = {str(state): sum(trial.state is state for trial in view.trials) for state in TrialState}
    unfinished = [trial for trial in view.trials if trial.state is TrialState.RUNNING]
    return {
        "trials": {"total": view.total, "ended": view.num_ended, **counts},
        "best": _trial_as_json(view.best) if view.best else None,
        "rungs": [asdict(row) for row in view.rung_rows()],
        "running": [_trial_as_json(trial) for trial in unfinished],
        "nodes": [{"node": row.node, "running": row.running, "epochs": row.epochs} for row in view.node_rows()],
    }


def _trial_as_json(trial: SeenTrial) -> dict[str, Any]:
    last = trial.epochs[-1] if trial.epochs else None
    return {
        "trial": trial.start.name,
        "params": dict(trial.start.params),
        "epoch": last.epoch if last else 0,
        "best": last.best_objective if last else None,
        "epoch_seconds": last.epoch_seconds if last else None,
        "node": trial.node or None,
    }


def _list(folders: Folders, console: Console, *, as_json: bool) -> None:
    """Every study in `runs`, the one with the youngest event first."""
    read = [_read_or_say_why(file.parent) for file in folders.runs.glob("*/study.yaml")]
    known = sorted((one for one in read if isinstance(one, Progress)), key=lambda progress: progress.quiet_seconds)
    if as_json:
        typer.echo(json.dumps([_row_as_json(progress) for progress in known], indent=1))
        return
    if not read:
        raise StudyError(f"{folders.runs}: there is no study here; start one with `fmasearch tune`, or name its --runs")
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading, justify in (("study", "left"), ("", "left"), ("trials", "right"), ("best", "right"), ("age", "right")):
        table.add_column(heading, justify="right" if justify == "right" else "left", overflow="fold")
    for progress in known:
        row = _row_as_json(progress)
        best = "–" if row["best"] is None else f"{row['best']:.4f}"
        words = Text(_short_words(progress), STYLES[progress.activity])
        trials = f"{row['ended']}/{row['total']}"
        table.add_row(row["study"], words, trials, best, _age(progress.quiet_seconds))
    console.print(table)
    for error in read:
        if isinstance(error, UserError):
            console.print(f"[red]unreadable[/]: {escape(str(error))}", highlight=False, soft_wrap=True)


def _read_or_say_why(root: Path) -> Progress | UserError:
    try:
        return read_progress(root)
    except UserError as error:
        return error


def _row_as_json(progress: Progress) -> dict[str, Any]:
    finished = progress.search.finished
    best = [t.best.objective for t in finished if t.best and t.state is not TrialState.FAILED]
    extreme = max if progress.objective.mode == "max" else min
    return {
        "study": progress.plan.name,
        "activity": str(progress.activity),
        "stage": str(progress.stage),
        "ended": len(finished),
        "total": num_trials(progress.plan.search, progress.plan.space),
        "best": extreme(best) if best else None,
        "last_event_seconds": round(progress.quiet_seconds, 1),
    }


def _short_words(progress: Progress) -> str:
    if progress.activity in (Activity.RUNNING, Activity.FINISHED):
        return _words(progress)
    return f"{'gone' if progress.activity is Activity.GONE else progress.activity} ({progress.stage})"


def _age(seconds: float) -> str:
    return duration(seconds) if seconds < 48 * 3600 else f"{seconds / 86400:.0f} days"
