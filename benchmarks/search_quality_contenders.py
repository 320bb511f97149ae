"""What is compared: pairs of a sampler and a rule that stops trials, each as its users get it."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import optuna

from fmasearch.pruning import Asha, MedianRule, NoPruner, Pruner
from fmasearch.pruning.standing import Standing
from fmasearch.searcher.trees import NUM_CANDIDATES, best_candidate
from search_quality_samplers import RandomOrder, TableTpe
from search_quality_simulation import Conditions, Sampler, Search, simulate
from search_quality_tables import Table


@dataclass(frozen=True, slots=True)
class Contender:
    name: str
    sampler: Callable[[Table, int], Sampler]
    pruner: Callable[[Table], Pruner]
    trainings: int = 60
    """The most that are looked at; fewer where the sampler takes long."""

    def search(self, table: Table, *, budget: int, seed: int, conditions: Conditions = Conditions()) -> Search:
        sampler, pruner = self.sampler(table, seed), self.pruner(table)
        return simulate(table, sampler, pruner, budget=budget, seed=seed, conditions=conditions)


class Trees:
    """The model of our `TreesSampler`, with its candidates drawn from the rows of a table that are left."""

    def __init__(self, table: Table, seed: int, *, num_startup: int = 16) -> None:
        self._points = table.points.astype(np.float32)
        self._free = np.ones(len(table.points), dtype=bool)
        self._draw = np.random.default_rng([seed, 2])
        self._num_startup = num_startup
        self._standing: dict[int, float] = {}

    def ask(self) -> int | None:
        rows = np.flatnonzero(self._free)
        if len(rows) == 0:
            return None
        started = len(self._standing) < self._num_startup
        configuration = int(self._draw.choice(rows)) if started else self._model(rows)
        self._free[configuration] = False
        return configuration

    def report(self, configuration: int, epoch: int, loss: float) -> None:
        self._standing[configuration] = loss

    def end(self, configuration: int, state: str) -> None:
        if state == "failed":
            self._standing[configuration] = np.inf

    def _model(self, rows: np.typing.NDArray[np.intp]) -> int:
        known = np.array(list(self._standing))
        candidates = self._draw.choice(rows, size=min(NUM_CANDIDATES, len(rows)), replace=False)
        losses = np.array(list(self._standing.values()))
        chosen = best_candidate(self._points[known], losses, self._points[candidates], self._draw)
        return int(candidates[chosen])


class OptunaMedian:
    """Optuna's `MedianPruner` with its defaults: the median of finished trials, once there are 5."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._completed: list[int] = []

    def judge(self, trial: str, epoch: int, value: float) -> bool:
        enough = len(self._completed) >= 5
        peers = [row for row in self._completed if self._table.lengths[row] >= epoch] if enough else []
        stops = bool(peers) and value > float(np.percentile(self._table.best[peers, epoch - 1], 50))
        if not stops and epoch == self._table.lengths[int(trial)]:
            self._completed.append(int(trial))
        return stops


