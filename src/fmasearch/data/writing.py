"""The feature file, format 1: writing it, whole from memory or block by block.

Shapes: N tracks of the file, n tracks of a block, T frames, F bins.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from fmasearch import __version__
from fmasearch.data.feature_file import FORMAT, FORMAT_VERSION
from fmasearch.files import replacing

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class FeatureArray:
    """Feature values to be written: (N, T, F) float16, or uint8 levels with scale and offset."""

    values: Array
    settings: Mapping[str, Any] = field(default_factory=dict)
    scale: float = 1.0
    offset: float = 0.0


@dataclass(frozen=True, slots=True)
class FeatureLayout:
    """A feature set that is to be written block by block: everything but its values."""

    num_frames: int
    num_bins: int
    dtype: str
    """`float16`, or `uint8` levels with scale and offset."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    scale: float = 1.0
    offset: float = 0.0


@dataclass(frozen=True, slots=True)
class Columns:
    """Everything of a feature file that is small: one value a track.

    Args:
        lengths: frames before padding by feature; absent means every clip is full.
        classes: label sets by name: (class names, (N,) codes with -1 = none).
        targets: regression labels by name, (N,) float, NaN = none.
        split: (N,) 0 train, 1 val, 2 test, -1 unused.
        artist_ids: (N,) codes, -1 = unknown.
        sources: where each track came from; absent means nobody knows.
        licences: each track's licence, "" where unknown.
    """

    split: Array
    track_ids: Sequence[str]
    lengths: Mapping[str, Array] = field(default_factory=dict)
    classes: Mapping[str, tuple[Sequence[str], Array]] = field(default_factory=dict)
    targets: Mapping[str, Array] = field(default_factory=dict)
    artist_ids: Array | None = None
    sources: Sequence[str] | None = None
    licences: Sequence[str] | None = None


class FeatureFileWriter:
    """Appends blocks of tracks to a file that `writing_feature_file` opened."""

    def __init__(self, datasets: Mapping[str, h5py.Dataset]) -> None:
        self._datasets = datasets
        self.num_written = 0

    def append(self, features_nTF: Mapping[str, Array]) -> None:
        """Write the next n tracks.

        Args:
            features_nTF: every feature set, in the layout's dtype; T up to the layout's, the rest is padded with 0.
        """
        counts = {len(features_nTF[name]) for name in self._datasets}
        assert len(counts) == 1, f"feature sets of one block differ in their tracks: {counts}"
        end = self.num_written + counts.pop()
        for name, dataset in self._datasets.items():
            assert features_nTF[name].dtype == dataset.dtype
            if end > self.num_written:
                dataset[self.num_written : end] = _padded(features_nTF[name], dataset.shape[1])
        self.num_written = end


@contextmanager
def writing_feature_file(
    path: str | Path,
    *,
    corpus: str,
    features: Mapping[str, FeatureLayout],
    columns: Columns,
    source: str = "",
) -> Iterator[FeatureFileWriter]:
    """Write a feature file of format 1 in blocks, of which one is in memory at a time.

    It grows under a temporary name and takes `path`'s place when the block ends and every track was appended; if it
    fails, nothing is left.
    """
    num_tracks = len(columns.track_ids)
    with replacing(Path(path)) as temporary:
        with h5py.File(temporary, "w") as file:
            _write_attributes(file, corpus, source)
            datasets = {}
            for name, layout in features.items():
                shape = (num_tracks, layout.num_frames, layout.num_bins)
                datasets[name] = file.create_dataset(f"features/{name}", shape, np.dtype(layout.dtype))
                _write_settings(datasets[name], layout)
            _write_columns(file, columns, {name: layout.num_frames for name, layout in features.items()})
            writer = FeatureFileWriter(datasets)
            yield writer
            assert writer.num_written == num_tracks, f"{writer.num_written} of {num_tracks} tracks were appended"
        _sync(temporary)


def write_feature_file(
    path: str | Path,
    *,
    corpus: str,
    features: Mapping[str, FeatureArray],
    lengths: Mapping[str, Array] | None = None,
    classes: Mapping[str, tuple[Sequence[str], Array]] | None = None,
    targets: Mapping[str, Array] | None = None,
    split: Array,
    track_ids: Sequence[str],
    artist_ids: Array | None = None,
    source: str = "",
) -> None:
    """Write a feature file of format 1, under a temporary name that is renamed when complete.

    Args:
        features: by name; all with the same N.
        lengths: frames before padding by feature; absent means every clip is full.
        classes: label sets by name: (class names, (N,) codes with -1 = none).
        targets: regression labels by name, (N,) float, NaN = none.
        split: (N,) 0 train, 1 val, 2 test, -1 unused.
    """
    columns = Columns(
        split=split,
        track_ids=track_ids,
        lengths=lengths or {},
        classes=classes or {},
        targets=targets or {},
        artist_ids=artist_ids,
    )
    with replacing(Path(path)) as temporary, h5py.File(temporary, "w") as file:
        _write_attributes(file, corpus, source)
        for name, feature in features.items():
            _write_settings(file.create_dataset(f"features/{name}", data=feature.values), feature)
        _write_columns(file, columns, {name: feature.values.shape[1] for name, feature in features.items()})


def _write_attributes(file: h5py.File, corpus: str, source: str) -> None:
    file.attrs.update({"format": FORMAT, "format_version": FORMAT_VERSION, "corpus": corpus})
    file.attrs.update({"created_by": f"fmasearch {__version__}", "source": source})


def _write_settings(dataset: h5py.Dataset, feature: FeatureArray | FeatureLayout) -> None:
    dataset.attrs.update(dict(feature.settings))
    if dataset.dtype == np.uint8:
        dataset.attrs.update({"scale": feature.scale, "offset": feature.offset})


def _write_columns(file: h5py.File, columns: Columns, num_frames: Mapping[str, int]) -> None:
    num_tracks = len(columns.track_ids)
    for name, frames in num_frames.items():
        full = np.full(num_tracks, frames, np.int32)
        file[f"lengths/{name}"] = columns.lengths.get(name, full).astype(np.int32)
    for name, (names, codes) in columns.classes.items():
        file[f"labels/{name}"] = np.asarray(codes, np.int16)
        file[f"labels/{name}"].attrs["names"] = _strings(names)
    for name, values in columns.targets.items():
        file[f"labels/{name}"] = np.asarray(values, np.float32)
    file["split"] = np.asarray(columns.split, np.int8)
    file["track_id"] = _strings(columns.track_ids)
    unknown = np.full(num_tracks, -1, np.int32)
    file["artist_id"] = unknown if columns.artist_ids is None else columns.artist_ids.astype(np.int32)
    for name, texts in {"source": columns.sources, "licence": columns.licences}.items():
        if texts is not None:
            file[name] = _strings(texts)


def _strings(texts: Sequence[str]) -> Array:
    return np.array(list(texts), dtype=object)


def _padded(levels_nTF: Array, num_frames: int) -> Array:
    """Whole rows are written, so that no cell of the file depends on how HDF5 fills what nobody wrote."""
    missing = num_frames - levels_nTF.shape[1]
    assert missing >= 0, f"{levels_nTF.shape[1]} frames do not fit into {num_frames}"
    return np.pad(levels_nTF, ((0, 0), (0, missing), (0, 0))) if missing else levels_nTF


def _sync(path: Path) -> None:
    """Have the bytes on disk before the name: a crash of the machine must not leave a whole name for half a file."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
