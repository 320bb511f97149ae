"""The commands that read a study, and their options; what they do is imported when they run."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from fmasearch.cli.folders import Folders
from fmasearch.cli.options import Device, Results, Runs

study_app = typer.Typer()

Study = Annotated[
    str, typer.Argument(help="Name of a study, or its folder in runs or results.", metavar="STUDY", show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class StateChoice(StrEnum):
    running = "running"
    completed = "completed"
    pruned = "pruned"
    failed = "failed"


@study_app.command("best")
def show_best(
    study: Study,
    export: Annotated[
        Path | None,
        typer.Option(help="File to write its configuration to, for `fmasearch train`.", show_default=False),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace that file.")] = False,
    trial: Annotated[str | None, typer.Option(help="Another trial, e.g. t0007.", show_default=False)] = None,
    json: Json = False,
    runs: Runs = Path("runs"),
    results: Results = Path("results"),
) -> None:
    """Show a study's winner, its numbers and parameters; write its configuration."""
    from fmasearch.cli import best_of

    best_of.best(study, Folders(runs, results), export=export, force=force, trial=trial, as_json=json)


@study_app.command("show")
def show_trials(
    study: Study,
    only_changed: Annotated[
        bool, typer.Option("--only-changed", help="Only parameters that differ between the trials shown.")
    ] = False,
    sort: Annotated[
        str | None, typer.Option(help="A column or parameter (default: the objective, best first).", show_default=False)
    ] = None,
    reverse: Annotated[bool, typer.Option("--reverse", help="The other way round.")] = False,
    top: Annotated[int | None, typer.Option(min=1, help="Only so many, from the top.", show_default=False)] = None,
    state: Annotated[StateChoice | None, typer.Option(help="Only trials in this state.", show_default=False)] = None,
    json: Json = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    runs: Runs = Path("runs"),
    results: Results = Path("results"),
) -> None:
    """Show the trials of a study as a table."""
    from fmasearch.cli import showing

    options = showing.ShowOptions(sort, reverse, top, state.value if state else None, only_changed, json, csv)
    showing.show(study, Folders(runs, results), options)


@study_app.command("importance")
def show_importance(
    study: Study,
    json: Json = False,
    runs: Runs = Path("runs"),
    results: Results = Path("results"),
) -> None:
    """Show which keys set the best trials apart (PED-ANOVA), and whether it could be chance."""
    from fmasearch.cli import importances

    importances.importances(study, Folders(runs, results), as_json=json)


@study_app.command("reproduce")
def reproduce_trial(
    trial: Annotated[
        str, typer.Argument(help="A trial, e.g. STUDY/t0007 or STUDY/confirm-t0007-seed0.", metavar="STUDY/TRIAL")
    ],
    data: Annotated[
        Path | None,
        typer.Option("--data", "-d", help="Feature file (default: where the study had it).", show_default=False),
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Check only so many.", show_default=False)] = None,
    device: Device = None,
    runs: Runs = Path("runs"),
    results: Results = Path("results"),
) -> None:
    """Train a trial again and compare every epoch with the record. Exit code 1 if a number differs."""
    from fmasearch.cli import reproducing

    reproducing.reproduce(trial, Folders(runs, results), data=data, epochs=epochs, device=device)
