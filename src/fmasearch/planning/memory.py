"""How many trials fit a GPU: each is a process of its own, with its own copy of the data set."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from fmasearch.data import FileInfo

FRAMEWORK_BYTES = 2**30
"""Of a process on a GPU besides its tensors: the context, kernels' workspaces, unused blocks. 0.5 to 1 GB."""


@dataclass(frozen=True, slots=True)
class Packing:
    """Trials of one size on one GPU."""

    trial_bytes: int
    """Of one trial: the training, the data set, the framework."""
    num_trials: int
    """That fit the memory."""

    @property
    def share(self) -> float | None:
        """For `resources/gpu`, so that as many trials start on a GPU; None if not even one fits."""
        return math.floor(100 / self.num_trials) / 100 if self.num_trials else None


def data_bytes(info: FileInfo, features: Iterable[str]) -> int:
    """Of train and val as they lie on a device: levels as stored. Tracks without a label count, too."""
    tracks = info.split_counts["train"] + info.split_counts["val"]
    kinds = [info.feature(name) for name in features]
    return sum(tracks * each.shape[1] * each.shape[2] * np.dtype(each.dtype).itemsize for each in kinds)


def pack(training_bytes: int, data_set_bytes: int, gpu_bytes: int, *, most: int = 100) -> Packing:
    """How many trainings of so many bytes fit `gpu_bytes`; `most` is what the cores of the machine allow."""
    trial_bytes = training_bytes + data_set_bytes + FRAMEWORK_BYTES
    return Packing(trial_bytes, min(gpu_bytes // trial_bytes, most))
