"""`submit` and `fetch`: a command of fmasearch on a cluster's head, and its studies brought home."""

from __future__ import annotations

import datetime
import re
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from fmasearch.cli.environment import program
from fmasearch.cli.studies import read_files
from fmasearch.cli.tune_arguments import read_arguments
from fmasearch.errors import ConfigError, StudyError
from fmasearch.launcher import (
    GOES_ON,
    Head,
    HeadState,
    Job,
    Upload,
    collect,
    fetch_study,
    follow_command,
    list_studies,
    new_submission_id,
    open_cluster,
    probe,
    send_folder,
    send_upload,
    start_job,
    study_in,
)

UI_PORT = 5000
_SECONDS_TO_NAME = 300  # a detached study is waited for until it has a name: its files have been checked by then
_MOST_LOG_BYTES = 2**20


def submit(cluster: Path, command: Sequence[str], *, detach: bool) -> None:
    """Run a command of fmasearch on the cluster's head: `tune` as a job, anything else while we wait."""
    words = list(command[1:] if command[:1] == ["fmasearch"] else command)
    if not words or words[0] in ("submit", "fetch"):
        raise ConfigError(
            "submit: expected a command for the cluster after `--`, as in "
            f"`fmasearch submit {cluster} -- tune spaces/cnn_lstm.yaml --data fma.h5`, "
            f"got {shlex.join(words) or 'none'}"
        )
    head = open_cluster(cluster)
    if words[0] == "tune" and "--help" not in words:
        exit_code = _submit_tune(head, words[1:], Console(), detach=detach)
    else:
        exit_code = _run_there(head, words)
    if exit_code:
        raise typer.Exit(exit_code)


def fetch(cluster: Path, study: str | None, *, results: Path, runs: Path, force: bool) -> None:
    """Bring a study home, or list those that are on the head."""
    console = Console()
    head = open_cluster(cluster)
    if study is None:
        _print_studies(console, head)
        return
    name = Path(study).name
    fetched = fetch_study(head, name, results=results, runs=runs, force=force)
    if fetched.results is None:
        _say(console, f"{escape(name)}: has not finished; its journals are in [bold]{escape(str(fetched.runs))}[/]")
        _say(console, f"next: [bold]{_here(head, f'status {shlex.quote(name)}')}[/]")
        return
    _say(console, f"{escape(name)}: the record is in [bold]{escape(str(fetched.results))}[/]")
    if fetched.model is not None:
        model = shlex.quote(str(fetched.model))
        _say(console, f"next: [bold]{escape(f'{program()} test {model} --data FILE')}[/] judges the model here")


def _submit_tune(head: Head, words: Sequence[str], console: Console, *, detach: bool) -> int:
    folder = collect(Path.cwd())
    arguments = read_arguments(words, folder)
    if "space" in arguments.given:  # a mistake in it is better found here
        search = arguments.given.get("search")
        read_files(Path(arguments.given["space"]), Path(search) if search else None, [], Console(quiet=True))
    state = probe(head, folder, list(arguments.uploads.values()))
    if not state.has_folder(folder):
        _say(console, f"sending {len(folder.sizes)} files of {escape(str(folder.root))}")
        send_folder(head, folder)
    for upload in arguments.uploads.values():
        _send(head, state, upload, console)
    about = arguments.given.get("space") or arguments.given.get("resume") or "study"
    submission_id = new_submission_id(["tune", Path(about).stem], datetime.datetime.now())
    start_job(head, state, Job(submission_id, ["tune", *arguments.words(state)], folder, arguments.environment))
    how = "" if detach else "; Ctrl-C stops watching, the study goes on"
    _say(console, f"submitted: [bold]{submission_id}[/]{how}")
    return _follow(head, submission_id, arguments.given.get("resume"), console, detach=detach)


def _follow(head: Head, submission_id: str, study: str | None, console: Console, *, detach: bool) -> int:
    """Show a job's output until it ends, or we are told to go; its exit code, or 0 if it goes on."""
    log = _Log(study, leave_when_named=detach)
    command = follow_command(submission_id, seconds=_SECONDS_TO_NAME if detach else None)
    try:
        exit_code = head.stream(command, log.take, own_session=True, columns=_columns())
    except (KeyboardInterrupt, _Named):
        exit_code = GOES_ON
    except StudyError:
        _print_next(console, head, log.study, submission_id)
        raise
    if exit_code == GOES_ON:
        _say(console, f"\n{submission_id} goes on there")
        _print_next(console, head, log.study, submission_id)
        return 0
    _print_ended(console, head, log.study, exit_code)
    return exit_code


