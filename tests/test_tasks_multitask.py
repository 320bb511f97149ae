"""Multitask: objective, loss with fixed and learned weights, scores, crops, and labels that are missing."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fmasearch.config import LossConfig, TaskConfig
from fmasearch.records import Objective, TargetStats
from fmasearch.tasks import Multitask, Task, build_task, study_objective

NAN = torch.nan
CLASSES = ["folk", "jazz", "rock"]
TARGETS = [TargetStats("valence", 5.0, 2.0), TargetStats("energy", -1.0, 0.5), TargetStats("tempo", 120.0, 30.0)]
PARTS = {"emotion": ["valence", "energy"], "genre": "genre", "speed": ["tempo"]}
"""The label set is not named first, but comes first in outputs and targets."""


def task_of(parts: dict[str, Any] = PARTS, objective: str | None = None, **loss: Any) -> Multitask:
    config = TaskConfig.model_validate({"multitask": parts, "objective": objective})
    task = build_task(config, CLASSES, TARGETS, loss=LossConfig.model_validate(loss))
    assert isinstance(task, Multitask)
    return task


def batch(num_clips: int = 10, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Outputs (B, 3 + 3) and targets (B, 1 + 3) of which a third is missing, in any pattern."""
    generator = torch.Generator().manual_seed(seed)
    outputs = torch.randn(num_clips, 6, generator=generator)
    numbers = torch.randn(num_clips, 3, generator=generator) * torch.tensor([2.0, 0.5, 30.0])
    numbers += torch.tensor([5.0, -1.0, 120.0])
    codes = torch.randint(3, (num_clips, 1), generator=generator).float()
    targets = torch.cat([codes, numbers], dim=1)
    return outputs, torch.where(torch.rand(targets.shape, generator=generator) < 1 / 3, NAN, targets)


