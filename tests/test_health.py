"""The health check: who passes, what is said of who does not, and which configuration of a file is checked."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import make_config, make_dataset, make_feature_file, spec_of
from fmasearch.cli.health import Health, check, read_configs
from fmasearch.data import Dataset, open_dataset
from fmasearch.errors import ConfigError, DivergedError, SpaceError
from fmasearch.records import EpochResult

SPACE = """
task: {classification: genre}
model:
  architecture: cnn_lstm
  hidden_dim: {choice: [4, 2]}
  num_layers: {int: [1, 2]}
  rnn_dropout: {float: [0.1, 0.5], when: {model/num_layers: 2}}
optimizer: {learning_rate: {float: [1e-3, 1e-2], log: true}}
"""
KNOWN_GOOD = "known_good: {two: {model/num_layers: 2, optimizer/learning_rate: 5e-3}, one: {model/num_layers: 1}}"


def health_of(losses: list[float], *, healthy: bool = False, diverged: bool = False) -> Health:
    return Health(16, math.log(4), 300, 1e-3, tuple(losses), healthy, diverged, 1.0)


# --- the check -------------------------------------------------------------------------------------------------------


def test_a_healthy_model_begins_at_chance_and_stops_when_the_tracks_are_known(dataset: Dataset) -> None:
    seen: list[tuple[int, float]] = []
    config = make_config(model={"hidden_dim": 16, "rnn_dim": 16}, optimizer={"learning_rate": 1e-2})
    health = check(config, dataset, num_steps=100, device="cpu", on_step=lambda *step: seen.append(step))
    assert health.healthy
    assert health.chance == math.log(4)
    assert health.first_loss == pytest.approx(math.log(4), rel=0.2)
    assert health.loss < 0.05 <= min(health.losses[:-1])
    assert seen == list(enumerate(health.losses, start=1))
    assert health.causes() == []


@pytest.mark.parametrize(
    ("task", "chance"),
    [
        ({"regression": ["valence", "energy"]}, 1.0),  # standardised targets have a variance of 1; targets are averaged
        ({"multitask": {"genre": "genre", "mood": ["valence", "energy"]}}, math.log(4) + 1),
        ({"multitask": {"genre": "genre", "mood": ["valence"], "power": ["energy"]}}, math.log(4) + 2),
    ],
)
def test_numbers_begin_at_their_variance(tmp_path: Path, task: dict[str, Any], chance: float) -> None:
    config = make_config("stats", model={"dropout": 0.0}, task=task)
    path = make_feature_file(tmp_path / "a.h5", targets=["energy"])
    dataset = open_dataset(spec_of(path, label=config.task.label, targets=config.task.targets))
    health = check(config, dataset, num_steps=1, device="cpu")
    assert health.chance == pytest.approx(chance)
    assert health.first_loss == pytest.approx(chance, rel=0.4)


def test_a_model_that_hardly_learns_is_not_healthy(dataset: Dataset) -> None:
    health = check(make_config(optimizer={"learning_rate": 1e-7}), dataset, num_steps=5, device="cpu")
    assert (health.healthy, health.diverged, len(health.losses)) == (False, False, 5)
    assert health.causes()[0].startswith("the loss hardly moves: a learning rate of the wrong order (1e-07)")


def test_fewer_tracks_than_sixteen_are_all_taken(tmp_path: Path) -> None:
    few = make_dataset(tmp_path / "few.h5", tracks=(8, 4, 4))
    assert check(make_config(), few, num_steps=1, device="cpu").num_tracks == 8


def test_a_model_that_diverges_is_not_healthy(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    def diverging(*_: Any, **__: Any) -> Iterator[EpochResult]:
        yield EpochResult(1, {"train_loss": 1.4}, 1.0, 0.1, math.nan, math.nan, 0)
        raise DivergedError("epoch 2")

    monkeypatch.setattr("fmasearch.cli.health.overfit_batch", diverging)
    health = check(make_config(), dataset, num_steps=10, device="cpu")
    assert (health.healthy, health.diverged, health.losses) == (False, True, (1.4,))
    assert math.isnan(health.loss)
    assert health.causes()[0].startswith("the loss became infinite or NaN")


@pytest.mark.parametrize(
    ("losses", "cause"),
    [
        ([1.4, 1.38, 1.37], "the loss hardly moves"),
        ([1.4, 0.2, 1.3], "the loss jumps, and was 0.200 before"),
        ([1.4, 0.6, 0.4], "the loss still falls"),
    ],
)
def test_the_likely_cause_follows_from_the_curve(losses: list[float], cause: str) -> None:
    (found,) = health_of(losses).causes()
    assert found.startswith(cause)


def test_a_first_loss_above_twice_chance_is_flagged_even_in_a_healthy_model() -> None:
    # twice ln 4 is 2.77
    assert health_of([2.7, 0.01], healthy=True).causes() == []
    (found,) = health_of([2.8, 0.01], healthy=True).causes()
    assert found.startswith("the first loss is 2.80, more than twice 1.39, which is chance")
    assert len(health_of([2.8, 2.7]).causes()) == 2


# --- what is checked -------------------------------------------------------------------------------------------------


def written(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "file.yaml"
    file.write_text(text)
    return file


def test_of_a_space_the_first_known_good_point_is_checked(tmp_path: Path) -> None:
    [config] = read_configs(written(tmp_path, SPACE + KNOWN_GOOD), [])
    # hidden_dim is open: its first value; rnn_dropout is open, too, and takes part at two layers: its lowest
    assert config.hyperparameters == {"hidden_dim": 4, "num_layers": 2, "rnn_dropout": 0.1}
    assert config.optimizer.learning_rate == 5e-3


def test_of_a_space_without_known_good_points_the_first_values_are_checked(tmp_path: Path) -> None:
    [config] = read_configs(written(tmp_path, SPACE), ["optimizer/learning_rate=2e-3"])
    assert config.hyperparameters == {"hidden_dim": 4, "num_layers": 1}
    assert config.optimizer.learning_rate == 2e-3


def test_of_a_space_of_several_architectures_each_is_checked(tmp_path: Path) -> None:
    text = (
        "task: {classification: genre}\n"
        "model: {architecture: {choice: [cnn_gru, lstm]}, lstm: {frame_stride: {choice: [2, 4]}}}\n"
        "known_good: {N1: {model/architecture: lstm, model/frame_stride: 4}}\n"
    )
    first, second = read_configs(written(tmp_path, text), ["model/hidden_dim=5"])
    assert (first.architecture, first.hyperparameters) == ("cnn_gru", {"hidden_dim": 5})
    assert (second.architecture, second.hyperparameters) == ("lstm", {"hidden_dim": 5, "frame_stride": 4})


def test_a_configuration_is_checked_as_it_is(tmp_path: Path) -> None:
    text = "task: {classification: genre}\nmodel: {architecture: cnn_gru, hidden_dim: 3}\nseed: 7"
    [config] = read_configs(written(tmp_path, text), ["model/hidden_dim=5"])
    assert (config.architecture, config.hyperparameters, config.seed) == ("cnn_gru", {"hidden_dim": 5}, 7)


@pytest.mark.parametrize("task", [{"classification": "genre"}, {"multitask": {"genre": "genre", "mood": ["valence"]}}])
def test_a_configuration_that_a_study_wrote_is_no_space(tmp_path: Path, task: dict[str, Any]) -> None:
    config = make_config(task=task)
    assert read_configs(written(tmp_path, json.dumps(config.model_dump(mode="json"))), []) == [config]


def test_problems_of_a_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match=r"file\.yaml: optimizer\.learning_rate: low <= high"):
        read_configs(written(tmp_path, SPACE.replace("1e-3, 1e-2", "1e-1, 1e-2")), [])
    with pytest.raises(ConfigError, match=r"file\.yaml: task: required"):
        read_configs(written(tmp_path, "model: {architecture: cnn_gru}"), [])
