"""The trainer: what an epoch reports, when training ends, and that models learn."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sklearn.metrics as sk
import torch
from torch import Tensor

from conftest import MASKS, assert_equal_weights, curve, diverge, make_config, make_dataset, weights_of
from fmasearch.data import Dataset, merge_splits
from fmasearch.errors import ConfigError, DivergedError
from fmasearch.models import ARCHITECTURES, hyperparameters
from fmasearch.trainer import Trainer, evaluate, overfit_batch, predict

every_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)

SCORES = {"loss", "accuracy", "balanced_accuracy", "macro_f1", "weighted_f1", "micro_f1"}


# --- what an epoch reports -------------------------------------------------------------------------------------------


def test_an_epoch_reports_the_scores_of_both_splits(dataset: Dataset) -> None:
    result = next(Trainer(make_config(), dataset).epochs())
    assert set(result.metrics) == {f"{split}_{score}" for split in ("train", "val") for score in SCORES}
    assert all(type(value) is float for value in result.metrics.values())
    assert (result.epoch, result.best_epoch, result.finished) == (1, 1, False)
    assert result.objective == result.best_objective == result.metrics["val_macro_f1"]
    assert 0 < result.epoch_seconds < 60


def test_the_objective_is_the_one_the_task_names(dataset: Dataset) -> None:
    task = {"classification": "genre", "objective": "accuracy"}
    result = next(Trainer(make_config(task=task), dataset).epochs())
    assert result.objective == result.metrics["val_accuracy"]


def test_validation_scores_are_scikit_learns(noisy: Dataset) -> None:
    assert noisy.val is not None
    trainer = Trainer(make_config(), noisy)
    *_, last = trainer.epochs()
    logits_NK = predict(trainer.model, noisy.val, trainer.task)
    targets, predictions = noisy.val.targets_N.numpy(), logits_NK.argmax(1).numpy()
    f1 = {name: sk.f1_score(targets, predictions, average=name) for name in ("macro", "micro", "weighted")}
    assert last.metrics["val_accuracy"] == pytest.approx(sk.accuracy_score(targets, predictions))
    assert last.metrics["val_balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(targets, predictions))
    assert {name: last.metrics[f"val_{name}_f1"] for name in f1} == pytest.approx(f1)
    log_loss = sk.log_loss(targets, logits_NK.double().softmax(1).numpy(), labels=range(4))
    assert last.metrics["val_loss"] == pytest.approx(log_loss, rel=1e-5)


def test_training_scores_are_those_of_the_batches_as_they_were_trained(dataset: Dataset) -> None:
    # A rate of 1e-12 moves no weight and batch norm uses the batch itself, so one batch of everything can be redone.
    config = make_config(model={"dropout": 0.0}, optimizer={"learning_rate": 1e-12}, trainer={"batch_size": 24})
    trainer = Trainer(config, dataset)
    result = next(trainer.epochs())
    x_BTF, lengths_B, targets_B = dataset.train.batch(torch.arange(24))
    with torch.no_grad():
        logits_BK = trainer.model.train()(x_BTF, lengths_B)
    assert result.metrics["train_loss"] == pytest.approx(
        sk.log_loss(targets_B, logits_BK.double().softmax(1)), rel=1e-4
    )
    assert result.metrics["train_accuracy"] == sk.accuracy_score(targets_B, logits_BK.argmax(1))


def test_evaluating_in_batches_of_any_size_gives_the_same_scores(noisy: Dataset) -> None:
    trainer = Trainer(make_config(), noisy)
    next(trainer.epochs())
    assert noisy.val is not None
    many = merge_splits("many", [noisy.val] * 9)  # 72 tracks: more than one batch of 64
    once, nine_times = (evaluate(trainer.model, split, trainer.task) for split in (noisy.val, many))
    assert nine_times == pytest.approx(once, rel=1e-5)


def test_tracks_without_a_label_contribute_nothing_to_the_scores(noisy: Dataset) -> None:
    assert noisy.val is not None
    trainer = Trainer(make_config(), noisy)
    next(trainer.epochs())
    hidden = replace(noisy.val, targets_N=torch.cat([noisy.val.targets_N[:5], torch.full((3,), -1)]))
    known = merge_splits("known", [noisy.val])
    known = replace(
        known,
        stores=tuple(replace(store, levels_NTF=store.levels_NTF[:5]) for store in known.stores),
        lengths_N=known.lengths_N[:5],
        targets_N=known.targets_N[:5],
        track_ids=known.track_ids[:5],
    )
    scores = [evaluate(trainer.model, s, trainer.task) for s in (hidden, known)]
    assert scores[0] == pytest.approx(scores[1], rel=1e-5)


def test_a_batch_without_labels_moves_no_weight(dataset: Dataset) -> None:
    trainer = Trainer(make_config(trainer={"batch_size": 24}), dataset)
    before = {name: parameter.clone() for name, parameter in trainer.model.named_parameters()}
    trainer.dataset = replace(dataset, train=replace(dataset.train, targets_N=torch.full((24,), -1)))
    with pytest.raises(DivergedError):  # a training loss over no track is NaN; a file without labels is a DataError
        next(trainer.epochs())
    assert_equal_weights(before, dict(trainer.model.named_parameters()))


# --- when it ends ----------------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_ends_the_training_in_that_epoch(dataset: Dataset) -> None:
    trainer = Trainer(make_config(), dataset)
    epochs = trainer.epochs()
    assert next(epochs).epoch == 1
    diverge(trainer)
    with pytest.raises(DivergedError, match=r"epoch 2: train_loss=nan, val_loss=nan at learning_rate=0\.005"):
        next(epochs)
    assert trainer.best_epoch == 1


@pytest.mark.parametrize("bad_step", [0, 1, 2])
def test_one_batch_of_nan_loss_is_found_in_its_own_epoch(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch, bad_step: int
) -> None:
    trainer, steps = Trainer(make_config(), dataset), iter(range(100))
    loss = trainer.task.loss

    def planted(outputs: Tensor, targets: Tensor) -> Tensor:
        return loss(outputs, targets) * (math.nan if next(steps) == bad_step else 1.0)

    monkeypatch.setattr(type(trainer.task), "loss", lambda _, outputs, targets: planted(outputs, targets))
    with pytest.raises(DivergedError, match="epoch 1"):  # 24 tracks are three steps
        next(trainer.epochs())


def test_a_validation_loss_that_is_not_finite_is_found_too(dataset: Dataset) -> None:
    assert dataset.val is not None
    loud = [replace(store, gain_F=store.gain_F * math.inf) for store in dataset.val.stores]
    broken = replace(dataset, val=replace(dataset.val, stores=tuple(loud)))
    with pytest.raises(DivergedError, match=r"epoch 1: train_loss=\d.*, val_loss=nan"):
        next(Trainer(make_config(), broken).epochs())


def test_training_ends_after_max_epochs(dataset: Dataset) -> None:
    results = list(Trainer(make_config(trainer={"max_epochs": 3}), dataset).epochs())
    assert [(result.epoch, result.finished) for result in results] == [(1, False), (2, False), (3, True)]


def test_patience_ends_training_so_many_epochs_after_the_best(dataset: Dataset) -> None:
    # A rate of 1e-12 learns nothing, but for batch norm's running statistics.
    config = make_config(optimizer={"learning_rate": 1e-12}, trainer={"max_epochs": 60, "patience": 2})
    results = list(Trainer(config, dataset).epochs())
    assert len(results) == results[-1].best_epoch + 2 < 60
    assert [result.finished for result in results] == [False] * (len(results) - 1) + [True]


def test_the_best_epoch_keeps_its_weights(noisy: Dataset) -> None:
    trainer = Trainer(make_config(trainer={"max_epochs": 8}), noisy)
    after, results = {}, []
    for result in trainer.epochs():
        after[result.epoch] = weights_of(trainer)
        results.append(result)
    objectives = [result.objective for result in results]
    best = results[-1]
    assert best.best_objective == max(objectives)
    assert best.best_epoch == objectives.index(max(objectives)) + 1  # the first of equals
    assert [result.best_objective for result in results] == [max(objectives[: n + 1]) for n in range(8)]
    assert_equal_weights(trainer.best_weights, after[best.best_epoch])


def test_everything_can_be_trained_on_without_validation(dataset: Dataset) -> None:
    assert dataset.val is not None
    merged = replace(dataset, train=merge_splits("train+val", (dataset.train, dataset.val)), val=None)
    config = make_config(scheduler={"name": "plateau"}, trainer={"patience": 1})
    results = list(Trainer(config, merged).epochs())
    assert [result.finished for result in results] == [False, False, False, True]  # there is nothing to be patient for
    assert set(results[0].metrics) == {f"train_{score}" for score in SCORES}
    assert math.isnan(results[0].objective)
    assert results[0].best_epoch == 0


# --- how it trains ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scheduler", "factors"),
    [
        ({"name": "constant"}, [1, 1, 1, 1]),
        ({"name": "step", "step_size": 2, "gamma": 0.5}, [1, 1, 0.5, 0.5]),
        # half a cosine over 4 epochs: (1 + cos(pi e / 4)) / 2
        ({"name": "cosine"}, [1, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2]),
        # a warm-up epoch at 1/2, then half a cosine over the other three
        ({"name": "cosine", "warmup_epochs": 1}, [0.5, 1, 0.75, 0.25]),
        # No epoch improves a loss by 99 %: the first sets the mark, each later one halves the rate.
        ({"name": "plateau", "patience": 0, "threshold": 0.99}, [1, 1, 0.5, 0.25]),
    ],
)
def test_the_learning_rate_follows_the_schedule(
    dataset: Dataset, scheduler: dict[str, Any], factors: list[float]
) -> None:
    results = Trainer(make_config(scheduler=scheduler), dataset).epochs()
    assert [result.learning_rate / 5e-3 for result in results] == pytest.approx(factors)


def test_gradients_are_clipped_to_the_norm_asked_for(dataset: Dataset) -> None:
    norms, curves = [], []
    for grad_clip_norm in (None, 0.01):
        trainer = Trainer(make_config(trainer={"grad_clip_norm": grad_clip_norm}), dataset)
        curves.append(curve(iter([next(trainer.epochs())])))
        gradients = [parameter.grad for parameter in trainer.model.parameters() if parameter.grad is not None]
        norms.append(float(torch.nn.utils.get_total_norm(gradients)))
    assert norms[0] > 0.01 + 1e-3
    assert norms[1] == pytest.approx(0.01, rel=1e-3)
    assert curves[0] != curves[1]


def test_augmentation_changes_training_and_never_validation(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr("fmasearch.trainer.augment", lambda x_BTF, *_: seen.append(len(x_BTF)) or x_BTF)
    next(Trainer(make_config(), dataset).epochs())
    assert seen == [8, 8, 8]  # 24 training tracks; the 8 of val are not among them
    monkeypatch.undo()
    plain, masked = (next(Trainer(make_config(augment=a), dataset).epochs()) for a in ({}, MASKS))
    assert plain.metrics["train_loss"] != masked.metrics["train_loss"]


def test_batches_of_one_track_can_be_trained_on(dataset: Dataset) -> None:
    small = replace(dataset, train=dataset.train.head(4))
    result = next(Trainer(make_config(trainer={"batch_size": 1}), small).epochs())
    assert math.isfinite(result.metrics["train_loss"])


def test_bfloat16_trains_the_same_model_with_other_rounding(dataset: Dataset) -> None:
    exact, rounded = (
        next(Trainer(make_config(model={"dropout": 0.0}, trainer={"precision": p}), dataset).epochs())
        for p in ("fp32", "bf16")
    )
    assert rounded.metrics["train_loss"] != exact.metrics["train_loss"]
    assert rounded.metrics["train_loss"] == pytest.approx(exact.metrics["train_loss"], rel=0.05)


def test_a_task_of_one_class_is_refused(tmp_path: Path) -> None:
    single = make_dataset(tmp_path / "one.h5", num_classes=1)
    with pytest.raises(ConfigError, match=r"task: 'genre' needs at least two classes, got \['rock'\]"):
        Trainer(make_config(), single)


# --- that it learns --------------------------------------------------------------------------------------------------


@every_architecture
def test_every_architecture_learns_what_can_be_learnt(tmp_path: Path, architecture: str) -> None:
    dataset = make_dataset(tmp_path / "separable.h5", varying_lengths=True, dtype="uint8")
    optimizer = {"learning_rate": 2e-3 if architecture == "ast" else 1e-2}  # transformers want less
    wide = {"rnn_dim": 32} if "rnn_dim" in hyperparameters(architecture) else {}
    config = make_config(architecture, model=wide, optimizer=optimizer, trainer={"max_epochs": 30})
    assert any(result.objective > 0.9 for result in Trainer(config, dataset).epochs())  # chance is 0.25


@pytest.mark.parametrize("architecture", ["cnn_gru", "cnn_lstm", "cnn_bilstm"])
def test_sixteen_tracks_of_noise_are_memorised_whatever_regularises(tmp_path: Path, architecture: str) -> None:
    noise = make_dataset(tmp_path / "noise.h5", contrast=0.0, varying_lengths=True)
    config = make_config(
        architecture,
        model={"rnn_dim": 32, "num_layers": 2, "dropout": 0.5, "rnn_dropout": 0.5},
        optimizer={"learning_rate": 1e-2, "weight_decay": 0.1},
        scheduler={"name": "step", "step_size": 1, "gamma": 0.1},
        augment=MASKS,
        trainer={"patience": 1},
    )
    results = list(overfit_batch(config, noise, num_steps=60))
    assert len(results) == 60  # and not 4, the configuration's max_epochs
    assert results[0].metrics["train_loss"] > 1.0
    assert results[-1].metrics["train_loss"] < 0.05
    assert results[-1].metrics["train_accuracy"] == 1.0
    assert {result.learning_rate for result in results} == {1e-2}


def test_overfitting_trains_one_step_an_epoch_on_as_many_tracks_as_there_are(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    loss, step = Trainer._loss, Trainer._step
    monkeypatch.setattr(Trainer, "_loss", lambda self, batch: sizes.append(len(batch.targets_B)) or loss(self, batch))
    monkeypatch.setattr(Trainer, "_step", lambda self: sizes.append(0) or step(self))
    list(overfit_batch(make_config(), dataset, num_tracks=100, num_steps=2))
    assert sizes == [24, 0, 24, 0]
