"""A search without training: workers, trials and their epochs, in the order in which they would end."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from fmasearch.pruning import Pruner
from search_quality_tables import Array, Table


class Sampler(Protocol):
    """Proposes a table's configurations, each once; told of trials as Optuna's bridge would be."""

    def ask(self) -> int | None:
        """A configuration that was not proposed before; None if there is none left."""

    def report(self, configuration: int, epoch: int, loss: float) -> None:
        """The best loss so far after an epoch, counted from 1."""

    def end(self, configuration: int, state: str) -> None:
        """`completed`, `pruned`, or `failed` (diverged)."""


@dataclass(frozen=True, slots=True)
class Search:
    regret: Array
    """Of the best loss that was trained so far, after 0, 1, 2, ... epochs of all trials together."""
    num_trials: int


@dataclass(frozen=True, slots=True)
class Conditions:
    workers: int = 8
    start_cost: float = 0.0
    """Epochs that the start of a trial takes."""
    patience: int | None = None
    """Epochs without a better loss that end a trial, as `patience` of a search."""


def simulate(
    table: Table, sampler: Sampler, pruner: Pruner, *, budget: int, seed: int, conditions: Conditions = Conditions()
) -> Search:
    """Train until `budget` epochs are spent; epochs that end at the same moment come in an order drawn by `seed`."""
    draw = np.random.default_rng([seed, 1])
    regret_of = table.regret(table.best)
    curve = np.ones(budget + 1)
    running: list[tuple[float, float, int, int]] = []
    improved: dict[int, tuple[int, float]] = {}
    spent, lowest, counted, num_trials = 0.0, 1.0, 0, 0

    def start(now: float) -> None:
        nonlocal num_trials
        configuration = sampler.ask()
        if configuration is not None:
            num_trials += 1
            heapq.heappush(running, (now + conditions.start_cost + 1, draw.random(), configuration, 1))

    for _ in range(conditions.workers):
        start(0.0)
    while running and spent < budget:
        now, _, configuration, epoch = heapq.heappop(running)
        spent += 1 + (conditions.start_cost if epoch == 1 else 0)
        reached = min(int(np.ceil(spent)), budget)
        curve[counted:reached], counted = lowest, reached
        loss = float(table.best[configuration, epoch - 1])
        if np.isnan(loss):
            sampler.end(configuration, "failed")
            start(now)
            continue
        lowest = min(lowest, float(regret_of[configuration, epoch - 1]))
        if loss < improved.get(configuration, (0, np.inf))[1]:
            improved[configuration] = epoch, loss
        stops = pruner.judge(str(configuration), epoch, loss)
        sampler.report(configuration, epoch, loss)
        waited = conditions.patience is not None and epoch - improved[configuration][0] >= conditions.patience
        if stops or waited or epoch >= table.lengths[configuration]:
            sampler.end(configuration, "pruned" if stops else "completed")
            start(now)
        else:
            heapq.heappush(running, (now + 1, draw.random(), configuration, epoch + 1))
    curve[counted:] = lowest
    return Search(curve, num_trials)
