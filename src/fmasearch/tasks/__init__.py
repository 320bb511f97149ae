"""Tasks: what is predicted, hence how many outputs, which loss, which metrics, which objective."""

from __future__ import annotations

from collections.abc import Sequence

from fmasearch.config import LossConfig, TaskConfig
from fmasearch.errors import ConfigError
from fmasearch.records import Objective, TargetStats
from fmasearch.tasks.base import Task
from fmasearch.tasks.classification import Classification, class_weights
from fmasearch.tasks.multitask import Multitask, Part, part_scores
from fmasearch.tasks.regression import Regression

__all__ = ["Classification", "Multitask", "Part", "Regression", "Task", "build_task", "part_scores", "study_objective"]


def build_task(
    config: TaskConfig,
    class_names: Sequence[str] = (),
    targets: Sequence[TargetStats] = (),
    *,
    loss: LossConfig = LossConfig(),
    class_counts: Sequence[int] | None = None,
) -> Task:
    """The task that a configuration names, over the labels that the data has.

    Args:
        config: what is predicted.
        class_names: in the order of the outputs; none unless something is classified.
        targets: the numeric labels with their training statistics, in the order of the outputs.
        loss: which errors count how much in training.
        class_counts: training tracks of each class; needed unless `loss.class_weights` is none.

    Raises:
        ConfigError: if there is nothing to tell apart, or nothing to weigh classes by.
    """
    if config.classification is not None:
        return _classification(config.classification, config.objective_metric, class_names, loss, class_counts)
    if config.regression:
        return Regression(tuple(targets), config.objective_metric, loss.regression, loss.huber_delta)
    parts: list[Part] = []
    for name, labels in config.parts.items():
        outputs = sum(part.task.output_dim for part in parts)
        column = parts[-1].targets.stop if parts else 0
        task: Classification | Regression
        if isinstance(labels, str):
            task = _classification(labels, "macro_f1", class_names, loss, class_counts)
            width, weight = 1, 1.0
        else:
            stats = tuple(target for target in targets if target.name in labels)
            task = Regression(stats, "spearman", loss.regression, loss.huber_delta)
            width, weight = len(stats), loss.regression_weight
        parts.append(Part(name, task, slice(outputs, outputs + task.output_dim), slice(column, column + width), weight))
    return Multitask(tuple(parts), config.objective_metric, loss.weighting == "uncertainty")


def _classification(
    label: str,
    objective: str,
    class_names: Sequence[str],
    loss: LossConfig,
    class_counts: Sequence[int] | None,
) -> Classification:
    if len(class_names) < 2:
        raise ConfigError(f"task: {label!r} needs at least two classes, got {list(class_names)}")
    weights = None if loss.class_weights == "none" else class_weights(loss, class_names, class_counts)
    return Classification(tuple(class_names), objective, loss.label_smoothing, weights)


def study_objective(config: TaskConfig) -> Objective:
    """What trials are compared by, which the data has no part in; equals `build_task(...).objective`."""
    metric = config.objective_metric
    if config.multitask and metric != "mean":
        metric = f"{metric}_{'macro_f1' if isinstance(config.parts[metric], str) else 'spearman'}"
    return Objective(f"val_{metric}", config.objective_mode)
