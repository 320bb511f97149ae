"""`spaces keys`: what a space may set, from the settings' own docstrings and the architectures' signatures."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from typing import Any, NamedTuple

import typer
from pydantic import BaseModel
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fmasearch.config import TrainConfig, did_you_mean
from fmasearch.errors import ConfigError

FROM_THE_SEARCH = ("trainer/max_epochs", "trainer/patience")
"""Keys of a training that the search file decides."""


OF_SEVERAL = """\
A space of several architectures has `model: {architecture: {choice: [cnn_gru, ast]}}`. A key without `when` is for
all of them; `when: {model/architecture: [cnn_gru]}` gives it to some. What one of them has alone, or in other ranges,
stands in a block of its name, in any section; in it `model/x` is the block's own x:

  model:
    architecture: {choice: [cnn_gru, ast]}
    dropout: {float: [0.1, 0.5]}
    cnn_gru:
      num_layers: {int: [1, 2]}
      rnn_dropout: {float: [0.0, 0.5], when: {model/num_layers: ">= 2"}}
    ast: {size: {choice: [micro, tiny]}}
  optimizer:
    cnn_gru: {learning_rate: {float: [1e-4, 5e-3], log: true}}
    ast: {learning_rate: {float: [1e-5, 1e-3], log: true}}
"""


class Key(NamedTuple):
    path: str
    values: str
    default: str
    meaning: str


def print_keys(name: str | None, *, as_json: bool) -> None:
    """Print all keys, those of one section, or the hyperparameters of one architecture.

    Raises:
        ConfigError: if there is neither a section nor an architecture of that name.
    """
    from fmasearch.models import ARCHITECTURES

    sections = {section: list(_section_keys(section, model)) for section, model in _sections()}
    models = {architecture: list(_model_keys(architecture)) for architecture in ARCHITECTURES}
    chosen = {**sections, **models}
    if name is not None:
        if name not in chosen:
            raise ConfigError(f"{name}: no such section or architecture{did_you_mean(name, sorted(chosen))}")
        chosen = {name: chosen[name]}
    if as_json:
        typer.echo(json.dumps([key._asdict() for keys in chosen.values() for key in keys], indent=1))
        return
    console = Console()
    for title, keys in chosen.items():
        console.print(_table(title, keys))
        if title in models:
            console.print(_about(title), highlight=False, markup=False, soft_wrap=True)
        console.print()
    if name is None:
        console.print(OF_SEVERAL, highlight=False, markup=False, soft_wrap=True)


def _table(title: str, keys: list[Key]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None)
    explained = any(key.meaning for key in keys)  # an architecture's docstring explains all of it at once
    for heading in ("key", "values", "default", *(["meaning"] if explained else [])):
        table.add_column(heading, overflow="fold", no_wrap=heading == "key")
    for key in keys:
        table.add_row(*map(escape, key if explained else key[:3]))  # `[valence, energy]` is no style
    return table


def _about(architecture: str) -> str:
    from fmasearch.models import describe_architecture

    return textwrap.indent(describe_architecture(architecture), " ")


def _sections() -> Iterator[tuple[str, type[BaseModel]]]:
    for name, field in TrainConfig.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield name, field.annotation


def _section_keys(section: str, model: type[BaseModel]) -> Iterator[Key]:
    schema = model.model_json_schema()
    for name, field in model.model_fields.items():
        path = f"{section}/{name}"
        if path in FROM_THE_SEARCH:
            continue
        default = "required" if field.is_required() else _shown(field.default)
        yield Key(path, _values(schema["properties"][name]), default, " ".join((field.description or "").split()))


def _model_keys(architecture: str) -> Iterator[Key]:
    from fmasearch.models import describe_hyperparameters

    for name, (values, default) in describe_hyperparameters(architecture).items():
        yield Key(f"model/{name}", values, _shown(default), "")


def _values(schema: dict[str, Any]) -> str:
    """A JSON schema's values in the words of a space file."""
    if "anyOf" in schema:
        return " or ".join(_values(part) for part in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(map(str, schema["enum"]))
    if schema.get("type") == "array":
        return f"list of {_values(schema['items'])}"
    if schema.get("type") == "object":
        return f"names, each with {_values(schema['additionalProperties'])}"
    words = {"integer": "whole number", "number": "number", "boolean": "true, false", "string": "text", "null": "null"}
    limits = [
        f"{sign} {schema[key]:g}"
        for key, sign in (
            ("minimum", ">="),
            ("exclusiveMinimum", ">"),
            ("maximum", "<="),
            ("exclusiveMaximum", "<"),
        )
        if key in schema
    ]
    return " ".join([words.get(schema.get("type", ""), "value"), ", ".join(limits)]).strip()


def _shown(default: object) -> str:
    words = {None: "null", True: "true", False: "false"}
    if default == ():
        return "[]"
    return words[default] if default is None or isinstance(default, bool) else str(default)
