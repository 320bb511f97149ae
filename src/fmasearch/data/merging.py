"""Several feature files as one: their columns joined, their features copied block by block.

Shapes: N tracks of a file, n tracks of a block, T frames, F bins.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmasearch.data.feature_file import FeatureInfo, FileInfo, read_feature_blocks, read_info
from fmasearch.data.rows import read_all_columns, require_new
from fmasearch.data.scanning import OnRows
from fmasearch.data.writing import Columns, FeatureLayout, writing_feature_file
from fmasearch.errors import DataError

Array = NDArray[Any]

_BLOCK_BYTES = 32 * 2**20


@dataclass(frozen=True, slots=True)
class Merged:
    """What came of a merge."""

    num_tracks: int
    num_artists: int
    num_renamed: int
    """Tracks whose id was in several files, and now begins with its file's name."""


def merge_feature_files(
    paths: Sequence[str | Path],
    out: str | Path,
    *,
    same_artists: bool = False,
    on_rows: OnRows = lambda rows: None,
) -> Merged:
    """Concatenate files whose features were made alike, frames padded to the longest; splits stay as they are.

    Classes are united by name, label sets by name too: a track of a file without a set has no label in it. Track
    ids that are in several files get the file's stem before them.

    Args:
        same_artists: an artist id means the same artist in every file; else each file's artists are its own, and
            are numbered anew.
        on_rows: hears of progress; all rows together are the tracks of all files.

    Raises:
        DataError: if the features differ, naming the first difference; or if `out` is there already.
    """
    if len(paths) < 2:
        raise DataError(f"expected at least two feature files to merge, got {len(paths)}")
    require_new(out)
    infos = [read_info(path) for path in paths]
    for other in infos[1:]:
        _require_alike(infos[0], other)
    each = [read_all_columns(path) for path in paths]
    columns, num_renamed = _joined(infos, each, same_artists=same_artists)
    names = list(infos[0].features)
    frames = {name: max(info.features[name].shape[1] for info in infos) for name in names}
    with writing_feature_file(
        out,
        corpus=" + ".join(dict.fromkeys(info.corpus for info in infos if info.corpus)),
        features={name: _layout(infos[0].features[name], frames[name]) for name in names},
        columns=columns,
        source="; ".join(dict.fromkeys(info.source for info in infos if info.source)),
    ) as writer:
        for info in infos:
            for block in _blocks(info):
                writer.append(block)
                on_rows(len(block[names[0]]))
    assert columns.artist_ids is not None
    return Merged(len(columns.track_ids), len(np.unique(columns.artist_ids[columns.artist_ids >= 0])), num_renamed)


def _require_alike(first: FileInfo, other: FileInfo) -> None:
    mend = "prepare both files with the same settings, then merge"
    where = f"{other.path}: cannot be merged with {first.path}"
    if first.features.keys() != other.features.keys():
        sets, other_sets = (", ".join(sorted(info.features)) for info in (first, other))
        raise DataError(f"{where}: features: expected {sets}, got {other_sets}; {mend}")
    for name, feature in first.features.items():
        expected_facts, facts = _facts(feature), _facts(other.features[name])
        for key in [*expected_facts, *facts]:
            if (expected := expected_facts.get(key)) != (got := facts.get(key)):
                key = f"{where}: features/{name}: {key}"
                raise DataError(f"{key}: expected {_shown(expected)}, got {_shown(got)}; {mend}")
    for label_set, label in other.labels.items():
        if label_set in first.labels and bool(first.labels[label_set].names) != bool(label.names):
            raise DataError(f"{where}: labels/{label_set}: one has classes, the other has numbers; rename one of them")


def _facts(feature: FeatureInfo) -> dict[str, Any]:
    """Everything that must be equal: what a level stands for, and how it was made."""
    stored = {"bins": feature.shape[2], "dtype": feature.dtype, "scale": feature.scale, "offset": feature.offset}
    return {**stored, **feature.settings}


def _shown(value: Any) -> str:
    return "none" if value is None else repr(value)


def _layout(feature: FeatureInfo, num_frames: int) -> FeatureLayout:
    return FeatureLayout(
        num_frames=num_frames,
        num_bins=feature.shape[2],
        dtype=feature.dtype,
        settings=feature.settings,
        scale=feature.scale,
        offset=feature.offset,
    )


