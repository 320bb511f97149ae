"""The trees sampler: Thompson sampling with a few random regression trees over whatever trials have shown so far.

A model of finished trials has little to go by where nearly all are stopped early, and one of a single rung forgets the
rest. These trees predict where a trial *stands*: the rank of its best objective so far among all trials, however far
each was trained. Early stopping keeps to the same order (`fmasearch.pruning.standing`), so that the sampler proposes
what the rule would let go on. Trees take keys of any kind, and those that are not active, without being told how.

Axes: N trials, P keys, C candidates.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState
from sklearn.tree import ExtraTreeRegressor

from fmasearch.records import Params, Scalar
from fmasearch.searcher.objectives import REJECTED_KEY, curve
from fmasearch.searcher.reach import all_keys
from fmasearch.space import Choice, Distribution, Space
from fmasearch.space.points import PointTrial

Array: TypeAlias = NDArray[np.float32]

NUM_TREES = 4
"""Fewer trees differ more from one proposal to the next: that is the exploration. Chosen with the benchmark's four
development tasks (`benchmarks/search_quality.py`), as were the candidates and the leaves."""
NUM_CANDIDATES = 200
MIN_LEAF = 2
_NOT_ACTIVE = -1.0  # active values are 0 to 1


class TreesSampler(optuna.samplers.BaseSampler):
    """Proposes the best of 200 random configurations by the mean of four trees, each grown on a bootstrap of trials.

    Geurts et al., "Extremely randomized trees" (2006), as the surrogate; a bootstrap of a few for Thompson sampling as
    in Osband & Van Roy, "Bootstrapped Thompson Sampling and Deep Exploration" (2015).

    Args:
        space: what is sampled.
        num_startup_trials: random ones before.
        seed: of the draws.
    """

    def __init__(self, space: Space, *, num_startup_trials: int, seed: int) -> None:
        self._space = space
        self._keys = all_keys(space)
        self._num_startup_trials = num_startup_trials
        self._draw = np.random.default_rng(seed)
        self._random = optuna.samplers.RandomSampler(seed=seed)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return dict(self._keys)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        trials, losses = standing(study.get_trials(deepcopy=False), study.directions[0])
        if len(trials) < self._num_startup_trials:
            return {}
        generator = random.Random(int(self._draw.integers(1 << 30)))
        candidates = [self._space.sample(PointTrial({}, generator)) for _ in range(NUM_CANDIDATES)]
        known = encode(self._space, [each.params for each in trials])
        return dict(candidates[best_candidate(known, losses, encode(self._space, candidates), self._draw)])

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._random.sample_independent(study, trial, param_name, param_distribution)


def standing(trials: Sequence[FrozenTrial], direction: StudyDirection) -> tuple[list[FrozenTrial], NDArray[np.float64]]:
    """Trials that have shown something, running ones too, and the best of each so far as a loss; failed ones lose all.

    Those that were turned down without training take no part.
    """
    sign = -1.0 if direction is StudyDirection.MAXIMIZE else 1.0
    known: list[FrozenTrial] = []
    losses: list[float] = []
    for trial in trials:
        values = curve(trial) or dict(enumerate((trial.values or ())[:1]))
        if trial.state is OptunaState.FAIL and REJECTED_KEY not in trial.user_attrs:
            known.append(trial)
            losses.append(math.inf)
        elif trial.state is not OptunaState.FAIL and values:
            loss = sign * values[max(values)]
            known.append(trial)
            losses.append(loss if math.isfinite(loss) else math.inf)
    return known, np.array(losses)


def encode(space: Space, points: Sequence[Params]) -> Array:
    """Points as rows (N, P): each key from 0 to 1 in its own scale, a choice by its place, -1 where not active."""
    columns = space.distributions.items()
    rows = [
        [_coordinate(each, point[path]) if path in point else _NOT_ACTIVE for path, each in columns] for point in points
    ]
    return np.array(rows, dtype=np.float32).reshape(len(points), len(space.distributions))


def best_candidate(
    known_NP: Array, losses_N: NDArray[np.float64], candidates_CP: Array, draw: np.random.Generator
) -> int:
    """The index of the candidate with the best predicted standing.

    Args:
        losses_N: less is better; infinite for the worst.
    """
    # The logarithm of ranks tells the best apart more than the poor.
    targets_N = np.log(np.unique(losses_N, return_inverse=True)[1] + 1.0)
    predicted_C = 1e-9 * draw.random(len(candidates_CP))
    for _ in range(NUM_TREES):
        drawn = draw.integers(len(known_NP), size=len(known_NP))
        tree = ExtraTreeRegressor(min_samples_leaf=MIN_LEAF, random_state=int(draw.integers(1 << 30)))
        tree.fit(known_NP[drawn], targets_N[drawn], check_input=False)
        predicted_C += tree.predict(candidates_CP, check_input=False)
    return int(np.argmin(predicted_C))


def _coordinate(distribution: Distribution, value: Scalar) -> float:
    if isinstance(distribution, Choice):
        place = next(index for index, choice in enumerate(distribution.values) if choice == value)
        return place / max(1, len(distribution.values) - 1)
    assert isinstance(value, int | float)
    low, high, number = float(distribution.low), float(distribution.high), float(value)
    if distribution.log:
        low, high, number = math.log(low), math.log(high), math.log(number)
    return (number - low) / (high - low) if high > low else 0.0
