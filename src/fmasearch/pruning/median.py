"""The median stopping rule."""

from __future__ import annotations

from bisect import bisect_right
from statistics import median

from fmasearch.pruning.base import Mode, merit


class MedianRule:
    """Stops a trial whose best objective so far is worse than the median of the others' at the same epoch.

    Golovin et al., "Google Vizier: A Service for Black-Box Optimization" (KDD 2017), with two differences. Vizier
    takes the median of the others' running averages; here it is of their best so far, because that is what is
    recorded, and because an average over a curve that rises lags behind it, so that weak trials would go on longer.
    And Vizier asks only trials that ended; here all that came as far take part, whether or not they still run: with
    many at once the first verdicts would come late.

    Args:
        mode: direction of the objective.
        max_epochs: of the longest trial.
        grace_period: epochs that every trial gets; from then on it is judged after every epoch.
        min_peers: no verdict before so many others came as far.
    """

    def __init__(self, mode: Mode, *, max_epochs: int, grace_period: int = 2, min_peers: int = 5) -> None:
        self._mode: Mode = mode
        self._max_epochs = max_epochs
        self._grace_period = grace_period
        self._min_peers = min_peers
        self._curves: dict[str, _Curve] = {}

    def judge(self, trial: str, epoch: int, value: float) -> bool:
        curve = self._curves.setdefault(trial, _Curve())
        if epoch <= curve.last_epoch:
            return False
        best = merit(value, self._mode)
        curve.append(epoch, best)
        if not self._grace_period <= epoch < self._max_epochs:
            return False
        others = [each.at(epoch) for name, each in self._curves.items() if name != trial]
        peers = [each for each in others if each is not None]
        return len(peers) >= self._min_peers and best < median(peers)


class _Curve:
    """The best of one trial after each epoch that it reported."""

    def __init__(self) -> None:
        self._epochs: list[int] = []
        self._merits: list[float] = []

    @property
    def last_epoch(self) -> int:
        return self._epochs[-1] if self._epochs else 0

    def append(self, epoch: int, merit: float) -> None:
        self._epochs.append(epoch)
        self._merits.append(merit)

    def at(self, epoch: int) -> float | None:
        """The best up to `epoch`, also where that epoch was skipped; None if the trial did not come so far."""
        known = bisect_right(self._epochs, epoch)
        return self._merits[known - 1] if known and self.last_epoch >= epoch else None
