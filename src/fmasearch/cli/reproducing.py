"""`reproduce`: a trial trained again here, from its recorded configuration and seed, and held against its record."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fmasearch.cli import environment
from fmasearch.cli.folders import Folders
from fmasearch.cli.health import spec_of
from fmasearch.cli.recorded import Recorded, read_recorded
from fmasearch.config import TrainConfig, parse_section
from fmasearch.data import DataSpec, open_dataset
from fmasearch.errors import DataError, DivergedError, StudyError
from fmasearch.records import EpochResult, TrialRecord, TrialState
from fmasearch.report import DIGITS
from fmasearch.trainer import Trainer

MOST_NAMES = 3
"""Numbers that an epoch's line names; others are counted."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One epoch, recorded and now; `now` is None if the training ended before it."""

    recorded: EpochResult
    now: EpochResult | None
    different: Mapping[str, float]
    """Numbers that are not equal, and by how much: relative, infinite where one of the two is no number."""

    @property
    def equal(self) -> bool:
        return self.now is not None and not self.different


@dataclass(frozen=True, slots=True)
class Repetition:
    """A trial trained again, epoch by epoch; `surprise` says how it ended if the recorded one ended otherwise."""

    epochs: tuple[Comparison, ...]
    ending: str = ""
    surprise: str = ""

    @property
    def equal(self) -> bool:
        return not self.surprise and all(epoch.equal for epoch in self.epochs)


def reproduce(name: str, folders: Folders, *, data: Path | None, epochs: int | None, device: str | None) -> None:
    """Train the trial `STUDY/TRIAL` again and print how each epoch compares; exit code 1 if a number differs."""
    study, _, trial_name = name.rpartition("/")
    if not study:
        raise StudyError(f"{name}: expected a study and a trial, as in 2026-11-20-cnn_gru-default/t0007")
    recorded = read_recorded(study, folders)
    trial = recorded.trial(trial_name)
    if not trial.epochs:
        raise StudyError(f"{trial.name}: no epoch of it was recorded; there is nothing to compare with")
    config = parse_section(TrainConfig, trial.start.config, source=trial.name)
    spec = same_data(recorded, config, data)
    place = device or _recorded_device(recorded)
    threads = max(1, int(recorded.record.search.get("resources", {}).get("cpu", 1)))
    torch.set_num_threads(threads)
    console = Console()
    checked = trial.epochs[:epochs]
    on = f"{place} with {threads} thread{'s' if threads > 1 else ''}"
    _say(
        console,
        f"[bold]{trial.name}[/] of {escape(recorded.name)}: {len(checked)} of {len(trial.epochs)} recorded epochs, "
        f"on {on}, {escape(spec.name)}",
    )
    dataset = open_dataset(spec, device=place)
    run = _train(console, Trainer(config, dataset, device=place), trial, len(checked), exact=recorded.exact)
    if run.equal:
        _say(console, f"[bold green]{_verdict(recorded, run)}[/]")
        return
    _explain(console, recorded, run, place)
    raise typer.Exit(1)


def same_data(recorded: Recorded, config: TrainConfig, data: Path | None) -> DataSpec:
    """The feature file `data`, or the one that the study recorded, once it is known to be the study's.

    Raises:
        StudyError: if no path was recorded.
        DataError: if the file is not there, or is another one than the study's.
    """
    path = data or (Path(recorded.data) if recorded.data else None)
    file, wanted = recorded.record.data.get("file", "its feature file"), str(recorded.record.data["sha256"])
    if path is None:
        raise StudyError(f"{recorded.name}: does not say where {file} was; name it with --data")
    if data is None and not path.is_file():
        raise DataError(f"{path}: the study's feature file is not there; name it with --data (sha256 {wanted[:12]})")
    spec = spec_of(config, path, source=recorded.name)
    if spec.sha256 != wanted:
        raise DataError(
            f"{path}: not the file that {recorded.name} was trained on: expected sha256 {wanted[:12]} ({file}), got "
            f"{spec.sha256[:12]}"
        )
    return spec


def compare(recorded: EpochResult, now: EpochResult, *, exact: bool) -> Comparison:
    """Every number of an epoch but its time: bit for bit, or to the digits that a results folder keeps."""
    first, second = _numbers(recorded), _numbers(now)
    different = {}
    for name in dict.fromkeys([*first, *second]):
        then, again = first.get(name, math.inf), second.get(name, math.inf)
        again = again if exact else _rounded(again)
        if then != again and not (math.isnan(then) and math.isnan(again)):
            different[name] = _apart(then, again)
    return Comparison(recorded, now, different)


