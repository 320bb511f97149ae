"""Near-duplicates: which earlier trial a sampled configuration all but repeats."""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np

from fmasearch.records import Params, Scalar
from fmasearch.space import Distribution, FloatRange, Space

MAX_RESAMPLES = 5
"""So many samples in a row are turned down as near-duplicates; the next one is taken, for a space may be small."""

_Alike: TypeAlias = tuple[tuple[str, Scalar], ...]


class EarlierTrials:
    """The configurations that a study has tried, by what must be equal: active keys, choices, whole numbers.

    Args:
        space: whose keys they have.
        min_distance: as `SamplerConfig.min_distance`.
    """

    def __init__(self, space: Space, min_distance: float) -> None:
        self._space = space
        self._min_distance = min_distance
        self._numbers: dict[_Alike, list[int]] = {}
        self._points: dict[_Alike, list[list[float]]] = {}

    def add(self, number: int, params: Params) -> None:
        """Remember the configuration of trial `number`."""
        alike, point = self._parts(params)
        self._numbers.setdefault(alike, []).append(number)
        self._points.setdefault(alike, []).append(point)

    def nearest(self, params: Params) -> int | None:
        """The number of the earlier trial that `params` repeat or are too near to; None if there is none."""
        alike, point = self._parts(params)
        if alike not in self._points:
            return None
        distances = np.abs(np.array(self._points[alike]) - point).max(axis=1, initial=0.0)
        nearest = int(distances.argmin())
        return self._numbers[alike][nearest] if distances[nearest] <= self._min_distance else None

    def _parts(self, params: Params) -> tuple[_Alike, list[float]]:
        """What has to be equal, and the continuous numbers in 0..1 of their ranges."""
        alike: list[tuple[str, Scalar]] = []
        point: list[float] = []
        for path in sorted(params):
            value = params[path]
            position = _position(self._space.distributions.get(path), value)
            if position is None:
                alike.append((path, _plain(value)))
            else:
                alike.append((path, None))
                point.append(position)
        return tuple(alike), point


def _position(distribution: Distribution | None, value: Scalar) -> float | None:
    """Where a number lies in its continuous range, in the scale it is sampled in; None for anything else."""
    if not isinstance(distribution, FloatRange) or distribution.step is not None or not distribution.contains(value):
        return None
    assert isinstance(value, int | float)
    scale = math.log if distribution.log else float
    low, high = scale(distribution.low), scale(distribution.high)
    return (scale(value) - low) / (high - low) if high > low else 0.0


def _plain(value: Scalar) -> Scalar:
    """Stepped numbers differ in their last bits, by whether they were sampled or written down."""
    return float(f"{value:.12g}") if isinstance(value, float) else value
