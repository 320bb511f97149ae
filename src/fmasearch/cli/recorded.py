"""A study as it was written down: read from `runs/<study>`, however far it got, or from `results/<study>`."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fmasearch.cli.folders import Folders
from fmasearch.config import load_yaml
from fmasearch.errors import StudyError
from fmasearch.records import ConfirmRecord, FinalRecord, Objective, StudyRecord, TrialRecord, TrialState
from fmasearch.report import load_trials

if TYPE_CHECKING:
    from fmasearch.study.progress import Progress
    from fmasearch.tracking import Journal, TrialJournal


@dataclass(frozen=True, slots=True)
class Recorded:
    """A study and where it was read. `record.confirmed` is empty until the confirmation has chosen."""

    record: StudyRecord
    folder: Path
    activity: str
    """`running`, `finished`, ... in words."""
    exact: bool
    """Whether numbers are as they were measured; a results folder keeps six digits."""
    confirmations: tuple[ConfirmRecord, ...]
    """As far as the confirmation got; none in a results folder, whose README.md has its table."""
    data: str | None
    """Path of the feature file; None if it was not recorded."""

    @property
    def name(self) -> str:
        return self.record.name

    def trial(self, name: str) -> TrialRecord:
        """A trial of the search, or a training of the confirmation.

        Raises:
            StudyError: if there is none of this name.
        """
        trainings = [*self.record.trials, *(curve for each in self.confirmations for curve in each.curves)]
        found = next((trial for trial in trainings if trial.name == name), None)
        if found is not None:
            return found
        if name.startswith("confirm-") and not self.confirmations:
            raise StudyError(f"{self.folder}: has no trainings of a confirmation; runs/{self.name} would keep them")
        raise StudyError(f"{self.folder}: no trial {name!r}; there are {_range(trial.name for trial in trainings)}")


def read_recorded(study: str, folders: Folders) -> Recorded:
    """Read a study by its name, or by the path of its folder in `runs` or `results`.

    Where both folders have it, the one in `runs` knows more: numbers as measured, and the confirmation.

    Raises:
        StudyError: if there is no such study, naming those that there are; or if it is damaged.
    """
    folder = find_study(study, folders)
    return _from_results(folder) if _is_record(folder) else _from_runs(folder, folders)


def find_study(study: str, folders: Folders) -> Path:
    """The folder of a study.

    Raises:
        StudyError: as `read_recorded`.
    """
    given = Path(study)
    by_name = [] if given.parent.name else [folders.runs / study, folders.results / study]
    for place in [given, *by_name]:
        if (place / "study.yaml").is_file():
            return place
    known = known_studies(folders)
    hint = f"studies here: {', '.join(known)}" if known else f"there is no study in {folders.runs} or {folders.results}"
    raise StudyError(f"{study}: no such study; {hint}")


def known_studies(folders: Folders) -> list[str]:
    """Names of the studies in `runs` and `results`."""
    files = [*folders.runs.glob("*/study.yaml"), *folders.results.glob("*/study.yaml")]
    return sorted({file.parent.name for file in files})


def _is_record(folder: Path) -> bool:
    """Whether it is a results folder, not a working folder."""
    return (folder / "trials.jsonl").is_file()


def _from_results(folder: Path) -> Recorded:
    study = load_yaml(folder / "study.yaml")
    search = dict(study["search"])
    try:
        record = StudyRecord(
            name=study["name"],
            space_name=study["space"]["name"],
            search_name=search.pop("name"),
            objective=Objective(**study["objective"]),
            command=study["command"],
            space_text=study["space"]["text"],
            search=search,
            data=study["data"],
            environment=study["environment"],
            trials=tuple(load_trials(folder)),
            final=_final(folder),
            search_seconds=study["search_seconds"],
            tags=study["tags"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise StudyError(f"{folder}: not the record of a study: {error!r}") from None
    return Recorded(record, folder, "finished", exact=False, confirmations=(), data=_data_of(study["command"]))


def _final(folder: Path) -> FinalRecord | None:
    """The test; its configuration is the one in best.yaml. Null was a number that is none."""
    file = folder / "test.json"
    if not file.is_file():
        return None
    values = json.loads(file.read_text(encoding="utf-8"))
    validation, test = _with_nan(values["validation"]), values["test"]
    test = {**test, "metrics": _with_nan(test["metrics"])}
    best = load_yaml(folder / "best.yaml")
    return FinalRecord.from_json({**values, "validation": validation, "test": test, "config": best, "model_file": ""})


def _with_nan(metrics: Mapping[str, float | None]) -> dict[str, float]:
    return {name: math.nan if value is None else value for name, value in metrics.items()}


def _data_of(command: str) -> str | None:
    """What the study's command named as its data."""
    words = shlex.split(command)
    for word, following in zip(words, [*words[1:], None], strict=True):
        if word in ("--data", "-d"):
            return following
        if word.startswith("--data="):
            return word.removeprefix("--data=")
    return None


def _from_runs(folder: Path, folders: Folders) -> Recorded:
    # Ray and torch are behind these; a results folder is read without them.
    from fmasearch.study.progress import Stage, read_progress

    progress = read_progress(folder)
    confirmations = _confirmations(progress)
    chosen = progress.stage in (Stage.FINAL, Stage.RECORD)
    plan = progress.plan
    record = StudyRecord(
        name=plan.name,
        space_name=plan.space.name,
        search_name=plan.search_name,
        objective=progress.objective,
        command=plan.command,
        space_text=plan.space.text,
        search=plan.search.model_dump(mode="json"),
        data={"file": plan.data.name, "sha256": plan.data.sha256},
        environment=_environment(folders.results / plan.name),
        trials=_trials(progress.search),
        confirmed=confirmations if chosen else (),
        final=progress.final,
        tags=plan.hashes,
    )
    return Recorded(
        record, folder, str(progress.activity), exact=True, confirmations=confirmations, data=plan.data.path
    )


def _environment(results: Path) -> Mapping[str, str]:
    """What the study ran with, which only its record in `results` tells."""
    file = results / "study.yaml"
    environment: Mapping[str, str] = load_yaml(file).get("environment", {}) if file.is_file() else {}
    return environment


def _trials(journal: Journal) -> tuple[TrialRecord, ...]:
    """Those that ended, and those under way or cut off, as far as they got."""
    return tuple(trial.record or _unfinished(trial) for trial in journal.trials.values())


def _unfinished(trial: TrialJournal) -> TrialRecord:
    seconds = sum(epoch.epoch_seconds for epoch in trial.epochs)
    return TrialRecord(trial.start, TrialState.RUNNING, trial.epochs, seconds)


def _confirmations(progress: Progress) -> tuple[ConfirmRecord, ...]:
    """Configurations with the trainings that ended, best mean first."""
    from fmasearch.finalize import confirmed

    done = {record.name: record for record in progress.confirm.finished}
    try:
        return confirmed([record.start for record in done.values()], done, progress.objective) if done else ()
    except StudyError:  # every one failed
        return ()


def _range(names: Iterable[str]) -> str:
    known = list(names)
    return "none" if not known else known[0] if len(known) == 1 else f"{known[0]} to {known[-1]}"
