"""Every learning-rate curve against factors written by hand, and how a curve continues from its state."""

import json
import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import Optimizer

from fmasearch.config import OptimizerConfig, SchedulerConfig
from fmasearch.optim import Schedule, build_optimizer, build_schedule

FALLING = [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3]
FLAT = [1.0] * 8
NAMES = ["constant", "plateau", "step", "step_plateau", "cosine", "one_cycle"]
STEPS = 3  # of the optimiser, an epoch


def optimizer_of(**settings: Any) -> Optimizer:
    """Of three blocks with a weight each, the last of them the head."""
    blocks = [nn.Linear(1, 1, bias=False) for _ in range(3)]
    return build_optimizer(blocks, OptimizerConfig(**{"learning_rate": 1.0, **settings}), fused=False)


def schedule_of(
    optimizer: Optimizer, *, max_epochs: int = 8, steps_per_epoch: int = STEPS, **settings: Any
) -> Schedule:
    return build_schedule(
        optimizer, SchedulerConfig(**settings), max_epochs=max_epochs, steps_per_epoch=steps_per_epoch
    )


def curve(losses: list[float], **settings: Any) -> list[float]:
    """The factor that each epoch is trained with, and the one after the last."""
    schedule = schedule_of(optimizer_of(), **settings)
    factors = [schedule.learning_rate]
    for loss in losses:
        schedule.after_epoch(loss)
        factors.append(schedule.learning_rate)
    return factors


def step_curve(optimizer: Optimizer, num_steps: int, key: str = "lr", **settings: Any) -> list[list[Any]]:
    """What each group has under `key` at every step, in epochs of `STEPS`."""
    schedule = schedule_of(optimizer, **settings)
    return [_after_a_step(optimizer, schedule, key) for _ in range(num_steps)]


def test_constant_stays() -> None:
    assert curve(FLAT, name="constant") == [1.0] * 9


def test_plateau_falls_after_more_than_patience_epochs_without_improvement() -> None:
    # Epoch 1 sets the best, epochs 2 and 3 are tolerated, epoch 4 is too many; then the count starts anew.
    factors = curve(FLAT, name="plateau", factor=0.5, patience=2)
    assert factors == [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25]
    assert curve(FALLING, name="plateau", factor=0.5, patience=0) == [1] * 9


def test_plateau_counts_no_epoch_while_it_cools_down() -> None:
    # Epoch 1 sets the best, epoch 2 is tolerated, epoch 3 halves; 4 and 5 cool down, 6 is tolerated, 7 halves.
    factors = curve(FLAT, name="plateau", factor=0.5, patience=1, cooldown=2)
    assert factors == [1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25]


def test_plateau_knows_relative_and_absolute_thresholds() -> None:
    # 10.0 to 9.95 is 0.5 % better, by 0.05.
    losses = [10.0, 9.95]
    assert curve(losses, name="plateau", patience=0, threshold=0.01, threshold_mode="rel")[-1] == 0.5
    assert curve(losses, name="plateau", patience=0, threshold=0.01, threshold_mode="abs")[-1] == 1.0


def test_plateau_reduces_the_slowest_block_too() -> None:
    # The first block learns at 1e-5 * 0.02**2 = 4e-9; torch's own limit is a reduction of 1e-8.
    optimizer = optimizer_of(learning_rate=1e-5, layer_decay=0.02)
    schedule = schedule_of(optimizer, name="plateau", factor=0.5, patience=0)
    for loss in (1.0, 1.0):
        schedule.after_epoch(loss)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([2e-9, 1e-7, 5e-6], rel=1e-9)


def test_a_nan_loss_is_no_improvement() -> None:
    assert curve([1.0, math.nan, 0.9], name="plateau", patience=0) == [1, 1, 0.5, 0.5]


def test_step_falls_every_few_epochs() -> None:
    factors = curve(FALLING, name="step", step_size=3, gamma=0.1)
    assert factors == pytest.approx([1, 1, 1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.01])


