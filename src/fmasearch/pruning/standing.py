"""The standing rule: after every epoch a trial is ranked among all trials of the study."""

from __future__ import annotations

import numpy as np

from fmasearch.pruning.base import WORST, Mode, merit


class Standing:
    """Stops a trial that is not among the best `grace_period / epoch / reduction_factor` of all trials so far.

    That share is what successive halving leaves at its rungs; here it falls with every epoch: with a grace period and
    a reduction factor of 2 it is a half after 2 epochs, a third after 3, a quarter after 4. The best trial goes on
    always.

    The objective after `epoch` epochs is compared with what each other trial reached in as many epochs or fewer:
    stopped trials stand where they stopped, younger ones where they are. Both could only be better later, so that who
    is behind them now is behind. Asynchronous successive halving compares at its rungs alone, with those that came
    there before: the first to come goes on whatever it is worth, and between rungs nobody is stopped. Both are
    compared in `benchmarks/search_quality.py`.

    Args:
        mode: direction of the objective.
        max_epochs: of the longest trial.
        grace_period: the first epoch after which a trial may be stopped.
        reduction_factor: one in so many goes on after `grace_period`; at least 1.
    """

    def __init__(self, mode: Mode, *, max_epochs: int, grace_period: int = 2, reduction_factor: float = 2) -> None:
        self._mode: Mode = mode
        self._max_epochs = max_epochs
        self._grace_period = grace_period
        self._reduction_factor = reduction_factor
        self._rows: dict[str, int] = {}
        self._last_epoch: dict[str, int] = {}
        self._best = np.full((64, max_epochs), WORST)
        """Trials x epochs: the merit of the best so far; after a trial's last epoch it stands as it was."""

    def judge(self, trial: str, epoch: int, value: float) -> bool:
        if epoch <= self._last_epoch.get(trial, 0):
            return False
        best = self._record(trial, epoch, merit(value, self._mode))
        if not self._grace_period <= epoch < self._max_epochs:
            return False
        num_trials = len(self._rows)
        num_better = int(np.count_nonzero(self._best[:num_trials, epoch - 1] > best))
        return num_better >= max(1, num_trials * self._grace_period / epoch / self._reduction_factor)

    def _record(self, trial: str, epoch: int, merit: float) -> float:
        """The best merit so far; a trial that told something worse than before keeps what it had."""
        row = self._rows.setdefault(trial, len(self._rows))
        if row == len(self._best):
            self._best = np.concatenate([self._best, np.full_like(self._best, WORST)])
        self._last_epoch[trial] = epoch
        later = self._best[row, min(epoch, self._max_epochs) - 1 :]
        later[:] = np.maximum(later, merit)
        return float(later[0])
