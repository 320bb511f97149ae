"""A comparison of two saved models on the same tracks: how much they differ, and whether chance would explain it.

Axes: N tracks, K classes, R targets.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from fmasearch.data import Split, open_split
from fmasearch.data.feature_file import SplitName
from fmasearch.errors import ModelError
from fmasearch.evaluate import BOOTSTRAP_SEED, spec_for
from fmasearch.metrics import (
    Integers,
    McNemar,
    PairedDifference,
    mcnemar,
    paired_classification,
    paired_regression,
    regression_scores,
    summary,
)
from fmasearch.model_file import SavedModel
from fmasearch.tasks import Classification, Regression, Task, build_task
from fmasearch.tasks.reading import Reading, read_outputs, read_targets
from fmasearch.trainer import predict

MACRO_F1, SPEARMAN = "macro_f1", "spearman"
"""What is concluded from: one metric decided on beforehand, since the best of many differs by chance."""


@dataclass(frozen=True, slots=True)
class Row:
    """One metric of both models, and their difference A − B."""

    metric: str
    a: float
    b: float
    difference: PairedDifference


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two models, A and B, on one split."""

    split: str
    num_tracks: int
    resampled_by: Literal["artist", "track"]
    rows: tuple[Row, ...]
    headlines: tuple[str, ...]
    """Metrics that conclusions are drawn from: one of the classes, one of the targets."""
    mcnemar: McNemar | None
    """Of classes, if both tell classes apart."""
    only_a: tuple[str, ...] = ()
    """Labels that only A predicts; they take no part."""
    only_b: tuple[str, ...] = ()

    @property
    def conclusions(self) -> tuple[str, ...]:
        """One plain sentence on classes, one on targets, as far as both models predict them."""
        return tuple(_conclusion(row, self.num_tracks) for row in self.rows if row.metric in self.headlines)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "conclusions": list(self.conclusions)}


def compare_models(
    a: SavedModel, b: SavedModel, data: Path, split: SplitName = "test", *, num_resamples: int = 2000
) -> Comparison:
    """Compare what both predict: classes, targets, or both. They may use different features of the file.

    Raises:
        ModelError: if they tell different classes apart, or have nothing in common.
        DataError: if the file lacks something, or its features were computed in another way than a model's.
    """
    label, targets = _shared(a, b)
    opened = [_open(model, data, split, label, targets) for model in (a, b)]
    if not torch.equal(
        torch.nan_to_num(opened[0].targets_N, nan=-1e9), torch.nan_to_num(opened[1].targets_N, nan=-1e9)
    ):
        raise ModelError(f"A and B make different classes of those of {data}; compare models of one `genres` section")
    first = opened[0]
    readings = [_reading(model, each) for model, each in zip((a, b), opened, strict=True)]
    truth = read_targets(_shared_task(a, label, targets), first.targets_N)
    artists_known = bool((first.artist_ids >= 0).all())
    groups = first.artist_ids if artists_known else np.arange(len(first))
    rows: list[Row] = []
    headlines: list[str] = []
    test = None
    if label is not None:
        classes_a, classes_b = (reading.classes_N for reading in readings)
        rows += _class_rows(truth.classes_N, classes_a, classes_b, groups, len(a.class_names), num_resamples)
        headlines.append(MACRO_F1)
        test = mcnemar(truth.classes_N, classes_a, classes_b)
    if targets:
        values = [_columns(reading, targets) for reading in readings]
        rows += _target_rows(truth.values_NR, values[0], values[1], groups, targets, num_resamples)
        headlines.append(SPEARMAN if len(targets) > 1 else f"{targets[0]}_{SPEARMAN}")
    return Comparison(
        split=split,
        num_tracks=len(first),
        resampled_by="artist" if artists_known else "track",
        rows=tuple(rows),
        headlines=tuple(headlines),
        mcnemar=test,
        only_a=_left_out(a, label, targets),
        only_b=_left_out(b, label, targets),
    )


