"""Kept outputs and the objective on resamples: one score for every kind of task, the same as the trainer's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from fmasearch.config import TaskConfig
from fmasearch.records import TargetStats
from fmasearch.tasks import Task, build_task
from fmasearch.tasks.kept import KeptOutputs, read_kept
from fmasearch.tasks.resampled import resampled_objective

CLASSES = ("rock", "jazz", "folk")
STATS = (TargetStats("valence", 0.5, 0.2), TargetStats("energy", 3.0, 2.0))
NUM_TRACKS = 40


def noisy(config: dict[str, object]) -> tuple[Task, Tensor, Tensor]:
    """A task with outputs that know something; the first tracks lack labels."""
    generator = torch.Generator().manual_seed(0)
    classes_N = torch.arange(NUM_TRACKS) % 3
    numbers_NR = torch.randn(NUM_TRACKS, 2, generator=generator)
    told = torch.nn.functional.one_hot(classes_N, 3) + torch.randn(NUM_TRACKS, 3, generator=generator)
    guessed = numbers_NR + torch.randn(NUM_TRACKS, 2, generator=generator)
    classes_N[:3] = -1
    numbers_NR[2:6, 0] = torch.nan
    numbers_NR[2, 1] = torch.nan
    codes_N1 = torch.where(classes_N < 0, torch.nan, classes_N.float())[:, None]
    task = build_task(TaskConfig.model_validate(config), CLASSES, STATS)
    if "classification" in config:
        return task, told, classes_N
    if "regression" in config:
        return task, guessed, numbers_NR
    return task, torch.cat([told, guessed], 1), torch.cat([codes_N1, numbers_NR], 1)


@pytest.mark.parametrize(
    "config",
    [
        {"classification": "genre"},
        {"classification": "genre", "objective": "accuracy"},
        {"regression": ["valence", "energy"]},
        {"regression": ["valence", "energy"], "objective": "energy_rmse"},
        {"multitask": {"genre": "genre", "mood": ["valence", "energy"]}},
        {"multitask": {"genre": "genre", "mood": ["valence", "energy"]}, "objective": "mood"},
    ],
)
def test_the_objective_is_the_one_that_validation_has(config: dict[str, object]) -> None:
    task, outputs, targets = noisy(config)
    metrics = task.metrics(torch.device("cpu"))
    metrics.update(outputs, targets)
    expected = metrics.compute()[task.objective.metric.removeprefix("val_")]
    found = resampled_objective(task, outputs, targets, np.arange(NUM_TRACKS), num_resamples=300, seed=1)
    assert found.value == pytest.approx(expected, rel=1e-9)
    assert found.draws_D.shape == (300,)
    assert np.quantile(found.draws_D, 0.02) < expected < np.quantile(found.draws_D, 0.98)


def test_one_artist_is_drawn_whole() -> None:
    task, outputs, targets = noisy({"classification": "genre"})
    found = resampled_objective(task, outputs, targets, np.zeros(NUM_TRACKS, np.int64), num_resamples=5, seed=1)
    assert found.draws_D == pytest.approx([found.value] * 5)


def test_two_models_are_scored_on_the_same_draws() -> None:
    task, outputs, targets = noisy({"classification": "genre", "objective": "accuracy"})
    first, again = (resampled_objective(task, outputs, targets, np.arange(NUM_TRACKS), seed=1) for _ in range(2))
    assert (first.draws_D == again.draws_D).all()


def test_kept_outputs_come_back_as_they_were(tmp_path: Path) -> None:
    _, outputs, targets = noisy({"multitask": {"genre": "genre", "mood": ["valence", "energy"]}})
    kept = KeptOutputs(outputs, targets, np.arange(NUM_TRACKS) - 1, ("Drum & Bass", "Jazz – Blues"), STATS)
    (tmp_path / "a.npz").write_bytes(kept.to_bytes())
    again = read_kept(tmp_path / "a.npz")
    assert again is not None
    assert torch.equal(again.outputs_NK, outputs)
    assert torch.equal(again.targets.nan_to_num(9), targets.nan_to_num(9))
    assert again.artist_ids_N.tolist() == list(range(-1, 39))
    assert (again.class_names, again.target_stats) == (kept.class_names, STATS)


def test_kept_outputs_of_a_task_without_numbers_or_classes_come_back_too(tmp_path: Path) -> None:
    kept = KeptOutputs(torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64), np.array([-1, -1]))
    (tmp_path / "a.npz").write_bytes(kept.to_bytes())
    again = read_kept(tmp_path / "a.npz")
    assert again is not None
    assert (again.class_names, again.target_stats, again.targets.dtype) == ((), (), torch.int64)


@pytest.mark.parametrize("content", [None, b"", b"no archive", b"PK\x03\x04 cut"])
def test_an_absent_or_damaged_file_is_none(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "a.npz").write_bytes(content)
    assert read_kept(tmp_path / "a.npz") is None
