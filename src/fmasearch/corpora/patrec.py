"""The course's spectrogram folders (NTUA pattern recognition, third lab): (140, T) arrays and label files.

Four data sets of one layout: `train/` and `test/` with `<id>.fused.full.npy`, and label files whose names are
stale: `<id>.beatsync.fused.npy.gz`, `<id>.full.fused.npy.gz`. The id is what stands before the first dot.

Shapes: T frames (beats in the beat-synchronous sets), F bins.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from fmasearch.corpora.fma import read_fma_tracks
from fmasearch.corpora.npy_files import npy_shape, read_npy
from fmasearch.corpora.splitting import leaking_artists, resplit
from fmasearch.corpora.values import require_range, require_sound
from fmasearch.errors import DataError, TrackError
from fmasearch.tracks import Corpus, Exclusion, FeatureSpec, Frames, Split, Track

PatrecDataset = Literal["genre", "genre_beat", "multitask", "multitask_beat"]

FOLDERS: dict[str, str] = {
    "genre": "fma_genre_spectrograms",
    "genre_beat": "fma_genre_spectrograms_beat",
    "multitask": "multitask_dataset",
    "multitask_beat": "multitask_dataset_beat",
}
TARGETS = ("valence", "energy", "danceability")
NUM_MELS, NUM_CHROMA = 128, 12


@dataclass(frozen=True, slots=True)
class GenreMerge:
    """Which genres become one, and which are left out; the others stay as they are."""

    merge: Mapping[str, tuple[str, ...]]
    """New name: the genres that it is made of."""
    drop: tuple[str, ...]


PATREC_GENRES = GenreMerge(
    merge={
        "Rock": ("Rock", "Psych-Rock", "Post-Rock"),
        "Folk": ("Folk", "Psych-Folk"),
        "Metal": ("Metal", "Punk"),
        "Electronic": ("Electronic", "Chiptune"),
    },
    drop=("Indie-Rock", "Post-Punk", "Soundtrack", "International", "Old-Time"),
)
"""The course's 20 genres become ten: these and Blues, Classical, Hip-Hop, Jazz, Pop, Trip-Hop."""


@dataclass(frozen=True, slots=True)
class PatrecReader:
    """Reads one array as mel (dB, -80..0) and chroma (0..1)."""

    is_beat_synchronous: bool
    max_frames: int | None
    """Of the longest array whose header can be read."""

    @property
    def features(self) -> tuple[FeatureSpec, ...]:
        mel, chroma = _MEL_SETTINGS, _CHROMA_SETTINGS
        if self.is_beat_synchronous:
            mel, chroma = ({**s, "frames": "beats"} for s in (mel, chroma))
        else:
            mel, chroma = ({**s, "hop_length": 512, "frame_rate": 22050 / 512} for s in (mel, chroma))
        beat = "_beat" if self.is_beat_synchronous else ""
        return (
            FeatureSpec(f"mel{beat}", NUM_MELS, self.max_frames, -80.0, 0.0, mel),
            FeatureSpec(f"chroma{beat}", NUM_CHROMA, self.max_frames, 0.0, 1.0, chroma),
        )

    def read(self, track: Track) -> Mapping[str, Frames]:
        """Both feature sets, (T, 128) and (T, 12) float32.

        Raises:
            TrackError: if the file is damaged, of another shape, silent, or its values cannot be dB and chroma.
        """
        array = read_npy(Path(track.source))
        if array.ndim != 2 or array.shape[0] != NUM_MELS + NUM_CHROMA or array.shape[1] == 0:
            raise TrackError(f"expected an array of (140, frames), got {array.shape}")
        if array.dtype.kind != "f":
            raise TrackError(f"expected floating-point numbers, got {array.dtype}")
        frames_TF = np.ascontiguousarray(array.T, dtype=np.float32)
        parts = np.split(frames_TF, [NUM_MELS], axis=1)
        values = {spec.name: part for spec, part in zip(self.features, parts, strict=True)}
        for spec in self.features:
            require_range(spec, values[spec.name])
        require_sound(parts[0])
        return {spec.name: values[spec.name].clip(spec.low, spec.high) for spec in self.features}


_MEL_SETTINGS = {
    "sample_rate": 22050,
    "n_fft": 2048,
    "n_mels": NUM_MELS,
    "f_min": 0.0,
    "f_max": 11025.0,
    "mel_scale": "slaney",
    "norm": "slaney",
    "top_db": 80.0,
    "unit": "dB relative to the clip's maximum",
}
_CHROMA_SETTINGS = {"sample_rate": 22050, "n_chroma": NUM_CHROMA, "unit": "share of the frame's strongest pitch class"}


