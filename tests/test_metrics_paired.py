"""Two models on the same tracks, against a naive bootstrap, scipy's binomial and chi-square, and by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, chi2

from fmasearch.metrics import (
    mcnemar,
    paired_bootstrap,
    paired_classification,
    paired_regression,
    regression_scores,
)
from metrics_helpers import SCORES, answers, scores_of_sklearn


def discordant(only_a: int, only_b: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Targets and two models' answers: both right 5 times, both wrong 3 times, else one of them."""
    a = np.repeat([0, 1, 0, 1], [5, 3, only_a, only_b])
    b = np.repeat([0, 1, 1, 0], [5, 3, only_a, only_b])
    return np.zeros_like(a), a, b


def test_differences_equal_a_naive_loop_over_the_same_draws() -> None:
    targets, a = answers(0, 90, 4)
    b = answers(1, 90, 4)[1]
    groups = np.random.default_rng(1).integers(12, size=90)
    generator, draws = np.random.default_rng(7), []
    for _ in range(50):
        drawn = generator.integers(12, size=12)
        rows = np.concatenate([np.flatnonzero(groups == group) for group in drawn])
        both = [scores_of_sklearn(targets[rows], x[rows], 4) for x in (a, b)]
        draws.append({name: both[0][name] - both[1][name] for name in SCORES})
    differences = paired_classification(targets, a, b, groups, num_classes=4, num_resamples=50, seed=7)
    full = [scores_of_sklearn(targets, x, 4) for x in (a, b)]
    for name in SCORES:
        values = np.array([draw[name] for draw in draws])
        rarer = min((values <= 0).sum(), (values >= 0).sum())
        found = differences[name]
        expected = (full[0][name] - full[1][name], *np.quantile(values, [0.025, 0.975]))
        assert (found.difference, found.low, found.high) == pytest.approx(expected)
        assert found.p_value == pytest.approx(min(1, 2 * (rarer + 1) / 51))


def test_differences_of_a_regression_equal_a_naive_loop_over_the_same_draws() -> None:
    generator = np.random.default_rng(0)
    targets, noise_a, noise_b = generator.normal(size=(3, 40, 2))
    a, b, groups = targets + noise_a, targets + 2 * noise_b, np.arange(40) % 9
    targets[::5, 1] = np.nan
    generator, draws, names = np.random.default_rng(3), [], ["valence", "energy"]
    for _ in range(30):
        rows = np.concatenate([np.flatnonzero(groups == group) for group in generator.integers(9, size=9)])
        both = [regression_scores(targets[rows], x[rows], names) for x in (a, b)]
        draws.append({name: both[0][name] - both[1][name] for name in both[0]})
    differences = paired_regression(targets, a, b, groups, names, num_resamples=30, seed=3)
    assert set(differences) == set(draws[0])
    for name, found in differences.items():
        low, high = np.quantile([draw[name] for draw in draws], [0.025, 0.975])
        assert (found.low, found.high) == pytest.approx((low, high))


def test_one_score_is_that_of_all_scores() -> None:
    targets, a = answers(0, 40, 3)
    b, groups = answers(1, 40, 3)[1], np.arange(40) % 8
    one = paired_bootstrap("macro_f1", targets, a, b, groups, num_classes=3, num_resamples=40, seed=0)
    assert one == paired_classification(targets, a, b, groups, num_classes=3, num_resamples=40, seed=0)["macro_f1"]
    labels, c, d = np.random.default_rng(0).normal(size=(3, 40))
    one = paired_bootstrap("spearman", labels, c, d, groups, num_resamples=40, seed=0)
    columns = (labels[:, None], c[:, None], d[:, None])
    assert one == paired_regression(*columns, groups, ["x"], num_resamples=40, seed=0)["x_spearman"]


def test_a_score_that_does_not_exist_is_named_with_those_that_do() -> None:
    nothing = np.zeros(0, int)
    with pytest.raises(ValueError, match=r"expected one of accuracy, .*rmse; got speerman"):
        paired_bootstrap("speerman", nothing, nothing, nothing, nothing, seed=0)


