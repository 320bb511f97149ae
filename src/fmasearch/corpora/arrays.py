"""Arrays that somebody else made: an HDF5 or NPZ file of spectrograms and labels, in a layout that is described.

Shapes: N tracks, T frames, F bins.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from fmasearch.corpora.fma import TOP_GENRES, read_fma_tracks
from fmasearch.corpora.npz_files import npz_arrays
from fmasearch.corpora.splitting import FRACTIONS, LEAK, leaking_artists, resplit
from fmasearch.corpora.stacked import ArrayFile, ArraysLayout, class_name, dataset, stacked_tracks, what_is_here
from fmasearch.corpora.values import require_range, require_sound
from fmasearch.errors import DataError, TrackError
from fmasearch.tracks import Corpus, Exclusion, FeatureSpec, Frames, Track

_BLOCK_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class ArraysReader:
    """Reads one track's values; the file is opened once in each process."""

    path: str
    spec: FeatureSpec
    features_key: str | None
    """Dataset of all tracks, a row each; None where each track's source is the key of its own."""
    bins_first: bool
    lengths_key: str | None = None

    @property
    def features(self) -> tuple[FeatureSpec, ...]:
        return (self.spec,)

    def read(self, track: Track) -> Mapping[str, Frames]:
        """The feature set of one track, (T, F) float32 without padding.

        Raises:
            TrackError: if the row cannot be read, or its values are NaN, out of their range or all equal.
        """
        try:
            values = self._values(track.source)
        except (OSError, KeyError, RuntimeError) as error:
            raise TrackError(f"cannot be read: {error}") from None
        frames_TF = np.ascontiguousarray(values.T if self.bins_first else values, dtype=np.float32)
        if frames_TF.ndim != 2 or frames_TF.shape[1] != self.spec.num_bins or len(frames_TF) == 0:
            raise TrackError(f"expected frames of {self.spec.num_bins} bins, got shape {frames_TF.shape}")
        require_range(self.spec, frames_TF)
        require_sound(frames_TF)
        return {self.spec.name: frames_TF.clip(self.spec.low, self.spec.high)}

    def _values(self, source: str) -> NDArray[Any]:
        file = _opened_once(self.path)
        if self.features_key is None:
            return np.asarray(file[source])
        row = int(source)
        values: NDArray[Any] = np.asarray(file[self.features_key][row])
        if self.lengths_key is None:
            return values
        length, available = int(file[self.lengths_key][row]), values.shape[1 if self.bins_first else 0]
        if not 1 <= length <= available:
            raise TrackError(f"expected a length of 1..{available} frames, got {length}")
        return values[:, :length] if self.bins_first else values[:length]


def read_arrays(
    path: str | Path,
    *,
    layout: ArraysLayout | None = None,
    fma_metadata: str | Path | None = None,
    seed: int = 0,
    fractions: Sequence[float] = FRACTIONS,
) -> tuple[Corpus, ArraysReader]:
    """Tracks and reader of a file of arrays.

    The split is the file's own; else FMA's official one, if its metadata is given; else by artist, if the layout
    names them; else random, with a warning.

    Args:
        path: HDF5, or NPZ by its suffix.
        layout: None expects one dataset a track in the groups `features`, (F, T) in [0, 1], and `labels`, a number
            of FMA's 16 top genres in alphabetical order: the `fma_mel_features.h5` of public course work.
        fma_metadata: FMA's metadata, for files whose ids are FMA's.

    Raises:
        DataError: if the file or a key is missing, or shapes contradict each other; what is there is named.
    """
    path = Path(path).absolute()
    excluded: list[Exclusion] = []
    with _opened(path) as file:
        if layout is None:
            tracks, excluded, reader = _read_per_track(path, file)
        else:
            tracks, reader = _read_stacked(path, file, layout)
        has_split = layout is not None and layout.split is not None
    if not tracks:
        raise DataError(f"{path}: expected tracks, got none that can be used ({excluded[0].reason}, ...)")
    notes: list[str] = []
    if fma_metadata is not None:
        tracks, left_out, notes = _with_fma(tracks, fma_metadata, has_split=has_split)
        excluded += left_out
    elif not has_split:
        by_artist = any(track.artist is not None for track in tracks)
        tracks = list(resplit(tracks, label="genre", by_artist=by_artist, fractions=fractions, seed=seed))
        notes = [] if by_artist else [f"{LEAK}; for FMA's tracks, --fma-metadata gives the official split"]
    leaking = leaking_artists(tracks)
    if leaking:
        notes.append(f"warning: {len(leaking)} artists are in several splits; scores come out too good")
    corpus = Corpus(path.stem, tuple(tracks), tuple(excluded), tuple(notes), f"arrays imported from {path.name}")
    return corpus, reader


