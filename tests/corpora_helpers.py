"""An FMA-shaped corpus for tests: rendered music in FMA's folders, beside its CSV files, with planted defects."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import soundfile
from numpy.typing import NDArray

from fmasearch.corpora.demo import GENRES, PROFILES, DemoTrack, plan_tracks, render

DEFECTS = ("text", "empty", "short", "silent", "clipped", "missing", "known")
"""Tracks that cannot be used. `known` is on FMA's list of broken clips; its file would be unreadable, too."""

EXTRAS = ("multi_root", "duplicate", "artist_leak")
"""Tracks that can be used: one without a top genre, a copy of a training track's file in val, and a val track
by an artist of the training split."""

AUDIO_FEATURES = (
    "acousticness",
    "danceability",
    "energy",
    "instrumentalness",
    "liveness",
    "speechiness",
    "tempo",
    "valence",
)
LICENCES = (
    "Attribution",
    "Attribution-ShareAlike 3.0 International",
    "Attribution-Noncommercial-Share Alike 3.0 United States",
    "Attribution-NonCommercial-NoDerivatives (aka Music Sharing) 3.0 International",
)
KNOWN_BROKEN_ID = 133297  # 0 s of audio in every published clip set
FULL_SCALE = 8.0  # factor that drives nearly every sample of a track into the limits


@dataclass(frozen=True)
class FmaFolders:
    """Where the corpus lies, and what was planted in it."""

    audio: Path
    metadata: Path
    planted: Mapping[str, str]
    """Track id (FMA's number, as text) by defect or extra."""


@dataclass(frozen=True)
class _Row:
    """One track: its line in tracks.csv, and the demo track behind its sound."""

    number: int
    demo: DemoTrack
    split: str
    subset: str
    genre: str
    artist: int
    licence: str
    format: str


def make_fma(
    folder: Path,
    *,
    tracks: int = 24,
    seconds: float = 2.0,
    sample_rate: int = 22050,
    genres: Sequence[str] = ("Rock", "Classical", "Hip-Hop"),
    formats: Sequence[str] = ("mp3", "wav", "ogg", "flac"),
    subsets: Sequence[str] = ("small",),
    broken: Sequence[str] = (),
    echonest: bool = True,
    seed: int = 0,
) -> FmaFolders:
    """Write `folder/fma_small/000/000002.mp3`, ..., and `folder/fma_metadata/{tracks,genres,echonest}.csv`.

    Genres sound different, artists sound alike and stay in one split; train, val and test are about 60/20/20.

    Args:
        tracks: usable ones, at least three a genre; they take turns over the genres.
        sample_rate: of the files, in hertz; the music itself ends at 5.5 kHz.
        formats: take turns over the tracks; FMA itself has MP3 alone.
        subsets: take turns over the tracks.
        broken: of `DEFECTS` and `EXTRAS`; each adds one track to `tracks`.
        echonest: valence, energy, ... for every second track.
    """
    audio, metadata = folder / "fma_small", folder / "fma_metadata"
    planned = _planned(tracks, seconds, genres, seed)
    rows = [
        _Row(
            number=2 + 137 * place,  # spread over FMA's folders of a thousand
            demo=track,
            split=("training", "validation", "test")[track.split],
            subset=subsets[place % len(subsets)],
            genre=GENRES[track.genre].name,
            artist=1 + track.artist_id,
            licence=LICENCES[place % len(LICENCES)],
            format=formats[place % len(formats)],
        )
        for place, track in enumerate(planned)
    ]
    profile = dataclasses.replace(PROFILES["tiny"], seconds=seconds)
    for row in rows:
        sound = _resampled(render(row.demo, profile), profile.sample_rate, sample_rate)
        write_audio(audio_path(audio, row.number, row.format), sound, sample_rate)
    planted = {name: _plant(name, place, rows, audio, sample_rate, seconds) for place, name in enumerate(broken)}
    _write_tracks(metadata / "tracks.csv", rows)
    _write_genres(metadata / "genres.csv", genres)
    if echonest:
        _write_echonest(metadata / "echonest.csv", rows[::2])
    return FmaFolders(audio, metadata, planted)


def audio_path(audio: Path, number: int, suffix: str = "mp3") -> Path:
    """FMA's place of a track: `000/000002.mp3`."""
    return audio / f"{number:06d}"[:3] / f"{number:06d}.{suffix}"


