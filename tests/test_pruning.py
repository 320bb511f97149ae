"""The rules that stop weak trials, against Ray's, against numbers by hand, and over sessions that are cut off."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ray.tune.schedulers import ASHAScheduler

from fmasearch.config import SearchConfig, derive_seed
from fmasearch.pruning import PRUNERS, WORST, Asha, Hyperband, MedianRule, Mode, Pruner, build_pruner, geometric_rungs
from fmasearch.records import Objective

MAX_EPOCHS = 20


class RayAsha:
    """Ray's rule behind our protocol; a NaN is told as the worst number, of which Ray knows none."""

    def __init__(self, mode: Mode, *, seed: int, **settings: Any) -> None:
        self._seed = seed
        self._worst = WORST if mode == "max" else -WORST
        self._rule = ASHAScheduler(time_attr="epoch", metric="value", mode=mode, max_t=MAX_EPOCHS, **settings)

    def judge(self, trial: str, epoch: int, value: float) -> bool:
        if epoch == MAX_EPOCHS:  # where Ray says stop, and we say nothing: the trial ends by itself
            return False
        stub: Any = SimpleNamespace(trial_id=trial)
        if trial not in self._rule._trial_info:
            np.random.seed(derive_seed(self._seed, "bracket", trial))  # noqa: NPY002  Ray draws the bracket from it
            self._rule.on_trial_add(None, stub)
        result = {"epoch": epoch, "value": self._worst if math.isnan(value) else value}
        return bool(self._rule.on_trial_result(None, stub, result) == "STOP")


class Workers:
    """Trials that train side by side, at their own pace, as far as a rule lets them; objectives tie, some are NaN."""

    def __init__(self, mode: Mode, seed: int, *, num_trials: int = 40, num_workers: int = 8) -> None:
        draw = random.Random(seed)
        self._curves = {f"t{n:04d}": _curve(draw, mode) for n in range(num_trials)}
        self._pace = draw
        self._waiting = list(self._curves)
        self.num_workers = num_workers
        self.running: dict[str, int] = {}
        self.reported: dict[str, list[tuple[int, float]]] = {}

    def verdicts(self, pruner: Pruner, steps: int = 10_000) -> list[tuple[str, int, bool]]:
        """What `pruner` says, epoch after epoch, until nobody runs or `steps` epochs are trained."""
        said = []
        for name, epoch, value in self._epochs(steps):
            stops = pruner.judge(name, epoch, value)
            said.append((name, epoch, stops))
            if stops or epoch == MAX_EPOCHS:
                del self.running[name]
        return said

    def _epochs(self, steps: int) -> Iterator[tuple[str, int, float]]:
        for _ in range(steps):
            while self._waiting and len(self.running) < self.num_workers:
                self.running[self._waiting.pop(0)] = 0
            if not self.running:
                return
            name = self._pace.choice(list(self.running))
            self.running[name] = epoch = self.running[name] + 1
            value = self._curves[name][epoch - 1]
            self.reported.setdefault(name, []).append((epoch, value))
            yield name, epoch, value


def _curve(draw: random.Random, mode: Mode) -> list[float]:
    if draw.random() < 0.1:
        return [math.nan] * MAX_EPOCHS
    best = np.maximum.accumulate([round(draw.gauss(0.5, 0.2), 1) for _ in range(MAX_EPOCHS)])
    return [float(value) if mode == "max" else -float(value) for value in best]


def search_with(name: str, **settings: Any) -> SearchConfig:
    return SearchConfig.model_validate(
        {"max_epochs": MAX_EPOCHS, "scheduler": {"name": name, "grace_period": 1, **settings}}
    )


@pytest.mark.parametrize("mode", ["max", "min"])
@pytest.mark.parametrize("reduction_factor", [2, 2.5, 3, 4])
def test_asha_decides_as_ray_does(mode: Mode, reduction_factor: float) -> None:
    for seed, (grace_period, brackets) in enumerate([(1, 1), (2, 1), (1, 3), (2, 3)]):
        settings: Any = {"grace_period": grace_period, "reduction_factor": reduction_factor, "brackets": brackets}
        ours = Workers(mode, seed).verdicts(Asha(mode, max_epochs=MAX_EPOCHS, seed=seed, **settings))
        assert ours == Workers(mode, seed).verdicts(RayAsha(mode, seed=seed, **settings))
        assert {stops for _, _, stops in ours} == {True, False}


