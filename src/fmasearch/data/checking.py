"""The check of a feature file: what is wrong with it, how many tracks it concerns, and how to mend it.

Shapes: N tracks of the file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fmasearch.corpora.splitting import groups_in_several_splits
from fmasearch.data.feature_file import SPLITS, FeatureInfo, FileInfo, read_info
from fmasearch.data.rows import SPLIT_NAMES, UNUSED, class_counts, read_all_columns
from fmasearch.data.scanning import OnRows, RowFacts, equal_rows, scan_rows
from fmasearch.data.writing import Columns

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
FEW_TRACKS = 10
"""A class with fewer tracks in a split is judged by chance: one track more or less moves its recall by a tenth."""
IMBALANCE = 10.0
"""Training tracks of the largest class for one of the smallest, from which on a note is worth it."""
_MOST_EXAMPLES = 5

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found. Errors stop a training or make its score a lie; a note is good to know."""

    severity: Severity
    code: str
    message: str
    mend: str
    count: int
    """Of what the message counts first: tracks, artists, classes."""
    examples: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Histogram:
    """Tracks by frames before padding: bin i holds `edges[i]` to `edges[i + 1]`, the last with its upper edge."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    frame_rate: float | None
    """Frames a second, where the file says so."""


@dataclass(frozen=True, slots=True)
class FileReport:
    """What `check_feature_file` saw: facts, and findings with the worst first."""

    path: str
    num_tracks: int
    num_artists: int
    split_counts: Mapping[str, int]
    class_counts: Mapping[str, Mapping[str, Mapping[str, int]]]
    """Tracks by label set, class and split."""
    lengths: Mapping[str, Histogram]
    """By feature set."""
    findings: tuple[Finding, ...]

    def of(self, severity: Severity) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.severity == severity)

    @property
    def has_errors(self) -> bool:
        return bool(self.of("error"))


def check_feature_file(path: str | Path, *, on_rows: OnRows = lambda rows: None) -> FileReport:
    """Read every row of every feature set once, some 16 MB at a time, and every column.

    Args:
        on_rows: hears of progress; all features' rows together are `num_tracks * len(features)`.

    Raises:
        DataError: if it is no feature file, or contradicts itself so that it has no rows to speak of.
    """
    info, columns = read_info(path), read_all_columns(path)
    counts = class_counts(columns.classes, columns.split)
    findings = [*_rows(columns), *_lengths(info, columns), *_labels(columns), *_balance(counts, columns)]
    findings += _artists(columns)
    scans = {}
    for name, feature in info.features.items():
        lengths_N = np.clip(columns.lengths[name], 1, feature.shape[1]).astype(np.int64)
        scans[name] = scan_rows(path, feature, lengths_N, on_rows)
        findings += _contents(name, scans[name], columns)
    findings += _duplicates(list(scans.values()), columns)
    splits = {name: int((columns.split == code).sum()) for name, code in SPLITS.items()}
    return FileReport(
        path=str(path),
        num_tracks=info.num_tracks,
        num_artists=info.num_artists,
        split_counts={**splits, UNUSED: info.num_tracks - sum(splits.values())},
        class_counts=counts,
        lengths={name: length_histogram(feature, columns.lengths[name]) for name, feature in info.features.items()},
        findings=tuple(sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))),
    )


def length_histogram(feature: FeatureInfo, lengths_N: NDArray[Any], *, num_bins: int = 10) -> Histogram:
    """Equal bins from the shortest to the longest; one bin where all are equal."""
    low, high = int(lengths_N.min()), int(lengths_N.max())
    counts, edges = np.histogram(lengths_N, bins=min(num_bins, max(1, high - low)), range=(low, max(high, low + 1)))
    rate = feature.settings.get("frame_rate")
    return Histogram(
        edges=(float(low), float(low)) if low == high else tuple(float(edge) for edge in edges),
        counts=tuple(int(count) for count in counts),
        frame_rate=float(rate) if isinstance(rate, int | float) and rate > 0 else None,
    )


def _rows(columns: Columns) -> Iterator[Finding]:
    """Identities and splits."""
    _, places_N, repeats_N = np.unique(np.array(columns.track_ids), return_inverse=True, return_counts=True)
    repeated_N = repeats_N[places_N.reshape(-1)] > 1
    if repeated_N.any():
        message = f"{_tracks(repeated_N)} with a track_id that another has, too"
        yield _of_tracks("warning", "repeated-id", message, "give each track an id of its own", repeated_N, columns)
    odd_N = ~np.isin(columns.split, [*SPLITS.values(), -1])
    if odd_N.any():
        message = f"{_tracks(odd_N)} with a split code that is none of -1, 0, 1, 2; nothing reads them"
        yield _of_tracks("warning", "odd-split", message, "prepare the file again", odd_N, columns)
    empty = [name for name, code in SPLITS.items() if not (columns.split == code).any()]
    if empty:
        message = f"no tracks in the {' and '.join(empty)} split"
        yield Finding(
            "warning",
            "empty-split",
            message,
            "`fmasearch data resplit FILE --by artist --out NEW.h5` makes all three",
            len(empty),
        )


def _lengths(info: FileInfo, columns: Columns) -> Iterator[Finding]:
    for name, lengths_N in columns.lengths.items():
        most = info.features[name].shape[1]
        bad_N = (lengths_N < 1) | (lengths_N > most)
        if bad_N.any():
            found = f"{lengths_N[bad_N].min()} to {lengths_N[bad_N].max()}"
            message = f"lengths/{name}: {_tracks(bad_N)} not of 1 to {most} frames, but of {found}"
            yield _of_tracks("error", "bad-length", message, "prepare the file again", bad_N, columns)


def _labels(columns: Columns) -> Iterator[Finding]:
    """Labels that cannot be, and those that are absent."""
    for name, (names, codes_N) in columns.classes.items():
        bad_N = (codes_N < -1) | (codes_N >= len(names))
        if bad_N.any():
            message = f"labels/{name}: {_tracks(bad_N)} with a code that is not -1..{len(names) - 1}"
            yield _of_tracks("error", "bad-label", message, "prepare the file again", bad_N, columns)
    for name, values_N in columns.targets.items():
        infinite_N = np.isinf(values_N)
        if infinite_N.any():
            message = f"labels/{name}: {_tracks(infinite_N)} with an infinite value"
            yield _of_tracks("error", "bad-label", message, "NaN means that there is none", infinite_N, columns)
    yield from _unlabelled(columns)


def _unlabelled(columns: Columns) -> Iterator[Finding]:
    """One finding for all labels that the same tracks lack, such as echonest's eight."""
    used_N = _used(columns)
    lacking = {name: codes_N == -1 for name, (_, codes_N) in columns.classes.items()}
    lacking |= {name: np.isnan(values_N) for name, values_N in columns.targets.items()}
    by_tracks: dict[bytes, list[str]] = {}
    for name, none_N in lacking.items():
        if (none_N & used_N).any():
            by_tracks.setdefault((none_N & used_N).tobytes(), []).append(name)
    for names in by_tracks.values():
        none_N = lacking[names[0]] & used_N
        message = f"{_tracks(none_N)} of {used_N.sum():,} without {', '.join(names)}"
        mend = "nothing to do: they take no part in learning what they lack"
        yield _of_tracks("note", "unlabelled", message, mend, none_N, columns)


