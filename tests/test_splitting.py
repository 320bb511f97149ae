"""The split: quotas per class, whole groups, the same every time."""

import time

import numpy as np
import pytest

from fmasearch.corpora.splitting import (
    groups_in_several_splits,
    leaking_artists,
    resplit,
    split_by_group,
    split_stratified,
)
from fmasearch.errors import DataError
from fmasearch.tracks import Track


def test_no_group_is_in_two_splits() -> None:
    rng = np.random.default_rng(0)
    labels, groups = rng.integers(0, 5, 2000), rng.integers(0, 300, 2000)
    split = split_by_group(labels, groups)
    assert groups_in_several_splits(groups, split) == []
    assert set(split) == {0, 1, 2}


def test_every_class_comes_near_its_quota_in_every_split() -> None:
    rng = np.random.default_rng(1)
    artists = np.repeat(np.arange(200), rng.integers(1, 12, 200))
    labels = np.array([0, 1, 1, 2, 2, 2, 2, 2])[artists % 8]  # each artist has one genre; 1 : 2 : 5
    split = split_by_group(labels, artists)
    for genre in range(3):
        shares = np.bincount(split[labels == genre], minlength=3) / (labels == genre).sum()
        # A last artist of at most 11 tracks may overshoot; the rarest genre has about 150 tracks.
        assert shares == pytest.approx([0.8, 0.1, 0.1], abs=11 / (labels == genre).sum())


def test_a_stratified_split_has_the_exact_quota_of_each_class() -> None:
    labels = np.repeat([0, 1], [100, 50])
    split = split_stratified(labels)
    assert np.bincount(split[labels == 0]).tolist() == [80, 10, 10]
    assert np.bincount(split[labels == 1]).tolist() == [40, 5, 5]


def test_a_class_of_three_artists_is_in_every_split() -> None:
    # By quota alone all three would train: 0.8 of 30 tracks lack 24, then 14, while val lacks 3.
    split = split_by_group(np.zeros(30, int), np.repeat([4, 5, 6], 10))
    assert sorted(split[[0, 10, 20]]) == [0, 1, 2]


def test_two_artists_train_and_choose() -> None:
    split = split_by_group(np.zeros(9, int), np.repeat([0, 1], [6, 3]))
    assert split.tolist() == [0] * 6 + [1] * 3  # the larger one trains


def test_the_rarest_class_is_dealt_first() -> None:
    # Artist 0 has 2 tracks of the rare class and 8 of the common one: as the larger of the rare class's two
    # artists it trains, although its 8 alone would fill what the common class may have of val or test.
    labels = np.array([1, 1, *[0] * 8, 1, *[0] * 12])
    groups = np.array([*[0] * 10, 1, *range(2, 14)])
    split = split_by_group(labels, groups)
    assert (split[groups == 0] == 0).all()
    assert split[groups == 1].tolist() == [1]


def test_tracks_of_unknown_artists_are_split_one_by_one() -> None:
    split = split_by_group(np.zeros(100, int), np.full(100, -1))
    assert np.bincount(split).tolist() == [80, 10, 10]


def test_tracks_without_a_class_are_spread_over_the_splits() -> None:
    labels = np.repeat([-1, 0], [50, 20])
    split = split_stratified(labels)
    assert np.bincount(split[labels < 0]).tolist() == [40, 5, 5]


def test_a_split_of_fraction_zero_stays_empty() -> None:
    split = split_by_group(np.zeros(10, int), np.arange(10), fractions=(0.8, 0.2, 0.0))
    assert np.bincount(split, minlength=3).tolist() == [8, 2, 0]


def test_the_seed_decides_and_nothing_else_does() -> None:
    labels, groups = np.arange(200) % 4, np.arange(200) // 2
    first = split_by_group(labels, groups, seed=1)
    assert np.array_equal(first, split_by_group(labels, groups, seed=1))
    assert not np.array_equal(first, split_by_group(labels, groups, seed=2))


def test_no_tracks_give_no_splits() -> None:
    assert split_by_group(np.empty(0, int), np.empty(0, int)).shape == (0,)


@pytest.mark.parametrize("fractions", [(0.8, 0.2), (0.8, 0.3, 0.1), (1.2, -0.1, -0.1)])
def test_fractions_that_are_no_shares_are_refused(fractions: tuple[float, ...]) -> None:
    with pytest.raises(DataError, match="add up to 1"):
        split_stratified(np.zeros(4, int), fractions=fractions)


def test_leaking_groups_are_named_but_not_unknown_ones_or_unused_tracks() -> None:
    groups, splits = np.array([7, 7, 3, 3, -1, -1, 5, 5]), np.array([0, 2, 1, 1, 0, 1, 0, -1])
    assert groups_in_several_splits(groups, splits) == [7]


def test_artists_of_tracks_leak_by_name() -> None:
    tracks = [
        Track("1", "", "train", artist="Ann"),
        Track("2", "", "test", artist="Ann"),
        Track("3", "", "val", artist="Bob"),
        Track("4", "", "train"),
        Track("5", "", "test"),
    ]
    assert leaking_artists(tracks) == ["Ann"]
    assert leaking_artists([]) == []


def test_tracks_are_split_anew_by_artist() -> None:
    tracks = [
        Track(str(i), "", "train", {"genre": "AB"[i % 2]}, artist=f"artist {i // 4 * 2 + i % 2}") for i in range(80)
    ]
    again = resplit(tracks, label="genre", by_artist=True)
    assert leaking_artists(again) == []
    assert [t.track_id for t in again] == [t.track_id for t in tracks]
    # 40 artists of two tracks, 20 a genre: 16, 2 and 2 of them.
    assert [sum(t.split == s for t in again) for s in ("train", "val", "test")] == [64, 8, 8]


def test_a_hundred_thousand_tracks_are_split_in_seconds() -> None:
    rng = np.random.default_rng(0)
    started = time.monotonic()
    split_by_group(rng.integers(-1, 16, 106_574), rng.integers(0, 16_341, 106_574))
    assert time.monotonic() - started < 5  # 0.1 s on one idle core
