"""The early end of a search: nothing but failures, or nothing left to gain."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from itertools import takewhile

from optuna.study import StudyDirection
from optuna.terminator import RegretBoundEvaluator
from optuna.trial import FrozenTrial, create_trial
from optuna.trial import TrialState as OptunaState

from fmasearch.config import SearchConfig, TerminatorConfig, derive_seed
from fmasearch.searcher.objectives import curve

_JUDGED = (OptunaState.COMPLETE, OptunaState.PRUNED)


class Ending:
    """Says when a search should start no more trials, and why.

    It looks at the study alone, so a resumed search comes to the same answer.
    """

    def __init__(self, search: SearchConfig) -> None:
        self._max_failures = search.max_failures
        self._terminator = search.terminator
        self._seed = derive_seed(search.seed, "terminator")
        self._num_judged = 0
        self.reason: str | None = None
        """A sentence; None while the search should go on."""

    def look(self, trials: Sequence[FrozenTrial], direction: StudyDirection) -> None:
        """Look at a study's trials again, those alone that were trained in it. A reason once found stays."""
        if self.reason is None:
            self.reason = hopeless(trials, self._max_failures)
        num_judged = sum(trial.state in _JUDGED for trial in trials)
        # Fitting a Gaussian process takes a tenth of a second: not without news.
        if self.reason is None and self._terminator.name != "none" and num_judged > self._num_judged:
            self._num_judged = num_judged
            self.reason = nothing_to_gain(trials, direction, self._terminator, seed=self._seed)


def hopeless(trials: Sequence[FrozenTrial], max_failures: int | None) -> str | None:
    """That the last `max_failures` trials to end failed, every one; None if not so."""
    if max_failures is None:
        return None
    ended = sorted((t for t in trials if t.datetime_complete), key=lambda t: (t.datetime_complete, t.number))
    failed = list(takewhile(lambda trial: trial.state is OptunaState.FAIL, reversed(ended)))
    if len(failed) < max_failures:
        return None
    return f"the last {len(failed)} trials failed, one after the other (max_failures: {max_failures})"


def nothing_to_gain(
    trials: Sequence[FrozenTrial], direction: StudyDirection, terminator: TerminatorConfig, *, seed: int
) -> str | None:
    """That the regret which is left is below noise, with high probability; None if not so.

    Trials are compared at one epoch: most were stopped early, and their values are of different epochs.
    """
    assert terminator.noise is not None  # the configuration sees to it
    epoch, values = at_one_epoch(trials, terminator.min_trials)
    if not values:
        return None
    with warnings.catch_warnings():
        # Optuna announces that its terminators leave with version 6, which the project does not admit.
        warnings.simplefilter("ignore")
        regret = float(RegretBoundEvaluator(seed=seed).evaluate(values, direction))
    if regret >= terminator.noise:
        return None
    return (
        f"no trial is expected to gain more than {regret:.3g}, which is below the noise of {terminator.noise:g} "
        f"(regret bound from {len(values)} trials at epoch {epoch})"
    )


def at_one_epoch(trials: Sequence[FrozenTrial], least: int) -> tuple[int, list[FrozenTrial]]:
    """The last epoch that `least` trials reached, and those trials as completed with their best value by then.

    A trial that ended of itself before that epoch is there with its own end. None are returned where too few
    trials got anywhere.
    """
    curves = [(trial, values) for trial in trials if trial.state in _JUDGED and (values := curve(trial))]
    reached = sorted((max(values) for _, values in curves), reverse=True)
    if len(reached) < least:
        return 0, []
    epoch = reached[least - 1]
    return epoch, [
        _completed(trial, values, epoch)
        for trial, values in curves
        if max(values) >= epoch or trial.state is OptunaState.COMPLETE
    ]


def _completed(trial: FrozenTrial, values: Mapping[int, float], epoch: int) -> FrozenTrial:
    last = max(step for step in values if step <= epoch)
    return create_trial(params=trial.params, distributions=trial.distributions, value=values[last])
