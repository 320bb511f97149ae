"""The cluster bootstrap: groups of alike tracks, drawn with replacement (Field & Welsh, JRSS B 69, 2007).

Tracks of one artist are alike, so whole artists are drawn; drawing tracks would give intervals that are too
narrow. Axes: N rows, G groups, D draws.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from fmasearch.metrics.arrays import Floats, Integers


def group_rows(groups_N: Integers) -> tuple[int, npt.NDArray[np.int64]]:
    """How many groups there are, and which of 0..G-1 each row belongs to. An id of -1 is a group of its own."""
    ids = groups_N.astype(np.int64)
    unknown = ids < 0
    ids[unknown] = ids.max(initial=0) + 1 + np.arange(unknown.sum())
    names, group_of_N = np.unique(ids, return_inverse=True)
    return len(names), group_of_N.astype(np.int64)


def drawn_counts(num_groups: int, num_resamples: int, seed: int) -> Iterator[Floats]:
    """How often each group was drawn, (D, G), until `num_resamples` rows have come. Equal seeds, equal draws.

    100 draws at a time, so that 10,000 groups take 8 MB and not 160.
    """
    generator = np.random.default_rng(seed)
    for start in range(0, num_resamples, 100):
        rows = min(100, num_resamples - start)
        drawn = generator.integers(num_groups, size=(rows, num_groups)) if num_groups else np.zeros((rows, 0), np.int64)
        cells = drawn + num_groups * np.arange(rows)[:, None]
        counts = np.bincount(cells.ravel(), minlength=rows * num_groups)
        yield counts.reshape(rows, num_groups).astype(np.float64)


def percentiles(draws_D: Floats, confidence: float) -> tuple[float, float]:
    """Both ends of the interval that holds `confidence` of the draws; one whose score is undefined takes no part."""
    defined = draws_D[~np.isnan(draws_D)]
    if not len(defined):
        return float("nan"), float("nan")
    tail = (1 - confidence) / 2
    low, high = np.quantile(defined, [tail, 1 - tail])
    return float(low), float(high)