def test_step_plateau_multiplies_both() -> None:
    # Steps of 0.7 after epochs 4 and 8; plateaus of 0.5 after epochs 3, 5 and 7 (patience 1).
    factors = curve(FLAT, name="step_plateau", step_size=4, gamma=0.7, factor=0.5, patience=1)
    assert factors == pytest.approx([1, 1, 1, 0.5, 0.35, 0.175, 0.175, 0.0875, 0.06125])


def test_cosine_ends_at_0() -> None:
    # cos(0), cos(45), cos(90), cos(135), cos(180 degrees), each plus 1 and halved; it stays at 0.
    half = math.sqrt(0.5)
    expected = [1, (1 + half) / 2, 0.5, (1 - half) / 2, 0, 0]
    assert curve([1.0] * 5, max_epochs=4, name="cosine") == pytest.approx(expected, abs=1e-15)


def test_cosine_warms_up_linearly() -> None:
    # Thirds up to 1 at epoch 2, then half a cosine over the 4 epochs that are left.
    half = math.sqrt(0.5)
    expected = [1 / 3, 2 / 3, 1, (1 + half) / 2, 0.5, (1 - half) / 2, 0]
    factors = curve([1.0] * 6, max_epochs=6, name="cosine", warmup_epochs=2)
    assert factors == pytest.approx(expected, abs=1e-15)


def test_a_warm_up_longer_than_the_training_only_warms_up() -> None:
    assert curve([1.0] * 2, max_epochs=2, name="cosine", warmup_epochs=3) == pytest.approx([0.25, 0.5, 0.75])


def test_one_cycle_goes_up_and_down_over_all_steps() -> None:
    # 9 steps; a third of them less one is 2 steps up, from 1/25, by half a cosine (mean of both ends at step 1).
    # Then 6 steps down to 1/250,000: cosines of 30, 60, 90, 120, 150 and 180 degrees, plus 1 and halved.
    low, half = 1 / 250_000, math.sqrt(0.75)
    fall = [(1 + half) / 2, 0.75, 0.5, 0.25, (1 - half) / 2, 0]
    expected = [0.04, 0.52, 1.0, *(low + (1 - low) * factor for factor in fall)]
    rates = step_curve(optimizer_of(), 9, max_epochs=3, name="one_cycle", warmup_fraction=1 / 3)
    assert [rate for (rate,) in rates] == pytest.approx(expected)


@pytest.mark.parametrize(("name", "key"), [("sgd", "momentum"), ("adam", "betas")])
def test_one_cycle_takes_momentum_the_other_way(name: str, key: str) -> None:
    # Same cosines as the rate's, from 0.95 to 0.85 in 2 steps and back in 6; three of those are half the way.
    values = step_curve(optimizer_of(name=name), 9, key, max_epochs=3, name="one_cycle", warmup_fraction=1 / 3)
    momenta = [value[0] if key == "betas" else value for (value,) in values]
    assert [momenta[i] for i in (0, 1, 2, 5, 8)] == pytest.approx([0.95, 0.9, 0.85, 0.9, 0.95])
    assert key == "momentum" or {value[1] for (value,) in values} == {0.999}


def test_one_cycle_leaves_plain_sgd_without_momentum() -> None:
    optimizer = optimizer_of(name="sgd", momentum=0.0)
    assert step_curve(optimizer, 9, "momentum", max_epochs=3, name="one_cycle") == [[0.0]] * 9


def test_one_cycle_keeps_the_proportions_of_layer_decay() -> None:
    optimizer = optimizer_of(name="adam", layer_decay=0.5)
    for first, second, head in step_curve(optimizer, 9, max_epochs=3, name="one_cycle"):
        assert (first, second) == pytest.approx((head / 4, head / 2))


def test_a_cycle_that_is_over_stays_at_its_last_rate() -> None:
    rates = step_curve(optimizer_of(), 14, max_epochs=3, name="one_cycle")
    assert rates[8:] == [rates[8]] * 6
    assert rates[8] == pytest.approx([1 / 250_000])


