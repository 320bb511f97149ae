"""The Optuna study of a search: where it is kept, and how it is opened, seeded and mended."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, Trial

from fmasearch.config import SearchConfig
from fmasearch.records import EpochResult, Objective, Params, TrialState
from fmasearch.searcher.objectives import create_directions, curve, final_values, name_objectives, report_epoch
from fmasearch.searcher.samplers import build_sampler
from fmasearch.searcher.states import OPTUNA_STATES, state_of
from fmasearch.searcher.warm_start import EARLIER_KEY, EarlierStudy, first_points, sampler_memory
from fmasearch.space import Space

__all__ = ["OPTUNA_STATES", "close_trial", "open_study", "own_trials", "state_of"]


def open_study(
    path: Path,
    search: SearchConfig,
    space: Space,
    objective: Objective,
    *,
    concurrency: int,
    earlier: Sequence[EarlierStudy] = (),
) -> optuna.Study:
    """Create the study in an sqlite file, or load it to go on.

    A new study starts with the space's known-good points (or, for `grid`, with every point of the grid), then with
    the best of the `earlier` studies, whose trials its sampler knows where they are comparable.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = optuna.storages.RDBStorage(f"sqlite:///{path}", engine_kwargs={"connect_args": {"timeout": 60}})
    study = optuna.create_study(
        storage=storage,
        study_name="fmasearch",
        directions=create_directions(search, objective),
        pruner=optuna.pruners.NopPruner(),
        load_if_exists=True,
    )
    name_objectives(study, search, objective)
    own = own_trials(study)
    # First points are the first trials, after what is only remembered; a driver that was killed here left some out.
    if not own and not search.also_minimise:  # earlier studies have one value to a trial
        num_told = len(study.get_trials(deepcopy=False))
        study.add_trials(sampler_memory(space, earlier)[num_told:])
    for attributes, params in _first_points(search, space, earlier, objective)[len(own) :]:
        study.enqueue_trial(dict(params), user_attrs=attributes)
    study.sampler = build_sampler(search, space, concurrency=concurrency, num_existing=len(own))
    return study


def close_trial(study: optuna.Study, number: int, state: TrialState, epochs: tuple[EpochResult, ...]) -> None:
    """Tell the study how a trial ended that it still holds as RUNNING (the driver was killed in between)."""
    frozen = next(t for t in study.get_trials(deepcopy=False) if t.number == number)
    trial = Trial(study, frozen._trial_id)
    told = curve(frozen)
    for epoch in epochs:
        if epoch.epoch not in told:
            report_epoch(trial, epoch.epoch, epoch.best_objective, epoch.epoch_seconds)
    values = final_values(trial, epochs[-1].best_objective) if state is TrialState.COMPLETED else None
    study.tell(trial, values, state=OPTUNA_STATES[state])


def own_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Trials of this study, without those that a warm start told the sampler of."""
    return [trial for trial in study.get_trials(deepcopy=False) if EARLIER_KEY not in trial.user_attrs]


def _first_points(
    search: SearchConfig, space: Space, earlier: Sequence[EarlierStudy], objective: Objective
) -> Sequence[tuple[dict[str, Any], Params]]:
    """Attributes and parameters of the trials that are decided before the sampler is asked."""
    if search.sampler.name == "grid":
        return [({"listed": True}, point) for point in space.grid()[: search.num_trials]]
    points = [*space.known_good.items(), *first_points(space, earlier, objective)]
    return [({"label": label}, point) for label, point in points][: search.num_trials]