def _balance(counts: Mapping[str, Mapping[str, Mapping[str, int]]], columns: Columns) -> Iterator[Finding]:
    filled = [name for name, code in SPLITS.items() if (columns.split == code).any()]
    for label, by_class in counts.items():
        train = {name: splits["train"] for name, splits in by_class.items()}
        untrained = [name for name, tracks in train.items() if tracks == 0 and "train" in filled]
        if untrained:
            message = f"{label}: {_counted(len(untrained), 'class', 'classes')} without a training track"
            mend = "split anew with `fmasearch data resplit`, or drop them in the study: `genres: {drop: [...]}`"
            yield _with_examples("warning", "untrained-class", message, mend, untrained)
        few = {
            name: ", ".join(f"{splits[each]} {each}" for each in filled if splits[each] < FEW_TRACKS)
            for name, splits in by_class.items()
            if name not in untrained and any(splits[each] < FEW_TRACKS for each in filled)
        }
        if few:
            classes = _counted(len(few), "class", "classes")
            message = f"{label}: {classes} with fewer than {FEW_TRACKS} tracks in a split"
            mend = "merge or drop small classes: `genres: {merge: {...}, min_tracks: N}`; trust their scores little"
            yield _with_examples("warning", "few-tracks", message, mend, [f"{n} ({each})" for n, each in few.items()])
        present = {name: tracks for name, tracks in train.items() if tracks}
        if present and max(present.values()) > IMBALANCE * min(present.values()):
            largest, smallest = max(present, key=present.__getitem__), min(present, key=present.__getitem__)
            message = f"{label}: {present[largest]:,} training tracks of {largest}, {present[smallest]:,} of {smallest}"
            mend = "search for macro-F1 (`task: {objective: macro_f1}`), try `loss: {class_weights: balanced}`"
            yield Finding("note", "imbalance", message, mend, 2, (largest, smallest))


