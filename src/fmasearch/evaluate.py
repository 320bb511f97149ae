"""Judging a trained model on a split: scores, intervals, per-class rows, confusion matrix.

N tracks, C crops of a track, K outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmasearch.config import ERRORS, CropConfig
from fmasearch.data import Dataset, DataSpec, Split, read_info
from fmasearch.errors import DataError
from fmasearch.features.matching import require_same
from fmasearch.metrics import (
    Integers,
    bootstrap_intervals,
    bootstrap_regression,
    per_class,
    probability_scores,
    regression_scores,
    summary,
)
from fmasearch.model_file import SavedModel
from fmasearch.records import ClassScore, Interval, TestReport
from fmasearch.tasks import Classification, Multitask, Regression, Task, part_scores
from fmasearch.trainer import WHOLE, predict_crops

BOOTSTRAP_SEED = 20_170_801  # any fixed number: the same predictions always get the same intervals


def judge(
    model: nn.Module,
    split: Split,
    task: Task,
    *,
    baseline: Mapping[str, float],
    crop: CropConfig = WHOLE,
    num_resamples: int = 2000,
) -> TestReport:
    """Score `model` on a split, one prediction per track.

    Intervals resample whole artists where the artists of all tracks are known (tracks of one artist are alike,
    Flexer & Schnitzer 2010), single tracks otherwise.

    Args:
        model: on the split's device.
        split: its labelled tracks are judged.
        task: what the model's outputs mean.
        crop: as the model was trained: the crops whose outputs are combined to a track's prediction.
        baseline: from `baseline_scores`.
        num_resamples: bootstrap resamples.
    """
    outputs_NCK = predict_crops(model, split, crop)
    num_crops = outputs_NCK.shape[1]
    outputs_NK = task.combine(outputs_NCK) if num_crops > 1 else outputs_NCK[:, 0]
    targets = split.targets_N.cpu()
    artists_known = bool((split.artist_ids >= 0).all())
    groups = split.artist_ids if artists_known else np.arange(len(split))
    judged = _judged(task, outputs_NK, targets, groups, num_resamples)
    clips = {}
    if num_crops > 1:
        of_clips = _judged(task, outputs_NCK.flatten(0, 1), targets.repeat_interleave(num_crops, 0), None, 0)
        clips = {f"clip_{name}": value for name, value in of_clips.metrics.items()}
    return TestReport(
        split=split.name,
        num_tracks=len(split),
        metrics={**judged.metrics, **clips},
        intervals=judged.intervals,
        resampled_by="artist" if artists_known else "track",
        classes=judged.classes,
        confusion=judged.confusion,
        baseline={name: value for name, value in baseline.items() if name in judged.metrics},
    )


def baseline_scores(task: Task, split: Split, *, majority_class: int | None) -> dict[str, float]:
    """Scores on `split` of always answering the training split's largest class, and its mean of every target.

    Accuracies and errors alone: what always answers the same has no ranks and no calibration to speak of.
    """
    outputs_K = torch.zeros(task.output_dim + task.num_learned_weights)  # standardised: a target's mean is 0
    if majority_class is not None:
        outputs_K[majority_class] = 1e3
    scores = _judged(task, outputs_K.expand(len(split), -1), split.targets_N.cpu(), None, 0).metrics
    known = ERRORS if majority_class is None else (*ERRORS, "accuracy")
    return {name: value for name, value in scores.items() if name.endswith(known) and "top_" not in name}


def majority_class(dataset: Dataset) -> int | None:
    """The most frequent class of the training split; None where nothing is classified."""
    return int(torch.bincount(dataset.train_classes()).argmax()) if dataset.class_names else None


def judged_spec(saved: SavedModel, data: str | Path) -> DataSpec:
    """A feature file as a saved model sees it: its features, its labels, its classes.

    Raises:
        DataError: if the file lacks one of them, or has them in another way.
    """
    task = saved.config.task
    return spec_for(saved, data, label=task.label, targets=task.targets)


def spec_for(saved: SavedModel, data: str | Path, *, label: str | None, targets: Sequence[str]) -> DataSpec:
    """The same with some of the model's labels alone."""
    spec = DataSpec.of(data, features=saved.config.features, label=label, targets=targets)
    info = read_info(spec.path)
    for name in spec.features:
        require_same(info.feature(name).settings, saved.feature_settings[name], where=f"{data}: features/{name}")
    if label is not None:
        require_classes(str(data), info.classes(label), saved.file_classes)
    return replace(spec, genres=saved.genres)  # as it came out in training; this file's counts decide nothing


