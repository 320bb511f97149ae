"""The dry plan: sizes without memory, and an impossible sample before anything has started."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from conftest import make_config, make_feature_file
from fmasearch.config import SearchConfig
from fmasearch.data import FileInfo, read_info
from fmasearch.errors import DataError, SpaceError
from fmasearch.preflight import _RandomTrial, check_study, count_parameters
from fmasearch.space import Space

TASK = "task: {classification: genre}\n"
DEPTHS = Space.parse(
    TASK + "model: {architecture: cnn_gru, num_conv_layers: {int: [1, 3]}, hidden_dim: 8}", name="depths"
)


@pytest.fixture
def info(feature_file: Path) -> FileInfo:
    return read_info(feature_file)


def search(**values: Any) -> SearchConfig:
    return SearchConfig.model_validate({"num_trials": 10, "max_epochs": 6, **values})


def parameters_of(**model: Any) -> int:
    config = make_config(model=model)
    return count_parameters(config, input_dim=8, num_frames=24, output_dim=4)


def test_parameters_are_counted() -> None:
    convolution = 5 * 8 * 3 + 3 + 2 * 3  # kernel 5 from 8 bins to 3 channels, its biases, batch norm
    gru = 2 * (3 * 2 * (3 + 2) + 2 * 3 * 2)  # two directions, three gates of 2 units on 3 + 2 inputs, two biases
    head = (4 * 3 + 3) + (3 * 4 + 4)  # 2 + 2 states to hidden_dim, then to 4 classes
    assert parameters_of(hidden_dim=3, rnn_dim=2, num_conv_layers=1) == convolution + gru + head


def test_parameters_are_counted_without_allocating_them() -> None:
    # Convolutions of h, 2h, 4h channels and kernel 3 alone have 30 h^2 weights: 1.2 PB in float32.
    assert parameters_of(hidden_dim=10**6 * 3, rnn_dim=8) > 30 * (3 * 10**6) ** 2


def test_the_plan_spans_the_smallest_and_the_largest_sample(info: FileInfo) -> None:
    plan = check_study(DEPTHS, search(), info, num_samples=20)
    sizes = [
        count_parameters(DEPTHS.train_config({"model/num_conv_layers": n}, max_epochs=1, patience=None, seed=0),
                         input_dim=8, num_frames=24, output_dim=4)
        for n in (1, 3)
    ]  # fmt: skip
    assert (plan.num_sampled, plan.min_parameters, plan.max_parameters) == (20, *sizes)


@pytest.mark.parametrize(
    ("values", "epochs"),
    [
        ({}, 10 * 6),
        ({"max_total_epochs": 25}, 25),
        ({"max_total_epochs": 99}, 60),
        ({"sampler": {"name": "grid"}}, 3 * 6),  # the grid has 3 points
        ({"sampler": {"name": "grid"}, "num_trials": 2}, 2 * 6),
    ],
)
def test_the_plan_says_what_would_be_trained_at_most(info: FileInfo, values: dict[str, Any], epochs: int) -> None:
    assert check_study(DEPTHS, search(**values), info, num_samples=1).max_epochs_in_all == epochs


def test_features_that_are_joined_make_a_wider_model(tmp_path: Path) -> None:
    both = read_info(make_feature_file(tmp_path / "both.h5", chroma=True))
    text = "model: {architecture: cnn_gru, hidden_dim: 8}\noptimizer: {learning_rate: {float: [0.001, 0.01]}}\n"
    narrow = check_study(Space.parse(TASK + text), search(), both, num_samples=1)
    wide = check_study(Space.parse(TASK + text + "features: [mel, chroma]"), search(), both, num_samples=1)
    # four chroma bins into the first convolution: kernel 5, 8 channels
    assert wide.max_parameters - narrow.max_parameters == 4 * 5 * 8


def test_an_impossible_sample_names_the_space_and_its_values(info: FileInfo) -> None:
    # Convolutions want odd kernels; the range holds even ones between its ends.
    text = TASK + "model: {architecture: cnn_gru, hidden_dim: 8, kernel_size: {int: [3, 5]}}"
    with pytest.raises(SpaceError, match=r"^gru: sample \{'model/kernel_size': 4\}: model\.kernel_size: .*odd.*got 4"):
        check_study(Space.parse(text, name="gru"), search(), info)


def test_an_impossible_known_good_point_is_named(info: FileInfo) -> None:
    text = TASK + (
        "model: {architecture: cnn_gru, hidden_dim: 8, kernel_size: {int: [3, 5]}}\n"
        "known_good: {C1: {model/kernel_size: 4}}"
    )
    with pytest.raises(SpaceError, match=r"^gru: known_good\.C1 \{'model/kernel_size': 4\}: .*odd"):
        check_study(Space.parse(text, name="gru"), search(), info, num_samples=0)


def test_an_unknown_feature_is_found_before_anything_starts(info: FileInfo) -> None:
    text = TASK + "features: [mle]\nmodel: {architecture: cnn_gru, num_layers: {int: [1, 2]}}"
    with pytest.raises(DataError, match=r"features/mle: no such feature set; did you mean 'mel'\?"):
        check_study(Space.parse(text), search(), info)


def test_the_same_search_is_planned_alike(info: FileInfo) -> None:
    plans = [check_study(DEPTHS, search(seed=seed), info, num_samples=2) for seed in (3, 3)]
    assert plans[0] == plans[1]


def test_random_values_stay_in_their_ranges_and_reach_both_ends() -> None:
    trial = _RandomTrial(random.Random(0))
    whole = Counter(trial.suggest_int("a", 3, 6) for _ in range(200))
    assert set(whole) == {3, 4, 5, 6}
    stepped = Counter(trial.suggest_int("b", 10, 40, step=10) for _ in range(200))
    assert set(stepped) == {10, 20, 30, 40}
    logarithmic = Counter(trial.suggest_int("c", 16, 19, log=True) for _ in range(200))
    assert set(logarithmic) == {16, 17, 18, 19}
    grid = Counter(round(trial.suggest_float("d", 0.1, 0.4, step=0.1), 9) for _ in range(200))
    assert set(grid) == {0.1, 0.2, 0.3, 0.4}
    assert all(1e-4 <= trial.suggest_float("e", 1e-4, 5e-3, log=True) <= 5e-3 for _ in range(200))
    assert all(0.1 <= trial.suggest_float("f", 0.1, 0.6) <= 0.6 for _ in range(200))
    assert {trial.suggest_categorical("g", ("x", None, 2)) for _ in range(50)} == {"x", None, 2}
