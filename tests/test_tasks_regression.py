"""Regression: losses with labels missing in any pattern, own units, crops, objectives, training and judging."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn.metrics as sk
import torch
import torch.nn.functional as F
from torch import Tensor

from conftest import assert_equal_weights, make_config, make_feature_file, spec_of, weights_of
from fmasearch.config import ERRORS, LossConfig, TaskConfig
from fmasearch.config.training import TARGET_METRICS
from fmasearch.data import Dataset, Split, open_dataset
from fmasearch.evaluate import baseline_scores, judge
from fmasearch.model_file import SavedModel, load_model, save_model
from fmasearch.records import Objective, TargetStats
from fmasearch.tasks import Regression, build_task
from fmasearch.trainer import Trainer, evaluate, predict

TARGETS = (TargetStats("valence", 5.0, 2.0), TargetStats("energy", -1.0, 0.5))
LOSSES = ["mse", "mae", "huber", "ccc"]
NAN = torch.nan


def task_of(error: str = "mse", objective: str | None = None, huber_delta: float = 1.0) -> Regression:
    config = TaskConfig(regression=("valence", "energy"), objective=objective)
    loss = LossConfig.model_validate({"regression": error, "huber_delta": huber_delta})
    task = build_task(config, targets=TARGETS, loss=loss)
    assert isinstance(task, Regression)
    return task


def batch(missing: str, num_clips: int = 12) -> tuple[Tensor, Tensor]:
    """Standardised outputs, and targets in their own units of which some are missing."""
    generator = torch.Generator().manual_seed(0)
    outputs_BR = torch.randn(num_clips, 2, generator=generator)
    targets_BR = torch.randn(num_clips, 2, generator=generator) * torch.tensor([2.0, 0.5]) + torch.tensor([5.0, -1.0])
    hidden_BR = torch.zeros(num_clips, 2, dtype=torch.bool)
    if missing in ("some", "most"):
        hidden_BR = torch.rand(num_clips, 2, generator=generator) < {"some": 0.3, "most": 0.7}[missing]
    elif missing == "rows":
        hidden_BR[[1, 4, 5]] = True
    elif missing == "a target":
        hidden_BR[:, 1] = True
    elif missing == "all but one":
        hidden_BR[1:, 1] = True
    return outputs_BR, torch.where(hidden_BR, NAN, targets_BR)


PATTERNS = ["none", "some", "most", "rows", "a target", "all but one"]


def error_of(error: str, wanted: Any, given: Any) -> float:
    """The error of one target's labelled clips, from other libraries and by hand."""
    if error == "mse":
        return float(sk.mean_squared_error(wanted, given))
    if error == "mae":
        return float(sk.mean_absolute_error(wanted, given))
    if error == "huber":
        return F.huber_loss(torch.tensor(given), torch.tensor(wanted), delta=0.5).item()
    # Lin (1989), equation 1, with population moments.
    shared = np.cov(wanted, given, bias=True)
    return float(1 - 2 * shared[0, 1] / (shared[0, 0] + shared[1, 1] + (wanted.mean() - given.mean()) ** 2))


# --- the loss --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", PATTERNS)
@pytest.mark.parametrize("error", LOSSES)
def test_the_loss_is_the_mean_over_targets_of_their_errors_over_labels(error: str, missing: str) -> None:
    outputs, targets = batch(missing)
    expected = []
    for column, stats in enumerate(TARGETS):
        known = ~targets[:, column].isnan()
        wanted = ((targets[known, column] - stats.mean) / stats.std).double().numpy()
        if len(wanted) > (1 if error == "ccc" else 0):  # one label has no concordance
            expected.append(error_of(error, wanted, outputs[known, column].double().numpy()))
    loss = task_of(error, huber_delta=0.5).loss(outputs, targets)
    assert loss.item() == pytest.approx(np.mean(expected), rel=1e-5)