def read_patrec(
    root: str | Path,
    *,
    dataset: PatrecDataset | None = None,
    fma_metadata: str | Path | None = None,
    val_fraction: float = 0.2,
    seed: int = 0,
) -> tuple[Corpus, PatrecReader]:
    """One of the course's data sets. Validation is carved from the training tracks; the test tracks stay.

    The multitask sets have no test labels: their test tracks are `unused`, and a test split of `val_fraction`
    is carved from the training tracks as well.

    Args:
        root: the data set's folder, or the course's `data`, or a folder that holds that.
        dataset: None takes the only one that is there.
        fma_metadata: FMA's metadata, as the ids are FMA's: whole artists then go to one side.
        val_fraction: of the training tracks.

    Raises:
        DataError: if the layout is another, several sets are there, or a label cannot be read.
    """
    if not 0 < val_fraction < 0.5:
        raise DataError(f"validation fraction: expected more than 0 and less than 0.5, got {val_fraction:g}")
    dataset, folder = _find_dataset(Path(root).absolute(), dataset)
    tracks, excluded = _scan(folder, has_genres=not dataset.startswith("multitask"))
    artists = None if fma_metadata is None else _artists(fma_metadata)
    if artists is not None:
        tracks = [replace(track, artist=artists.get(track.track_id)) for track in tracks]
    tracks = _carve(tracks, val_fraction, seed, with_test=dataset.startswith("multitask"))
    reader = PatrecReader(is_beat_synchronous=dataset.endswith("_beat"), max_frames=_longest(tracks))
    corpus = Corpus(
        name=f"patrec_{dataset}",
        tracks=tuple(tracks),
        excluded=tuple(excluded),
        notes=tuple(_notes(tracks, dataset, knows_artists=artists is not None)),
        source=f"NTUA pattern recognition course, {FOLDERS[dataset]}; tracks from the Free Music Archive",
    )
    return corpus, reader


def genres_block(genres: GenreMerge = PATREC_GENRES) -> str:
    """The merge as YAML that a space or a configuration can hold."""
    merged = "".join(f"    {name}: [{', '.join(taken)}]\n" for name, taken in genres.merge.items())
    return f"genres:\n  merge:\n{merged}  drop: [{', '.join(genres.drop)}]\n"


def _find_dataset(root: Path, dataset: PatrecDataset | None) -> tuple[PatrecDataset, Path]:
    if dataset is not None and dataset not in FOLDERS:
        raise DataError(f"dataset: expected one of {', '.join(FOLDERS)}, got {dataset!r}")
    if (root / "train_labels.txt").is_file():
        return dataset or _kind_of(root), root
    found = dict(_datasets_under(root))
    wanted = [name for name in found if dataset in (None, name)]
    if len(wanted) == 1:
        return wanted[0], found[wanted[0]]
    here = ", ".join(found) or "none of them"
    if wanted:
        raise DataError(f"{root}: expected one data set, got {here}; choose one with --dataset")
    expected = FOLDERS[dataset] if dataset else f"one of {', '.join(FOLDERS.values())}"
    raise DataError(f"{root}: expected the folder {expected} with train, test and train_labels.txt, got {here}")


def _datasets_under(root: Path) -> Iterator[tuple[PatrecDataset, Path]]:
    """Data sets in the folder or up to two below it: archives wrap them in `data/` or `data/data/`."""
    name: PatrecDataset
    for name in ("genre", "genre_beat", "multitask", "multitask_beat"):
        for pattern in (FOLDERS[name], f"*/{FOLDERS[name]}", f"*/*/{FOLDERS[name]}"):
            places = [path for path in sorted(root.glob(pattern)) if (path / "train_labels.txt").is_file()]
            if places:
                yield name, places[0]
                break


def _kind_of(folder: Path) -> PatrecDataset:
    """The data set that a folder of any name is, by its labels: beat-synchronous ones say so in their names."""
    lines = _lines(folder / "train_labels.txt")
    is_genre = "\t" in lines[0]
    is_beat = folder.name.endswith("_beat") or any("beatsync" in line for line in lines[1:3])
    if is_genre:
        return "genre_beat" if is_beat else "genre"
    return "multitask_beat" if is_beat else "multitask"


def _scan(folder: Path, *, has_genres: bool) -> tuple[list[Track], list[Exclusion]]:
    """Tracks of train and test as they lie there; what has a label but no array, or an array but no label."""
    tracks: dict[str, Track] = {}
    excluded: list[Exclusion] = []
    unused: dict[str, Path] = {}
    split: Literal["test", "train"]
    for split in ("test", "train"):  # test first: a track in both is kept for testing
        files, labels = _files(folder / split), folder / f"{split}_labels.txt"
        if split == "test" and not labels.is_file():
            unused = files
            continue
        for track in (_read_genres if has_genres else _read_affects)(labels, split):
            place = files.pop(track.track_id, folder / split / f"{track.track_id}.fused.full.npy")
            if track.track_id in tracks:
                excluded.append(Exclusion(track.track_id, str(place), "also among the test tracks, and kept there"))
            elif not place.is_file():
                excluded.append(Exclusion(track.track_id, str(place), "no such file"))
            else:
                tracks[track.track_id] = replace(track, source=str(place))
        excluded += [Exclusion(track_id, str(file), f"no label in {labels.name}") for track_id, file in files.items()]
    if not any(track.split == "train" for track in tracks.values()):
        raise DataError(f"{folder}: expected arrays <id>.fused.full.npy in train, got none that train_labels.txt names")
    spare = [Track(track_id, str(file), "unused") for track_id, file in unused.items() if track_id not in tracks]
    return [*tracks.values(), *spare], excluded


