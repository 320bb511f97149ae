"""Importance: which keys set a study's best trials apart, by Optuna's PED-ANOVA over a study made for the purpose."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.storages import InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import FixedTrial, FrozenTrial
from optuna.trial import TrialState as OptunaState

from fmasearch.records import Objective, Params
from fmasearch.space import Space

FEWEST_TOP = 5
"""Trials that the top group should have at the least (Optuna's own advice for PED-ANOVA)."""
SMALLEST_SHARE, LARGEST_SHARE = 0.1, 0.25
"""Of all trials in the top group: Optuna's default, or more where that is fewer than `FEWEST_TOP` trials.

More than a quarter would no longer be the best of them.
"""
ENOUGH_TRIALS = round(FEWEST_TOP / LARGEST_SHARE)
"""With fewer, no quarter has `FEWEST_TOP` trials: what is found says little."""
FEWEST_TRIALS = 4
"""With fewer, there is no top group that differs from all trials."""
NUM_DRAWS = 100


@dataclass(frozen=True, slots=True)
class KeyImportance:
    """One key's share of the importance of all keys; shares sum to 1."""

    key: str
    share: float
    low: float
    """End of the 90 % bootstrap interval over trials."""
    high: float
    chance: float
    """The share it has in 1 of 20 shufflings of the values among the trials: a key below it may not matter at all."""
    num_trials: int
    """Trials in which the key was active, and has a value."""


@dataclass(frozen=True, slots=True)
class Importance:
    """What sets the best `num_top` of `num_trials` trials apart from all of them; most important key first."""

    keys: tuple[KeyImportance, ...]
    num_trials: int
    num_top: int

    @property
    def enough(self) -> bool:
        """Whether there are trials enough to say anything."""
        return self.num_trials >= ENOUGH_TRIALS


def importance(
    space: Space, points: Sequence[tuple[Params, float]], objective: Objective, *, num_draws: int = NUM_DRAWS
) -> Importance:
    """PED-ANOVA over parameters and values of trials (Watanabe et al., IJCAI 2023).

    A key matters as much as the density of its values in the best trials differs from that in all trials. One that
    is not always active is judged among the trials where it was, weighted by how many of the best and of all trials
    those are (conditional PED-ANOVA, as Optuna 5 has it).

    Args:
        points: sampled parameters of every trial and its value; values that are not finite are left out.
        num_draws: of the bootstrap, and of the shuffling; 0 leaves both out (NaN).
    """
    trials = _trials(space, [(params, value) for params, value in points if math.isfinite(value)])
    num_trials = len(trials)
    share = top_share(num_trials)
    if num_trials < FEWEST_TRIALS:
        return Importance((), num_trials, 0)
    study = _GivenTrials(objective)
    found = _shares(study, trials, share)
    generator = np.random.default_rng(0)
    spread = [_shares(study, _resampled(trials, generator), share) for _ in range(num_draws)]
    by_chance = [_shares(study, _shuffled(trials, generator), share) for _ in range(num_draws)]
    keys = tuple(
        KeyImportance(
            key=key,
            share=value,
            low=_quantile(spread, key, 0.05),
            high=_quantile(spread, key, 0.95),
            chance=_quantile(by_chance, key, 0.95),
            num_trials=sum(key in trial.params for trial in trials),
        )
        for key, value in sorted(found.items(), key=lambda item: -item[1])
    )
    return Importance(keys, num_trials, math.ceil(share * num_trials))


def top_share(num_trials: int) -> float:
    """Share of the trials that counts as the best."""
    return min(LARGEST_SHARE, max(SMALLEST_SHARE, FEWEST_TOP / max(1, num_trials)))


def _trials(space: Space, points: Sequence[tuple[Params, float]]) -> list[FrozenTrial]:
    known: dict[tuple[str, BaseDistribution], BaseDistribution] = {}
    return [_trial(number, space, params, value, known) for number, (params, value) in enumerate(points)]


def _trial(
    number: int,
    space: Space,
    params: Params,
    value: float,
    known: dict[tuple[str, BaseDistribution], BaseDistribution],
) -> FrozenTrial:
    """A completed trial of `value`. Distributions that are equal are one object: the evaluator compares them a lot."""
    fixed = FixedTrial(dict(params))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a value beyond its range was trained all the same
        space.sample(fixed)
    distributions = {key: known.setdefault((key, each), each) for key, each in fixed.distributions.items()}
    return _frozen(number, {key: params[key] for key in distributions}, distributions, value)


def _frozen(number: int, params: Params, distributions: Mapping[str, BaseDistribution], value: float) -> FrozenTrial:
    return FrozenTrial(
        number=number,
        trial_id=number,  # by which the evaluator knows the best among all
        state=OptunaState.COMPLETE,
        value=value,
        datetime_start=None,
        datetime_complete=None,
        params=dict(params),
        distributions=dict(distributions),
        user_attrs={},
        system_attrs={},
        intermediate_values={},
    )


def _resampled(trials: Sequence[FrozenTrial], generator: np.random.Generator) -> list[FrozenTrial]:
    return [trials[index] for index in generator.integers(0, len(trials), len(trials))]


def _shuffled(trials: Sequence[FrozenTrial], generator: np.random.Generator) -> list[FrozenTrial]:
    """The same parameters with each other's values."""
    return [
        _frozen(trial.number, trial.params, trial.distributions, trials[other].value)
        for trial, other in zip(trials, generator.permutation(len(trials)), strict=True)
    ]


def _shares(study: _GivenTrials, trials: Sequence[FrozenTrial], share: float) -> dict[str, float]:
    """Every key's share, all 0 where nothing differs."""
    study.trials_given = list(trials)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # too few trials: said by us, with their number
        found = PedAnovaImportanceEvaluator(target_quantile=share).evaluate(study)
    total = sum(found.values())
    return {key: float(value / total) if total > 0 else 0.0 for key, value in found.items()}


def _quantile(draws: Sequence[Mapping[str, float]], key: str, quantile: float) -> float:
    """Of a key's shares; a draw without any trial in which it is active gives it none."""
    return float(np.quantile([draw.get(key, 0.0) for draw in draws], quantile)) if draws else math.nan


class _GivenTrials(optuna.Study):
    """A study in memory of trials that no storage holds: the evaluator asks for them and for the direction alone."""

    def __init__(self, objective: Objective) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        storage = InMemoryStorage()
        direction = StudyDirection.MAXIMIZE if objective.mode == "max" else StudyDirection.MINIMIZE
        storage.create_new_study([direction], "importance")
        super().__init__("importance", storage)
        self.trials_given: list[FrozenTrial] = []

    def get_trials(self, deepcopy: bool = True, states: Any = None) -> list[FrozenTrial]:
        """All of them: they are all completed, and nobody changes them."""
        return self.trials_given
