"""`doctor`: is this machine, or every node of the cluster, fit for a study? A line a check, and how to mend it."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fmasearch.cli.environment import PACKAGES
from fmasearch.doctor.checks import check_nodes
from fmasearch.doctor.facts import find_token, read_lock
from fmasearch.doctor.lines import Check
from fmasearch.doctor.storage import is_uri
from fmasearch.errors import StudyError

WIDTH = 100
_SHELL_LACKS_MODE = Check(
    "token",
    "warning",
    "RAY_AUTH_MODE is not set in this shell: `ray status` and the like are turned away",
    "echo 'export RAY_AUTH_MODE=token' >> ~/.bashrc",
)
COLOURS = {"ok": "green", "warning": "yellow", "failed": "bold red"}


def run(
    runs: Path, mlflow_uri: str | None, *, cluster: bool, storage: str | None, data: str | None, as_json: bool
) -> None:
    """Print what was found; ends the program with 1 if anything failed."""
    with Console(stderr=True).status("looking"):
        reports, checks = _examine(runs, mlflow_uri, cluster=cluster, storage=storage, data=data)
    if as_json:
        typer.echo(json.dumps({"checks": [asdict(check) for check in checks], "nodes": reports}, indent=1))
    else:
        _print(checks)
    if any(check.status == "failed" for check in checks):
        raise typer.Exit(1)


def _examine(
    runs: Path, mlflow_uri: str | None, *, cluster: bool, storage: str | None, data: str | None
) -> tuple[list[dict[str, Any]], list[Check]]:
    shell_lacks_mode = cluster and _join_with_token()

    from fmasearch.doctor.cluster import Questions, ask_cluster, ask_here, joined_cluster
    from fmasearch.doctor.surroundings import check_data, check_mlflow, check_runs
    from fmasearch.tracking import default_uri

    of_data, data_bytes = check_data(data) if data is not None else (None, 0)
    lock = _lock_file()
    questions = Questions(
        packages=("fmasearch", *PACKAGES),
        lock=read_lock(lock) if lock else {},
        storage=_place(storage) if storage is not None else _existing(runs) if cluster else None,
        make_storage=storage is not None,
        data_uri=data if data is not None and is_uri(data) else None,
    )
    try:
        if cluster:
            with joined_cluster(os.environ.get("RAY_ADDRESS")):
                reports = ask_cluster(questions)
        else:
            reports = (ask_here(questions),)
        named = None if storage is None else questions.storage
        checks = check_nodes(reports, storage=named, runs=str(runs.absolute()), data_bytes=data_bytes)
    except StudyError as error:
        mend = (
            "run this on the head (`fmasearch submit CLUSTER.yaml -- doctor --cluster`); `ray up CLUSTER.yaml` starts "
            "one; if it runs, it may want another token than ~/.ray/auth_token here"
        )
        reports, checks = (), [Check("cluster", "failed", str(error), mend)]
    if shell_lacks_mode and any(report.facts and report.facts.token.auth_mode == "token" for report in reports):
        checks.append(_SHELL_LACKS_MODE)
    checks += [*([of_data] if of_data else []), check_runs(runs), check_mlflow(mlflow_uri or default_uri(runs))]
    return [_without_digest(asdict(report)) for report in reports], checks


def _join_with_token() -> bool:
    """Ray reads its mode when it is imported: where there is a token, the cluster wants it."""
    if "RAY_AUTH_MODE" in os.environ or "ray" in sys.modules or not find_token("").digest:
        return False
    os.environ["RAY_AUTH_MODE"] = "token"
    return True


def _place(storage: str) -> str:
    return storage if is_uri(storage) else str(Path(storage).absolute())


def _existing(folder: Path) -> str:
    """The folder, or the one that it would be made in: whether nodes share it can be tried without making it."""
    folder = folder.absolute()
    return str(next(place for place in (folder, *folder.parents) if place.exists()))


def _lock_file() -> Path | None:
    """The lock file of the folder we are in, or of the checkout that fmasearch runs from."""
    checkout = Path(__file__).parents[3]
    return next((file for home in (Path(), checkout) if (file := home / "requirements.lock").is_file()), None)


def _without_digest(report: dict[str, Any]) -> dict[str, Any]:
    """Whoever reads the output must learn nothing of the token, not even whether two of them are one."""
    if report["facts"] is not None:
        report["facts"]["token"].pop("digest")
    return report


def _print(checks: Sequence[Check]) -> None:
    """Status, name and what was found, in columns; how to mend it beneath."""
    console = Console()
    console.width = min(console.width, WIDTH) if console.is_terminal else WIDTH
    table = Table.grid(padding=(0, 2))
    table.add_column(width=7, no_wrap=True)
    table.add_column(width=9, no_wrap=True)
    table.add_column(overflow="fold")
    earlier = ""
    for check in checks:
        mend = f"\n[dim]mend:[/] {escape(check.mend)}" if check.mend else ""
        name = "" if check.name == earlier else check.name
        table.add_row(f"[{COLOURS[check.status]}]{check.status}[/]", escape(name), f"{escape(check.found)}{mend}")
        earlier = check.name
    console.print(table, highlight=False)
    counts = Counter(check.status for check in checks)
    if counts["failed"] or counts["warning"]:
        found = [f"{counts['failed']} failed"] if counts["failed"] else []
        found += [f"{counts['warning']} warning{'' if counts['warning'] == 1 else 's'}"] if counts["warning"] else []
        console.print(f"\n{', '.join(found)}", highlight=False)
    else:
        console.print("\n[green]fit for a study[/]", highlight=False)
