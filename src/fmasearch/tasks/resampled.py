"""The objective on resamples: what a task's objective would have been, had other artists been validated on.

Axes: N tracks, K outputs, D draws, G groups.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from torch import Tensor

from fmasearch.metrics import Floats, Integers, class_draws, target_draws
from fmasearch.metrics.resampling import drawn_counts, group_rows
from fmasearch.tasks.base import Task
from fmasearch.tasks.classification import Classification
from fmasearch.tasks.multitask import Multitask
from fmasearch.tasks.regression import Regression

DrawnObjective: TypeAlias = Callable[[Floats], Floats]
"""The objective of draws of groups, (D,), from how often each group was drawn, (D, G)."""


@dataclass(frozen=True)
class ResampledObjective:
    """The objective of one model's outputs, and what it is on each draw of the tracks."""

    value: float
    draws_D: Floats
    """NaN where a draw leaves the objective undefined."""


def resampled_objective(
    task: Task, outputs_NK: Tensor, targets: Tensor, groups_N: Integers, *, num_resamples: int = 2000, seed: int
) -> ResampledObjective:
    """The task's objective, on all tracks and on draws of their groups with replacement.

    Groups without any label are left out before drawing. Models with the same tracks and the same seed are scored
    on the same draws, so that their objectives can be subtracted draw by draw.

    Args:
        task: classification, regression or several at once; its objective is what is scored.
        outputs_NK: on the CPU.
        targets: as the task has them.
        groups_N: ids, e.g. of artists; -1 = unknown, a group of its own. `np.arange(N)` draws tracks.
        num_resamples: D.
        seed: of the drawing.
    """
    labelled_N = _labelled(targets)
    num_groups, group_of_N = group_rows(groups_N[labelled_N.numpy()])
    drawn = _drawn(task, outputs_NK[labelled_N], targets[labelled_N], num_groups, group_of_N)
    draws = [drawn(counts_DG) for counts_DG in drawn_counts(num_groups, num_resamples, seed)]
    return ResampledObjective(float(drawn(np.ones((1, num_groups)))[0]), np.concatenate(draws))


def _labelled(targets: Tensor) -> Tensor:
    """Which tracks have any label."""
    if not targets.is_floating_point():
        return targets >= 0
    return ~targets.isnan().all(1)


def _drawn(task: Task, outputs: Tensor, targets: Tensor, num_groups: int, group_of_N: Integers) -> DrawnObjective:
    if isinstance(task, Classification):
        said_N, num_classes = outputs.argmax(1).numpy(), len(task.class_names)
        of_classes = class_draws(targets.numpy(), said_N, num_groups, group_of_N, num_classes=num_classes)
        return lambda counts_DG: of_classes(counts_DG)[task.objective_metric]
    if isinstance(task, Regression):
        names = [target.name for target in task.targets]
        values = task.values(outputs).double().numpy()
        of_targets = target_draws(targets.double().numpy(), values, group_of_N, names)
        return lambda counts_DG: of_targets(counts_DG)[task.objective_metric]
    assert isinstance(task, Multitask)
    of_parts = [
        _drawn(part.task, part.outputs_of(outputs), part.targets_of(targets), num_groups, group_of_N)
        for part in task.parts
        if task.objective_part in ("mean", part.name)
    ]
    return lambda counts_DG: np.mean([drawn(counts_DG) for drawn in of_parts], axis=0)
