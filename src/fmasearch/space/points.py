"""Points of a space without Optuna: its first one, and random ones, for a look at the space."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fmasearch.records import Params, Scalar
from fmasearch.space import Space
from fmasearch.space.paths import ARCHITECTURE


def first_point(space: Space) -> tuple[str, Params]:
    """The first known-good point and its name, else `first values`; open keys take their first or lowest value."""
    name, given = next(iter(space.known_good.items()), ("first values", {}))
    return name, space.sample(PointTrial(given))


def first_points(space: Space) -> Iterator[tuple[str, Params]]:
    """The first point of each architecture: its first known-good point that names it, else its first values."""
    if ARCHITECTURE not in space.distributions:
        yield first_point(space)
        return
    for architecture in space.architectures:
        named = (each for each in space.known_good.items() if each[1].get(ARCHITECTURE) == architecture)
        name, given = next(named, (f"first values of {architecture}", {ARCHITECTURE: architecture}))
        yield name, space.sample(PointTrial(given))


def some_points(space: Space, *, num_random: int, seed: int) -> Iterator[tuple[str, Params]]:
    """The first point, every other known-good one, and random ones, each with its name."""
    yield first_point(space)
    for name, given in list(space.known_good.items())[1:]:
        yield name, space.sample(PointTrial(given))
    generator = random.Random(seed)
    for _ in range(num_random):
        yield "a sample", space.sample(PointTrial({}, generator))


class PointTrial:
    """Suggests the values of `given`; of what it leaves open the first or lowest, or, with a generator, any."""

    def __init__(self, given: Params, generator: random.Random | None = None) -> None:
        self._given: Mapping[str, Any] = given
        self._generator = generator

    def suggest_categorical(self, name: str, choices: Sequence[Scalar]) -> Scalar:
        if name in self._given:
            value: Scalar = self._given[name]
            return value
        return self._generator.choice(list(choices)) if self._generator else choices[0]

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        if name in self._given:
            return float(self._given[name])
        if self._generator is None:
            return low
        if step is not None:
            steps = self._generator.randint(0, round((high - low) / step))
            return min(high, low + steps * step)  # 3 * 0.05 is above 0.15
        if log:
            return float(min(high, max(low, low * (high / low) ** self._generator.random())))
        return self._generator.uniform(low, high)

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        if name in self._given:
            return int(self._given[name])
        if self._generator is None:
            return low
        if log:  # half a unit beyond both ends, so that they too are drawn
            exponent = self._generator.uniform(math.log(low - 0.5), math.log(high + 0.5))
            return min(high, max(low, round(math.exp(exponent))))
        return self._generator.randrange(low, high + 1, step)
