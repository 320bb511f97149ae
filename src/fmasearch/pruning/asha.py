"""ASHA: asynchronous successive halving, in its stopping variant."""

from __future__ import annotations

import numpy as np

from fmasearch.pruning.base import Mode
from fmasearch.pruning.halving import Brackets, geometric_rungs


class Asha:
    """Stops a trial at a rung where it is worse than the best 1 in `reduction_factor` of those that came before it.

    Li et al., "A System for Massively Parallel Hyperparameter Tuning" (MLSys 2020), which pauses trials and promotes
    them later; this is the variant that stops them, and it decides as Ray's `ASHAScheduler`: same rungs, same cut-off
    (an interpolated percentile), the first trial at a rung goes on. Unlike Ray it takes NaN for the worst value,
    where Ray lets such a trial train to its end, and gives no rung the value of a later one.

    Args:
        mode: direction of the objective.
        max_epochs: of the longest trial.
        grace_period: the first rung.
        reduction_factor: each rung is so many times the one before.
        brackets: bracket s leaves out the first s rungs. As in Ray it gets e times fewer trials for each.
        seed: of the study; a trial's bracket follows from it and from the trial's name.
    """

    def __init__(
        self,
        mode: Mode,
        *,
        max_epochs: int,
        grace_period: int = 2,
        reduction_factor: float = 3,
        brackets: int = 1,
        seed: int = 0,
    ) -> None:
        rungs = [geometric_rungs(grace_period, max_epochs, reduction_factor, skipped) for skipped in range(brackets)]
        weights = np.exp([len(each) - len(rungs[0]) for each in rungs])
        shares = (weights / weights.sum()).tolist()
        self._brackets = Brackets(
            mode, rungs, shares, max_epochs=max_epochs, reduction_factor=reduction_factor, seed=seed
        )

    def bracket_of(self, trial: str) -> int:
        return self._brackets.bracket_of(trial)

    def judge(self, trial: str, epoch: int, value: float) -> bool:
        return self._brackets.judge(trial, epoch, value)
