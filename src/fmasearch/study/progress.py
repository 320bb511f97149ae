"""How far a study is, and whether anybody is working on it: read from its folder alone."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from fmasearch.records import FinalRecord, Objective, TrialState
from fmasearch.study.driver import Driver, driver_alive, read_driver
from fmasearch.study.folder import StudyFolder, StudyPlan, load_plan
from fmasearch.tasks import study_objective
from fmasearch.tracking import Journal, read_journal

QUIET_SECONDS = 900.0
"""A driver on another host may be silent for so long, or twice as long as the longest trial, before it counts as gone.

The final training tells its journal nothing, and takes about as long as a trial.
"""


class Stage(StrEnum):
    SEARCH = "search"
    CONFIRM = "confirm"
    FINAL = "final training"
    RECORD = "record"  # tested; what is left is writing it down


class Activity(StrEnum):
    RUNNING = "running"
    INTERRUPTED = "interrupted"  # its driver ended in good order: by Ctrl-C, `stop` or an error
    GONE = "not running any more"  # its driver was killed, or has said nothing for long
    FINISHED = "finished"


@dataclass(frozen=True, slots=True)
class Progress:
    """A study as its folder shows it now."""

    plan: StudyPlan
    stage: Stage
    activity: Activity
    driver: Driver | None
    search: Journal
    confirm: Journal
    final: FinalRecord | None
    quiet_seconds: float
    """Since the last event."""
    stage_seconds: float | None
    """Since the stage began; None unless the study is running."""

    @property
    def folder(self) -> StudyFolder:
        return self.plan.folder

    @property
    def objective(self) -> Objective:
        """What trials are compared by."""
        _, task = self.plan.space.inputs()
        return study_objective(task)

    @property
    def num_confirmations(self) -> int:
        """Trainings of the confirmation: the best few of the trials that can be ranked, over the seeds."""
        ranked = sum(t.best is not None and t.state is not TrialState.FAILED for t in self.search.finished)
        confirm = self.plan.search.confirm
        return min(confirm.top_k, ranked) * confirm.seeds


def read_progress(root: Path) -> Progress:
    """Read what the study in `root` is doing.

    Raises:
        StudyError: if there is no study in `root`, naming those beside it; or if its journal is damaged.
        ConfigError: if its plan is damaged.
    """
    plan = load_plan(root)
    folder = plan.folder
    search, confirm = read_journal(folder.journal), read_journal(folder.confirm_journal)
    final = _read_final(folder.final_file)
    stage = _stage(search, confirm, final)
    driver = read_driver(folder)
    activity = _activity(folder, driver, final)
    running = activity is Activity.RUNNING
    return Progress(
        plan=plan,
        stage=stage,
        activity=activity,
        driver=driver,
        search=search,
        confirm=confirm,
        final=final,
        quiet_seconds=quiet_seconds(folder),
        stage_seconds=_age(_stage_begin(folder, stage, driver)) if running and driver else None,
    )


def is_running(folder: StudyFolder) -> bool:
    """Whether somebody is working on the study, as far as can be told from here; quick enough to ask every second."""
    alive = driver_alive(folder)
    if alive is not None:
        return alive
    quiet = quiet_seconds(folder)
    return quiet < QUIET_SECONDS or quiet < 2 * _longest_trial(folder)


def quiet_seconds(folder: StudyFolder) -> float:
    """Seconds since the last event that the study's folder tells of; where hosts share it, by the server's clock."""
    files = (folder.plan_file, folder.journal, folder.confirm_journal, folder.final_file)
    times = [file.stat().st_mtime for file in files if file.exists()]
    driver = read_driver(folder)
    return _age(max([*times, driver.started if driver else 0.0]))


def _stage(search: Journal, confirm: Journal, final: FinalRecord | None) -> Stage:
    if final is not None:
        return Stage.RECORD
    if search.status != "finished":
        return Stage.SEARCH
    return Stage.FINAL if confirm.status == "finished" else Stage.CONFIRM


def _activity(folder: StudyFolder, driver: Driver | None, final: FinalRecord | None) -> Activity:
    if is_running(folder):
        return Activity.RUNNING
    if driver is not None:
        return Activity.GONE
    return Activity.INTERRUPTED if final is None else Activity.FINISHED


def _longest_trial(folder: StudyFolder) -> float:
    """Seconds of the longest trial that ended."""
    journals = [read_journal(folder.journal), read_journal(folder.confirm_journal)]
    return max((trial.seconds for journal in journals for trial in journal.finished), default=0.0)


def _stage_begin(folder: StudyFolder, stage: Stage, driver: Driver) -> float:
    """The last word of the stage before, or this session's beginning, whichever was later."""
    before = {Stage.CONFIRM: folder.journal, Stage.FINAL: folder.confirm_journal, Stage.RECORD: folder.final_file}
    file = before.get(stage)
    return max(driver.started, file.stat().st_mtime if file and file.exists() else 0.0)


def _age(moment: float) -> float:
    return max(0.0, time.time() - moment)


def _read_final(path: Path) -> FinalRecord | None:
    return FinalRecord.from_json(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None