def part_losses(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cross entropy, and the mean squared standardised errors of both parts, from torch's own functions."""
    codes = targets[:, 0]
    genre = F.cross_entropy(outputs[~codes.isnan(), :3], codes[~codes.isnan()].long())
    errors = []
    for column, stats in enumerate(TARGETS):
        known = ~targets[:, 1 + column].isnan()
        wanted = (targets[known, 1 + column] - stats.mean) / stats.std
        errors.append(F.mse_loss(outputs[known, 3 + column], wanted))
    return genre, (errors[0] + errors[1]) / 2, errors[2]


# --- the objective --------------------------------------------------------------------------------------------------

KINDS: list[dict[str, Any]] = [
    {"classification": "genre"},
    {"classification": "genre", "objective": "balanced_accuracy"},
    {"regression": ["valence", "energy", "tempo"]},
    {"regression": ["valence", "energy", "tempo"], "objective": "rmse"},
    {"regression": ["valence", "energy", "tempo"], "objective": "tempo_ccc"},
    {"regression": ["valence", "energy", "tempo"], "objective": "tempo_mae"},
    {"multitask": PARTS},
    {"multitask": PARTS, "objective": "mean"},
    {"multitask": PARTS, "objective": "genre"},
    {"multitask": PARTS, "objective": "emotion"},
    {"multitask": {"mood": ["valence", "energy"], "speed": ["tempo"]}},
    {"multitask": {"mood": ["valence", "energy"], "mae": ["tempo"]}, "objective": "mae"},
]


@pytest.mark.parametrize("values", KINDS, ids=str)
def test_a_studys_objective_is_that_of_its_tasks_and_among_their_metrics(values: dict[str, Any]) -> None:
    config = TaskConfig.model_validate(values)
    task: Task = build_task(config, CLASSES if config.label else [], TARGETS if config.targets else [])
    assert study_objective(config) == task.objective
    outputs, targets = batch()
    if config.classification:
        outputs, targets = outputs[:, :3], targets[:, 0].nan_to_num(-1).long()
    elif config.label is None:
        outputs, targets = outputs[:, 3:], targets[:, 1:]
    metrics = task.metrics(torch.device("cpu"))
    metrics.update(outputs, targets)
    assert task.output_dim == outputs.shape[1]
    assert math.isfinite(metrics.compute()[task.objective.metric.removeprefix("val_")])


def test_only_errors_are_minimised() -> None:
    modes = {str(values): study_objective(TaskConfig.model_validate(values)).mode for values in KINDS}
    assert [mode for mode in modes.values() if mode == "min"] == ["min"] * 2  # rmse and tempo_mae; `mae` is a part
    assert study_objective(TaskConfig.model_validate(KINDS[-1])) == Objective("val_mae_spearman", "max")


# --- the loss --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("weight", [1.0, 0.3, 0.0])
def test_the_loss_is_the_weighted_sum_of_the_parts(weight: float, seed: int) -> None:
    outputs, targets = batch(seed=seed)
    genre, emotion, speed = part_losses(outputs, targets)
    loss = task_of(regression_weight=weight).loss(outputs, targets)
    torch.testing.assert_close(loss, genre + weight * (emotion + speed))


def test_settings_of_both_kinds_of_loss_reach_their_parts() -> None:
    outputs, targets = batch()
    known = ~targets[:, 0].isnan()
    smoothed = F.cross_entropy(outputs[known, :3], targets[known, 0].long(), label_smoothing=0.1)
    absolute = task_of(regression="mae", label_smoothing=0.1, regression_weight=0.0).loss(outputs, targets)
    torch.testing.assert_close(absolute, smoothed)
    emotion_and_speed = task_of(regression="mae").loss(outputs, targets) - part_losses(outputs, targets)[0]
    errors = (
        outputs[:, 3:] - (targets[:, 1:] - torch.tensor([5.0, -1.0, 120.0])) / torch.tensor([2.0, 0.5, 30.0])
    ).abs()
    valence, energy, tempo = errors.nanmean(0)
    torch.testing.assert_close(emotion_and_speed, (valence + energy) / 2 + tempo)


@pytest.mark.parametrize("seed", range(5))
def test_learned_weights_are_those_of_kendall_and_others(seed: int) -> None:
    outputs, targets = batch(seed=seed)
    log_variances = torch.tensor([0.7, -0.4, 1.5], requires_grad=True)  # of genre, emotion, speed
    both = torch.cat([outputs, log_variances.expand(len(outputs), 3)], dim=1)
    loss = task_of(weighting="uncertainty").loss(both, targets)
    # Kendall, Gal & Cipolla (CVPR 2018): L / s**2 + ln s for classes, L / (2 s**2) + ln s for numbers.
    deviations = [math.exp(value / 2) for value in log_variances.tolist()]
    losses = [each.item() for each in part_losses(outputs, targets)]
    expected = losses[0] / deviations[0] ** 2 + sum(
        each / (2 * s**2) for each, s in zip(losses[1:], deviations[1:], strict=True)
    )
    assert loss.item() == pytest.approx(expected + sum(math.log(s) for s in deviations), rel=1e-5)
    loss.backward()
    # d/dv of exp(-v) L + v / 2, and of exp(-v) L / 2 + v / 2
    by_hand = [0.5 - factor * each / s**2 for factor, each, s in zip((1, 0.5, 0.5), losses, deviations, strict=True)]
    assert log_variances.grad is not None
    assert log_variances.grad.tolist() == pytest.approx(by_hand, rel=1e-4)


def test_a_variance_learns_nothing_from_a_batch_without_its_labels() -> None:
    outputs, targets = batch()
    targets[:, 3] = NAN  # no tempo
    log_variances = torch.zeros(3, requires_grad=True)
    both = torch.cat([outputs, log_variances.expand(len(outputs), 3)], dim=1)
    task_of(weighting="uncertainty").loss(both, targets).backward()
    assert log_variances.grad is not None
    assert log_variances.grad[2] == 0
    assert (log_variances.grad[:2] != 0).all()


@pytest.mark.parametrize("weighting", ["fixed", "uncertainty"])
def test_gradients_are_finite_and_zero_where_there_is_no_label(weighting: str) -> None:
    outputs, targets = batch()
    task = task_of(weighting=weighting)
    outputs = torch.cat([outputs, torch.zeros(len(outputs), task.num_learned_weights)], dim=1).requires_grad_()
    task.loss(outputs, targets).backward()
    assert outputs.grad is not None
    assert outputs.grad.isfinite().all()
    assert (outputs.grad[targets[:, 0].isnan(), :3] == 0).all()
    assert (outputs.grad[:, 3:6][targets[:, 1:].isnan()] == 0).all()


@pytest.mark.parametrize("weighting", ["fixed", "uncertainty"])
def test_what_is_said_of_a_missing_label_changes_neither_loss_nor_metrics(weighting: str) -> None:
    outputs, targets = batch()
    task = task_of(weighting=weighting)
    outputs = torch.cat([outputs, torch.zeros(len(outputs), task.num_learned_weights)], dim=1)
    noisy = outputs.clone()
    noisy[:, :3] = torch.where(targets[:, :1].isnan(), 50.0, outputs[:, :3])
    noisy[:, 3:6] = torch.where(targets[:, 1:].isnan(), 1e3, outputs[:, 3:6])
    assert not torch.equal(noisy, outputs)
    assert torch.equal(task.loss(noisy, targets), task.loss(outputs, targets))
    scores = []
    for said in (outputs, noisy):
        metrics = task.metrics(torch.device("cpu"))
        metrics.update(said, targets)
        scores.append(metrics.compute())
    assert scores[0] == scores[1]


@pytest.mark.parametrize("weighting", ["fixed", "uncertainty"])
def test_a_batch_without_labels_has_loss_0_and_gradient_0(weighting: str) -> None:
    outputs = torch.randn(4, 6 + (3 if weighting == "uncertainty" else 0), requires_grad=True)
    loss = task_of(weighting=weighting).loss(outputs, torch.full((4, 4), NAN))
    loss.backward()
    assert loss.item() == 0
    assert outputs.grad is not None
    assert (outputs.grad == 0).all()


# --- scores ----------------------------------------------------------------------------------------------------------


def test_scores_carry_the_name_of_their_part_or_target() -> None:
    outputs, targets = batch()
    metrics = task_of().metrics(torch.device("cpu"))
    metrics.update(outputs, targets)
    scores = metrics.compute()
    assert {"genre_macro_f1", "genre_loss", "emotion_spearman", "valence_spearman", "speed_rmse", "tempo_rmse"} <= (
        scores.keys()
    )
    assert scores["emotion_rmse"] == pytest.approx((scores["valence_rmse"] + scores["energy_rmse"]) / 2)
    assert scores["speed_rmse"] == scores["tempo_rmse"]
    parts = (scores["genre_macro_f1"], scores["emotion_spearman"], scores["speed_spearman"])
    assert scores["mean"] == pytest.approx(sum(parts) / 3)
    assert scores["loss"] == pytest.approx(scores["genre_loss"] + scores["emotion_loss"] + scores["speed_loss"])


def test_the_monitored_loss_is_the_plain_one_weighted_as_in_training() -> None:
    outputs, targets = batch()
    genre, emotion, speed = part_losses(outputs, targets)
    metrics = task_of(regression_weight=0.3, regression="mae", label_smoothing=0.1).metrics(torch.device("cpu"))
    metrics.update(outputs, targets)
    assert metrics.compute()["loss"] == pytest.approx((genre + 0.3 * (emotion + speed)).item(), rel=1e-5)


def test_crops_are_combined_part_by_part() -> None:
    outputs = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(0))
    log_variances = torch.tensor([0.1, 0.2, 0.3])
    combined = task_of(weighting="uncertainty").combine(torch.cat([outputs, log_variances.expand(2, 3, 3)], dim=2))
    torch.testing.assert_close(combined[:, :3].exp(), outputs[..., :3].softmax(-1).mean(1))
    torch.testing.assert_close(combined[:, 3:6], outputs[..., 3:].mean(1))
    torch.testing.assert_close(combined[:, 6:], log_variances.expand(2, 3))


@pytest.mark.gpu
@pytest.mark.parametrize("weighting", ["fixed", "uncertainty"])
def test_a_loss_on_the_gpu_does_not_wait_for_it(weighting: str) -> None:
    task = task_of(weighting=weighting)
    outputs, targets = (each.cuda() for each in batch())
    outputs = torch.cat([outputs, torch.zeros(len(outputs), task.num_learned_weights, device="cuda")], dim=1)
    task.loss(outputs, targets)  # constants are copied once
    torch.cuda.set_sync_debug_mode("error")
    try:
        task.loss(outputs, targets)
        task.metrics(outputs.device).update(task.combine(outputs[:, None]), targets)
    finally:
        torch.cuda.set_sync_debug_mode("default")
