"""Hyperband: successive halving that hedges its bets on how early a trial can be judged."""

from __future__ import annotations

from collections.abc import Sequence

from fmasearch.pruning.base import Mode
from fmasearch.pruning.halving import Brackets, geometric_rungs


class Hyperband:
    """Asha in every bracket that fits, from the one that starts at `grace_period` to the one that hardly stops any.

    Li et al., "Hyperband: A Novel Bandit-Based Approach to Hyperparameter Optimization" (JMLR 2018), made
    asynchronous as by Li et al. (MLSys 2020): bracket s leaves out the first s rungs, and trials are compared within
    their bracket. Trials are drawn into brackets so that each bracket may expect the same number of epochs in all.

    Args:
        mode: direction of the objective.
        max_epochs: of the longest trial.
        grace_period: the first rung of the first bracket.
        reduction_factor: each rung is so many times the one before.
        seed: of the study; a trial's bracket follows from it and from the trial's name.
    """

    def __init__(
        self, mode: Mode, *, max_epochs: int, grace_period: int = 2, reduction_factor: float = 3, seed: int = 0
    ) -> None:
        rungs = geometric_rungs(grace_period, max_epochs, reduction_factor)
        brackets = [rungs[skipped:] for skipped in range(len(rungs))]
        costs = [_expected_epochs(each, max_epochs, reduction_factor) for each in brackets]
        self.shares = [1 / cost / sum(1 / each for each in costs) for cost in costs]
        """Of the trials that each bracket gets, the one with the earliest rung first."""
        self._brackets = Brackets(
            mode, brackets, self.shares, max_epochs=max_epochs, reduction_factor=reduction_factor, seed=seed
        )

    def bracket_of(self, trial: str) -> int:
        return self._brackets.bracket_of(trial)

    def judge(self, trial: str, epoch: int, value: float) -> bool:
        return self._brackets.judge(trial, epoch, value)


def _expected_epochs(rungs: Sequence[int], max_epochs: int, reduction_factor: float) -> float:
    """Of one trial, if one in `reduction_factor` goes on at each rung, and goes on from where it is."""
    epochs, reached, share_left = 0.0, 0, 1.0
    for rung in (*rungs, max_epochs):
        epochs += share_left * (rung - reached)
        reached, share_left = rung, share_left / reduction_factor
    return epochs
