"""The Optuna study of a search: where it is kept, and how it is opened, seeded and mended."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, Trial
from optuna.trial import TrialState as OptunaState

from fmasearch.config import SearchConfig
from fmasearch.records import EpochResult, Objective, Params, TrialState
from fmasearch.searcher.samplers import build_sampler
from fmasearch.space import Space

OPTUNA_STATES = {
    TrialState.COMPLETED: OptunaState.COMPLETE,
    TrialState.PRUNED: OptunaState.PRUNED,
    TrialState.FAILED: OptunaState.FAIL,
}


def open_study(
    path: Path, search: SearchConfig, space: Space, objective: Objective, *, concurrency: int
) -> optuna.Study:
    """Create the study in an sqlite file, or load it to go on.

    A new study starts with the space's known-good points (or, for `grid`, with every point of the grid).
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = optuna.storages.RDBStorage(f"sqlite:///{path}", engine_kwargs={"connect_args": {"timeout": 60}})
    study = optuna.create_study(
        storage=storage,
        study_name="fmasearch",
        direction="maximize" if objective.mode == "max" else "minimize",
        pruner=optuna.pruners.NopPruner(),
        load_if_exists=True,
    )
    existing = study.get_trials(deepcopy=False)
    study.sampler = build_sampler(search, space, concurrency=concurrency, num_existing=len(existing))
    # First points are the first trials; a driver that was killed here left some of them out.
    for attributes, params in _first_points(search, space)[len(existing) :]:
        study.enqueue_trial(dict(params), user_attrs=attributes)
    return study


def close_trial(study: optuna.Study, number: int, state: TrialState, epochs: tuple[EpochResult, ...]) -> None:
    """Tell the study how a trial ended that it still holds as RUNNING (the driver was killed in between)."""
    frozen = next(t for t in study.get_trials(deepcopy=False) if t.number == number)
    trial = Trial(study, frozen._trial_id)
    for epoch in epochs:
        if epoch.epoch not in frozen.intermediate_values:
            trial.report(epoch.best_objective, epoch.epoch)
    value = epochs[-1].best_objective if state is TrialState.COMPLETED else None
    study.tell(trial, value, state=OPTUNA_STATES[state])


def state_of(trial: FrozenTrial) -> TrialState:
    """Our word for an Optuna state."""
    words = {optuna_state: ours for ours, optuna_state in OPTUNA_STATES.items()}
    return words.get(trial.state, TrialState.RUNNING)


def _first_points(search: SearchConfig, space: Space) -> Sequence[tuple[dict[str, Any], Params]]:
    """Attributes and parameters of the trials that are decided before the sampler is asked."""
    if search.sampler.name == "grid":
        return [({"listed": True}, point) for point in space.grid()[: search.num_trials]]
    return [({"label": label}, point) for label, point in space.known_good.items()][: search.num_trials]
