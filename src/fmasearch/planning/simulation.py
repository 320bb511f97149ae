"""A search without training: the very rule that stops trials judges curves, under the study's own budget."""

from __future__ import annotations

import heapq
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from fmasearch.config import SearchConfig
from fmasearch.metrics import Floats
from fmasearch.planning.curves import Curves
from fmasearch.pruning import NoPruner, Pruner, build_pruner
from fmasearch.records import Objective, TrialRecord

_MERIT = Objective("merit", "max")


@dataclass(frozen=True, slots=True)
class SimulatedTrial:
    """A trial as it would go if nobody stopped it."""

    merits: Floats
    """Merit of its best so far after each epoch; it ends by itself after the last one."""
    epoch_seconds: float


Draw: TypeAlias = Callable[[np.random.Generator], list[SimulatedTrial]]
"""Draws the trials of a study, in the order in which they start."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a simulated study took."""

    num_trials: int
    epochs: int
    trial_seconds: float
    """Of the search: the seconds of every epoch of every trial."""
    wall_seconds: float
    """Of the search."""
    finish_seconds: float
    """Of confirmation and final training at most: every training goes on to `max_epochs`."""
    finish_wall_seconds: float


@dataclass(frozen=True, slots=True)
class Range:
    """What 8 of 10 simulated studies are between, and the median of all."""

    low: float
    middle: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Range:
        low, high = np.percentile(values, [10, 90])
        return cls(float(low), statistics.median(values), float(high))

    def times(self, factor: float) -> Range:
        """In another unit."""
        return Range(self.low * factor, self.middle * factor, self.high * factor)

    def widened(self, low: float, high: float) -> Range:
        """The range where every number may be so many times what it is."""
        return Range(self.low * low, self.middle, self.high * high)

    def capped(self, most: float) -> Range:
        """Where nothing can be more than `most`."""
        return Range(min(self.low, most), min(self.middle, most), min(self.high, most))


@dataclass(frozen=True, slots=True)
class Expectation:
    """What simulated studies took, with the rule that stops trials and without it."""

    stopped: tuple[Outcome, ...]
    unstopped: tuple[Outcome, ...]

    def epochs(self, *, stopped: bool = True) -> Range:
        return Range.of([each.epochs for each in self._of(stopped)])

    def trial_seconds(self, *, stopped: bool = True) -> Range:
        return Range.of([each.trial_seconds for each in self._of(stopped)])

    def wall_seconds(self, *, stopped: bool = True) -> Range:
        return Range.of([each.wall_seconds for each in self._of(stopped)])

    def finish_seconds(self) -> Range:
        return Range.of([each.finish_seconds for each in self.stopped])

    def finish_wall_seconds(self) -> Range:
        return Range.of([each.finish_wall_seconds for each in self.stopped])

    def _of(self, stopped: bool) -> tuple[Outcome, ...]:
        return self.stopped if stopped else self.unstopped


def drawn_from_samples(
    curves: Curves, seconds: Sequence[float], ratios: Sequence[float], num_trials: int, *, first: Sequence[float] = ()
) -> Draw:
    """Trials whose curves and epochs have nothing to do with each other.

    Args:
        seconds: of an epoch, by sample.
        ratios: what a measurement is over its prediction; each trial draws one.
        first: seconds of an epoch of the trials that start first, the known-good points.
    """

    def draw(generator: np.random.Generator) -> list[SimulatedTrial]:
        drawn_N = generator.choice(np.array(seconds), size=num_trials)
        drawn_N[: len(first)] = first[:num_trials]
        seconds_N = drawn_N * generator.choice(np.array(ratios), size=num_trials)
        return [SimulatedTrial(*pair) for pair in zip(curves(generator, num_trials), seconds_N.tolist(), strict=True)]

    return draw


def drawn_from_records(curves: Curves, trials: Sequence[TrialRecord], num_trials: int) -> Draw:
    """Trials whose epochs take as long as those of recorded ones: the median of each."""
    seconds = [statistics.median(epoch.epoch_seconds for epoch in trial.epochs) for trial in trials if trial.epochs]
    return drawn_from_samples(curves, seconds, (1.0,), num_trials)


def expect(
    search: SearchConfig,
    draw: Draw,
    *,
    concurrency: int,
    seed: int = 0,
    num_studies: int = 40,
    max_seconds: float = 5.0,
    clock: Callable[[], float] = time.monotonic,
) -> Expectation:
    """Simulate studies with the search's rule and without it, until there are `num_studies` of each or time is up."""
    generator = np.random.default_rng(seed)
    started = clock()
    stopped, unstopped = [], []
    for _ in range(num_studies):
        trials = draw(generator)
        stopped.append(simulate(search, trials, build_pruner(search, _MERIT), concurrency=concurrency))
        unstopped.append(simulate(search, trials, NoPruner(), concurrency=concurrency))
        if clock() - started > max_seconds:
            break
    return Expectation(tuple(stopped), tuple(unstopped))


def simulate(search: SearchConfig, trials: Sequence[SimulatedTrial], pruner: Pruner, *, concurrency: int) -> Outcome:
    """Run one study: trials start as others end, and epochs end in the order of their seconds.

    No trial starts once `max_total_epochs` are trained or `time_budget_seconds` are over; then running ones stop.
    """
    waiting = list(range(len(trials)))[::-1]
    running: list[tuple[float, int, int]] = []  # when its epoch ends, which trial, which epoch
    total_epochs, busy, now = 0, 0.0, 0.0
    reached: dict[int, float] = {}
    budget, epochs = search.time_budget_seconds or np.inf, search.max_total_epochs or np.inf
    while True:
        while waiting and len(running) < concurrency and total_epochs < epochs and now < budget:
            number = waiting.pop()
            heapq.heappush(running, (now + trials[number].epoch_seconds, number, 1))
        if not running:
            break
        ends, number, epoch = heapq.heappop(running)
        if ends > budget:
            busy += sum(trials[n].epoch_seconds - (end - budget) for end, n, _ in [(ends, number, epoch), *running])
            now = budget
            break
        now, trial = ends, trials[number]
        total_epochs += 1
        busy += trial.epoch_seconds
        reached[number] = float(trial.merits[epoch - 1])
        if epoch < len(trial.merits) and not pruner.judge(f"t{number:04d}", epoch, reached[number]):
            heapq.heappush(running, (now + trial.epoch_seconds, number, epoch + 1))
    best = sorted(reached, key=lambda number: -reached[number])[: search.confirm.top_k]
    finish, finish_wall = _finish(search, [trials[number].epoch_seconds for number in best], concurrency)
    return Outcome(len(trials) - len(waiting), total_epochs, busy, now, finish, finish_wall)


def _finish(search: SearchConfig, epoch_seconds: Sequence[float], concurrency: int) -> tuple[float, float]:
    """Seconds of confirmation and final training at most, of trials with such epochs; and by a clock."""
    if not epoch_seconds:
        return 0.0, 0.0
    trainings = [each * search.max_epochs for each in epoch_seconds for _ in range(search.confirm.seeds)]
    last = max(epoch_seconds) * search.max_epochs
    slots = [0.0] * concurrency
    for training in trainings:
        heapq.heapreplace(slots, slots[0] + training)
    return sum(trainings) + last, max(slots) + last
