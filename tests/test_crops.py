"""Crops: which frames they hold, how many a track has, and that levels are cut before they become floats."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import make_dataset, make_feature_file
from fmasearch.config import CropConfig
from fmasearch.data import FeatureArray, Normaliser, Split, open_dataset, write_feature_file
from fmasearch.data.cache import DataSpec
from fmasearch.data.splits import Crop


def counting(path: Path, lengths: tuple[int, ...] = (10, 10, 6, 10), num_frames: int = 10) -> Split:
    """Four training tracks of one bin whose frame t holds t, standardised by known numbers."""
    values = np.tile(np.arange(num_frames, dtype=np.float32)[None, :, None], (6, 1, 1)).astype(np.float16)
    write_feature_file(
        path,
        corpus="counting",
        features={"mel": FeatureArray(values)},
        lengths={"mel": np.array([*lengths, num_frames, num_frames])},
        classes={"genre": (("rock", "jazz"), np.array([0, 1, 0, 1, 0, 1]))},
        split=np.array([0, 0, 0, 0, 1, 2]),
        track_ids=list("abcdef"),
    )
    return open_dataset(DataSpec.of(path, features=("mel",), label="genre")).train


def frames_of(split: Split, x_BTF: torch.Tensor) -> list[list[float]]:
    """Stored values of a standardised batch of one bin."""
    store = split.stores[0]
    values: list[list[float]] = ((x_BTF[:, :, 0] - store.bias_F) / store.gain_F).round().tolist()
    return values


def test_a_crop_holds_consecutive_frames_from_its_start(tmp_path: Path) -> None:
    split = counting(tmp_path / "a.h5")
    batch = split.batch(torch.tensor([0, 1]), Crop(torch.tensor([0, 6]), 4))
    assert frames_of(split, batch.x_BTF) == [[0, 1, 2, 3], [6, 7, 8, 9]]
    assert batch.lengths_B.tolist() == [4, 4]


def test_a_crop_that_reaches_past_a_track_is_padded_with_zeros(tmp_path: Path) -> None:
    split = counting(tmp_path / "a.h5")
    batch = split.batch(torch.tensor([2]), Crop(torch.tensor([0]), 8))  # track c has 6 frames
    assert batch.lengths_B.tolist() == [6]
    assert (batch.x_BTF[0, 6:] == 0).all()
    assert frames_of(split, batch.x_BTF[:, :6]) == [[0, 1, 2, 3, 4, 5]]


def test_evaluation_crops_are_spread_from_start_to_end_of_a_tracks_own_frames(tmp_path: Path) -> None:
    split = counting(tmp_path / "a.h5")
    (batch,) = split.ordered(4, crop_frames=4, num_crops=3)
    starts = [frames[0] for frames in frames_of(split, batch.x_BTF)]
    # Tracks of 10 frames have 6 to spare: 0, 3, 6. Track c, of 6, has 2: 0, 1, 2.
    assert starts == [0, 3, 6, 0, 3, 6, 0, 1, 2, 0, 3, 6]
    assert batch.x_BTF.shape == (12, 4, 1)
    assert batch.targets_B.tolist() == [0, 1, 0, 1]


def test_one_evaluation_crop_is_the_middle_of_a_track(tmp_path: Path) -> None:
    split = counting(tmp_path / "a.h5")
    (batch,) = split.ordered(4, crop_frames=4, num_crops=1)
    assert [frames[0] for frames in frames_of(split, batch.x_BTF)] == [3, 3, 1, 3]


def test_tracks_no_longer_than_a_crop_are_whole(tmp_path: Path) -> None:
    split = counting(tmp_path / "a.h5")
    for frames in (10, 11, None):
        (batch,) = split.ordered(4, crop_frames=frames, num_crops=5)
        assert batch.x_BTF.shape == (4, 10, 1)
        (batch,) = split.shuffled(4, torch.Generator().manual_seed(0), crop_frames=frames)
        assert batch.x_BTF.shape == (4, 10, 1)


def test_random_crops_start_everywhere_they_can_and_follow_the_generator(tmp_path: Path) -> None:
    split = counting(tmp_path / "a.h5")
    generator = torch.Generator().manual_seed(0)
    starts = {
        (int(batch.lengths_B[0]), frames_of(split, batch.x_BTF)[0][0])
        for _ in range(200)
        for batch in split.shuffled(1, generator, crop_frames=7)
    }
    # Track c, of 6 frames, is whole in its crop of 7; the others begin at 0, 1, 2 or 3.
    assert starts == {(6, 0.0), (7, 0.0), (7, 1.0), (7, 2.0), (7, 3.0)}
    first, again = (
        [b.x_BTF for b in split.shuffled(2, torch.Generator().manual_seed(7), crop_frames=3)] for _ in range(2)
    )
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_shuffled_without_crops_draws_nothing_more(tmp_path: Path) -> None:
    split = counting(tmp_path / "a.h5")
    whole, cropped = torch.Generator().manual_seed(0), torch.Generator().manual_seed(0)
    list(split.shuffled(2, whole))
    list(split.shuffled(2, cropped, crop_frames=10))
    assert torch.equal(whole.get_state(), cropped.get_state())


@pytest.mark.parametrize(("tracks", "batch_size"), [(24, 8), (24, 7), (24, 23), (24, 24), (24, 30), (3, 1)])
def test_the_number_of_batches_is_known_before_they_come(tmp_path: Path, tracks: int, batch_size: int) -> None:
    split = make_dataset(tmp_path / "a.h5", tracks=(tracks, 4, 4), num_classes=2).train
    batches = list(split.shuffled(batch_size, torch.Generator()))
    assert split.num_batches(batch_size) == len(batches)


def test_joined_features_are_cropped_alike(tmp_path: Path) -> None:
    path = make_feature_file(tmp_path / "a.h5", chroma=True)
    split = open_dataset(DataSpec.of(path, features=("mel", "chroma"), label="genre")).train
    index = torch.tensor([3])
    whole = split.batch(index).x_BTF
    assert torch.equal(split.batch(index, Crop(torch.tensor([5]), 9)).x_BTF, whole[:, 5:14])


def test_a_decibel_is_known_for_decibel_features_alone() -> None:
    std_F = torch.tensor([2.0, 4.0])
    for unit in ("dB", "dB relative to the clip maximum, -80..0"):
        assert Normaliser(torch.zeros(2), std_F, unit).per_decibel_F.tolist() == [0.5, 0.25]
    assert Normaliser(torch.zeros(2), std_F, "energy").per_decibel_F.tolist() == [0, 0]


def test_the_unit_comes_from_the_feature_file(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "a.h5")
    torch.testing.assert_close(dataset.per_decibel_F, 1 / dataset.normalisers[0].std_F)


def test_a_model_sees_the_crop_or_the_track_whichever_is_shorter() -> None:
    assert CropConfig().input_frames(128) == 128
    assert CropConfig(frames=64).input_frames(128) == 64
    assert CropConfig(frames=256).input_frames(128) == 128
