"""The layout of stacked arrays: which key holds what, and the tracks that its columns tell of.

Shapes: N tracks, T frames, F bins.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from fmasearch.config import did_you_mean
from fmasearch.corpora.splitting import SPLIT_NAMES
from fmasearch.errors import DataError
from fmasearch.tracks import Split, Track

ArrayFile: TypeAlias = Mapping[str, Any]
"""Keys to arrays: an open HDF5 file, or the arrays of an NPZ."""

_SPLIT_WORDS: dict[str, Split] = {
    **{"train": "train", "training": "train"},
    **{"val": "val", "valid": "val", "validation": "val", "dev": "val"},
    **{"test": "test", "testing": "test", "unused": "unused", "": "unused"},
}
_MOST_KEYS_SHOWN = 20


@dataclass(frozen=True, slots=True)
class ArraysLayout:
    """Where things are in a file of stacked arrays: keys of datasets with one row a track."""

    features: str
    """Key of the (N, T, F) or (N, F, T) values."""
    axes: Literal["NTF", "NFT"] = "NTF"
    labels: str | None = None
    """Key of (N,) class numbers (-1 = none) or class names."""
    names: str | None = None
    """Class names by number: a key, or `KEY@ATTRIBUTE`. None looks for an attribute `names` of the labels."""
    targets: Mapping[str, str] = field(default_factory=dict)
    """Key of (N,) numbers by target name, such as `{"valence": "y/valence"}`; NaN = none."""
    split: str | None = None
    """Key of (N,) codes (0 train, 1 val, 2 test, -1 unused) or words."""
    ids: str | None = None
    """Key of (N,) track ids; None numbers the rows."""
    artists: str | None = None
    """Key of (N,) artists, numbers or names; -1 and an empty name are unknown."""
    lengths: str | None = None
    """Key of (N,) frames before padding; None takes every frame."""
    feature_name: str = "mel"
    unit: str = "as imported"
    """Write `dB ...` for decibels: augmentation and reports know what they are."""
    value_range: tuple[float, float] | None = None
    """Lowest and highest value; None looks at all of them once."""


def stacked_tracks(path: Path, file: ArrayFile, layout: ArraysLayout) -> list[Track]:
    """A track for each row; its source is the row's number. Without a split in the file, all are `train`.

    Raises:
        DataError: if a key is missing, or a column has another length or values that cannot be.
    """
    if layout.labels is None and not layout.targets:
        raise DataError(f"{path}: expected --labels KEY or --target NAME=KEY, got neither; {what_is_here(file)}")
    num_tracks = len(dataset(path, file, "--features", layout.features))

    def column(option: str, key: str | None) -> list[Any] | None:
        return None if key is None else _column(path, file, option, key, num_tracks)

    classes = _classes(path, file, layout, column("--labels", layout.labels))
    targets = {name: _numbers(path, file, name, key, num_tracks) for name, key in layout.targets.items()}
    splits, artists = column("--split", layout.split), column("--artists", layout.artists)
    ids = [str(i) for i in column("--ids", layout.ids) or range(num_tracks)]
    if len(set(ids)) < num_tracks:
        raise DataError(f"{path}: --ids {layout.ids}: expected {num_tracks} different ids, got {len(set(ids))}")
    return [
        Track(
            track_id=ids[row],
            source=str(row),
            split=_split(path, layout.split, splits[row]) if splits else "train",
            classes=_labelled("genre", classes[row]) if classes else {},
            targets={name: numbers[row] for name, numbers in targets.items() if math.isfinite(numbers[row])},
            artist=_artist(artists[row]) if artists else None,
        )
        for row in range(num_tracks)
    ]


def _classes(path: Path, file: ArrayFile, layout: ArraysLayout, labels: list[Any] | None) -> list[str | None] | None:
    """Class name of each track."""
    if labels is None or layout.labels is None:
        return None
    if isinstance(labels[0], str):
        return [str(label) or None for label in labels]
    if any(not math.isfinite(label) or label != int(label) for label in labels):
        raise DataError(f"{path}: {layout.labels}: expected class numbers or names, got {labels[0]!r}; try --target")
    names = _class_names(path, file, layout.labels, layout.names) or [
        str(number) for number in range(int(max(labels)) + 1)
    ]
    return [class_name(path, layout.labels, int(label), names) for label in labels]


def _class_names(path: Path, file: ArrayFile, labels: str, names: str | None) -> list[str]:
    """By number; empty if the file has none."""
    found: Any
    if names is None:
        found = getattr(file[labels], "attrs", {}).get("names", ())
    elif "@" in names:
        key, attribute = names.rsplit("@", 1)
        attrs = getattr(file.get(key), "attrs", {})
        if attribute not in attrs:
            raise DataError(f"{path}: --names {names}: no such attribute; {what_is_here(file)}")
        found = attrs[attribute]
    else:
        found = dataset(path, file, "--names", names)[()]
    return [str(_plain(name)) for name in np.asarray(found).ravel()]


def class_name(path: Path, key: str, number: int, names: Sequence[str]) -> str | None:
    """The name of a class number; None for -1."""
    if number >= len(names) or number < -1:
        raise DataError(f"{path}: {key}: expected a class number in -1..{len(names) - 1}, got {number}")
    return names[number] if number >= 0 else None


def _split(path: Path, key: str | None, value: Any) -> Split:
    if isinstance(value, str) and value.lower() in _SPLIT_WORDS:
        return _SPLIT_WORDS[value.lower()]
    if not isinstance(value, str) and value in (-1, 0, 1, 2):
        return SPLIT_NAMES[int(value)] if value >= 0 else "unused"
    raise DataError(f"{path}: {key}: expected 0, 1, 2 or -1, or train, val, test or unused, got {value!r}")


def _labelled(label: str, name: str | None) -> dict[str, str]:
    return {label: name} if name else {}


def _artist(value: Any) -> str | None:
    return None if value in (-1, "") else str(value)


def _numbers(path: Path, file: ArrayFile, name: str, key: str, num_tracks: int) -> list[float]:
    values = _column(path, file, f"--target {name}", key, num_tracks)
    if any(isinstance(value, str) for value in values):
        raise DataError(f"{path}: --target {name}: {key}: expected numbers, got {values[0]!r}; try --labels")
    return [float(value) for value in values]


def _column(path: Path, file: ArrayFile, option: str, key: str, num_tracks: int) -> list[Any]:
    """One plain value a track."""
    values = dataset(path, file, option, key)
    if values.shape != (num_tracks,):
        raise DataError(f"{path}: {option} {key}: expected shape ({num_tracks},), got {values.shape}")
    return [_plain(value) for value in np.asarray(values[()])]


def dataset(path: Path, file: ArrayFile, option: str, key: str) -> Any:
    """The dataset of that key; `option` is what named it."""
    found = file.get(key)
    if found is None or not hasattr(found, "shape"):
        raise DataError(f"{path}: {option} {key}: no such dataset{did_you_mean(key, _keys(file))}")
    return found


def _keys(file: ArrayFile) -> list[str]:
    """Keys of the first datasets; a file may have 100,000."""
    visit = getattr(file, "visititems", None)  # HDF5 nests
    if visit is None:
        return sorted(file)
    keys: list[str] = []

    def note(key: str, item: Any) -> bool | None:
        if hasattr(item, "shape"):
            keys.append(key)
        return True if len(keys) == _MOST_KEYS_SHOWN else None

    visit(note)
    return keys


def what_is_here(file: ArrayFile) -> str:
    """Keys, shapes and types, for an error."""
    shown = (f"{key} {file[key].shape} {file[key].dtype}" for key in islice(_keys(file), _MOST_KEYS_SHOWN))
    return f"here are: {', '.join(shown) or 'no datasets'}"


def _plain(value: Any) -> Any:
    """Text for bytes, Python's numbers for numpy's."""
    if isinstance(value, bytes):
        return value.decode()
    return value.item() if isinstance(value, np.generic) else value
