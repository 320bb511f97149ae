"""The scheduler: Ray Tune's side of the rule that stops weak trials."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from fmasearch.config import SearchConfig
from fmasearch.pruning import Pruner, build_pruner
from fmasearch.records import Objective
from fmasearch.searcher import EPOCH_KEY, OBJECTIVE_KEY
from fmasearch.tracking import Journal


def build_scheduler(search: SearchConfig, objective: Objective, journal: Journal | None = None) -> TrialScheduler:
    """First in, first out; stopped by the rule that `search` names, which starts with what earlier sessions recorded.

    So a resumed trial is judged nowhere twice, and does not pass for one that was as good in its first epochs.
    """
    pruner = build_pruner(search, objective)
    for name, trial in (journal or Journal()).trials.items():
        for epoch in trial.epochs:
            pruner.judge(name, epoch.epoch, epoch.best_objective)  # the verdicts were spoken in those sessions
    return PruningScheduler(pruner)


class PruningScheduler(FIFOScheduler):
    """Asks `pruner` after every epoch of a trial, which it knows by the trial's name in the study."""

    def __init__(self, pruner: Pruner) -> None:
        super().__init__()
        self._pruner = pruner

    def on_trial_result(self, tune_controller: Any, trial: Any, result: Mapping[str, Any]) -> str:
        return str(TrialScheduler.STOP if self._is_weak(trial, result) else TrialScheduler.CONTINUE)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: Mapping[str, Any]) -> None:
        """Others are compared with its last epoch, too, of which Ray tells the scheduler nothing else."""
        if EPOCH_KEY in result:
            self._is_weak(trial, result)

    def _is_weak(self, trial: Any, result: Mapping[str, Any]) -> bool:
        name = str(trial.config["job"]["start"]["name"])
        return self._pruner.judge(name, int(result[EPOCH_KEY]), float(result[OBJECTIVE_KEY]))
