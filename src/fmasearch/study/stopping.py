"""Requests to stop a study, or some of its trials: one empty file each in the study's folder, which the driver takes.

Files, so that they work wherever the folder is shared; one for each request, so that no two are in each other's way.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ray.tune import Stopper

from fmasearch.records import EpochResult
from fmasearch.searcher import RESULT_KEY
from fmasearch.space import Constraint
from fmasearch.space.constraints import too_slow
from fmasearch.study.driver import requests_folder
from fmasearch.study.folder import StudyFolder

POLL_SECONDS = 0.5
"""How often a driver looks for requests. One look takes about 10 us on a local disk."""

_WHOLE_STUDY = "study"  # no trial is called so


def request_stop(folder: StudyFolder, trials: Sequence[str] = ()) -> None:
    """Ask the study's driver to stop these trials, or without any the whole study as Ctrl-C would."""
    requests = requests_folder(folder)
    requests.mkdir(exist_ok=True)
    for name in trials or [_WHOLE_STUDY]:
        (requests / _file_name(name)).touch()


def open_requests(folder: StudyFolder) -> frozenset[str]:
    """Requests that no driver has taken yet: names of trials, and `study`."""
    requests = requests_folder(folder)
    files = requests.glob(_file_name("*")) if requests.is_dir() else ()
    return frozenset(file.name.removeprefix(_file_name("")) for file in files)


def withdraw_requests(folder: StudyFolder) -> None:
    """Take back what no driver will read any more."""
    _take(folder)


def stop_requested(folder: StudyFolder) -> bool:
    """Whether somebody wants the whole study stopped. For the driver: the request is taken, and told only once."""
    return _WHOLE_STUDY in _take(folder)


class StopRequests(Stopper):
    """The driver's side, while Ray Tune runs: it asks a `Stopper` after every epoch of a trial, and in every loop.

    A trial ends with the epoch that it is in, and is pruned like one that the scheduler stopped. The whole study is
    stopped by the very signal of Ctrl-C: what `Stopper.stop_all` could do would end the trials for good, as pruned.
    """

    def __init__(self, folder: StudyFolder) -> None:
        self._folder = folder
        self._trials: set[str] = set()
        self._looked_at = -POLL_SECONDS

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Whether the trial of this result ends now."""
        self._look()
        return result["config"]["job"]["start"]["name"] in self._trials

    def stop_all(self) -> bool:
        """Never: see above."""
        self._look()
        return False

    def _look(self) -> None:
        if time.monotonic() - self._looked_at < POLL_SECONDS:
            return
        self._looked_at = time.monotonic()
        taken = _take(self._folder)
        self._trials |= taken
        if _WHOLE_STUDY in taken:
            signal.raise_signal(signal.SIGINT)


class SlowTrials(Stopper):
    """Ends trials that take longer for an epoch than a constraint of the space allows.

    Args:
        constraints: of the space; only those on `epoch_seconds` are asked.
        earlier: epochs by trial name that an interrupted session already told.
    """

    def __init__(self, constraints: Sequence[Constraint], earlier: Mapping[str, Sequence[EpochResult]]) -> None:
        self._constraints = constraints
        self._seconds = {name: {e.epoch: e.epoch_seconds for e in epochs} for name, epochs in earlier.items()}

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Whether the trial of this result ends now."""
        epoch = EpochResult.from_json(result[RESULT_KEY])
        seconds = self._seconds.setdefault(result["config"]["job"]["start"]["name"], {})
        seconds[epoch.epoch] = epoch.epoch_seconds  # a resumed trial may tell an epoch again
        return too_slow(self._constraints, list(seconds.values())) is not None

    def stop_all(self) -> bool:
        return False


def _take(folder: StudyFolder) -> frozenset[str]:
    """Requests since the last look; their files are removed, which tells those who wait that they were read."""
    taken = open_requests(folder)
    for name in taken:
        (requests_folder(folder) / _file_name(name)).unlink(missing_ok=True)
    return taken


def _file_name(name: str) -> str:
    return f"stop-{name}"
