"""Two configurations, each trained from several seeds: how much their means differ, and how far chance reaches.

Axes: S seeds, D draws of the tracks.
"""

from __future__ import annotations

import numpy as np

from fmasearch.metrics.arrays import Floats
from fmasearch.metrics.resampling import percentiles
from fmasearch.records import Interval


def difference_over_seeds(
    a_S: Floats, a_DS: Floats, b_S: Floats, b_DS: Floats, *, seed: int, confidence: float = 0.95
) -> Interval:
    """Mean score of configuration a over its seeds minus that of b, with a two-level bootstrap interval.

    Which tracks were validated on is chance, and so is which seeds were trained from; a lead must outlast both.
    Each draw of the tracks, the same for all trainings, is met with a draw of each configuration's seeds. One
    fewer is drawn than there are (Rao & Wu, JASA 83, 1988): the mean of all S of them would vary by (S - 1) / S of
    what it should, a third less for 3 seeds. A single seed cannot be drawn from, and counts as if it were certain.

    Measured on two equal configurations (simulated, accuracy on 781 tracks, 3 seeds, 400 repetitions): the interval
    held 0 in 99 % where the seeds' standard deviation was 0.015, in 92 % where it was 0.045; one that draws tracks
    alone held it in 82 % and 39 %.

    Args:
        a_S: scores of a on all tracks, one a seed.
        a_DS: the same on each draw.
        b_S: scores of b, from as many seeds or others.
        b_DS: on the same draws of the tracks.
        seed: of the drawing of seeds.
        confidence: share of draws inside the interval, in (0, 1).
    """
    generator = np.random.default_rng(seed)
    draws_D = _over_drawn_seeds(a_DS, generator) - _over_drawn_seeds(b_DS, generator)
    return Interval(float(a_S.mean() - b_S.mean()), *percentiles(draws_D, confidence))


def _over_drawn_seeds(scores_DS: Floats, generator: np.random.Generator) -> Floats:
    num_draws, num_seeds = scores_DS.shape
    picked = generator.integers(num_seeds, size=(num_draws, max(1, num_seeds - 1)))
    mean_D: Floats = np.take_along_axis(scores_DS, picked, axis=1).mean(1)
    return mean_D
