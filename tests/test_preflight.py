"""The dry plan: sizes without memory, and an impossible sample before anything has started."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from conftest import make_config, make_feature_file
from fmasearch.config import SearchConfig
from fmasearch.costs import forward_flops
from fmasearch.data import FileInfo, read_info
from fmasearch.errors import DataError, SpaceError
from fmasearch.models import count_parameters
from fmasearch.preflight import check_study
from fmasearch.space import Space
from fmasearch.space.points import PointTrial

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
    return count_parameters("cnn_gru", input_dim=8, num_frames=24, output_dim=4, **config.hyperparameters)


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
        count_parameters("cnn_gru", input_dim=8, num_frames=24, output_dim=4, hidden_dim=8, num_conv_layers=n)
        for n in (1, 3)
    ]
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


# Constraints


def sizes_of_depths() -> list[int]:
    return [parameters_of(hidden_dim=8, rnn_dim=16, num_layers=2, num_conv_layers=n) for n in (1, 2, 3)]


def depths(constraint: str, known_good: str = "") -> Space:
    return Space.parse(f"{DEPTHS.text}\nconstraints: {{parameters: '{constraint}'}}\n{known_good}", name="depths")


def test_the_plan_counts_the_samples_that_a_ceiling_rejects(info: FileInfo) -> None:
    one, two, three = sizes_of_depths()
    assert one < two < three
    plan = check_study(depths(f"<= {two}"), search(), info, num_samples=30)
    assert (plan.min_parameters, plan.max_parameters, plan.num_random) == (one, two, 30)
    assert 1 <= plan.num_rejected <= 29
    words = f"{one:,} to {two:,} parameters (parameters <= {two:,} rejects {plan.num_rejected} of 30 samples)"
    assert plan.sizes == words
    assert check_study(DEPTHS, search(), info, num_samples=30).sizes == f"{one:,} to {three:,} parameters"


def test_a_ceiling_that_no_sample_keeps_is_an_error_with_the_smallest(info: FileInfo) -> None:
    one = sizes_of_depths()[0]
    with pytest.raises(SpaceError) as error:
        check_study(depths(f"< {one}"), search(), info, num_samples=3)
    assert str(error.value) == (
        f"depths: constraints: none of 1,000 samples keeps them: parameters < {one:,} must hold, got {one:,} at the "
        "least. Raise the ceiling, or narrow the space"
    )


def test_a_ceiling_that_few_samples_keep_is_no_error(info: FileInfo) -> None:
    text = DEPTHS.text.replace("{int: [1, 3]}", "{int: [1, 8]}").replace("hidden_dim: 8", "hidden_dim: {int: [2, 64]}")
    space = Space.parse(f"{text}\nconstraints: {{parameters: '<= 1k'}}")
    plan = check_study(space, search(seed=1), info, num_samples=2)
    assert plan.num_random > plan.num_rejected >= 2
    assert plan.max_parameters <= 1_000


def test_known_good_points_above_the_ceiling_are_errors_or_left_out(info: FileInfo) -> None:
    one, _, three = sizes_of_depths()
    points = "known_good: {deep: {model/num_conv_layers: 3}, flat: {model/num_conv_layers: 1}}"
    line = f"known_good.deep: parameters <= {one:,} must hold, got {three:,}"
    with pytest.raises(SpaceError) as error:
        check_study(depths(f"<= {one}", points), search(), info)
    assert str(error.value) == f"depths: {line}"
    plan = check_study(depths(f"<= {one}", points), search(), info, may_leave_out=True)
    assert plan.left_out == (line,)
    assert plan.max_parameters == one


def test_a_known_good_point_may_leave_open_what_makes_it_fit(info: FileInfo) -> None:
    # The default of num_conv_layers is 3; the point does not name it, and with 1 or 2 it fits.
    two = sizes_of_depths()[1]
    text = DEPTHS.text + "\noptimizer: {learning_rate: {float: [0.001, 0.1]}}"
    space = Space.parse(
        f"{text}\nconstraints: {{parameters: '<= {two}'}}\nknown_good: {{C1: {{optimizer/learning_rate: 0.01}}}}"
    )
    assert check_study(space, search(), info).left_out == ()


def test_flops_may_be_limited_beside_parameters(info: FileInfo) -> None:
    flops = [
        forward_flops("cnn_gru", input_dim=8, num_frames=24, output_dim=4, hidden_dim=8, num_conv_layers=n)
        for n in (1, 2, 3)
    ]
    # The deepest has most parameters but not most FLOPs: each convolution but the last halves the steps of the GRU.
    assert flops[0] > flops[1]
    kept = [size for size, count in zip(sizes_of_depths(), flops, strict=True) if count <= flops[1]]
    limits = f"constraints: {{flops: '<= {flops[1]}', epoch_seconds: '<= 60'}}"
    plan = check_study(Space.parse(f"{DEPTHS.text}\n{limits}"), search(), info, num_samples=30)
    assert (plan.min_parameters, plan.max_parameters) == (min(kept), max(kept))
    # Nobody knows the seconds yet, so that they reject nothing here.
    assert plan.sizes.endswith(f"(flops <= {flops[1]:,} rejects {plan.num_rejected} of 30 samples)")


def test_two_ceilings_that_hold_only_one_at_a_time_are_an_error(info: FileInfo) -> None:
    # A stride of 1 has two layers, its default, and 24 steps; one of 8 has twice the layers and an eighth of the steps.
    text = TASK + (
        "model: {architecture: lstm, hidden_dim: 8, frame_stride: {choice: [1, 8]}, "
        "num_layers: {choice: [4], when: {model/frame_stride: 8}}}"
    )
    shape = {"input_dim": 8, "num_frames": 24, "output_dim": 4, "hidden_dim": 8}
    parameters = count_parameters("lstm", **shape)
    flops = forward_flops("lstm", **shape, num_layers=4, frame_stride=8)
    limits = f"constraints: {{flops: '<= {flops}', parameters: '<= {parameters}'}}"
    with pytest.raises(SpaceError, match="none of 1,000 samples keeps them: each keeps one at the cost"):
        check_study(Space.parse(f"{text}\n{limits}"), search(), info, num_samples=1)


# Several architectures

MIXED = TASK + (
    "model:\n"
    "  architecture: {choice: [cnn_gru, lstm]}\n"
    "  hidden_dim: 8\n"
    "  lstm: {frame_stride: 2}\n"
    "  cnn_gru: {num_conv_layers: {int: [1, 2]}}\n"
)


def test_models_of_every_architecture_are_built(info: FileInfo) -> None:
    plan = check_study(Space.parse(MIXED), search(), info, num_samples=30)
    shape = {"input_dim": 8, "num_frames": 24, "output_dim": 4, "hidden_dim": 8}
    sizes = [count_parameters("lstm", **shape)]
    sizes += [count_parameters("cnn_gru", **shape, num_conv_layers=number) for number in (1, 2)]
    assert (plan.min_parameters, plan.max_parameters) == (min(sizes), max(sizes))


def test_a_hyperparameter_that_an_architecture_lacks_is_found_although_no_sample_has_it(info: FileInfo) -> None:
    text = MIXED.replace("hidden_dim: 8", "hidden_dim: 8\n  num_heads: {choice: [2], when: {model/architecture: lstm}}")
    with pytest.raises(SpaceError, match=r"^space: model\.num_heads: unknown hyperparameter of lstm"):
        check_study(Space.parse(text), search(), info, num_samples=0)


def test_a_known_good_point_may_leave_the_architecture_open(info: FileInfo) -> None:
    text = MIXED + "optimizer: {learning_rate: {float: [0.001, 0.1]}}\nknown_good: {x: {optimizer/learning_rate: 0.01}}"
    assert check_study(Space.parse(text), search(), info, num_samples=0).num_sampled == 1
    small = count_parameters("lstm", input_dim=8, num_frames=24, output_dim=4, hidden_dim=8)
    limited = Space.parse(f"{text}\nconstraints: {{parameters: '<= {small}'}}")  # an lstm alone keeps it
    plan = check_study(limited, search(), info, num_samples=20)
    assert (plan.left_out, plan.max_parameters) == ((), small)


def test_a_crop_makes_the_model_that_is_counted(tmp_path: Path) -> None:
    info = read_info(make_feature_file(tmp_path / "long.h5", num_frames=64, num_bins=16))
    text = TASK + "model: {architecture: ast, size: micro}\n"
    whole = check_study(Space.parse(text), search(), info, num_samples=1)
    cropped = check_study(Space.parse(text + "crop: {frames: 32}"), search(), info, num_samples=1)
    # Patches of 16 frames every 10: 5 positions in 64 frames, 2 in 32. Each has its vector of 96.
    assert whole.max_parameters - cropped.max_parameters == (5 - 2) * 96


def test_random_values_stay_in_their_ranges_and_reach_both_ends() -> None:
    trial = PointTrial({}, random.Random(0))
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
