"""Spaces as commands read them: a space file of ours, or a W&B sweep file, which is translated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import typer
from rich.console import Console

from fmasearch.cli.environment import program
from fmasearch.config import load_yaml
from fmasearch.errors import ConfigError
from fmasearch.files import replacing
from fmasearch.records import Scalar
from fmasearch.space import Constraint, Space
from fmasearch.space.constraints import read_number
from fmasearch.space.wandb_sweep import Translation, is_sweep, translate


@dataclass(frozen=True)
class SpaceFile:
    """A space, and what a sweep says besides: settings of the search by path, and notes on its translation."""

    space: Space
    search: Mapping[str, Scalar] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    is_sweep: bool = False


def read_space(file: Path, console: Console) -> SpaceFile:
    """Read a space or a sweep; what a sweep's translation decided or lost is printed at once."""
    values = load_yaml(file)
    if not is_sweep(values):
        return SpaceFile(Space.load(file))
    translation = _translate(file)
    print_notes(console, translation.notes)
    space = Space.parse(translation.space_text, source=f"{file} (translated)", name=file.stem)
    return SpaceFile(space, translation.search, translation.notes, is_sweep=True)


def convert(file: Path, out: Path | None) -> None:
    """Print a sweep as a space file of ours, or write it."""
    if not is_sweep(load_yaml(file)):
        raise ConfigError(f"{file}: not a W&B sweep; expected `method` and `parameters`")
    translation = _translate(file)
    Space.parse(translation.space_text, source=f"{file} (translated)")
    if out is None:
        typer.echo(translation.space_text, nl=False)
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as temporary:
        temporary.write_text(translation.space_text, encoding="utf-8")
    settings = "".join(f" --set {override}" for override in as_overrides(translation.search))
    console = Console()
    print_notes(console, translation.notes)
    console.print(f"next: [bold]{program()} tune {out} --data FILE{settings}[/]", highlight=False, soft_wrap=True)


def limited(space: Space, max_parameters: str) -> Space:
    """The space with a ceiling on parameters that was given as `5e6` or `5M`."""
    try:
        bound = read_number(max_parameters)
    except ValueError as problem:
        raise ConfigError(f"--max-parameters: {problem}") from None
    return space.constrained(Constraint("parameters", "<=", bound))


def as_overrides(search: Mapping[str, Scalar]) -> list[str]:
    """Settings of a search as `--set` takes them."""
    return [f"{path}={value}" for path, value in search.items()]


def print_notes(console: Console, notes: tuple[str, ...]) -> None:
    """One line each; what was lost stands out."""
    for note in notes:
        style = "yellow" if note.startswith(("not translated", "the model starts untrained")) else "dim"
        console.print(note, style=style, markup=False, highlight=False, soft_wrap=True)


def _translate(file: Path) -> Translation:
    from fmasearch.models import ARCHITECTURES, hyperparameters

    known = {architecture: hyperparameters(architecture) for architecture in ARCHITECTURES}
    return translate(load_yaml(file), source=str(file), architectures=known)
