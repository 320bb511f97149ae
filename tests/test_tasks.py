"""Classification: loss, objective, metrics, and what a batch without labels does."""

import math

import pytest
import torch

from fmasearch.config import TaskConfig
from fmasearch.errors import ConfigError
from fmasearch.records import Objective
from fmasearch.tasks import Classification, build_task

TASK = Classification(("Blues", "Jazz", "Rock"))


def test_a_task_is_built_from_its_configuration() -> None:
    config = TaskConfig(classification="genre", objective="accuracy")
    task = build_task(config, ["Blues", "Jazz", "Rock"])
    assert task == Classification(("Blues", "Jazz", "Rock"), "accuracy")
    assert task.output_dim == 3
    assert task.objective == Objective("val_accuracy", "max")


def test_one_class_is_nothing_to_tell_apart() -> None:
    with pytest.raises(ConfigError, match=r"'genre' needs at least two classes, got \['Rock'\]"):
        build_task(TaskConfig(classification="genre"), ["Rock"])


def test_loss_is_the_mean_cross_entropy() -> None:
    outputs = torch.tensor([[0.0, 0.0, 0.0], [math.log(2), 0.0, 0.0]])
    # Three equal classes cost ln 3; a class twice as likely as two others has 2/4, which costs ln 2.
    loss = TASK.loss(outputs, torch.tensor([1, 0]))
    assert loss.item() == pytest.approx((math.log(3) + math.log(2)) / 2)


def test_targets_without_a_label_leave_the_mean() -> None:
    torch.manual_seed(0)
    outputs, targets = torch.randn(6, 3), torch.tensor([0, -1, 2, -1, 1, 1])
    expected = TASK.loss(outputs[targets >= 0], targets[targets >= 0])
    torch.testing.assert_close(TASK.loss(outputs, targets), expected)


def test_a_batch_without_labels_has_loss_0_and_gradient_0() -> None:
    outputs = torch.randn(4, 3, requires_grad=True)
    loss = TASK.loss(outputs, torch.full((4,), -1))
    loss.backward()
    assert loss.item() == 0
    assert outputs.grad is not None
    assert torch.equal(outputs.grad, torch.zeros(4, 3))


def test_bf16_outputs_have_a_loss_in_fp32() -> None:
    assert TASK.loss(torch.randn(4, 3).bfloat16(), torch.tensor([0, 1, 2, 0])).dtype is torch.float32


def test_the_objective_is_among_the_metrics() -> None:
    metrics = TASK.metrics(torch.device("cpu"))
    metrics.update(torch.eye(3), torch.tensor([0, 1, 2]))
    assert metrics.compute()[TASK.objective.metric.removeprefix("val_")] == 1.0


@pytest.mark.parametrize("objective", ["macro_f1", "accuracy", "balanced_accuracy"])
def test_every_objective_that_can_be_configured_is_computed(objective: str) -> None:
    config = TaskConfig.model_validate({"classification": "genre", "objective": objective})
    task = build_task(config, ["a", "b"])
    assert task.objective.metric.removeprefix("val_") in task.metrics(torch.device("cpu")).compute()