def test_a_model_does_not_differ_from_itself() -> None:
    targets, a = answers(0, 60, 3)
    for found in paired_classification(targets, a, a, np.arange(60), num_classes=3, seed=0).values():
        assert (found.difference, found.low, found.high, found.p_value) == (0.0, 0.0, 0.0, 1.0)
    labels, values = np.random.default_rng(0).normal(size=(2, 60, 1))
    for same in paired_regression(labels, values, values, np.arange(60), ["x"], num_resamples=50, seed=0).values():
        assert (same.difference, same.low, same.high, same.p_value) == (0.0, 0.0, 0.0, 1.0)


def test_changing_places_changes_the_sign() -> None:
    targets, a = answers(0, 60, 3)
    b = answers(1, 60, 3)[1]
    there, back = (
        paired_bootstrap("accuracy", targets, *x, np.arange(60), num_classes=3, seed=0) for x in [(a, b), (b, a)]
    )
    assert back.difference == -there.difference
    assert back.p_value == there.p_value
    assert (back.low, back.high) == pytest.approx((-there.high, -there.low))


def test_what_both_models_share_does_not_widen_the_interval() -> None:
    # a and b are right on the same 80 %, and a on 2 % more: the difference varies as 40 tracks of 2000 do.
    targets, hit = np.zeros(2000, int), np.arange(2000) % 50
    a, b = np.where(hit < 41, 0, 1), np.where(hit < 40, 0, 1)
    found = paired_bootstrap("accuracy", targets, a, b, np.arange(2000), num_classes=2, seed=0)
    half_width = 1.96 * math.sqrt(0.02 * 0.98 / 2000)
    assert found.difference == pytest.approx(0.02)
    assert (found.low, found.high) == pytest.approx((0.02 - half_width, 0.02 + half_width), abs=0.001)
    assert found.p_value == pytest.approx(2 / 2001)  # no resample on the other side


def test_tracks_without_a_label_take_no_part_in_a_comparison() -> None:
    targets, a = answers(0, 50, 3)
    b, junk = answers(1, 50, 3)[1], np.array([0, 1, 2, 0])
    gaps, groups = np.append(targets, np.full(4, -1)), np.append(np.arange(50), [99, 98, 0, -1])
    with_gaps = paired_classification(gaps, np.append(a, junk), np.append(b, junk[::-1]), groups, num_classes=3, seed=0)
    assert with_gaps == paired_classification(targets, a, b, np.arange(50), num_classes=3, seed=0)
    gaps, more = np.append(gaps, -1), [np.append(x, [*junk, 2]) for x in (a, b)]
    assert mcnemar(gaps, *more) == mcnemar(targets, a, b)


def test_a_comparison_on_nothing_is_nan() -> None:
    nothing = np.zeros(0, np.int64)
    for found in paired_classification(nothing, nothing, nothing, nothing, num_classes=3, seed=0).values():
        assert all(math.isnan(x) for x in (found.difference, found.low, found.high, found.p_value))


@given(only_a=st.integers(0, 40), only_b=st.integers(0, 40))
@settings(deadline=None, max_examples=100)
def test_mcnemar_equals_scipy_on_both_sides_of_25_pairs(only_a: int, only_b: int) -> None:
    found = mcnemar(*discordant(only_a, only_b))
    assert (found.only_a, found.only_b) == (only_a, only_b)
    if only_a == only_b:
        expected = 1.0
    elif only_a + only_b < 25:
        expected = binomtest(only_a, only_a + only_b, 0.5).pvalue
    else:  # as statsmodels has it
        expected = chi2.sf((abs(only_a - only_b) - 1) ** 2 / (only_a + only_b), 1)
    assert found.p_value == pytest.approx(expected)


def test_mcnemar_by_hand() -> None:
    # 1 against 9: 2 * (C(10,0) + C(10,1)) / 2**10 = 22/1024.
    assert mcnemar(*discordant(1, 9)).p_value == 22 / 1024
    # 150 against 86: (64 - 1)**2 / 236 = 16.818, of which chi-square with one degree of freedom exceeds 4.115e-5.
    assert mcnemar(*discordant(150, 86)).p_value == pytest.approx(4.115e-05, rel=1e-3)
    assert mcnemar(*discordant(0, 0)).p_value == 1.0
