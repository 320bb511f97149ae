"""The feature file, format 1: reading it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from numpy.typing import NDArray

from fmasearch.config import did_you_mean
from fmasearch.data.memo import read_memo, remember
from fmasearch.errors import DataError

FORMAT, FORMAT_VERSION = "fmasearch", 1
SPLITS = {"train": 0, "val": 1, "test": 2}
SplitName = Literal["train", "val", "test"]
Array = NDArray[Any]
_BLOCK_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class FeatureInfo:
    """One feature set: (N, T, F) levels, where value = offset + scale * level (scale 1, offset 0 for floats)."""

    name: str
    shape: tuple[int, int, int]
    dtype: str
    scale: float
    offset: float
    settings: Mapping[str, Any]  # the file's attributes: sample_rate, hop_length, ...


@dataclass(frozen=True, slots=True)
class LabelInfo:
    """One label set. `names` is empty for a regression target."""

    name: str
    names: tuple[str, ...]
    counts: Mapping[str, int]  # per class, or {"labelled": n} for a target
    train_counts: Mapping[str, int]  # the same, of the training split alone


@dataclass(frozen=True, slots=True)
class FileInfo:
    """What a feature file holds, without its features."""

    path: str
    corpus: str
    num_tracks: int
    features: Mapping[str, FeatureInfo]
    labels: Mapping[str, LabelInfo]
    split_counts: Mapping[str, int]
    num_artists: int
    source: str

    def feature(self, name: str) -> FeatureInfo:
        if name not in self.features:
            known = sorted(self.features)
            raise DataError(f"{self.path}: features/{name}: no such feature set{did_you_mean(name, known)}")
        return self.features[name]

    def classes(self, label: str) -> tuple[str, ...]:
        """Class names of a label set; a missing set or a regression target is a DataError."""
        known = sorted(name for name, info in self.labels.items() if info.names)
        if label not in self.labels:
            raise DataError(f"{self.path}: labels/{label}: no such label set{did_you_mean(label, known)}")
        if not self.labels[label].names:
            raise DataError(
                f"{self.path}: labels/{label}: expected class labels with a `names` attribute, got a "
                f"regression target: predict it with `task: {{regression: [{label}]}}`{did_you_mean(label, known)}"
            )
        return self.labels[label].names

    def require_target(self, target: str) -> None:
        """A missing label, or one of classes, is a DataError."""
        known = sorted(name for name, info in self.labels.items() if not info.names)
        if target not in self.labels:
            raise DataError(f"{self.path}: labels/{target}: no such label{did_you_mean(target, known)}")
        if self.labels[target].names:
            raise DataError(
                f"{self.path}: labels/{target}: expected numbers to predict, got class labels: tell them apart with "
                f"`task: {{classification: {target}}}`{did_you_mean(target, known)}"
            )


def read_info(path: str | Path) -> FileInfo:
    """Read and check everything but the features.

    Raises:
        DataError: if the file is missing, damaged, of another format, or contradicts itself.
    """
    with _open(path) as file:
        split = _column(path, file, "split")
        features = {name: _feature_info(path, file, name, len(split)) for name in _members(file, "features")}
        if not features:
            raise DataError(f"{path}: features: expected at least one feature set, got none")
        labels = {name: _label_info(path, file, name, split) for name in _members(file, "labels")}
        artists = _artists(path, file, len(split))
        return FileInfo(
            path=str(path),
            corpus=_text(file.attrs.get("corpus", "")),
            num_tracks=len(split),
            features=features,
            labels=labels,
            split_counts={name: int((split == code).sum()) for name, code in SPLITS.items()},
            num_artists=len(np.unique(artists[artists >= 0])),
            source=_text(file.attrs.get("source", "")),
        )


@dataclass(frozen=True, slots=True)
class SplitColumns:
    """The small columns of one split's rows."""

    rows: Array  # (n,) row numbers in the file
    lengths: Array  # (n,) int64 frames
    labels: Array  # (n,) int64, -1 = none; all -1 where no label set was asked for
    values: Array  # (n, R) float32 in the labels' own units, NaN = none
    track_ids: tuple[str, ...]
    artist_ids: Array  # (n,) int64, -1 = unknown


