"""The distributions of W&B sweeps, written as the leaves of a space file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, TypeAlias

from fmasearch.config import did_you_mean
from fmasearch.records import Scalar
from fmasearch.space.distributions import Choice, same_value

Leaf: TypeAlias = Scalar | dict[str, Any]
"""A constant, or a distribution as in `{choice: [1, 2]}`."""

WITHOUT_EQUIVALENT = ("normal", "q_normal", "log_normal", "q_log_normal", "beta", "q_beta")
RANGES = (
    "uniform", "int_uniform", "q_uniform", "log_uniform", "log_uniform_values", "q_log_uniform",
    "q_log_uniform_values", "inv_log_uniform", "inv_log_uniform_values",
)  # fmt: skip
_CATEGORICAL = ("categorical", "categorical_w_probabilities")


def leaf_of(spec: Mapping[str, Any], *, whole: bool) -> tuple[Leaf, list[str]]:
    """One parameter of a sweep as a leaf, and what changed on the way.

    Args:
        spec: such as {values: [1, 2]}, or {distribution: log_uniform_values, min: 1e-4, max: 1e-2}.
        whole: only whole numbers make sense, whatever the distribution says.

    Raises:
        ValueError: saying why there is no such leaf.
    """
    name = spec.get("distribution") or _implied(spec)
    if name == "constant":
        if not _is_scalar(spec.get("value")) or "value" not in spec:
            raise ValueError(f"expected a single value, got {spec.get('value')!r}")
        return spec["value"], []
    if name in _CATEGORICAL:
        return _choice(spec)
    if name in WITHOUT_EQUIVALENT:
        raise ValueError(f"there is no {name} distribution here; give min and max, or values")
    if name not in RANGES:
        raise ValueError(f"unknown distribution {name!r}{did_you_mean(str(name), ['categorical', *RANGES])}")
    low, high = _end(spec, "min"), _end(spec, "max")
    if "log" in name:
        return _log_range(name, low, high, spec, whole=whole)
    if name == "q_uniform":
        return _stepped(low, high, _quantum(spec))
    if name == "int_uniform" or whole:
        return {"int": [math.ceil(low), math.floor(high)]}, [] if name == "int_uniform" else ["whole numbers only"]
    return {"float": [low, high]}, []


def _implied(spec: Mapping[str, Any]) -> str:
    """W&B's own rules for a parameter without a distribution."""
    if "value" in spec:
        return "constant"
    if "values" in spec:
        return "categorical"
    if not {"min", "max"} <= spec.keys():
        raise ValueError(f"expected value, values, or min and max, got {', '.join(map(str, spec)) or 'nothing'}")
    return "int_uniform" if all(isinstance(spec[end], int) for end in ("min", "max")) else "uniform"


def _choice(spec: Mapping[str, Any]) -> tuple[Leaf, list[str]]:
    values = spec.get("values")
    if not isinstance(values, list) or not values or not all(map(_is_scalar, values)):
        raise ValueError(f"expected a list of single values, got {values!r}")
    different: list[Scalar] = []
    for value in values:
        if not any(same_value(value, earlier) for earlier in different):
            different.append(value)
    Choice(tuple(different))  # says what optuna could not tell apart
    notes = ["probabilities are left out: every value is equally likely"] if "probabilities" in spec else []
    if len(different) < len(values):
        notes.append("values that came twice count once")
    return (different[0] if len(different) == 1 else {"choice": different}), notes


def _log_range(name: str, low: float, high: float, spec: Mapping[str, Any], *, whole: bool) -> tuple[Leaf, list[str]]:
    notes = []
    if not name.endswith("_values"):  # its ends are exponents of e, of 1/x for the inverse
        low, high = (-high, -low) if name.startswith("inv") else (low, high)
        low, high = (float(f"{math.exp(end):.6g}") for end in (low, high))
        notes.append(f"min and max are exponents in W&B: {low:g}..{high:g}")
    if name.startswith("q_"):
        quantum = _quantum(spec)
        whole = whole or quantum == int(quantum)
        if quantum != 1:
            notes.append(f"q: {quantum} is left out: a log range has no steps")
    elif whole:
        notes.append("whole numbers only")
    if whole:
        return {"int": [max(1, math.ceil(low)), math.floor(high)], "log": True}, notes
    return {"float": [low, high], "log": True}, notes


def _stepped(low: float, high: float, quantum: Decimal) -> tuple[Leaf, list[str]]:
    """W&B rounds to multiples of q, also beyond the ends."""
    ends = [round(Decimal(str(end)) / quantum) * quantum for end in (low, high)]
    moved = [float(end) for end in ends] != [low, high]
    notes = [f"multiples of q: {ends[0]}..{ends[1]}"] if moved else []
    if quantum == int(quantum):
        step = {} if quantum == 1 else {"step": int(quantum)}
        return {"int": [int(end) for end in ends], **step}, notes
    return {"float": [float(end) for end in ends], "step": float(quantum)}, notes


def _quantum(spec: Mapping[str, Any]) -> Decimal:
    quantum = spec.get("q", 1)
    if not _is_number(quantum) or quantum <= 0:
        raise ValueError(f"q: expected a number above 0, got {quantum!r}")
    return Decimal(str(quantum))


def _end(spec: Mapping[str, Any], key: str) -> Any:
    if not _is_number(spec.get(key)):
        raise ValueError(f"{key}: expected a number, got {spec.get(key)!r}")
    return spec[key]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_scalar(value: object) -> bool:
    return value is None or isinstance(value, str | int | float)
