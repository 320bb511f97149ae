"""`data check` and `data show`: what is wrong with a feature file, and what one track looks like."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from fmasearch.data import read_info
from fmasearch.data.checking import SEVERITIES, FileReport, Finding, Histogram, check_feature_file
from fmasearch.data.rows import StoredTrack, read_track

COLOURS = {"error": "bold red", "warning": "yellow", "note": "cyan"}
BAR_WIDTH = 40


def check(file: Path, *, as_json: bool) -> None:
    """Print the report of a feature file; ends the program with 1 if there are errors."""
    info = read_info(file)
    with rows_progress("checking", info.num_tracks * len(info.features)) as on_rows:
        report = check_feature_file(file, on_rows=on_rows)
    if as_json:
        typer.echo(json.dumps(asdict(report), indent=1))
    else:
        _print_report(Console(), report)
    if report.has_errors:
        raise typer.Exit(1)


def show(file: Path, track_id: str, *, feature: str | None, out: Path | None) -> None:
    """Print the facts of one track, and draw it."""
    track = read_track(file, track_id, feature)
    console = Console()
    for name, value in _facts(track):
        console.print(f"[dim]{name:12}[/] {escape(value)}", highlight=False, soft_wrap=True)
    if out is None:
        console.print("[dim]--out picture.png draws it[/]")
        return
    from fmasearch.report.spectrogram import save_spectrogram

    classes = [name for name in track.classes.values() if name]
    title = "  ".join([f"{track_id}, {track.feature.name}", *classes, f"({track.split})"])
    save_spectrogram(out, track.values_TF, title=title, settings=track.feature.settings)
    console.print(f"[dim]{'picture':12}[/] {escape(str(out))}", highlight=False, soft_wrap=True)


@contextmanager
def rows_progress(words: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on stderr while rows are read, on a terminal only."""
    console = Console(stderr=True)
    columns = (TextColumn(words), BarColumn(), MofNCompleteColumn(), TextColumn("tracks"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(words, total=total)
        yield lambda rows: progress.advance(task, rows)


def _print_report(console: Console, report: FileReport) -> None:
    splits = ", ".join(f"{count:,} {name}" for name, count in report.split_counts.items() if count or name != "unused")
    console.print(
        f"[bold]{escape(report.path)}[/]  {report.num_tracks:,} tracks ({splits}), {report.num_artists:,} artists",
        highlight=False,
        soft_wrap=True,
    )
    for feature, histogram in report.lengths.items():
        for line in histogram_lines(feature, histogram):
            console.print(line, highlight=False, soft_wrap=True)
    for finding in report.findings:
        _print_finding(console, finding)
    counts = {severity: len(report.of(severity)) for severity in SEVERITIES}
    found = ", ".join(f"{count} {name}{'' if count == 1 else 's'}" for name, count in counts.items() if count)
    console.print(found or "[green]ok[/]: nothing to find fault with", highlight=False)


def _print_finding(console: Console, finding: Finding) -> None:
    """A row of the table: severity, code, and beneath each other what, which, and how to mend it."""
    table = Table.grid(padding=(0, 2))
    table.add_column(width=7, no_wrap=True)
    table.add_column(width=24, no_wrap=True)
    table.add_column()
    rest = finding.count - len(finding.examples)
    which = "; ".join(finding.examples) + (f" and {rest:,} more" if rest > 0 else "")
    words = [escape(finding.message), *([f"[dim]{escape(which)}[/]"] if finding.examples else [])]
    words.append(f"[dim]mend:[/] {escape(finding.mend)}")
    table.add_row(f"[{COLOURS[finding.severity]}]{finding.severity}[/]", finding.code, "\n".join(words))
    console.print(table, highlight=False)


def histogram_lines(feature: str, histogram: Histogram) -> list[str]:
    """Tracks by clip length as text, in seconds where the frame rate is known."""
    total, most = sum(histogram.counts), max(histogram.counts)
    low, high = histogram.edges[0], histogram.edges[-1]
    if low == high:
        return [f"{feature}: all {total:,} tracks have {low:,.0f} frames{_in_seconds(low, histogram.frame_rate)}"]
    unit = "s" if histogram.frame_rate else "frames"
    lines = [f"{feature}: tracks by clip length ({unit})"]
    for left, right, count in zip(histogram.edges, histogram.edges[1:], histogram.counts, strict=False):
        bar = "█" * math.ceil(BAR_WIDTH * count / most)
        lines.append(f"  {_length(left, histogram):>8} – {_length(right, histogram):>8}  {bar} {count:,}")
    return lines


def _length(frames: float, histogram: Histogram) -> str:
    return f"{frames / histogram.frame_rate:,.1f}" if histogram.frame_rate else f"{frames:,.0f}"


def _in_seconds(frames: float, frame_rate: float | None) -> str:
    return f" ({frames / frame_rate:,.1f} s)" if frame_rate else ""


def _facts(track: StoredTrack) -> list[tuple[str, str]]:
    feature, values_TF = track.feature, track.values_TF
    rate = feature.settings.get("frame_rate")
    seconds = _in_seconds(len(values_TF), float(rate) if isinstance(rate, int | float) and rate > 0 else None)
    unit = str(feature.settings.get("unit", ""))
    spread = f"{values_TF.min():.1f} to {values_TF.max():.1f}, mean {values_TF.mean(dtype=float):.1f}"
    return [
        ("track", f"{track.track_id}, row {track.row:,}"),
        ("split", track.split),
        *((label, name or "none") for label, name in track.classes.items()),
        *((label, "none" if math.isnan(value) else f"{value:.3f}") for label, value in track.targets.items()),
        ("artist", "unknown" if track.artist_id < 0 else str(track.artist_id)),
        ("licence", track.licence or "not recorded"),
        ("source", track.source or "not recorded"),
        ("feature", f"{feature.name}: {values_TF.shape[1]} bins, stored as {feature.dtype}"),
        ("length", f"{len(values_TF):,} of {feature.shape[1]:,} frames{seconds}"),
        ("values", f"{spread}{f' ({unit})' if unit else ''}"),
    ]
