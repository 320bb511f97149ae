"""Brackets of asynchronous successive halving: rungs, and who reached each with what. Asha and Hyperband share them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import count, takewhile

import numpy as np

from fmasearch.config import derive_seed
from fmasearch.pruning.base import Mode, merit


class Brackets:
    """Trials drawn into brackets; one goes on at a rung if it is among the best 1 in `reduction_factor` there so far.

    A trial's bracket follows from seed and name alone: it is the same in every session, in whatever order trials come.

    Args:
        mode: direction of the objective.
        rungs: the epochs of each bracket, ascending; nobody is judged from `max_epochs` on.
        shares: of the trials that each bracket gets; they add up to 1.
        max_epochs: of the longest trial.
        reduction_factor: above 1.
        seed: of the study.
    """

    def __init__(
        self,
        mode: Mode,
        rungs: Sequence[Sequence[int]],
        shares: Sequence[float],
        *,
        max_epochs: int,
        reduction_factor: float,
        seed: int,
    ) -> None:
        self._mode: Mode = mode
        self._shares = shares
        self._seed = seed
        self._max_epochs = max_epochs
        self._brackets = [_Bracket(each, reduction_factor) for each in rungs]
        self._bracket_of: dict[str, int] = {}

    def bracket_of(self, trial: str) -> int:
        """The index of the trial's bracket."""
        if len(self._shares) == 1:
            return 0
        if trial not in self._bracket_of:  # drawing takes about 0.1 ms
            generator = np.random.RandomState(derive_seed(self._seed, "bracket", trial))
            self._bracket_of[trial] = int(generator.choice(len(self._shares), p=self._shares))
        return self._bracket_of[trial]

    def judge(self, trial: str, epoch: int, value: float) -> bool:
        """As `Pruner.judge`."""
        if epoch >= self._max_epochs:
            return False
        return self._brackets[self.bracket_of(trial)].judge(trial, epoch, merit(value, self._mode))


def geometric_rungs(grace_period: int, max_epochs: int, reduction_factor: float, skipped: int = 0) -> list[int]:
    """`grace_period * reduction_factor**k` up to `max_epochs`, from k = `skipped` on; a part of an epoch is a whole."""
    exact = (grace_period * reduction_factor**k for k in count(skipped))
    return list(dict.fromkeys(math.ceil(rung) for rung in takewhile(lambda rung: rung <= max_epochs, exact)))


class _Bracket:
    """Rungs, ascending, and the merit that each trial had when it came there."""

    def __init__(self, rungs: Sequence[int], reduction_factor: float) -> None:
        self._rungs = tuple(rungs)
        self._percentile = (1 - 1 / reduction_factor) * 100
        self._merits: tuple[dict[str, float], ...] = tuple({} for _ in rungs)

    def judge(self, trial: str, epoch: int, merit: float) -> bool:
        """Record `trial` at the highest rung it reached, unless it is there or above; whether it falls short of it.

        A rung that a resumed trial skipped gets no value: one of a later epoch would be too good for it.
        """
        for rung, merits in zip(reversed(self._rungs), reversed(self._merits), strict=True):
            if trial in merits:
                return False
            if epoch >= rung:
                is_weak = bool(merits) and bool(merit < np.percentile(list(merits.values()), self._percentile))
                merits[trial] = merit
                return is_weak
        return False
