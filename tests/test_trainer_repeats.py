"""The same seed gives the same curve, whatever else a process does, and a resumed training is the uninterrupted one."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pytest
import torch

from conftest import MASKS, assert_equal_weights, curve, diverge, make_config, weights_of
from fmasearch.data import Dataset
from fmasearch.errors import DivergedError
from fmasearch.models import ARCHITECTURES, hyperparameters
from fmasearch.records import EpochResult
from fmasearch.trainer import Trainer

every_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)


@every_architecture
def test_the_same_seed_gives_the_same_curve_bit_for_bit(noisy: Dataset, architecture: str) -> None:
    config = make_config(architecture, augment=MASKS)
    first, second = Trainer(config, noisy), Trainer(config, noisy)
    assert curve(first.epochs()) == curve(second.epochs())
    assert_equal_weights(weights_of(first), weights_of(second))


def test_another_seed_gives_another_curve(noisy: Dataset) -> None:
    curves = [curve(Trainer(make_config(seed=seed), noisy).epochs()) for seed in (0, 1)]
    assert curves[0] != curves[1]


def test_curves_do_not_depend_on_the_global_random_state(noisy: Dataset) -> None:
    config = make_config(augment=MASKS)
    torch.manual_seed(1)
    first = curve(Trainer(config, noisy).epochs())
    torch.manual_seed(2)
    trainer, second = Trainer(config, noisy), []
    for result in trainer.epochs():
        torch.rand(3)  # somebody else draws between two epochs
        second.append(replace(result, epoch_seconds=0.0))
    assert first == second


def test_the_global_random_state_is_left_as_it_was(noisy: Dataset) -> None:
    torch.manual_seed(1234)  # and not the seed that a test before this one may have left
    before = torch.get_rng_state()
    list(Trainer(make_config(augment=MASKS), noisy).epochs())
    assert torch.equal(torch.get_rng_state(), before)


def test_a_diverged_training_also_leaves_the_global_random_state(noisy: Dataset) -> None:
    torch.manual_seed(1234)  # and not the seed that a test before this one may have left
    before = torch.get_rng_state()
    trainer = Trainer(make_config(), noisy)
    diverge(trainer)
    with pytest.raises(DivergedError):
        next(trainer.epochs())
    assert torch.equal(torch.get_rng_state(), before)


def test_every_batch_of_every_epoch_draws_anew(noisy: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[float] = []
    monkeypatch.setattr("fmasearch.trainer.augment", lambda x_BTF, *_: drawn.append(torch.rand(()).item()) or x_BTF)
    list(Trainer(make_config(), noisy).epochs())
    assert len(set(drawn)) == 4 * 3  # epochs of three batches


def test_two_trainings_taking_turns_in_one_process_do_not_meet(noisy: Dataset) -> None:
    configs = [make_config("cnn_gru", seed=3, augment=MASKS), make_config("cnn_bilstm", seed=4, augment=MASKS)]
    alone = [curve(Trainer(config, noisy).epochs()) for config in configs]
    trainers = [Trainer(config, noisy).epochs() for config in configs]
    in_turns = [curve(iter(results)) for results in zip(*zip(*trainers, strict=True), strict=True)]
    assert in_turns == alone


@pytest.mark.parametrize("scheduler", ["cosine", "plateau", "step_plateau"])
@every_architecture
def test_a_resumed_training_equals_an_uninterrupted_one_bit_for_bit(
    noisy: Dataset, architecture: str, scheduler: str
) -> None:
    config = make_config(
        architecture,
        model={"num_layers": 2, "rnn_dropout": 0.3} if "rnn_dropout" in hyperparameters(architecture) else {},
        optimizer={"name": "adam", "learning_rate": 5e-3, "weight_decay": 1e-4},
        scheduler={"name": scheduler, "patience": 0, "threshold": 0.5, "step_size": 2, "warmup_epochs": 1},
        augment=MASKS,
        trainer={"grad_clip_norm": 1.0, "patience": 3, "max_epochs": 5},
    )
    whole = Trainer(config, noisy)
    expected = curve(whole.epochs())
    interrupted = Trainer(config, noisy)
    epochs = interrupted.epochs()
    before = curve(iter([next(epochs), next(epochs)]))
    resumed = Trainer(config, noisy)
    resumed.load_state_dict(through_a_file(interrupted.state_dict()))
    assert before + curve(resumed.epochs()) == expected
    assert_equal_weights(weights_of(resumed), weights_of(whole))
    assert_equal_weights(resumed.best_weights, whole.best_weights)


def test_an_epochs_result_survives_a_checkpoint(noisy: Dataset) -> None:
    result = next(Trainer(make_config(), noisy).epochs())
    assert EpochResult.from_json(through_a_file({"last": result.to_json()})["last"]) == result


def test_a_finished_training_stays_finished_when_resumed(noisy: Dataset) -> None:
    trainer = Trainer(make_config(), noisy)
    assert len(list(trainer.epochs())) == 4
    resumed = Trainer(make_config(), noisy)
    resumed.load_state_dict(through_a_file(trainer.state_dict()))
    assert resumed.finished
    assert list(resumed.epochs()) == []


def test_the_global_random_state_decides_nothing_after_a_resume(noisy: Dataset) -> None:
    config = make_config(augment=MASKS)
    trainer = Trainer(config, noisy)
    next(trainer.epochs())
    state, curves = trainer.state_dict(), []
    for seed in (1, 2):
        torch.manual_seed(seed)
        resumed = Trainer(config, noisy)
        resumed.load_state_dict(through_a_file(state))
        curves.append(curve(resumed.epochs()))
    assert curves[0] == curves[1]


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    """Saved and loaded as a checkpoint is: nothing but tensors and plain values survives."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded
