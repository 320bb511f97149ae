"""The parts of a plan: samples and their costs, seconds of an epoch, and what a search is expected to train."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import make_config, make_dataset, make_feature_file, spec_of
from fmasearch.config import SearchConfig
from fmasearch.costs import ModelCost, model_cost
from fmasearch.data import FileInfo, open_dataset, open_split, read_info
from fmasearch.errors import DataError, SpaceError
from fmasearch.planning import (
    Sample,
    SimulatedTrial,
    choose_probes,
    data_bytes,
    draw_samples,
    drawn_from_samples,
    expect,
    fit_seconds,
    measure,
    pack,
    recorded_curves,
    simulate,
    synthetic_curves,
    training_flops,
)
from fmasearch.planning.memory import FRAMEWORK_BYTES
from fmasearch.pruning import NoPruner, build_pruner
from fmasearch.records import EpochResult, Objective, TrialRecord, TrialStart, TrialState
from fmasearch.space import Space
from study_helpers import write_tiny_file

MERIT = Objective("val_macro_f1", "max")
DEPTHS = """
task: {classification: genre}
model: {architecture: cnn_gru, num_conv_layers: {int: [1, 3]}, hidden_dim: 8, dropout: {float: [0.1, 0.5]}}
"""


@pytest.fixture
def info(feature_file: Path) -> FileInfo:
    return read_info(feature_file)


def search(**values: Any) -> SearchConfig:
    return SearchConfig.model_validate({"num_trials": 10, "max_epochs": 6, "patience": None, **values})


def trials(*curves: tuple[float, ...], epoch_seconds: float = 1.0) -> list[SimulatedTrial]:
    return [SimulatedTrial(np.array(curve), epoch_seconds) for curve in curves]


# Samples


def test_samples_that_break_a_ceiling_are_counted_and_kept_apart(info: FileInfo) -> None:
    free = draw_samples(Space.parse(DEPTHS), info, seed=0, num_samples=30)
    sizes = sorted({sample.cost.parameters for sample in free.random})
    assert len(sizes) == 3  # one for each depth
    space = Space.parse(f"{DEPTHS}constraints: {{parameters: '<= {sizes[1]}'}}\nknown_good: {{C: {{}}}}")
    found = draw_samples(space, info, seed=0, num_samples=30)
    deep = sum(sample.cost.parameters == sizes[2] for sample in free.random)
    assert 0 < found.num_rejected == deep == found.rejected_by[space.constraints[0]]
    assert {sample.cost.parameters for sample in found.kept} == set(sizes[:2])
    assert (found.known_good[0].name, found.known_good[0].broken) == ("C", space.constraints)  # three layers by default


def test_models_that_differ_in_dropout_alone_are_counted_once(info: FileInfo) -> None:
    found = draw_samples(Space.parse(DEPTHS), info, seed=0, num_samples=30)
    assert len({sample.config.hyperparameters["dropout"] for sample in found.random}) == 30
    assert len({sample.cost for sample in found.random}) == 3
    assert found.random[0].cost == model_cost(found.random[0].config, info)


def test_sampling_ends_when_time_is_up_and_says_how_many_were_wanted(info: FileInfo) -> None:
    seconds: Iterator[float] = iter([0.0, 1.0, 2.0, 3.0])
    found = draw_samples(Space.parse(DEPTHS), info, seed=0, num_samples=9, max_seconds=2.5, clock=lambda: next(seconds))
    assert (len(found.random), found.num_wanted) == (3, 9)


def test_a_sample_that_cannot_be_built_is_named(info: FileInfo) -> None:
    text = "task: {classification: genre}\nmodel: {architecture: cnn_gru, hidden_dim: 8, kernel_size: {int: [3, 5]}}"
    with pytest.raises(SpaceError, match=r"^gru: sample \{'model/kernel_size': 4\}: .*odd"):
        draw_samples(Space.parse(text, name="gru"), info, seed=0)


# Seconds of an epoch


def cost(**values: int) -> ModelCost:
    return ModelCost(
        **{
            "parameters": 10,
            "trainable_parameters": 10,
            "flops": 5,
            "activation_bytes": 0,
            "training_memory_bytes": 0,
            **values,
        }
    )


def test_an_epoch_takes_three_passes_over_train_and_one_over_val() -> None:
    counts = {"num_train": 100, "num_val": 20, "num_frames": 64}
    assert training_flops(make_config(), cost(), **counts) == 5 * (3 * 100 + 20)
    cropped = make_config(crop={"frames": 32, "num_eval": 4})
    assert training_flops(cropped, cost(), **counts) == 5 * (3 * 100 + 4 * 20)
    # nothing of a tenth of the weights is trained: the backward pass costs 2 * 0.9
    assert training_flops(make_config(), cost(trainable_parameters=9), **counts) == pytest.approx(5 * (2.8 * 100 + 20))
    ast = make_config("ast", model={"patchout_time": 0.25})
    assert training_flops(ast, cost(), **counts) == 5 * (3 * 0.75 * 100 + 20)


def test_the_line_through_exact_measurements_is_found() -> None:
    # 2 s and 3 s per 100 FLOPs: at 300 of at most 300 FLOPs a share of 9 / 11 grows with them, near 82 / 100
    found = fit_seconds([("a", flops, 2 + 0.03 * flops) for flops in (100.0, 200.0, 300.0)])
    assert [found.seconds("a", flops) for flops in (100, 200, 300)] == pytest.approx([5, 8, 11], rel=0.01)
    assert found.ratios == pytest.approx([1, 1, 1], rel=0.01)


def test_one_measurement_that_was_slowed_down_does_not_tilt_the_line() -> None:
    points = [("a", flops, 0.01 * flops) for flops in (100.0, 200.0, 300.0, 400.0)]
    found = fit_seconds([*points, ("a", 150.0, 30.0)])
    assert found.seconds("a", 200) == pytest.approx(2, rel=0.02)
    assert found.ratios[-1] == pytest.approx(30 / 1.5, rel=0.02)


def test_every_architecture_has_its_line_and_others_that_of_all() -> None:
    found = fit_seconds([("slow", 100.0, 10.0), ("fast", 100.0, 1.0)])
    of_each = [found.seconds("slow", 50), found.seconds("fast", 50)]
    assert of_each == pytest.approx([10, 1])  # one point: nothing is known of a slope
    assert 1 < found.seconds("unknown", 100) < 10


def samples_of(*architectures: str) -> list[Sample]:
    return [Sample("sample", make_config(name), cost()) for name in architectures]


def test_the_smallest_the_median_and_the_90_percent_sample_are_probed() -> None:
    eleven = samples_of(*["cnn_gru"] * 11)
    chosen = choose_probes(eleven, [float(10 - index) for index in range(11)])  # the last one is the smallest
    place_of = {id(sample): index for index, sample in enumerate(eleven)}
    assert [(size, place_of[id(sample)]) for size, sample in chosen] == [("smallest", 10), ("median", 5), ("90 %", 1)]
    assert len(choose_probes(eleven[:1], [1.0])) == 1
    both = choose_probes(samples_of("cnn_gru", "lstm", "lstm"), [1.0, 2.0, 3.0])
    assert [sample.config.architecture for _, sample in both] == ["cnn_gru", "lstm", "lstm"]


def test_a_probe_trains_a_share_of_an_epoch_and_scales_it_up(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "many.h5", tracks=(400, 100, 4))
    probe = measure(Sample("sample", make_config(), cost()), "median", dataset, device="cpu", seconds=0.02)
    assert 16 / 400 <= probe.share < 1  # two batches of 8 at the least
    assert probe.epoch_seconds > 0.02
    assert probe.cpu_share > 0


def test_a_probe_survives_a_loss_that_is_no_number_and_reads_no_test_track(tmp_path: Path) -> None:
    file = write_tiny_file(tmp_path / "tiny.h5", test_is_readable=False)
    wild = make_config(optimizer={"learning_rate": 1.0}, loss={"class_weights": "balanced"})
    probe = measure(Sample("sample", wild, cost()), "median", open_dataset(spec_of(file)), device="cpu", seconds=0.01)
    assert probe.share == 1
    with pytest.raises(DataError):  # the rows that it did not read
        open_split(spec_of(file), "test", open_dataset(spec_of(file)).normalisers)


# Simulated studies


def test_without_a_rule_every_epoch_is_trained_and_time_adds_up() -> None:
    flat = trials(*[(0.5,) * 6] * 4, epoch_seconds=2.0)
    found = simulate(search(scheduler={"name": "none"}), flat, NoPruner(), concurrency=2)
    assert (found.num_trials, found.epochs, found.trial_seconds, found.wall_seconds) == (4, 24, 48, 24)
    # three configurations by three seeds on two slots: five rounds of 6 epochs, then the winner alone
    assert found.finish_seconds == (9 + 1) * 6 * 2
    assert found.finish_wall_seconds == (5 + 1) * 6 * 2


def test_no_trial_starts_once_the_epochs_of_the_budget_are_trained() -> None:
    found = simulate(search(max_total_epochs=7), trials(*[(0.5,) * 6] * 4), NoPruner(), concurrency=1)
    assert (found.num_trials, found.epochs) == (2, 12)  # the second one starts after 6 epochs


def test_time_that_is_over_stops_running_trials() -> None:
    study = trials(*[(0.5,) * 6] * 4, epoch_seconds=2.0)
    found = simulate(search(time_budget_seconds=15), study, NoPruner(), concurrency=2)
    # 7 whole epochs in each slot; the eighth is cut off after its first second
    assert (found.num_trials, found.epochs, found.trial_seconds, found.wall_seconds) == (4, 14, 30, 15)


def test_the_rule_is_the_studys_own() -> None:
    asha = search(scheduler={"name": "asha", "grace_period": 2, "reduction_factor": 3})
    falling = trials(*[(merit,) * 6 for merit in (0.9, 0.8, 0.7)])
    found = simulate(asha, falling, build_pruner(asha, MERIT), concurrency=1)
    assert found.epochs == 6 + 2 + 2  # the first one is alone at its rungs; the others are worse than it


def test_asha_trains_as_many_epochs_as_its_rungs_let_pass() -> None:
    # Rungs at 1, 3, 9, and a third goes on at each: 1 + 2/3 + 6/9 + 18/27 = 3 epochs a trial. Early trials are
    # judged against few, and each rung lets more than a third of them pass, so a study takes somewhat more than that.
    asha = search(max_epochs=27, num_trials=400, scheduler={"name": "asha", "grace_period": 1})
    draw = drawn_from_samples(synthetic_curves(27), (1.0,), (0.9, 1.1), 400)
    found = expect(asha, draw, concurrency=4, num_studies=5, max_seconds=60)
    assert 3.0 < found.epochs().middle / 400 < 3.6
    assert found.epochs(stopped=False).low == found.epochs(stopped=False).high == 400 * 27


def test_simulations_end_when_time_is_up() -> None:
    seconds = iter(range(100))
    draw = drawn_from_samples(synthetic_curves(6), (1.0,), (1.0,), 10)
    found = expect(search(), draw, concurrency=2, num_studies=9, max_seconds=2.5, clock=lambda: next(seconds))
    assert len(found.stopped) == len(found.unstopped) == 3


def test_known_good_points_start_first_with_their_own_seconds() -> None:
    draw = drawn_from_samples(synthetic_curves(6), (1.0, 2.0), (1.0,), 5, first=(7.0, 8.0))
    drawn = [trial.epoch_seconds for trial in draw(np.random.default_rng(0))]
    assert drawn[:2] == [7.0, 8.0]
    assert set(drawn[2:]) <= {1.0, 2.0}


def test_synthetic_curves_are_as_sure_of_the_end_as_they_say() -> None:
    curves = np.stack(synthetic_curves(27)(np.random.default_rng(0), 4000))
    with_end = [float(np.corrcoef(curves[:, epoch - 1], curves[:, -1])[0, 1]) for epoch in (1, 2, 3)]
    assert with_end == pytest.approx([0.76, 0.85, 0.90], abs=0.02)


# Recorded curves


def recorded(number: int, objectives: list[float], state: TrialState = TrialState.COMPLETED) -> TrialRecord:
    best = np.maximum.accumulate(objectives).tolist()
    epochs = tuple(
        EpochResult(epoch, {}, 0.1, 1.0, value, top, 1)
        for epoch, (value, top) in enumerate(zip(objectives, best, strict=True), 1)
    )
    return TrialRecord(TrialStart(number, f"t{number}", {}, {}, 0), state, epochs, 1.0)


def test_a_curve_that_was_cut_goes_on_as_those_near_it_did() -> None:
    whole = [recorded(n, [0.5, 0.6, 0.9, 0.95]) for n in range(9)]
    cut = recorded(9, [0.3, 0.4], TrialState.PRUNED)
    curves = recorded_curves([*whole, cut], MERIT, max_epochs=6, patience=None)
    assert curves is not None
    lowest = min(curves(np.random.default_rng(0), 10), key=lambda merits: float(merits[0]))
    # 0.3 and 0.05 better than at the epoch where it was stopped, then no better for want of anybody to follow
    assert lowest.tolist() == pytest.approx([0.3, 0.4, 0.7, 0.75, 0.75, 0.75])


def test_a_curve_ends_when_its_patience_is_used_up() -> None:
    study = [recorded(n, [0.5, 0.6, 0.6, 0.6, 0.6]) for n in range(10)]
    curves = recorded_curves(study, MERIT, max_epochs=27, patience=2)
    assert curves is not None
    assert {len(merits) for merits in curves(np.random.default_rng(0), 30)} == {4}  # best at 2, two more without
    assert recorded_curves(study[:9], MERIT, max_epochs=27, patience=2) is None  # too few to draw from


# Memory


def test_a_gpu_holds_so_many_trainings_with_a_copy_of_the_data_each(tmp_path: Path) -> None:
    info = read_info(make_feature_file(tmp_path / "a.h5", chroma=True))
    copy = data_bytes(info, ["mel", "chroma"])
    assert copy == 32 * 24 * (8 + 4) * 2  # train and val, frames, bins, float16
    trial = 100 + copy + FRAMEWORK_BYTES
    assert (pack(100, copy, 3 * trial).num_trials, pack(100, copy, 3 * trial).share) == (3, 0.33)
    assert pack(100, copy, 30 * trial, most=4).num_trials == 4
    assert pack(100, copy, trial - 1).share is None