@pytest.mark.parametrize("num_steps", [1, 2, 3, 4, 10])
@pytest.mark.parametrize("warmup_fraction", [0.01, 0.1, 0.3, 0.99])
def test_one_cycle_fits_trainings_of_a_few_steps(num_steps: int, warmup_fraction: float) -> None:
    # A tenth of 10 steps, less one, is a way up of length 0, by which torch would divide.
    rates = step_curve(
        optimizer_of(),
        num_steps + 2,
        max_epochs=num_steps,
        steps_per_epoch=1,
        name="one_cycle",
        warmup_fraction=warmup_fraction,
    )
    assert rates[0] == [pytest.approx(0.04)]
    assert all(0 < rate <= 1 for (rate,) in rates)


@pytest.mark.parametrize("name", ["plateau", "step", "cosine"])
def test_only_one_cycle_changes_with_steps(name: str) -> None:
    assert step_curve(optimizer_of(), 4, name=name) == [[1.0]] * 4


def test_one_cycle_does_not_change_with_epochs() -> None:
    assert curve(FLAT, name="one_cycle") == [pytest.approx(0.04)] * 9


@pytest.mark.parametrize("name", ["plateau", "step", "cosine"])
def test_all_groups_follow_the_schedule(name: str) -> None:
    optimizer = optimizer_of(layer_decay=0.5)
    schedule = schedule_of(optimizer, max_epochs=4, name=name, patience=0, factor=0.5, step_size=1, gamma=0.5)
    for loss in (1.0, 1.0):
        schedule.after_epoch(loss)
    # One plateau; two steps of a half; half of a cosine.
    factor = {"plateau": 0.5, "step": 0.25, "cosine": 0.5}[name]
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([factor / 4, factor / 2, factor])
    assert schedule.learning_rate == pytest.approx(factor)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("order", ["optimizer_first", "schedule_first", "schedule_alone"])
@pytest.mark.parametrize("optimizer_name", ["adamw", "sgd"])
def test_a_curve_continues_from_its_state(name: str, order: str, optimizer_name: str) -> None:
    settings = {"name": name, "patience": 1, "cooldown": 1, "step_size": 2, "warmup_epochs": 2}
    losses = [1.0, 0.9, 0.9, 0.9, 0.8, 0.8, 0.8, 0.8]

    def start() -> tuple[Optimizer, Schedule]:
        optimizer = optimizer_of(name=optimizer_name, layer_decay=0.5)
        return optimizer, schedule_of(optimizer, **settings)

    optimizer, schedule = start()
    _epochs(optimizer, schedule, losses[:3])
    saved = optimizer.state_dict(), json.loads(json.dumps(schedule.state_dict()))
    rest = _epochs(optimizer, schedule, losses[3:])

    resumed_optimizer, resumed = start()
    if order == "optimizer_first":
        resumed_optimizer.load_state_dict(saved[0])
    resumed.load_state_dict(saved[1])
    if order == "schedule_first":
        resumed_optimizer.load_state_dict(saved[0])
    assert _epochs(resumed_optimizer, resumed, losses[3:]) == rest
    assert name == "constant" or len({str(values) for values in rest}) > 1


def test_the_middle_of_an_epoch_is_a_place_to_continue_from() -> None:
    optimizer = optimizer_of()
    schedule = schedule_of(optimizer, name="one_cycle")
    for _ in range(4):
        _after_a_step(optimizer, schedule, "lr")
    resumed_optimizer = optimizer_of()
    resumed = schedule_of(resumed_optimizer, name="one_cycle")
    resumed.load_state_dict(schedule.state_dict())
    assert _after_a_step(resumed_optimizer, resumed, "lr") == _after_a_step(optimizer, schedule, "lr")
    assert resumed.learning_rate == schedule.learning_rate


def _after_a_step(optimizer: Optimizer, schedule: Schedule, key: str) -> list[Any]:
    """Take a step; returns what it was taken with."""
    values = [group[key] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    schedule.after_step()
    return values


def _epochs(optimizer: Optimizer, schedule: Schedule, losses: list[float]) -> list[list[Any]]:
    """Rates and momenta of every step."""
    key = "betas" if "betas" in optimizer.defaults else "momentum"
    values = []
    for loss in losses:
        for _ in range(STEPS):
            momenta = [group[key] for group in optimizer.param_groups]
            values.append([*_after_a_step(optimizer, schedule, "lr"), *momenta])
        schedule.after_epoch(loss)
    return values