def _read_per_track(path: Path, file: ArrayFile) -> tuple[list[Track], list[Exclusion], ArraysReader]:
    """One dataset a track: `features/000002` and `labels/000002`."""
    features, labels = (file.get(group) if isinstance(file, h5py.File) else None for group in ("features", "labels"))
    if not (isinstance(features, h5py.Group) and isinstance(labels, h5py.Group) and _has_datasets(features)):
        raise DataError(
            f"{path}: expected groups features and labels with a dataset for each track, or a layout that names the "
            f"keys (--features KEY); {what_is_here(file)}"
        )
    shapes = {key: item.shape for key, item in features.items() if isinstance(item, h5py.Dataset)}
    num_bins = Counter(shape[0] for shape in shapes.values() if shape).most_common(1)[0][0]
    tracks: list[Track] = []
    excluded: list[Exclusion] = []
    for key, shape in shapes.items():
        track_id, source = str(int(key)) if key.isdecimal() else key, f"features/{key}"
        if len(shape) != 2 or shape[0] != num_bins or shape[1] == 0:
            excluded.append(Exclusion(track_id, source, f"expected shape ({num_bins}, frames), got {shape}"))
        elif key not in labels:
            excluded.append(Exclusion(track_id, source, f"no label: labels/{key} is absent"))
        else:
            genre = class_name(path, f"labels/{key}", int(np.asarray(labels[key][()]).item()), TOP_GENRES)
            tracks.append(Track(track_id, source, "train", {"genre": genre} if genre is not None else {}))
    excluded += [Exclusion(key, f"labels/{key}", "no features") for key in labels if key not in shapes]
    max_frames = max((shape[1] for shape in shapes.values() if len(shape) == 2 and shape[0] == num_bins), default=None)
    spec = FeatureSpec(_NAMES.get(num_bins, "mel"), num_bins, max_frames, 0.0, 1.0, _settings_per_track(num_bins))
    return tracks, excluded, ArraysReader(str(path), spec, None, bins_first=True)


def _has_datasets(group: h5py.Group) -> bool:
    return any(isinstance(item, h5py.Dataset) and item.shape for item in group.values())


_NAMES = {20: "mfcc", 128: "mel"}
"""Of the two files that are known in that layout, by their bins."""


def _settings_per_track(num_bins: int) -> dict[str, str | int | float]:
    settings: dict[str, str | int | float] = {"sample_rate": 22050, "n_fft": 2048, "hop_length": 512}
    settings |= {"frame_rate": 22050 / 512, "unit": "min-max per track"}
    if _NAMES.get(num_bins) == "mel":
        settings |= {"n_mels": num_bins, "f_min": 0.0, "f_max": 11025.0, "mel_scale": "slaney", "norm": "slaney"}
    return settings


def _read_stacked(path: Path, file: ArrayFile, layout: ArraysLayout) -> tuple[list[Track], ArraysReader]:
    """One dataset of all tracks."""
    values = dataset(path, file, "--features", layout.features)
    if len(values.shape) != 3 or 0 in values.shape:
        raise DataError(f"{path}: {layout.features}: expected three axes {layout.axes}, got shape {values.shape}")
    num_frames, num_bins = values.shape[1:] if layout.axes == "NTF" else values.shape[:0:-1]
    tracks = stacked_tracks(path, file, layout)
    if layout.lengths is not None:
        lengths_N = dataset(path, file, "--lengths", layout.lengths)
        if lengths_N.shape != (len(tracks),):
            raise DataError(f"{path}: --lengths {layout.lengths}: expected ({len(tracks)},), got {lengths_N.shape}")
        num_frames = int(np.clip(np.asarray(lengths_N).max(), 1, num_frames))
    low, high = layout.value_range or _range_of(values)
    if not low < high:
        raise DataError(f"{path}: {layout.features}: expected values between two bounds, got {low:g}..{high:g}")
    spec = FeatureSpec(layout.feature_name, num_bins, num_frames, low, high, {"unit": layout.unit})
    return tracks, ArraysReader(str(path), spec, layout.features, layout.axes == "NFT", layout.lengths)


def _range_of(values: Any) -> tuple[float, float]:
    """Lowest and highest finite value, a block of rows at a time."""
    rows = max(1, _BLOCK_BYTES // max(1, int(np.prod(values.shape[1:])) * values.dtype.itemsize))
    low, high = np.inf, -np.inf
    for start in range(0, len(values), rows):
        block = np.asarray(values[start : start + rows])
        finite = block[np.isfinite(block)]
        low, high = min(low, finite.min(initial=np.inf)), max(high, finite.max(initial=-np.inf))
    return float(low), float(high)


def _with_fma(
    tracks: Sequence[Track], metadata_dir: str | Path, *, has_split: bool
) -> tuple[list[Track], list[Exclusion], list[str]]:
    """Artists, licences and, unless the file has a split, FMA's own; and how often the genres differ."""
    known = read_fma_tracks(metadata_dir)
    joined: list[Track] = []
    excluded: list[Exclusion] = []
    num_other_genres = 0
    for track in tracks:
        facts = known.get(int(track.track_id)) if track.track_id.isdecimal() else None
        if facts is None:
            excluded.append(Exclusion(track.track_id, track.source, "not in FMA's tracks.csv"))
            continue
        split = track.split if has_split else facts.split
        num_other_genres += facts.genre is not None and track.classes.get("genre", facts.genre) != facts.genre
        joined.append(replace(track, split=split, artist=facts.artist or None, licence=facts.licence))
    if not joined:
        raise DataError(f"{metadata_dir}: expected FMA's track ids in the file, got {tracks[0].track_id!r}, ...")
    notes = [] if has_split else ["FMA's official split, from tracks.csv"]
    if num_other_genres:
        notes.append(f"warning: {num_other_genres} of {len(joined)} genres are not those of tracks.csv")
    return joined, excluded, notes


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The file as a mapping from keys to arrays: an HDF5 file, or NPZ's arrays."""
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    if path.suffix == ".npz":
        yield npz_arrays(path)
        return
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise DataError(f"{path}: expected an HDF5 or NPZ file, or it is damaged: {error}") from None
    with file:
        if file.attrs.get("format") == "fmasearch":
            raise DataError(f"{path}: is a feature file already; tune and train take it as it is")
        yield file


@lru_cache(maxsize=4)
def _opened_once(path: str) -> Any:
    return npz_arrays(Path(path)) if path.endswith(".npz") else h5py.File(path, "r")
