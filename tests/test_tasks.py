"""Classification: loss with its weights and smoothing, objective, metrics, crops, and batches without labels."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from fmasearch.config import LossConfig, TaskConfig
from fmasearch.errors import ConfigError
from fmasearch.records import Objective
from fmasearch.tasks import Classification, build_task

TASK = Classification(("Blues", "Jazz", "Rock"))


def weighted_task(counts: list[int], **loss: Any) -> Classification:
    names = [f"class {k}" for k in range(len(counts))]
    task = build_task(TaskConfig(classification="genre"), names, loss=LossConfig(**loss), class_counts=counts)
    assert isinstance(task, Classification)
    return task


def weights_of(counts: list[int], **loss: Any) -> list[float]:
    weights = weighted_task(counts, **loss).class_weights
    assert weights is not None
    return list(weights)


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


def test_smoothing_is_torchs_own() -> None:
    torch.manual_seed(0)
    outputs, targets = torch.randn(6, 3), torch.tensor([0, -1, 2, 0, 1, 1])
    task = weighted_task([1, 1, 1], label_smoothing=0.1)
    expected = F.cross_entropy(outputs, targets, ignore_index=-1, label_smoothing=0.1)
    torch.testing.assert_close(task.loss(outputs, targets), expected)


def test_balanced_classes_weigh_the_same_in_all() -> None:
    # 1/n times 8 tracks over 2 classes that have any: 8 / (2 * 6) and 8 / (2 * 2), so that 6 + 2 tracks weigh 8.
    assert weights_of([6, 0, 2], class_weights="balanced") == pytest.approx([2 / 3, 0.0, 2.0])


def test_root_weights_lie_between() -> None:
    # 1/2 and 1/1 over 4 and 1 tracks: (4/2 + 1) / 5 = 0.6 on average.
    assert weights_of([4, 1], class_weights="sqrt") == pytest.approx([0.5 / 0.6, 1 / 0.6])


def test_effective_numbers_weigh_as_in_the_paper() -> None:
    # At beta 0.5 two tracks count as 1 + 0.5, one as 1: weights 2/3 and 1, (2 * 2/3 + 1) / 3 = 7/9 on average.
    weights = weights_of([2, 1, 0], class_weights="effective", effective_beta=0.5)
    assert weights == pytest.approx([6 / 7, 9 / 7, 0.0])


def test_effective_numbers_lead_from_no_weights_to_balanced_ones() -> None:
    counts = [500, 40, 3]
    assert weights_of(counts, class_weights="effective", effective_beta=0.0) == pytest.approx([1.0] * 3)
    nearly_1 = weights_of(counts, class_weights="effective", effective_beta=0.9999999)
    assert nearly_1 == pytest.approx(weights_of(counts, class_weights="balanced"), rel=1e-4)


@pytest.mark.parametrize("class_weights", ["balanced", "sqrt", "effective"])
def test_weights_are_1_on_average_over_the_training_tracks(class_weights: str) -> None:
    counts = [500, 40, 0, 3]
    weights = weights_of(counts, class_weights=class_weights)
    assert sum(w * n for w, n in zip(weights, counts, strict=True)) / 543 == pytest.approx(1)
    assert weights[3] > weights[1] > weights[0] > weights[2] == 0


def test_a_weighted_loss_is_divided_by_the_number_of_labels() -> None:
    task = weighted_task([6, 2], class_weights="balanced")
    # Equal logits cost ln 2 each; classes 0, 1, 1 weigh 2/3, 2 and 2; the clip without a label does not count.
    loss = task.loss(torch.zeros(4, 2), torch.tensor([0, 1, -1, 1]))
    assert loss.item() == pytest.approx((2 / 3 + 2 + 2) * math.log(2) / 3)


def test_a_clip_is_weighed_by_its_own_class_when_smoothed_too() -> None:
    torch.manual_seed(0)
    task = weighted_task([6, 2], class_weights="balanced", label_smoothing=0.2)
    outputs = torch.randn(2, 2)
    # Two classes at 0.2: 0.9 of the target stay with its class, 0.1 goes to the other.
    smoothed = -(torch.tensor([[0.9, 0.1], [0.1, 0.9]]) * outputs.log_softmax(1)).sum(1)
    expected = (2 / 3 * smoothed[0] + 2 * smoothed[1]) / 2
    torch.testing.assert_close(task.loss(outputs, torch.tensor([0, 1])), expected)


def test_a_weighted_batch_without_labels_has_loss_0_and_gradient_0() -> None:
    outputs = torch.randn(4, 2, requires_grad=True)
    loss = weighted_task([6, 2], class_weights="sqrt", label_smoothing=0.1).loss(outputs, torch.full((4,), -1))
    loss.backward()
    assert loss.item() == 0
    assert outputs.grad is not None
    assert torch.equal(outputs.grad, torch.zeros(4, 2))


def test_a_loss_that_was_first_computed_in_inference_mode_can_be_trained_with() -> None:
    task = weighted_task([7, 1], class_weights="balanced")
    with torch.inference_mode():
        task.loss(torch.zeros(2, 2), torch.tensor([0, 1]))
    outputs = torch.zeros(2, 2, requires_grad=True)
    task.loss(outputs, torch.tensor([0, 1])).backward()
    assert outputs.grad is not None


def test_weights_need_tracks_with_labels() -> None:
    with pytest.raises(ConfigError, match="'balanced' needs labelled training tracks, got none"):
        weighted_task([0, 0], class_weights="balanced")


def test_crops_are_combined_by_their_mean_probability() -> None:
    # Crops give the classes (0.9, 0.05, 0.05) and (0.1, 0.45, 0.45): on average (0.5, 0.25, 0.25).
    probabilities_BCK = torch.tensor([[[0.9, 0.05, 0.05], [0.1, 0.45, 0.45]]])
    combined = TASK.combine(probabilities_BCK.log() + torch.tensor([[[3.0], [-2.0]]]))  # logits know no zero
    torch.testing.assert_close(combined.exp(), torch.tensor([[0.5, 0.25, 0.25]]))


def test_a_single_crop_keeps_its_prediction() -> None:
    torch.manual_seed(0)
    outputs_BK = torch.randn(4, 3)
    torch.testing.assert_close(TASK.combine(outputs_BK[:, None]).softmax(1), outputs_BK.softmax(1))


def test_crops_that_are_certain_combine_to_finite_outputs() -> None:
    combined = TASK.combine(torch.tensor([[[500.0, 0.0, 0.0], [500.0, 0.0, 0.0]]]))
    # The mean probability of the others, e**-500, is no float32; its logarithm is one.
    torch.testing.assert_close(combined, torch.tensor([[0.0, -500.0, -500.0]]))


def test_the_objective_is_among_the_metrics() -> None:
    metrics = TASK.metrics(torch.device("cpu"))
    metrics.update(torch.eye(3), torch.tensor([0, 1, 2]))
    assert metrics.compute()[TASK.objective.metric.removeprefix("val_")] == 1.0


@pytest.mark.parametrize("objective", ["macro_f1", "accuracy", "balanced_accuracy"])
def test_every_objective_that_can_be_configured_is_computed(objective: str) -> None:
    config = TaskConfig.model_validate({"classification": "genre", "objective": objective})
    task = build_task(config, ["a", "b"])
    assert task.objective.metric.removeprefix("val_") in task.metrics(torch.device("cpu")).compute()


@pytest.mark.gpu
def test_a_weighted_loss_on_the_gpu_does_not_wait_for_it() -> None:
    task = weighted_task([6, 2], class_weights="balanced", label_smoothing=0.1)
    outputs, targets = torch.zeros(3, 2, device="cuda"), torch.tensor([0, 1, -1]).cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        task.combine(outputs[:, None])
        task.loss(outputs, targets)
    finally:
        torch.cuda.set_sync_debug_mode("default")
