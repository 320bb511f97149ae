"""Arrays of others: one dataset a track, stacked rows in HDF5 and NPZ, and errors that name what is there."""

import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from corpora_helpers import make_fma
from fmasearch.corpora.arrays import ArraysReader, read_arrays
from fmasearch.corpora.npz_files import npz_arrays
from fmasearch.corpora.splitting import LEAK
from fmasearch.corpora.stacked import ArraysLayout
from fmasearch.errors import DataError, TrackError
from fmasearch.tracks import Corpus, Track

T, F = 6, 5
FMA_IDS = (2, 139, 276, 413, 550, 687, 824, 961, 1098)  # of `make_fma`: Classical, Hip-Hop, Rock, three artists each


def per_track(path: Path, ids: tuple[int, ...] = FMA_IDS, **datasets: Any) -> Path:
    """The course work's file: (128, 8) in [0, 1] and a genre number for each id; `datasets` are added or replaced."""
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        for place, number in enumerate(ids):
            file[f"features/{number:06d}"] = rng.random((128, 8), np.float32)
            file[f"labels/{number:06d}"] = (1, 7, 13)[place % 3]  # Classical, Hip-Hop, Rock of 16
        for key, value in datasets.items():
            if key in file:
                del file[key]
            file[key] = value
    return path


def stacked(**changes: Any) -> dict[str, Any]:
    """Ten rows, each (T, F), in decibels."""
    rng = np.random.default_rng(0)
    return {
        "x": rng.uniform(-60, -1, (10, T, F)).astype(np.float32),
        "y": np.arange(10) % 2,
        "who": np.arange(10) // 2,
        **changes,
    }


def write_h5(path: Path, arrays: dict[str, Any]) -> Path:
    with h5py.File(path, "w") as file:
        for key, value in arrays.items():
            file[key] = value
    return path


def write_npz(path: Path, arrays: dict[str, Any]) -> Path:
    np.savez(path, **arrays)
    return path


def splits(corpus: Corpus) -> dict[str, int]:
    return Counter(track.split for track in corpus.tracks)


def test_a_dataset_a_track_imports_as_it_is(tmp_path: Path) -> None:
    path = per_track(tmp_path / "fma_mel_features.h5")
    corpus, reader = read_arrays(path)
    by_id = {track.track_id: track for track in corpus.tracks}
    assert {i: by_id[i].classes["genre"] for i in ("2", "139", "276")} == {
        "2": "Classical",
        "139": "Hip-Hop",
        "276": "Rock",
    }
    values = reader.read(by_id["139"])["mel"]
    with h5py.File(path) as file:
        assert np.array_equal(values, file["features/000139"][()].T)
    assert values.shape == (8, 128)
    spec = reader.features[0]
    assert (spec.name, spec.max_frames, spec.low, spec.high) == ("mel", 8, 0.0, 1.0)
    assert spec.settings["unit"] == "min-max per track"


def test_without_metadata_its_split_is_random_and_warned_of(tmp_path: Path) -> None:
    corpus, _ = read_arrays(per_track(tmp_path / "a.h5"))
    assert corpus.notes[0].startswith(LEAK)
    assert "--fma-metadata" in corpus.notes[0]
    assert splits(corpus) == {"train": 3, "val": 3, "test": 3}  # one of each genre's three tracks in each


def test_metadata_gives_the_official_split_artists_and_licences(tmp_path: Path) -> None:
    folders = make_fma(tmp_path, tracks=9, seconds=0.1, formats=("wav",))
    path = per_track(tmp_path / "a.h5", (*FMA_IDS, 7777), **{"labels/000139": 13})
    corpus, _ = read_arrays(path, fma_metadata=folders.metadata)
    assert splits(corpus) == {"train": 3, "val": 3, "test": 3}
    first = corpus.tracks[0]
    assert (first.track_id, first.split, first.licence) == ("2", "train", "Attribution")
    assert first.artist is not None
    assert [(e.track_id, e.reason) for e in corpus.excluded] == [("7777", "not in FMA's tracks.csv")]
    # 139 was said to be Rock, and is Hip-Hop in tracks.csv.
    assert corpus.notes == (
        "FMA's official split, from tracks.csv",
        "warning: 1 of 9 genres are not those of tracks.csv",
    )


