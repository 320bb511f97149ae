"""A reading: what a model puts out, as people read it: probabilities of classes, numbers in the labels' own units.

Axes: N tracks, K classes, R targets.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from fmasearch.metrics import Floats, Integers
from fmasearch.tasks.base import Task
from fmasearch.tasks.classification import Classification
from fmasearch.tasks.multitask import Multitask
from fmasearch.tasks.regression import Regression


@dataclass(frozen=True)
class Reading:
    """What a model says of N tracks; nothing of classes if it has none, nothing of targets if it has none."""

    class_names: tuple[str, ...]
    probabilities_NK: Floats
    target_names: tuple[str, ...]
    values_NR: Floats
    """In the labels' own units."""

    def __len__(self) -> int:
        return len(self.probabilities_NK)

    @property
    def classes_N(self) -> Integers:
        """The most likely class of each track."""
        classes_N: Integers = self.probabilities_NK.argmax(1)
        return classes_N

    def probabilities(self, row: int) -> dict[str, float]:
        """By class, the most likely one first."""
        order = np.argsort(-self.probabilities_NK[row], kind="stable") if self.class_names else ()
        return {self.class_names[k]: float(self.probabilities_NK[row, k]) for k in order}

    def values(self, row: int) -> dict[str, float]:
        """By target."""
        return dict(zip(self.target_names, self.values_NR[row].tolist(), strict=True))


@dataclass(frozen=True)
class Truth:
    """The labels of N tracks, in the same columns."""

    classes_N: Integers
    """-1 = none."""
    values_NR: Floats
    """NaN = none."""


def read_outputs(task: Task, outputs_NK: Tensor) -> Reading:
    """What outputs of a model, one row a track, mean."""
    num_tracks = len(outputs_NK)
    class_names: tuple[str, ...] = ()
    target_names: list[str] = []
    probabilities_NK, values = np.zeros((num_tracks, 0)), [np.zeros((num_tracks, 0))]
    for part, outputs in _parts(task, outputs_NK):
        if isinstance(part, Classification):
            class_names = part.class_names
            probabilities_NK = outputs.double().softmax(1).numpy()
        else:
            target_names += [target.name for target in part.targets]
            values.append(part.values(outputs).double().numpy())
    return Reading(class_names, probabilities_NK, tuple(target_names), np.concatenate(values, axis=1))


def read_targets(task: Task, targets: Tensor) -> Truth:
    """A split's targets, on the CPU, in the columns of `read_outputs`."""
    classes_N: Integers = np.full(len(targets), -1)
    values = [np.zeros((len(targets), 0))]
    for part, of_part in _target_parts(task, targets):
        if isinstance(part, Classification):
            classes_N = of_part.numpy()
        else:
            values.append(of_part.double().numpy())
    return Truth(classes_N, np.concatenate(values, axis=1))


def _parts(task: Task, outputs_NK: Tensor) -> list[tuple[Classification | Regression, Tensor]]:
    if isinstance(task, Multitask):
        return [(part.task, part.outputs_of(outputs_NK)) for part in task.parts]
    assert isinstance(task, Classification | Regression)
    return [(task, outputs_NK)]


def _target_parts(task: Task, targets: Tensor) -> list[tuple[Classification | Regression, Tensor]]:
    if isinstance(task, Multitask):
        return [(part.task, part.targets_of(targets)) for part in task.parts]
    assert isinstance(task, Classification | Regression)
    return [(task, targets)]
