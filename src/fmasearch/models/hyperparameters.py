"""Hyperparameters of an architecture: read from its keyword signature, checked by name, type and range."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import NoneType
from typing import Annotated, Any, Literal, TypeAlias, get_args, get_origin, get_type_hints

from fmasearch.config import did_you_mean
from fmasearch.errors import ConfigError
from fmasearch.models.clip_model import ClipModel

Architecture: TypeAlias = Callable[..., ClipModel]
"""Builds a model from keywords."""

DATA_ARGUMENTS = ("input_dim", "num_frames", "output_dim")
"""Keywords that the data decides; every other keyword of an architecture is a hyperparameter."""


@dataclass(frozen=True, slots=True)
class Range:
    """Values from `low` to `high`, both allowed; `odd` leaves out even numbers."""

    low: float
    high: float = math.inf
    odd: bool = False

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high and not (self.odd and value % 2 == 0)

    def __str__(self) -> str:
        return f">= {self.low:g}" if self.high == math.inf else f"from {self.low:g} to {self.high:g}"


Count: TypeAlias = Annotated[int, Range(1)]
Depth: TypeAlias = Annotated[int, Range(1, 8)]
KernelSize: TypeAlias = Annotated[int, Range(1, odd=True)]  # an odd kernel keeps the number of frames
DropoutRate: TypeAlias = Annotated[float, Range(0, 0.95)]  # 1 would silence the layer

_WORDS = {bool: "true or false", str: "a text"}


def names_of(model: Architecture) -> list[str]:
    """Hyperparameters of an architecture, sorted."""
    return sorted(set(inspect.signature(model).parameters) - set(DATA_ARGUMENTS))


def described(model: Architecture) -> dict[str, tuple[str, object]]:
    """By name: which values a hyperparameter takes, in words, and its default; in the signature's order."""
    hints = get_type_hints(model, include_extras=True)
    parameters = inspect.signature(model).parameters
    return {
        name: (_describe(hints[name]), parameter.default)
        for name, parameter in parameters.items()
        if name not in DATA_ARGUMENTS
    }


def check_names(model: Architecture, architecture: str, names: Iterable[str]) -> None:
    """Raise `ConfigError` for the names that are not hyperparameters of `model`, one line for each."""
    known = names_of(model)
    problems = [
        f"model.{name}: unknown hyperparameter of {architecture}{did_you_mean(name, known)}"
        for name in names
        if name not in known
    ]
    if problems:
        raise ConfigError("\n".join(problems))


def check_values(model: Architecture, values: Mapping[str, Any]) -> None:
    """Raise `ConfigError` for the values that the signature's annotations forbid, one line for each."""
    hints = get_type_hints(model, include_extras=True)
    problems = [
        f"{_path(name)}: expected {_describe(hints[name])}, got {value!r}"
        for name, value in values.items()
        if not _allows(hints[name], value)
    ]
    if problems:
        raise ConfigError("\n".join(problems))


def _path(name: str) -> str:
    return name if name in DATA_ARGUMENTS else f"model.{name}"


def _allows(hint: Any, value: Any) -> bool:
    """Whether a value fits an annotation: a bool, a str, a number with its `Range`, a `Literal`, None, or a union."""
    if hint is NoneType:
        return value is None
    if hint in _WORDS:
        return isinstance(value, hint)
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if get_origin(hint) is Annotated:
        number, allowed = get_args(hint)
        return _is_a(number, value) and value in allowed
    return any(_allows(part, value) for part in get_args(hint))


def _is_a(number: type, value: Any) -> bool:
    """An int counts as a float, but a bool, although Python's int, is no number here."""
    return isinstance(value, int | float if number is float else int) and not isinstance(value, bool)


def _describe(hint: Any) -> str:
    if hint is NoneType:
        return "null"
    if hint in _WORDS:
        return _WORDS[hint]
    if get_origin(hint) is Literal:
        return f"one of {', '.join(str(word) for word in get_args(hint))}"
    if get_origin(hint) is Annotated:
        number, allowed = get_args(hint)
        noun = "a number" if number is float else "an odd integer" if allowed.odd else "an integer"
        return f"{noun} {allowed}"
    return " or ".join(_describe(part) for part in get_args(hint))