class _Named(Exception):
    """The study has its name: nobody needs to wait any longer."""


@dataclass
class _Log:
    """Passes a job's output on, and listens for the name of its study."""

    study: str | None
    leave_when_named: bool
    _beginning: bytes = b""

    def take(self, piece: bytes) -> None:
        _write(piece)
        if self.study is None and len(self._beginning) < _MOST_LOG_BYTES:
            self._beginning += piece
            self.study = study_in(self._beginning.decode(errors="replace"))
        if self.study is not None and self.leave_when_named:
            raise _Named


def _run_there(head: Head, words: Sequence[str]) -> int:
    """Run a command in the head's `~/fmasearch`, as if it were here; returns its exit code."""
    command = f'cd "$HOME"/fmasearch && {shlex.join(["python", "-m", "fmasearch", *words])}'
    ports = [_port_of(words)] if words[0] == "ui" else []
    on_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    return head.stream(command, _write, on_terminal=on_terminal, ports=ports, columns=_columns())


def _send(head: Head, state: HeadState, upload: Upload, console: Console) -> None:
    name = escape(upload.source.name)
    if state.has(upload):
        _say(console, f"{name}: is on the head already, nothing is sent")
        return
    if not console.is_terminal:
        _say(console, f"{name}: sending {upload.num_bytes / 1e6:,.1f} MB, once")
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(f"{name}, once", total=upload.num_bytes)
        send_upload(head, upload, lambda num_bytes: progress.update(task, completed=num_bytes))
        progress.update(task, completed=upload.num_bytes)


def _print_next(console: Console, head: Head, study: str | None, submission_id: str) -> None:
    """Everything a person may want to do with a study that runs."""
    cluster = shlex.quote(str(head.cluster))
    if study is None:
        _say(console, f"list    [bold]{program()} fetch {escape(cluster)}[/]  (its name is not known here yet)")
    name = shlex.quote(study) if study else "STUDY"
    for verb in ("watch", "status", "stop"):
        _say(console, f"{verb:<7} [bold]{escape(_here(head, f'{verb} {name}'))}[/]")
    _say(console, f"fetch   [bold]{escape(f'{program()} fetch {cluster} {name}')}[/]")
    logs = shlex.quote(f"ray job logs --follow {submission_id}")
    _say(console, f"output  [bold]{escape(f'ray exec {cluster} {logs}')}[/]")
    _say(
        console,
        f"MLflow  [bold]{escape(f'ray attach -p {UI_PORT} {cluster}')}[/], then http://127.0.0.1:{UI_PORT} here; "
        f"[bold]{escape(_here(head, 'ui'))}[/] where no server runs on the head",
    )


def _print_ended(console: Console, head: Head, study: str | None, exit_code: int) -> None:
    if study is None:
        return
    name = shlex.quote(study)
    if exit_code:
        _say(console, f"next: [bold]{escape(_here(head, f'tune --resume {name}'))}[/] goes on where it ended")
        return
    fetching = f"{program()} fetch {shlex.quote(str(head.cluster))} {name}"
    _say(console, f"\nnext: [bold]{escape(fetching)}[/] brings the record and the model home")


def _print_studies(console: Console, head: Head) -> None:
    studies = list_studies(head)
    if not studies:
        _say(console, f"{head.cluster}: no study yet")
        _say(console, f"next: [bold]{escape(_here(head, 'tune spaces/cnn_lstm.yaml --data FILE'))}[/]")
        return
    for study in studies:
        _say(console, f"{escape(study.name)}  {'finished' if study.finished else 'not finished'}")
    newest = next((study for study in reversed(studies) if study.finished), studies[-1])
    fetching = f"{program()} fetch {shlex.quote(str(head.cluster))} {shlex.quote(newest.name)}"
    _say(console, f"next: [bold]{escape(fetching)}[/]")


def _port_of(words: Sequence[str]) -> int:
    found = re.search(r"(?:^|\s)--port[=\s](\d+)", " ".join(words))
    return int(found[1]) if found else UI_PORT


def _here(head: Head, command: str) -> str:
    return f"{program()} submit {shlex.quote(str(head.cluster))} -- {command}"


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, soft_wrap=True)


def _write(piece: bytes) -> None:
    sys.stdout.buffer.write(piece)
    sys.stdout.buffer.flush()


def _columns() -> int:
    return shutil.get_terminal_size((120, 40)).columns
