"""The Free Music Archive: tracks, genres, artists, licences and the official split, from `fma_metadata.zip`.

Defferrard et al., FMA: A Dataset For Music Analysis, ISMIR 2017.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from fmasearch.corpora.audio_files import AUDIO_SUFFIXES
from fmasearch.corpora.licences import check_patterns, is_allowed
from fmasearch.corpora.splitting import leaking_artists
from fmasearch.errors import DataError
from fmasearch.tracks import Corpus, Exclusion, Split, Track

Subset = Literal["small", "medium", "large", "full"]

SUBSETS: dict[str, tuple[str, ...]] = {
    "small": ("small",),
    "medium": ("small", "medium"),
    "large": ("small", "medium", "large"),
    "full": ("small", "medium", "large"),
}
"""Values of `set, subset` by subset: each holds the smaller ones. `full` has the tracks of `large`, untrimmed."""

TOP_GENRES = (
    "Blues",
    "Classical",
    "Country",
    "Easy Listening",
    "Electronic",
    "Experimental",
    "Folk",
    "Hip-Hop",
    "Instrumental",
    "International",
    "Jazz",
    "Old-Time / Historic",
    "Pop",
    "Rock",
    "Soul-RnB",
    "Spoken",
)
"""FMA's 16 top genres in alphabetical order, which is how others number them."""

AUDIO_FEATURES = (
    "valence",
    "energy",
    "danceability",
    "acousticness",
    "instrumentalness",
    "liveness",
    "speechiness",
    "tempo",
)
"""Echonest's judgements, in 0..1 but for the tempo (beats a minute); 13,129 tracks have them."""

_NO_AUDIO = (1486, 5574, 65753, 80391, 98558, 98559, 98560, 98571, 99134, 105247)
_NO_AUDIO_EITHER = (108925, 126981, 127336, 133297, 143992)
BROKEN_CLIPS: dict[int, float] = {
    **dict.fromkeys(_NO_AUDIO + _NO_AUDIO_EITHER, 0.0),
    98565: 1.6,
    98566: 6.2,
    98567: 0.5,
    98568: 6.6,
    98569: 1.5,
}
"""Seconds of audio of clips that are known to be broken: a wrong duration put their middle past their end.

The authors' list for small and medium (issue 8 of their repository). Its last one, 108924, has 27.4 of 30 s:
it is read like any other. The untrimmed tracks of `full` are not concerned.
"""

_SPLITS: dict[str, Split] = {"training": "train", "validation": "val", "test": "test"}
_ZIP = "unpack fma_metadata.zip, which holds tracks.csv, genres.csv, features.csv and echonest.csv, and name its folder"


@dataclass(frozen=True, slots=True)
class FmaTrack:
    """What tracks.csv says of one track."""

    number: int
    split: Split
    subset: str
    genre: str | None
    """None where a track has several top genres."""
    artist: str
    artist_name: str
    licence: str


def read_fma(
    audio_dir: str | Path,
    metadata_dir: str | Path,
    *,
    subset: Subset = "small",
    licence_filter: Sequence[str] | None = None,
) -> Corpus:
    """The tracks of a subset, with FMA's own split, which keeps artists apart.

    Args:
        audio_dir: the unpacked fma_small, fma_medium, ...: `000/000002.mp3`; WAV, FLAC and OGG are found, too.
        licence_filter: patterns as `licences.is_allowed` takes them; a track whose licence matches none is left out.

    Returns:
        Classes `genre` (for tracks with one top genre), targets `AUDIO_FEATURES` where echonest.csv is there.

    Raises:
        DataError: if the metadata is missing or not FMA's, or no audio file is where it should be.
    """
    audio_dir, metadata_dir = Path(audio_dir).absolute(), Path(metadata_dir)
    if subset not in SUBSETS:
        raise DataError(f"subset: expected one of {', '.join(SUBSETS)}, got {subset!r}")
    if licence_filter is not None:
        check_patterns(licence_filter)
    listed = [track for track in read_fma_tracks(metadata_dir).values() if track.subset in SUBSETS[subset]]
    targets = _read_echonest(metadata_dir / "echonest.csv")
    files = _find_files(audio_dir)
    tracks, excluded = [], []
    for track in listed:
        place = files.get(track.number, audio_dir / _usual_place(track.number))
        reason = _reason_to_exclude(track, subset, licence_filter, exists=track.number in files)
        if reason:
            excluded.append(Exclusion(str(track.number), str(place), reason))
        else:
            tracks.append(_build(track, place, targets.get(track.number, {})))
    if not any(track.number in files for track in listed):
        raise DataError(_no_audio(audio_dir, subset, len(listed)))
    if not tracks:
        raise DataError(f"{audio_dir}: no track of {subset} is left; the first: {excluded[0].reason}")
    return Corpus(
        name=f"fma_{subset}",
        tracks=tuple(tracks),
        excluded=tuple(excluded),
        notes=_notes(tracks, listed, targets),
        source=f"Free Music Archive (Defferrard et al. 2017), subset {subset}, official split; licence per track",
    )


