"""A feature file split anew: the same tracks and features, another split column.

Shapes: N tracks of the file.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from numpy.typing import NDArray

from fmasearch.corpora.splitting import FRACTIONS, groups_in_several_splits, split_by_group, split_stratified
from fmasearch.data.feature_file import SPLITS, FileInfo, read_info
from fmasearch.data.rows import class_counts, read_all_columns, require_new
from fmasearch.data.scanning import OnRows, equal_rows, scan_rows
from fmasearch.data.writing import Columns
from fmasearch.errors import DataError
from fmasearch.files import replacing

SplitBy = Literal["artist", "track", "none"]
ClassCounts = Mapping[str, Mapping[str, int]]


@dataclass(frozen=True)
class Resplit:
    """What became of the splits. Counts are tracks by split, or by class and split."""

    stratified_by: str | None
    """The label set whose classes were dealt evenly; None where the file has no classes."""
    before: Mapping[str, int]
    after: Mapping[str, int]
    classes_before: ClassCounts
    """Of the label set in `stratified_by`."""
    classes_after: ClassCounts
    num_leaking_before: int
    """Artists in several splits."""
    num_leaking_after: int
    num_unknown_artists: int
    """Used tracks whose artist nobody knows."""
    dropped: tuple[str, ...]
    """Ids of tracks that are now unused, because another has equal content."""


def resplit_feature_file(
    path: str | Path,
    out: str | Path,
    *,
    by: SplitBy = "artist",
    fractions: Sequence[float] = FRACTIONS,
    seed: int = 0,
    stratify: str | None = None,
    drop_duplicates: bool = False,
    on_rows: OnRows = lambda rows: None,
) -> Resplit:
    """Copy a feature file with new splits. Unused tracks stay unused.

    Args:
        by: `artist` keeps whole artists on one side (a track of an unknown one counts as an artist), `track` deals
            single tracks and lets artists leak, `none` keeps the splits, for `drop_duplicates` alone.
        fractions: of train, val and test; they add up to 1.
        stratify: label set whose classes come near the fractions each; default `genre`, or the first with classes.
        drop_duplicates: of tracks with equal content one stays; with `none` the one that judges: test before val
            before train.
        on_rows: hears of progress where duplicates are looked for: `num_tracks * len(features)` rows.

    Raises:
        DataError: if artists are asked for and none is known, a label set is absent, or `out` is there already.
    """
    require_new(out)
    info, columns = read_info(path), read_all_columns(path)
    stratified_by = _stratified_by(info, stratify)
    dropped = _copies(info, columns, on_rows) if drop_duplicates else []
    split_N = np.where(np.isin(columns.split, list(SPLITS.values())), columns.split, -1).astype(np.int8)
    split_N[dropped] = -1
    used_N = split_N >= 0
    assert columns.artist_ids is not None
    if by == "artist":
        _require_artists(info, columns.artist_ids[used_N])
    if by != "none":
        labels_N = columns.classes[stratified_by][1] if stratified_by else np.zeros(info.num_tracks, np.int64)
        labels_N, artists_N = labels_N[used_N].astype(np.int64), columns.artist_ids[used_N].astype(np.int64)
        split_N[used_N] = (
            split_by_group(labels_N, artists_N, fractions=fractions, seed=seed)
            if by == "artist"
            else split_stratified(labels_N, fractions=fractions, seed=seed)
        )
    how = f"split by {by} {'/'.join(f'{each:g}' for each in fractions)}, seed {seed}" if by != "none" else ""
    how = ", ".join(part for part in (how, f"{len(dropped)} duplicates unused" if drop_duplicates else "") if part)
    _write(path, out, split_N, how)
    return Resplit(
        stratified_by=stratified_by,
        before=_sizes(columns.split),
        after=_sizes(split_N),
        classes_before=_classes(columns, columns.split, stratified_by),
        classes_after=_classes(columns, split_N, stratified_by),
        num_leaking_before=len(groups_in_several_splits(columns.artist_ids, columns.split)),
        num_leaking_after=len(groups_in_several_splits(columns.artist_ids, split_N)),
        num_unknown_artists=int((columns.artist_ids[used_N] < 0).sum()),
        dropped=tuple(columns.track_ids[row] for row in dropped),
    )


def _stratified_by(info: FileInfo, asked: str | None) -> str | None:
    if asked is not None:
        info.classes(asked)
        return asked
    known = [name for name, label in info.labels.items() if label.names]
    return "genre" if "genre" in known else next(iter(known), None)


def _require_artists(info: FileInfo, artists_N: NDArray[Any]) -> None:
    if not (artists_N >= 0).any():
        raise DataError(
            f"{info.path}: artist_id: no artist is known, so artists cannot be kept together; prepare the file with "
            f"artists, or split `--by track` and expect scores that are too good"
        )


def _copies(info: FileInfo, columns: Columns, on_rows: OnRows) -> list[int]:
    """Rows to drop: of equal ones all but one, the one whose split comes last."""
    scans = []
    for name, feature in info.features.items():
        lengths_N = np.clip(columns.lengths[name], 1, feature.shape[1]).astype(np.int64)
        scans.append(scan_rows(info.path, feature, lengths_N, on_rows))
    used = np.flatnonzero(np.isin(columns.split, list(SPLITS.values()))).tolist()
    kept_first = [sorted(rows, key=lambda row: (-columns.split[row], row)) for rows in equal_rows(scans, used)]
    return sorted(row for rows in kept_first for row in rows[1:])


def _write(path: str | Path, out: str | Path, split_N: NDArray[np.int8], how: str) -> None:
    """The features are copied as they lie on disk; only the split column is replaced."""
    with replacing(Path(out)) as temporary:
        shutil.copyfile(path, temporary)
        with h5py.File(temporary, "r+") as file:
            file["split"][...] = split_N
            source = file.attrs.get("source", "")
            source = source.decode() if isinstance(source, bytes) else str(source)
            file.attrs["source"] = "; ".join(part for part in (source, how) if part)


def _sizes(split_N: NDArray[Any]) -> dict[str, int]:
    return {name: int((split_N == code).sum()) for name, code in SPLITS.items()}


def _classes(columns: Columns, split_N: NDArray[Any], label: str | None) -> ClassCounts:
    return class_counts(columns.classes, split_N)[label] if label else {}