def _shared(a: SavedModel, b: SavedModel) -> tuple[str | None, tuple[str, ...]]:
    """The label set and the targets that both models predict."""
    tasks = (a.config.task, b.config.task)
    targets = tuple(target for target in tasks[0].targets if target in tasks[1].targets)
    label = tasks[0].label if tasks[0].label == tasks[1].label else None
    if label is None and not targets:
        predicted = [", ".join([*filter(None, [task.label]), *task.targets]) for task in tasks]
        raise ModelError(f"A and B predict nothing in common: A predicts {predicted[0]}; B predicts {predicted[1]}")
    if label is not None and a.class_names != b.class_names:
        raise ModelError(
            f"A and B tell different classes of {label} apart: A {', '.join(a.class_names)}; B "
            f"{', '.join(b.class_names)}; expected the same, in the same order"
        )
    return label, targets


def _left_out(model: SavedModel, label: str | None, targets: tuple[str, ...]) -> tuple[str, ...]:
    task = model.config.task
    return tuple(name for name in [*filter(None, [task.label]), *task.targets] if name not in (label, *targets))


def _open(model: SavedModel, data: Path, split: SplitName, label: str | None, targets: tuple[str, ...]) -> Split:
    """The split in the model's features, with the labels that are compared."""
    spec = spec_for(model, data, label=label, targets=targets)
    return open_split(spec, split, model.normalisers)


def _shared_task(model: SavedModel, label: str | None, targets: tuple[str, ...]) -> Task:
    """The task of the labels that are compared, whatever else the model predicts."""
    stats = tuple(next(each for each in model.targets if each.name == name) for name in targets)
    config = model.config.task
    if label is None:
        return Regression(stats)
    if not targets:
        return Classification(model.class_names)
    parts = {"classes": label, "targets": targets}
    return build_task(type(config).model_validate({"multitask": parts}), model.class_names, stats)


def _reading(model: SavedModel, split: Split) -> Reading:
    return read_outputs(model.task, predict(model.build(), split, model.task, model.config.crop))


def _columns(reading: Reading, targets: tuple[str, ...]) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    return reading.values_NR[:, [reading.target_names.index(name) for name in targets]]


def _class_rows(
    targets_N: Integers, a_N: Integers, b_N: Integers, groups_N: Integers, num_classes: int, num_resamples: int
) -> list[Row]:
    differences = paired_classification(
        targets_N, a_N, b_N, groups_N, num_classes=num_classes, num_resamples=num_resamples, seed=BOOTSTRAP_SEED
    )
    a, b = (summary(_confusion(targets_N, x_N, num_classes)) for x_N in (a_N, b_N))
    return _rows(a, b, differences)


def _target_rows(
    targets_NR: Any, a_NR: Any, b_NR: Any, groups_N: Integers, names: tuple[str, ...], num_resamples: int
) -> list[Row]:
    differences = paired_regression(
        targets_NR, a_NR, b_NR, groups_N, names, num_resamples=num_resamples, seed=BOOTSTRAP_SEED
    )
    a, b = (regression_scores(targets_NR, x_NR, names) for x_NR in (a_NR, b_NR))
    rows = _rows(a, b, differences)
    # The mean over one target says nothing new.
    return rows if len(names) > 1 else [row for row in rows if row.metric.startswith(f"{names[0]}_")]


def _rows(a: Mapping[str, float], b: Mapping[str, float], differences: Mapping[str, PairedDifference]) -> list[Row]:
    return [Row(name, a[name], b[name], difference) for name, difference in differences.items()]


def _confusion(targets_N: Integers, predicted_N: Integers, num_classes: int) -> Any:
    confusion_KK = np.zeros((num_classes, num_classes), np.int64)
    labelled = targets_N >= 0
    np.add.at(confusion_KK, (targets_N[labelled], predicted_N[labelled]), 1)
    return confusion_KK


def _conclusion(row: Row, num_tracks: int) -> str:
    difference = row.difference
    words = row.metric.replace("macro_f1", "macro F1").replace("spearman", "Spearman").replace("_", " ")
    if not math.isfinite(difference.difference) or not math.isfinite(difference.low):
        return f"The {words} of A and B cannot be compared on these {num_tracks:,} tracks."
    if difference.low <= 0 <= difference.high:
        return f"A and B are not distinguishable in {words} on these {num_tracks:,} tracks."
    return f"{'A' if difference.low > 0 else 'B'} is better in {words} than chance explains."
