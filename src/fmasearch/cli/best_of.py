"""`best`: a study's winner in numbers, with what they are worth, and its configuration as a file to train."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import typer
import yaml
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fmasearch.cli.environment import program
from fmasearch.cli.folders import Folders
from fmasearch.cli.json_text import json_text
from fmasearch.cli.recorded import Recorded, read_recorded
from fmasearch.errors import StudyError
from fmasearch.files import replacing
from fmasearch.records import ConfirmRecord, FinalRecord, Scalar, TrialRecord, TrialState
from fmasearch.report.findings import best_config, winner
from fmasearch.report.text import count


def best(study: str, folders: Folders, *, export: Path | None, force: bool, trial: str | None, as_json: bool) -> None:
    """Print the winner, or `trial`; with `export`, write its configuration, too."""
    recorded = read_recorded(study, folders)
    name = trial or winner(recorded.record)
    if name is None:
        raise StudyError(f"{recorded.folder}: no trial has finished an epoch yet")
    chosen = recorded.trial(name)
    if export is not None:
        export_config(recorded, chosen, export, force=force)
    if as_json:
        typer.echo(json_text(_as_json(recorded, chosen)), nl=False)
        return
    console = Console()
    _print(console, recorded, chosen)
    if export is not None:
        what = (
            f"wrote {escape(str(export))}; next: [bold]{program()} train {escape(str(export))} --data <feature file>[/]"
        )
    else:
        what = (
            f"next: [bold]{program()} best {escape(study)}{f' --trial {name}' if trial else ''} --export best.yaml[/]"
        )
    console.print(what, highlight=False, soft_wrap=True)


def export_config(recorded: Recorded, trial: TrialRecord, file: Path, *, force: bool) -> None:
    """Write the configuration as `results/<study>/best.yaml` has it: the winner's as it was last trained.

    Raises:
        StudyError: if there is such a file already, or it cannot be written.
    """
    if file.exists() and not force:
        raise StudyError(f"{file}: already exists; choose another file, or replace it with --force")
    is_winner = trial.name == winner(recorded.record)
    config = best_config(recorded.record) if is_winner else trial.start.config
    assert config is not None
    header = (
        f"# {trial.name} of {recorded.name}: {_header_words(recorded, trial)}.\n"
        "# Train it with `fmasearch train <this file> --data <feature file>`.\n"
    )
    text = yaml.safe_dump(_plain(config), sort_keys=False, allow_unicode=True, width=110)
    try:
        with replacing(file) as temporary:
            temporary.write_text(header + text, encoding="utf-8")
    except OSError as error:
        raise StudyError(f"{file}: cannot be written: {error.strerror}") from None


def stage_of(recorded: Recorded, trial: TrialRecord) -> str:
    """How much is known of a trial: `tested`, `confirmed` over seeds, or seen in the `search` alone."""
    if recorded.record.final is not None and recorded.record.final.trial == trial.name:
        return "tested"
    return "confirmed" if _confirmation(recorded, trial) is not None else "search"


def _header_words(recorded: Recorded, trial: TrialRecord) -> str:
    match stage_of(recorded, trial):
        case "tested":
            final = recorded.record.final
            assert final is not None
            return f"trained for {final.epochs} epochs on {final.trained_on}, and tested"
        case "confirmed":
            return "confirmed over seeds"
    if trial.name == winner(recorded.record):
        return "the best of the search; not confirmed over seeds"
    return f"a trial of the search, {trial.state}; not confirmed over seeds"


def _print(console: Console, recorded: Recorded, trial: TrialRecord) -> None:
    label = f" ({trial.start.label})" if trial.start.label else ""
    console.print(f"[bold]{trial.name}[/]{escape(label)} of {escape(recorded.name)}", highlight=False, soft_wrap=True)
    for line in _words(recorded, trial):
        console.print(line, highlight=False, soft_wrap=True, markup=False)
    final = recorded.record.final
    if final is not None and stage_of(recorded, trial) == "tested":
        console.print(_test_table(final))
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("parameter", no_wrap=True)
    table.add_column("value", overflow="fold")
    for path, given in trial.start.params.items():
        table.add_row(escape(path), escape(_exact(given)))
    console.print(table)


def _words(recorded: Recorded, trial: TrialRecord) -> Iterator[str]:
    """What the trial is, then what is known of it, the firmest first."""
    record, metric = recorded.record, recorded.record.objective.metric
    stage, final, confirmed = stage_of(recorded, trial), record.final, _confirmation(recorded, trial)
    is_winner = trial.name == winner(record)
    if stage == "tested" and final is not None:
        yield (
            f"tested: the winner of the study, retrained on {final.trained_on} for {count(final.epochs, 'epoch')} and "
            f"judged once on {count(final.test.num_tracks, 'track')} of the test split; "
            f"{count(final.num_parameters, 'parameter')}"
        )
    elif is_winner and record.confirmed:
        yield "confirmed: the best mean over seeds; not tested yet"
    elif is_winner:
        yield (
            f"the best of the search only ({count(len(record.trials), 'trial')}, {recorded.activity}): not confirmed "
            f"over seeds, and the best of many looks better than it is"
        )
    else:
        yield f"a trial of the search ({trial.state}), not the winner, which is {winner(record)}"
    if confirmed is not None:
        so_far = "" if record.confirmed else ", so far"
        every = ", ".join(f"{one:.4f}" for one in confirmed.objectives)
        seeds = count(len(confirmed.objectives), "seed")
        yield f"confirmation: {metric} {confirmed.mean:.4f} ± {confirmed.std:.4f} over {seeds}{so_far} ({every})"
    elif stage == "tested":
        yield f"confirmation: its table is in {recorded.folder / 'README.md'}"
    if trial.best is not None:
        where = f"at epoch {trial.best.epoch} of {count(len(trial.epochs), 'epoch')}"
        yield f"search: {metric} {trial.best.best_objective:.4f} {where} ({trial.state})"
    elif trial.state is TrialState.FAILED:
        yield f"search: failed: {trial.error}"


def _test_table(final: FinalRecord) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("metric")
    for heading in ("test", "95 % interval", "validation"):
        table.add_column(heading, justify="right")
    of_tracks = {name: measured for name, measured in final.test.metrics.items() if not name.startswith("clip_")}
    for name, measured in of_tracks.items():
        interval = final.test.intervals.get(name)
        between = f"{interval.low:.3f} – {interval.high:.3f}" if interval else ""
        validation = final.validation.get(f"val_{name}", math.nan)
        table.add_row(name, f"{measured:.3f}", between, "" if math.isnan(validation) else f"{validation:.3f}")
    return table


def _confirmation(recorded: Recorded, trial: TrialRecord) -> ConfirmRecord | None:
    """The trial retrained over seeds, if at least one training ended."""
    return next((each for each in recorded.confirmations if each.trial == trial.name), None)


def _as_json(recorded: Recorded, trial: TrialRecord) -> dict[str, Any]:
    confirmed, final = _confirmation(recorded, trial), recorded.record.final
    tested = final if stage_of(recorded, trial) == "tested" else None
    is_winner = trial.name == winner(recorded.record)
    return {
        "study": recorded.name,
        "trial": trial.name,
        "winner": is_winner,
        "stage": stage_of(recorded, trial),
        "activity": recorded.activity,
        "objective": {"metric": recorded.record.objective.metric, "mode": recorded.record.objective.mode},
        "search": {
            "state": str(trial.state),
            "objective": trial.best.best_objective if trial.best else None,
            "best_epoch": trial.best.epoch if trial.best else None,
            "epochs": len(trial.epochs),
        },
        "confirmation": None
        if confirmed is None
        else _confirmation_as_json(confirmed, finished=recorded.record.confirmed),
        "test": None if tested is None else {"epochs": tested.epochs, **tested.test.to_json()},
        "params": dict(trial.start.params),
        "config": best_config(recorded.record) if is_winner else trial.start.config,
    }


def _confirmation_as_json(confirmed: ConfirmRecord, *, finished: object) -> dict[str, Any]:
    return {
        "mean": confirmed.mean,
        "std": confirmed.std,
        "objectives": list(confirmed.objectives),
        "best_epochs": list(confirmed.best_epochs),
        "finished": bool(finished),
    }


def _exact(given: Scalar) -> str:
    """A parameter as it can be typed again."""
    return "null" if given is None else str(given)


def _plain(values: Any) -> Any:
    """Plain containers, as YAML writes them."""
    if isinstance(values, Mapping):
        return {key: _plain(each) for key, each in values.items()}
    return [_plain(each) for each in values] if isinstance(values, list | tuple) else values