def test_tracks_of_another_shape_or_without_a_label_are_left_out(tmp_path: Path) -> None:
    path = per_track(tmp_path / "a.h5", **{"features/000002": np.zeros((64, 8)), "features/000999": np.zeros((128, 8))})
    with h5py.File(path, "a") as file:
        del file["features/000139"]
    corpus, _ = read_arrays(path)
    assert {e.track_id: e.reason for e in corpus.excluded} == {
        "2": "expected shape (128, frames), got (64, 8)",
        "999": "no label: labels/000999 is absent",
        "000139": "no features",
    }


def test_a_genre_number_beyond_the_sixteen_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"labels/000139: expected a class number in -1\.\.15, got 16"):
        read_arrays(per_track(tmp_path / "a.h5", **{"labels/000139": 16}))


@pytest.mark.parametrize("write", [write_h5, write_npz])
def test_stacked_rows_are_read_in_either_file(tmp_path: Path, write: Any) -> None:
    arrays = stacked(names=np.array([b"dub", b"folk"]), s=[0] * 6 + [1] * 2 + [2, -1], ids=np.arange(10) + 100)
    path = write(tmp_path / ("a.npz" if write is write_npz else "a.h5"), arrays)
    layout = ArraysLayout("x", labels="y", names="names", split="s", ids="ids", unit="dB", artists="who")
    corpus, reader = read_arrays(path, layout=layout)
    assert splits(corpus) == {"train": 6, "val": 2, "test": 1, "unused": 1}
    third = corpus.tracks[3]
    assert (third.track_id, third.classes, third.artist) == ("103", {"genre": "folk"}, "1")
    assert np.array_equal(reader.read(third)["mel"], arrays["x"][3])
    spec = reader.features[0]
    assert (spec.low, spec.high) == (arrays["x"].min(), arrays["x"].max())
    assert (spec.num_bins, spec.max_frames, spec.settings) == (F, T, {"unit": "dB"})


def test_bins_first_is_turned_round(tmp_path: Path) -> None:
    arrays = stacked()
    path = write_h5(tmp_path / "a.h5", {**arrays, "x": arrays["x"].transpose(0, 2, 1)})
    corpus, reader = read_arrays(path, layout=ArraysLayout("x", axes="NFT", labels="y"))
    assert (reader.features[0].num_bins, reader.features[0].max_frames) == (F, T)
    assert np.array_equal(reader.read(corpus.tracks[1])["mel"], arrays["x"][1])


def test_lengths_cut_the_padding_off(tmp_path: Path) -> None:
    arrays = stacked(n=np.array([2, 4] + [3] * 7 + [0]))
    corpus, reader = read_arrays(write_h5(tmp_path / "a.h5", arrays), layout=ArraysLayout("x", labels="y", lengths="n"))
    assert reader.features[0].max_frames == 4
    assert np.array_equal(reader.read(corpus.tracks[1])["mel"], arrays["x"][1, :4])
    with pytest.raises(TrackError, match=r"expected a length of 1\.\.6 frames, got 0"):
        reader.read(corpus.tracks[9])


def test_labels_may_be_words_and_splits_too(tmp_path: Path) -> None:
    arrays = stacked(y=np.array(["dub", "folk"] * 4 + ["", "dub"]), s=["training"] * 7 + ["valid", "test", "test"])
    corpus, _ = read_arrays(write_npz(tmp_path / "a.npz", arrays), layout=ArraysLayout("x", labels="y", split="s"))
    assert splits(corpus) == {"train": 7, "val": 1, "test": 2}
    assert [t.classes.get("genre") for t in corpus.tracks[7:]] == ["folk", None, "dub"]