def write_audio(path: Path, sound: NDArray[np.float32], sample_rate: int) -> None:
    """Write mono samples in the format of the file's suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, sound, sample_rate)


def _planned(tracks: int, seconds: float, genres: Sequence[str], seed: int) -> list[DemoTrack]:
    """Tracks of easy genres: no borrowed cues, no wrong labels, and artists that sound much alike."""
    assert tracks >= 3 * len(genres), "each genre needs an artist in each split"
    num_artists = max(3, tracks // (2 * len(genres)))
    profile = dataclasses.replace(
        PROFILES["tiny"],
        num_artists=num_artists,
        tracks_per_artist=-(-tracks // (num_artists * len(genres))),
        seconds=seconds,
        cross=0.0,
        instrument_swap=0.0,
        label_noise=0.0,
        artist_eq_db=2.0,
    )
    wanted = [track for track in plan_tracks(profile, seed) if GENRES[track.genre].name in genres]
    number_first = sorted(wanted, key=lambda t: (t.track_id[6:], t.track_id[3:5], t.track_id[:2]))
    return number_first[:tracks]


def _resampled(sound: NDArray[np.float32], rate: int, new_rate: int) -> NDArray[np.float32]:
    """By straight lines between samples: good enough to tell genres apart."""
    if rate == new_rate:
        return sound
    time = np.arange(round(len(sound) * new_rate / rate)) / new_rate
    return np.interp(time, np.arange(len(sound)) / rate, sound).astype(np.float32)


def _plant(name: str, place: int, rows: list[_Row], audio: Path, sample_rate: int, seconds: float) -> str:
    """Write one defect's file, append its row, and return its id."""
    first = rows[0]
    number = KNOWN_BROKEN_ID if name == "known" else 120_001 + place
    row = dataclasses.replace(first, number=number, artist=9_001 + place, split="training", format="wav")
    file = audio_path(audio, number, "wav")
    num_samples = round(seconds * sample_rate)
    if name in ("text", "known"):
        row, file = dataclasses.replace(row, format="mp3"), file.with_suffix(".mp3")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("<html>404: this is no music</html>\n" * 20)
    elif name == "empty":
        row, file = dataclasses.replace(row, format="mp3"), file.with_suffix(".mp3")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    elif name == "short":
        write_audio(file, _read(audio, first)[: round(0.3 * sample_rate)], sample_rate)
    elif name == "silent":
        write_audio(file, np.zeros(num_samples, np.float32), sample_rate)
    elif name == "clipped":
        sound = _read(audio, first)
        write_audio(file, np.clip(FULL_SCALE * sound / np.abs(sound).std(), -1, 1), sample_rate)
    elif name == "duplicate":
        original = audio_path(audio, first.number, first.format)
        row = dataclasses.replace(row, split="validation", format=first.format)
        file = file.with_suffix(original.suffix)
        file.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(original, file)
    elif name == "artist_leak":
        row = dataclasses.replace(row, split="validation", artist=first.artist)
        write_audio(file, _read(audio, first)[::-1], sample_rate)
    elif name == "multi_root":
        row = dataclasses.replace(row, genre="")
        write_audio(file, 0.5 * _read(audio, first), sample_rate)
    else:
        assert name == "missing", f"{name}: planted are {DEFECTS + EXTRAS}"
    rows.append(row)
    return str(number)


def _read(audio: Path, row: _Row) -> NDArray[np.float32]:
    sound: NDArray[np.float32] = soundfile.read(audio_path(audio, row.number, row.format), dtype="float32")[0]
    return sound


def _write_tracks(path: Path, rows: Sequence[_Row]) -> None:
    """Two header rows and a third with the index's name; line breaks inside a cell, as in FMA's."""
    columns: dict[tuple[str, str], list[Any]] = {
        ("album", "information"): ['<p>A "first"\nline, and a second</p>' for _ in rows],
        ("artist", "id"): [row.artist for row in rows],
        ("artist", "name"): [f"Artist {row.artist}" for row in rows],
        ("set", "split"): [row.split for row in rows],
        ("set", "subset"): [row.subset for row in rows],
        ("track", "duration"): [168 for _ in rows],
        ("track", "genre_top"): [row.genre or None for row in rows],
        ("track", "license"): [row.licence for row in rows],
    }
    _write_frame(path, columns, rows)


def _write_echonest(path: Path, rows: Sequence[_Row]) -> None:
    columns: dict[tuple[str, ...], list[Any]] = {
        ("echonest", "audio_features", name): [_audio_feature(row, name) for row in rows] for name in AUDIO_FEATURES
    }
    columns["echonest", "metadata", "album_name"] = ["An Album" for _ in rows]
    _write_frame(path, columns, rows)


def _audio_feature(row: _Row, name: str) -> float:
    if name == "tempo":
        return row.demo.song.tempo
    return float(getattr(row.demo, name, 0.5))


def _write_frame(path: Path, columns: Mapping[Any, list[Any]], rows: Sequence[_Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    index = pd.Index([row.number for row in rows], name="track_id")
    frame = pd.DataFrame(dict(columns), index=index)
    frame.columns = pd.MultiIndex.from_tuples(list(columns))
    frame.to_csv(path)


def _write_genres(path: Path, genres: Sequence[str]) -> None:
    numbers = range(1, len(genres) + 1)
    frame = pd.DataFrame(
        {"#tracks": 1, "parent": 0, "title": list(genres), "top_level": list(numbers)},
        index=pd.Index(list(numbers), name="genre_id"),
    )
    frame.to_csv(path)
