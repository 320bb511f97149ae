"""The standing rule, against numbers by hand and over sessions that are cut off."""

from __future__ import annotations

import math
import random

import pytest

from fmasearch.pruning import Mode
from fmasearch.pruning.standing import Standing

MAX_EPOCHS = 20


def told(rule: Standing, trial: str, *values: float, first: int = 1) -> list[bool]:
    """The verdicts on `values`, one an epoch."""
    return [rule.judge(trial, epoch, value) for epoch, value in enumerate(values, first)]


@pytest.mark.parametrize("mode", ["max", "min"])
def test_a_trial_is_ranked_among_all_trials_at_its_epoch(mode: Mode) -> None:
    sign = 1 if mode == "max" else -1
    rule = Standing(mode, max_epochs=MAX_EPOCHS, grace_period=2)
    for name in range(8):
        rule.judge(f"t{name}", 1, sign * 0.1 * name)
    # Of 8 trials half may pass epoch 2: t7, t6, t5, t4. t3 has four better ones.
    assert [rule.judge(f"t{name}", 2, sign * 0.1 * name) for name in reversed(range(8))] == [False] * 4 + [True] * 4
    # And 8 / 4 pass epoch 4: t7 and t6.
    assert [rule.judge(f"t{name}", 4, sign * 0.1 * name) for name in (7, 6, 5, 4)] == [False, False, True, True]


@pytest.mark.parametrize(("reduction_factor", "num_going_on"), [(2, 6), (3, 4), (4, 3)])
def test_one_in_so_many_goes_on_after_the_grace_period(reduction_factor: float, num_going_on: int) -> None:
    rule = Standing("max", max_epochs=MAX_EPOCHS, grace_period=3, reduction_factor=reduction_factor)
    for name in range(12):
        told(rule, f"t{name}", 0.1 * name, 0.1 * name)
    verdicts = [rule.judge(f"t{name}", 3, 0.1 * name) for name in reversed(range(12))]
    assert verdicts == [False] * num_going_on + [True] * (12 - num_going_on)


def test_nobody_is_stopped_before_the_grace_period_ends_or_at_the_end() -> None:
    rule = Standing("max", max_epochs=6, grace_period=3)
    told(rule, "good", *[0.9] * 6)
    # Of 2 trials half is 1 at epoch 3, and that is "good"; at epoch 6 a trial ends by itself.
    assert told(rule, "poor", *[0.1] * 6) == [False, False, True, True, True, False]


def test_the_first_to_come_far_is_stopped_by_a_younger_trial_that_is_better_already() -> None:
    rule = Standing("max", max_epochs=MAX_EPOCHS, grace_period=2)
    assert told(rule, "old", *[0.3] * 8) == [False] * 8
    told(rule, "young", 0.2, 0.5)
    assert rule.judge("old", 9, 0.3)


def test_a_stopped_trial_stands_with_what_it_reached() -> None:
    rule = Standing("max", max_epochs=MAX_EPOCHS, grace_period=1)
    told(rule, "ended", 0.6)
    assert told(rule, "new", 0.1, 0.5, 0.7) == [
        True,
        True,
        False,
    ]  # .6 after an epoch counts at the second; .7 is better


def test_what_others_reached_later_does_not_count() -> None:
    rule = Standing("max", max_epochs=MAX_EPOCHS, grace_period=2)
    told(rule, "slow start", 0.1, 0.2, 0.3, 0.9)
    assert told(rule, "other", 0.1, 0.2, 0.4) == [False] * 3


def test_equals_go_on_together() -> None:
    rule = Standing("max", max_epochs=MAX_EPOCHS, grace_period=1)
    assert not any(verdict for name in "abcdef" for verdict in told(rule, name, *[0.125] * 10))


@pytest.mark.parametrize("mode", ["max", "min"])
@pytest.mark.parametrize("worst", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_worse_than_any(mode: Mode, worst: float) -> None:
    rule = Standing(mode, max_epochs=MAX_EPOCHS, grace_period=1)
    told(rule, "fair", 1e9 if mode == "min" else -1e9)
    assert told(rule, "none", worst, worst) == [True, True]
    assert not rule.judge("fair", 2, worst)  # it keeps what it had


def test_an_epoch_told_again_changes_nothing() -> None:
    rule = Standing("max", max_epochs=MAX_EPOCHS, grace_period=1)
    told(rule, "a", 0.5, 0.6)
    assert not rule.judge("a", 1, 0.9)
    assert told(rule, "b", 0.5, 0.7) == [False, False]  # against .6, not .9


@pytest.mark.parametrize("mode", ["max", "min"])
@pytest.mark.parametrize("cut", [1, 60, 600])
def test_a_study_cut_off_anywhere_goes_on_with_the_same_verdicts(mode: Mode, cut: int) -> None:
    draw = random.Random(cut)
    curves = {f"t{n}": sorted([draw.random() for _ in range(MAX_EPOCHS)], reverse=mode == "min") for n in range(100)}
    order = draw.sample([name for name in curves for _ in range(MAX_EPOCHS)], 1600)  # who ends an epoch next
    epochs = [order[: position + 1].count(name) for position, name in enumerate(order)]
    events = [(name, epoch, curves[name][epoch - 1]) for name, epoch in zip(order, epochs, strict=True)]
    whole, second = Standing(mode, max_epochs=MAX_EPOCHS), Standing(mode, max_epochs=MAX_EPOCHS)
    for event in events[:cut]:
        whole.judge(*event)
    for event in sorted(events[:cut], key=lambda event: event[:2]):  # a journal is told trial after trial
        second.judge(*event)
    verdicts = [(whole.judge(*event), second.judge(*event)) for event in events[cut:]]
    assert set(verdicts) == {(True, True), (False, False)}
