"""`spaces`, `data info` and `version`: looking without changing anything."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fmasearch.cli.sweeps import read_space
from fmasearch.errors import SpaceError
from fmasearch.space import Space

if TYPE_CHECKING:
    from fmasearch.data import FileInfo  # it brings torch, which most of these commands do without


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
        table.add_column(heading, overflow="fold")
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
    """Load every file, and hold its hyperparameters against its architectures; with data, build its models too."""
    from fmasearch.preflight import check_models

    console = Console()
    for file in files:
        space = read_space(file, console).space
        if data is None:
            check_models(space)
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
    from fmasearch.data.rows import class_counts, licence_counts, read_all_columns

    info, columns = read_info(file), read_all_columns(file)
    counts = class_counts(columns.classes, columns.split)
    lengths = {name: (int(each.min()), int(each.max())) for name, each in columns.lengths.items()}
    size, licences = file.stat().st_size, licence_counts(columns)
    if as_json:
        more = {"size_bytes": size, "class_counts": counts, "lengths": lengths, "licences": licences}
        typer.echo(json.dumps({**asdict(info), **more}, indent=1))
        return
    console = Console()
    splits = ", ".join(f"{count:,} {name}" for name, count in info.split_counts.items())
    artists = f", {info.num_artists:,} artists" if info.num_artists else ", artists unknown"
    console.print(
        f"[bold]{escape(info.path)}[/]  {escape(info.corpus)}: {info.num_tracks:,} tracks ({splits}){artists}, "
        f"{_size(size)} on disk",
        highlight=False,
        soft_wrap=True,
    )
    if info.source:
        console.print(f"[dim]{escape(info.source)}[/]", highlight=False)
    console.print(_features_table(info, lengths))
    for label, by_class in counts.items():
        console.print(_classes_table(label, by_class))
    for label, values in columns.targets.items():
        finite = values[np.isfinite(values)]
        spread = f" from {finite.min():.3g} to {finite.max():.3g}" if len(finite) else ""
        console.print(f"[bold]{escape(label)}[/]: {len(finite):,} labelled{spread}", highlight=False)
    if licences:
        console.print(_licences_table(licences))


def _features_table(info: FileInfo, lengths: Mapping[str, tuple[int, int]]) -> Table:
    table = Table(box=None)
    for heading in ("feature", "tracks × frames × bins", "stored as", "size", "frames/s", "clip length"):
        table.add_column(heading)
    for name, feature in info.features.items():
        rate = feature.settings.get("frame_rate")
        known = isinstance(rate, int | float) and rate > 0
        table.add_row(
            escape(name),
            " × ".join(f"{n:,}" for n in feature.shape),
            feature.dtype,
            _size(math.prod(feature.shape) * np.dtype(feature.dtype).itemsize),
            f"{rate:.1f}" if known else "?",
            _range(lengths[name], float(rate) if known and rate else None),
        )
    return table


def _range(frames: tuple[int, int], rate: float | None) -> str:
    """`1,280 to 1,292 frames (29.7 to 30.0 s)`."""
    low, high = frames
    words = f"{low:,} frames" if low == high else f"{low:,} to {high:,} frames"
    if rate is None:
        return words
    seconds = f"{low / rate:.1f} s" if low == high else f"{low / rate:.1f} to {high / rate:.1f} s"
    return f"{words} ({seconds})"


def _classes_table(label: str, by_class: Mapping[str, Mapping[str, int]]) -> Table:
    table = Table(box=None)
    table.add_column(escape(label))
    splits = list(next(iter(by_class.values()), {}))
    for heading in (*splits, "all"):
        table.add_column(heading, justify="right")
    for name, counts in by_class.items():
        table.add_row(escape(name), *(f"{counts[split]:,}" for split in splits), f"{sum(counts.values()):,}")
    return table


def _licences_table(licences: Mapping[str, int]) -> Table:
    table = Table(box=None)
    table.add_column("licence")
    table.add_column("tracks", justify="right")
    for name, count in licences.items():
        table.add_row(escape(name) or "unknown", f"{count:,}")
    return table


def _size(size: float) -> str:
    """`11.2 MB`; a thousand bytes are a kilobyte, as on the label of a disk."""
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def version() -> None:
    """Versions and device, one per line."""
    from fmasearch.cli import environment

    for name, value in environment.describe().items():
        typer.echo(f"{name:20} {value}")
