"""Intervals of scores, against a naive bootstrap and against what theory says of their width."""

import math
import time

import numpy as np
import pytest

from fmasearch.metrics import bootstrap_intervals, bootstrap_regression, regression_scores
from metrics_helpers import SCORES, answers, scores_of_sklearn


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


def test_the_bootstrap_of_a_regression_equals_a_naive_loop_over_the_same_draws() -> None:
    generator = np.random.default_rng(0)
    targets = generator.normal(size=(60, 2)).round(1)  # rounded: ties
    values = (targets + generator.normal(size=(60, 2))).round(1)
    targets[generator.random((60, 2)) < 0.2] = np.nan
    targets[7] = 0.5  # so that group 10, which row 7 shares with nobody, is labelled
    groups = np.where(np.arange(60) == 7, 10, generator.integers(10, size=60))
    generator, draws = np.random.default_rng(5), []
    for _ in range(50):
        drawn = generator.integers(11, size=11)  # all 11 groups occur, so ids are positions
        rows = np.concatenate([np.flatnonzero(groups == group) for group in drawn])
        draws.append(regression_scores(targets[rows], values[rows], ["valence", "energy"]))
    intervals = bootstrap_regression(targets, values, groups, ["valence", "energy"], num_resamples=50, seed=5)
    full = regression_scores(targets, values, ["valence", "energy"])
    assert list(intervals) == list(full)
    for name, interval in intervals.items():
        low, high = np.quantile([draw[name] for draw in draws], [0.025, 0.975])
        assert (interval.value, interval.low, interval.high) == pytest.approx((full[name], low, high))


def test_the_interval_of_a_correlation_has_the_width_of_fishers() -> None:
    generator = np.random.default_rng(0)
    shared, noise = generator.normal(size=(2, 2000, 1))
    interval = bootstrap_regression(shared, shared + noise, np.arange(2000), ["energy"], seed=0)["energy_pearson"]
    ends = np.tanh(np.arctanh(interval.value) + np.array([-1, 1]) * 1.96 / math.sqrt(2000 - 3))
    assert (interval.low, interval.high) == pytest.approx(ends, abs=0.004)


def test_artists_that_are_alike_widen_the_interval_of_a_regression() -> None:
    artists = np.repeat(np.arange(40), 25)
    errors = np.random.default_rng(0).normal(size=40)[artists]
    targets, values = np.linspace(0, 1, 1000)[:, None], (np.linspace(0, 1, 1000) + errors)[:, None]
    by_artist = bootstrap_regression(targets, values, artists, ["energy"], seed=0)["mse"]
    by_track = bootstrap_regression(targets, values, np.full(1000, -1), ["energy"], seed=0)["mse"]
    # 25 equal tracks say no more than one: sqrt(25) times as wide.
    assert (by_artist.high - by_artist.low) / (by_track.high - by_track.low) == pytest.approx(5, rel=0.15)


def test_the_bootstrap_of_a_regression_leaves_out_tracks_without_any_label() -> None:
    generator = np.random.default_rng(0)
    targets, values, groups = generator.normal(size=(30, 2)), generator.normal(size=(30, 2)), np.arange(30) % 7
    targets[3, 0] = targets[4, 1] = np.nan
    gaps = np.concatenate([np.full((5, 2), np.nan), targets])
    more = np.concatenate([np.full((5, 2), np.nan), values])
    names = ["valence", "energy"]
    with_gaps = bootstrap_regression(gaps, more, np.append([90, -1, 2, 1, 0], groups), names, num_resamples=60, seed=1)
    assert with_gaps == bootstrap_regression(targets, values, groups, names, num_resamples=60, seed=1)


def test_a_resample_of_one_artist_takes_no_part_in_the_interval_of_a_correlation() -> None:
    # Each artist has one label throughout: half of all resamples of two artists have constant labels.
    targets, values = np.array([[0.0], [0.0], [1.0], [1.0]]), np.array([[0.1], [0.2], [0.8], [0.9]])
    interval = bootstrap_regression(targets, values, np.array([0, 0, 1, 1]), ["energy"], seed=0)["energy_pearson"]
    assert interval.low == pytest.approx(interval.value)
    assert interval.high == pytest.approx(interval.value)


def test_a_mean_is_over_the_same_targets_in_every_resample() -> None:
    # Valence has one artist's labels: where that artist was not drawn, energy alone would be the mean.
    targets = np.array([[1.0, 0.0], [np.nan, 0.0], [np.nan, 0.0]])
    values = np.array([[3.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    interval = bootstrap_regression(targets, values, np.arange(3), ["valence", "energy"], seed=0)["mse"]
    assert (interval.value, interval.low, interval.high) == (2.0, 2.0, 2.0)  # (2**2 + 0) / 2, always


@pytest.mark.parametrize("targets", [np.zeros((0, 1)), np.full((4, 1), np.nan)])
def test_the_bootstrap_of_a_regression_on_nothing_is_nan(targets: np.ndarray) -> None:
    intervals = bootstrap_regression(targets, np.zeros_like(targets), np.arange(len(targets)), ["energy"], seed=0)
    assert all(math.isnan(end) for i in intervals.values() for end in (i.value, i.low, i.high))


def test_a_diverged_regressor_has_no_interval() -> None:
    targets, values = np.arange(20.0)[:, None], np.arange(20.0)[:, None]
    values[3] = np.inf
    interval = bootstrap_regression(targets, values, np.arange(20), ["energy"], num_resamples=20, seed=0)["spearman"]
    assert all(math.isnan(end) for end in (interval.value, interval.low, interval.high))


def test_the_bootstrap_of_three_targets_takes_seconds() -> None:
    targets, values = np.random.default_rng(0).normal(size=(2, 1000, 3))
    start = time.process_time()
    bootstrap_regression(targets, values, np.arange(1000) % 300, ["valence", "energy", "danceability"], seed=0)
    assert time.process_time() - start < 5  # 0.3 s on one core
