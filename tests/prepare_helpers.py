"""What the tests of prepare share: a reader that needs no audio, and files that compare cell by cell."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import ray

from fmasearch.errors import TrackError
from fmasearch.tracks import Corpus, Exclusion, FeatureSpec, Frames, Split, Track

SPLITS: tuple[Split, ...] = ("train", "val", "test", "unused")
GENRES = ("rock", "jazz", "folk")


@dataclass(frozen=True)
class FakeReader:
    """Features that follow from the track's id; some sources stand for what goes wrong with real ones."""

    journal: str = field(default="", repr=False)
    """A file that gets a line per track read, by whatever process."""
    kill_after: int | None = field(default=None, repr=False)
    """The process kills itself, as `kill -9` does, when the journal has so many lines."""
    interrupt_at: str | None = field(default=None, repr=False)
    """The track at which somebody types Ctrl-C."""

    @property
    def features(self) -> tuple[FeatureSpec, ...]:
        settings = {"unit": "dB", "frame_rate": 43.07}
        return (
            FeatureSpec("mel", 4, 10, -80.0, 0.0, settings),
            FeatureSpec("mel_beat", 4, None, -80.0, 0.0, settings),
        )

    def read(self, track: Track) -> Mapping[str, Frames]:
        self._note(track)
        if track.track_id == self.interrupt_at:
            raise KeyboardInterrupt
        if track.source == "short.wav":
            raise TrackError("too short: 1.6 s of 30 s")
        if track.source == "odd.wav":
            raise RuntimeError("nobody thought of this\nand it has two lines")
        if track.source == "deadly.wav":
            os._exit(1)
        generator = np.random.default_rng(int(track.track_id))
        mel = generator.uniform(-80.0, 0.0, (int(generator.integers(5, 11)), 4)).astype(np.float32)
        if track.source == "nan.wav":
            mel[0, 0] = np.nan
        if track.source == "wide.wav":
            mel = np.zeros((10, 5), np.float32)
        return {"mel": mel, "mel_beat": mel[: int(generator.integers(1, 4))]}

    def _note(self, track: Track) -> None:
        if self.journal:
            with Path(self.journal).open("a", encoding="utf-8") as file:
                file.write(f"{track.track_id}\n")
            if self.kill_after is not None and len(Path(self.journal).read_text().split()) >= self.kill_after:
                os.kill(os.getpid(), 9)


def make_corpus(num_tracks: int = 10, sources: Mapping[int, str] | None = None, **changes: Any) -> Corpus:
    """A corpus whose tracks are fine, but for those that `sources` gives another source."""
    tracks = tuple(
        Track(
            track_id=str(number),
            source=(sources or {}).get(number, f"{number}.wav"),
            split=SPLITS[number % 4],
            classes={} if number == 1 else {"genre": GENRES[number % 3]},
            targets={"valence": number / 100} if number % 2 else {},
            artist=None if number == 2 else f"artist {number // 3}",
            licence="CC BY" if number % 2 else "",
        )
        for number in range(num_tracks)
    )
    missing = (Exclusion("900", "900.wav", "missing: no such file"),)
    return Corpus(**{"name": "fake", "tracks": tracks, "excluded": missing, "source": "made by a test", **changes})


def contents(path: Path) -> dict[str, Any]:
    """Every dataset and every attribute of a file, as plain values that compare with `==`."""
    found: dict[str, Any] = {}

    def visit(name: str, item: h5py.Group | h5py.Dataset) -> None:
        found[f"{name}@"] = {key: _plain(value) for key, value in item.attrs.items()}
        if isinstance(item, h5py.Dataset):
            found[name] = (str(item.dtype), item.shape, _plain(item[()]))

    with h5py.File(path) as file:
        visit("/", file)
        file.visititems(visit)
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return repr(value.tolist())  # as text, NaN equals NaN
    return value


@dataclass(frozen=True)
class NodeReader(FakeReader):
    """Notes on which Ray node it read; slow enough that no node does all the work before the other begins."""

    def _note(self, track: Track) -> None:
        time.sleep(0.05)
        with Path(self.journal).open("a", encoding="utf-8") as file:
            file.write(f"{ray.get_runtime_context().get_node_id()}\n")
