"""A short probe: how long an epoch takes, measured on a few batches of the real data and device."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from fmasearch.config import TrainConfig
from fmasearch.data import Dataset
from fmasearch.errors import DivergedError
from fmasearch.planning.samples import Sample
from fmasearch.trainer import Trainer

_WARM_UP_BATCHES = 2


@dataclass(frozen=True, slots=True)
class Probe:
    """One sample that was trained for a moment."""

    sample: Sample
    size: str
    """Which of the samples it is, by FLOPs: `smallest`, `median`, `90 %`."""
    epoch_seconds: float
    """Of a whole epoch with its validation, scaled up from the share that was trained."""
    share: float
    """Of an epoch that was trained for it."""
    cpu_share: float
    """CPU seconds over seconds: on a CPU below 1 where others took a core away meanwhile, above it with threads."""


def choose_probes(samples: Sequence[Sample], flops: Sequence[float]) -> list[tuple[str, Sample]]:
    """By FLOPs of an epoch the smallest, the median and the 90 % sample; of several architectures the outer two each.

    Samples of the same configuration are chosen once.
    """
    by_architecture: dict[str, list[tuple[float, Sample]]] = {}
    for sample, each in zip(samples, flops, strict=True):
        by_architecture.setdefault(sample.config.architecture, []).append((each, sample))
    places = {"smallest": 0.0, "median": 0.5, "90 %": 0.9}
    if len(by_architecture) > 1:
        del places["median"]
    chosen: list[tuple[str, Sample]] = []
    for group in by_architecture.values():
        ordered = [sample for _, sample in sorted(group, key=lambda pair: pair[0])]
        found = [(size, ordered[round(place * (len(ordered) - 1))]) for size, place in places.items()]
        chosen += [pair for index, pair in enumerate(found) if all(pair[1] is not one for _, one in found[:index])]
    return chosen


def measure(sample: Sample, size: str, dataset: Dataset, *, device: str, seconds: float) -> Probe:
    """Train and validate a share of an epoch that takes about `seconds`, after a warm-up; torch's threads as set."""
    batch_size = sample.config.trainer.batch_size
    warm_up = _part(dataset, _WARM_UP_BATCHES * batch_size)
    _run(sample.config, warm_up, device)  # kernels are chosen and compiled, pages are read
    took, cpu = _run(sample.config, warm_up, device)
    part, num_batches = warm_up, math.ceil(len(warm_up.train) / batch_size * seconds / max(took, 1e-6))
    if took < seconds / 2:
        part = _part(dataset, num_batches * batch_size)
        took, cpu = _run(sample.config, part, device)
    share = len(part.train) / len(dataset.train)
    return Probe(sample, size, took / share, share, cpu / took)


def _part(dataset: Dataset, num_train: int) -> Dataset:
    """Some of train, and as large a share of val."""
    train = dataset.train.head(num_train)
    if dataset.val is None:
        return replace(dataset, train=train)
    num_val = max(1, round(len(dataset.val) * len(train) / len(dataset.train)))
    return replace(dataset, train=train, val=dataset.val.head(num_val))


def _run(config: TrainConfig, part: Dataset, device: str) -> tuple[float, float]:
    """Seconds and CPU seconds of an epoch over `part`; a loss that is no number takes as long as any other."""
    trainer = Trainer(_calm(config), part, device=device)
    started, cpu = time.perf_counter(), time.process_time()
    with suppress(DivergedError):
        next(trainer.epochs())
    return time.perf_counter() - started, time.process_time() - cpu


def _calm(config: TrainConfig) -> TrainConfig:
    """The same work at a learning rate that breaks nothing; classes weigh alike, as some may be absent from a part."""
    return config.model_copy(
        update={
            "optimizer": config.optimizer.model_copy(update={"learning_rate": 1e-6}),
            "loss": config.loss.model_copy(update={"class_weights": "none"}),
            "trainer": config.trainer.model_copy(update={"max_epochs": 2, "patience": None}),
        }
    )
