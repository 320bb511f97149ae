"""Constraints: ceilings that a sampled configuration must keep, such as `parameters: "<= 5e6"`.

A space only reads and words them; whoever can build a model counts, and rejects what is too large. Only a training
shows how long an epoch takes: a trial that is too slow is stopped after its second one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from fmasearch.config import did_you_mean
from fmasearch.space.editing import with_section

QUANTITIES = {
    "parameters": "parameters of the model, frozen ones included",
    "flops": "floating-point operations of one clip's forward pass, 2 for a multiplication and an addition",
    "epoch_seconds": "seconds of an epoch with its validation, the faster of a trial's first two",
}
"""What can be limited, and what it counts."""

MEASURED = ("epoch_seconds",)
"""Of these nobody knows the value before a training."""

MEASURED_EPOCHS = 2
"""Epochs until a measured ceiling is applied: the first one also loads data and compiles kernels."""

MAX_REJECTIONS = 1_000
"""So many samples in a row that break a constraint, and it leaves too little of the space to be searched."""

MAX_FILLS = 100
"""So many ways are tried to fill the keys that a known-good point leaves open, until one keeps the constraints."""

_SUFFIXES = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}
_SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True, slots=True)
class Constraint:
    """`parameters: "<= 5e6"`; `sign` is `<=` or `<`."""

    quantity: str
    sign: str
    bound: float

    def __str__(self) -> str:
        return f"{self.quantity} {self.sign} {self.bound:,.15g}"

    @property
    def text(self) -> str:
        """The ceiling as a space file has it: `<= 5_000_000`."""
        return f"{self.sign} {self.bound:_.0f}" if self.bound == round(self.bound) else f"{self.sign} {self.bound!r}"

    def holds(self, value: float) -> bool:
        return value < self.bound if self.sign == "<" else value <= self.bound


@dataclass(frozen=True, slots=True)
class Violation:
    """A constraint that does not hold, and the value that breaks it."""

    constraint: Constraint
    value: float

    def __str__(self) -> str:
        return f"{self.constraint} must hold, got {self.value:,.15g}"


def first_violation(constraints: Iterable[Constraint], values: Mapping[str, float]) -> Violation | None:
    """The first constraint that `values`, by quantity, do not keep; None if they keep all that they tell about."""
    broken = (c for c in constraints if c.quantity in values and not c.holds(values[c.quantity]))
    return next((Violation(constraint, values[constraint.quantity]) for constraint in broken), None)


def known_before_training(constraints: Iterable[Constraint]) -> tuple[Constraint, ...]:
    """Those whose value follows from a configuration."""
    return tuple(constraint for constraint in constraints if constraint.quantity not in MEASURED)


def too_slow(constraints: Iterable[Constraint], epoch_seconds: Sequence[float]) -> Violation | None:
    """What a trial breaks by how long its epochs took, once it has had two; the faster of the two counts.

    Args:
        epoch_seconds: of all its epochs so far, in order, those before a resume included. Later ones change nothing:
            a neighbour may slow them down.
    """
    if len(epoch_seconds) < MEASURED_EPOCHS:
        return None
    return first_violation(constraints, {"epoch_seconds": min(epoch_seconds[:MEASURED_EPOCHS])})


def read_constraint(quantity: str, wanted: object) -> Constraint:
    """Read one entry of `constraints:`.

    Raises:
        ValueError: if nothing of that name can be limited, or `wanted` is no ceiling.
    """
    if quantity not in QUANTITIES:
        raise ValueError(f"cannot be limited{did_you_mean(quantity, list(QUANTITIES))}")
    match = re.fullmatch(r"\s*(<=|<)\s*(\S+)\s*", wanted) if isinstance(wanted, str) else None
    if match is None:
        examples = "'<= 90' or '< 1.5m'" if quantity in MEASURED else "'<= 5e6' or '< 5M'"
        raise ValueError(f"expected a ceiling such as {examples}, got {wanted!r}")
    return Constraint(quantity, match[1], read_seconds(match[2]) if quantity in MEASURED else read_number(match[2]))


def read_number(text: str) -> float:
    """A positive number as people write large ones: 5000000, 5_000_000, 5e6, 5M; suffixes k, M, G, T.

    Raises:
        ValueError: for anything else.
    """
    match = re.fullmatch(r"([0-9][0-9_]*(?:\.[0-9]+)?(?:e\+?[0-9]+)?)([kmgt]?)", text.strip().lower())
    number = float(match[1]) * _SUFFIXES[match[2]] if match else 0.0
    if not 0 < number < math.inf:
        raise ValueError(f"expected a number above 0, such as 5e6, 5_000_000 or 5M, got {text!r}")
    return number


def read_seconds(text: str) -> float:
    """A positive duration in seconds: 90, 90s, 1.5m, 1h.

    Raises:
        ValueError: for anything else.
    """
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([smh]?)", text.strip())
    seconds = float(match[1]) * _SECONDS[match[2]] if match else 0.0
    if not seconds > 0:
        raise ValueError(f"expected seconds above 0, or a duration such as 90s or 1.5m, got {text!r}")
    return seconds


def with_constraints(text: str, constraints: Iterable[Constraint]) -> str:
    """The YAML of a space with its `constraints:` replaced, or added at the end; the rest stays as it is."""
    content = ", ".join(f'{c.quantity}: "{c.text}"' for c in constraints)
    return with_section(text, "constraints", f"{{{content}}}")
