"""The seconds of an epoch as a line over its floating-point operations, one line for each architecture."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fmasearch.config import TrainConfig
from fmasearch.costs import ModelCost
from fmasearch.metrics import Floats

_SHARES = np.linspace(0.0, 1.0, 101)

FASTEST, SLOWEST = 0.75, 1.6
"""What a whole search may take, over what a line through three of its trials predicts.

19 recorded studies (12 to 60 trials each, one CPU thread a trial, two trials at a time) took 0.76 to 1.62 times what
the line through their smallest, median and 90 % trial predicts: machines are shared, and FLOPs are not all that
counts. A line through all their trials is 0.91 to 1.17 off."""


def training_flops(config: TrainConfig, cost: ModelCost, *, num_train: int, num_val: int, num_frames: int) -> float:
    """Floating-point operations of one epoch with its validation.

    A training step takes those of the forward pass three times, less for what is frozen and for patches left out;
    validation takes them once for every crop.

    Args:
        num_train: training tracks.
        num_val: validation tracks.
        num_frames: of a track.
    """
    steps = 1 + 2 * cost.trainable_parameters / max(1, cost.parameters)
    for name in ("patchout_time", "patchout_frequency"):
        steps *= 1 - float(config.hyperparameters.get(name) or 0.0)
    crop = config.crop
    num_crops = crop.num_eval if crop.frames is not None and crop.frames < num_frames else 1
    return cost.flops * (num_train * steps + num_val * num_crops)


@dataclass(frozen=True, slots=True)
class Line:
    """Seconds = `fixed` + `per_flop` * FLOPs of an epoch; both are 0 or more."""

    fixed: float
    per_flop: float

    def seconds(self, flops: float) -> float:
        return self.fixed + self.per_flop * flops


@dataclass(frozen=True, slots=True)
class SecondsModel:
    """What was fitted, and how far measurements are from it."""

    lines: Mapping[str, Line]
    """By architecture."""
    overall: Line
    """For an architecture of which nothing was measured."""
    ratios: tuple[float, ...]
    """Measured over predicted seconds, of each measurement."""

    def seconds(self, architecture: str, flops: float) -> float:
        """Of an epoch of so many FLOPs."""
        return self.lines.get(architecture, self.overall).seconds(flops)


def fit_seconds(measured: Sequence[tuple[str, float, float]]) -> SecondsModel:
    """Fit a line for each architecture, and one for all.

    Args:
        measured: architecture, FLOPs of an epoch, seconds of an epoch; at least one.
    """
    lines = {
        architecture: _line([(flops, seconds) for name, flops, seconds in measured if name == architecture])
        for architecture in dict.fromkeys(name for name, _, _ in measured)
    }
    ratios = tuple(seconds / lines[name].seconds(flops) for name, flops, seconds in measured)
    return SecondsModel(lines, _line([(flops, seconds) for _, flops, seconds in measured]), ratios)


def _line(points: Sequence[tuple[float, float]]) -> Line:
    """The line of least absolute error of the logarithm: one measurement that a neighbour slowed down does not tilt it.

    Its shape is one of 101 between constant and proportional; its scale is the median of what is measured over it.
    """
    flops_N: Floats = np.array([flops for flops, _ in points], dtype=np.float64)
    seconds_N: Floats = np.array([seconds for _, seconds in points], dtype=np.float64)
    largest = float(flops_N.max()) or 1.0
    best_error, best = np.inf, Line(float(np.median(seconds_N)), 0.0)
    for share in _SHARES:
        shape_N = (1 - share) + share * flops_N / largest
        if not shape_N.all():
            continue
        log_ratio_N = np.log(seconds_N / shape_N)
        middle = statistics.median(log_ratio_N.tolist())
        error = float(np.abs(log_ratio_N - middle).sum())
        if error < best_error - 1e-12:
            scale = float(np.exp(middle))
            best_error, best = error, Line(scale * (1 - float(share)), scale * float(share) / largest)
    return best
