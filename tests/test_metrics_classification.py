"""The accumulator and the functions on a confusion matrix, against scikit-learn."""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, log_loss, precision_recall_fscore_support

from fmasearch.metrics import ClassificationMetrics, per_class, summary
from metrics_helpers import SCORES, answers, scores_of_sklearn


@pytest.mark.parametrize("seed", range(5))
def test_scores_equal_those_of_sklearn(seed: int) -> None:
    torch.manual_seed(seed)
    outputs, targets = torch.randn(60, 6), torch.randint(0, 6, (60,))
    metrics = ClassificationMetrics(6)
    for start in range(0, 60, 16):  # batches of 16, 16, 16 and 12
        metrics.update(outputs[start : start + 16], targets[start : start + 16])
    expected = scores_of_sklearn(targets, outputs.argmax(1), 6)
    expected["loss"] = log_loss(targets, outputs.double().softmax(1), labels=range(6))
    assert metrics.compute() == pytest.approx(expected, rel=1e-6)


def test_classes_that_are_absent_count_as_sklearn_counts_them() -> None:
    targets, predictions = np.array([0, 0, 1, 1, 1]), np.array([0, 3, 1, 1, 0])
    # Class 2 occurs nowhere, class 3 is only predicted: both have F1 0 and stay in the mean over four.
    # F1 of class 0: 2*1/(2+2) = 0.5; of class 1: 2*2/(3+2) = 0.8. Recalls 1/2 and 2/3.
    scores = summary(confusion_matrix(targets, predictions, labels=range(4)))
    assert scores["macro_f1"] == pytest.approx((0.5 + 0.8) / 4)
    assert scores["balanced_accuracy"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert scores == pytest.approx(scores_of_sklearn(targets, predictions, 4))


def test_targets_without_a_label_contribute_nothing() -> None:
    torch.manual_seed(0)
    outputs, targets = torch.randn(20, 3), torch.randint(0, 3, (20,))
    with_gaps, without = ClassificationMetrics(3), ClassificationMetrics(3)
    with_gaps.update(outputs, torch.where(torch.arange(20) < 8, -1, targets))
    without.update(outputs[8:], targets[8:])
    assert with_gaps.compute() == pytest.approx(without.compute(), rel=1e-12)
    assert with_gaps.confusion().sum() == 12


@pytest.mark.parametrize("batches", [0, 1])
def test_nothing_to_score_is_nan_and_no_error(batches: int) -> None:
    metrics = ClassificationMetrics(3)
    for _ in range(batches):
        metrics.update(torch.randn(4, 3), torch.full((4,), -1))
    scores = metrics.compute()
    assert sorted(scores) == sorted([*SCORES, "loss"])
    assert all(math.isnan(value) for value in scores.values())


def test_a_diverged_model_has_no_finite_loss() -> None:
    metrics = ClassificationMetrics(2)
    metrics.update(torch.tensor([[math.nan, 0.0]]), torch.tensor([1]))
    assert math.isnan(metrics.compute()["loss"])


def test_bf16_outputs_are_summed_in_full_precision() -> None:
    metrics = ClassificationMetrics(2)
    for _ in range(1000):  # in bf16 a sum of ln 2 stops growing at 128
        metrics.update(torch.zeros(1, 2, dtype=torch.bfloat16), torch.tensor([0]))
    assert metrics.compute()["loss"] == pytest.approx(math.log(2), rel=1e-6)


def test_update_keeps_no_graph() -> None:
    outputs = torch.randn(4, 3, requires_grad=True)
    metrics = ClassificationMetrics(3)
    metrics.update(outputs, torch.tensor([0, 1, 2, 0]))
    assert not metrics._log_loss.requires_grad


@pytest.mark.gpu
def test_update_does_not_wait_for_the_device() -> None:
    outputs, targets = torch.randn(8, 3, device="cuda"), torch.zeros(8, dtype=torch.int64, device="cuda")
    metrics = ClassificationMetrics(3, "cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        metrics.update(outputs, targets)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert metrics.confusion().sum() == 8


def test_per_class_scores_equal_those_of_sklearn() -> None:
    targets, predictions = answers(3, 200, 5)
    predictions[predictions == 4] = 0  # class 4 is never predicted
    rows = per_class(confusion_matrix(targets, predictions, labels=range(5)))
    precision, recall, f1, support = precision_recall_fscore_support(
        targets, predictions, labels=range(5), zero_division=0
    )
    np.testing.assert_allclose(rows.precision, precision)
    np.testing.assert_allclose(rows.recall, recall)
    np.testing.assert_allclose(rows.f1, f1)
    np.testing.assert_array_equal(rows.support, support)
    assert rows.predicted[4] == 0


@given(answers=st.lists(st.tuples(st.integers(-1, 4), st.integers(0, 4)), min_size=1, max_size=30))
@settings(deadline=None, max_examples=60)
def test_any_answers_score_as_sklearn_scores_those_with_a_label(answers: list[tuple[int, int]]) -> None:
    # Up to 30 tracks of five classes: some absent, some never predicted, some tracks without a label.
    targets, predictions = torch.tensor(answers).T
    assume((targets >= 0).any())
    metrics = ClassificationMetrics(5)
    metrics.update(torch.nn.functional.one_hot(predictions, 5).float(), targets)
    scores = metrics.compute()
    del scores["loss"]
    labelled = targets >= 0
    assert scores == pytest.approx(scores_of_sklearn(targets[labelled], predictions[labelled], 5))


@given(seed=st.integers(0, 1000))
@settings(deadline=None, max_examples=20)
def test_predictions_without_a_label_may_be_anything(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    outputs, targets = torch.randn(12, 3, generator=generator), torch.tensor([0, 1, 2, -1] * 3)
    shuffled = torch.where(targets[:, None] < 0, outputs.roll(4, 0), outputs)  # rows 3, 7, 11 change places
    noise = torch.where(targets[:, None] < 0, torch.nan, outputs)
    scores = []
    for variant in (outputs, shuffled, noise):
        metrics = ClassificationMetrics(3)
        metrics.update(variant, targets)
        scores.append(metrics.compute())
    assert scores[0] == scores[1] == scores[2]
