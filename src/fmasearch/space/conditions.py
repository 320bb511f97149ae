"""Conditions: the `when:` of a key, which other keys' values make it active, and the order that follows."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

from fmasearch.records import Params, Scalar
from fmasearch.space.distributions import Choice, Distribution, FloatRange, IntRange, same_value

_SIGNS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}


@dataclass(frozen=True, slots=True)
class IsOneOf:
    """`{scheduler/name: plateau}` or `{scheduler/name: [plateau, step_plateau]}`."""

    key: str
    values: tuple[Scalar, ...]

    def __str__(self) -> str:
        wanted = " or ".join(repr(value) for value in self.values)
        return f"{self.key} is {wanted}"

    def holds(self, value: Scalar) -> bool:
        return any(same_value(value, wanted) for wanted in self.values)

    def impossible(self, other: Distribution) -> str | None:
        """Why this can never hold, wholly or for one of its values, if `key` follows `other`; else None."""
        if isinstance(other, FloatRange) and other.step is None:
            return f"{self.key} is continuous and never equals a value; compare it, as in '>= {other.low}'"
        never = [repr(value) for value in self.values if not other.contains(value)]
        return f"{self.key} is {other}, never {' nor '.join(never)}" if never else None


@dataclass(frozen=True, slots=True)
class Compares:
    """`{model/num_layers: ">= 2"}`. Only numbers compare; a boolean, a text or null never holds."""

    key: str
    sign: str
    bound: float

    def __str__(self) -> str:
        return f"{self.key} {self.sign} {self.bound:g}"

    def holds(self, value: Scalar) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        return _SIGNS[self.sign](value, self.bound)

    def impossible(self, other: Distribution) -> str | None:
        """Why this can never hold if `key` follows `other`; None if it can. The ends of a range decide."""
        if any(self.holds(corner) for corner in other.corners()):
            return None
        return f"{self.key} is {other}, never {self.sign} {self.bound:g}"


Condition: TypeAlias = IsOneOf | Compares


def read_condition(key: str, wanted: object) -> Condition:
    """Read one entry of a `when:` mapping.

    Raises:
        ValueError: if `wanted` is neither a value, nor a list of values, nor a comparison.
    """
    if isinstance(wanted, str) and (match := re.fullmatch(r"\s*(>=|<=|>|<)\s*(\S+)\s*", wanted)):
        try:
            return Compares(key, match[1], float(match[2]))
        except ValueError:
            raise ValueError(f"{key}: only numbers compare, got {wanted!r}") from None
    values: list[Any] = wanted if isinstance(wanted, list) else [wanted]
    if not values or not all(value is None or isinstance(value, str | int | float) for value in values):
        raise ValueError(f"{key}: expected a value, a list of values or a comparison, got {wanted!r}")
    return IsOneOf(key, tuple(values))


def domain_of(constant: Scalar) -> Distribution:
    """A constant as a distribution of one value, so that conditions treat both alike."""
    return Choice((constant,))


def is_active(conditions: Iterable[Condition], values: Params) -> bool:
    """Whether all conditions hold; one on a key that `values` lacks, an inactive one, does not."""
    return all(each.key in values and each.holds(values[each.key]) for each in conditions)


def all_conditions(path: str, conditions: Mapping[str, tuple[Condition, ...]]) -> Iterator[Condition]:
    """The conditions of a key, those of the keys that they ask about, and so on: all hold where it takes part."""
    for condition in conditions.get(path, ()):
        yield condition
        yield from all_conditions(condition.key, conditions)


def can_hold(conditions: Collection[Condition], distribution: Distribution) -> bool:
    """Whether one value of `distribution`, which all of them ask about, fulfils all of them."""
    candidates = distribution.points() if isinstance(distribution, Choice) else _near(conditions, distribution)
    return any(all(condition.holds(value) for condition in conditions) for value in candidates)


def _near(conditions: Iterable[Condition], distribution: FloatRange | IntRange) -> list[Scalar]:
    """Values of a range of which one fulfils the conditions, if any does: ends, bounds, and what is beside them."""
    numbers: list[float] = [distribution.low, distribution.high]
    for condition in conditions:
        some = condition.values if isinstance(condition, IsOneOf) else (condition.bound,)
        numbers += [value for value in some if isinstance(value, int | float) and not isinstance(value, bool)]
    numbers = sorted(number for number in set(numbers) if distribution.low <= number <= distribution.high)
    step = distribution.step or (1 if isinstance(distribution, IntRange) else None)
    if step is None:
        return [*numbers, *((low + high) / 2 for low, high in pairwise(numbers))]
    indices = {round((number - distribution.low) / step) + shift for number in numbers for shift in (-1, 0, 1)}
    values = [distribution.low + index * step for index in indices]
    return [distribution.canonical(value) for value in values if distribution.contains(value)]


def sampling_order(keys: Iterable[str], conditions: Mapping[str, tuple[Condition, ...]]) -> tuple[str, ...]:
    """The order of the file, but every key after those that it depends on.

    Raises:
        ValueError: naming the circle, if keys wait for each other.
    """
    order: dict[str, None] = {}

    def visit(key: str, waiting: tuple[str, ...]) -> None:
        if key in waiting:
            circle = (*waiting[waiting.index(key) :], key)
            raise ValueError(f"conditions go round in a circle: {' -> '.join(circle)}")
        if key not in order:
            for condition in conditions.get(key, ()):
                visit(condition.key, (*waiting, key))
            order[key] = None

    for key in keys:
        visit(key, ())
    return tuple(order)
