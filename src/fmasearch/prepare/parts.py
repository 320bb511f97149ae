"""The parts folder: what was asked, and every block that is finished; what a run is resumed from."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmasearch import __version__
from fmasearch.errors import DataError
from fmasearch.files import replacing
from fmasearch.prepare.blocks import BLOCK_SIZE, Block, Levels, StorageType
from fmasearch.tracks import Corpus, Reader

if sys.platform != "win32":
    import fcntl


def parts_path(out: Path) -> Path:
    """The folder that a run works in until `out` is whole."""
    return out.with_name(f"{out.name}.parts")


def make_plan(corpus: Corpus, reader: Reader, dtype: StorageType, root: Path | None = None) -> dict[str, Any]:
    """Everything that decides the content of the blocks, as plain values; `root` may be another next time."""
    plan = {
        "corpus": corpus.name,
        "source": corpus.source,
        "num_tracks": len(corpus.tracks),
        "tracks_sha256": _digest(corpus),
        "features": {spec.name: {**asdict(spec), "settings": dict(spec.settings)} for spec in reader.features},
        "reader": _described(reader, root),
        "dtype": dtype,
        "block_size": BLOCK_SIZE,
        "fmasearch": __version__,
    }
    loaded: dict[str, Any] = json.loads(json.dumps(plan, default=str))  # as it will be read back
    return loaded


@dataclass(frozen=True, slots=True)
class BlockColumns:
    """A block without its features."""

    kept: NDArray[np.int64]
    lengths: Mapping[str, NDArray[np.int32]]
    excluded: Mapping[int, str]


@dataclass(frozen=True, slots=True)
class Parts:
    """The folder of a run. Blocks are whole or absent, so whatever killed the run, they are all good."""

    folder: Path
    num_blocks: int

    def missing(self) -> list[int]:
        """The blocks that are still to be read, in order."""
        return [index for index in range(self.num_blocks) if not self._file(index).exists()]

    def save(self, index: int, block: Block) -> None:
        """Keep a block; it is on disk when this returns."""
        arrays: dict[str, Any] = {
            "kept": np.array(block.kept, np.int64),
            "excluded": np.array(list(block.excluded), np.int64),
            "reasons": np.array(list(block.excluded.values()), np.str_),
            **{f"features/{name}": levels for name, levels in block.features.items()},
            **{f"lengths/{name}": lengths for name, lengths in block.lengths.items()},
        }
        with replacing(self._file(index)) as temporary, temporary.open("wb") as file:
            np.savez(file, **arrays)
            file.flush()
            os.fsync(file.fileno())

    def columns(self, index: int) -> BlockColumns:
        """A block without its features, which are not read."""
        with self._opened(index) as arrays:
            names = [name.removeprefix("lengths/") for name in arrays if name.startswith("lengths/")]
            return BlockColumns(
                arrays["kept"],
                {name: arrays[f"lengths/{name}"] for name in names},
                {int(place): str(why) for place, why in zip(arrays["excluded"], arrays["reasons"], strict=True)},
            )

    def features(self, index: int) -> dict[str, Levels]:
        """(n, T, F) levels of a block by feature set."""
        with self._opened(index) as arrays:
            names = [name.removeprefix("features/") for name in arrays if name.startswith("features/")]
            return {name: arrays[f"features/{name}"] for name in names}

    @property
    def assembled(self) -> Path:
        """Where the feature file grows, so that a kill leaves no half of it beside `out`."""
        return self.folder / "assembled.h5"

    def remove(self) -> None:
        """Delete the folder and everything in it."""
        shutil.rmtree(self.folder)

    def _file(self, index: int) -> Path:
        return self.folder / f"block-{index:05d}.npz"

    @contextmanager
    def _opened(self, index: int) -> Iterator[Mapping[str, Any]]:
        file = self._file(index)
        try:
            with np.load(file) as arrays:
                yield arrays
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise DataError(f"{file}: is damaged ({error}); delete it and run the same command again") from None


@contextmanager
def open_parts(out: Path, plan: Mapping[str, Any]) -> Iterator[Parts]:
    """Begin the folder of `out`, or go on with it; nobody else can meanwhile.

    Raises:
        DataError: if it was begun with another plan, or another process works in it.
    """
    folder = parts_path(out)
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        _require_same_plan(folder / "plan.json", plan)
        for leftover in folder.glob(".*.tmp*"):  # of a run that was killed while it wrote
            leftover.unlink()
        yield Parts(folder, -(-int(plan["num_tracks"]) // int(plan["block_size"])))


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    if sys.platform == "win32":  # two runs of one file are not kept apart there
        yield
        return
    with (folder / "lock").open("w") as file:  # the kernel lets go of it when the process ends, however it ends
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"{folder}: another process is preparing this file; wait for it, or stop it") from None
        yield


def _require_same_plan(file: Path, plan: Mapping[str, Any]) -> None:
    if not file.exists():
        with replacing(file) as temporary:
            temporary.write_text(json.dumps(plan, indent=1), encoding="utf-8")
        return
    try:
        begun = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        begun = {}
    if begun == plan:
        return
    changes = "; ".join(_changes(begun, plan))
    raise DataError(
        f"{file}: was begun otherwise: {changes}. Go on as it was begun, or delete {file.parent} to begin again, "
        f"or give another --out"
    )


def _changes(begun: Mapping[str, Any], plan: Mapping[str, Any]) -> Iterator[str]:
    for key in sorted(begun.keys() | plan.keys()):
        then, now = begun.get(key), plan.get(key)
        if then == now:
            continue
        if isinstance(then, dict) and isinstance(now, dict):
            yield from (f"{key}/{change}" for change in _changes(then, now))
        else:
            yield f"{key} was {_brief(then)}, now {_brief(now)}"


def _brief(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _described(reader: Reader, root: Path | None) -> str:
    """A reader's own settings, such as the length it cuts clips to, where its `repr` tells them."""
    text = repr(reader) if is_dataclass(reader) else type(reader).__qualname__
    return text if root is None else text.replace(str(root), ".")


def _digest(corpus: Corpus) -> str:
    """SHA-256 over the tracks in order, and over those that were left out before."""
    digest = hashlib.sha256()
    for track in corpus.tracks:
        values = (track.track_id, track.source, track.split, sorted(track.classes.items()))
        digest.update(repr((*values, sorted(track.targets.items()), track.artist, track.licence)).encode())
    for exclusion in corpus.excluded:
        digest.update(repr((exclusion.track_id, exclusion.source, exclusion.reason)).encode())
    return digest.hexdigest()