def read_fma_tracks(metadata_dir: str | Path) -> dict[int, FmaTrack]:
    """All tracks of tracks.csv by number, in the file's order.

    Raises:
        DataError: if the file or a column is missing, or a value cannot be.
    """
    path = Path(metadata_dir) / "tracks.csv"
    if not path.is_file():
        raise DataError(f"{path}: no such file; {_ZIP}")
    required = (("set", "split"), ("set", "subset"), ("track", "genre_top"), ("track", "license"), ("artist", "id"))
    table = _read_columns(path, num_header_rows=2, required=required, optional=(("artist", "name"),))
    tracks = {}
    for row in table.itertuples(index=False, name=None):
        value = dict(zip(table.columns, row, strict=True))
        number = _number(path, value["track_id"])
        split, subset = value["set", "split"], value["set", "subset"]
        if split not in _SPLITS:
            raise DataError(f"{path}: track {number}: set, split: expected {', '.join(_SPLITS)}, got {split!r}")
        if subset not in SUBSETS:
            raise DataError(f"{path}: track {number}: set, subset: expected {', '.join(SUBSETS)}, got {subset!r}")
        tracks[number] = FmaTrack(
            number=number,
            split=_SPLITS[split],
            subset=subset,
            genre=value["track", "genre_top"] or None,
            artist=value["artist", "id"],
            artist_name=value.get(("artist", "name"), ""),
            licence=value["track", "license"],
        )
    return tracks


def _read_echonest(path: Path) -> dict[int, dict[str, float]]:
    """Targets by track number; none at all where the file is not there."""
    if not path.is_file():
        return {}
    wanted = tuple(("echonest", "audio_features", name) for name in AUDIO_FEATURES)
    table = _read_columns(path, num_header_rows=3, required=wanted)
    targets = {}
    for number_text, *texts in table.itertuples(index=False, name=None):
        number = _number(path, number_text)
        values = {name: _float(path, number, name, text) for name, text in zip(AUDIO_FEATURES, texts, strict=True)}
        targets[number] = {name: value for name, value in values.items() if math.isfinite(value)}
    return targets


