"""What the levels of each track look like, every row of a feature set read once and few of them in memory.

Shapes: N tracks of the file, n tracks of a block, T frames, F bins.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fmasearch.data.feature_file import FeatureInfo, read_feature_blocks
from fmasearch.errors import DataError

Levels: TypeAlias = NDArray[Any]
Flags: TypeAlias = NDArray[np.bool_]
OnRows: TypeAlias = Callable[[int], None]
"""Hears how many rows were read since it was last called."""

_BLOCK_BYTES = 16 * 2**20


@dataclass(frozen=True)
class RowFacts:
    """What was found in one feature set, by row."""

    unreadable_N: Flags
    not_finite_N: Flags
    """NaN or infinity, in the padding too: training refuses either."""
    silent_N: Flags
    """One value in every cell of the track's own frames."""
    constant_N: Flags
    """Every frame like the first, but not silent."""
    unpadded_N: Flags
    """Levels after the track's length that are not 0."""
    digests: list[bytes] = field(repr=False)
    """Of the levels within the track's own length; empty where they cannot be read."""


def scan_rows(
    path: str | Path, feature: FeatureInfo, lengths_N: NDArray[np.int64], on_rows: OnRows = lambda rows: None
) -> RowFacts:
    """Look at every row of a feature set. A row that cannot be read is a fact, not an error.

    Args:
        lengths_N: frames before padding, each in 1..T.
    """
    unreadable_N, not_finite_N, silent_N, constant_N, unpadded_N = np.zeros((5, feature.shape[0]), np.bool_)
    facts = RowFacts(unreadable_N, not_finite_N, silent_N, constant_N, unpadded_N, [b""] * feature.shape[0])
    for first, block_nTF in _blocks(path, feature):
        for row, levels_TF in enumerate(block_nTF, start=first):
            if levels_TF is None:
                facts.unreadable_N[row] = True
            else:
                _look(facts, row, levels_TF, int(lengths_N[row]))
        on_rows(len(block_nTF))
    return facts


def equal_rows(scans: Sequence[RowFacts], rows: Sequence[int]) -> list[list[int]]:
    """Those of `rows` whose levels are equal in every feature set, in groups of two and more.

    Silent tracks are left out: they are equal for another reason.
    """
    alike = defaultdict(list)
    for row in rows:
        digests = tuple(facts.digests[row] for facts in scans)
        if all(digests) and not all(facts.silent_N[row] for facts in scans):
            alike[digests].append(row)
    return [group for group in alike.values() if len(group) > 1]


def _look(facts: RowFacts, row: int, levels_TF: Levels, length: int) -> None:
    own_TF = np.ascontiguousarray(levels_TF[:length])
    facts.digests[row] = hashlib.blake2b(own_TF.data, digest_size=16).digest()
    facts.unpadded_N[row] = levels_TF[length:].any()
    if levels_TF.dtype.kind == "f" and not np.isfinite(levels_TF).all():
        facts.not_finite_N[row] = True
    elif (own_TF == own_TF[0, 0]).all():
        facts.silent_N[row] = True
    elif length > 1 and (own_TF == own_TF[0]).all():
        facts.constant_N[row] = True


def _blocks(path: str | Path, feature: FeatureInfo) -> Iterator[tuple[int, list[Levels | None]]]:
    """Blocks of rows with the number of their first; where one cannot be read, its rows are tried one by one."""
    num_tracks, num_frames, num_bins = feature.shape
    step = max(1, _BLOCK_BYTES // (num_frames * num_bins * np.dtype(feature.dtype).itemsize))
    for first in range(0, num_tracks, step):
        rows = np.arange(first, min(first + step, num_tracks))
        try:
            block = [levels_TF for read_nTF in read_feature_blocks(path, feature, rows) for levels_TF in read_nTF]
        except DataError:
            yield first, [_row(path, feature, int(row)) for row in rows]
        else:
            yield first, list(block)


def _row(path: str | Path, feature: FeatureInfo, row: int) -> Levels | None:
    try:
        (levels_1TF,) = read_feature_blocks(path, feature, np.array([row]))
    except DataError:
        return None
    levels_TF: Levels = levels_1TF[0]
    return levels_TF
