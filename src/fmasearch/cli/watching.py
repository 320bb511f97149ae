"""`watch`: the live view of a study that another process runs, here or on another host that shares its folder."""

from __future__ import annotations

import time

import typer
from rich.console import Console

from fmasearch.cli.folders import Folders
from fmasearch.cli.live import LiveView
from fmasearch.cli.study_status import confirm_view, headline, print_next, read_study, search_view
from fmasearch.study.progress import Activity, Progress, Stage, is_running
from fmasearch.tracking import JournalReader

POLL_SECONDS = 1.0
"""Between two looks at the journals: no file system tells a host what another one wrote."""

EXIT_CODES = {Activity.FINISHED: 0, Activity.RUNNING: 0, Activity.INTERRUPTED: 130, Activity.GONE: 1}
"""Of a study that ended while it was watched, as the driver's own."""


def watch(name: str, folders: Folders) -> None:
    """Show a study until it ends, through all its stages; Ctrl-C ends the showing alone."""
    console = Console()
    progress = read_study(name, folders)
    console.print(headline(progress))
    try:
        while progress.activity is Activity.RUNNING:
            _follow(progress, console)
            progress = read_study(name, folders)
    except KeyboardInterrupt:
        console.print("no longer watching; the study goes on")
        return
    print_next(progress, folders, console)
    raise typer.Exit(EXIT_CODES[progress.activity])


def _follow(progress: Progress, console: Console) -> None:
    """Show one stage until it or the study ends."""
    match progress.stage:
        case Stage.SEARCH:
            reader = JournalReader(progress.folder.journal)
            _show(search_view(progress, console), reader, progress)
        case Stage.CONFIRM:
            reader = JournalReader(progress.folder.confirm_journal)
            _show(confirm_view(progress, console), reader, progress)
        case Stage.FINAL | Stage.RECORD:
            _wait_for_the_end(progress, console)


def _show(view: LiveView, reader: JournalReader, progress: Progress) -> None:
    reader.tell(view)
    with view.showing():
        while reader.status != "finished" and is_running(progress.folder):
            time.sleep(POLL_SECONDS)
            reader.tell(view)


def _wait_for_the_end(progress: Progress, console: Console) -> None:
    """Epochs of the final training are told to nobody; a driver that lives may still be writing the record."""
    folder = progress.folder
    words = "final training" if progress.stage is Stage.FINAL else "writing the record"
    if not console.is_terminal:
        console.print(words)
    with console.status(words):
        while is_running(folder) and (progress.stage is Stage.RECORD or not folder.final_file.exists()):
            time.sleep(POLL_SECONDS)