class OptunaHalving:
    """Optuna's `SuccessiveHalvingPruner` with its defaults: it stops nobody until a trial is finished."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._first_rung: int | None = None
        self._rungs: dict[str, int] = {}
        self._values: list[list[float]] = [[] for _ in range(20)]

    def judge(self, trial: str, epoch: int, value: float) -> bool:
        stops = self._first_rung is not None and self._falls_short(trial, epoch, value, self._first_rung)
        if not stops and epoch == self._table.lengths[int(trial)] and self._first_rung is None:
            self._first_rung = max(epoch // 100, 1)
        return stops

    def _falls_short(self, trial: str, epoch: int, value: float, first: int) -> bool:
        rung = self._rungs.get(trial, 0)
        while epoch >= first * 4**rung:
            values = self._values[rung]
            values.append(value)
            rung += 1
            self._rungs[trial] = rung
            if value > sorted(values)[max(len(values) // 4 - 1, 0)]:
                return True
        return False


def check_pruners_against_optuna(table: Table, seed: int = 0, num_trials: int = 60) -> int:
    """Verdicts of Optuna's own pruners, in a random order of 8 trials' epochs; raises if one of ours differs."""
    checked = 0
    pairs: list[tuple[Pruner, optuna.pruners.BasePruner]] = [
        (OptunaMedian(table), optuna.pruners.MedianPruner()),
        (OptunaHalving(table), optuna.pruners.SuccessiveHalvingPruner()),
    ]
    for ours, theirs in pairs:
        draw = np.random.default_rng(seed)
        waiting = [int(row) for row in draw.permutation(len(table.best)) if not np.isnan(table.best[row]).any()]
        study = optuna.create_study(pruner=theirs, sampler=optuna.samplers.RandomSampler(seed=0))
        running: dict[int, tuple[optuna.Trial, int]] = {}
        ended = 0
        while ended < num_trials and (waiting or running):
            while waiting and len(running) < 8:
                running[waiting.pop()] = study.ask(), 0
            row = int(draw.choice(list(running)))
            trial, epoch = running.pop(row)
            trial.report(float(table.best[row, epoch]), epoch + 1)
            said = trial.should_prune(), ours.judge(str(row), epoch + 1, float(table.best[row, epoch]))
            assert said[0] == said[1], (type(theirs).__name__, row, epoch + 1, said)
            checked += 1
            if said[0]:
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            elif epoch + 1 == table.lengths[row]:
                study.tell(trial, float(table.best[row, epoch]))
            else:
                running[row] = trial, epoch + 1
                continue
            ended += 1
    return checked


def search_promoting(table: Table, *, budget: int, seed: int, conditions: Conditions = Conditions()) -> Search:
    """Random search with the ASHA that pauses trials at rungs 2, 6, 18 and promotes them later."""
    draw = np.random.default_rng([seed, 1])
    sampler = RandomOrder(table, seed)
    rungs = [rung for rung in (2, 6, 18) if rung < table.max_epochs]
    paused: list[dict[int, float]] = [{} for _ in rungs]
    promoted: list[set[int]] = [set() for _ in rungs]
    curve, spent, lowest, num_trials = np.ones(budget + 1), 0, 1.0, 0
    running: list[tuple[float, float, int, int]] = []
    regret_of = table.regret(table.best)

    def start(now: float) -> None:
        nonlocal num_trials
        for rung in reversed(range(len(rungs))):
            best = sorted(paused[rung], key=paused[rung].__getitem__)[: len(paused[rung]) // 3]
            if ready := [row for row in best if row not in promoted[rung]]:
                promoted[rung].add(ready[0])
                heapq.heappush(running, (now + 1, draw.random(), ready[0], rungs[rung] + 1))
                return
        configuration = sampler.ask()
        if configuration is not None:
            num_trials += 1
            heapq.heappush(running, (now + 1, draw.random(), configuration, 1))

    for _ in range(conditions.workers):
        start(0.0)
    while running and spent < budget:
        now, _, row, epoch = heapq.heappop(running)
        spent += 1
        loss = float(table.best[row, epoch - 1])
        if not np.isnan(loss):
            lowest = min(lowest, float(regret_of[row, epoch - 1]))
        curve[spent:] = lowest
        if np.isnan(loss) or epoch == table.lengths[row]:
            start(now)
        elif epoch in rungs:
            paused[rungs.index(epoch)][row] = loss
            start(now)
        else:
            heapq.heappush(running, (now + 1, draw.random(), row, epoch + 1))
    return Search(curve, num_trials)


def _asha(table: Table, *, grace_period: int = 2, reduction_factor: float = 3) -> Pruner:
    return Asha("min", max_epochs=table.max_epochs, grace_period=grace_period, reduction_factor=reduction_factor)


def _ray_asha(table: Table) -> Pruner:
    return _asha(table, grace_period=1, reduction_factor=4)


def _standing(table: Table, *, grace_period: int = 2, reduction_factor: float = 2) -> Pruner:
    return Standing("min", max_epochs=table.max_epochs, grace_period=grace_period, reduction_factor=reduction_factor)


def _median(table: Table) -> Pruner:
    return MedianRule("min", max_epochs=table.max_epochs)


def _none(table: Table) -> Pruner:
    return NoPruner()


_OPTUNA = partial(TableTpe, num_startup=10)
_RAY = partial(TableTpe, num_startup=10, pruned_as_completed=True)

RANDOM = Contender("random, no stopping", RandomOrder, _none)
STOCK = Contender("Ray OptunaSearch + ASHA", _RAY, _ray_asha, 30)
CONTENDERS = (
    RANDOM,
    Contender("random + ASHA (2, 3)", RandomOrder, _asha),
    STOCK,
    Contender("Optuna TPE + MedianPruner", _OPTUNA, OptunaMedian, 30),
    Contender("Optuna TPE + SuccessiveHalvingPruner", _OPTUNA, OptunaHalving, 30),
    Contender("TPE + ASHA (2, 3)", TableTpe, _asha, 30),
    Contender("TPE + standing", TableTpe, _standing, 30),
    Contender("random + standing", RandomOrder, _standing),
    Contender("trees + standing", Trees, _standing, 30),
)
OTHERS = (
    Contender("random + ASHA (1, 4)", RandomOrder, _ray_asha),
    Contender("random + median rule", RandomOrder, _median),
    Contender("random + standing, grace period 1", RandomOrder, partial(_standing, grace_period=1)),
    Contender("random + standing, grace period 3", RandomOrder, partial(_standing, grace_period=3)),
    Contender("random + standing, reduction factor 3", RandomOrder, partial(_standing, reduction_factor=3)),
    Contender("random + standing, reduction factor 4", RandomOrder, partial(_standing, reduction_factor=4)),
    Contender("TPE, no stopping", TableTpe, _none),
    Contender(
        "TPE told stopped trials as completed + standing", partial(TableTpe, pruned_as_completed=True), _standing
    ),
    Contender("TPE with Scott's widths + standing", partial(TableTpe, scott=True), _standing),
    Contender("TPE, half of it random + standing", partial(TableTpe, random_share=0.5), _standing),
    Contender("trees + ASHA (2, 3)", Trees, _asha),
)
