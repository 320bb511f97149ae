"""The difference of two configurations over seeds: both kinds of chance are in its interval."""

from __future__ import annotations

import numpy as np
import pytest

from fmasearch.metrics.seeds import difference_over_seeds


def test_seeds_alone_widen_the_interval() -> None:
    """One of two seeds is drawn for a, 0.4 or 0.6; b is 0.5 always; every draw of the tracks is alike."""
    a, b = np.array([0.4, 0.6]), np.array([0.5, 0.5])
    found = difference_over_seeds(a, np.tile(a, (400, 1)), b, np.tile(b, (400, 1)), seed=1)
    assert (found.value, found.low, found.high) == pytest.approx((0.0, -0.1, 0.1))


def test_the_spread_of_a_mean_over_three_seeds_is_that_of_theory() -> None:
    """Two of three are drawn: the variance is the sample variance 0.01 over 3, and not 2/3 of that."""
    a, b = np.array([0.4, 0.5, 0.6]), np.zeros(3)
    draws = difference_over_seeds(a, np.tile(a, (200_000, 1)), b, np.zeros((200_000, 3)), seed=1, confidence=0.5)
    # Means of two draws of 0.4, 0.5, 0.6 are 0.4, 0.45, 0.5, 0.55, 0.6 with 1, 2, 3, 2, 1 ninths: variance 0.0033.
    assert (draws.low, draws.high) == pytest.approx((0.45, 0.55))


def test_a_single_seed_leaves_the_tracks() -> None:
    tracks = np.linspace(-1, 1, 1001)[:, None]
    found = difference_over_seeds(np.array([0.0]), tracks, np.array([0.2]), np.full((1001, 1), 0.2), seed=1)
    assert (found.value, found.low, found.high) == pytest.approx((-0.2, -1.15, 0.75))


def test_configurations_may_have_different_numbers_of_seeds() -> None:
    a, b = np.array([0.5]), np.array([0.4, 0.4, 0.4])
    found = difference_over_seeds(a, np.tile(a, (10, 1)), b, np.tile(b, (10, 1)), seed=1)
    assert (found.value, found.low, found.high) == pytest.approx((0.1, 0.1, 0.1))


def test_what_makes_tracks_hard_for_both_is_no_doubt_about_which_is_better() -> None:
    """Scores swing by 0.5 with the tracks, but a is always 0.1 ahead."""
    swing = np.random.default_rng(0).uniform(0, 0.5, (500, 1))
    a, b = np.full(2, 0.35), np.full(2, 0.25)
    found = difference_over_seeds(a, np.repeat(swing + 0.1, 2, 1), b, np.repeat(swing, 2, 1), seed=1)
    assert (found.low, found.high) == pytest.approx((0.1, 0.1))
