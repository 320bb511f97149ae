"""The embedding of tracks: the vectors before a model's last layer, beside what is known and predicted of them.

Shapes: N tracks, B batch, C crops of a track, E dimensions of a vector, K outputs, R targets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fmasearch.config import CropConfig
from fmasearch.data import Split
from fmasearch.files import replacing
from fmasearch.models import ClipModel
from fmasearch.tasks import Task
from fmasearch.trainer import EVAL_BATCH_SIZE, WHOLE


@dataclass(frozen=True, slots=True)
class Outputs:
    """What a model's outputs are: a logit for each class, then a standardised value for each target."""

    class_names: tuple[str, ...] = ()
    target_names: tuple[str, ...] = ()
    means_R: tuple[float, ...] = ()
    """Of the targets in training, in the labels' own unit."""
    stds_R: tuple[float, ...] = ()


@dataclass(frozen=True)
class Embedding:
    """The tracks of one or several splits as a model sees them, split after split, each in file order."""

    vectors_NE: NDArray[np.float32]
    track_ids: tuple[str, ...]
    splits: tuple[str, ...]
    """The split of each track."""
    artist_ids_N: NDArray[np.int64]
    """-1 = unknown."""
    class_names: tuple[str, ...]
    """Empty for a model without classes."""
    classes_N: NDArray[np.int64]
    """Codes into `class_names`; -1 = none."""
    predicted_classes_N: NDArray[np.int64]
    target_names: tuple[str, ...]
    """Empty for a model that predicts no values."""
    targets_NR: NDArray[np.float32]
    """In the labels' own unit, as the predictions are; NaN = none."""
    predicted_targets_NR: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.track_ids)

    def taken(self, rows: NDArray[np.integer[Any]]) -> Embedding:
        """The embedding of these tracks alone."""
        arrays: dict[str, Any] = {
            field.name: getattr(self, field.name)[rows]
            for field in fields(self)
            if isinstance(getattr(self, field.name), np.ndarray)
        }
        track_ids, splits = (tuple(texts[row] for row in rows) for texts in (self.track_ids, self.splits))
        return replace(self, track_ids=track_ids, splits=splits, **arrays)

    def save(self, path: Path) -> None:
        """Write a `.npz` that `np.load` reads without pickle."""
        with replacing(path) as temporary:
            np.savez_compressed(
                temporary,
                vectors=self.vectors_NE,
                track_ids=np.array(self.track_ids),
                split=np.array(self.splits),
                artist_ids=self.artist_ids_N,
                class_names=np.array(self.class_names, dtype=str),
                classes=self.classes_N,
                predicted_classes=self.predicted_classes_N,
                target_names=np.array(self.target_names, dtype=str),
                targets=self.targets_NR,
                predicted_targets=self.predicted_targets_NR,
            )


def joined(parts: Sequence[Embedding]) -> Embedding:
    """One embedding of several of the same model, in their order."""
    first = parts[0]
    arrays: dict[str, Any] = {
        field.name: np.concatenate([getattr(part, field.name) for part in parts])
        for field in fields(first)
        if isinstance(getattr(first, field.name), np.ndarray)
    }
    track_ids = tuple(track_id for part in parts for track_id in part.track_ids)
    splits = tuple(split for part in parts for split in part.splits)
    return replace(first, track_ids=track_ids, splits=splits, **arrays)


def embed_split(model: ClipModel, split: Split, task: Task, outputs: Outputs, crop: CropConfig = WHOLE) -> Embedding:
    """The embedding of a split's tracks; `model` is on the split's device."""
    vectors_NE, outputs_NK = embed_tracks(model, split, task, crop)
    num_classes = len(outputs.class_names)
    classes_N, targets_NR = _targets(split.targets_N.cpu(), num_classes)
    predicted_N = outputs_NK[:, :num_classes].argmax(1) if num_classes else torch.full((len(split),), -1)
    means_R, stds_R = torch.tensor(outputs.means_R), torch.tensor(outputs.stds_R)
    return Embedding(
        vectors_NE=vectors_NE.numpy(),
        track_ids=split.track_ids,
        splits=(split.name,) * len(split),
        artist_ids_N=split.artist_ids.astype(np.int64),
        class_names=outputs.class_names,
        classes_N=classes_N.numpy(),
        predicted_classes_N=predicted_N.numpy(),
        target_names=outputs.target_names,
        targets_NR=targets_NR.numpy(),
        predicted_targets_NR=(outputs_NK[:, num_classes:] * stds_R + means_R).numpy(),
    )


@torch.inference_mode()
def embed_tracks(model: ClipModel, split: Split, task: Task, crop: CropConfig = WHOLE) -> tuple[Tensor, Tensor]:
    """Vectors (N, E) and outputs (N, K) of every track in file order, float32 on the CPU, in one pass.

    A track's vector is the mean over its crops; its outputs are what `trainer.predict` gives.
    """
    model.eval()
    num_crops = crop.num_eval if split.is_cropped(crop.frames) else 1
    batch_size = max(1, EVAL_BATCH_SIZE // num_crops)
    vectors, outputs = [], []
    for batch in split.ordered(batch_size, crop_frames=crop.frames, num_crops=num_crops):
        vectors_BE = model.embed(batch.x_BTF, batch.lengths_B).float()
        outputs_BK: Tensor = model.head.output(vectors_BE)
        if num_crops > 1:
            vectors_BE = vectors_BE.reshape(-1, num_crops, vectors_BE.shape[1]).mean(1)
            outputs_BK = task.combine(outputs_BK.reshape(-1, num_crops, outputs_BK.shape[1]))
        vectors.append(vectors_BE)
        outputs.append(outputs_BK)
    return torch.cat(vectors).cpu(), torch.cat(outputs).cpu()


def _targets(targets_N: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Class codes (N,) and values (N, R) of a split's targets, as `tasks` lays them out."""
    if targets_N.ndim == 1:
        return targets_N, torch.empty(len(targets_N), 0)
    if not num_classes:
        return torch.full((len(targets_N),), -1), targets_N.float()
    return targets_N[:, 0].nan_to_num(nan=-1).long(), targets_N[:, 1:].float()
