"""Judging a trained model on a split: scores, intervals, per-class rows, confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from fmasearch.config import CropConfig
from fmasearch.data import Split
from fmasearch.errors import DataError
from fmasearch.metrics import bootstrap_intervals, per_class, summary
from fmasearch.records import ClassScore, TestReport
from fmasearch.tasks import Classification
from fmasearch.trainer import WHOLE, predict

BOOTSTRAP_SEED = 20_170_801  # any fixed number: the same predictions always get the same intervals


def judge(
    model: nn.Module,
    split: Split,
    class_names: Sequence[str],
    *,
    majority_class: int,
    crop: CropConfig = WHOLE,
    num_resamples: int = 2000,
) -> TestReport:
    """Score `model` on a split, one prediction per track.

    Intervals resample whole artists where the artists of all tracks are known (tracks of one artist are alike,
    Flexer & Schnitzer 2010), single tracks otherwise.

    Args:
        model: on the split's device.
        split: its labelled tracks are judged.
        class_names: in the order of the model's outputs.
        crop: as the model was trained: the crops whose outputs are combined to a track's prediction.
        majority_class: what the majority baseline always answers (the training split's largest class).
        num_resamples: bootstrap resamples.
    """
    outputs_NK = predict(model, split, Classification(tuple(class_names)), crop)
    targets_N = split.targets_N.cpu()
    targets, predictions = targets_N.numpy(), outputs_NK.argmax(1).numpy()
    num_classes = len(class_names)
    confusion = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(confusion, (targets, predictions), 1)
    artists_known = bool((split.artist_ids >= 0).all())
    groups = split.artist_ids if artists_known else np.arange(len(split))
    return TestReport(
        split=split.name,
        num_tracks=len(split),
        metrics=summary(confusion) | {"log_loss": float(F.cross_entropy(outputs_NK, targets_N))},
        intervals=bootstrap_intervals(
            targets,
            predictions,
            groups,
            num_classes=num_classes,
            num_resamples=num_resamples,
            seed=BOOTSTRAP_SEED,
        ),
        resampled_by="artist" if artists_known else "track",
        classes=_class_rows(confusion, class_names),
        confusion=tuple(tuple(int(cell) for cell in row) for row in confusion),
        majority_accuracy=float((targets == majority_class).mean()),
    )


def majority_class(train: Split) -> int:
    """The most frequent class of the training split."""
    return int(torch.bincount(train.targets_N.cpu()).argmax())


def require_classes(path: str, found: Sequence[str], expected: Sequence[str]) -> None:
    """A model can judge only the classes that it knows, in its own order.

    Raises:
        DataError: if the file's class names are others.
    """
    if tuple(found) != tuple(expected):
        raise DataError(f"{path}: class names: expected the model's {', '.join(expected)}; got {', '.join(found)}")


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
