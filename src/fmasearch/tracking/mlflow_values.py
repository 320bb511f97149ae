"""Records as MLflow's values: params, metrics and tags within its limits."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from typing import Any

from mlflow.entities import Metric

from fmasearch.records import EpochResult, FinalRecord, TrialRecord

PARAM_LENGTH = 6000
TAG_LENGTH = 5000


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """A nested configuration as params: `optimizer/learning_rate` -> `0.001`; lists are written as JSON.

    So is a mapping inside a section: its keys, such as the names of genres, are words that MLflow may not take.
    """
    flat: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value and not prefix:
            flat |= flatten(value, f"{prefix}{key}/")
        else:
            text = json.dumps(value) if isinstance(value, list | tuple | dict) else str(value)
            flat[f"{prefix}{key}"] = text[:PARAM_LENGTH]
    return flat


def metric(name: str, value: float, step: int = 0) -> Metric:
    return Metric(name, float(value), int(time.time() * 1000), step)


def epoch_metrics(result: EpochResult) -> list[Metric]:
    """The epoch's own metrics, its learning rate and its seconds, and nothing else; the step is the epoch."""
    values = {
        **result.metrics,
        "learning_rate": result.learning_rate,
        "epoch_seconds": result.epoch_seconds,
    }
    return [metric(name, value, result.epoch) for name, value in values.items()]


def trial_metrics(record: TrialRecord, objective_metric: str) -> list[Metric]:
    """What a trial came to, without steps: columns of MLflow's table of runs."""
    values = [metric("num_epochs", len(record.epochs))]
    if record.best is not None:
        values += [
            metric(f"best_{objective_metric}", record.best.objective),
            metric("best_epoch", record.best.epoch),
        ]
    return values


def final_values(final: FinalRecord) -> Iterator[tuple[str, float]]:
    """`test_<metric>`, `test_<metric>_low|high`, the ends of its interval, and `test_baseline_<metric>`."""
    for name, value in final.test.metrics.items():
        yield f"test_{name}", value
    for name, interval in final.test.intervals.items():
        yield f"test_{name}_low", interval.low
        yield f"test_{name}_high", interval.high
    for name, value in final.test.baseline.items():
        yield f"test_baseline_{name}", value
    yield "num_parameters", float(final.num_parameters)


def cut(tags: Mapping[str, str]) -> dict[str, str]:
    """Tags short enough for MLflow; of an error message, the beginning."""
    return {key: value[:TAG_LENGTH] for key, value in tags.items()}
