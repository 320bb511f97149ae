"""`data merge` and `data resplit`: new feature files out of old ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fmasearch.cli.checking import rows_progress
from fmasearch.data import read_info
from fmasearch.data.merging import merge_feature_files
from fmasearch.data.reworking import Resplit, SplitBy, resplit_feature_file
from fmasearch.errors import ConfigError


def merge(files: Sequence[Path], out: Path, *, same_artists: bool) -> None:
    """Concatenate feature files."""
    with rows_progress("merging", sum(read_info(file).num_tracks for file in files)) as on_rows:
        merged = merge_feature_files(files, out, same_artists=same_artists, on_rows=on_rows)
    console = Console()
    console.print(
        f"[green]wrote[/] {escape(str(out))}: {merged.num_tracks:,} tracks of {len(files)} files, "
        f"{merged.num_artists:,} artists",
        highlight=False,
        soft_wrap=True,
    )
    if merged.num_renamed:
        _say(console, f"{merged.num_renamed:,} track ids were in several files, and begin with their file's name now")
    if not same_artists:
        _say(
            console,
            "each file's artists count as its own (--same-artists if ids mean the same in all); tracks that are in "
            f"several files show in `fmasearch data check {out}`",
        )


def resplit(
    file: Path,
    out: Path,
    *,
    by: SplitBy,
    fractions: str,
    seed: int,
    stratify: str | None,
    drop_duplicates: bool,
) -> None:
    """Copy a feature file with another split column, and print what changed."""
    shares = _fractions(fractions)
    if by == "none" and not drop_duplicates:
        raise ConfigError("--by none keeps the splits as they are: expected --drop-duplicates with it")
    info = read_info(file)
    total = info.num_tracks * len(info.features) if drop_duplicates else None
    with rows_progress("looking for duplicates", total or 0) as on_rows:
        result = resplit_feature_file(
            file,
            out,
            by=by,
            fractions=shares,
            seed=seed,
            stratify=stratify,
            drop_duplicates=drop_duplicates,
            on_rows=on_rows,
        )
    _print_result(Console(), result, by, out)


def _print_result(console: Console, result: Resplit, by: SplitBy, out: Path) -> None:
    console.print(_table(result))
    if result.dropped:
        _say(console, f"unused now, as another track is equal: {_listed(result.dropped)}")
    artists = f"artists in several splits: {result.num_leaking_before:,} before, {result.num_leaking_after:,} now"
    _say(console, artists)
    if by == "track" or result.num_leaking_after:
        console.print(
            "[yellow]warning:[/] tracks of an artist may be on both sides, so scores come out too good; `--by artist` "
            "keeps them together",
            highlight=False,
            soft_wrap=True,
        )
    elif by == "artist" and result.num_unknown_artists:
        console.print(
            f"[yellow]warning:[/] {result.num_unknown_artists:,} tracks have no known artist: each was dealt on its "
            "own, and may have its artist on the other side",
            highlight=False,
            soft_wrap=True,
        )
    console.print(f"[green]wrote[/] {escape(str(out))}", highlight=False, soft_wrap=True)


def _table(result: Resplit) -> Table:
    """Tracks by split and class, `before → after` where they differ."""
    table = Table(box=None, pad_edge=False)
    table.add_column(result.stratified_by or "tracks")
    for split in result.after:
        table.add_column(split, justify="right", no_wrap=True)
    for name in result.classes_after:
        before, after = result.classes_before[name], result.classes_after[name]
        table.add_row(escape(name), *(_change(before[split], after[split]) for split in after))
    table.add_row("[bold]all[/]", *(_change(result.before[split], result.after[split]) for split in result.after))
    return table


def _change(before: int, after: int) -> str:
    return f"{after:,}" if before == after else f"{before:,} → {after:,}"


def _listed(names: Sequence[str], most: int = 5) -> str:
    rest = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def _say(console: Console, words: str) -> None:
    console.print(escape(words), highlight=False, soft_wrap=True)


def _fractions(words: str) -> list[float]:
    try:
        return [float(word) for word in words.split(",")]
    except ValueError:
        raise ConfigError(f"--fractions: expected three numbers such as 0.8,0.1,0.1, got {words!r}") from None