def _files(folder: Path) -> dict[str, Path]:
    """Arrays by id: `1042.fused.full.npy`, or `.npy.gz` as in older copies."""
    files: dict[str, Path] = {}
    for path in sorted(folder.glob("*")):
        if path.name.endswith((".npy", ".npy.gz")) and not path.name.startswith("."):
            files.setdefault(_id(path.name), path)  # `.npy` sorts before its `.npy.gz`
    return files


def _id(name: str) -> str:
    return name.strip().split(".", 1)[0]


def _read_genres(path: Path, split: Split) -> list[Track]:
    """Lines `1042.fused.full.npy.gz<TAB>Rock` below a header."""
    genres: dict[str, str] = {}
    for number, line in enumerate(_lines(path), start=1):
        cells = [cell.strip() for cell in line.split("\t")]
        if cells[0].lower() == "id" or not line.strip():
            continue
        if len(cells) != 2 or not all(cells):
            raise DataError(f"{path}: line {number}: expected <name><TAB><genre>, got {line!r}")
        if genres.setdefault(_id(cells[0]), cells[1]) != cells[1]:
            raise DataError(f"{path}: line {number}: {_id(cells[0])}: expected one genre, got two")
    return [Track(track_id, "", split, {"genre": genre}) for track_id, genre in genres.items()]


def _read_affects(path: Path, split: Split) -> list[Track]:
    """Lines `1042,.578,.973,.873` below the header `Id,valence,energy,danceability`."""
    head, *lines = _lines(path)
    columns = [cell.strip().lower() for cell in head.split(",")]
    if columns[0] != "id" or not set(TARGETS) <= set(columns):
        raise DataError(f"{path}: line 1: expected Id,{','.join(TARGETS)}, got {head!r}")
    tracks: dict[str, Track] = {}
    for number, line in enumerate(lines, start=2):
        if not line.strip():
            continue
        row = dict(zip(columns, line.split(","), strict=False))
        try:
            targets = {name: float(row[name]) for name in TARGETS}
        except (KeyError, ValueError):
            raise DataError(f"{path}: line {number}: expected an id and three numbers, got {line!r}") from None
        known = {name: value for name, value in targets.items() if math.isfinite(value)}
        tracks[_id(row["id"])] = Track(_id(row["id"]), "", split, targets=known)
    return list(tracks.values())


def _lines(path: Path) -> list[str]:
    """Lines of a label file; at least the header."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None
    if not lines:
        raise DataError(f"{path}: expected a header and a line for each track, got an empty file")
    return lines


def _artists(metadata_dir: str | Path) -> dict[str, str]:
    return {str(track.number): track.artist for track in read_fma_tracks(metadata_dir).values() if track.artist}


def _carve(tracks: Sequence[Track], val_fraction: float, seed: int, *, with_test: bool) -> list[Track]:
    """The training tracks dealt anew to train and val (and test); artists stay together where they are known."""
    training = [track for track in tracks if track.split == "train"]
    test_fraction = val_fraction if with_test else 0.0
    fractions = (1 - val_fraction - test_fraction, val_fraction, test_fraction)
    dealt = resplit(training, label="genre", by_artist=True, fractions=fractions, seed=seed)
    return [*dealt, *(track for track in tracks if track.split != "train")]


def _longest(tracks: Sequence[Track]) -> int | None:
    shapes = (npy_shape(Path(track.source)) for track in tracks)
    frames = [shape[1] for shape in shapes if shape is not None and len(shape) == 2]
    return max(frames, default=None)


def _notes(tracks: Sequence[Track], dataset: str, *, knows_artists: bool) -> Iterator[str]:
    carved = "validation and test" if dataset.startswith("multitask") else "validation"
    if not knows_artists:
        yield (
            f"warning: {carved}: carved from the training tracks at random: the course names no artists, and one "
            "on both sides makes scores come out too good; the ids are FMA's: --fma-metadata tells the artists"
        )
        return
    yield f"{carved}: carved from the training tracks by artist"
    unknown = [track.track_id for track in tracks if track.artist is None]
    if unknown:
        yield f"warning: {len(unknown)} tracks are not in FMA's tracks.csv: each counts as its own artist"
    leaking = leaking_artists(tracks)
    if leaking:
        yield f"warning: {len(leaking)} artists of the course's test tracks are among its training tracks, too"
