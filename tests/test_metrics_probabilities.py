"""Scores of probabilities, against scikit-learn and by hand."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, roc_auc_score, top_k_accuracy_score

from fmasearch.metrics import (
    ReliabilityBin,
    brier,
    ece,
    probability_scores,
    reliability_bins,
    roc_auc,
    roc_auc_per_class,
    softmax,
    top_k_accuracy,
)

SEEDS = st.integers(0, 100_000)


def tracks(seed: int, num_classes: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Up to 40 tracks: some unlabelled, often some class absent; logits on a coarse grid, hence ties."""
    generator = np.random.default_rng(seed)
    num_tracks = int(generator.integers(1, 41))
    logits = generator.integers(-2, 3, size=(num_tracks, num_classes)).astype(float)
    return generator.integers(-1, num_classes, size=num_tracks), logits


@given(seed=SEEDS, k=st.integers(1, 4))
@settings(deadline=None, max_examples=100)
def test_top_k_accuracy_equals_that_of_sklearn_with_ties(seed: int, k: int) -> None:
    targets, logits = tracks(seed)
    labelled = targets >= 0
    assume(labelled.any())
    expected = top_k_accuracy_score(targets[labelled], logits[labelled], k=k, labels=range(5))
    assert top_k_accuracy(targets, logits, k) == pytest.approx(expected)


@given(seed=SEEDS)
@settings(deadline=None, max_examples=100)
def test_roc_auc_equals_that_of_sklearn_class_by_class(seed: int) -> None:
    targets, logits = tracks(seed)
    labelled, probabilities = targets >= 0, softmax(logits)
    areas = roc_auc_per_class(targets, probabilities)
    defined = []
    for k in range(5):
        positive = targets[labelled] == k
        if positive.any() and not positive.all():
            defined.append(roc_auc_score(positive, probabilities[labelled, k]))
            assert areas[k] == pytest.approx(defined[-1])
        else:
            assert math.isnan(areas[k])
    assume(defined)
    assert roc_auc(targets, probabilities) == pytest.approx(np.mean(defined))


def test_roc_auc_with_every_class_equals_sklearns_macro_average() -> None:
    targets = np.arange(60) % 4
    probabilities = softmax(np.random.default_rng(0).normal(size=(60, 4)))
    expected = roc_auc_score(targets, probabilities, multi_class="ovr", average="macro")
    assert roc_auc(targets, probabilities) == pytest.approx(expected)


@given(seed=SEEDS)
@settings(deadline=None, max_examples=50)
def test_brier_equals_that_of_sklearn(seed: int) -> None:
    targets, logits = tracks(seed)
    labelled, probabilities = targets >= 0, softmax(logits)
    assume(labelled.any())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The number of classes in labels")
        expected = brier_score_loss(targets[labelled], probabilities[labelled], labels=range(5))
    assert brier(targets, probabilities) == pytest.approx(expected)


def test_calibration_by_hand() -> None:
    # Highest 0.9, 0.9, 0.6, 0.6 of two classes; right, right, right, wrong. Bins of width 1/15: 0.9 lies in
    # (13/15, 14/15], 0.6 = 9/15 is the upper edge of (8/15, 9/15].
    probabilities = np.array([[0.9, 0.1], [0.1, 0.9], [0.6, 0.4], [0.6, 0.4]])
    targets = np.array([0, 1, 0, 1])
    bins = reliability_bins(targets, probabilities)
    assert [bin_.count for bin_ in bins] == [0] * 8 + [2] + [0] * 4 + [2, 0]
    assert (bins[8].confidence, bins[8].accuracy) == pytest.approx((0.6, 0.5))
    assert (bins[13].confidence, bins[13].accuracy) == pytest.approx((0.9, 1.0))
    assert (bins[8].low, bins[8].high) == pytest.approx((8 / 15, 9 / 15))
    assert ece(targets, probabilities) == pytest.approx(0.5 * 0.1 + 0.5 * 0.1)


@given(seed=SEEDS)
@settings(deadline=None, max_examples=50)
def test_ece_equals_guos_formula_written_out(seed: int) -> None:
    targets, logits = tracks(seed)
    labelled, probabilities = targets >= 0, softmax(logits)
    assume(labelled.any())
    confidence, right = probabilities.max(1)[labelled], (probabilities.argmax(1) == targets)[labelled]
    expected = 0.0
    for m in range(15):
        inside = (confidence > m / 15) & (confidence <= (m + 1) / 15)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert ece(targets, probabilities) == pytest.approx(expected)


def test_a_bin_is_plain_numbers() -> None:
    first, *_, last = reliability_bins(np.array([0]), np.array([[1.0, 0.0]]))
    assert last == ReliabilityBin(14 / 15, 1.0, 1, 1.0, 1.0)
    assert [type(value) for value in (last.low, last.count, last.accuracy)] == [float, int, float]
    assert first.count == 0
    assert math.isnan(first.confidence)
    assert math.isnan(first.accuracy)


def test_top_3_accuracy_needs_more_than_three_classes() -> None:
    assert list(probability_scores(*tracks_as_probabilities(3))) == ["roc_auc", "ece", "brier"]
    assert list(probability_scores(*tracks_as_probabilities(4))) == ["top_3_accuracy", "roc_auc", "ece", "brier"]


def tracks_as_probabilities(num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    targets, logits = tracks(0, num_classes)
    return targets, softmax(logits).astype(np.float32)


@given(seed=SEEDS)
@settings(deadline=None, max_examples=30)
def test_probabilities_without_a_label_may_be_anything(seed: int) -> None:
    targets, logits = tracks(seed)
    noise = np.where(targets[:, None] < 0, np.nan, softmax(logits))
    scores = probability_scores(targets, softmax(logits))
    assert probability_scores(targets, noise) == pytest.approx(scores, rel=0, abs=0, nan_ok=True)


@pytest.mark.parametrize(
    ("targets", "probabilities"),
    [
        (np.zeros(0, int), np.zeros((0, 5))),
        (np.array([-1, -1]), np.full((2, 5), 0.2)),
        (np.array([0, 1]), np.full((2, 5), np.nan)),  # a diverged model
    ],
)
def test_what_cannot_be_scored_is_nan(targets: np.ndarray, probabilities: np.ndarray) -> None:
    scores = probability_scores(targets, probabilities)
    assert len(scores) == 4
    assert all(math.isnan(value) for value in scores.values())


def test_logits_are_not_taken_for_probabilities() -> None:
    with pytest.raises(AssertionError, match="logits"):
        ece(np.array([0]), np.array([[3.0, -1.0]]))