def test_losses_by_hand() -> None:
    # Valence 9 and 5 are 2 and 0 deviations above the mean; outputs 1 and 0 err by 1 and 0. Energy 0 is 2 above.
    outputs, targets = torch.tensor([[1.0, 0.5], [0.0, 7.0]]), torch.tensor([[9.0, 0.0], [5.0, NAN]])
    assert task_of("mse").loss(outputs, targets).item() == pytest.approx((0.5 + 1.5**2) / 2)
    assert task_of("mae").loss(outputs, targets).item() == pytest.approx((0.5 + 1.5) / 2)
    # 0.5 * 1**2 and 0 within one deviation, 1 * (1.5 - 0.5) beyond.
    assert task_of("huber").loss(outputs, targets).item() == pytest.approx((0.25 + 1.0) / 2)
    # 2 and 0 beside 1 and 0: covariance 0.5, variances 1 and 0.25, means 1 and 0.5. Energy has one label, and no CCC.
    assert task_of("ccc").loss(outputs, targets).item() == pytest.approx(1 - 2 * 0.5 / (1 + 0.25 + 0.5**2))


@pytest.mark.parametrize("missing", PATTERNS)
@pytest.mark.parametrize("error", LOSSES)
def test_gradients_are_finite_and_zero_where_there_is_no_label(error: str, missing: str) -> None:
    outputs, targets = batch(missing)
    outputs.requires_grad_()
    task_of(error).loss(outputs, targets).backward()
    assert outputs.grad is not None
    assert outputs.grad.isfinite().all()
    assert (outputs.grad[targets.isnan()] == 0).all()
    assert (outputs.grad[:, 0][~targets[:, 0].isnan()] != 0).all()


@pytest.mark.parametrize("error", LOSSES)
def test_what_is_said_of_a_missing_label_changes_nothing(error: str) -> None:
    outputs, targets = batch("some")
    losses, gradients = [], []
    for noise in (0.0, 1e3, torch.inf, torch.nan):
        noisy = torch.where(targets.isnan(), noise, outputs).requires_grad_()
        losses.append(task_of(error).loss(noisy, targets))
        losses[-1].backward()
        assert noisy.grad is not None
        gradients.append(noisy.grad)
    assert all(torch.equal(loss, losses[0]) for loss in losses)
    assert all(torch.equal(gradient, gradients[0]) for gradient in gradients)


@pytest.mark.parametrize("error", LOSSES)
def test_a_batch_without_labels_has_loss_0_and_gradient_0(error: str) -> None:
    outputs = torch.randn(4, 2, requires_grad=True)
    loss = task_of(error).loss(outputs, torch.full((4, 2), NAN))
    loss.backward()
    assert loss.item() == 0
    assert outputs.grad is not None
    assert torch.equal(outputs.grad, torch.zeros(4, 2))


@pytest.mark.parametrize("error", LOSSES)
def test_one_clip_and_equal_outputs_have_a_finite_loss(error: str) -> None:
    for outputs, targets in ((torch.zeros(1, 2), torch.zeros(1, 2)), (torch.zeros(4, 2), torch.full((4, 2), 5.0))):
        outputs.requires_grad_()
        loss = task_of(error).loss(outputs, targets)
        loss.backward()
        assert loss.isfinite()
        assert outputs.grad is not None
        assert outputs.grad.isfinite().all()


def test_bf16_outputs_have_a_loss_in_fp32() -> None:
    outputs, targets = batch("some")
    assert task_of().loss(outputs.bfloat16(), targets).dtype is torch.float32


# --- values, crops, scores -------------------------------------------------------------------------------------------


