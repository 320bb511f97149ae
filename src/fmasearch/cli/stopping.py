"""`stop`: a study as Ctrl-C would stop it, or some of its trials, asked of the process that runs it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import typer
from rich.console import Console
from rich.markup import escape

from fmasearch.cli.folders import Folders
from fmasearch.cli.live import duration
from fmasearch.cli.study_status import read_study, resume_command
from fmasearch.errors import StudyError
from fmasearch.records import TrialRecord
from fmasearch.study.progress import Activity, Progress, Stage, is_running
from fmasearch.study.stopping import open_requests, request_stop, withdraw_requests
from fmasearch.tracking import Journal, read_journal

POLL_SECONDS = 0.25


def stop(name: str, trials: Sequence[str], folders: Folders, *, wait: float) -> None:
    """Ask a study's driver to stop it, or some of its trials, and say what came of it within `wait` seconds.

    Raises:
        StudyError: if nobody would read the request, or there is nothing left to stop.
    """
    console = Console()
    progress, trials = read_study(name, folders), tuple(dict.fromkeys(trials))
    _check_study(progress, folders)
    for trial in trials:
        _check_trial(progress, trial)
    deadline = time.monotonic() + wait
    request_stop(progress.folder, trials)
    _wait(lambda: not open_requests(progress.folder), progress, deadline)
    if open_requests(progress.folder):
        _say_not_read(progress, folders, console, wait)
    elif trials:
        _say_trials(progress, trials, console, deadline)
    else:
        _say_study(name, folders, console, deadline)


def _check_study(progress: Progress, folders: Folders) -> None:
    name = progress.plan.name
    if progress.activity is Activity.FINISHED:
        raise StudyError(f"{name}: is finished; there is nothing to stop")
    if progress.activity is not Activity.RUNNING:
        raise StudyError(
            f"{name}: nobody runs it, so nobody would read a request to stop; go on with it: "
            f"{resume_command(progress, folders)}"
        )
    if progress.stage is Stage.RECORD:
        raise StudyError(f"{name}: was tested and writes its record; there is nothing left to stop")


def _check_trial(progress: Progress, trial: str) -> None:
    name, known = progress.plan.name, progress.search.trials
    if progress.stage is not Stage.SEARCH:
        raise StudyError(
            f"{name}: single trials can be stopped in the search only, and it has ended: what runs now is the "
            f"{progress.stage}; `fmasearch stop {name}` stops the whole study"
        )
    if trial not in known:
        running = ", ".join(sorted(t.start.name for t in progress.search.unfinished)) or "none"
        raise StudyError(f"{name}: expected a running trial, got {trial!r}; running: {running}")
    if (record := known[trial].record) is not None:
        raise StudyError(f"{name}: {trial} has ended: {_ending(record)}")


def _say_not_read(progress: Progress, folders: Folders, console: Console, wait: float) -> None:
    """The driver has not looked: it is busy before or between stages, far away, or dead."""
    if not is_running(progress.folder):
        withdraw_requests(progress.folder)
        raise StudyError(f"{progress.plan.name}: ended before it read the request; see `fmasearch status`")
    host = progress.driver.host if progress.driver else "another host"
    console.print(
        f"the driver on {host} has not read the request within {duration(wait)}; it will be obeyed when it is read, "
        f"and forgotten if the study ends before",
        soft_wrap=True,
        highlight=False,
    )
    raise typer.Exit(1)


def _say_trials(progress: Progress, trials: Sequence[str], console: Console, deadline: float) -> None:
    """A trial ends with its epoch; that may take longer than anybody wants to wait."""
    folder = progress.folder

    def records() -> Iterator[TrialRecord | None]:
        journal = read_journal(folder.journal)
        return (journal.trials[trial].record for trial in trials)

    _wait(lambda: all(records()), progress, deadline)
    later = "will stop when its epoch ends" if is_running(folder) else "has not ended, but its study has"
    for trial, record in zip(trials, records(), strict=True):
        words = _ending(record) if record else f"{later}{_pace(progress.search, trial)}"
        console.print(f"{trial} {escape(words)}", highlight=False, soft_wrap=True)


def _say_study(name: str, folders: Folders, console: Console, deadline: float) -> None:
    progress = read_study(name, folders)
    _wait(lambda: not is_running(progress.folder), progress, deadline)
    progress = read_study(name, folders)
    if progress.activity is Activity.RUNNING:
        console.print("the driver has read the request, and is stopping; `fmasearch status` shows when it has")
        return
    if progress.activity is Activity.FINISHED:
        console.print("finished before it could be stopped")
        return
    command = escape(resume_command(progress, folders))
    console.print(f"stopped; nothing is lost.\nnext: [bold]{command}[/]", highlight=False, soft_wrap=True)


def _wait(done: Callable[[], bool], progress: Progress, deadline: float) -> None:
    """Until `done`, the deadline, or the end of the study."""
    while not done() and time.monotonic() < deadline and is_running(progress.folder):
        time.sleep(POLL_SECONDS)


def _ending(record: TrialRecord) -> str:
    reason = f" ({record.error})" if record.error else ""
    return f"{record.state} after {len(record.epochs)} epochs{reason}"


def _pace(journal: Journal, trial: str) -> str:
    epochs = journal.trials[trial].epochs
    return f"; its last took {duration(epochs[-1].epoch_seconds)}" if epochs else ""
