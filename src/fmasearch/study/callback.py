"""What Ray Tune says while trials run, told to a tracker in our own words."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ray import cloudpickle, tune
from ray.exceptions import RayActorError
from ray.tune.experiment import Trial

from fmasearch.files import replacing
from fmasearch.records import EpochResult, TrialRecord, TrialStart, TrialState
from fmasearch.searcher import RESULT_KEY, outcome
from fmasearch.space import Constraint
from fmasearch.space.constraints import too_slow
from fmasearch.study.actor import OUTPUTS_KEY, TrialJob
from fmasearch.study.checkpoints import remove_checkpoint
from fmasearch.study.losses import MOST_LOSSES, node_was_lost
from fmasearch.tracking import Tracker

_DIED = "the worker died without a word (out of memory?)"


class TrackerCallback(tune.Callback):
    """Passes trials on, as `start_trial`, `log_epoch` and `finish_trial`.

    Args:
        tracker: hears of everything, on the driver.
        errors: folder for the tracebacks of failed trials.
        earlier: epochs by trial name that an interrupted session already told.
        constraints: of the space; one that a stopped trial broke is its reason.
        outputs: folder for the validation outputs that trainings bring, `<trial>.npz`; needed if any does.
    """

    def __init__(
        self,
        tracker: Tracker,
        errors: Path,
        earlier: Mapping[str, tuple[EpochResult, ...]] | None = None,
        outputs: Path | None = None,
        constraints: Sequence[Constraint] = (),
    ) -> None:
        self._tracker = tracker
        self._constraints = constraints
        self._errors = errors
        self._outputs = outputs
        self._epochs: dict[str, list[EpochResult]] = {k: list(v) for k, v in (earlier or {}).items()}
        self._started: dict[str, float] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Ray pickles its callbacks for a restore that we do not use; trackers hold files and stay here."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        start = _start_of(trial)
        if start.name not in self._started:
            self._started[start.name] = time.monotonic()
            self._epochs.setdefault(start.name, [])
            self._tracker.start_trial(start)

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        epoch = EpochResult.from_json(result[RESULT_KEY])
        name = _start_of(trial).name
        self._epochs[name] = [e for e in self._epochs[name] if e.epoch < epoch.epoch] + [epoch]
        if self._outputs is not None and OUTPUTS_KEY in result:  # before the journal says that the training is over
            with replacing(self._outputs / f"{name}.npz") as temporary:
                temporary.write_bytes(result[OUTPUTS_KEY])
        self._tracker.log_epoch(name, epoch)

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._finish(trial, outcome(trial.last_result), None)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        if trial.error_file and Path(trial.error_file).exists():  # Ray's own folder goes when the study ends
            self._errors.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(trial.error_file, self._errors / f"{_start_of(trial).name}.txt")
        self._finish(trial, TrialState.FAILED, _reason(trial))

    def _finish(self, trial: Trial, state: TrialState, error: str | None) -> None:
        job = TrialJob.from_config(trial.config)
        name = job.start.name
        if state is TrialState.FAILED and error is None:
            error = "stopped before its first epoch ended"
        seconds = time.monotonic() - self._started.get(name, time.monotonic())
        epochs = tuple(self._epochs.pop(name, ()))
        if state is TrialState.PRUNED and (slow := too_slow(self._constraints, [e.epoch_seconds for e in epochs])):
            error = str(slow)
        self._tracker.finish_trial(TrialRecord(job.start, state, epochs, seconds, error))
        if job.checkpoint is not None:
            remove_checkpoint(job.checkpoint)


def _start_of(trial: Trial) -> TrialStart:
    return TrialJob.from_config(trial.config).start


def _reason(trial: Trial) -> str:
    """What was raised in the actor, without its traceback."""
    file = trial.pickled_error_file
    if file is None or not Path(file).exists():
        return _DIED
    error = cloudpickle.loads(Path(file).read_bytes())
    if isinstance(error, RayActorError):
        return f"lost its node {MOST_LOSSES + 1} times" if node_was_lost(error) else _DIED
    cause = getattr(error, "cause", None) or error
    lines = [line for line in str(cause).splitlines() if line.strip()]
    return f"{type(cause).__name__}: {lines[-1].strip() if lines else ''}"[:500]