def test_values_are_in_the_labels_own_unit() -> None:
    # One deviation above the mean: 5 + 2 and -1 + 0.5.
    values = task_of().values(torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
    torch.testing.assert_close(values, torch.tensor([[5.0, -1.0], [7.0, -0.5]]))


def test_crops_are_combined_by_their_mean() -> None:
    combined = task_of().combine(torch.tensor([[[1.0, 2.0], [3.0, -2.0]], [[0.0, 0.0], [0.0, 1.0]]]))
    torch.testing.assert_close(combined, torch.tensor([[2.0, 0.0], [0.0, 0.5]]))


def test_errors_are_measured_in_the_labels_own_unit_and_the_loss_in_deviations() -> None:
    metrics = task_of().metrics(torch.device("cpu"))
    metrics.update(torch.zeros(2, 2), torch.tensor([[4.0, -1.0], [8.0, NAN]]))  # outputs mean 5 and -1
    scores = metrics.compute()
    assert (scores["valence_mae"], scores["valence_mse"]) == pytest.approx((2.0, 5.0))  # 1 and 3 beside the mark
    assert (scores["energy_mae"], scores["mae"]) == pytest.approx((0.0, 1.0))
    assert scores["loss"] == pytest.approx((5.0 / 2.0**2 + 0.0) / 2)


def test_metrics_do_not_change_with_the_order_or_with_what_is_said_of_missing_labels() -> None:
    outputs, targets = batch("some")
    order = torch.randperm(len(outputs), generator=torch.Generator().manual_seed(1))
    noisy = torch.where(targets.isnan(), 1e3, outputs)
    scores = []
    for said, wanted in ((outputs, targets), (noisy, targets), (outputs[order], targets[order])):
        metrics = task_of().metrics(torch.device("cpu"))
        metrics.update(said[:5], wanted[:5])
        metrics.update(said[5:], wanted[5:])
        scores.append(metrics.compute())
    assert scores[1] == scores[0]
    assert scores[2] == pytest.approx(scores[0])


@pytest.mark.parametrize("metric", [*TARGET_METRICS, "energy_rmse", "valence_spearman"])
def test_every_objective_that_can_be_configured_is_computed_and_has_a_direction(metric: str) -> None:
    task = task_of(objective=metric)
    metrics = task.metrics(torch.device("cpu"))
    metrics.update(*batch("some"))
    assert metric in metrics.compute()
    assert task.objective == Objective(f"val_{metric}", "min" if metric.split("_")[-1] in ERRORS else "max")


def test_the_objective_is_the_mean_spearman_unless_another_is_asked_for() -> None:
    assert task_of().objective == Objective("val_spearman", "max")


@pytest.mark.gpu
@pytest.mark.parametrize("error", LOSSES)
def test_a_loss_on_the_gpu_does_not_wait_for_it(error: str) -> None:
    task = task_of(error)
    outputs, targets = (each.cuda() for each in batch("some"))
    task.loss(outputs, targets)  # constants are copied once
    torch.cuda.set_sync_debug_mode("error")
    try:
        task.loss(outputs, targets)
        task.metrics(outputs.device).update(task.combine(outputs[:, None]), targets)
    finally:
        torch.cuda.set_sync_debug_mode("default")


# --- in training -----------------------------------------------------------------------------------------------------

PLAIN = {"architecture": "stats", "hidden_dim": 16, "num_layers": 1, "dropout": 0.0}
"""Without batch norm: a clip's output has nothing to do with the others of its batch."""


@pytest.fixture
def emotions(tmp_path: Path) -> Dataset:
    """24 training and 16 validation tracks; energy and tempo can be learnt, and some are missing."""
    missing = {"energy": [0, 3, 7, 9, 10], "tempo": [1, 6, 12, 30]}
    path = make_feature_file(tmp_path / "a.h5", tracks=(24, 16, 8), targets=["energy", "tempo"], missing=missing)
    return open_dataset(spec_of(path, label=None, targets=["energy", "tempo"]))


def config_of(error: str = "mse", objective: str | None = None, **sections: Any) -> Any:
    task = {"regression": ["energy", "tempo"], "objective": objective}
    trainer = {"batch_size": 6, "max_epochs": 8, **sections.pop("trainer", {})}
    return make_config("stats", model=PLAIN, task=task, loss={"regression": error}, trainer=trainer, **sections)


def with_features(split: Split, rows: list[int], taken_from: Tensor) -> Split:
    """The split with the levels of `rows` replaced."""
    levels = split.stores[0].levels(torch.arange(len(split))).clone()
    levels[rows] = taken_from.to(levels.dtype)
    store = replace(split.stores[0], levels_NTF=levels, rows_N=None)
    return replace(split, stores=(store,))


@pytest.mark.parametrize("error", LOSSES)
def test_every_loss_learns_what_can_be_learnt(emotions: Dataset, error: str) -> None:
    config = config_of(error, optimizer={"learning_rate": 1e-2}, trainer={"max_epochs": 30})
    first, *_, last = Trainer(config, emotions).epochs()
    assert last.metrics["val_spearman"] > 0.8
    assert last.metrics["val_loss"] < first.metrics["val_loss"]


@pytest.mark.parametrize("error", LOSSES)
def test_a_track_without_labels_teaches_nothing_whatever_its_features(emotions: Dataset, error: str) -> None:
    rows = [2, 5, 11, 17]
    targets = emotions.train.targets_N.clone()
    targets[rows] = NAN
    train = replace(emotions.train, targets_N=targets)
    levels = train.stores[0].levels(torch.tensor(rows))
    noise = torch.randn(levels.shape, generator=torch.Generator().manual_seed(0)) * 40
    trained = []
    for split in (train, with_features(train, rows, levels[[3, 2, 0, 1]]), with_features(train, rows, noise)):
        trainer = Trainer(config_of(error, trainer={"max_epochs": 2}), replace(emotions, train=split))
        scores = [result.metrics for result in trainer.epochs()]
        trained.append((weights_of(trainer), scores))
    for weights, scores in trained[1:]:
        assert_equal_weights(weights, trained[0][0])
        assert scores == trained[0][1]


def test_scores_of_a_target_do_not_know_the_tracks_that_lack_it(emotions: Dataset) -> None:
    assert emotions.val is not None
    rows = emotions.val.targets_N[:, 0].isnan().nonzero()[:, 0].tolist()
    assert rows
    trainer = Trainer(config_of(), emotions)
    next(trainer.epochs())
    noise = torch.randn(len(rows), *emotions.val.stores[0].levels_NTF.shape[1:]) * 40
    noisy = with_features(emotions.val, rows, noise)
    before, after = (evaluate(trainer.model, split, trainer.task) for split in (emotions.val, noisy))
    assert {name: value for name, value in after.items() if name.startswith("energy_")} == {
        name: value for name, value in before.items() if name.startswith("energy_")
    }
    assert after["tempo_rmse"] != before["tempo_rmse"]  # those tracks have a tempo


def test_an_objective_of_which_less_is_better_is_minimised(emotions: Dataset) -> None:
    trainer = Trainer(config_of(objective="tempo_rmse", optimizer={"learning_rate": 5e-2}), emotions)
    results = list(trainer.epochs())
    errors = [result.metrics["val_tempo_rmse"] for result in results]
    assert errors.index(min(errors)) + 1 == trainer.best_epoch == results[-1].best_epoch
    assert trainer.best_objective == min(errors) < errors[0]


def test_a_saved_model_predicts_in_the_labels_own_unit(emotions: Dataset, tmp_path: Path) -> None:
    trainer = Trainer(config_of(trainer={"max_epochs": 30}), emotions)
    list(trainer.epochs())
    save_model(tmp_path / "model.pt", saved_of(trainer, emotions))
    saved = load_model(tmp_path / "model.pt")
    assert saved.targets == emotions.targets
    assert (saved.class_names, saved.task) == ((), trainer.task)
    assert emotions.val is not None
    outputs = predict(saved.build(), emotions.val, saved.task)
    assert torch.equal(outputs, predict(trainer.model, emotions.val, trainer.task))
    assert isinstance(saved.task, Regression)
    known = ~emotions.val.targets_N.isnan()
    errors = (saved.task.values(outputs) - emotions.val.targets_N)[known]
    assert errors.square().mean().sqrt() < 3  # of labels that are 6 dB from their mean


def saved_of(trainer: Trainer, dataset: Dataset) -> SavedModel:
    return SavedModel(
        config=trainer.config,
        weights=trainer.model.state_dict(),
        class_names=dataset.class_names,
        normalisers=dataset.normalisers,
        input_dim=dataset.input_dim,
        num_frames=trainer.num_frames,
        feature_settings={},
        data={},
        versions={},
        targets=dataset.targets,
    )


# --- judged ----------------------------------------------------------------------------------------------------------


def test_a_report_has_every_score_of_every_target_with_an_interval(emotions: Dataset) -> None:
    trainer = Trainer(config_of(), emotions)
    next(trainer.epochs())
    assert emotions.val is not None
    baseline = baseline_scores(trainer.task, emotions.val, majority_class=None)
    report = judge(trainer.model, emotions.val, trainer.task, baseline=baseline, num_resamples=50)
    names = {*TARGET_METRICS, *(f"{target}_{name}" for target in ("energy", "tempo") for name in TARGET_METRICS)}
    assert report.metrics.keys() == report.intervals.keys() == names
    assert (report.classes, report.confusion, report.num_tracks) == ((), (), 16)
    plain = evaluate(trainer.model, emotions.val, trainer.task)
    assert report.metrics == pytest.approx({name: plain[name] for name in names}, rel=1e-5)


def test_the_baseline_answers_the_training_mean(emotions: Dataset) -> None:
    assert emotions.val is not None
    task = build_task(config_of().task, targets=emotions.targets)
    baseline = baseline_scores(task, emotions.val, majority_class=None)
    names = {f"{prefix}{error}" for prefix in ("", "energy_", "tempo_") for error in ERRORS}
    assert baseline.keys() == names
    for column, stats in enumerate(emotions.targets):
        values = emotions.val.targets_N[:, column]
        known = values[~values.isnan()].double().numpy()
        expected = sk.mean_absolute_error(known, np.full(len(known), stats.mean))
        assert baseline[f"{stats.name}_mae"] == pytest.approx(expected, rel=1e-5)


def test_clips_are_scored_apart_from_the_tracks_whose_mean_they_make(tmp_path: Path) -> None:
    path = make_feature_file(tmp_path / "a.h5", targets=["energy"])
    dataset = open_dataset(spec_of(path, label=None, targets=["energy"]))
    config = make_config("stats", model=PLAIN, task={"regression": ["energy"]}, crop={"frames": 6, "num_eval": 4})
    trainer = Trainer(config, dataset)
    *_, last = trainer.epochs()
    assert dataset.val is not None
    report = judge(trainer.model, dataset.val, trainer.task, baseline={}, crop=config.crop, num_resamples=10)
    clips = {name.removeprefix("clip_"): value for name, value in report.metrics.items() if name.startswith("clip_")}
    assert clips.keys() == report.intervals.keys() == report.metrics.keys() - {f"clip_{name}" for name in clips}
    # The square of a mean error is at most the mean of the squares, and less unless all crops agree.
    assert report.metrics["rmse"] < clips["rmse"]
    assert report.metrics["rmse"] == pytest.approx(last.metrics["val_rmse"], rel=1e-5)


def test_a_split_that_lacks_a_target_is_judged_by_the_others(emotions: Dataset) -> None:
    trainer = Trainer(config_of(), emotions)
    next(trainer.epochs())
    assert emotions.val is not None
    targets = emotions.val.targets_N.clone()
    targets[:, 1] = NAN
    report = judge(trainer.model, replace(emotions.val, targets_N=targets), trainer.task, baseline={}, num_resamples=20)
    assert np.isnan(report.metrics["tempo_rmse"])
    assert report.metrics["rmse"] == report.metrics["energy_rmse"]
