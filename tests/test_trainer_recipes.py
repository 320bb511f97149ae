"""Recipes in the trainer: crops, mixup, accumulation, averaged weights, one-cycle, transfer and frozen blocks."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import fmasearch.trainer
from conftest import assert_equal_weights, curve, make_config, make_dataset, weights_of
from fmasearch.config import CropConfig
from fmasearch.data import Dataset
from fmasearch.errors import ConfigError, ModelError
from fmasearch.model_file import SavedModel, save_model
from fmasearch.tasks import Classification
from fmasearch.trainer import Trainer, evaluate, overfit_batch, predict

EVERYTHING: dict[str, Any] = {
    "loss": {"label_smoothing": 0.1, "class_weights": "sqrt"},
    "optimizer": {"learning_rate": 5e-3, "layer_decay": 0.8, "weight_decay": 1e-3},
    "scheduler": {"name": "one_cycle"},
    "crop": {"frames": 12, "num_eval": 3},
    "augment": {
        "num_freq_masks": 1,
        "freq_mask_bins": 3,
        "num_time_masks": 1,
        "time_mask_frames": 4,
        "shift_fraction": 0.3,
        "gain_db": 3.0,
        "mixup_alpha": 0.3,
        "probability": 0.8,
    },
    "trainer": {"ema_decay": 0.9, "accumulation_steps": 2, "grad_clip_norm": 1.0},
}
"""Every recipe at once."""


def save(trainer: Trainer, path: Path) -> Path:
    saved = SavedModel(
        config=trainer.config,
        weights=trainer.model.state_dict(),
        class_names=trainer.dataset.class_names,
        normalisers=trainer.dataset.normalisers,
        input_dim=trainer.dataset.input_dim,
        num_frames=trainer.num_frames,
        feature_settings={},
        data={},
        versions={},
    )
    save_model(path, saved)
    return path


# --- everything at once ----------------------------------------------------------------------------------------------


def test_all_recipes_together_resume_bit_for_bit(noisy: Dataset) -> None:
    config = make_config(**EVERYTHING)
    whole = Trainer(config, noisy)
    uninterrupted = curve(whole.epochs())
    first = Trainer(config, noisy)
    begun = [next(first.epochs()) for _ in range(2)]
    second = Trainer(config, noisy)
    second.load_state_dict(first.state_dict())
    assert [replace(e, epoch_seconds=0.0) for e in begun] + curve(second.epochs()) == uninterrupted
    assert_equal_weights(weights_of(second), weights_of(whole))
    assert_equal_weights(second.best_weights, whole.best_weights)


def test_all_recipes_together_still_learn(dataset: Dataset) -> None:
    *_, last = Trainer(make_config(**{**EVERYTHING, "trainer": {"ema_decay": 0.9, "max_epochs": 15}}), dataset).epochs()
    assert last.metrics["val_accuracy"] >= 0.75  # four classes, far apart


# --- crops -----------------------------------------------------------------------------------------------------------


def test_a_tracks_prediction_is_the_mean_probability_of_its_crops(noisy: Dataset) -> None:
    assert noisy.val is not None
    trainer = Trainer(make_config(crop={"frames": 10, "num_eval": 3}), noisy)
    model, task = trainer.model.eval(), Classification(noisy.class_names)
    outputs_NK = predict(model, noisy.val, task, CropConfig(frames=10, num_eval=3))
    (batch,) = noisy.val.ordered(64, crop_frames=10, num_crops=3)
    with torch.no_grad():
        expected_NK = model(batch.x_BTF, batch.lengths_B).softmax(1).reshape(-1, 3, 4).mean(1)
    torch.testing.assert_close(outputs_NK.softmax(1), expected_NK)


def test_training_batches_have_the_frames_of_a_crop(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    trainer = Trainer(make_config(crop={"frames": 10}), dataset)
    forward = trainer.model.forward
    monkeypatch.setattr(trainer.model, "forward", lambda x, n: (seen.append(x.shape[1]), forward(x, n))[1])
    next(trainer.epochs())
    assert set(seen) == {10}
    assert trainer.num_frames == 10


def test_validation_of_one_batch_or_many_is_the_same_with_crops(
    noisy: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert noisy.val is not None
    trainer = Trainer(make_config(), noisy)
    crop, task = CropConfig(frames=10, num_eval=4), trainer.task
    once = evaluate(trainer.model, noisy.val, task, crop)
    monkeypatch.setattr(fmasearch.trainer, "EVAL_BATCH_SIZE", 8)  # two tracks a batch
    assert evaluate(trainer.model, noisy.val, task, crop) == pytest.approx(once)


# --- steps -----------------------------------------------------------------------------------------------------------


def test_accumulated_batches_step_as_one_large_batch(dataset: Dataset) -> None:
    # No batch norm, no dropout: then only rounding can differ. 24 tracks: 3 x 8 = 24.
    model = {"architecture": "stats", "hidden_dim": 8, "dropout": 0.0}
    trainings = []
    for batch_size, steps in ((24, 1), (8, 3)):
        config = make_config(trainer={"batch_size": batch_size, "accumulation_steps": steps, "max_epochs": 3})
        trainer = Trainer(config.model_copy(update={"model": model}), dataset)
        list(trainer.epochs())
        trainings.append(weights_of(trainer))
    for name, tensor in trainings[0].items():
        torch.testing.assert_close(trainings[1][name], tensor, rtol=1e-3, atol=1e-5)


def test_a_last_step_of_fewer_batches_weighs_them_alike(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(make_config(trainer={"batch_size": 8, "accumulation_steps": 2}), dataset)
    shares: list[float] = []
    steps: list[int] = []
    backward = torch.Tensor.backward
    monkeypatch.setattr(trainer, "_step", lambda: steps.append(len(shares)))

    def noted(loss: torch.Tensor) -> None:
        shares.append(float(loss.detach()))
        backward(loss)

    monkeypatch.setattr(torch.Tensor, "backward", noted)
    next(trainer.epochs())
    assert steps == [2, 3]  # three batches: a step of two and a step of one
    # Losses begin near ln 4 = 1.39: halved in the first step, whole in the second.
    assert max(shares[:2]) < 0.75 * shares[2]


def test_mixup_weighs_both_partners_losses(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(make_config(augment={"mixup_alpha": 0.4}, model={"dropout": 0.0}), dataset)
    batch = dataset.train.batch(torch.arange(8))
    mixed = fmasearch.trainer.mixup(batch.x_BTF, batch.lengths_B, 0.4)
    monkeypatch.setattr(fmasearch.trainer, "mixup", lambda *_: mixed)
    trainer.model.train()
    loss, outputs_BK = trainer._loss(batch)
    own = torch.nn.functional.cross_entropy(outputs_BK, batch.targets_B)
    partners = torch.nn.functional.cross_entropy(outputs_BK, batch.targets_B[mixed.partner_B])
    torch.testing.assert_close(loss.detach(), mixed.share * own + (1 - mixed.share) * partners)


def test_averaged_weights_are_judged_and_kept(noisy: Dataset) -> None:
    assert noisy.val is not None
    trainer = Trainer(make_config(trainer={"ema_decay": 0.99, "max_epochs": 1}), noisy)
    (result,) = trainer.epochs()
    assert result.metrics["val_loss"] == pytest.approx(evaluate(trainer.judged, noisy.val, trainer.task)["loss"])
    assert result.metrics["val_loss"] != pytest.approx(evaluate(trainer.model, noisy.val, trainer.task)["loss"])
    assert_equal_weights(trainer.best_weights, trainer.judged.state_dict())


def test_one_cycle_ends_at_its_end_and_not_before(noisy: Dataset) -> None:
    one_cycle = {"scheduler": {"name": "one_cycle"}, "optimizer": {"learning_rate": 1e-12}}
    config = make_config(**one_cycle, trainer={"max_epochs": 6, "patience": 1})
    trainer = Trainer(config, noisy)
    assert len(list(trainer.epochs())) == 6  # a rate of nothing never improves, yet patience is not asked
    # 3 batches x 6 epochs = 18 steps; the last is at learning_rate / 25 / 1e4.
    assert trainer.schedule.learning_rate == pytest.approx(1e-12 / 25 / 1e4, rel=1e-3)


def test_class_weights_come_from_the_training_split(tmp_path: Path) -> None:
    # Classes take turns: 10 training tracks of 4 classes are 3, 3, 2, 2 tracks.
    dataset = make_dataset(tmp_path / "a.h5", tracks=(10, 4, 4))
    task = Trainer(make_config(loss={"class_weights": "balanced"}), dataset).task
    assert isinstance(task, Classification)
    logits_1K = torch.tensor([[0.0, 0.0, 0.0, 0.0]])
    losses = [float(task.loss(logits_1K, torch.tensor([k]))) for k in range(4)]
    # 1/n, scaled to a mean of 1 over tracks: 10 / (4 x 3) and 10 / (4 x 2).
    assert losses == pytest.approx([math.log(4) * 10 / 12] * 2 + [math.log(4) * 10 / 8] * 2)


# --- transfer --------------------------------------------------------------------------------------------------------


def test_training_starts_from_the_weights_of_a_file(dataset: Dataset, tmp_path: Path) -> None:
    donor = Trainer(make_config(seed=5), dataset)
    list(donor.epochs())
    path = save(donor, tmp_path / "donor.pt")
    heir = Trainer(make_config(seed=9, transfer={"init_from": str(path)}), dataset)
    assert_equal_weights(weights_of(heir), weights_of(donor))
    assert heir.origin is not None
    assert "donor.pt" in heir.origin


def test_a_frozen_backbone_stays_as_it_is_while_the_head_learns(dataset: Dataset, tmp_path: Path) -> None:
    donor = save(Trainer(make_config(), dataset), tmp_path / "donor.pt")
    trainer = Trainer(make_config(transfer={"init_from": str(donor), "freeze": "backbone"}), dataset)
    before = weights_of(trainer)
    list(trainer.epochs())
    changed = {name for name, tensor in weights_of(trainer).items() if not torch.equal(tensor, before[name])}
    assert changed == {name for name in before if name.startswith("head.")}  # batch-norm statistics included


def test_only_trainable_parameters_reach_the_optimiser(dataset: Dataset, tmp_path: Path) -> None:
    donor = save(Trainer(make_config(), dataset), tmp_path / "donor.pt")
    trainer = Trainer(make_config(transfer={"init_from": str(donor), "freeze": "all_but_last(1)"}), dataset)
    held = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    *_, last_block, head = trainer.model.blocks()
    assert held == {id(p) for block in (last_block, head) for p in block.parameters()}


def test_a_donor_that_does_not_fit_or_does_not_exist_is_an_error(dataset: Dataset, tmp_path: Path) -> None:
    path = save(Trainer(make_config(), dataset), tmp_path / "donor.pt")
    with pytest.raises(ConfigError):
        Trainer(make_config(model={"hidden_dim": 16}, transfer={"init_from": str(path)}), dataset)
    with pytest.raises(ModelError, match="no such model file"):
        Trainer(make_config(transfer={"init_from": str(tmp_path / "absent.pt")}), dataset)


@pytest.mark.parametrize("freeze", ["backbone", "all_but_last(1)"])
def test_random_weights_are_never_frozen(dataset: Dataset, freeze: str) -> None:
    with pytest.raises(ConfigError, match=r"would freeze random weights: give transfer\.init_from"):
        Trainer(make_config(transfer={"freeze": freeze}), dataset)


def test_memorising_switches_every_regulariser_off(dataset: Dataset) -> None:
    *_, last = overfit_batch(make_config(**EVERYTHING), dataset, num_tracks=8, num_steps=60)
    assert last.metrics["train_loss"] < 0.05