def test_names_come_from_an_attribute_or_numbers_stand_for_themselves(tmp_path: Path) -> None:
    path = write_h5(tmp_path / "a.h5", stacked())
    assert read_arrays(path, layout=ArraysLayout("x", labels="y"))[0].tracks[1].classes == {"genre": "1"}
    with h5py.File(tmp_path / "b.h5", "w") as file:
        for key, value in stacked().items():
            file[key] = value
        file["y"].attrs["names"] = ["dub", "folk"]
        file["x"].attrs["others"] = ["one", "two"]
    for names, expected in {None: "folk", "x@others": "two"}.items():
        corpus, _ = read_arrays(tmp_path / "b.h5", layout=ArraysLayout("x", labels="y", names=names))
        assert corpus.tracks[1].classes == {"genre": expected}


def test_targets_are_numbers_and_nan_is_none(tmp_path: Path) -> None:
    values = np.linspace(0, 1, 10)
    values[3] = np.nan
    path = write_h5(tmp_path / "a.h5", stacked(v=values))
    corpus, _ = read_arrays(path, layout=ArraysLayout("x", targets={"valence": "v"}))
    assert corpus.tracks[9].targets == {"valence": 1.0}
    assert corpus.tracks[3].targets == {}


def test_artists_are_kept_together_where_they_are_known(tmp_path: Path) -> None:
    path = write_h5(tmp_path / "a.h5", stacked())
    corpus, _ = read_arrays(path, layout=ArraysLayout("x", labels="y", artists="who"))
    assert len({(t.artist, t.split) for t in corpus.tracks}) == 5  # artists of two tracks
    assert corpus.notes == ()


def test_an_artist_in_two_splits_of_the_files_own_is_told(tmp_path: Path) -> None:
    path = write_h5(tmp_path / "a.h5", stacked(s=np.arange(10) % 3))
    corpus, _ = read_arrays(path, layout=ArraysLayout("x", labels="y", split="s", artists="who"))
    assert corpus.notes == ("warning: 5 artists are in several splits; scores come out too good",)


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (ArraysLayout("mel", labels="y"), r"--features mel: no such dataset; known here: group/z, who, x, y"),
        (ArraysLayout("x", labels="group/zz"), r"--labels group/zz: no such dataset; did you mean 'group/z'\?"),
        (ArraysLayout("x", labels="group"), r"--labels group: no such dataset"),
        (ArraysLayout("y", labels="y"), r"y: expected three axes NTF, got shape \(10,\)"),
        (ArraysLayout("x", labels="group/z"), r"--labels group/z: expected shape \(10,\), got \(3,\)"),
        (
            ArraysLayout("x"),
            r"--labels KEY or --target NAME=KEY, got neither; here are: group/z \(3,\) float64",
        ),
        (ArraysLayout("x", labels="y", names="y@names"), "--names y@names: no such attribute"),
        (ArraysLayout("x", labels="y", ids="y"), "--ids y: expected 10 different ids, got 2"),
        (ArraysLayout("x", labels="y", split="who"), "who: expected 0, 1, 2 or -1, or train, .*, got 3"),
        (ArraysLayout("x", labels="y", value_range=(1.0, 1.0)), r"expected values between two bounds, got 1\.\.1"),
    ],
)
def test_a_layout_that_does_not_fit_is_told_what_is_there(tmp_path: Path, layout: ArraysLayout, message: str) -> None:
    path = write_h5(tmp_path / "a.h5", {**stacked(), "group/z": np.zeros(3)})
    with pytest.raises(DataError, match=message):
        read_arrays(path, layout=layout)


def test_labels_that_are_no_class_numbers_point_to_targets(tmp_path: Path) -> None:
    path = write_h5(tmp_path / "a.h5", stacked(y=np.linspace(0, 1, 10)))
    with pytest.raises(DataError, match=r"expected class numbers or names, got 0\.0; try --target"):
        read_arrays(path, layout=ArraysLayout("x", labels="y"))


