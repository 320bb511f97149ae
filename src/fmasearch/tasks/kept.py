"""Kept outputs: what one training said of the validation tracks at its best, beside labels and artists, in one file.

Axes: N tracks, K outputs, R targets.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fmasearch.metrics import Integers
from fmasearch.records import TargetStats


@dataclass(frozen=True)
class KeptOutputs:
    """Enough to score it again on any choice of its tracks, without the model or the data: 30 kB for 781 tracks."""

    outputs_NK: Tensor
    """One row a track, float32."""
    targets: Tensor
    """As the task has them: classes (N,), -1 = none; numbers (N, R), NaN = none; or both, (N, 1 + R)."""
    artist_ids_N: Integers
    """-1 = unknown."""
    class_names: tuple[str, ...] = ()
    target_stats: tuple[TargetStats, ...] = ()

    def to_bytes(self) -> bytes:
        """A compressed .npz file."""
        file = io.BytesIO()
        np.savez_compressed(
            file,
            outputs=self.outputs_NK.numpy(),
            targets=self.targets.numpy(),
            artist_ids=self.artist_ids_N,
            class_names=np.array(self.class_names, dtype=np.str_),
            target_names=np.array([target.name for target in self.target_stats], dtype=np.str_),
            target_scales=np.array([(target.mean, target.std) for target in self.target_stats]).reshape(-1, 2),
        )
        return file.getvalue()


def read_kept(path: Path) -> KeptOutputs | None:
    """Read what `to_bytes` gave; None if the file is absent or damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:
            scales = zip(file["target_names"].tolist(), file["target_scales"].tolist(), strict=True)
            return KeptOutputs(
                outputs_NK=torch.from_numpy(file["outputs"]),
                targets=torch.from_numpy(file["targets"]),
                artist_ids_N=file["artist_ids"],
                class_names=tuple(file["class_names"].tolist()),
                target_stats=tuple(TargetStats(name, mean, std) for name, (mean, std) in scales),
            )
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