def _numbers(epoch: EpochResult) -> dict[str, float]:
    """All that an epoch gave, but how long it took and where."""
    return {
        **epoch.metrics,
        "learning_rate": epoch.learning_rate,
        "objective": epoch.objective,
        "best_objective": epoch.best_objective,
        "best_epoch": epoch.best_epoch,
        "finished": epoch.finished,
    }


def _rounded(number: float) -> float:
    """As a results folder has it, where infinities are no numbers either."""
    return float(f"{number:.{DIGITS}g}") if math.isfinite(number) else math.nan


def _apart(first: float, second: float) -> float:
    largest = max(abs(first), abs(second))
    return abs(first - second) / largest if math.isfinite(first) and math.isfinite(second) else math.inf


def _train(console: Console, trainer: Trainer, trial: TrialRecord, num_epochs: int, *, exact: bool) -> Repetition:
    """Train, and print a line an epoch."""
    recorded = trial.epochs[:num_epochs]
    width = max(len(_shown(epoch.objective)) for epoch in recorded)
    metric = trainer.task.objective.metric
    _say(console, f"[dim]epoch  {'recorded':>{width}}  {'now':>{width}}  equal    ({metric}; equal: all numbers)[/]")
    compared: list[Comparison] = []
    results = trainer.epochs()
    try:
        for before in recorded:
            now = next(results, None)
            if now is None:
                return Repetition(tuple(compared), surprise=f"here it ended after epoch {len(compared)}")
            compared.append(compare(before, now, exact=exact))
            _say(console, _line(compared[-1], width, exact=exact))
        if num_epochs == len(trial.epochs) and _diverged(trial):
            next(results, None)
            return Repetition(tuple(compared), surprise="the recorded one diverged in the next epoch; here it did not")
    except DivergedError as error:
        if len(compared) == len(trial.epochs) and _diverged(trial):
            return Repetition(tuple(compared), ending=", and it diverges in the next one as it did")
        return Repetition(tuple(compared), surprise=f"here it diverged: {error}")
    return Repetition(tuple(compared))


def _diverged(trial: TrialRecord) -> bool:
    return trial.state is TrialState.FAILED and (trial.error or "").startswith(DivergedError.__name__)


def _line(each: Comparison, width: int, *, exact: bool) -> str:
    assert each.now is not None
    now = _shown(each.now.objective if exact else _rounded(each.now.objective))
    names = list(each.different)
    listed = ", ".join(names[:MOST_NAMES]) + (f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else "")
    verdict = "yes" if each.equal else f"[red]no[/]   {escape(listed)}"
    return f"{each.recorded.epoch:5d}  {_shown(each.recorded.objective):>{width}}  {now:>{width}}  {verdict}"


def _verdict(recorded: Recorded, run: Repetition) -> str:
    alike = "to the bit" if recorded.exact else f"to {DIGITS} digits, which is what a results folder keeps"
    epochs = "its epoch" if len(run.epochs) == 1 else f"all {len(run.epochs)} epochs"
    return f"reproduced: the same numbers in {epochs}, {alike}{run.ending}"


def _explain(console: Console, recorded: Recorded, run: Repetition, device: str) -> None:
    """What differs in the numbers, and in what they were made with."""
    wrong = [epoch for epoch in run.epochs if not epoch.equal]
    if wrong:
        largest, name, epoch = max((by, name, e.recorded.epoch) for e in wrong for name, by in e.different.items())
        _say(
            console,
            f"[bold red]not reproduced[/]: from epoch {wrong[0].recorded.epoch} on numbers differ, relatively by "
            f"{largest:.1e} at the most ({escape(name)}, epoch {epoch})",
        )
    if run.surprise:
        _say(console, f"[bold red]not reproduced[/]: {escape(run.surprise)}")
    if device != "cpu":
        _say(console, "a GPU adds up in no fixed order: equal numbers are only to be expected on the CPU")
    if not recorded.record.environment:
        _say(console, f"what it was trained with is not recorded in {recorded.folder}; its results folder has it")
        return
    here = environment.describe()
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("what differs", "recorded", "here"):
        table.add_column(heading, overflow="fold")
    for key, then in recorded.record.environment.items():
        if here.get(key, "") != then:
            table.add_row(escape(key), escape(then), escape(here.get(key, "–")))
    if table.row_count:
        console.print(table)
    else:
        _say(console, "versions, device and threads are the recorded ones; another model of processor rounds otherwise")


def _recorded_device(recorded: Recorded) -> str:
    """Where its trials ran: on the CPU, unless the record names a GPU and there is one here."""
    resources, device = recorded.record.search.get("resources", {}), recorded.record.environment.get("device", "")
    if resources.get("gpu") == 0 or device.startswith("CPU") or not torch.cuda.is_available():
        return "cpu"
    return "cuda"


def _shown(number: float) -> str:
    """All digits of a number."""
    return repr(float(number))


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, soft_wrap=True)
