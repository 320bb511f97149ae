"""Parameter groups and the optimiser; every learning-rate curve against factors written by hand."""

import json
import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import Adam, AdamW, Optimizer

from fmasearch.config import OptimizerConfig, SchedulerConfig
from fmasearch.optim import Schedule, build_optimizer, build_schedule

FALLING = [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3]
FLAT = [1.0] * 8


def small_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv1d(2, 3, 3), nn.BatchNorm1d(3), nn.Flatten(), nn.Linear(6, 2))


def optimizer_of(learning_rate: float = 1.0) -> Optimizer:
    return build_optimizer(small_model(), OptimizerConfig(learning_rate=learning_rate), fused=False)


def curve(losses: list[float], *, max_epochs: int = 8, **settings: Any) -> list[float]:
    """The factor that each epoch is trained with, and the one after the last."""
    schedule = build_schedule(optimizer_of(), SchedulerConfig(**settings), max_epochs=max_epochs)
    factors = [schedule.learning_rate]
    for loss in losses:
        schedule.step(loss)
        factors.append(schedule.learning_rate)
    return factors


def train_step(model: nn.Module, optimizer: Optimizer) -> None:
    optimizer.zero_grad()
    x = torch.randn(4, 2, 4, generator=torch.Generator().manual_seed(5))
    model(x).square().sum().backward()
    optimizer.step()


def test_adam_penalises_everything_as_the_reference_did() -> None:
    model = small_model()
    optimizer = build_optimizer(model, OptimizerConfig(name="adam", weight_decay=1e-4), fused=False)
    assert type(optimizer) is Adam
    assert [len(group["params"]) for group in optimizer.param_groups] == [6]
    assert optimizer.param_groups[0]["weight_decay"] == 1e-4


def test_adam_adds_the_penalty_to_the_gradient() -> None:
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, 2.0)
    optimizer = build_optimizer(layer, OptimizerConfig(name="adam", learning_rate=0.1, weight_decay=0.5), fused=False)
    layer.weight.grad = torch.zeros(1, 1)
    optimizer.step()
    # Adam divides the gradient 0.5 * 2 by its own size: one step is one learning rate.
    assert layer.weight.item() == pytest.approx(2.0 - 0.1)


def test_adamw_decays_matrices_and_nothing_else() -> None:
    model = small_model()
    optimizer = build_optimizer(model, OptimizerConfig(name="adamw", weight_decay=0.01), fused=False)
    assert type(optimizer) is AdamW
    matrices, vectors = optimizer.param_groups
    assert [tuple(p.shape) for p in matrices["params"]] == [(3, 2, 3), (2, 6)]
    # Bias of the convolution, scale and shift of the norm, bias of the linear layer.
    assert [tuple(p.shape) for p in vectors["params"]] == [(3,), (3,), (3,), (2,)]
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.01, 0.0)


def test_decoupled_decay_does_not_pass_through_the_gradient() -> None:
    layer = nn.Linear(1, 1)
    nn.init.constant_(layer.weight, 2.0)
    nn.init.constant_(layer.bias, 2.0)
    config = OptimizerConfig(name="adamw", learning_rate=0.1, weight_decay=0.5)
    optimizer = build_optimizer(layer, config, fused=False)
    layer.weight.grad, layer.bias.grad = torch.zeros(1, 1), torch.zeros(1)
    optimizer.step()
    assert layer.weight.item() == pytest.approx(2.0 * (1 - 0.1 * 0.5))
    assert layer.bias.item() == 2.0


def test_frozen_parameters_are_left_out() -> None:
    model = small_model()
    next(model.parameters()).requires_grad_(False)
    optimizer = build_optimizer(model, OptimizerConfig(), fused=False)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 5


def test_a_model_without_vectors_has_one_group() -> None:
    optimizer = build_optimizer(nn.Linear(2, 2, bias=False), OptimizerConfig(), fused=False)
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_the_fused_optimiser_takes_the_same_steps(name: str) -> None:
    models = small_model(), small_model()
    config = OptimizerConfig.model_validate({"name": name, "weight_decay": 0.01, "learning_rate": 0.01})
    for model, fused in zip(models, (False, True), strict=True):
        optimizer = build_optimizer(model, config, fused=fused)
        for _ in range(5):
            train_step(model, optimizer)
    for plain, fast in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(plain, fast)


def test_constant_stays() -> None:
    assert curve(FLAT, name="constant") == [1.0] * 9


def test_plateau_falls_after_more_than_patience_epochs_without_improvement() -> None:
    # Epoch 1 sets the best, epochs 2 and 3 are tolerated, epoch 4 is too many; then the count starts anew.
    factors = curve(FLAT, name="plateau", factor=0.5, patience=2)
    assert factors == [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25]
    assert curve(FALLING, name="plateau", factor=0.5, patience=0) == [1] * 9


def test_plateau_knows_relative_and_absolute_thresholds() -> None:
    # 10.0 to 9.95 is 0.5 % better, by 0.05.
    losses = [10.0, 9.95]
    assert curve(losses, name="plateau", patience=0, threshold=0.01, threshold_mode="rel")[-1] == 0.5
    assert curve(losses, name="plateau", patience=0, threshold=0.01, threshold_mode="abs")[-1] == 1.0


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


def test_both_groups_follow_the_schedule() -> None:
    optimizer = optimizer_of(0.5)
    schedule = build_schedule(optimizer, SchedulerConfig(name="cosine"), max_epochs=2)
    schedule.step(1.0)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.25, 0.25])


@pytest.mark.parametrize("name", ["constant", "plateau", "step", "step_plateau", "cosine"])
@pytest.mark.parametrize("optimizer_first", [True, False])
def test_a_curve_continues_from_its_state(name: str, optimizer_first: bool) -> None:
    config = SchedulerConfig.model_validate({"name": name, "patience": 1, "step_size": 2, "warmup_epochs": 2})
    losses = [1.0, 0.9, 0.9, 0.9, 0.8, 0.8, 0.8, 0.8]

    def start() -> tuple[Optimizer, Schedule]:
        optimizer = optimizer_of()
        return optimizer, build_schedule(optimizer, config, max_epochs=8)

    optimizer, schedule = start()
    for loss in losses[:3]:
        schedule.step(loss)
    saved = optimizer.state_dict(), json.loads(json.dumps(schedule.state_dict()))
    rest = _rates(schedule, losses[3:])

    resumed_optimizer, resumed = start()
    if optimizer_first:
        resumed_optimizer.load_state_dict(saved[0])
    resumed.load_state_dict(saved[1])
    if not optimizer_first:
        resumed_optimizer.load_state_dict(saved[0])
    assert _rates(resumed, losses[3:]) == rest


def test_a_schedule_carries_its_rate_without_the_optimiser() -> None:
    config = SchedulerConfig(name="step", step_size=1, gamma=0.5)
    schedule = build_schedule(optimizer_of(), config, max_epochs=4)
    schedule.step(1.0)
    resumed = build_schedule(optimizer_of(), config, max_epochs=4)
    resumed.load_state_dict(schedule.state_dict())
    assert _rates(resumed, [1.0]) == [0.5, 0.25]


def _rates(schedule: Schedule, losses: list[float]) -> list[float]:
    rates = [schedule.learning_rate]
    for loss in losses:
        schedule.step(loss)
        rates.append(schedule.learning_rate)
    return rates
