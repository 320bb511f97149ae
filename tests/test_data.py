"""Feature files: what is read, how it is standardised, what is refused, and what the cache never touches."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from conftest import CLASSES, make_dataset, make_feature_file, spec_of

from fmasearch.data import (
    Dataset,
    DataSpec,
    FeatureArray,
    content_hash,
    merge_splits,
    open_dataset,
    open_split,
    prepare,
    read_info,
    write_feature_file,
)
from fmasearch.errors import DataError


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


# --- levels ------------------------------------------------------------------------------------------------------


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


# --- standardisation and padding ---------------------------------------------------------------------------------


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


# --- what a study sees -------------------------------------------------------------------------------------------


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
    assert torch.equal(dataset.train.stores[0].levels_NTF, whole.train.stores[0].levels_NTF[2:])


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


# --- batches -----------------------------------------------------------------------------------------------------


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


# --- the cache ---------------------------------------------------------------------------------------------------


def test_the_cache_holds_one_file_per_feature_and_split_asked_for(tmp_path: Path, cache_dir: Path) -> None:
    spec = spec_of(make_feature_file(tmp_path / "a.h5", chroma=True), "mel", "chroma")
    prepare(spec)
    folder = cache_dir / spec.sha256[:16]
    names = {"mel-train.npy", "mel-val.npy", "chroma-train.npy", "chroma-val.npy"}
    assert {path.name for path in folder.iterdir()} == names
    open_dataset(spec)
    stats = {"mel-train-stats.npz", "chroma-train-stats.npz"}
    assert {path.name for path in folder.iterdir()} == names | stats


def test_the_cache_is_reused_and_follows_the_content_not_the_path(tmp_path: Path, cache_dir: Path) -> None:
    first = spec_of(make_feature_file(tmp_path / "a.h5"))
    open_dataset(first)
    written = {path: path.stat().st_mtime_ns for path in cache_dir.rglob("*.np?")}
    moved = spec_of(Path(first.path).rename(tmp_path / "moved.h5"))
    open_dataset(moved)
    assert {path: path.stat().st_mtime_ns for path in cache_dir.rglob("*.np?")} == written
    other = spec_of(make_feature_file(tmp_path / "a.h5", seed=1))
    assert other.sha256 != first.sha256
    assert not torch.equal(all_of(open_dataset(other).train), all_of(open_dataset(moved).train))


def test_the_temporary_file_of_a_killed_process_is_not_used(feature_file: Path, cache_dir: Path) -> None:
    spec = spec_of(feature_file)
    whole = all_of(open_dataset(spec).train)
    target = cache_dir / spec.sha256[:16] / "mel-train.npy"
    target.with_name(f".{target.name}.99999.tmp").write_bytes(target.read_bytes()[:200])
    target.unlink()
    assert torch.equal(all_of(open_dataset(spec).train), whole)


def test_a_file_that_cannot_be_read_leaves_nothing_in_the_cache(feature_file: Path, cache_dir: Path) -> None:
    spec = spec_of(feature_file)
    with h5py.File(feature_file, "a") as file:
        file["features/mel"][0, 0, 0] = np.nan
    with pytest.raises(DataError):
        prepare(spec)
    assert [path for path in cache_dir.rglob("*") if path.is_file() and path.name != "hashes.json"] == []


def test_opening_train_and_val_never_reads_a_test_row(tmp_path: Path) -> None:
    path = one_track_per_chunk(make_feature_file(tmp_path / "a.h5"), tmp_path / "chunked.h5")
    damage_rows(path, split_code=2)
    spec = spec_of(path)
    dataset = open_dataset(spec)
    assert dataset.val is not None
    assert (len(dataset.train), len(dataset.val)) == (24, 8)
    with pytest.raises(DataError, match=r"chunked\.h5: features/mel: rows 2\.\.23 cannot be read .*damaged"):
        open_split(spec, "test", dataset.normalisers)


def test_a_damaged_training_row_is_an_error(tmp_path: Path) -> None:
    path = one_track_per_chunk(make_feature_file(tmp_path / "a.h5"), tmp_path / "chunked.h5")
    damage_rows(path, split_code=0)
    with pytest.raises(DataError, match=r"features/mel: rows 0\.\."):
        open_dataset(spec_of(path))


def test_training_maps_the_cache_and_copies_none_of_it(feature_file: Path) -> None:
    # Pages that nobody writes stay the page cache's, whatever number of processes map them.
    dataset = open_dataset(spec_of(feature_file))
    batches = list(dataset.train.shuffled(8, torch.Generator()))
    assert len(batches) == 3
    mapping = memory_mapping(dataset.train.stores[0].levels_NTF.data_ptr())
    assert "mel-train.npy" in mapping
    assert re.search(r"^Private_Dirty: +0 kB", mapping, re.M)


@pytest.mark.slow
def test_processes_that_open_the_same_file_share_its_memory(tmp_path: Path) -> None:
    path = make_feature_file(tmp_path / "a.h5", tracks=(800, 8, 8), num_frames=400, num_bins=64)  # 41 MB
    prepare(spec_of(path))
    code = (
        "import sys, re, pathlib, fmasearch.data as d\n"
        "train = d.open_dataset(d.DataSpec.of(sys.argv[1], features=['mel'], label='genre')).train\n"
        "train.stores[0].levels_NTF.sum(); print('ready', flush=True); sys.stdin.readline()\n"
        "smaps = pathlib.Path('/proc/self/smaps').read_text()\n"
        "print(re.search(r'mel-train.npy\\n(?:.*\\n)*?Pss: +(\\d+)', smaps)[1], flush=True); sys.stdin.readline()\n"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    proportional_kb = []
    for process in processes:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("measure\n")
        process.stdin.flush()
        proportional_kb.append(int(process.stdout.readline()))
    for process in processes:
        process.communicate("end\n")
    # 800 * 400 * 64 * 2 bytes are 40,000 kB: together the two account for one copy.
    assert sum(proportional_kb) == pytest.approx(40_000, rel=0.02)


def test_the_hash_is_of_the_content_and_is_remembered_until_the_file_changes(tmp_path: Path) -> None:
    path, memo = tmp_path / "a", tmp_path / "hashes.json"
    path.write_bytes(b"abc")
    # SHA-256 of "abc", from FIPS 180-2
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert content_hash(path) == content_hash(path, memo=memo) == known
    memo.write_text(memo.read_text().replace(known, "remembered"))
    assert content_hash(path, memo=memo) == "remembered"
    path.write_bytes(b"abcd")
    assert content_hash(path, memo=memo) not in ("remembered", known)


@pytest.mark.parametrize("text", ["", "{", "[1]", "null"])
def test_a_damaged_memo_of_hashes_is_written_anew(tmp_path: Path, text: str) -> None:
    path, memo = tmp_path / "a", tmp_path / "hashes.json"
    path.write_bytes(b"abc")
    memo.write_text(text)
    assert content_hash(path, memo=memo).startswith("ba7816bf")
    assert "ba7816bf" in memo.read_text()


# --- the writer --------------------------------------------------------------------------------------------------


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


# --- what is refused ---------------------------------------------------------------------------------------------


def put(name: str, values: Any) -> Callable[[Path], None]:
    """Damage that replaces a dataset and keeps its attributes."""

    def change(path: Path) -> None:
        with h5py.File(path, "a") as file:
            attributes = dict(file[name].attrs)
            del file[name]
            file[name] = values
            file[name].attrs.update(attributes)

    return change


def edit(change: Callable[[h5py.File], None]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        with h5py.File(path, "a") as file:
            change(file)

    return damage


def cut_in_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (Path.unlink, r"no such feature file; `fmasearch demo`"),
    "truncated": (cut_in_half, r"is cut short: copy it again \(.*truncated"),
    "not HDF5": (lambda p: p.write_text("a,b\n1,2\n"), r"is not an HDF5 file, or is damaged"),
    "empty": (lambda p: p.write_bytes(b""), r"is not an HDF5 file, or is damaged"),
    "no format": (
        edit(lambda f: f.attrs.__delitem__("format")),
        r"attribute format: expected 'fmasearch', got '': not a feature file",
    ),
    "other format": (
        edit(lambda f: f.attrs.update({"format": "essentia"})),
        r"attribute format: expected 'fmasearch', got 'essentia'",
    ),
    "later version": (
        edit(lambda f: f.attrs.update({"format_version": 2})),
        r"attribute format_version: expected 1, got 2",
    ),
    "no split": (edit(lambda f: f.__delitem__("split")), r"split: required by format 1, but absent"),
    "no training rows": (
        put("split", np.full(40, 2)),
        r"split: expected rows with value 0 \(train\), got none",
    ),
    "split is a group": (
        edit(lambda f: (f.__delitem__("split"), f.create_group("split"))),
        r"split: expected a dataset, got a group",
    ),
    "split of two axes": (put("split", np.zeros((40, 2))), r"split: expected one value a track, got \(40, 2\)"),
    "split of one number": (put("split", 0), r"split: expected one value a track, got \(\)"),
    "no features": (edit(lambda f: f.__delitem__("features")), r"features: expected at least one feature set"),
    "feature is a group": (
        edit(lambda f: f.create_group("features/beats")),
        r"features/beats: expected a dataset, got a group",
    ),
    "feature without bins": (
        put("features/mel", np.zeros((40, 24), np.float16)),
        r"features/mel: expected shape \(40, frames, bins\), got \(40, 24\)",
    ),
    "feature of fewer tracks": (
        put("features/mel", np.zeros((39, 24, 8), np.float16)),
        r"features/mel: expected shape \(40, frames, bins\), got \(39, 24, 8\)",
    ),
    "feature of whole numbers": (
        put("features/mel", np.zeros((40, 24, 8), np.int32)),
        r"features/mel: expected float16, float32 or uint8, got int32",
    ),
    "levels without a scale": (
        put("features/mel", np.zeros((40, 24, 8), np.uint8)),
        r"features/mel: uint8 levels need the attributes scale and offset",
    ),
    "NaN": (
        edit(lambda f: f["features/mel"].__setitem__((3, 0, 0), np.nan)),
        r"features/mel: expected finite values, got NaN or infinity in 1 tracks? .*\(track_id track-003\)",
    ),
    "infinity": (
        edit(lambda f: f["features/mel"].__setitem__((slice(0, 6), 0, 0), -np.inf)),
        r"features/mel: .* in 2 tracks .*\(track_id track-000, track-003\)",
    ),
    "lengths of fewer tracks": (
        put("lengths/mel", np.full(39, 24)),
        r"lengths/mel: expected shape \(40,\), got \(39,\)",
    ),
    "no lengths in the column": (put("lengths/mel", np.zeros(0)), r"lengths/mel: expected shape \(40,\), got \(0,\)"),
    "length of 0": (put("lengths/mel", np.zeros(40)), r"lengths/mel: expected 1\.\.24 frames, got 0.*\.\.0"),
    "length beyond the end": (put("lengths/mel", np.full(40, 25)), r"lengths/mel: expected 1\.\.24 frames, got 25\.\.25"),
    "labels of fewer tracks": (
        put("labels/genre", np.zeros(39, np.int16)),
        r"labels/genre: expected shape \(40,\), got \(39,\)",
    ),
    "label out of range": (put("labels/genre", np.full(40, 4)), r"labels/genre: expected -1\.\.3, got 4\.\.4"),
    "label below -1": (put("labels/genre", np.full(40, -2)), r"labels/genre: expected -1\.\.3, got -2\.\.-2"),
    "no track labelled": (
        put("labels/genre", np.full(40, -1)),
        r"labels/genre: no track of the train split has a label",
    ),
    "label column of classes without names": (
        edit(lambda f: f["labels/genre"].attrs.__delitem__("names")),
        r"labels/genre: expected class labels with a `names` attribute, got a regression target",
    ),
    "track ids of fewer tracks": (put("track_id", ["a", "b"]), r"track_id: expected shape \(40,\), got \(2,\)"),
    "artists of fewer tracks": (put("artist_id", [1, 2]), r"artist_id: expected shape \(40,\), got \(2,\)"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_file_is_one_clear_error(
    feature_file: Path, damage: Callable[[Path], Any], message: str
) -> None:
    damage(feature_file)
    with pytest.raises(DataError, match=message) as caught:
        open_dataset(spec_of(feature_file))
    assert str(feature_file) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("features", "label", "message"),
    [
        (["mle"], "genre", r"features/mle: no such feature set; did you mean 'mel'\?"),
        (["cqt"], "genre", r"features/cqt: no such feature set; known here: mel"),
        (["mel"], "gener", r"labels/gener: no such label set; did you mean 'genre'\?"),
        (["mel"], "valence", r"labels/valence: expected class labels .*, got a regression target.*genre"),
    ],
)
def test_a_study_of_what_the_file_lacks_is_refused(
    feature_file: Path, features: list[str], label: str, message: str
) -> None:
    with pytest.raises(DataError, match=f"small\\.h5: {message}"):
        DataSpec.of(feature_file, features=features, label=label)


def test_features_of_other_lengths_are_not_joined(tmp_path: Path) -> None:
    path = make_feature_file(tmp_path / "a.h5", chroma=True)
    put("lengths/chroma", np.full(40, 20))(path)
    with pytest.raises(DataError, match=r"a\.h5: lengths/chroma: expected the lengths of mel"):
        open_dataset(spec_of(path, "mel", "chroma"))


def test_features_of_other_frames_are_not_joined(tmp_path: Path) -> None:
    path = make_feature_file(tmp_path / "a.h5", chroma=True)
    put("features/chroma", np.zeros((40, 12, 4), np.float16))(path)
    with pytest.raises(DataError, match=r"a\.h5: features .*'mel': 24, 'chroma': 12.*equal numbers of frames"):
        spec_of(path, "mel", "chroma")


def test_a_split_of_other_bins_does_not_fit_the_normalisers(tmp_path: Path, dataset: Dataset) -> None:
    narrow = spec_of(make_feature_file(tmp_path / "narrow.h5", num_bins=6))
    with pytest.raises(DataError, match=r"narrow\.h5: features/mel: expected 8 bins, got 6"):
        open_split(narrow, "test", dataset.normalisers)


def test_an_empty_test_split_is_an_error_only_when_it_is_opened(tmp_path: Path) -> None:
    spec = spec_of(make_feature_file(tmp_path / "a.h5", tracks=(24, 8, 0)))
    dataset = open_dataset(spec)
    with pytest.raises(DataError, match=r"a\.h5: split: expected rows with value 2 \(test\), got none"):
        open_split(spec, "test", dataset.normalisers)


def test_a_missing_file_is_named_by_whoever_asks_for_it(tmp_path: Path) -> None:
    for ask in (read_info, content_hash):
        with pytest.raises(DataError, match=r"nowhere\.h5"):
            ask(tmp_path / "nowhere.h5")


# --- helpers -----------------------------------------------------------------------------------------------------


def one_track_per_chunk(source: Path, target: Path) -> Path:
    """The same file with features gzipped, one track per chunk, as corpora are handed out."""
    target.write_bytes(source.read_bytes())
    with h5py.File(target, "a") as file:
        values, attributes = file["features/mel"][()], dict(file["features/mel"].attrs)
        del file["features/mel"]
        stored = file.create_dataset(
            "features/mel", data=values, chunks=(1, *values.shape[1:]), compression="gzip", shuffle=True
        )
        stored.attrs.update(attributes)
    return target


def damage_rows(path: Path, *, split_code: int) -> None:
    """Overwrite the chunks of one split's rows, so that nobody can read them."""
    with h5py.File(path) as file:
        stored = file["features/mel"].id
        chunks = [stored.get_chunk_info(index) for index in range(stored.get_num_chunks())]
        rows = set(np.flatnonzero(file["split"][()] == split_code).tolist())
    damaged = [chunk for chunk in chunks if chunk.chunk_offset[0] in rows]
    assert len(damaged) == len(rows) > 0
    with path.open("r+b") as raw:
        for chunk in damaged:
            raw.seek(chunk.byte_offset)
            raw.write(b"\xff" * chunk.size)


def memory_mapping(address: int) -> str:
    """The block of /proc/self/smaps that holds an address."""
    smaps = Path("/proc/self/smaps")
    if not smaps.exists():
        pytest.skip("needs Linux's /proc")
    for block in re.split(r"\n(?=[0-9a-f]+-[0-9a-f]+ )", smaps.read_text()):
        low, high = (int(end, 16) for end in block.split(" ", 1)[0].split("-"))
        if low <= address < high:
            return block
    raise AssertionError(f"nothing is mapped at {address:x}")
