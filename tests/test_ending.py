"""The early end of a search: after nothing but failures, or where nothing is left to gain."""

from __future__ import annotations

import datetime
import random
from collections.abc import Sequence

import pytest
from optuna.distributions import FloatDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, create_trial
from optuna.trial import TrialState as OptunaState

from fmasearch.config import SearchConfig, TerminatorConfig, parse_section
from fmasearch.errors import ConfigError
from fmasearch.searcher.ending import Ending, at_one_epoch, hopeless, nothing_to_gain

X = {"x": FloatDistribution(0.0, 1.0)}
NOON = datetime.datetime(2026, 1, 1, 12)


def ended(state: OptunaState, minute: int, x: float = 0.5, curve: Sequence[float] = ()) -> FrozenTrial:
    """A trial that ended so many minutes after noon, with its best value after each epoch."""
    trial = create_trial(
        state=state,
        params={"x": x},
        distributions=X,
        value=curve[-1] if state is OptunaState.COMPLETE else None,
        intermediate_values=dict(enumerate(curve, start=1)),
    )
    trial.number, trial.datetime_complete = minute, NOON + datetime.timedelta(minutes=minute)
    return trial


FAIL, PRUNED, COMPLETE = OptunaState.FAIL, OptunaState.PRUNED, OptunaState.COMPLETE


def test_failures_in_a_row_end_the_search() -> None:
    trials = [ended(state, minute) for minute, state in enumerate([PRUNED, FAIL, FAIL, FAIL])]
    assert hopeless(trials, 3) == "the last 3 trials failed, one after the other (max_failures: 3)"
    assert hopeless(trials, 4) is None
    assert hopeless(trials, None) is None


def test_a_row_is_by_the_time_of_the_end_and_broken_by_any_trial_that_learnt_something() -> None:
    states = [FAIL, FAIL, PRUNED, FAIL]
    assert hopeless([ended(state, minute) for minute, state in enumerate(states)], 2) is None
    late = ended(FAIL, 9)
    late.number = -1  # started first, ended last: with the one before it, the row is two
    assert hopeless([late, *(ended(state, minute) for minute, state in enumerate(states))], 2) is not None


def test_trials_are_compared_at_the_last_epoch_that_enough_of_them_reached() -> None:
    trials = [
        ended(PRUNED, 0, curve=[0.1, 0.2]),
        ended(PRUNED, 1, curve=[0.1, 0.3, 0.4]),
        ended(PRUNED, 2, curve=[0.1, 0.5, 0.6, 0.7]),
        ended(COMPLETE, 3, curve=[0.8]),  # ended of itself: that is its value at any later epoch
        ended(FAIL, 4, curve=[0.9, 0.9, 0.9, 0.9]),
    ]
    epoch, values = at_one_epoch(trials, 2)
    assert (epoch, [trial.value for trial in values]) == (3, [0.4, 0.6, 0.8])
    assert at_one_epoch(trials, 5) == (0, [])


def plain(x: float, noise: float, generator: random.Random) -> float:
    return 1 - (x - 0.3) ** 2 + generator.gauss(0, noise)


@pytest.mark.parametrize("direction", [StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE])
def test_a_search_that_found_the_top_ends_and_one_that_still_gains_goes_on(direction: StudyDirection) -> None:
    sign = 1 if direction is StudyDirection.MAXIMIZE else -1
    generator = random.Random(0)
    xs = [0.3 + generator.gauss(0, 0.05) for _ in range(30)]
    trials = [ended(PRUNED, i, x, [sign * plain(x, 0.001, generator)]) for i, x in enumerate(xs)]
    # Twenty trials around the optimum: what is left is far below 0.5 and far above 1e-6.
    reason = nothing_to_gain(trials, direction, TerminatorConfig(name="regret_bound", noise=0.5), seed=0)
    assert reason is not None
    assert "which is below the noise of 0.5 (regret bound from 30 trials at epoch 1)" in reason
    assert nothing_to_gain(trials, direction, TerminatorConfig(name="regret_bound", noise=1e-6), seed=0) is None


def test_too_few_trials_end_nothing() -> None:
    settings = SearchConfig(terminator=TerminatorConfig(name="regret_bound", noise=100.0), max_failures=None)
    ending = Ending(settings)
    ending.look([ended(PRUNED, i, i / 20, [0.5]) for i in range(19)], StudyDirection.MAXIMIZE)
    assert ending.reason is None
    ending.look([ended(PRUNED, i, i / 20, [0.5]) for i in range(20)], StudyDirection.MAXIMIZE)
    assert ending.reason is not None


def test_a_terminator_without_noise_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"terminator.*noise: regret_bound needs it"):
        parse_section(SearchConfig, {"terminator": {"name": "regret_bound"}}, source="search/mine.yaml")