def _artists(columns: Columns) -> Iterator[Finding]:
    assert columns.artist_ids is not None
    artists_N, used_N = columns.artist_ids.astype(np.int64), _used(columns)
    splits_N = np.where(used_N, columns.split, -1).astype(np.int64)
    leaking = groups_in_several_splits(artists_N, splits_N)
    if leaking:
        tracks_N = used_N & np.isin(artists_N, leaking)
        artists = f"{_counted(len(leaking), 'artist is', 'artists are')} in more than one split"
        message = f"{artists} ({_tracks(tracks_N)}): scores come out too good"
        mend = "`fmasearch data resplit FILE --by artist --out NEW.h5`"
        examples = [_artist_example(artist, artists_N, splits_N) for artist in leaking[:_MOST_EXAMPLES]]
        yield Finding("error", "artist-leak", message, mend, len(leaking), tuple(examples))
    unknown_N = used_N & (artists_N < 0)
    if unknown_N.any():
        every = bool(unknown_N.sum() == used_N.sum())
        message = f"{_tracks(unknown_N)} of {used_N.sum():,} without a known artist: leakage cannot be seen there"
        mend = "prepare the file with artists, if they are known anywhere"
        yield _of_tracks("warning" if every else "note", "unknown-artists", message, mend, unknown_N, columns)


def _artist_example(artist: int, artists_N: Ints, splits_N: Ints) -> str:
    counts = {name: int(((artists_N == artist) & (splits_N == code)).sum()) for name, code in SPLITS.items()}
    return f"artist {artist} ({', '.join(f'{count} {name}' for name, count in counts.items() if count)})"


def _contents(feature: str, facts: RowFacts, columns: Columns) -> Iterator[Finding]:
    """What the rows of one feature set look like; of unused rows only whether they can be read."""
    used_N = _used(columns)
    again = "copy the file again, or prepare these tracks again"
    found: list[tuple[Severity, str, Flags, str, str]] = [
        ("error", "unreadable", facts.unreadable_N, "that cannot be read: the file is damaged", again),
        ("error", "not-finite", facts.not_finite_N & used_N, "with NaN or infinity", again),
        ("warning", "silent", facts.silent_N & used_N, "of silence: one value in every cell", "leave them out"),
        ("warning", "constant", facts.constant_N & used_N, "without change: all frames are equal", "leave them out"),
        ("warning", "padding", facts.unpadded_N & used_N, "with values other than 0 after the own frames", again),
    ]
    for severity, code, rows_N, words, mend in found:
        if rows_N.any():
            yield _of_tracks(severity, code, f"{feature}: {_tracks(rows_N)} {words}", mend, rows_N, columns)


def _duplicates(scans: Sequence[RowFacts], columns: Columns) -> Iterator[Finding]:
    """Tracks whose levels are equal in every feature set."""
    groups = equal_rows(scans, np.flatnonzero(_used(columns)).tolist())
    across = [rows for rows in groups if len({int(columns.split[row]) for row in rows}) > 1]
    within = [rows for rows in groups if rows not in across]
    found: list[tuple[Severity, str, list[list[int]], str]] = [
        ("error", "duplicates-across-splits", across, "is in more than one split: the model is asked what it was told"),
        ("warning", "duplicates", within, "is in its split more than once"),
    ]
    for severity, code, copies, words in found:
        if copies:
            tracks = _counted(sum(map(len, copies)), "track")
            message = f"{_counted(len(copies), 'recording')} of equal content ({tracks}): each {words}"
            mend = "`fmasearch data resplit FILE --by none --drop-duplicates --out NEW.h5` keeps one of each"
            yield _with_examples(severity, code, message, mend, [_copies(rows, columns) for rows in copies])


def _copies(rows: Sequence[int], columns: Columns) -> str:
    return " = ".join(f"{columns.track_ids[row]} ({SPLIT_NAMES[int(columns.split[row])]})" for row in rows)


def _used(columns: Columns) -> Flags:
    used_N: Flags = np.isin(columns.split, list(SPLITS.values()))
    return used_N


def _of_tracks(severity: Severity, code: str, message: str, mend: str, rows_N: Flags, columns: Columns) -> Finding:
    rows = np.flatnonzero(rows_N)
    examples = tuple(columns.track_ids[row] for row in rows[:_MOST_EXAMPLES])
    return Finding(severity, code, message, mend, len(rows), examples)


def _with_examples(severity: Severity, code: str, message: str, mend: str, each: Iterable[str]) -> Finding:
    listed = tuple(each)
    return Finding(severity, code, message, mend, len(listed), listed[:_MOST_EXAMPLES])


def _tracks(rows_N: Flags) -> str:
    return _counted(int(rows_N.sum()), "track")


def _counted(count: int, one: str, many: str = "") -> str:
    return f"{count:,} {one if count == 1 else many or one + 's'}"
