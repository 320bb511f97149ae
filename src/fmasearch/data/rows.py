"""The rows of a feature file: their small columns, all splits at once and as they are, and one whole track.

Shapes: N tracks of the file, T frames, F bins.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from fmasearch.data.feature_file import SPLITS, FeatureInfo, read_feature_blocks, read_info
from fmasearch.data.writing import Columns
from fmasearch.errors import DataError

Array = NDArray[Any]
SPLIT_NAMES = {code: name for name, code in SPLITS.items()}
UNUSED = "unused"


@dataclass(frozen=True)
class StoredTrack:
    """One track as it is stored: what is known of it, and its own frames of one feature set."""

    track_id: str
    row: int
    split: str
    classes: Mapping[str, str | None]
    """Class name by label set; None where the track has none."""
    targets: Mapping[str, float]
    """NaN where the track has none."""
    artist_id: int
    """-1 where it is unknown."""
    licence: str
    source: str
    feature: FeatureInfo
    values_TF: NDArray[np.float32]
    """In the feature set's unit, padding left out."""


def read_all_columns(path: str | Path) -> Columns:
    """All small columns of all rows, lengths of every feature set among them. Only their shapes are checked.

    Raises:
        DataError: if the file cannot be used, or a column cannot be read.
    """
    info = read_info(path)
    num_tracks = info.num_tracks
    with h5py.File(path, "r") as file:
        lengths = {
            name: _column(path, file, f"lengths/{name}", np.full(num_tracks, feature.shape[1], np.int32))
            for name, feature in info.features.items()
        }
        labels = {name: _column(path, file, f"labels/{name}", np.zeros(num_tracks)) for name in info.labels}
        ids = _column(path, file, "track_id", np.arange(num_tracks).astype(str))
        texts = {name: _texts(path, file, name, num_tracks) for name in ("source", "licence")}
        return Columns(
            split=_column(path, file, "split", np.zeros(num_tracks)),
            track_ids=tuple(_text(each) for each in ids),
            lengths=lengths,
            classes={name: (label.names, labels[name]) for name, label in info.labels.items() if label.names},
            targets={name: labels[name] for name, label in info.labels.items() if not label.names},
            artist_ids=_column(path, file, "artist_id", np.full(num_tracks, -1, np.int32)),
            sources=texts["source"],
            licences=texts["licence"],
        )


def read_track(path: str | Path, track_id: str, feature: str | None = None) -> StoredTrack:
    """One track. Without a feature set, `mel` is read where there is one, else the first.

    Raises:
        DataError: if there is no such track or feature set, or its frames cannot be read.
    """
    info, columns = read_info(path), read_all_columns(path)
    row = _row_of(path, track_id, columns.track_ids)
    chosen = info.feature(feature or ("mel" if "mel" in info.features else next(iter(info.features))))
    (levels_NTF,) = read_feature_blocks(path, chosen, np.array([row]))
    length = int(np.clip(columns.lengths[chosen.name][row], 1, chosen.shape[1]))
    assert columns.artist_ids is not None
    return StoredTrack(
        track_id=track_id,
        row=row,
        split=SPLIT_NAMES.get(int(columns.split[row]), UNUSED),
        classes={label: _class_name(names, int(codes[row])) for label, (names, codes) in columns.classes.items()},
        targets={label: float(values[row]) for label, values in columns.targets.items()},
        artist_id=int(columns.artist_ids[row]),
        licence=columns.licences[row] if columns.licences else "",
        source=columns.sources[row] if columns.sources else "",
        feature=chosen,
        values_TF=(chosen.offset + chosen.scale * levels_NTF[0, :length].astype(np.float64)).astype(np.float32),
    )


def class_counts(
    classes: Mapping[str, tuple[Sequence[str], Array]], split_N: Array
) -> dict[str, dict[str, dict[str, int]]]:
    """Tracks by label set, class and split; `unused` rows take no part."""
    return {
        label: {
            name: {split: int(((codes_N == code) & (split_N == of)).sum()) for split, of in SPLITS.items()}
            for code, name in enumerate(names)
        }
        for label, (names, codes_N) in classes.items()
    }


def licence_counts(columns: Columns) -> dict[str, int]:
    """Tracks by licence, the most frequent first; nothing where no licence is recorded. "" is an unknown one."""
    names, counts = np.unique(np.array(columns.licences or (), dtype=str), return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return {str(names[place]): int(counts[place]) for place in order if names[place] or len(names) > 1}


def require_new(path: str | Path) -> None:
    """Reworked files are new files: nothing is overwritten, least of all what is being read.

    Raises:
        DataError: if there is one of this name.
    """
    if Path(path).exists():
        raise DataError(f"{path}: already exists; choose another name, or remove it first")


def _row_of(path: str | Path, track_id: str, known: Sequence[str]) -> int:
    if track_id in known:
        return known.index(track_id)
    # FMA's ids are padded with zeros, and people leave those out.
    close = [each for each in known if each.lstrip("0") == track_id.lstrip("0")]
    close = close or difflib.get_close_matches(track_id, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"the first ones are {', '.join(known[:3])}"
    raise DataError(f"{path}: track_id {track_id!r}: no such track; {hint}")


def _class_name(names: Sequence[str], code: int) -> str | None:
    return names[code] if 0 <= code < len(names) else None


def _column(path: str | Path, file: h5py.File, name: str, absent: Array) -> Array:
    """One value a track; `absent`, of the right shape, where the file has no such column."""
    if name not in file:
        return absent
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset) or dataset.shape != absent.shape:
        raise DataError(f"{path}: {name}: expected shape {absent.shape}, got {getattr(dataset, 'shape', 'a group')}")
    try:
        values: Array = dataset[()]
    except (OSError, RuntimeError) as error:
        raise DataError(f"{path}: {name}: cannot be read ({error}); the file is damaged: copy it again") from None
    return values


def _texts(path: str | Path, file: h5py.File, name: str, num_tracks: int) -> tuple[str, ...] | None:
    if name not in file:
        return None
    return tuple(_text(each) for each in _column(path, file, name, np.full(num_tracks, "")))


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
