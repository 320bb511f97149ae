"""Judging a trained model on a split: scores, intervals, per-class rows, confusion matrix.

N tracks, C crops of a track, K outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
    DrawnScores,
    Floats,
    Integers,
    bootstrap,
    class_draws,
    per_class,
    probability_scores,
    regression_scores,
    summary,
    target_draws,
)
from fmasearch.metrics.resampling import group_rows
from fmasearch.model_file import SavedModel
from fmasearch.records import ClassScore, TestReport
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
    judged = _judged(task, outputs_NK, targets)
    num_groups, group_of_N = group_rows(groups)
    draws = _draws(task, outputs_NK, targets, num_groups, group_of_N)
    clips = {}
    if num_crops > 1:
        of_clips = _judged(task, outputs_NCK.flatten(0, 1), targets.repeat_interleave(num_crops, 0))
        clips = {f"clip_{name}": value for name, value in of_clips.metrics.items()}
    return TestReport(
        split=split.name,
        num_tracks=len(split),
        metrics={**judged.metrics, **clips},
        intervals=bootstrap(draws, num_groups, num_resamples=num_resamples, seed=BOOTSTRAP_SEED),
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
    scores = _judged(task, outputs_K.expand(len(split), -1), split.targets_N.cpu()).metrics
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
    classes: tuple[ClassScore, ...] = ()
    confusion: tuple[tuple[int, ...], ...] = ()


def _judged(task: Task, outputs: Tensor, targets: Tensor) -> _Judged:
    """Scores of outputs (N, K)."""
    if isinstance(task, Classification):
        return _judged_classes(task, outputs, targets)
    if isinstance(task, Regression):
        return _Judged(regression_scores(*_numbers(task, outputs, targets)))
    assert isinstance(task, Multitask)
    metrics: dict[str, float] = {}
    classes: tuple[ClassScore, ...] = ()
    confusion: tuple[tuple[int, ...], ...] = ()
    objectives = []
    for part in task.parts:
        judged = _judged(part.task, part.outputs_of(outputs), part.targets_of(targets))
        metrics |= part_scores(part, judged.metrics)
        classes, confusion = judged.classes or classes, judged.confusion or confusion
        objectives.append(judged.metrics[part.task.objective_metric])
    return _Judged({"mean": sum(objectives) / len(objectives)} | metrics, classes, confusion)


def _judged_classes(task: Classification, outputs: Tensor, targets_N: Tensor) -> _Judged:
    labelled = targets_N >= 0
    targets, predictions = targets_N.numpy(), outputs.argmax(1).numpy()
    num_classes = len(task.class_names)
    confusion = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(confusion, (targets[labelled], predictions[labelled]), 1)
    log_loss = F.cross_entropy(outputs, targets_N, ignore_index=-1) if labelled.any() else torch.tensor(torch.nan)
    probabilities = probability_scores(targets, outputs.softmax(1).double().numpy())
    return _Judged(
        metrics=summary(confusion) | {"log_loss": float(log_loss)} | probabilities,
        classes=_class_rows(confusion, task.class_names),
        confusion=tuple(tuple(int(cell) for cell in row) for row in confusion),
    )


def _draws(task: Task, outputs: Tensor, targets: Tensor, num_groups: int, group_of_N: Integers) -> DrawnScores:
    """What intervals are known of, by the names of the metrics.

    One drawing serves all parts of a multitask, so that the mean of their objectives has an interval, too: drawn
    each for itself, its ends would take the parts' errors for unrelated, and those are of the same tracks.
    """
    if isinstance(task, Classification):
        predictions = outputs.argmax(1).numpy()
        return class_draws(targets.numpy(), predictions, num_groups, group_of_N, num_classes=len(task.class_names))
    if isinstance(task, Regression):
        wanted, values, names = _numbers(task, outputs, targets)
        return target_draws(wanted, values, group_of_N, names)
    assert isinstance(task, Multitask)
    draws = [
        _draws(part.task, part.outputs_of(outputs), part.targets_of(targets), num_groups, group_of_N)
        for part in task.parts
    ]

    def of_all(counts_DG: Floats) -> dict[str, Floats]:
        scores: dict[str, Floats] = {}
        objectives = []
        for part, of_part in zip(task.parts, (draw(counts_DG) for draw in draws), strict=True):
            scores |= part_scores(part, of_part)
            objectives.append(of_part[part.task.objective_metric])
        return {"mean": np.mean(objectives, axis=0)} | scores

    return of_all


def _numbers(task: Regression, outputs: Tensor, targets_NR: Tensor) -> tuple[Floats, Floats, list[str]]:
    """Labels and predictions (N, R) in the labels' own units, and the targets' names."""
    values = task.values(outputs).double().numpy()
    return targets_NR.double().numpy(), values, [target.name for target in task.targets]


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
