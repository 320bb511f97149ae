"""What a pruning rule is: it hears of every trial after every epoch, and says which of them should stop."""

from __future__ import annotations

import math
from typing import Literal, Protocol, TypeAlias

Mode: TypeAlias = Literal["max", "min"]

WORST = -1e300
"""The merit of an objective that is not finite; finite itself, so that percentiles beside it are numbers, too."""


class Pruner(Protocol):
    """A rule that stops weak trials. What it knows follows from what it was told, whatever its verdicts were.

    So a study that goes on tells a new pruner every epoch of earlier sessions, trial after trial, and asks on: the
    verdicts are those of a study that was never interrupted.
    """

    def judge(self, trial: str, epoch: int, value: float) -> bool:
        """Record the best objective so far of `trial` after `epoch`; whether it should stop now.

        An epoch at or before one that `trial` reported already is not recorded again, and the answer is no. At
        `max_epochs` it is no, too: there trials end by themselves.

        Args:
            trial: its name.
            epoch: counts from 1; a trial may skip some.
            value: of the objective, in its own direction; NaN and infinities are worse than any number.
        """


class NoPruner:
    """Stops no trial."""

    def judge(self, trial: str, epoch: int, value: float) -> bool:
        return False


def merit(value: float, mode: Mode) -> float:
    """`value` turned so that more is better; `WORST` if it is not finite."""
    if not math.isfinite(value):
        return WORST
    return value if mode == "max" else -value
