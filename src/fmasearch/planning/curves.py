"""Learning curves of trials that nobody has trained yet: synthetic ones, or those of an earlier study, continued."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from fmasearch.metrics import Floats
from fmasearch.pruning import WORST, merit
from fmasearch.records import Objective, TrialRecord, TrialState

Curves: TypeAlias = Callable[[np.random.Generator, int], list[Floats]]
"""Draws so many curves: merit (more is better) of the best so far after each epoch that the trial would train if no
other one had it stopped."""

EARLY_NOISE = 1.6
"""Of a synthetic curve. After 1, 2 and 3 of 27 epochs it correlates with its end by 0.76, 0.85 and 0.90; the best so
far of 13 trials of a CNN-BiLSTM, trained unstopped for up to 18 epochs, did by 0.69, 0.80 and 0.87 (ranks)."""

_DONORS = 3
_FEWEST = 10


def synthetic_curves(max_epochs: int) -> Curves:
    """Curves whose ranks persist: a quality plus an error of its own, which shrinks with the root of the epoch.

    Only their order at each epoch means anything. None ends by its own patience.
    """
    epochs_E = np.arange(1, max_epochs + 1)

    def draw(generator: np.random.Generator, num_trials: int) -> list[Floats]:
        quality_N1 = generator.standard_normal((num_trials, 1))
        error_N1 = generator.standard_normal((num_trials, 1))
        return list(quality_N1 + EARLY_NOISE * error_N1 / np.sqrt(epochs_E))

    return draw


def recorded_curves(
    trials: Sequence[TrialRecord], objective: Objective, *, max_epochs: int, patience: int | None
) -> Curves | None:
    """Curves drawn from those of a study; None if it trained fewer than ten trials.

    A trial that was stopped goes on as one of the three did that were nearest to it at that epoch and were not
    stopped there. One that ended by itself, or failed, gets no better until its patience is used up.
    """
    known = [_Known.of(trial, objective) for trial in trials if trial.epochs]
    if len(known) < _FEWEST:
        return None

    def draw(generator: np.random.Generator, num_trials: int) -> list[Floats]:
        few = num_trials <= len(known)
        chosen = generator.permutation(len(known)) if few else generator.integers(len(known), size=num_trials)
        return [_whole_curve(known, int(index), generator, max_epochs, patience) for index in chosen[:num_trials]]

    return draw


class _Known:
    """A recorded curve, and whether it was cut off."""

    def __init__(self, merits: Floats, *, is_cut: bool) -> None:
        self.merits = merits
        self.is_cut = is_cut

    @classmethod
    def of(cls, trial: TrialRecord, objective: Objective) -> _Known:
        merits = np.array([merit(epoch.best_objective, objective.mode) for epoch in trial.epochs])
        return cls(merits, is_cut=trial.state in (TrialState.PRUNED, TrialState.RUNNING))


def _whole_curve(
    known: Sequence[_Known], index: int, generator: np.random.Generator, max_epochs: int, patience: int | None
) -> Floats:
    """A recorded curve as it might have gone on to `max_epochs`, or until it ends by its patience."""
    own = known[index]
    merits, is_cut = own.merits, own.is_cut
    while is_cut and len(merits) < max_epochs:
        reached, last = len(merits), merits[-1]
        longer = [each for each in known if len(each.merits) > reached and each.merits[reached - 1] > WORST]
        if not longer or last <= WORST:
            break
        nearest = sorted(longer, key=lambda each: abs(each.merits[reached - 1] - last))[:_DONORS]
        donor = nearest[int(generator.integers(len(nearest)))]
        merits = np.concatenate([merits, last + donor.merits[reached:] - donor.merits[reached - 1]])
        is_cut = donor.is_cut
    flat = np.full(max(0, max_epochs - len(merits)), merits[-1])
    return _until_patience(np.concatenate([merits, flat])[:max_epochs], patience)


def _until_patience(merits: Floats, patience: int | None) -> Floats:
    if patience is None:
        return merits
    best_epoch = 0
    for index, value in enumerate(merits):
        if value > WORST and (index == 0 or value > merits[index - 1]):
            best_epoch = index + 1
        if index + 1 - best_epoch >= patience:
            return merits[: index + 1]
    return merits
