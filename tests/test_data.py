"""Feature files: what is written and read, how it is standardised, and what a batch holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from conftest import CLASSES, make_dataset, make_feature_file, spec_of
from fmasearch.data import (
    Dataset,
    FeatureArray,
    merge_splits,
    open_dataset,
    open_split,
    read_info,
    write_feature_file,
)


def write_tiny(path: Path, values: Any, *, lengths: Any = None, scale: float = 1.0, offset: float = 0.0) -> Path:
    """The first two tracks train, the third is val, the fourth test; one bin or more, any dtype."""
    write_feature_file(
        path,
        corpus="tiny",
        features={"mel": FeatureArray(np.asarray(values), scale=scale, offset=offset)},
        lengths={"mel": np.asarray(lengths)} if lengths is not None else None,
        classes={"genre": (("rock", "jazz"), np.array([0, 1, 0, 1]))},
        split=np.array([0, 0, 1, 2]),
        track_ids=["a", "b", "c", "d"],
    )
    return path


def all_of(split: Any) -> torch.Tensor:
    x_NTF: torch.Tensor = split.batch(torch.arange(len(split))).x_BTF
    return x_NTF


# --- levels ----------------------------------------------------------------------------------------------------------


def test_uint8_levels_stay_as_stored_and_become_standardised_decibels(tmp_path: Path) -> None:
    levels = np.array([[[0], [20]], [[40], [60]], [[30], [250]], [[0], [0]]], np.uint8)
    dataset = open_dataset(spec_of(write_tiny(tmp_path / "a.h5", levels, scale=0.5, offset=-80.0)))
    assert dataset.train.stores[0].levels_NTF.dtype == torch.uint8
    # Training frames are -80, -70, -60, -50 dB: mean -65, variance (225 + 25 + 25 + 225) / 4 = 125.
    std = 125**0.5
    torch.testing.assert_close(all_of(dataset.train).flatten(), torch.tensor([-15.0, -5.0, 5.0, 15.0]) / std)
    # Levels 30 and 250 are -65 dB, the mean, and 45 dB.
    assert dataset.val is not None
    torch.testing.assert_close(all_of(dataset.val).flatten(), torch.tensor([0.0, 110.0 / std]))


def test_float16_values_are_standardised_per_bin(tmp_path: Path) -> None:
    values = np.array([[[1.0, 10.0]], [[3.0, 30.0]], [[5.0, 20.0]], [[0.0, 0.0]]], np.float16)
    dataset = open_dataset(spec_of(write_tiny(tmp_path / "a.h5", values)))
    assert dataset.train.stores[0].levels_NTF.dtype == torch.float16
    # Bin 0 has mean 2, std 1; bin 1 mean 20, std 10.
    torch.testing.assert_close(all_of(dataset.train), torch.tensor([[[-1.0, -1.0]], [[1.0, 1.0]]]))
    assert dataset.val is not None
    torch.testing.assert_close(all_of(dataset.val), torch.tensor([[[3.0, 0.0]]]))


def test_a_bin_that_never_moves_is_centred_and_not_blown_up(tmp_path: Path) -> None:
    values = np.array([[[7.0]], [[7.0]], [[8.0]], [[7.0]]], np.float16)
    dataset = open_dataset(spec_of(write_tiny(tmp_path / "a.h5", values)))
    assert all_of(dataset.train).flatten().tolist() == [0.0, 0.0]
    assert dataset.val is not None
    assert all_of(dataset.val).item() == 1.0


def test_uint8_and_float16_of_the_same_music_agree_within_half_a_level(tmp_path: Path) -> None:
    exact = make_dataset(tmp_path / "float.h5", dtype="float16")
    levels = make_dataset(tmp_path / "uint8.h5", dtype="uint8")
    # Half a level is 0.25 dB, and a bin's deviation is at least the noise's 5 dB.
    assert (all_of(exact.train) - all_of(levels.train)).abs().max() < 0.3 / 5.0


# --- standardisation and padding -------------------------------------------------------------------------------------


def test_only_training_rows_and_valid_frames_decide_the_standardisation(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(-40, 5, (4, 3, 2)).astype(np.float16)
    other = values.copy()
    other[2:] += 20  # val and test
    other[0, 2:] = -99  # the first clip's padding
    lengths = np.array([2, 3, 3, 3])
    first, second = (
        open_dataset(spec_of(write_tiny(tmp_path / f"{name}.h5", array, lengths=lengths))).normalisers[0]
        for name, array in (("first", values), ("second", other))
    )
    assert torch.equal(first.mean_F, second.mean_F)
    assert torch.equal(first.std_F, second.std_F)
    frames = np.concatenate([values[0, :2], values[1]]).astype(np.float64)
    np.testing.assert_allclose(first.mean_F, frames.mean(0), rtol=1e-6)
    np.testing.assert_allclose(first.std_F, frames.std(0), rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "uint8"])
def test_frames_at_and_after_a_clips_length_are_exactly_zero(tmp_path: Path, dtype: str) -> None:
    train = make_dataset(tmp_path / "a.h5", dtype=dtype, varying_lengths=True, chroma=True).train
    batch = train.batch(torch.arange(len(train)))
    padding_BT = torch.arange(train.num_frames) >= batch.lengths_B[:, None]
    assert padding_BT.any()
    assert (batch.x_BTF[padding_BT] == 0).all()
    assert (batch.x_BTF[~padding_BT] != 0).any(1).all()


def test_what_is_stored_as_padding_is_never_seen(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(-40, 5, (4, 3, 2)).astype(np.float16)
    loud = values.copy()
    loud[:, 2:] = 60
    lengths = np.array([2, 2, 2, 2])
    quiet_split, loud_split = (
        open_dataset(spec_of(write_tiny(tmp_path / f"{name}.h5", array, lengths=lengths))).train
        for name, array in (("quiet", values), ("loud", loud))
    )
    assert torch.equal(all_of(quiet_split), all_of(loud_split))


def test_lengths_come_with_their_clips_and_live_on_the_cpu(tmp_path: Path) -> None:
    values = np.zeros((4, 5, 1), np.float16)
    train = open_dataset(spec_of(write_tiny(tmp_path / "a.h5", values, lengths=[2, 5, 1, 3]))).train
    lengths_B = train.batch(torch.tensor([1, 0])).lengths_B
    assert lengths_B.tolist() == [5, 2]
    assert (lengths_B.dtype, lengths_B.device.type) == (torch.int64, "cpu")


def test_a_file_without_lengths_has_full_clips(tmp_path: Path) -> None:
    path = make_feature_file(tmp_path / "a.h5")
    with h5py.File(path, "a") as file:
        del file["lengths"]
    assert set(open_dataset(spec_of(path)).train.lengths_N.tolist()) == {24}


# --- what a study sees -----------------------------------------------------------------------------------------------


def test_the_right_tracks_classes_and_artists_are_in_each_split(feature_file: Path) -> None:
    dataset = open_dataset(spec_of(feature_file))
    test = open_split(spec_of(feature_file), "test", dataset.normalisers)
    with h5py.File(feature_file) as file:
        for code, split in enumerate((dataset.train, dataset.val, test)):
            rows = np.flatnonzero(file["split"][()] == code)
            assert split is not None
            assert list(split.track_ids) == [f"track-{row:03d}" for row in rows]
            assert split.targets_N.tolist() == file["labels/genre"][()][rows].tolist()
            assert split.artist_ids.tolist() == file["artist_id"][()][rows].tolist()
            dataset_mel = torch.from_numpy(file["features/mel"][()][rows])
            assert torch.equal(split.stores[0].levels_NTF, dataset_mel)


def test_features_are_joined_along_bins_in_the_order_they_are_named(tmp_path: Path) -> None:
    path = make_feature_file(tmp_path / "a.h5", chroma=True)
    mel, chroma = (all_of(open_dataset(spec_of(path, name)).train) for name in ("mel", "chroma"))
    both = open_dataset(spec_of(path, "mel", "chroma"))
    assert (both.input_dim, both.num_frames) == (8 + 4, 24)
    assert torch.equal(all_of(both.train), torch.cat([mel, chroma], 2))
    turned = open_dataset(spec_of(path, "chroma", "mel"))
    assert torch.equal(all_of(turned.train), torch.cat([chroma, mel], 2))


def test_tracks_without_a_label_are_left_out(tmp_path: Path) -> None:
    path = make_feature_file(tmp_path / "a.h5", unlabelled=[0, 3])  # rows 0 and 3 are the first of train
    dataset = open_dataset(spec_of(path))
    whole = open_dataset(spec_of(make_feature_file(tmp_path / "b.h5")))
    assert len(dataset.train) == 24 - 2
    assert (dataset.train.targets_N >= 0).all()
    assert dataset.train.track_ids == whole.train.track_ids[2:]
    store = dataset.train.stores[0]
    assert torch.equal(store.levels(torch.arange(22)), whole.train.stores[0].levels_NTF[2:])
    assert len(store.levels_NTF) == 24  # the mapped file itself, not a copy of the labelled part


def test_merged_splits_hold_the_tracks_of_both(dataset: Dataset) -> None:
    assert dataset.val is not None
    merged = merge_splits("train+val", (dataset.train, dataset.val))
    assert merged.track_ids == dataset.train.track_ids + dataset.val.track_ids
    assert torch.equal(all_of(merged), torch.cat([all_of(dataset.train), all_of(dataset.val)]))
    assert merged.targets_N.tolist() == dataset.train.targets_N.tolist() + dataset.val.targets_N.tolist()


def test_the_head_of_a_split_is_spread_over_it(dataset: Dataset) -> None:
    head = dataset.train.head(3)
    assert head.track_ids == tuple(dataset.train.track_ids[row] for row in (0, 11, 23))
    assert torch.equal(all_of(head), all_of(dataset.train)[[0, 11, 23]])
    assert len(dataset.train.head(100)) == 24


# --- batches ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 5, 24, 100])
def test_shuffled_visits_every_track_once(dataset: Dataset, batch_size: int) -> None:
    batches = list(dataset.train.shuffled(batch_size, torch.Generator().manual_seed(0)))
    seen = torch.cat([batch.x_BTF for batch in batches]).flatten(1).sum(1).sort().values
    torch.testing.assert_close(seen, all_of(dataset.train).flatten(1).sum(1).sort().values)
    assert [len(batch.targets_B) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)


def test_shuffled_leaves_out_a_last_batch_of_one_track(dataset: Dataset) -> None:
    batches = list(dataset.train.shuffled(23, torch.Generator().manual_seed(0)))
    assert [len(batch.targets_B) for batch in batches] == [23]


def test_shuffled_order_is_the_generators(dataset: Dataset) -> None:
    def order(seed: int) -> list[int]:
        batches = dataset.train.shuffled(4, torch.Generator().manual_seed(seed))
        return torch.cat([batch.x_BTF[:, 0, 0] for batch in batches]).tolist()

    assert order(1) == order(1)
    assert order(1) != order(2)
    assert sorted(order(1)) == sorted(order(2))


# --- the writer ------------------------------------------------------------------------------------------------------


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    info = read_info(make_feature_file(tmp_path / "a.h5", dtype="uint8", chroma=True, unlabelled=[0]))
    assert (info.corpus, info.num_tracks, info.num_artists) == ("synthetic", 40, 12 + 4 + 4)
    assert info.split_counts == {"train": 24, "val": 8, "test": 8}
    mel, chroma = info.feature("mel"), info.feature("chroma")
    assert (mel.shape, mel.dtype, mel.scale, mel.offset) == ((40, 24, 8), "uint8", 0.5, -80.0)
    assert (chroma.shape, chroma.dtype, chroma.scale, chroma.offset) == ((40, 24, 4), "float16", 1.0, 0.0)
    assert mel.settings == {"sample_rate": 16_000, "hop_length": 512, "unit": "dB"}
    assert info.classes("genre") == CLASSES
    assert info.labels["genre"].counts == {"rock": 9, "jazz": 10, "folk": 10, "dub": 10}
    assert info.labels["valence"].counts == {"labelled": 40}


def test_an_interrupted_write_leaves_the_old_file_whole(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "a.h5", np.zeros((4, 2, 2), np.float16))
    before = path.read_bytes()
    with pytest.raises(AttributeError):
        write_feature_file(
            path,
            corpus="interrupted",
            features={"mel": FeatureArray(np.zeros((4, 2, 2), np.float16)), "chroma": None},  # type: ignore[dict-item]
            split=np.zeros(4),
            track_ids=["a", "b", "c", "d"],
        )
    assert path.read_bytes() == before
