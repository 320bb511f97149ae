"""Prepare a corpus: read what is missing of its blocks, then make the feature file and its manifest of them."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from fmasearch.errors import DataError
from fmasearch.prepare.assemble import Inventory, assemble, take_inventory
from fmasearch.prepare.blocks import BLOCK_SIZE, StorageType
from fmasearch.prepare.manifest import by_reason, manifest_path, write_manifest
from fmasearch.prepare.parts import Parts, make_plan, open_parts, parts_path
from fmasearch.prepare.workers import Job, read_blocks
from fmasearch.tracks import Corpus, Exclusion, Reader


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is, in tracks."""

    num_done: int
    num_tracks: int
    num_excluded: int
    """Of those done."""
    num_earlier: int
    """Of those done: by a run that was interrupted."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A feature file, and what is not in it."""

    file: Path
    num_tracks: int
    manifest: Path
    excluded: tuple[Exclusion, ...]
    num_read: int
    """Tracks that this run read; an interrupted one may have read others before."""
    seconds: float


def prepare_corpus(
    corpus: Corpus,
    reader: Reader,
    out: Path,
    *,
    dtype: StorageType = "uint8",
    workers: int | None = None,
    root: Path | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Prepared:
    """Read every track and write `out` and `<out>.manifest.csv`.

    Finished blocks are kept in `<out>.parts` until the file is whole: the same call goes on with the missing ones
    after an interruption of any kind, and the file is the same.

    Args:
        workers: processes that read at once; see `read_blocks`.
        root: the corpus's folder, or its file; on a cluster, every machine must see it. File and manifest name
            sources from here on: they do not tell whose disk they were made on, and a run survives a move.
        on_progress: hears of every finished block, and of the state at the start.

    Raises:
        DataError: if `out` exists, was begun otherwise, or no track can be used.
    """
    started = time.monotonic()
    require_new(out)
    _require_tracks(corpus)
    root = root and root.absolute()
    stored = corpus if root is None else _relative_to(corpus, root)
    with _disk_full_said(out), open_parts(out, make_plan(stored, reader, dtype, root)) as parts:
        num_read = _read_missing(corpus, reader, parts, dtype, workers, root, on_progress)
        inventory = take_inventory(stored, reader.features, parts, BLOCK_SIZE)
        write_manifest(manifest_path(out), inventory.excluded)
        if not inventory.kept:
            parts.remove()  # what was wrong with all of them is mended outside: begin anew then
            raise _nothing_left(corpus, inventory, out)
        assemble(corpus, reader.features, dtype, parts, inventory)
        parts.assembled.replace(out)
        parts.remove()
    return Prepared(
        out, len(inventory.kept), manifest_path(out), inventory.excluded, num_read, time.monotonic() - started
    )


def require_new(out: Path) -> None:
    """Refuse to write over what is there; it may have taken hours.

    Raises:
        DataError: if `out` exists.
    """
    if out.exists():
        leftover = f" ({parts_path(out)} is left over and can be deleted too)" if parts_path(out).exists() else ""
        raise DataError(f"{out}: exists already; delete it to prepare it again{leftover}, or give another --out")


def _read_missing(
    corpus: Corpus,
    reader: Reader,
    parts: Parts,
    dtype: StorageType,
    workers: int | None,
    root: Path | None,
    on_progress: Callable[[Progress], None],
) -> int:
    """Returns how many tracks were read."""
    missing = parts.missing()
    num_tracks = len(corpus.tracks)
    earlier = done = num_tracks - sum(len(tracks) for _, tracks in _jobs(corpus, missing))
    left_out = sum(len(parts.columns(index).excluded) for index in set(range(parts.num_blocks)) - set(missing))
    on_progress(Progress(done, num_tracks, left_out, earlier))
    if not missing:
        return 0
    jobs = _jobs(corpus, missing)
    with closing(read_blocks(reader, jobs, dtype, workers=workers, root=root)) as blocks:
        for index, block in blocks:
            parts.save(index, block)
            done += len(block.kept) + len(block.excluded)
            left_out += len(block.excluded)
            on_progress(Progress(done, num_tracks, left_out, earlier))
    return done - earlier


def _jobs(corpus: Corpus, indices: list[int]) -> Iterator[Job]:
    for index in indices:
        yield index, corpus.tracks[index * BLOCK_SIZE : (index + 1) * BLOCK_SIZE]


def _relative_to(corpus: Corpus, root: Path) -> Corpus:
    def shortened(source: str) -> str:
        path = Path(source)
        return path.relative_to(root).as_posix() if path.is_relative_to(root) else source

    return replace(
        corpus,
        tracks=tuple(replace(track, source=shortened(track.source)) for track in corpus.tracks),
        excluded=tuple(replace(exclusion, source=shortened(exclusion.source)) for exclusion in corpus.excluded),
    )


def _require_tracks(corpus: Corpus) -> None:
    if not corpus.tracks:
        reasons = _reasons(corpus.excluded)
        raise DataError(f"{corpus.name}: expected at least one track, got none{f': {reasons}' if reasons else ''}")


@contextmanager
def _disk_full_said(out: Path) -> Iterator[None]:
    """Blocks and file lie side by side for a while: FMA-large takes 35 GB then."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise DataError(
            f"{out.parent}: the disk is full; make room (blocks and file together take twice the file) and run the "
            f"same command again: it goes on with what is in {parts_path(out)}"
        ) from None


def _nothing_left(corpus: Corpus, inventory: Inventory, out: Path) -> DataError:
    example = next(e for e in inventory.excluded if e.reason.startswith(next(iter(by_reason(inventory.excluded)))))
    return DataError(
        f"{corpus.name}: none of its {len(corpus.tracks)} tracks can be used: {_reasons(inventory.excluded)}; for "
        f"example {example.source}: {example.reason}. {manifest_path(out)} lists them all"
    )


def _reasons(excluded: tuple[Exclusion, ...]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in list(by_reason(excluded).items())[:3])