def read_columns(
    path: str | Path, split: SplitName, *, features: Sequence[str], label: str | None, targets: Sequence[str] = ()
) -> SplitColumns:
    """Read lengths, labels and identities of one split; rows of other splits are not looked at.

    Args:
        label: the label set that is classified; None for none.
        targets: names of numeric labels.

    Raises:
        DataError: if the split is empty, lengths disagree between features, or a label is out of range.
    """
    info = read_info(path)
    for target in targets:
        info.require_target(target)
    with _open(path) as file:
        rows = np.flatnonzero(_column(path, file, "split") == SPLITS[split])
        if len(rows) == 0:
            raise DataError(f"{path}: split: expected rows with value {SPLITS[split]} ({split}), got none")
        labels = np.full(len(rows), -1) if label is None else _codes(path, file, info, label, rows)
        values = np.empty((len(rows), len(targets)), np.float32)
        for column, target in enumerate(targets):
            values[:, column] = _column(path, file, f"labels/{target}")[rows]
        values[~np.isfinite(values)] = np.nan
        if (labels < 0).all() and np.isnan(values).all():
            asked = ", ".join(f"labels/{name}" for name in [label, *targets] if name)
            raise DataError(f"{path}: {asked}: no track of the {split} split has a label")
        lengths = [_lengths(path, file, info.feature(name))[rows] for name in features]
        for name, other in zip(features[1:], lengths[1:], strict=True):
            if not np.array_equal(lengths[0], other):
                raise DataError(
                    f"{path}: lengths/{name}: expected the lengths of {features[0]} so that both can be joined "
                    f"along bins, got others"
                )
        num_tracks = info.num_tracks
        ids = _column(path, file, "track_id", num_tracks)[rows] if "track_id" in file else rows.astype(str)
        return SplitColumns(
            rows=rows,
            lengths=lengths[0],
            labels=labels,
            values=values,
            track_ids=tuple(_text(i) for i in ids),
            artist_ids=_artists(path, file, num_tracks)[rows].astype(np.int64),
        )


