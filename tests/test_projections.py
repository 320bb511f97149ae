"""Projections: what they keep of known shapes, the same again by seed, and numbers that tell blobs from noise."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from fmasearch import projection_quality, projections
from fmasearch.errors import UserError
from fmasearch.projection_quality import chance, judge_projection
from fmasearch.projections import available_methods, project

FAST = ("pca", "tsne", "spectral", "mds", "isomap")  # umap compiles itself for half a minute
LABELS = np.arange(60) % 3
UNKNOWN = np.full(60, -1)


def blobs(distance: float = 30.0) -> Any:
    """60 vectors of 6 dimensions around three corners, `distance` standard deviations out."""
    noise = np.random.default_rng(0).normal(size=(60, 6))
    return (noise + distance * np.eye(6)[LABELS]).astype(np.float32)


@pytest.mark.parametrize("method", FAST)
@pytest.mark.parametrize("dimensions", [2, 3])
def test_every_method_keeps_three_blobs_apart(method: str, dimensions: int) -> None:
    points = project(blobs(), method, dimensions, seed=0)
    assert points.shape == (60, dimensions)
    assert points.dtype == np.float32
    quality = judge_projection(blobs(), points, LABELS, UNKNOWN, seed=0)
    # 20 tracks in each blob: all ten neighbours are of the own one, and lines part three corners. A third spectral
    # dimension lies within a blob and may draw one of its ends nearer to another.
    assert quality.purity >= (0.98 if (method, dimensions) == ("spectral", 3) else 1)
    assert quality.probe == 1
    assert quality.silhouette > 0.5


@pytest.mark.slow
def test_umap_keeps_three_blobs_apart() -> None:
    points = project(blobs(), "umap", 2, seed=0)
    assert judge_projection(blobs(), points, LABELS, UNKNOWN, seed=0).purity == 1
    np.testing.assert_array_equal(points, project(blobs(), "umap", 2, seed=0))


@pytest.mark.parametrize("method", FAST)
def test_the_same_seed_gives_the_same_points(method: str) -> None:
    np.testing.assert_array_equal(project(blobs(1), method, 2, seed=7), project(blobs(1), method, 2, seed=7))


def test_labels_that_say_nothing_are_found_at_chance() -> None:
    vectors = np.random.default_rng(1).normal(size=(900, 4))
    labels = np.random.default_rng(2).integers(0, 3, 900)
    quality = judge_projection(vectors, vectors, labels, np.full(900, -1), seed=0)
    expected = chance(labels)
    assert expected.purity == pytest.approx(1 / 3, abs=0.01)
    # Standard deviation over 900 tracks: 0.016 for the probe, less for the purity, whose neighbours are many.
    assert quality.purity == pytest.approx(1 / 3, abs=0.05)
    assert quality.probe == pytest.approx(1 / 3, abs=0.05)
    assert abs(quality.silhouette) < 0.05
    assert quality.trustworthiness == 1  # the vectors are their own points


def test_chance_is_the_share_of_the_classes() -> None:
    # Shares 3/4 and 1/4: a neighbour at random is of the own class with 9/16 + 1/16, the larger is right in 3/4.
    found = chance(np.array([0, 0, 0, 1, -1]))
    assert found.purity == pytest.approx(10 / 16)
    assert found.probe == 0.75


def test_tracks_of_the_same_artist_are_no_neighbours() -> None:
    # Pairs of one artist lie together; the next artist over is of the other class.
    points = np.array([[0.0], [0.1], [1.0], [1.1], [50.0], [50.1], [51.0], [51.1]])
    labels, artists = np.array([0, 0, 1, 1] * 2), np.repeat([1, 2, 3, 4], 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(projection_quality, "NUM_NEIGHBOURS", 2)
        assert judge_projection(points, points, labels, artists, seed=0).purity == 0  # both are the other class
        patch.setattr(projection_quality, "NUM_NEIGHBOURS", 1)
        assert judge_projection(points, points, labels, np.full(8, -1), seed=0).purity == 1  # its own pair


def test_the_probe_never_tests_on_an_artist_it_was_trained_on() -> None:
    # Each artist sits at a place of its own, at random, and has one class: only knowing the artist helps.
    generator = np.random.default_rng(3)
    artists = np.arange(400) // 4
    labels = generator.integers(0, 2, 100)[artists]
    vectors = generator.normal(size=(100, 80))[artists] + 0.01 * generator.normal(size=(400, 80))
    by_artist = judge_projection(vectors, vectors, labels, artists, seed=0)
    leaking = judge_projection(vectors, vectors, labels, np.full(400, -1), seed=0)
    assert leaking.probe > 0.95  # 80 dimensions part 100 places any way one likes
    assert by_artist.probe < 0.7


def test_trustworthiness_falls_for_points_that_know_nothing_of_the_vectors() -> None:
    vectors = blobs()
    scrambled = np.random.default_rng(4).normal(size=(60, 2))
    assert judge_projection(vectors, scrambled, LABELS, UNKNOWN, seed=0).trustworthiness == pytest.approx(0.5, abs=0.1)
    assert judge_projection(vectors, vectors[:, :2], LABELS, UNKNOWN, seed=0).trustworthiness > 0.8


@pytest.mark.parametrize("labels", [np.zeros(60, int), UNKNOWN])
def test_fewer_than_two_classes_have_no_scores(labels: Any) -> None:
    quality = judge_projection(blobs(), blobs(), labels, UNKNOWN, seed=0)
    assert all(math.isnan(score) for score in (quality.silhouette, quality.purity, quality.probe))
    assert quality.trustworthiness == 1
    assert math.isnan(chance(labels).purity)


def test_unlabelled_tracks_count_for_trustworthiness_alone() -> None:
    labels = np.where(np.arange(60) < 30, LABELS, -1)
    vectors = blobs()
    scores = judge_projection(vectors, vectors, labels, UNKNOWN, seed=0)
    alone = judge_projection(vectors[:30], vectors[:30], LABELS[:30], UNKNOWN[:30], seed=0)
    assert (scores.purity, scores.silhouette, scores.probe) == (alone.purity, alone.silhouette, alone.probe)


# --- numeric labels --------------------------------------------------------------------------------------------------


def test_a_number_that_is_a_direction_is_found_and_noise_is_not() -> None:
    generator = np.random.default_rng(5)
    vectors = generator.normal(size=(300, 4))
    targets = {"direction": 3 * vectors[:, 0] + 50, "noise": generator.normal(size=300)}
    quality = judge_projection(vectors, vectors[:, :2], np.full(300, -1), np.full(300, -1), 0, targets)
    assert quality.targets["direction"].probe_r2 > 0.999  # it is linear
    assert quality.targets["direction"].knn_r2 > 0.9
    assert quality.targets["direction"].knn_spearman > 0.9
    # A mean of ten others' noise has a tenth of its variance, which is added to it: R² = -0.1; ridge shrinks to 0.
    assert quality.targets["noise"].knn_r2 == pytest.approx(-0.1, abs=0.1)
    assert quality.targets["noise"].probe_r2 == pytest.approx(0, abs=0.05)
    assert list(quality.to_json())[4:7] == ["direction_knn_r2", "direction_knn_spearman", "direction_probe_r2"]


def test_neighbours_and_folds_of_a_number_leave_the_own_artist_out() -> None:
    # Each artist sits at a place of its own, at random, and has one number: only knowing the artist helps.
    generator = np.random.default_rng(3)
    artists = np.arange(400) // 4
    targets = {"valence": generator.normal(size=100)[artists]}
    vectors = generator.normal(size=(100, 80))[artists] + 0.01 * generator.normal(size=(400, 80))
    nobody = np.full(400, -1)
    known = judge_projection(vectors, vectors, nobody, artists, 0, targets).targets["valence"]
    leaking = judge_projection(vectors, vectors, nobody, nobody, 0, targets).targets["valence"]
    assert leaking.probe_r2 > 0.5
    assert max(known.probe_r2, known.knn_r2) < 0.1


def test_the_mean_of_the_neighbours_by_hand() -> None:
    # Two pairs far apart, one neighbour each: a track is told its partner's number.
    points = np.array([[0.0], [0.1], [9.0], [9.1]])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(projection_quality, "NUM_NEIGHBOURS", 1)
        targets = {"x": np.array([0.0, 1.0, 10.0, 11.0])}
        quality = judge_projection(points, points, np.full(4, -1), np.full(4, -1), 0, targets).targets["x"]
    assert quality.knn_r2 == pytest.approx(1 - 4 / 101)  # errors of 1; deviations 5.5, 4.5, 4.5, 5.5 of the mean
    assert quality.knn_spearman == pytest.approx(0.6)  # ranks 2, 1, 4, 3: 1 - 6 * 4 / (4 * 15)


def test_tracks_without_a_number_take_no_part_and_a_constant_has_no_scores() -> None:
    vectors = blobs()
    values = vectors[:, 0].astype(np.float64)
    some = np.where(np.arange(60) < 30, values, np.nan)
    among_all = judge_projection(vectors, vectors, UNKNOWN, UNKNOWN, 0, {"x": some}).targets["x"]
    assert (
        among_all
        == judge_projection(vectors[:30], vectors[:30], UNKNOWN[:30], UNKNOWN[:30], 0, {"x": values[:30]}).targets["x"]
    )
    for useless in (np.full(60, 2.0), np.full(60, np.nan), np.where(np.arange(60) < 1, 1.0, np.nan)):
        scores = judge_projection(vectors, vectors, UNKNOWN, UNKNOWN, 0, {"x": useless}).targets["x"]
        assert math.isnan(scores.knn_r2)
        assert math.isnan(scores.probe_r2)


def test_numbers_of_one_artist_alone_have_no_probe_and_no_neighbours() -> None:
    vectors = blobs()
    scores = judge_projection(vectors, vectors, LABELS, np.zeros(60, int), 0, {"x": vectors[:, 0]}).targets["x"]
    assert math.isnan(scores.probe_r2)
    assert math.isnan(scores.knn_r2)


@pytest.mark.parametrize("method", FAST)
def test_five_tracks_are_enough_and_equal_ones_do_no_harm(method: str) -> None:
    vectors = np.eye(5, 4)
    vectors[1] = vectors[0]
    points = project(vectors, method, 3, seed=0)
    assert np.isfinite(points).all()
    judge_projection(vectors, points, np.array([0, 0, 1, 1, 2]), np.full(5, -1), seed=0)


@pytest.mark.parametrize(
    ("vectors", "method", "message"),
    [
        (np.eye(4), "pca", r"at least 5 tracks, got 4"),
        (np.eye(6, 1), "pca", r"the model's vectors have 1, fewer than the 2"),
        (np.ones((6, 3)), "pca", r"same vector"),
        (np.full((6, 3), np.nan), "pca", r"NaN"),
        (np.eye(6), "lda", r"unknown method 'lda'; known are pca, tsne"),
    ],
)
def test_what_cannot_be_projected_is_said(vectors: Any, method: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        project(vectors, method, 2, seed=0)


def test_umap_that_is_absent_is_left_out_or_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projections, "find_spec", lambda name: None)
    assert available_methods() == FAST
    with pytest.raises(UserError, match=r"pip install 'fmasearch\[umap\]'"):
        project(blobs(), "umap", 2, seed=0)
