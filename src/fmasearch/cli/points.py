"""Points of a space without a search: its first one, and random ones around its known-good points."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from fmasearch.records import Params, Scalar
from fmasearch.space import Space


def first_point(space: Space) -> tuple[str, Params]:
    """The first known-good point and its name, else `first values`; open keys take their first or lowest value."""
    name, given = next(iter(space.known_good.items()), ("first values", {}))
    return name, space.sample(_PointTrial(given))


def some_points(space: Space, *, num_random: int, seed: int) -> Iterator[tuple[str, Params]]:
    """The first point, every other known-good one, and random ones, each with its name."""
    yield first_point(space)
    for name, given in list(space.known_good.items())[1:]:
        yield name, space.sample(_PointTrial(given))
    generator = random.Random(seed)
    for _ in range(num_random):
        yield "a sample", space.sample(_PointTrial({}, generator))


class _PointTrial:
    """Suggests the values of `given`; of what it leaves open the first or lowest, or, with a generator, any."""

    def __init__(self, given: Params, generator: random.Random | None = None) -> None:
        self._given = given
        self._generator = generator

    def suggest_categorical(self, name: str, choices: Sequence[Scalar]) -> Scalar:
        if name in self._given:
            return self._given[name]
        return self._generator.choice(choices) if self._generator else choices[0]

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        if name in self._given:
            return float(str(self._given[name]))
        if not self._generator:
            return low
        if step is not None:
            return low + step * self._generator.randint(0, round((high - low) / step))
        return self._generator.uniform(low, high)  # shapes are asked about, and they have no scale

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        if name in self._given:
            return int(str(self._given[name]))
        return self._generator.randrange(low, high + 1, step) if self._generator else low
