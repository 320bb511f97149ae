"""Words and tables: numbers as people write them, and Markdown around them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fmasearch.records import Scalar
from fmasearch.space import Choice, Distribution, FloatRange, IntRange


def score(value: float) -> str:
    """Three decimals; a dash for what was not measured."""
    return f"{value:.3f}" if math.isfinite(value) else "–"


def signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−") if math.isfinite(value) else "–"


def count(number: int, noun: str) -> str:
    """`1 trial`, `1,200 trials`."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def duration(seconds: float) -> str:
    """`0.4 s`, `42 s`, `12 min 5 s`, `3 h 20 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60:,} h {minutes % 60} min"


def value(param: Scalar) -> str:
    """A parameter to three significant digits; whole numbers, words and switches as they are."""
    if isinstance(param, float):
        return f"{param:.3g}"
    return "null" if param is None else str(param)


def distribution(of: Distribution) -> str:
    """What a key may be: `16, 32, 64`, `0.0001 to 0.003, log`, `2 to 4`."""
    match of:
        case Choice(values):
            return ", ".join(value(each) for each in values)
        case FloatRange(low, high, log, step) | IntRange(low, high, log, step):
            steps = "" if step is None else f", in steps of {value(step)}"
            return f"{value(low)} to {value(high)}" + (", log" if log else "") + steps


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1) -> str:
    """A Markdown table; all columns but the first `left` are aligned right, as numbers are."""
    marks = ["---" if column < left else "---:" for column in range(len(header))]
    lines = ("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in rows)
    return "\n".join(["| " + " | ".join(header) + " |", "| " + " | ".join(marks) + " |", *lines])


def flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as (path, text) pairs, in their order."""
    pairs: list[tuple[str, str]] = []
    for key, each in values.items():
        if isinstance(each, Mapping):
            pairs += flat(each, f"{prefix}{key}/")
        elif isinstance(each, list | tuple):
            pairs.append((f"{prefix}{key}", ", ".join(str(item) for item in each)))
        else:
            pairs.append((f"{prefix}{key}", "" if each is None else str(each)))
    return pairs


def picture(name: str, words: str, available: Sequence[str]) -> str:
    """A picture on the page, if it is available; `words` say what it shows."""
    return f"![{words}]({name}.svg)" if name in available else ""
