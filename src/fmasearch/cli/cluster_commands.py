"""The commands that look after machines, and their options; what they do is imported when they run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fmasearch.cli.options import Mlflow, Runs

cluster_app = typer.Typer()


@cluster_app.command()
def doctor(
    cluster: Annotated[bool, typer.Option("--cluster", help="Every node of the Ray cluster that we are in.")] = False,
    storage: Annotated[
        str | None,
        typer.Option(help="Folder or s3:// or gs:// URI for checkpoints to try out.", show_default=False),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option("--data", "-d", help="Feature file (HDF5), or its s3:// or gs:// URI.", show_default=False),
    ] = None,
    runs: Runs = Path("runs"),
    mlflow: Mlflow = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check that this machine, or every node of a cluster, is fit for a study, and say how to mend it.

    Exit code 1 if anything failed.
    """
    from fmasearch.cli import doctor_command

    doctor_command.run(runs, mlflow, cluster=cluster, storage=storage, data=data, as_json=json)


@cluster_app.command()
def submit(
    cluster: Annotated[Path, typer.Argument(help="File of Ray's cluster launcher, e.g. cluster.yaml.")],
    command: Annotated[list[str], typer.Argument(help="A command of fmasearch, after `--`.", metavar="-- COMMAND")],
    detach: Annotated[
        bool, typer.Option("--detach", help="Leave a study as soon as it runs, and print how to come back to it.")
    ] = False,
) -> None:
    """Run a command on a cluster: `tune` as a job, with this folder and its data; any other on the head."""
    from fmasearch.cli import submitting

    submitting.submit(cluster, command, detach=detach)


@cluster_app.command()
def fetch(
    cluster: Annotated[Path, typer.Argument(help="File of Ray's cluster launcher, e.g. cluster.yaml.")],
    study: Annotated[str | None, typer.Argument(help="Name of a study; without it, list them.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where its record goes.")] = Path("results"),
    runs: Annotated[Path, typer.Option(help="Where its model and journals go.")] = Path("runs"),
    force: Annotated[bool, typer.Option("--force", help="Replace another study of this name.")] = False,
) -> None:
    """Bring a study home from a cluster: its record, its model and its journals."""
    from fmasearch.cli import submitting

    submitting.fetch(cluster, study, results=out, runs=runs, force=force)
