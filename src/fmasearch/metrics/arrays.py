"""Arrays: the types that scores are computed from, and the arithmetic that several scores share.

Axes: N rows, D draws (resamples), U distinct values.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.integer[Any]]
Counts: TypeAlias = npt.NDArray[Any]  # whole numbers, of an integer or float type


def ratio(numerator: npt.NDArray[Any], denominator: npt.NDArray[Any]) -> Floats:
    """Quotient that is 0 where the denominator is."""
    quotient: Floats = np.zeros(np.shape(denominator))
    np.divide(numerator, denominator, out=quotient, where=denominator > 0)
    return quotient


def midranks(counts_DN: Counts, values_N: Floats) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Ranks of values of which row n was drawn `counts[d, n]` times; equal values share their mean rank.

    Returns:
        The ranks (D, N), from 1, as if every row stood there as often as it was drawn (a row that was not drawn
        has a rank of no meaning), and how many distinct values were drawn (D,).
    """
    distinct_U, block_of_N = np.unique(values_N, return_inverse=True)
    order_N = np.argsort(block_of_N, kind="stable")
    starts_U = np.searchsorted(block_of_N[order_N], np.arange(len(distinct_U)))
    blocks_DU = np.add.reduceat(counts_DN[:, order_N], starts_U, axis=1)
    ranks_DU = blocks_DU.cumsum(1) - (blocks_DU - 1) / 2
    return ranks_DU[:, block_of_N], (blocks_DU > 0).sum(1)
