"""Tables of recorded learning curves: what every configuration reached after every epoch.

`taskset_rnn_imdb.npz`: 12 text tasks of TaskSet (Metz et al. 2020), as published with DyHPO (Apache-2.0).
`opda_alexnet.npz`: AlexNet on ImageNet from opda (Lourie et al.; CC BY-SA 4.0).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

DEVELOPED_ON = (0, 3, 6, 9)
"""Every third task of TaskSet: the rule and its constants were chosen on these, before it was run on others."""


@dataclass(frozen=True)
class Table:
    """Configurations x epochs. Losses: less is better; a score is told as 1 - score."""

    name: str
    best: Array
    """The best loss so far, (configurations, epochs); NaN from the epoch on in which training diverged."""
    lengths: NDArray[np.int64]
    """Epochs of each configuration."""
    points: Array
    """Hyperparameters, (configurations, keys), each scaled to 0..1 in the space it was drawn in."""

    @property
    def max_epochs(self) -> int:
        return int(self.best.shape[1])

    @property
    def floor(self) -> float:
        """The best loss of the table: regret 0."""
        return float(np.nanmin(self.best))

    @property
    def ceiling(self) -> float:
        """The median of what trainings to the end reach: regret 1."""
        last = self.best[np.arange(len(self.best)), self.lengths - 1]
        return float(np.median(last[np.isfinite(last)]))

    def regret(self, loss: Array) -> Array:
        """Between 0 and 1; what is worse than the median counts as the median."""
        return np.clip((loss - self.floor) / (self.ceiling - self.floor), 0, 1)

    def shortened(self, max_epochs: int) -> Table:
        """The same trainings, cut off: what a shorter search would see (schedules are not shortened with it)."""
        return replace(self, best=self.best[:, :max_epochs], lengths=np.minimum(self.lengths, max_epochs))


def load_taskset(folder: Path) -> list[Table]:
    """12 tables of 1,000 configurations x 51 epochs (TaskSet's evaluations): validation loss."""
    data = np.load(folder / "taskset_rnn_imdb.npz", allow_pickle=False)
    tables = []
    for task in data["tasks"]:
        points = data[f"{task}/hp"]
        columns = {
            str(name): -np.log1p(-points[:, key]) if str(name).startswith("beta") else np.log(points[:, key])
            for key, name in enumerate(data["hp_names"])
        }
        name = str(task).removeprefix("imdb_")
        tables.append(_table(name, data[f"{task}/valid"].astype(float), None, columns))
    return tables


def load_alexnet(folder: Path) -> list[Table]:
    """512 configurations of 20 to 100 epochs, 1 - top-1 accuracy; and the same at 20 steps of each one's schedule.

    In the first, trainings of different lengths are compared at the same epoch, where one has annealed its learning
    rate and the other has not: curves cross more than in a study of ours, whose trials are all as long.
    """
    data = np.load(folder / "opda_alexnet.npz", allow_pickle=False)
    keys = dict(zip(map(str, data["hp_names"]), data["hp"].T, strict=True))
    lengths = keys["epochs"].astype(np.int64)
    logarithmic = ("batch_size", "lr", "weight_decay")
    columns = {name: np.log(values) if name in logarithmic else values for name, values in keys.items()}
    columns["momentum"] = -np.log1p(-keys["momentum"])
    losses = 1 - data["top1"].astype(float)
    steps = np.ceil(np.arange(1, 21) * lengths[:, None] / 20).astype(int) - 1
    return [
        _table("alexnet", losses, lengths, columns),
        _table("alexnet, 20 steps", np.take_along_axis(losses, steps, axis=1), None, columns),
    ]


def load_recorded(results: Path) -> list[Table]:
    """Our own studies of `results/` that trained every trial to its end: 1 - the objective, after every epoch."""
    tables = []
    for file in sorted(results.glob("*/trials.jsonl")):
        trials = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        trials = [trial for trial in trials if trial["state"] == "completed"]
        if not trials or "-random" not in file.parent.name:
            continue
        lengths = np.array([len(trial["epochs"]) for trial in trials])
        losses = np.full((len(trials), lengths.max()), np.nan)
        for row, trial in zip(losses, trials, strict=True):
            row[: len(trial["epochs"])] = [1 - epoch["best_objective"] for epoch in trial["epochs"]]
        tables.append(_table(file.parent.name, losses, lengths, _numeric(trials)))
    return tables


def _numeric(trials: list[dict[str, Any]]) -> dict[str, Array]:
    keys = sorted({key for trial in trials for key in trial["params"]})
    values = {key: [str(trial["params"].get(key)) for trial in trials] for key in keys}
    return {key: np.unique(column, return_inverse=True)[1].astype(float) for key, column in values.items()}


def _table(name: str, losses: Array, lengths: NDArray[np.int64] | None, columns: Mapping[str, Array]) -> Table:
    lengths = np.full(len(losses), losses.shape[1]) if lengths is None else lengths
    epochs = np.arange(losses.shape[1])
    diverged = np.isnan(losses) & (epochs < lengths[:, None])
    best = np.minimum.accumulate(np.where(np.isnan(losses), np.inf, losses), axis=1)
    best[np.maximum.accumulate(diverged, axis=1)] = np.nan
    points = np.stack(list(columns.values()), axis=1)
    spread = np.ptp(points, axis=0)
    points = (points - points.min(axis=0)) / np.where(spread > 0, spread, 1)
    return Table(name, best, lengths, points)
