"""Multitask in training and judging: one backbone, learned variances, tracks without labels, saved models."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from conftest import assert_equal_weights, curve, make_config, make_feature_file, spec_of, weights_of
from fmasearch.config import TrainConfig
from fmasearch.data import Dataset, open_dataset
from fmasearch.evaluate import baseline_scores, judge, majority_class
from fmasearch.model_file import SavedModel, load_model, save_model
from fmasearch.trainer import Trainer, predict

NAN = torch.nan
PLAIN = {"architecture": "stats", "hidden_dim": 16, "num_layers": 1, "dropout": 0.0}
BOTH = {"multitask": {"genre": "genre", "mood": ["energy"], "speed": ["tempo"]}}


@pytest.fixture
def music(tmp_path: Path) -> Dataset:
    """Genres, energy and tempo, all of which can be learnt, and are missing here and there."""
    missing = {"energy": [0, 3, 7, 9, 10], "tempo": [1, 6, 12, 30]}
    options = {"targets": ["energy", "tempo"], "missing": missing, "unlabelled": [3, 4, 9, 13, 24]}
    path = make_feature_file(tmp_path / "a.h5", tracks=(24, 16, 8), contrast=5.0, **options)
    return open_dataset(spec_of(path, targets=["energy", "tempo"]))


def config_of(task: dict[str, Any] = BOTH, architecture: str = "stats", **sections: Any) -> TrainConfig:
    model = PLAIN if architecture == "stats" else {}
    return make_config(architecture, model=model, task=task, **sections)


def saved_of(trainer: Trainer, dataset: Dataset) -> SavedModel:
    return SavedModel(
        config=trainer.config,
        weights=trainer.judged.state_dict(),
        class_names=dataset.class_names,
        normalisers=dataset.normalisers,
        input_dim=dataset.input_dim,
        num_frames=trainer.num_frames,
        feature_settings={},
        data={},
        versions={},
        targets=dataset.targets,
    )


def log_variances(trainer: Trainer) -> Tensor:
    learned = trainer.model.head.log_variances
    assert learned is not None
    return learned.detach().clone()


@pytest.mark.parametrize("weighting", ["fixed", "uncertainty"])
def test_all_parts_are_learnt_from_one_backbone(music: Dataset, weighting: str) -> None:
    config = config_of(loss={"weighting": weighting}, optimizer={"learning_rate": 1e-2}, trainer={"max_epochs": 40})
    first, *_, last = Trainer(config, music).epochs()
    assert last.metrics["val_genre_macro_f1"] > 0.7
    assert last.metrics["val_energy_spearman"] > 0.6
    assert last.metrics["val_tempo_spearman"] > 0.6
    assert last.best_objective > first.best_objective


def test_variances_are_learnt_one_for_each_part(music: Dataset) -> None:
    trainer = Trainer(config_of(loss={"weighting": "uncertainty"}), music)
    assert log_variances(trainer).tolist() == [0.0, 0.0, 0.0]
    next(trainer.epochs())
    assert (log_variances(trainer) != 0).all()
    assert Trainer(config_of(), music).model.head.log_variances is None


def test_learning_the_weights_draws_no_random_numbers(music: Dataset) -> None:
    fixed = weights_of(Trainer(config_of(), music))
    learned = weights_of(Trainer(config_of(loss={"weighting": "uncertainty"}), music))
    assert learned.pop("head.log_variances").tolist() == [0.0, 0.0, 0.0]
    assert_equal_weights(learned, fixed)


@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_a_resumed_training_keeps_its_variances(music: Dataset, ema_decay: float | None) -> None:
    config = config_of(
        architecture="cnn_gru", loss={"weighting": "uncertainty"}, trainer={"max_epochs": 4, "ema_decay": ema_decay}
    )
    whole = Trainer(config, music)
    expected = curve(whole.epochs())
    half = Trainer(config, music)
    results = half.epochs()
    first = curve(iter([next(results), next(results)]))
    resumed = Trainer(config, music)
    resumed.load_state_dict(half.state_dict())
    assert torch.equal(log_variances(resumed), log_variances(half))
    assert first + curve(resumed.epochs()) == expected
    assert_equal_weights(weights_of(resumed), weights_of(whole))


@pytest.mark.parametrize("weighting", ["fixed", "uncertainty"])
def test_a_saved_model_predicts_the_same_and_keeps_its_variances(
    music: Dataset, tmp_path: Path, weighting: str
) -> None:
    trainer = Trainer(config_of(loss={"weighting": weighting, "class_weights": "sqrt"}), music)
    next(trainer.epochs())
    save_model(tmp_path / "model.pt", saved_of(trainer, music))
    saved = load_model(tmp_path / "model.pt")
    assert saved.targets == music.targets
    assert ("head.log_variances" in saved.weights) == (weighting == "uncertainty")
    assert music.val is not None
    outputs = predict(saved.build(), music.val, saved.task)
    assert torch.equal(outputs, predict(trainer.model, music.val, trainer.task))
    if weighting == "uncertainty":
        assert torch.equal(outputs[0, -3:], log_variances(trainer))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_variances_stay_in_fp32_whatever_the_precision(music: Dataset, precision: str) -> None:
    config = config_of(loss={"weighting": "uncertainty"}, trainer={"precision": precision, "max_epochs": 1})
    trainer = Trainer(config, music)
    (result,) = trainer.epochs()
    assert math.isfinite(result.metrics["val_loss"])
    assert log_variances(trainer).dtype is torch.float32


def test_without_weight_on_the_numbers_classes_are_learnt_as_in_a_single_task(music: Dataset, tmp_path: Path) -> None:
    # The same tracks, of which all have a class; both heads start from the same rows for the classes.
    path = make_feature_file(tmp_path / "b.h5", contrast=5.0, targets=["energy"])
    both, alone = open_dataset(spec_of(path, targets=["energy"])), open_dataset(spec_of(path))
    task = {"multitask": {"genre": "genre", "mood": ["energy"]}, "objective": "genre"}
    trainers = [
        Trainer(config_of({"classification": "genre"}), alone),
        Trainer(config_of(task, loss={"regression_weight": 0.0}), both),
    ]
    with torch.no_grad():
        for name, weights in trainers[0].model.state_dict().items():
            trainers[1].model.state_dict()[name][: len(weights)].copy_(weights)
    single, multi = ([*trainer.epochs()] for trainer in trainers)
    for one, other in zip(single, multi, strict=True):
        assert other.metrics["val_genre_loss"] == pytest.approx(one.metrics["val_loss"], rel=1e-4)
        assert other.metrics["val_genre_macro_f1"] == one.metrics["val_macro_f1"] == other.objective
    for name, weights in weights_of(trainers[0]).items():
        torch.testing.assert_close(weights_of(trainers[1])[name][: len(weights)], weights, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("weighting", ["fixed", "uncertainty"])
def test_a_track_without_labels_teaches_nothing_whatever_its_features(music: Dataset, weighting: str) -> None:
    rows = [2, 5, 11, 17]
    targets = music.train.targets_N.clone()
    targets[rows] = NAN
    levels = music.train.stores[0].levels(torch.arange(len(music.train)))
    shuffled, noisy = levels.clone(), levels.clone()
    shuffled[rows] = levels[rows][[3, 2, 0, 1]]
    noisy[rows] = (torch.randn(noisy[rows].shape, generator=torch.Generator().manual_seed(0)) * 40).to(noisy.dtype)
    trained = []
    for each in (levels, shuffled, noisy):
        store = replace(music.train.stores[0], levels_NTF=each, rows_N=None)
        dataset = replace(music, train=replace(music.train, targets_N=targets, stores=(store,)))
        trainer = Trainer(config_of(loss={"weighting": weighting}, trainer={"max_epochs": 2}), dataset)
        scores = [result.metrics for result in trainer.epochs()]
        trained.append((weights_of(trainer), scores))
    for weights, scores in trained[1:]:
        assert_equal_weights(weights, trained[0][0])
        assert scores == trained[0][1]


# --- judged ----------------------------------------------------------------------------------------------------------


def test_a_report_has_classes_and_targets(music: Dataset) -> None:
    trainer = Trainer(config_of(), music)
    *_, last = trainer.epochs()
    assert music.val is not None
    baseline = baseline_scores(trainer.task, music.val, majority_class=majority_class(music))
    report = judge(trainer.model, music.val, trainer.task, baseline=baseline, num_resamples=50)
    assert [row.name for row in report.classes] == list(music.class_names)
    known = ~music.val.targets_N[:, 0].isnan()
    assert np.sum(report.confusion) == known.sum() < len(music.val) == report.num_tracks
    for name in ("mean", "genre_macro_f1", "energy_rmse", "mood_spearman", "speed_ccc"):
        assert report.metrics[name] == pytest.approx(last.metrics[f"val_{name}"], rel=1e-5)
    assert report.metrics.keys() - report.intervals.keys() == {
        "genre_log_loss", "genre_top_3_accuracy", "genre_roc_auc", "genre_ece", "genre_brier",
    }  # fmt: skip
    largest = (music.val.targets_N[known, 0] == majority_class(music)).double().mean()
    assert report.baseline["genre_accuracy"] == pytest.approx(float(largest))
    assert {"energy_rmse", "mood_mae", "tempo_mse"} <= report.baseline.keys()
    assert report.headline(trainer.task.objective) == "mean"


@pytest.mark.parametrize(
    ("column", "metric", "kept"), [(0, "genre_roc_auc", "mood_rmse"), (1, "mood_rmse", "genre_roc_auc")]
)
def test_a_split_that_lacks_a_part_is_judged_by_the_others(music: Dataset, column: int, metric: str, kept: str) -> None:
    trainer = Trainer(config_of(), music)
    next(trainer.epochs())
    assert music.val is not None
    targets = music.val.targets_N.clone()
    targets[:, column] = NAN
    report = judge(trainer.model, replace(music.val, targets_N=targets), trainer.task, baseline={}, num_resamples=20)
    assert math.isnan(report.metrics[metric])
    assert math.isfinite(report.metrics[kept])


def test_crops_are_scored_apart_from_tracks(music: Dataset) -> None:
    config = config_of(crop={"frames": 6, "num_eval": 4}, loss={"weighting": "uncertainty"})
    trainer = Trainer(config, music)
    *_, last = trainer.epochs()
    assert music.val is not None
    report = judge(trainer.model, music.val, trainer.task, baseline={}, crop=config.crop, num_resamples=10)
    assert report.metrics["energy_rmse"] < report.metrics["clip_energy_rmse"]
    assert (
        report.metrics["genre_log_loss"] < report.metrics["clip_genre_log_loss"]
    )  # Jensen: means are surer to be right
    assert report.metrics["mean"] == pytest.approx(last.metrics["val_mean"], rel=1e-5)
    assert not any(name.startswith("clip_") for name in report.intervals)
