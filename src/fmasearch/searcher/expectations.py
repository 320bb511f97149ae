"""Expectations: what a stopped trial would have reached, for samplers that know finished trials alone.

Optuna is never told such a value. It stands in a mirror of the study, in memory, which the sampler looks at instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import optuna
from optuna.distributions import BaseDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, create_trial
from optuna.trial import TrialState as OptunaState

from fmasearch.searcher.objectives import REJECTED_KEY, curve, further_values


def expected_objectives(trials: Sequence[FrozenTrial], direction: StudyDirection) -> dict[int, float]:
    """The first objective by number of every trial that was trained, stopped ones as they would have ended.

    A stopped trial gains what finished ones gained on average from the epoch that it reached (nothing where none has
    finished), but never ends better than the best of them.
    """
    finished = [trial for trial in trials if trial.state is OptunaState.COMPLETE]
    expected = {trial.number: trial.values[0] for trial in finished}
    best = max if direction is StudyDirection.MAXIMIZE else min
    worse = min if direction is StudyDirection.MAXIMIZE else max
    best_finished = best(expected.values()) if finished else None
    for trial in trials:
        points = curve(trial)
        if trial.state is OptunaState.PRUNED and points:
            epoch, value = max(points.items())
            value += _mean_gain(finished, epoch)
            expected[trial.number] = value if best_finished is None else worse(value, best_finished)
    return expected


def mirror_of(
    study: optuna.Study, asked: FrozenTrial, space: Mapping[str, BaseDistribution]
) -> tuple[optuna.Study, FrozenTrial]:
    """A copy of the study in memory, of the keys in `space`, in which stopped trials are finished as expected.

    What was turned down since the last trial that was taken is running in it, so that a sampler keeps away from it.

    Returns:
        The copy, and in it a new trial in place of `asked`.
    """
    trials = [t for t in study.get_trials(deepcopy=False) if t.number != asked.number and _covers(t, space)]
    mirror = optuna.create_study(directions=study.directions, sampler=optuna.samplers.RandomSampler())
    expected = expected_objectives(trials, study.directions[0])
    for trial in trials:
        further = further_values(trial, study)
        if trial.number in expected and further is not None:
            values = trial.values if trial.state is OptunaState.COMPLETE else [expected[trial.number], *further]
            mirror.add_trial(_copy(trial, space, values))
    for trial in _under_way(trials):
        mirror.add_trial(_copy(trial, space, None))
    mirror.ask()
    return mirror, mirror.get_trials(deepcopy=False)[-1]


def _mean_gain(finished: Sequence[FrozenTrial], epoch: int) -> float:
    gains = [t.values[0] - points[epoch] for t in finished if epoch in (points := curve(t))]
    return sum(gains) / len(gains) if gains else 0.0


def _covers(trial: FrozenTrial, space: Mapping[str, BaseDistribution]) -> bool:
    return all(
        key in trial.params and distribution._contains(distribution.to_internal_repr(trial.params[key]))
        for key, distribution in space.items()
    )


def _under_way(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    taken = [trial.number for trial in trials if REJECTED_KEY not in trial.user_attrs]
    last_taken = max(taken, default=-1)
    return [t for t in trials if t.state is OptunaState.RUNNING or t.number > last_taken]


def _copy(trial: FrozenTrial, space: Mapping[str, BaseDistribution], values: Sequence[float] | None) -> FrozenTrial:
    return create_trial(
        state=OptunaState.RUNNING if values is None else OptunaState.COMPLETE,
        values=values,
        params={key: trial.params[key] for key in space},
        distributions=dict(space),
    )
