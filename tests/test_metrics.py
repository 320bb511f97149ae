"""The accumulator and the functions on a confusion matrix, against scikit-learn and a naive bootstrap."""

import math
import time
import warnings
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pytest
import torch
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    confusion_matrix,
    f1_score,
    log_loss,
    precision_recall_fscore_support,
)

from fmasearch.metrics import ClassificationMetrics, bootstrap_intervals, per_class, summary

Classes: TypeAlias = npt.NDArray[np.int64]

SCORES = ["accuracy", "balanced_accuracy", "macro_f1", "weighted_f1", "micro_f1"]


def scores_of_sklearn(targets: object, predictions: object, num_classes: int) -> dict[str, float]:
    labels = range(num_classes)
    f1 = {
        f"{name}_f1": f1_score(targets, predictions, average=name, labels=labels, zero_division=0)
        for name in ("macro", "weighted", "micro")
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="y_pred contains classes not in y_true")
        balanced = balanced_accuracy_score(targets, predictions)
    return {"accuracy": accuracy_score(targets, predictions), "balanced_accuracy": balanced, **f1}


def answers(seed: int, num_tracks: int, num_classes: int) -> tuple[Classes, Classes]:
    """Targets of uneven classes and predictions that are right six times in ten."""
    generator = np.random.default_rng(seed)
    shares = np.arange(1, num_classes + 1) / np.arange(1, num_classes + 1).sum()
    targets = generator.choice(num_classes, num_tracks, p=shares)
    noise = generator.integers(num_classes, size=num_tracks)
    return targets, np.where(generator.random(num_tracks) < 0.6, targets, noise)


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


def test_bootstrap_equals_a_naive_loop_over_the_same_draws() -> None:
    targets, predictions = answers(0, 90, 4)
    groups = np.random.default_rng(1).integers(12, size=90)
    generator = np.random.default_rng(7)
    draws = []
    for _ in range(50):
        drawn = generator.integers(12, size=12)  # all 12 groups occur, so ids are positions
        rows = np.concatenate([np.flatnonzero(groups == group) for group in drawn])
        draws.append(scores_of_sklearn(targets[rows], predictions[rows], 4))
    intervals = bootstrap_intervals(targets, predictions, groups, num_classes=4, num_resamples=50, seed=7)
    full = scores_of_sklearn(targets, predictions, 4)
    for name in SCORES:
        low, high = np.quantile([draw[name] for draw in draws], [0.025, 0.975])
        interval = intervals[name]
        assert (interval.value, interval.low, interval.high) == pytest.approx((full[name], low, high))


def test_a_bootstrap_over_tracks_has_the_width_of_the_binomial() -> None:
    targets = np.arange(2000) % 2
    predictions = np.where(np.arange(2000) % 10 < 8, targets, 1 - targets)  # 80 % right
    interval = bootstrap_intervals(targets, predictions, np.arange(2000), num_classes=2, seed=0)["accuracy"]
    half_width = 1.96 * math.sqrt(0.8 * 0.2 / 2000)
    assert interval.low == pytest.approx(0.8 - half_width, abs=0.002)
    assert interval.high == pytest.approx(0.8 + half_width, abs=0.002)


def test_artists_that_are_alike_widen_the_interval() -> None:
    artists = np.repeat(np.arange(40), 25)
    targets = artists % 2
    predictions = np.where(artists % 5 == 0, 1 - targets, targets)  # a whole artist is right or wrong
    by_artist = bootstrap_intervals(targets, predictions, artists, num_classes=2, seed=0)["accuracy"]
    by_track = bootstrap_intervals(targets, predictions, np.arange(1000), num_classes=2, seed=0)["accuracy"]
    # 25 equal tracks say no more than one: sqrt(25) times as wide.
    ratio = (by_artist.high - by_artist.low) / (by_track.high - by_track.low)
    assert ratio == pytest.approx(5, rel=0.15)


def test_an_unknown_artist_is_a_group_of_its_own() -> None:
    targets, predictions = answers(0, 50, 3)
    unknown = bootstrap_intervals(targets, predictions, np.full(50, -1), num_classes=3, seed=1)
    assert unknown == bootstrap_intervals(targets, predictions, np.arange(50), num_classes=3, seed=1)


def test_bootstrap_leaves_out_what_has_no_label() -> None:
    targets, predictions = answers(0, 50, 3)
    gaps = np.concatenate([targets, np.full(10, -1)])
    more = np.concatenate([predictions, np.zeros(10, dtype=int)])
    with_gaps = bootstrap_intervals(gaps, more, np.arange(60), num_classes=3, seed=1)
    assert with_gaps == bootstrap_intervals(targets, predictions, np.arange(50), num_classes=3, seed=1)


def test_bootstrap_of_nothing_is_nan() -> None:
    nothing = np.zeros(0, dtype=np.int64)
    intervals = bootstrap_intervals(nothing, nothing, nothing, num_classes=3, seed=1)
    assert sorted(intervals) == sorted(SCORES)
    assert all(math.isnan(end) for i in intervals.values() for end in (i.value, i.low, i.high))


def test_bootstrap_of_a_large_test_split_takes_seconds() -> None:
    targets, predictions = answers(0, 5000, 16)
    start = time.perf_counter()
    bootstrap_intervals(targets, predictions, np.arange(5000), num_classes=16, seed=0)
    assert time.perf_counter() - start < 10  # 0.2 s on one core


def test_a_class_that_a_resample_lacks_does_not_lower_its_macro_f1() -> None:
    # Three artists, one per class, all right: whoever is drawn, everything is right. Counting the classes of
    # artists who were not drawn as 0 would put the lower end at 1/3.
    targets = np.repeat([0, 1, 2], 5)
    interval = bootstrap_intervals(targets, targets, targets, num_classes=3, seed=0)["macro_f1"]
    assert (interval.low, interval.high) == (1.0, 1.0)
    # A fourth class, which the split lacks altogether, counts as 0 in the estimate, hence in every resample.
    wider = bootstrap_intervals(targets, targets, targets, num_classes=4, seed=0)["macro_f1"]
    assert wider.value == 0.75
    assert wider.high == 0.75
