"""How many epochs does a search need? Samplers and stopping rules, replayed over recorded learning curves.

Every contender searches every table (see `search_quality_tables.py`) from many seeds, by the code that studies run
where it is ours, and by code checked against Optuna's where it is Optuna's. Random search that trains every trial to
its end is the measure: a contender's speed-up is 60 trainings over what it needs to be, on average over tables and
seeds, as near the best configuration as that is after 60.

Writes `results/benchmarks/search_quality.{json,md,svg}`. All of it is simulation: no second here is a clock's.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna

from fmasearch.cli import environment
from search_quality_contenders import (
    CONTENDERS,
    OTHERS,
    RANDOM,
    STOCK,
    Contender,
    check_pruners_against_optuna,
    search_promoting,
)
from search_quality_report import write_report
from search_quality_samplers import check_against_optuna
from search_quality_simulation import Conditions, Search
from search_quality_tables import DEVELOPED_ON, Array, Table, load_alexnet, load_recorded, load_taskset

ROOT = Path(__file__).parents[1]
TRAININGS = 60
"""Of random search: the quality that others have to reach."""
HORIZONS = {"9 epochs a trial": 9, "27 epochs a trial": 27}
AS_ABOVE = Conditions()
CONDITIONS = {
    "as above": AS_ABOVE,
    "1 worker": Conditions(workers=1),
    "2 workers": Conditions(workers=2),
    "32 workers": Conditions(workers=32),
    "a start costs 0.2 epochs": Conditions(start_cost=0.2),
    "a start costs 1 epoch": Conditions(start_cost=1.0),
    "patience 8": Conditions(patience=8),
}
HARDENED = ("random + ASHA (2, 3)", "random + standing", "trees + standing")


@dataclass(frozen=True)
class Group:
    """Tables that are averaged over."""

    name: str
    tables: Sequence[Table]

    @property
    def training(self) -> float:
        """Epochs of one training to its end, on average."""
        return float(np.mean([table.lengths.mean() for table in self.tables]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--curves", type=Path, default=ROOT.parent / "shared" / "data" / "curves")
    parser.add_argument("--results", type=Path, default=ROOT / "results")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "benchmarks")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--cache", type=Path, default=None, help="an existing folder that keeps searches between runs")
    parser.add_argument("--quick", action="store_true", help="2 seeds, half the budget, main table only")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    seeds = 2 if arguments.quick else arguments.seeds
    budget = 30 if arguments.quick else TRAININGS
    began = time.monotonic()
    found: dict[str, Any] = {
        "conditions": _facts(seeds, budget),
        "skipped": [],
        "groups": {},
        "others": {},
        "robustness": {},
        "recorded": {},
    }
    taskset = _load(arguments.curves / "taskset_rnn_imdb.npz", load_taskset, found)
    alexnet = _load(arguments.curves / "opda_alexnet.npz", load_alexnet, found)
    if not taskset and not alexnet:
        print(f"no learning curves in {arguments.curves}: " + "; ".join(found["skipped"]))
        return
    if taskset:
        found["conditions"]["agrees_with_optuna"] = {
            "largest difference of TPE's log densities": max(check_against_optuna(table) for table in taskset),
            "pruners' verdicts that agree": sum(check_pruners_against_optuna(table) for table in taskset[1:4]),
        }
    developed = [table for number, table in enumerate(taskset) if number in DEVELOPED_ON]
    held_out = [table for number, table in enumerate(taskset) if number not in DEVELOPED_ON]
    groups = (
        [Group("developed on", developed), Group("held out", held_out), Group("all 12", taskset)] if taskset else []
    )
    groups += [Group(table.name, [table]) for table in alexnet]
    curves = _Runs(seeds, budget, cache=arguments.cache)
    for contender in CONTENDERS:
        for group in groups:
            found["groups"].setdefault(group.name, {})[contender.name] = _figures(contender, group, curves)
        _say(contender.name, found["groups"], began)
    found["against_stock"] = _against_stock([*taskset, *alexnet], curves)
    if taskset:
        found["tasks"] = _by_task(taskset, curves)
        found["plot"] = _plot_curves(Group("held out", held_out), curves)
    if taskset and not arguments.quick:
        both = [Group("developed on", developed), Group("held out", held_out)]
        for other in OTHERS:
            runs = replace(curves, trainings=20, seeds=seeds // 2)
            found["others"][other.name] = {group.name: _figures(other, group, runs, curves) for group in both}
            _say(other.name, {group: {other.name: f} for group, f in found["others"][other.name].items()}, began)
        found["others"]["random + ASHA (2, 3) that pauses and promotes"] = {
            group.name: _figures(None, group, curves) for group in both
        }
        found["robustness"] = _robustness(Group("held out", held_out), curves, began)
    found["recorded"] = {table.name: _recorded(table, seeds) for table in load_recorded(arguments.results)}
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_report(found, arguments.out / ("search_quality_quick" if arguments.quick else "search_quality"))
    print(f"{arguments.out}: {(time.monotonic() - began) / 60:.0f} minutes")


@dataclass
class _Runs:
    """Searches by contender and table, each run once."""

    seeds: int
    trainings: float
    conditions: Conditions = AS_ABOVE
    cache: Path | None = None
    """A folder for searches that were run; of use while the report is worked on. Empty it when a rule changes."""

    def __post_init__(self) -> None:
        self._known: dict[tuple[str, str, int], list[Search]] = {}

    def budget(self, contender: Contender | None) -> float:
        """In trainings."""
        return min(self.trainings, contender.trainings if contender else TRAININGS)

    def of(self, contender: Contender | None, table: Table) -> list[Search]:
        """One search a seed; None is the one that promotes, which no contender can."""
        key = (contender.name if contender else "promoting", table.name, table.max_epochs)
        if key not in self._known:
            length = float(table.lengths.mean()) + self.conditions.start_cost
            budget = round(self.budget(contender) * length)
            run = contender.search if contender else search_promoting
            self._known[key] = self._kept(
                (*key, budget, self.seeds, repr(self.conditions)),
                lambda: [run(table, budget=budget, seed=s, conditions=self.conditions) for s in range(self.seeds)],
            )
        return self._known[key]

    def _kept(self, key: tuple[Any, ...], make: Callable[[], list[Search]]) -> list[Search]:
        """The searches, from the cache where they are there."""
        if self.cache is None:
            return make()
        file = self.cache / f"{hashlib.sha256(repr(key).encode()).hexdigest()[:20]}.npz"
        if not file.exists():
            searches = make()
            regrets = np.array([search.regret for search in searches], dtype=np.float32)
            np.savez_compressed(file, regret=regrets, trials=[search.num_trials for search in searches])
        data = np.load(file)
        return [Search(r, int(n)) for r, n in zip(data["regret"].astype(float), data["trials"], strict=True)]

    def regrets(self, contender: Contender | None, group: Group) -> Array:
        """(tables, seeds, epochs)."""
        return np.array([[search.regret for search in self.of(contender, table)] for table in group.tables])


def _facts(seeds: int, budget: int) -> dict[str, Any]:
    facts = environment.describe()
    return {
        "seeds": seeds,
        "budget in trainings": budget,
        "workers": Conditions().workers,
        **{name: facts[name] for name in ("fmasearch", "python", "optuna", "ray", "numpy") if name in facts},
    }


def _load(file: Path, load: Any, found: dict[str, Any]) -> list[Table]:
    if not file.exists():
        found["skipped"].append(f"{file.name}: not there")
        return []
    tables: list[Table] = load(file.parent)
    return tables


def _figures(contender: Contender | None, group: Group, runs: _Runs, measure: _Runs | None = None) -> dict[str, Any]:
    """Regret at some budgets, trials, and the speed-up with its interval over tables and seeds."""
    regrets = runs.regrets(contender, group)
    reference = (measure or runs).regrets(RANDOM, group)
    mean = regrets.mean(axis=(0, 1))
    looks = [n for n in (5, 10, 20, 30, 60) if n <= runs.budget(contender)]
    at = {str(n): round(float(mean[round(n * group.training)]), 4) for n in looks}
    speed, low, high = _speed_up(regrets, reference)
    reached = bool(mean[-1] <= reference[:, :, -1].mean())
    trials = [search.num_trials for table in group.tables for search in runs.of(contender, table)]
    return {
        "regret": at,
        "trials": float(np.mean(trials)),
        "speed_up": speed,
        "interval": [low, high],
        "reached": reached,
    }


def _speed_up(regrets: Array, reference: Array, draws: int = 400) -> tuple[float, float, float]:
    """Epochs of random search over those needed to be as good; 95 % over tables, and over seeds in each table.

    A quality not reached within the budget counts as reached at its end.
    """
    step = 3  # epochs between two looks: a thousand of them are fine enough
    curves, others = regrets[:, :, ::step], reference[:, :, ::step]

    def ratio(mean: Array, level: float) -> float:
        there = np.flatnonzero(mean <= level)
        epochs = step * (int(there[0]) if len(there) else len(mean) - 1)
        return float((reference.shape[2] - 1) / max(epochs, 1))

    best = ratio(curves.mean(axis=(0, 1)), float(reference[:, :, -1].mean()))
    draw = np.random.default_rng(0)
    tables, seeds = curves.shape[:2]
    drawn = []
    for _ in range(draws):
        rows = draw.integers(tables, size=(tables, 1))
        columns = draw.integers(seeds, size=(tables, seeds))
        level = others[rows, draw.integers(others.shape[1], size=(tables, others.shape[1])), -1].mean()
        drawn.append(ratio(curves[rows, columns].mean(axis=(0, 1)), float(level)))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return round(best, 2), round(float(low), 2), round(float(high), 2)


def _by_task(tables: Sequence[Table], runs: _Runs) -> dict[str, dict[str, float]]:
    """Mean regret after 10 trainings, of every contender."""
    return {
        table.name: {
            contender.name: round(
                float(np.mean([s.regret[10 * table.max_epochs] for s in runs.of(contender, table)])), 4
            )
            for contender in CONTENDERS
        }
        for table in tables
    }


def _against_stock(tables: Sequence[Table], runs: _Runs) -> dict[str, dict[str, Any]]:
    """Where a contender's mean regret differs from stock's by more than 2 standard errors over seeds, at 10 and 20."""
    found: dict[str, dict[str, Any]] = {}
    for contender in CONTENDERS:
        if contender is STOCK:
            continue
        better: list[str] = []
        worse: list[str] = []
        for table in tables:
            looks = [round(n * float(table.lengths.mean())) for n in (10, 20)]
            ours, theirs = (
                np.array([search.regret[looks] for search in runs.of(each, table)]) for each in (contender, STOCK)
            )
            difference = ours.mean(axis=0) - theirs.mean(axis=0)
            error = np.sqrt((ours.var(axis=0) + theirs.var(axis=0)) / max(len(ours) - 1, 1))
            for look, gap, noise in zip((10, 20), difference, error, strict=True):
                if abs(gap) > 2 * noise:
                    (worse if gap > 0 else better).append(f"{table.name} at {look}")
        found[contender.name] = {"comparisons": 2 * len(tables), "better": len(better), "worse": worse}
    return found


def _plot_curves(group: Group, runs: _Runs) -> dict[str, Any]:
    """Mean regret over trainings, and its standard error over tables and seeds."""
    lines = {}
    for contender in CONTENDERS:
        grid = np.geomspace(0.5, runs.budget(contender), 70)
        regrets = runs.regrets(contender, group)[:, :, (grid * group.training).round().astype(int)]
        errors = regrets.std(axis=1, ddof=1) / np.sqrt(regrets.shape[1]) if regrets.shape[1] > 1 else 0 * regrets[:, 0]
        spread = np.sqrt((errors**2).mean(axis=0) / len(errors))  # of these tables: what other seeds would change
        lines[contender.name] = {
            "trainings": grid.round(3).tolist(),
            "mean": regrets.mean(axis=(0, 1)).round(5).tolist(),
            "error": np.round(spread, 5).tolist(),
        }
    return lines


def _robustness(group: Group, known: _Runs, began: float) -> dict[str, dict[str, Any]]:
    """Speed-up under other conditions, random search under the same conditions being the measure."""
    cases: dict[str, tuple[Group, Conditions]] = {name: (group, each) for name, each in CONDITIONS.items()}
    for name, epochs in HORIZONS.items():
        cases[name] = Group(name, [table.shortened(epochs) for table in group.tables]), Conditions()
    chosen = [contender for contender in CONTENDERS if contender.name in HARDENED]
    found: dict[str, dict[str, Any]] = {}
    for name, (tables, conditions) in cases.items():
        plain = replace(
            known, trainings=TRAININGS, seeds=known.seeds // 2, conditions=replace(conditions, patience=None)
        )
        runs = replace(known, trainings=20, seeds=known.seeds // 2, conditions=conditions)
        found[name] = {each.name: _figures(each, tables, runs, plain) for each in chosen}
        _say(name, {key: {name: figures} for key, figures in found[name].items()}, began)
    return found


def _recorded(table: Table, seeds: int) -> dict[str, Any]:
    """Our own curves are too few to search in: what a rule spends on all of them, and what it ends with."""
    found = {}
    for contender in CONTENDERS:
        if contender in (RANDOM, STOCK) or contender.name in HARDENED:
            runs = [
                contender.search(table, budget=int(table.lengths.sum()), seed=seed, conditions=Conditions(workers=2))
                for seed in range(10 * seeds)
            ]
            epochs = [int(np.argmax(run.regret <= run.regret[-1])) for run in runs]
            found[contender.name] = {
                "regret at the end": round(float(np.mean([run.regret[-1] for run in runs])), 4),
                "epochs to it": round(float(np.mean(epochs)), 1),
            }
    return {"configurations": len(table.best), "epochs": table.max_epochs, "contenders": found}


def _say(name: str, groups: dict[str, Any], began: float) -> None:
    figures = "; ".join(f"{group} {each[name]['speed_up']} {each[name]['interval']}" for group, each in groups.items())
    print(f"{time.monotonic() - began:6.0f} s  {name}: {figures}", flush=True)


if __name__ == "__main__":
    main()