def test_a_file_of_another_layout_lists_its_keys(tmp_path: Path) -> None:
    for path in (write_h5(tmp_path / "a.h5", stacked()), write_npz(tmp_path / "a.npz", stacked())):
        with pytest.raises(DataError, match=r"--features KEY.*who \(10,\) int64, x \(10, 6, 5\) float32"):
            read_arrays(path)


def test_what_is_no_array_file_is_refused(tmp_path: Path, feature_file: Path) -> None:
    for name in ("a.h5", "a.npz"):
        (tmp_path / name).write_text("no arrays")
        with pytest.raises(DataError, match="damaged"):
            read_arrays(tmp_path / name)
    with pytest.raises(DataError, match="no such file"):
        read_arrays(tmp_path / "absent.h5")
    with pytest.raises(DataError, match="is a feature file already"):
        read_arrays(feature_file)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (np.full((T, F), np.nan), "mel: 30 values are NaN or infinite"),
        (np.full((T, F), -30.0), "silent: every value is -30"),
        (np.linspace(-90, 0, T * F).reshape(T, F), r"mel: expected values in -80\.\.0, got -90\.\.0"),
    ],
)
def test_a_row_that_cannot_be_used_is_a_track_error(tmp_path: Path, value: Any, reason: str) -> None:
    arrays = stacked()
    arrays["x"][4] = value
    layout = ArraysLayout("x", labels="y", value_range=(-80.0, 0.0))
    corpus, reader = read_arrays(write_h5(tmp_path / "a.h5", arrays), layout=layout)
    with pytest.raises(TrackError, match=reason):
        reader.read(corpus.tracks[4])
    assert reader.read(corpus.tracks[5])["mel"].shape == (T, F)


def test_a_damaged_block_is_a_track_error(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    arrays = stacked()
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=arrays["x"], chunks=(1, T, F), fletcher32=True)
        file["y"] = arrays["y"]
        place = file["x"].id.get_chunk_info(4).byte_offset
    layout = ArraysLayout("x", labels="y", value_range=(-80.0, 0.0))
    corpus, reader = read_arrays(path, layout=layout)
    content = bytearray(path.read_bytes())
    content[place : place + 8] = b"\xff" * 8
    path.write_bytes(bytes(content))
    with pytest.raises(TrackError, match="cannot be read"):
        reader.read(corpus.tracks[4])


def test_npz_arrays_are_mapped_unless_they_are_compressed(tmp_path: Path) -> None:
    arrays = stacked()
    np.savez(tmp_path / "stored.npz", **arrays)
    np.savez_compressed(tmp_path / "packed.npz", **arrays)
    stored, packed = npz_arrays(tmp_path / "stored.npz"), npz_arrays(tmp_path / "packed.npz")
    assert isinstance(stored["x"], np.memmap)
    assert not isinstance(packed["x"], np.memmap)
    for key in arrays:
        assert np.array_equal(stored[key], arrays[key])
        assert np.array_equal(packed[key], arrays[key])


def test_npz_arrays_in_column_order_are_mapped_rightly(tmp_path: Path) -> None:
    values = np.asfortranarray(stacked()["x"])
    np.savez(tmp_path / "a.npz", x=values)
    assert np.array_equal(npz_arrays(tmp_path / "a.npz")["x"], values)


def test_python_objects_in_an_npz_are_never_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **stacked(y=np.array([{"a": 1}] * 10, dtype=object)))
    with pytest.raises(DataError, match=r"y\.npy: holds Python objects"):
        read_arrays(tmp_path / "a.npz", layout=ArraysLayout("x", labels="y"))


def test_the_reader_travels_to_workers(tmp_path: Path) -> None:
    corpus, reader = read_arrays(write_h5(tmp_path / "a.h5", stacked()), layout=ArraysLayout("x", labels="y"))
    reader.read(corpus.tracks[0])  # with the file open
    copy: ArraysReader = pickle.loads(pickle.dumps(reader))
    track: Track = corpus.tracks[1]
    assert np.array_equal(copy.read(track)["mel"], reader.read(track)["mel"])