def require_classes(path: str, found: Sequence[str], expected: Sequence[str]) -> None:
    """A model can judge only the classes that it knows, in its own order.

    Raises:
        DataError: if the file's class names are others.
    """
    if tuple(found) != tuple(expected):
        raise DataError(f"{path}: class names: expected the model's {', '.join(expected)}; got {', '.join(found)}")


@dataclass(frozen=True)
class _Judged:
    metrics: dict[str, float]
    intervals: dict[str, Interval] = field(default_factory=dict)
    classes: tuple[ClassScore, ...] = ()
    confusion: tuple[tuple[int, ...], ...] = ()


def _judged(task: Task, outputs: Tensor, targets: Tensor, groups: Integers | None, num_resamples: int) -> _Judged:
    """Scores of outputs (N, K); without groups no intervals."""
    if isinstance(task, Classification):
        return _judged_classes(task, outputs, targets, groups, num_resamples)
    if isinstance(task, Regression):
        return _judged_targets(task, outputs, targets, groups, num_resamples)
    assert isinstance(task, Multitask)
    metrics: dict[str, float] = {}
    intervals: dict[str, Interval] = {}
    classes: tuple[ClassScore, ...] = ()
    confusion: tuple[tuple[int, ...], ...] = ()
    objectives = []
    for part in task.parts:
        judged = _judged(part.task, part.outputs_of(outputs), part.targets_of(targets), groups, num_resamples)
        metrics |= part_scores(part, judged.metrics)
        intervals |= part_scores(part, judged.intervals)
        classes, confusion = judged.classes or classes, judged.confusion or confusion
        objectives.append(judged.metrics[part.task.objective_metric])
    return _Judged({"mean": sum(objectives) / len(objectives)} | metrics, intervals, classes, confusion)


def _judged_classes(
    task: Classification, outputs: Tensor, targets_N: Tensor, groups: Integers | None, num_resamples: int
) -> _Judged:
    labelled = targets_N >= 0
    targets, predictions = targets_N.numpy(), outputs.argmax(1).numpy()
    num_classes = len(task.class_names)
    confusion = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(confusion, (targets[labelled], predictions[labelled]), 1)
    log_loss = F.cross_entropy(outputs, targets_N, ignore_index=-1) if labelled.any() else torch.tensor(torch.nan)
    probabilities = probability_scores(targets, outputs.softmax(1).double().numpy())
    intervals = {}
    if groups is not None:
        intervals = bootstrap_intervals(
            targets,
            predictions,
            groups,
            num_classes=num_classes,
            num_resamples=num_resamples,
            seed=BOOTSTRAP_SEED,
        )
    return _Judged(
        metrics=summary(confusion) | {"log_loss": float(log_loss)} | probabilities,
        intervals=intervals,
        classes=_class_rows(confusion, task.class_names),
        confusion=tuple(tuple(int(cell) for cell in row) for row in confusion),
    )


def _judged_targets(
    task: Regression, outputs: Tensor, targets_NR: Tensor, groups: Integers | None, num_resamples: int
) -> _Judged:
    values, targets = task.values(outputs).double().numpy(), targets_NR.double().numpy()
    names = [target.name for target in task.targets]
    intervals = {}
    if groups is not None:
        intervals = bootstrap_regression(
            targets, values, groups, names, num_resamples=num_resamples, seed=BOOTSTRAP_SEED
        )
    return _Judged(metrics=regression_scores(targets, values, names), intervals=intervals)


def _class_rows(
    confusion: np.ndarray[tuple[int, int], np.dtype[np.int64]], names: Sequence[str]
) -> tuple[ClassScore, ...]:
    rows = per_class(confusion)
    return tuple(
        ClassScore(
            name=name,
            precision=float(rows.precision[i]),
            recall=float(rows.recall[i]),
            f1=float(rows.f1[i]),
            support=int(rows.support[i]),
            predicted=int(rows.predicted[i]),
        )
        for i, name in enumerate(names)
    )