def _blocks(info: FileInfo) -> Iterator[dict[str, Array]]:
    row_bytes = sum(np.dtype(each.dtype).itemsize * each.shape[1] * each.shape[2] for each in info.features.values())
    step = max(1, _BLOCK_BYTES // row_bytes)
    for start in range(0, info.num_tracks, step):
        rows = np.arange(start, min(start + step, info.num_tracks))
        yield {
            name: np.concatenate(list(read_feature_blocks(info.path, feature, rows)))
            for name, feature in info.features.items()
        }


def _joined(infos: Sequence[FileInfo], each: Sequence[Columns], *, same_artists: bool) -> tuple[Columns, int]:
    """The columns of all files, and how many tracks were renamed."""
    track_ids, num_renamed = _track_ids([info.path for info in infos], [columns.track_ids for columns in each])
    targets = dict.fromkeys(name for columns in each for name in columns.targets)
    columns = Columns(
        split=np.concatenate([columns.split for columns in each]),
        track_ids=track_ids,
        lengths={name: np.concatenate([columns.lengths[name] for columns in each]) for name in infos[0].features},
        classes=_classes(each),
        targets={name: _target(each, name) for name in targets},
        artist_ids=_artist_ids(each, same_artists=same_artists),
        sources=_texts(each, lambda columns: columns.sources),
        licences=_texts(each, lambda columns: columns.licences),
    )
    return columns, num_renamed


def _track_ids(paths: Sequence[str], each: Sequence[Sequence[str]]) -> tuple[tuple[str, ...], int]:
    files_with = Counter(track_id for ids in each for track_id in set(ids))
    stems = _different([Path(path).stem for path in paths])
    renamed = [
        f"{stem}/{track_id}" if files_with[track_id] > 1 else track_id
        for stem, ids in zip(stems, each, strict=True)
        for track_id in ids
    ]
    return tuple(renamed), sum(files_with[track_id] > 1 for ids in each for track_id in ids)


def _different(stems: Sequence[str]) -> list[str]:
    """Files of equal names in several folders are told apart by their place: `small-1`, `small-2`."""
    times = Counter(stems)
    return [f"{stem}-{place}" if times[stem] > 1 else stem for place, stem in enumerate(stems, start=1)]


def _classes(each: Sequence[Columns]) -> dict[str, tuple[Sequence[str], Array]]:
    """Class tables united by name: those of the first file keep their codes."""
    united: dict[str, tuple[Sequence[str], Array]] = {}
    for label in dict.fromkeys(name for columns in each for name in columns.classes):
        names: dict[str, int] = {}
        parts = []
        for columns in each:
            own_names, codes_N = columns.classes.get(label, ((), np.full(len(columns.track_ids), -1)))
            # The last place is what code -1 points to; a code out of range is none, too.
            table = np.array([*(names.setdefault(name, len(names)) for name in own_names), -1])
            parts.append(table[np.where((codes_N < 0) | (codes_N >= len(own_names)), -1, codes_N)])
        united[label] = (tuple(names), np.concatenate(parts))
    return united


def _artist_ids(each: Sequence[Columns], *, same_artists: bool) -> Array:
    """Ids as they are, or numbered anew so that no two files share one. Unknown artists stay -1."""
    parts, taken = [], 0
    for columns in each:
        ids_N = np.asarray(columns.artist_ids, np.int64)
        if not same_artists:
            known_N = ids_N >= 0
            artists, places_N = np.unique(ids_N[known_N], return_inverse=True)
            ids_N = np.full(len(ids_N), -1, np.int64)
            ids_N[known_N] = taken + places_N.reshape(-1)
            taken += len(artists)
        parts.append(ids_N)
    return np.concatenate(parts)


def _target(each: Sequence[Columns], name: str) -> Array:
    return np.concatenate([columns.targets.get(name, np.full(len(columns.track_ids), np.nan)) for columns in each])


def _texts(each: Sequence[Columns], column: Callable[[Columns], Sequence[str] | None]) -> tuple[str, ...] | None:
    """A column of words, "" where a file has none; None where no file has it."""
    found = [(columns, column(columns)) for columns in each]
    if all(texts is None for _, texts in found):
        return None
    return tuple(text for columns, texts in found for text in (texts or [""] * len(columns.track_ids)))
