"""Scores of a regressor, against scipy and scikit-learn, and where they are undefined."""

import math
import warnings
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score, root_mean_squared_error

from fmasearch.metrics import REGRESSION_SCORES, RegressionMetrics, regression_scores

Array: TypeAlias = npt.NDArray[np.float64]

LABEL = st.one_of(st.none(), st.integers(-6, 6))  # few values: ties
PREDICTION = st.one_of(st.integers(-6, 6), st.floats(-6, 6, width=16))


def expected_scores(target: Array, value: Array) -> dict[str, float]:
    """Of labelled rows whose labels vary; CCC from Lin's formula, written out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.ConstantInputWarning)
        spearman, pearson = stats.spearmanr(target, value)[0], stats.pearsonr(target, value)[0]
    covariance = np.mean((target - target.mean()) * (value - value.mean()))
    return {
        "spearman": 0.0 if np.ptp(value) == 0 else spearman,
        "pearson": 0.0 if np.ptp(value) == 0 else pearson,
        "r2": r2_score(target, value),
        "ccc": 2 * covariance / (target.var() + value.var() + (target.mean() - value.mean()) ** 2),
        "mse": mean_squared_error(target, value),
        "mae": mean_absolute_error(target, value),
        "rmse": root_mean_squared_error(target, value),
    }


@given(rows=st.lists(st.tuples(LABEL, PREDICTION), min_size=2, max_size=30))
@settings(deadline=None, max_examples=200)
def test_scores_equal_those_of_scipy_and_sklearn(rows: list[tuple[int | None, float]]) -> None:
    target = np.array([math.nan if label is None else label / 5 for label, _ in rows])
    value = np.array([prediction / 5 for _, prediction in rows])
    labelled = ~np.isnan(target)
    assume(len(np.unique(target[labelled])) > 1)
    # Deviations so small that scipy, too, warns of its own rounding.
    assume(np.ptp(value[labelled]) == 0 or np.ptp(value[labelled]) > 1e-6)
    scores = regression_scores(target[:, None], value[:, None], ["energy"])
    expected = expected_scores(target[labelled], value[labelled])
    for name in REGRESSION_SCORES:
        assert scores[f"energy_{name}"] == scores[name] == pytest.approx(expected[name], rel=1e-9, abs=1e-9), name


def test_the_accumulator_scores_batches_as_a_whole() -> None:
    generator = torch.Generator().manual_seed(0)
    targets = torch.randn(50, 3, generator=generator)
    values = targets + torch.randn(50, 3, generator=generator)
    targets[torch.rand(50, 3, generator=generator) < 0.3] = torch.nan
    names = ["valence", "energy", "danceability"]
    metrics = RegressionMetrics(names, [1.0, 2.0, 0.5])
    for start in range(0, 50, 16):  # batches of 16, 16, 16 and 2
        metrics.update(values[start : start + 16], targets[start : start + 16])
    scores = metrics.compute()
    assert all(type(value) is float for value in scores.values())  # loads with weights_only=True
    loss = scores.pop("loss")
    assert scores == regression_scores(targets.numpy(), values.numpy(), names)
    mse = [scores[f"{name}_mse"] for name in names]
    assert loss == pytest.approx((mse[0] / 1 + mse[1] / 4 + mse[2] / 0.25) / 3)


def test_a_mean_over_targets_is_the_plain_mean() -> None:
    targets, values = np.random.default_rng(0).normal(size=(2, 20, 2))
    targets[:15, 1] = np.nan  # 5 labels weigh as much as 20
    scores = regression_scores(targets, values, ["valence", "energy"])
    for name in REGRESSION_SCORES:
        assert scores[name] == pytest.approx((scores[f"valence_{name}"] + scores[f"energy_{name}"]) / 2)


def test_lins_ccc_of_a_shifted_prediction() -> None:
    # var = 2/3 on both sides, cov = 2/3, means 1 apart: 2 * 2/3 / (4/3 + 1) = 4/7.
    scores = regression_scores(np.array([[1.0], [2.0], [3.0]]), np.array([[2.0], [3.0], [4.0]]), ["energy"])
    assert scores["ccc"] == pytest.approx(4 / 7)
    assert scores["pearson"] == pytest.approx(1)
    assert scores["r2"] == pytest.approx(1 - 1 / (2 / 3))


def test_a_model_that_always_answers_the_same_has_correlation_0() -> None:
    targets, values = np.array([[0.1], [0.2], [0.4]]), np.full((3, 1), 0.1)  # the mean of three 0.1 is not 0.1
    scores = regression_scores(targets, values, ["energy"])
    assert (scores["spearman"], scores["pearson"]) == (0.0, 0.0)
    assert scores["ccc"] == pytest.approx(0, abs=1e-12)
    assert scores["r2"] == pytest.approx(r2_score(targets, values))


@pytest.mark.parametrize("labels", [[0.1, 0.1, 0.1], [0.1, math.nan, math.nan]])
def test_labels_that_do_not_vary_have_errors_but_no_correlation(labels: list[float]) -> None:
    scores = regression_scores(np.array(labels)[:, None], np.array([[0.3], [0.3], [0.3]]), ["energy"])
    assert all(math.isnan(scores[name]) for name in ("spearman", "pearson", "r2", "ccc", "energy_spearman"))
    assert (scores["mse"], scores["mae"], scores["rmse"]) == pytest.approx((0.04, 0.2, 0.2))


def test_a_target_without_labels_takes_no_part_in_the_means() -> None:
    targets = np.array([[1.0, math.nan], [2.0, math.nan], [4.0, math.nan]])
    values = np.array([[1.0, 9.0], [3.0, 9.0], [3.5, 9.0]])
    scores = regression_scores(targets, values, ["valence", "energy"])
    assert all(scores[name] == scores[f"valence_{name}"] for name in REGRESSION_SCORES)
    assert all(math.isnan(scores[f"energy_{name}"]) for name in REGRESSION_SCORES)
    metrics = RegressionMetrics(["valence", "energy"], [2.0, 2.0])
    metrics.update(torch.from_numpy(values), torch.from_numpy(targets))
    assert metrics.compute()["loss"] == pytest.approx((1**2 + 0.5**2) / 3 / 2**2)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_target_that_diverged_is_not_left_out_of_the_means(bad: float) -> None:
    metrics = RegressionMetrics(["valence", "energy"], [1.0, 1.0])
    metrics.update(torch.tensor([[1.0, 1.0], [2.0, bad], [4.0, 1.0]]), torch.tensor([[1.0, 3], [2, 2], [3, 1]]))
    scores = metrics.compute()
    assert math.isfinite(scores["valence_spearman"])
    assert all(math.isnan(scores[name]) for name in ("energy_spearman", "spearman", "mse", "loss"))


@given(seed=st.integers(0, 10_000), noise=st.sampled_from([math.nan, math.inf, 1e30, 0.5]))
@settings(deadline=None, max_examples=30)
def test_predictions_without_a_label_may_be_anything(seed: int, noise: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    values, targets = torch.randn(2, 15, 2, generator=generator)
    unlabelled = torch.rand(15, 2, generator=generator) < 0.4
    targets[unlabelled] = torch.nan
    replaced, permuted = values.clone(), values.clone()
    replaced[unlabelled] = noise
    permuted[unlabelled] = values[unlabelled].flip(0)
    scores = []
    for variant in (values, replaced, permuted):
        metrics = RegressionMetrics(["valence", "energy"], [1.0, 2.0])
        metrics.update(variant, targets)
        scores.append(metrics.compute())
    assert scores[1] == pytest.approx(scores[0], rel=0, abs=0, nan_ok=True)
    assert scores[2] == pytest.approx(scores[0], rel=0, abs=0, nan_ok=True)


@pytest.mark.parametrize("num_rows", [0, 4])
def test_nothing_to_score_is_nan_and_no_error(num_rows: int) -> None:
    metrics = RegressionMetrics(["energy"], [1.0])
    if num_rows:
        metrics.update(torch.zeros(num_rows, 1), torch.full((num_rows, 1), torch.nan))
    scores = metrics.compute()
    assert sorted(scores) == sorted([*REGRESSION_SCORES, *(f"energy_{name}" for name in REGRESSION_SCORES), "loss"])
    assert all(math.isnan(value) for value in scores.values())


def test_bf16_outputs_are_scored_in_full_precision() -> None:
    metrics = RegressionMetrics(["energy"], [1.0])
    for _ in range(1000):  # in bf16 a sum of ones stops growing at 256
        metrics.update(torch.ones(1, 1, dtype=torch.bfloat16), torch.zeros(1, 1))
    assert metrics.compute()["mse"] == 1.0


def test_a_large_offset_loses_no_precision() -> None:
    targets, values = np.random.default_rng(0).normal(size=(2, 100, 1))
    near, far = regression_scores(targets, values, ["x"]), regression_scores(targets + 1e6, values + 1e6, ["x"])
    assert far["pearson"] == pytest.approx(near["pearson"], rel=1e-8)
    assert far["ccc"] == pytest.approx(near["ccc"], rel=1e-8)


def test_rounding_takes_no_correlation_beyond_1() -> None:
    targets = np.random.default_rng(0).normal(size=(7, 300))  # of 300 targets of 7 labels, many round upwards
    scores = regression_scores(targets, -targets / 3, [str(i) for i in range(300)])
    assert min(scores[f"{i}_pearson"] for i in range(300)) == -1.0


def test_update_copies_the_outputs_and_keeps_no_graph() -> None:
    outputs = torch.zeros(2, 1, requires_grad=True)
    metrics = RegressionMetrics(["energy"], [1.0])
    metrics.update(outputs, torch.zeros(2, 1))
    assert not metrics._batches_2BR[-1].requires_grad
    with torch.no_grad():
        outputs += 1  # a later step reuses the memory
    assert metrics.compute()["mse"] == 0.0


@pytest.mark.gpu
def test_update_does_not_wait_for_the_device() -> None:
    outputs, targets = torch.randn(8, 3, device="cuda"), torch.zeros(8, 3, device="cuda")
    metrics = RegressionMetrics(["a", "b", "c"], [1.0, 1.0, 1.0], "cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        metrics.update(outputs, targets)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert math.isfinite(metrics.compute()["loss"])
