"""The standing rule: after every epoch a trial is ranked among all trials of the study."""

from __future__ import annotations

import numpy as np

from fmasearch.pruning.base import WORST, Mode, merit

DECAY = 2
"""With it the sum of `(grace_period / epoch) ** DECAY` over all later epochs is less than `grace_period`, however long
trials are: of the epochs of a search at least about half start trials, and at most half train the better ones on."""


class Standing:
    """Stops a trial that is not among the best `(grace_period / epoch) ** 2` of all trials that reported so far.

    The objective after `epoch` epochs is compared with what each other trial reached in as many epochs or fewer:
    stopped trials stand where they stopped, younger ones where they are. Both can only be better later, so that who
    is behind them now is behind. The best one goes on always.

    Asynchronous successive halving compares at its rungs alone, with those that came there before: the first to come
    goes on whatever it is worth, and between rungs nobody is stopped. With 8 workers and 51 epochs that is what most
    epochs of a short search go into. Measured against it: `results/benchmarks/search_quality.md`.

    Args:
        mode: direction of the objective.
        max_epochs: of the longest trial.
        grace_period: epochs before a trial is compared; the first verdict comes an epoch later, where of 100 trials
            44 may go on after a grace period of 2 (then 25, 16, 11, ...).
    """

    def __init__(self, mode: Mode, *, max_epochs: int, grace_period: int = 2) -> None:
        self._mode: Mode = mode
        self._max_epochs = max_epochs
        self._grace_period = grace_period
        self._rows: dict[str, int] = {}
        self._last_epoch: dict[str, int] = {}
        self._best = np.full((64, max_epochs), WORST)
        """Trials x epochs: the merit of the best so far; after a trial's last epoch it stands as it was."""

    def judge(self, trial: str, epoch: int, value: float) -> bool:
        if epoch <= self._last_epoch.get(trial, 0):
            return False
        best = self._record(trial, epoch, merit(value, self._mode))
        if not self._grace_period < epoch < self._max_epochs:
            return False
        num_trials = len(self._rows)
        num_better = int(np.count_nonzero(self._best[:num_trials, epoch - 1] > best))
        return num_better >= max(1, num_trials * (self._grace_period / epoch) ** DECAY)

    def _record(self, trial: str, epoch: int, merit: float) -> float:
        """The best merit so far; a trial that told something worse than before keeps what it had."""
        row = self._rows.setdefault(trial, len(self._rows))
        if row == len(self._best):
            self._best = np.concatenate([self._best, np.full_like(self._best, WORST)])
        self._last_epoch[trial] = epoch
        later = self._best[row, min(epoch, self._max_epochs) - 1 :]
        later[:] = np.maximum(later, merit)
        return float(later[0])
