"""`data prepare`: a corpus in, a feature file out; its progress, its manifest, and how to go on when interrupted."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import typer
from rich import progress as rich_progress
from rich.console import Console

from fmasearch.cli.environment import program
from fmasearch.errors import ConfigError
from fmasearch.prepare import Prepared, Progress, by_reason, parts_path, prepare_corpus, require_new
from fmasearch.prepare.blocks import StorageType
from fmasearch.tracks import Corpus, Reader, Split

_SECONDS_BETWEEN_LINES = 10.0


@dataclass(frozen=True, slots=True)
class Output:
    """Where to, how stored, and by how many processes."""

    file: Path
    dtype: StorageType = "uint8"
    workers: int | None = None

    def __post_init__(self) -> None:
        require_new(self.file)  # before anything is read


def prepare(
    corpus: Corpus, reader: Reader, output: Output, *, root: Path | None = None, console: Console | None = None
) -> Prepared:
    """Say what is known of the corpus, read it, say what came of it. Ctrl-C ends the program with 130.

    Args:
        root: the corpus's folder; the file names sources from here on.
    """
    console = console or Console()
    for note in corpus.notes:
        style = "yellow" if note.startswith("warning") else "dim"
        console.print(note, style=style, markup=False, highlight=False, soft_wrap=True)
    view = ProgressView(console, corpus.name)
    try:
        with view.showing():
            prepared = prepare_corpus(
                corpus,
                reader,
                output.file,
                dtype=output.dtype,
                workers=output.workers,
                root=root,
                on_progress=view.update,
            )
    except KeyboardInterrupt:
        again = f"{program()} {shlex.join(sys.argv[1:])}"
        kept = f"{view.num_done:,} of {len(corpus.tracks):,} tracks are kept in {parts_path(output.file)}"
        console.print(f"\ninterrupted; {kept}.\nnext: [bold]{again}[/] goes on", highlight=False, soft_wrap=True)
        raise typer.Exit(130) from None
    _print_outcome(prepared, console)
    return prepared


class ProgressView:
    """Shows how far a run is: a bar on a terminal, a line now and then elsewhere."""

    def __init__(self, console: Console, title: str) -> None:
        self.console = console
        self.title = title
        self.num_done = 0
        self._started = self._last_line = time.monotonic()
        self._bar: rich_progress.Progress | None = None
        self._task: rich_progress.TaskID | None = None

    @contextmanager
    def showing(self) -> Iterator[None]:
        """Keep the bar on screen meanwhile; it is gone afterwards."""
        if not self.console.is_terminal:
            yield
            return
        columns = ("{task.description}", rich_progress.BarColumn(), "{task.completed:,.0f}/{task.total:,.0f}")
        with rich_progress.Progress(
            *columns, "{task.fields[pace]}", console=self.console, transient=True, refresh_per_second=4
        ) as self._bar:
            yield

    def update(self, now: Progress) -> None:
        """Show this state."""
        if now.num_done == now.num_earlier:  # before anything was read: the clock starts here
            self._started = self._last_line = time.monotonic()
        self.num_done = now.num_done
        whole = now.num_done == now.num_tracks
        if self._bar is None:
            self._print_line(now, whole=whole)
            return
        if self._task is None:
            self._task = self._bar.add_task(self.title, total=now.num_tracks, pace="")
        title = f"{self.title}: writing the file" if whole else self.title
        self._bar.update(self._task, description=title, completed=now.num_done, pace=self._pace(now))

    def _print_line(self, now: Progress, *, whole: bool) -> None:
        first = now.num_done == now.num_earlier
        if not (first or whole or time.monotonic() - self._last_line >= _SECONDS_BETWEEN_LINES):
            return
        self._last_line = time.monotonic()
        done = f"{now.num_done:,}/{now.num_tracks:,} tracks"
        rest = "  writing the file" if whole else ""
        self.console.print(
            f"{self.title}: {done}  {self._pace(now)}{rest}", markup=False, highlight=False, soft_wrap=True
        )

    def _pace(self, now: Progress) -> str:
        """Excluded so far, clips a second, and the time left at that pace."""
        words = [f"{now.num_excluded:,} excluded"]
        if now.num_earlier and now.num_done == now.num_earlier:
            words.append("by an earlier run")
        here = now.num_done - now.num_earlier
        if here:
            rate = here / max(time.monotonic() - self._started, 1e-6)
            words.append(f"{rate:,.1f} clips/s")
            words.append(f"{timedelta(seconds=round((now.num_tracks - now.num_done) / rate))} left")
        return "  ".join(words)


def audio_reader(audio: Path, features: str, *, seconds: float, **mel: Any) -> Reader:
    """The reader of audio files under a folder; `mel` are fields of `MelSettings`."""
    from fmasearch.features.audio_reader import AudioReader, AudioSettings
    from fmasearch.features.mel import MelSettings

    settings = AudioSettings(features=names_of(features), mel=MelSettings(**mel), seconds=seconds)
    return AudioReader(settings, root=audio.absolute())


def names_of(text: str) -> tuple[str, ...]:
    """`mel, chroma` one by one."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def numbers_of(option: str, text: str) -> tuple[float, ...]:
    """`0.8,0.1,0.1` one by one."""
    try:
        return tuple(float(number) for number in names_of(text))
    except ValueError:
        raise ConfigError(f"{option}: expected numbers separated by commas, got {text!r}") from None


def pairs_of(option: str, texts: Sequence[str]) -> dict[str, str]:
    """`NAME=KEY`, each."""
    pairs = [text.partition("=") for text in texts]
    for text, (name, _, key) in zip(texts, pairs, strict=True):
        if not name or not key:
            raise ConfigError(f"{option}: expected NAME=KEY, got {text!r}")
    return {name: key for name, _, key in pairs}


def split_lists(folder: Path) -> dict[Split, Path | None]:
    """The text files of a folder by the split that their names begin with: `train_filtered.txt`, `valid.txt`, ..."""
    if not folder.is_dir():
        raise ConfigError(f"--lists: {folder}: expected a folder with train.txt, val.txt and test.txt")
    lists: dict[Split, Path | None] = {}
    splits: tuple[Split, ...] = ("train", "val", "test")
    for split in splits:
        found = sorted(path for path in folder.glob("*.txt") if path.name.lower().startswith(split))
        if len(found) > 1:
            names = ", ".join(path.name for path in found)
            raise ConfigError(f"--lists: {folder}: expected one {split}*.txt, got {names}")
        if found:
            lists[split] = found[0]
    if not lists:
        raise ConfigError(f"--lists: {folder}: expected train*.txt, val*.txt and test*.txt, got none of them")
    return lists


def _print_outcome(prepared: Prepared, console: Console) -> None:
    size = prepared.file.stat().st_size / 1e6
    pace = f", {prepared.num_read / prepared.seconds:,.1f} clips/s" if prepared.num_read else ""
    lines = [
        f"[bold]{prepared.file}[/]: {prepared.num_tracks:,} tracks, {size:,.1f} MB "
        f"({timedelta(seconds=round(prepared.seconds))}{pace})"
    ]
    if prepared.excluded:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in by_reason(prepared.excluded).items())
        tracks = f"{len(prepared.excluded):,} track{'s' if len(prepared.excluded) > 1 else ''}"
        lines.append(f"left out: {tracks} ({reasons}); {prepared.manifest} tells which")
    lines.append(f"next: [bold]{program()} data info {shlex.quote(str(prepared.file))}[/]")
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)
