"""Where the data of a study come from, for its record and its model card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fmasearch.data import SPLITS, Columns, FileInfo, read_all_columns
from fmasearch.data.rows import licence_counts

MOST_LICENCES = 6


def origin_facts(info: FileInfo) -> dict[str, Any]:
    """Source, licences and artists, as far as the file records them."""
    columns = read_all_columns(Path(info.path))
    facts: dict[str, Any] = {}
    if info.source:
        facts["source"] = info.source
    if licences := licence_counts(columns):
        facts["licences"] = _most_frequent(licences)
    if info.num_artists:
        facts["artists"] = {"known": info.num_artists, "in_train_and_test": _in_train_and_test(columns)}
    return facts


def _most_frequent(licences: dict[str, int]) -> dict[str, int]:
    """FMA has more than a hundred kinds of them."""
    named = list(licences.items())
    kept = {name or "not recorded": tracks for name, tracks in named[:MOST_LICENCES]}
    rest = sum(tracks for _, tracks in named[MOST_LICENCES:])
    return {**kept, f"{len(named) - MOST_LICENCES} others": rest} if rest else kept


def _in_train_and_test(columns: Columns) -> int:
    """Artists with tracks in both splits: what a model knows them by would count as knowing the music."""
    if columns.artist_ids is None:
        return 0
    train, test = (columns.artist_ids[columns.split == SPLITS[name]] for name in ("train", "test"))
    both = np.intersect1d(train, test)
    return int((both >= 0).sum())