def test_asha_stops_whoever_is_not_among_the_best_third() -> None:
    rule = Asha("max", max_epochs=9, grace_period=1, reduction_factor=3)
    said = {name: rule.judge(name, 1, best) for name, best in [("a", 0.5), ("b", 0.1), ("c", 0.9), ("d", 0.6)]}
    # "a" is the first; before "c" come .5 and .1; the best third of .9, .5, .1 begins a third of the way from .5 to .9.
    assert said == {"a": False, "b": True, "c": False, "d": True}


@pytest.mark.parametrize("worst", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_worse_than_any(worst: float) -> None:
    for mode in ("max", "min"):
        rule = Asha(mode, max_epochs=9, grace_period=1)
        assert not rule.judge("first", 1, worst)  # nobody to be worse than
        assert not rule.judge("as bad", 1, worst)
        assert not rule.judge("poor", 1, -1e9 if mode == "max" else 1e9)
        assert rule.judge("none", 1, worst)


def test_a_rung_that_a_resumed_trial_skipped_has_no_value_of_it() -> None:
    rule = Asha("max", max_epochs=27, grace_period=1, reduction_factor=3)  # rungs 1, 3 and 9
    rule.judge("resumed", 1, 0.1)
    rule.judge("resumed", 9, 0.9)
    rule.judge("resumed", 10, 0.9)
    assert not rule.judge("first", 3, 0.2)  # the first one at 3
    assert rule.judge("second", 9, 0.8)  # the second one at 9


def test_a_trials_bracket_follows_from_seed_and_name() -> None:
    names = [f"t{number:04d}" for number in range(30)]
    one, again, other = (Asha("max", max_epochs=27, brackets=3, seed=seed) for seed in (1, 1, 2))
    brackets = [one.bracket_of(name) for name in names]
    assert set(brackets) == {0, 1, 2}
    assert [again.bracket_of(name) for name in reversed(names)] == brackets[::-1]
    assert [other.bracket_of(name) for name in names] != brackets


@pytest.mark.parametrize(
    ("grace_period", "max_epochs", "factor", "rungs"),
    [
        (2, 27, 3, [2, 6, 18]),
        (1, 27, 3, [1, 3, 9, 27]),
        (1, 243, 3, [1, 3, 9, 27, 81, 243]),  # though log(243) / log(3) is below 5
        (2, 27, 2.5, [2, 5, 13]),  # 12.5 is reached with the 13th epoch
        (1, 3, 1.3, [1, 2, 3]),  # 1.3 and 1.69 with the 2nd, 2.197 and 2.86 with the 3rd
    ],
)
def test_rungs_are_powers_in_whole_epochs(grace_period: int, max_epochs: int, factor: float, rungs: list[int]) -> None:
    assert geometric_rungs(grace_period, max_epochs, factor) == rungs
    assert geometric_rungs(grace_period, max_epochs, factor, len(rungs) + 2) == []


def test_hyperbands_brackets_get_about_the_same_epochs() -> None:
    rule = Hyperband("max", max_epochs=27, grace_period=2, reduction_factor=3)
    # Rungs 2, 6, 18: all train 2 epochs, a third 4 more, a ninth 12 more, one in 27 the last 9: 5 epochs a trial.
    # Rungs 6, 18: 6 + 12 / 3 + 9 / 9 = 11. One rung, 18: 18 + 9 / 3 = 21.
    costs = [5, 11, 21]
    assert [share * cost for share, cost in zip(rule.shares, costs, strict=True)] == pytest.approx([1155 / 391] * 3)
    drawn = Counter(rule.bracket_of(f"t{number:04d}") for number in range(1000))
    assert [drawn[n] * cost for n, cost in enumerate(costs)] == pytest.approx([1000 * 1155 / 391] * 3, rel=0.15)


def test_hyperband_judges_a_trial_by_the_rungs_and_the_peers_of_its_bracket() -> None:
    rule = Hyperband("max", max_epochs=27, grace_period=2, reduction_factor=3)
    by_bracket: dict[int, list[str]] = {0: [], 1: [], 2: []}
    for number in range(40):
        by_bracket[rule.bracket_of(f"t{number:04d}")].append(f"t{number:04d}")
    stopped_after = {}
    for bracket, (strong, weak, *_) in by_bracket.items():
        epochs = range(1, 28)
        assert not any(rule.judge(strong, epoch, 0.9 - 0.1 * bracket) for epoch in epochs)
        stopped_after[bracket] = next(epoch for epoch in epochs if rule.judge(weak, epoch, 0.1))
    assert stopped_after == {0: 2, 1: 6, 2: 18}


def test_hyperbands_last_bracket_may_be_random_search() -> None:
    # 1, 3, 9 and 27 fit; who is first judged at 27 is not judged: 1 + 2/3 + 6/9 + 18/27 = 3 epochs against 27.
    shares = Hyperband("max", max_epochs=27, grace_period=1, reduction_factor=3).shares
    assert len(shares) == 4
    assert shares[0] / shares[3] == pytest.approx(9)


def test_the_median_rule_stops_what_is_worse_than_half_of_its_peers() -> None:
    rule = MedianRule("max", max_epochs=10, grace_period=2, min_peers=3)
    for name, curve in {"low": [0.1, 0.2], "mid": [0.3, 0.4, 0.5], "high": [0.5, 0.6, 0.7]}.items():
        assert not any(rule.judge(name, epoch, best) for epoch, best in enumerate(curve, start=1))
    assert not rule.judge("new", 1, 0.0)  # within the grace period
    assert not rule.judge("new", 2, 0.4)  # not worse than the median of .2, .4, .6
    assert not rule.judge("new", 3, 0.4)  # only mid and high came to epoch 3
    assert rule.judge("low", 3, 0.2)  # worse than .5, the median of .4, .5, .7
    assert rule.judge("late", 2, 0.3)  # worse than .4, the median of .2, .4, .4, .6


def test_the_median_rule_takes_a_skipped_epoch_for_the_one_before() -> None:
    rule = MedianRule("min", max_epochs=10, grace_period=2, min_peers=1)
    rule.judge("resumed", 1, 0.5)
    rule.judge("resumed", 5, 0.1)
    assert not rule.judge("equal", 3, 0.5)
    assert rule.judge("worse", 3, 0.6)


@pytest.mark.parametrize("name", PRUNERS)
@pytest.mark.parametrize("mode", ["max", "min"])
def test_a_search_that_was_cut_off_goes_on_as_if_it_had_not_been(name: str, mode: Mode) -> None:
    search, objective = search_with(name), Objective("val_macro_f1", mode)
    straight = Workers(mode, seed=3).verdicts(build_pruner(search, objective))
    workers = Workers(mode, seed=3)
    first = workers.verdicts(build_pruner(search, objective), steps=len(straight) // 2)
    resumed = build_pruner(search, objective)
    for trial, epochs in workers.reported.items():
        for epoch, value in epochs:
            resumed.judge(trial, epoch, value)
    assert first + workers.verdicts(resumed) == straight
    assert any(stops for _, _, stops in straight) is (name != "none")


@pytest.mark.parametrize("name", PRUNERS)
def test_no_trial_is_judged_twice_at_an_epoch_nor_at_the_last(name: str) -> None:
    rule = build_pruner(search_with(name), Objective("val_macro_f1"))
    weak = {f"w{number}": 0.1 for number in range(20)}
    for epoch in range(1, MAX_EPOCHS + 1):
        for trial, best in {**weak, "strong": 0.9, "stronger": 1.0}.items():
            rule.judge(trial, epoch, best)
    assert not any(rule.judge(trial, epoch, 0.0) for trial in weak for epoch in range(1, MAX_EPOCHS + 1))
    assert not any(rule.judge(f"new{number}", MAX_EPOCHS, 0.0) for number in range(20))


@pytest.mark.parametrize("name", PRUNERS)
def test_a_loss_is_judged_as_the_gain_that_it_is_not(name: str) -> None:
    search = search_with(name)
    gains = Workers("max", seed=5).verdicts(build_pruner(search, Objective("val_macro_f1", "max")))
    assert Workers("min", seed=5).verdicts(build_pruner(search, Objective("val_loss", "min"))) == gains
