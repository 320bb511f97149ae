"""The scheduler: asynchronous successive halving that survives the driver, or none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from fmasearch.config import SearchConfig, derive_seed
from fmasearch.records import EpochResult, Objective
from fmasearch.searcher import EPOCH_KEY, OBJECTIVE_KEY
from fmasearch.tracking import Journal


def build_scheduler(search: SearchConfig, objective: Objective, journal: Journal | None = None) -> TrialScheduler:
    """ASHA, or none. ASHA's rungs start with what the trials of earlier sessions reached."""
    if search.scheduler.name == "none":
        return FIFOScheduler()
    journal = journal or Journal()
    scheduler = _ResumableAsha(
        earlier={t.start.name: t.epochs for t in journal.unfinished},
        seed=search.seed,
        time_attr=EPOCH_KEY,
        metric=OBJECTIVE_KEY,
        mode=objective.mode,
        max_t=search.max_epochs,
        grace_period=search.scheduler.grace_period,
        reduction_factor=search.scheduler.reduction_factor,
        brackets=search.scheduler.brackets,
    )
    for trial in journal.finished:
        stub: Any = SimpleNamespace(trial_id=trial.name, config={"job": {"start": {"name": trial.name}}})
        scheduler.on_trial_add(None, stub)
        scheduler.replay(stub, trial.epochs)
    return scheduler


class _ResumableAsha(ASHAScheduler):
    """ASHA that judges a resumed trial at no rung twice: what it reached before is recorded with the trial.

    Without it a trial that goes on at epoch 40 would enter the rungs below as if that were its value there.
    A trial's bracket follows from the study's seed and the trial's name, also when the study is resumed.
    """

    def __init__(self, *, earlier: Mapping[str, tuple[EpochResult, ...]], seed: int, **settings: Any) -> None:
        super().__init__(**settings)
        self._earlier = earlier
        self._seed = seed

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        name = trial.config["job"]["start"]["name"]
        global_state = np.random.get_state()  # noqa: NPY002  Ray draws the bracket from it
        np.random.seed(derive_seed(self._seed, "bracket", name))  # noqa: NPY002
        super().on_trial_add(tune_controller, trial)
        np.random.set_state(global_state)  # noqa: NPY002
        self.replay(trial, self._earlier.get(name, ()))

    def replay(self, trial: Any, epochs: Sequence[EpochResult]) -> None:
        """Record the rungs that `epochs` reached; the verdicts were spoken in an earlier session."""
        for epoch in epochs:
            self.on_trial_result(None, trial, {EPOCH_KEY: epoch.epoch, OBJECTIVE_KEY: epoch.best_objective})
