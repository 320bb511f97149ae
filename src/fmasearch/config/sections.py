"""A frozen block of settings, and the words for what is wrong with one.

Pydantic parses here, once; past this door code takes plain typed values.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fmasearch.errors import ConfigError

PositiveInt = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
S = TypeVar("S", bound="Section")


class Section(BaseModel):
    """A frozen block of settings; unknown keys are errors. A field's docstring is what `spaces keys` shows."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


def parse_section(section: type[S], values: Mapping[str, Any], *, source: str) -> S:
    """Validate `values` as a `section`; every problem becomes one line of one `ConfigError`."""
    try:
        return section.model_validate(dict(values))
    except ValidationError as error:
        lines = [f"{source}: {explain(section, problem)}" for problem in error.errors()]
        raise ConfigError("\n".join(lines)) from None


def explain(section: type[BaseModel], problem: Any) -> str:
    """One pydantic problem in words: key, what was expected, what came, and the nearest known key."""
    key = ".".join(str(part) for part in problem["loc"] if not str(part).startswith("function-"))
    if problem["type"] == "extra_forbidden":
        known = sorted(_fields_at(section, problem["loc"][:-1]))
        return f"{key}: unknown key{did_you_mean(str(problem['loc'][-1]), known)}"
    if problem["type"] == "missing":
        return f"{key}: required, but absent"
    message = problem["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    prefix = f"{key}: " if key else ""
    shown = problem.get("input")
    return f"{prefix}{message}" + ("" if isinstance(shown, Mapping | BaseModel) else f", got {shown!r}")


def did_you_mean(word: str, known: list[str]) -> str:
    """`; did you mean 'x'?` when something close is known, else the list of what is."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known here: {', '.join(known)}" if known else ""


def _fields_at(section: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """Names of the fields of the section that `loc` leads to."""
    for part in loc:
        field = section.model_fields.get(str(part))
        annotation = field.annotation if field else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        section = annotation
    return list(section.model_fields)
