"""The split: which tracks train, which choose and which judge; arrays in, codes out.

Shapes: N tracks, G groups (artists), C classes, S splits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmasearch.errors import DataError
from fmasearch.tracks import Split, Track

SPLIT_NAMES: tuple[Split, ...] = ("train", "val", "test")
"""By code, as in the feature file; -1 is `unused`."""

FRACTIONS = (0.8, 0.1, 0.1)
"""FMA's own: of train, val and test."""

LEAK = (
    "warning: the split is random: tracks of one artist or album, and copies of one recording, may be on both "
    "sides, and scores then come out too good"
)
"""To be said of every split that nobody made by artist."""

Codes = NDArray[np.int64]


def split_by_group(
    labels_N: NDArray[Any], groups_N: NDArray[Any], *, fractions: Sequence[float] = FRACTIONS, seed: int = 0
) -> Codes:
    """Deal whole groups to splits so that each class comes near its quota in each split.

    As FMA did for its artists (creation.ipynb): from the rarest class on, each group goes to the split that is
    furthest below its quota of that class. Larger groups go first, so that small ones fill what is left. The
    last groups of a class go to splits that have none of it yet: a class of three artists is in all splits.

    Args:
        labels_N: integer class of each track; -1 = none, dealt last and evenly, too.
        groups_N: integer group of each track; -1 = unknown, which is a group of its own.
        fractions: of train, val and test; they add up to 1, a split of 0 gets nothing.
        seed: decides between groups of equal size. Equal arguments give equal splits.

    Returns:
        (N,) int64: 0 train, 1 val, 2 test.

    Raises:
        DataError: if the fractions are negative or do not add up to 1.
    """
    quota_share_S = _checked(fractions)
    classes_N = np.unique(labels_N, return_inverse=True)[1].reshape(-1)
    groups_N = _own_group_if_unknown(groups_N)
    counts_GC = np.zeros((groups_N.max(initial=-1) + 1, classes_N.max(initial=-1) + 1), np.int64)
    np.add.at(counts_GC, (groups_N, classes_N), 1)
    order_C = _rarest_first(counts_GC, has_none=bool((labels_N < 0).any()))
    splits_G = _deal(counts_GC, order_C, quota_share_S, np.random.default_rng(seed))
    return splits_G[groups_N]


def split_stratified(labels_N: NDArray[Any], *, fractions: Sequence[float] = FRACTIONS, seed: int = 0) -> Codes:
    """Deal single tracks to splits, class by class. Artists may be on both sides: scores come out too good.

    Arguments, result and errors as for `split_by_group`.
    """
    return split_by_group(labels_N, np.arange(len(labels_N)), fractions=fractions, seed=seed)


def groups_in_several_splits(groups_N: NDArray[Any], splits_N: NDArray[Any]) -> list[int]:
    """Groups with tracks in more than one split, in ascending order; unknown groups and unused tracks (-1) aside."""
    known_N = (groups_N >= 0) & (splits_N >= 0)
    pairs = np.unique(np.stack([groups_N[known_N], splits_N[known_N]]), axis=1)
    groups, num_splits = np.unique(pairs[0], return_counts=True)
    return [int(group) for group in groups[num_splits > 1]]


def leaking_artists(tracks: Sequence[Track]) -> list[str]:
    """Artists with tracks in more than one split, sorted."""
    artists, codes_N = np.unique([track.artist or "" for track in tracks], return_inverse=True)
    codes_N = np.where([track.artist is None for track in tracks], -1, codes_N.reshape(-1))
    splits_N = np.array([_code(track.split) for track in tracks])
    return [str(artists[group]) for group in groups_in_several_splits(codes_N, splits_N)]


def resplit(
    tracks: Sequence[Track], *, label: str, by_artist: bool, fractions: Sequence[float] = FRACTIONS, seed: int = 0
) -> tuple[Track, ...]:
    """The same tracks with new splits, stratified by the label set `label`, whole artists together if asked."""
    labels_N = encode([track.classes.get(label) for track in tracks])
    groups_N = encode([track.artist for track in tracks]) if by_artist else np.arange(len(tracks))
    codes_N = split_by_group(labels_N, groups_N, fractions=fractions, seed=seed)
    return tuple(replace(track, split=SPLIT_NAMES[code]) for track, code in zip(tracks, codes_N, strict=True))


def encode(words: Sequence[str | None]) -> Codes:
    """Whole numbers in the words' alphabetical order; -1 for None."""
    numbers = {word: number for number, word in enumerate(sorted({word for word in words if word is not None}))}
    return np.array([-1 if word is None else numbers[word] for word in words], np.int64)


def _checked(fractions: Sequence[float]) -> NDArray[np.float64]:
    shares_S = np.asarray(fractions, np.float64)
    if shares_S.shape != (3,) or (shares_S < 0).any() or not np.isclose(shares_S.sum(), 1):
        raise DataError(
            f"fractions: expected three numbers of at least 0 for train, val and test that add up to 1, "
            f"got {', '.join(f'{share:g}' for share in fractions)}"
        )
    return shares_S


def _own_group_if_unknown(groups_N: NDArray[Any]) -> Codes:
    """Groups as 0..G-1; each unknown one gets a number that nobody has."""
    unknown_N = groups_N < 0
    groups_N = groups_N.astype(np.int64)
    groups_N[unknown_N] = groups_N.max(initial=-1) + 1 + np.arange(unknown_N.sum())
    return np.unique(groups_N, return_inverse=True)[1].reshape(-1)


def _rarest_first(counts_GC: Codes, *, has_none: bool) -> list[int]:
    """Classes by their number of tracks; tracks without a class, which are class 0 here, come last."""
    order_C = [int(c) for c in np.argsort(counts_GC.sum(axis=0), kind="stable")]
    return [c for c in order_C if c > 0] + [0] if has_none else order_C


def _deal(counts_GC: Codes, order_C: list[int], shares_S: NDArray[np.float64], generator: np.random.Generator) -> Codes:
    """Split of each group."""
    splits_G = np.full(len(counts_GC), -1, np.int64)
    lots_G = generator.permutation(len(counts_GC))
    quota_SC = shares_S[:, None] * counts_GC.sum(axis=0)
    have_SC = np.zeros_like(quota_SC)
    open_S = shares_S > 0
    for c in order_C:
        waiting = np.flatnonzero((splits_G < 0) & (counts_GC[:, c] > 0))
        largest_first = waiting[np.lexsort((lots_G[waiting], -counts_GC[waiting, c]))]
        for place, group in enumerate(largest_first):
            lacking_S = open_S & (have_SC[:, c] == 0)
            is_last_chance = len(largest_first) - place <= lacking_S.sum()
            allowed_S = lacking_S if is_last_chance else open_S
            deficit_S = np.where(allowed_S, quota_SC[:, c] - have_SC[:, c], -np.inf)
            split = int(np.argmax(deficit_S))
            splits_G[group] = split
            have_SC[split] += counts_GC[group]
    return splits_G


def _code(split: Split) -> int:
    return SPLIT_NAMES.index(split) if split in SPLIT_NAMES else -1