def read_feature_blocks(path: str | Path, feature: FeatureInfo, rows: Array) -> Iterator[Array]:
    """Yield the levels of `rows` (ascending) in blocks of about 64 MiB, shape (n, T, F), dtype as stored.

    Raises:
        DataError: if a block cannot be read (truncated or corrupt file).
    """
    row_bytes = feature.shape[1] * feature.shape[2] * np.dtype(feature.dtype).itemsize
    step = max(1, _BLOCK_BYTES // max(1, row_bytes))
    with _open(path) as file:
        dataset = file[f"features/{feature.name}"]
        for start in range(0, len(rows), step):
            block = rows[start : start + step]
            try:
                yield _read_rows(dataset, block)
            except (OSError, RuntimeError) as error:
                raise DataError(
                    f"{path}: features/{feature.name}: rows {block[0]}..{block[-1]} cannot be read "
                    f"({_first_line(error)}); the file is damaged: copy or prepare it again"
                ) from None


def content_hash(path: str | Path, *, memo: Path | None = None) -> str:
    """SHA-256 of the file. `memo` is a JSON file that remembers hashes by path, size and modification time."""
    path = Path(path)
    try:
        stat = path.stat()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    key = f"{path.resolve()}:{stat.st_size}:{stat.st_mtime_ns}"
    if memo is not None and (known := read_memo(memo).get(key)):
        return known
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if memo is not None:
        remember(memo, key, sha256)
    return sha256


@contextmanager
def _open(path: str | Path) -> Iterator[h5py.File]:
    if not Path(path).is_file():
        raise DataError(f"{path}: no such feature file; `fmasearch demo` writes one to try")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        reason = "is cut short: copy it again" if "truncated" in str(error) else "is not an HDF5 file, or is damaged"
        raise DataError(f"{path}: {reason} ({_first_line(error)})") from None
    with file:
        found, version = _text(file.attrs.get("format", "")), file.attrs.get("format_version")
        if found != FORMAT:
            raise DataError(f"{path}: attribute format: expected {FORMAT!r}, got {found!r}: not a feature file")
        if version != FORMAT_VERSION:
            raise DataError(f"{path}: attribute format_version: expected {FORMAT_VERSION}, got {version}")
        yield file


def _members(file: h5py.File, group: str) -> list[str]:
    return list(file[group]) if isinstance(file.get(group), h5py.Group) else []


def _dataset(path: str | Path, file: h5py.File, name: str) -> h5py.Dataset:
    if name not in file:
        raise DataError(f"{path}: {name}: required by format {FORMAT_VERSION}, but absent")
    if not isinstance(file[name], h5py.Dataset):
        raise DataError(f"{path}: {name}: expected a dataset, got a group")
    return file[name]


def _column(path: str | Path, file: h5py.File, name: str, num_tracks: int | None = None) -> Array:
    """One value a track; `split`, which is read first, says how many tracks there are."""
    dataset = _dataset(path, file, name)
    if dataset.ndim != 1 or num_tracks not in (None, len(dataset)):
        expected = "one value a track" if num_tracks is None else f"shape ({num_tracks},)"
        raise DataError(f"{path}: {name}: expected {expected}, got {dataset.shape}")
    try:
        values: Array = dataset[()]
    except (OSError, RuntimeError) as error:
        raise DataError(f"{path}: {name}: cannot be read ({_first_line(error)}); the file is damaged") from None
    return values


def _codes(path: str | Path, file: h5py.File, info: FileInfo, label: str, rows: Array) -> Array:
    names = info.classes(label)
    labels = _column(path, file, f"labels/{label}")[rows].astype(np.int64)
    if labels.max() >= len(names) or labels.min() < -1:
        raise DataError(f"{path}: labels/{label}: expected -1..{len(names) - 1}, got {labels.min()}..{labels.max()}")
    return labels


def _feature_info(path: str | Path, file: h5py.File, name: str, num_tracks: int) -> FeatureInfo:
    dataset = _dataset(path, file, f"features/{name}")
    key = f"{path}: features/{name}"
    if dataset.ndim != 3 or dataset.shape[0] != num_tracks or 0 in dataset.shape:
        raise DataError(f"{key}: expected shape ({num_tracks}, frames, bins), got {dataset.shape}")
    if dataset.dtype not in (np.uint8, np.float16, np.float32):
        raise DataError(f"{key}: expected float16, float32 or uint8, got {dataset.dtype}")
    settings = {k: _plain(v) for k, v in dataset.attrs.items()}
    if dataset.dtype == np.uint8 and not {"scale", "offset"} <= settings.keys():
        raise DataError(f"{key}: uint8 levels need the attributes scale and offset, got {sorted(settings)}")
    return FeatureInfo(
        name=name,
        shape=dataset.shape,
        dtype=str(dataset.dtype),
        scale=float(settings.pop("scale", 1.0)),
        offset=float(settings.pop("offset", 0.0)),
        settings=settings,
    )


def _label_info(path: str | Path, file: h5py.File, name: str, split: Array) -> LabelInfo:
    values = _column(path, file, f"labels/{name}", len(split))
    names = tuple(_text(n) for n in file[f"labels/{name}"].attrs.get("names", ()))
    in_train = values[split == SPLITS["train"]]
    return LabelInfo(name, names, _label_counts(values, names), _label_counts(in_train, names))


def _label_counts(values: Array, names: Sequence[str]) -> dict[str, int]:
    if names:
        return {name: int((values == code).sum()) for code, name in enumerate(names)}
    return {"labelled": int(np.isfinite(values).sum())}


def _lengths(path: str | Path, file: h5py.File, feature: FeatureInfo) -> Array:
    num_tracks, num_frames, _ = feature.shape
    if f"lengths/{feature.name}" not in file:
        return np.full(num_tracks, num_frames, np.int64)
    lengths = _column(path, file, f"lengths/{feature.name}", num_tracks)
    if lengths.min() < 1 or lengths.max() > num_frames:
        found = f"{lengths.min()}..{lengths.max()}"
        raise DataError(f"{path}: lengths/{feature.name}: expected 1..{num_frames} frames, got {found}")
    return lengths.astype(np.int64)


def _artists(path: str | Path, file: h5py.File, num_tracks: int) -> Array:
    unknown = np.full(num_tracks, -1, np.int32)
    return _column(path, file, "artist_id", num_tracks) if "artist_id" in file else unknown


def _read_rows(dataset: h5py.Dataset, rows: Array) -> Array:
    """Slices are far quicker than h5py's fancy indexing, so contiguous runs are read as slices."""
    runs = np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1)
    return np.concatenate([dataset[run[0] : run[-1] + 1] for run in runs])


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    return _text(value) if isinstance(value, bytes) else value
