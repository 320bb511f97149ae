"""`tune --resume STUDY --extend N`: more trials for a study that is finished."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rich.console import Console

from fmasearch.cli.folders import Folders
from fmasearch.cli.studies import is_finished, run_study
from fmasearch.config import SearchConfig
from fmasearch.errors import StudyError
from fmasearch.study import StudyPlan, load_plan, save_plan
from fmasearch.tracking import append_note, read_journal


def extend(name: str, num_trials: int, folders: Folders) -> Path:
    """Search on with the same sampler memory, rungs and MLflow run; confirm again; test again if another trial wins.

    Raises:
        StudyError: if there is no such study, or it is not finished.
    """
    plan = load_plan(folders.runs / Path(name).name)
    if not is_finished(plan, folders):
        raise StudyError(
            f"{plan.name}: is not finished, so there is nothing to extend; `tune --resume {plan.name}` goes on with it"
        )
    longer = replace(plan, search=longer_search(plan.search, num_trials))
    note = f"extended by {num_trials} trials, from {plan.search.num_trials} to {longer.search.num_trials}"
    reopen(longer, note)
    console = Console()
    console.print(f"[bold]{plan.name}[/]: {note}", highlight=False, soft_wrap=True)
    return run_study(longer, folders, console, resumed=True)


def longer_search(search: SearchConfig, num_trials: int) -> SearchConfig:
    """The same search for more trials; budgets of epochs and time grow in proportion."""
    total = search.num_trials + num_trials
    grown = {
        key: type(value)(value * total / search.num_trials)
        for key in ("max_total_epochs", "time_budget_seconds")
        if (value := getattr(search, key)) is not None
    }
    return search.model_copy(update={"num_trials": total, **grown})


def reopen(plan: StudyPlan, note: str) -> None:
    """Make a finished study one that has only begun its search; its test is put aside, not forgotten.

    In this order a kill leaves either the finished study or one that `--resume` finishes.
    """
    folder = plan.folder
    if folder.final_file.exists():
        folder.final_file.rename(folder.next_earlier_final)
    for path in (folder.confirm_journal, folder.journal):
        if note not in read_journal(path).notes:
            append_note(path, note)
    save_plan(plan)
