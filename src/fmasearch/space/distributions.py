"""The distributions that a key of a search space can follow, and the trial that they are suggested to.

Optuna's words and limits, without importing it: a space is read and checked where optuna is not installed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Protocol, TypeAlias

from fmasearch.records import Scalar


class SuggestingTrial(Protocol):
    """What a space needs of a trial; `optuna.Trial` and `optuna.trial.FixedTrial` have it."""

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float: ...

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int: ...

    def suggest_categorical(self, name: str, choices: Sequence[Scalar]) -> Any: ...


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few values, in no order. Raises ValueError for an empty or ambiguous choice."""

    values: tuple[Scalar, ...]

    def __post_init__(self) -> None:
        if not self.values:
            raise ValueError("a choice needs at least one value")
        for position, value in enumerate(self.values):
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"a choice holds finite numbers, got {value}")
            for earlier in self.values[:position]:
                if same_value(earlier, value):
                    raise ValueError(f"a choice names each value once, got {value!r} twice")
                if earlier == value:  # optuna finds a choice by ==, so it would take one for the other
                    raise ValueError(f"optuna cannot tell {earlier!r} from {value!r} in one choice")

    def __str__(self) -> str:
        return "one of " + ", ".join(repr(value) for value in self.values)

    def suggest(self, trial: SuggestingTrial, path: str) -> Scalar:
        value: Scalar = trial.suggest_categorical(path, self.values)
        return value

    def contains(self, value: Scalar) -> bool:
        return any(same_value(value, choice) for choice in self.values)

    def canonical(self, value: Scalar) -> Scalar:
        """A contained value as the choice has it: 128 for 128.0."""
        return next(choice for choice in self.values if same_value(value, choice))

    def points(self) -> tuple[Scalar, ...]:
        return self.values

    def corners(self) -> tuple[Scalar, ...]:
        return self.values


@dataclass(frozen=True, slots=True)
class FloatRange:
    """A number in low..high, both ends included; `step` makes it a grid. Raises ValueError if impossible."""

    low: float
    high: float
    log: bool = False
    step: float | None = None

    def __post_init__(self) -> None:
        _check_range(self.low, self.high, self.log, self.step)

    def __str__(self) -> str:
        return f"a number in {self.low}..{self.high}" + _in_steps(self.step)

    def suggest(self, trial: SuggestingTrial, path: str) -> Scalar:
        return self.canonical(trial.suggest_float(path, self.low, self.high, step=self.step, log=self.log))

    def contains(self, value: Scalar) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        if not self.low <= value <= self.high:
            return False
        if self.step is None:
            return True
        steps = (value - self.low) / self.step
        return abs(steps - round(steps)) < 1e-8  # optuna's own tolerance

    def canonical(self, value: Scalar) -> Scalar:
        """A contained value as a float, 1.0 for 1; of a stepped range as one would write it, so that it can be found
        by `==`: 0.3 for 0.30000000000000004, which optuna makes of 0.1 + 2 * 0.1."""
        assert isinstance(value, int | float)
        if self.step is None:
            return float(value)
        low, step = Decimal(str(self.low)), Decimal(str(self.step))
        return float(low + round((Decimal(str(value)) - low) / step) * step)

    def points(self) -> tuple[Scalar, ...] | None:
        """Every value of a stepped range as one would write it (0.3, not 0.30000000000000004), else None."""
        if self.step is None:
            return None
        low, high, step = (Decimal(str(number)) for number in (self.low, self.high, self.step))
        return tuple(float(low + k * step) for k in range(int((high - low) / step) + 1))

    def corners(self) -> tuple[Scalar, ...]:
        return (self.low, self.high)

    def between(self) -> float:
        """A value inside that is no whole number, if there is one: a key for whole numbers refuses it."""
        inside = self.low + (self.step or (self.high - self.low) / math.pi)
        return min(inside, self.high)


@dataclass(frozen=True, slots=True)
class IntRange:
    """A whole number in low..high, both ends included. Raises ValueError if impossible."""

    low: int
    high: int
    log: bool = False
    step: int | None = None

    def __post_init__(self) -> None:
        _check_range(self.low, self.high, self.log, self.step)

    def __str__(self) -> str:
        return f"a whole number in {self.low}..{self.high}" + _in_steps(self.step)

    def suggest(self, trial: SuggestingTrial, path: str) -> Scalar:
        return trial.suggest_int(path, self.low, self.high, step=self.step or 1, log=self.log)

    def contains(self, value: Scalar) -> bool:
        if isinstance(value, bool) or not isinstance(value, int):
            return False
        return self.low <= value <= self.high and (value - self.low) % (self.step or 1) == 0

    def canonical(self, value: Scalar) -> Scalar:
        return value

    def points(self) -> tuple[Scalar, ...]:
        return tuple(range(self.low, self.high + 1, self.step or 1))

    def corners(self) -> tuple[Scalar, ...]:
        return (self.low, self.high)


Distribution: TypeAlias = Choice | FloatRange | IntRange


def same_value(left: Scalar, right: Scalar) -> bool:
    """Equality that keeps booleans apart from numbers, as Python's `True == 1` does not."""
    return isinstance(left, bool) == isinstance(right, bool) and left == right


def _check_range(low: float, high: float, log: bool, step: float | None) -> None:
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"low and high must be finite, got low={low}, high={high}")
    if low > high:
        raise ValueError(f"low <= high must hold, got low={low}, high={high}")
    if log and low <= 0:
        raise ValueError(f"log needs low > 0, got low={low}")
    if step is None:
        return
    if log:
        raise ValueError("log and step exclude each other: drop one, or list the values as a choice")
    if not (math.isfinite(step) and step > 0):
        raise ValueError(f"step > 0 must hold, got step={step}")
    _check_step_fits(low, high, step)


def _check_step_fits(low: float, high: float, step: float) -> None:
    """Optuna would lower `high` with a warning; a space says what it means."""
    exact_low, exact_high, exact_step = (Decimal(str(number)) for number in (low, high, step))
    rest = (exact_high - exact_low) % exact_step
    if rest:
        fitting = exact_high - rest
        raise ValueError(f"step {step} does not divide {low}..{high}; the fitting high is {fitting}")


def _in_steps(step: float | None) -> str:
    return "" if step is None else f" in steps of {step}"
