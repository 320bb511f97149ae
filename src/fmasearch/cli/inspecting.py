"""`spaces`, `data info` and `version`: looking without changing anything."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table

from fmasearch.cli.sweeps import read_space
from fmasearch.errors import SpaceError
from fmasearch.space import Space


def list_spaces(folder: Path) -> None:
    """One line per space file."""
    files = sorted(folder.glob("*.yaml"))
    if not files:
        raise SpaceError(f"{folder}: no space files here")
    table = Table(box=None)
    for heading in ("space", "keys", "known good", "description"):
        table.add_column(heading, justify="right" if heading == "keys" else "left")
    for file in files:
        space = Space.load(file)
        table.add_row(str(file), str(len(space.distributions)), ", ".join(space.known_good), space.description.strip())
    Console().print(table)


def show_space(file: Path) -> None:
    """Distributions, constants and known-good points of one space."""
    console = Console()
    space = read_space(file, console).space
    console.print(f"[bold]{space.name}[/]  {space.description.strip()}", highlight=False)
    table = Table(box=None)
    for heading in ("searched", "values", "when"):
        table.add_column(heading)
    for path, distribution in space.distributions.items():
        conditions = " and ".join(str(c) for c in space.conditions.get(path, ()))
        table.add_row(path, str(distribution), conditions)
    console.print(table)
    for constraint in space.constraints:
        console.print(f"constraint: {constraint}", highlight=False)
    size = space.size()
    console.print(f"points: {size:,}" if size else "points: continuous", highlight=False)
    for name, point in space.known_good.items():
        console.print(
            f"known good {name}: " + "  ".join(f"{k}={v}" for k, v in point.items()),
            highlight=False,
            soft_wrap=True,
        )


def check_spaces(files: Sequence[Path], data: Path | None) -> None:
    """Load every file; with data, build its models too."""
    console = Console()
    for file in files:
        space = read_space(file, console).space
        if data is None:
            limits = "".join(f", {constraint}" for constraint in space.constraints)
            console.print(f"[green]ok[/] {file}: {len(space.distributions)} searched keys{limits}", highlight=False)
            continue
        from fmasearch.config import SearchConfig
        from fmasearch.data import read_info
        from fmasearch.preflight import check_study

        sizes = check_study(space, SearchConfig(), read_info(data), num_samples=200)
        console.print(
            f"[green]ok[/] {file}: {sizes.num_sampled} models build, {sizes.sizes}",
            highlight=False,
            soft_wrap=True,
        )


def data_info(file: Path, *, as_json: bool) -> None:
    """What a feature file holds."""
    from fmasearch.data import read_info

    info = read_info(file)
    if as_json:
        typer.echo(json.dumps(asdict(info), indent=1))
        return
    console = Console()
    splits = ", ".join(f"{count} {name}" for name, count in info.split_counts.items())
    artists = f", {info.num_artists} artists" if info.num_artists else ", artists unknown"
    console.print(f"[bold]{info.path}[/]  {info.corpus}: {info.num_tracks} tracks ({splits}){artists}", highlight=False)
    if info.source:
        console.print(f"[dim]{info.source}[/]", highlight=False)
    table = Table(box=None)
    for heading in ("feature", "tracks × frames × bins", "stored as", "frames/s"):
        table.add_column(heading)
    for name, feature in info.features.items():
        rate = feature.settings.get("frame_rate")
        shape = " × ".join(str(n) for n in feature.shape)
        table.add_row(name, shape, feature.dtype, f"{rate:.1f}" if isinstance(rate, float) else "?")
    console.print(table)
    for label, facts in info.labels.items():
        counts = "  ".join(f"{name} {count}" for name, count in facts.counts.items())
        console.print(f"label [bold]{label}[/]: {counts}", highlight=False, soft_wrap=True)


def version() -> None:
    """Versions and device, one per line."""
    from fmasearch.cli import environment

    for name, value in environment.describe().items():
        typer.echo(f"{name:20} {value}")