def _read_columns(
    path: Path,
    *,
    num_header_rows: int,
    required: Sequence[tuple[str, ...]],
    optional: Sequence[tuple[str, ...]] = (),
) -> pd.DataFrame:
    """The column `track_id` and those asked for, as text, empty where there is nothing.

    FMA's tables have a header row more than levels: it names the index and nothing else.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            head = list(islice(csv.reader(file), num_header_rows + 1))
    except (ValueError, csv.Error) as error:
        raise DataError(f"{path}: expected a CSV file in UTF-8 ({error}); {_ZIP}") from None
    if len(head) <= num_header_rows:
        raise DataError(
            f"{path}: expected {num_header_rows} header rows and tracks below, got {len(head)} rows; {_ZIP}"
        )
    places = {key: place for place, key in enumerate(zip(*head[:num_header_rows], strict=False)) if place > 0}
    for key in required:
        if key not in places:
            raise DataError(f"{path}: column {', '.join(key)}: expected in the header, but absent; {_ZIP}")
    keys: list[Any] = sorted((key for key in (*required, *optional) if key in places), key=places.__getitem__)
    try:
        table = pd.read_csv(
            path,
            header=None,
            skiprows=num_header_rows + (head[num_header_rows][0] == "track_id"),
            usecols=[0, *(places[key] for key in keys)],
            dtype=str,
            keep_default_na=False,
        )
    except ValueError as error:  # pandas' parser errors are ValueErrors
        raise DataError(f"{path}: cannot be read, is it cut short? ({error}); {_ZIP}") from None
    table.columns = pd.Index(["track_id", *keys], tupleize_cols=False)
    return table[["track_id", *(key for key in (*required, *optional) if key in places)]]


def _find_files(audio_dir: Path) -> dict[int, Path]:
    """Audio files by track number; a folder is listed once, as asking for 106,574 files one by one takes minutes."""
    if not audio_dir.is_dir():
        raise DataError(f"{audio_dir}: no such folder; expected FMA's audio: {_usual_place(2)}, ...")
    files: dict[int, Path] = {}
    for path in sorted(audio_dir.glob("[0-9][0-9][0-9]/*")):
        if path.suffix.lower() in AUDIO_SUFFIXES and path.stem.isdecimal():
            number = int(path.stem)
            if number not in files or path.suffix.lower() == ".mp3":  # FMA's own format goes before copies in others
                files[number] = path
    return files


def _usual_place(number: int) -> Path:
    name = f"{number:06d}"
    return Path(name[:3], f"{name}.mp3")


def _reason_to_exclude(
    track: FmaTrack, subset: Subset, licence_filter: Sequence[str] | None, *, exists: bool
) -> str | None:
    if licence_filter is not None and not is_allowed(track.licence, licence_filter):
        return f"licence not asked for: {track.licence or 'none given'}"
    if subset != "full" and track.number in BROKEN_CLIPS:
        return f"known to be broken in FMA: {BROKEN_CLIPS[track.number]:g} s of audio"
    return None if exists else "no such file"


def _build(track: FmaTrack, place: Path, targets: Mapping[str, float]) -> Track:
    return Track(
        track_id=str(track.number),
        source=str(place),
        split=track.split,
        classes={"genre": track.genre} if track.genre else {},
        targets=targets,
        artist=track.artist or None,
        licence=track.licence,
    )


def _notes(tracks: Sequence[Track], listed: Sequence[FmaTrack], targets: Mapping[int, object]) -> tuple[str, ...]:
    return tuple(_iterate_notes(tracks, {track.artist: track.artist_name for track in listed}, targets))


def _iterate_notes(tracks: Sequence[Track], names: Mapping[str, str], targets: Mapping[int, object]) -> Iterator[str]:
    leaking = leaking_artists(tracks)
    if leaking:
        shown = ", ".join(names.get(artist) or artist for artist in leaking[:5])
        more = ", ..." if len(leaking) > 5 else ""
        yield (
            f"warning: the official split is not artist-disjoint: {len(leaking)} artists are in several splits "
            f"({shown}{more}); scores come out too good"
        )
    else:
        yield f"official split; verified: none of the {len({t.artist for t in tracks})} artists is in two splits"
    without = sum("genre" not in track.classes for track in tracks)
    if without:
        bare = sum(not track.classes and not track.targets for track in tracks)
        yield (
            f"{without} tracks have no single top genre: left out of genre, kept for the other labels"
            + (f"; {bare} of them have no label at all" if bare else "")
        )
    if targets:
        yield f"{sum(bool(track.targets) for track in tracks)} tracks have echonest's valence, energy, ..."
    else:
        yield "no echonest.csv: no valence, energy or danceability"


def _no_audio(audio_dir: Path, subset: str, num_listed: int) -> str:
    message = f"{audio_dir}: none of the {num_listed} tracks of {subset} is here; expected {_usual_place(2)}, ..."
    inner = sorted(path.parent for path in audio_dir.glob("*/[0-9][0-9][0-9]"))
    return f"{message}; did you mean {inner[0]}?" if inner else message


def _number(path: Path, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise DataError(f"{path}: track_id: expected a whole number, got {text!r}; {_ZIP}") from None


def _float(path: Path, number: int, name: str, text: str) -> float:
    try:
        return float(text) if text else math.nan
    except ValueError:
        raise DataError(f"{path}: track {number}: {name}: expected a number, got {text!r}") from None
