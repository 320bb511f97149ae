"""What the tests of searcher, study and resume share: a tiny file, a tiny space, curves that compare bit for bit."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fmasearch.config import SearchConfig, TrainConfig
from fmasearch.data import DataSpec, FeatureArray, open_dataset, write_feature_file
from fmasearch.records import EpochResult, Objective
from fmasearch.space import Space
from fmasearch.study import StudyFolder, StudyPlan
from fmasearch.study.actor import TrialActor, TrialJob
from fmasearch.study.run import search_start
from fmasearch.trainer import Trainer

OBJECTIVE = Objective("val_macro_f1", "max")
NUM_CLASSES, NUM_FRAMES, NUM_BINS = 3, 16, 8

# Dropout and SpecAugment draw random numbers in every epoch, so that a random state that leaks between trials shows.
CONSTANTS = """
features: [mel]
task: {classification: genre}
model: {architecture: cnn_gru, hidden_dim: 4, num_conv_layers: 1, num_layers: 1, dropout: 0.2}
augment: {num_freq_masks: 1, freq_mask_bins: 3}
trainer: {batch_size: 8}
"""
SPACE = f"""
{CONSTANTS}
optimizer:
  learning_rate: {{float: [1e-7, 1.0], log: true}}
  weight_decay: {{choice: [0.0, 1e-3]}}
"""


def write_tiny_file(path: Path, *, test_is_readable: bool = True) -> Path:
    """24 tracks, 12/6/6, three classes that differ in one loud bin each.

    Unless `test_is_readable`, features of the test rows are NaN and their labels out of range: both raise when read.
    """
    generator = np.random.default_rng(0)
    split = np.repeat([0, 1, 2], [12, 6, 6])
    genre = np.arange(24) % NUM_CLASSES
    mel = generator.normal(size=(24, NUM_FRAMES, NUM_BINS))
    mel[np.arange(24), :, genre] += 3.0
    if not test_is_readable:
        mel[split == 2], genre[split == 2] = np.nan, 99
    write_feature_file(
        path,
        corpus="tiny",
        features={"mel": FeatureArray(mel.astype(np.float16))},
        classes={"genre": (["rock", "jazz", "folk"], genre)},
        split=split,
        track_ids=[f"track-{row}" for row in range(24)],
    )
    return path


def make_plan(
    root: Path, space: str = SPACE, *, data: Path | None = None, known_good: str = "", **search: Any
) -> StudyPlan:
    """A plan in `root/study` on the tiny file; `search` are fields of a `SearchConfig`, one CPU a trial."""
    parsed = Space.parse(f"{space}\nknown_good:\n{known_good}" if known_good else space, name="tiny")
    path = data or write_tiny_file(root / "tiny.h5")
    folder = StudyFolder(root / "study")
    folder.root.mkdir(parents=True, exist_ok=True)
    return StudyPlan(
        name="study",
        folder=folder,
        space=parsed,
        search_name="test",
        search=SearchConfig.model_validate({"max_epochs": 4, "num_trials": 4, "patience": None, **search}),
        data=DataSpec.of(path, features=("mel",), label="genre", cache_dir=root / "cache"),
        command="a test",
    )


def make_job(plan: StudyPlan, number: int, learning_rate: float, **changes: Any) -> TrialJob:
    """The job of trial `number`, as the driver sends it to an actor."""
    start = search_start(plan, number, {"optimizer/learning_rate": learning_rate, "optimizer/weight_decay": 0.0})
    settings = {"checkpoint": plan.checkpoint_of(start.name), "checkpoint_seconds": 1e9}
    return TrialJob(start=start, data=plan.data, num_threads=1, gpu_share=0.0, **{**settings, **changes})


def steps(actor: TrialActor, count: int) -> list[dict[str, Any]]:
    """The next results of an actor, asked for as Ray asks."""
    return [actor.step() for _ in range(count)]


def curve(epochs: Iterable[EpochResult]) -> list[tuple[int, dict[str, float], float, float, int]]:
    """Everything in a learning curve but the time it took, for comparing with `==`."""
    return [(e.epoch, dict(e.metrics), e.learning_rate, e.best_objective, e.best_epoch) for e in epochs]


def train_alone(
    config: Mapping[str, Any], spec: DataSpec, *, max_epochs: int | None = None
) -> list[tuple[int, dict[str, float], float, float, int]]:
    """The curve of a configuration in a fresh trainer, in this process and without Ray; its first `max_epochs`."""
    torch.set_num_threads(1)
    trainer = Trainer(TrainConfig.model_validate(config), open_dataset(spec))
    results: list[EpochResult] = []
    for result in trainer.epochs():
        results.append(result)
        if result.epoch == max_epochs:
            break
    return curve(results)


def plant_failures() -> None:
    """Run in every Ray worker: learning rates above 0.5 break a trial's weights after its first epoch, above 0.9 kill.

    Weights that are NaN travel through the real model, loss, metrics and `DivergedError`; a worker that exits is
    what the kernel makes of one that ran out of memory.
    """
    run_epoch = Trainer._run_epoch

    def run_epoch_or_fail(self: Trainer) -> EpochResult:
        if self.epoch == 1 and self.config.optimizer.learning_rate > 0.9:
            os._exit(1)
        if self.epoch == 1 and self.config.optimizer.learning_rate > 0.5:
            with torch.no_grad():
                next(self.model.parameters()).fill_(float("nan"))
        return run_epoch(self)

    Trainer._run_epoch = run_epoch_or_fail  # type: ignore[method-assign]
