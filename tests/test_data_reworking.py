"""Merged and resplit feature files: nothing is lost, nobody is mixed up, and no artist is on both sides."""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from conftest import make_feature_file, spec_of
from fmasearch.data import merging, open_dataset, read_info
from fmasearch.data.checking import check_feature_file
from fmasearch.data.merging import merge_feature_files
from fmasearch.data.reworking import SplitBy, resplit_feature_file
from fmasearch.data.rows import read_all_columns, read_track
from fmasearch.errors import DataError

Edit = Callable[[h5py.File], None]


def edited(path: Path, edit: Edit) -> Path:
    with h5py.File(path, "r+") as file:
        edit(file)
    return path


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """a.h5: 6 tracks of 12 frames, rock and jazz; b.h5: 9 tracks of 20 frames, all four classes, other values."""
    first = make_feature_file(tmp_path / "a.h5", tracks=(2, 2, 2), num_frames=12, num_classes=2, varying_lengths=True)
    return first, make_feature_file(tmp_path / "b.h5", tracks=(3, 3, 3), num_frames=20, seed=1)


def rename_tracks(file: h5py.File) -> None:
    file["track_id"][()] = np.array([f"other-{row}" for row in range(len(file["track_id"]))], dtype=object)


def test_a_merge_holds_every_track_with_its_own_frames(pair: tuple[Path, Path], tmp_path: Path) -> None:
    edited(pair[1], rename_tracks)
    out = tmp_path / "c.h5"
    merged = merge_feature_files(pair, out)
    assert (merged.num_tracks, merged.num_renamed) == (15, 0)
    for path, track_id in [(pair[0], "track-004"), (pair[1], "other-4")]:
        stored, before = read_track(out, track_id), read_track(path, track_id)
        np.testing.assert_array_equal(stored.values_TF, before.values_TF)
        assert (stored.split, stored.classes, stored.targets) == (before.split, before.classes, before.targets)
    info = read_info(out)
    assert info.feature("mel").shape == (15, 20, 8)
    assert info.feature("mel").settings == read_info(pair[0]).feature("mel").settings
    assert not {"padding", "bad-length", "duplicates"} & {finding.code for finding in check_feature_file(out).findings}


def test_blocks_of_one_track_give_the_same_file(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    merge_feature_files(pair, tmp_path / "whole.h5")
    monkeypatch.setattr(merging, "_BLOCK_BYTES", 1)
    rows: list[int] = []
    merge_feature_files(pair, tmp_path / "blocks.h5", on_rows=rows.append)
    assert rows == [1] * 15
    with h5py.File(tmp_path / "whole.h5") as whole, h5py.File(tmp_path / "blocks.h5") as blocks:
        np.testing.assert_array_equal(whole["features/mel"][()], blocks["features/mel"][()])


def test_only_colliding_track_ids_get_their_files_name(pair: tuple[Path, Path], tmp_path: Path) -> None:
    merged = merge_feature_files(pair, tmp_path / "c.h5")
    ids = read_all_columns(tmp_path / "c.h5").track_ids
    assert merged.num_renamed == 12  # track-000 to track-005 are in both files
    assert ids[0] == "a/track-000"
    assert ids[6] == "b/track-000"
    assert ids[12:] == ("track-006", "track-007", "track-008")


def test_files_of_one_name_are_told_apart_by_their_place(pair: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    other = pair[1].rename(tmp_path / "more" / "a.h5")
    merge_feature_files([pair[0], other], tmp_path / "c.h5")
    ids = read_all_columns(tmp_path / "c.h5").track_ids
    assert (ids[0], ids[6]) == ("a-1/track-000", "a-2/track-000")


def test_classes_are_united_by_name(pair: tuple[Path, Path], tmp_path: Path) -> None:
    # b.h5 numbers them otherwise: its code 0 is folk, 1 is rock.
    edited(pair[1], lambda file: file["labels/genre"].attrs.__setitem__("names", ["folk", "rock", "dub", "jazz"]))
    merge_feature_files(pair, tmp_path / "c.h5")
    names, codes = read_all_columns(tmp_path / "c.h5").classes["genre"]
    assert names == ("rock", "jazz", "folk", "dub")
    assert codes[:6].tolist() == [0, 0, 0, 1, 1, 1]
    assert codes[6:].tolist() == [2, 2, 2, 0, 0, 0, 3, 3, 3]


def test_labels_that_one_file_lacks_are_none_there(pair: tuple[Path, Path], tmp_path: Path) -> None:
    def without_labels(file: h5py.File) -> None:
        del file["labels/valence"], file["labels/genre"]
        file["licence"] = np.array(["CC0"] * 9, dtype=object)

    edited(pair[1], without_labels)
    merge_feature_files(pair, tmp_path / "c.h5")
    columns = read_all_columns(tmp_path / "c.h5")
    assert np.isnan(columns.targets["valence"]).tolist() == [False] * 6 + [True] * 9
    assert columns.classes["genre"][1].tolist() == [0, 0, 0, 1, 1, 1] + [-1] * 9
    assert columns.licences == ("",) * 6 + ("CC0",) * 9
    assert columns.sources is None


def test_artists_of_two_files_are_not_the_same_unless_told(pair: tuple[Path, Path], tmp_path: Path) -> None:
    # Artists 0, 100, 200 of a.h5 and 0, 1, 100, 101, 200, 201 of b.h5; one of a.h5's tracks is of nobody known.
    edited(pair[0], lambda file: file["artist_id"].__setitem__(0, -1))
    assert merge_feature_files(pair, tmp_path / "apart.h5").num_artists == 3 + 6
    assert merge_feature_files(pair, tmp_path / "same.h5", same_artists=True).num_artists == 6
    apart = read_all_columns(tmp_path / "apart.h5").artist_ids
    assert apart is not None
    assert apart[0] == -1
    assert not set(apart[:6].tolist()) & set(apart[6:].tolist())


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda file: file["features/mel"].attrs.__setitem__("hop_length", 256), "mel: hop_length: expected 512, got"),
        (lambda file: file["features/mel"].attrs.__delitem__("sample_rate"), "sample_rate: expected 16000, got none"),
        (lambda file: file["features/mel"].attrs.__setitem__("top_db", 60), "top_db: expected none, got 60"),
        (lambda file: file["features/mel"].attrs.__setitem__("offset", -60.0), "offset: expected -80.0, got -60.0"),
        (lambda file: file.move("features/mel", "features/chroma"), "features: expected mel, got chroma"),
        (lambda file: file["labels/genre"].attrs.__delitem__("names"), "one has classes, the other has numbers"),
    ],
)
def test_files_that_were_made_otherwise_cannot_be_merged(tmp_path: Path, edit: Edit, words: str) -> None:
    first, other = (make_feature_file(tmp_path / name, tracks=(2, 1, 1), dtype="uint8") for name in ("a.h5", "b.h5"))
    edited(other, edit)
    with pytest.raises(DataError, match=words):
        merge_feature_files([first, other], tmp_path / "c.h5")
    assert not (tmp_path / "c.h5").exists()


def test_nothing_is_overwritten(pair: tuple[Path, Path]) -> None:
    with pytest.raises(DataError, match=r"b\.h5: already exists"):
        merge_feature_files(pair, pair[1])
    with pytest.raises(DataError, match=r"a\.h5: already exists"):
        resplit_feature_file(pair[0], pair[0])


@pytest.fixture
def leaking(tmp_path: Path) -> Path:
    """100 tracks of four classes; artist k has the rows k, k + 25, ... and so tracks in several splits."""
    path = make_feature_file(tmp_path / "leaking.h5", tracks=(60, 20, 20), dtype="uint8")
    return edited(path, lambda file: file["artist_id"].__setitem__((), np.arange(100) % 25))


def test_a_resplit_by_artist_mends_a_leak_and_keeps_the_features(leaking: Path, tmp_path: Path) -> None:
    out = tmp_path / "new.h5"
    result = resplit_feature_file(leaking, out, fractions=(0.6, 0.2, 0.2))
    assert result.num_leaking_before > 0
    assert result.num_leaking_after == 0
    assert result.before == {"train": 60, "val": 20, "test": 20}
    assert sum(result.after.values()) == 100
    assert "artist-leak" not in {finding.code for finding in check_feature_file(out).findings}
    with h5py.File(leaking) as old, h5py.File(out) as new:
        np.testing.assert_array_equal(old["features/mel"][()], new["features/mel"][()])
        assert new.attrs["source"] == "split by artist 0.6/0.2/0.2, seed 0"
    assert len(open_dataset(spec_of(out)).train) == result.after["train"]


@pytest.mark.parametrize("by", ["artist", "track"])
def test_a_resplit_follows_its_seed(leaking: Path, tmp_path: Path, by: SplitBy) -> None:
    for name, seed in [("a", 0), ("b", 0), ("c", 1)]:
        resplit_feature_file(leaking, tmp_path / f"{name}.h5", by=by, seed=seed)
    splits = [read_all_columns(tmp_path / f"{name}.h5").split.tolist() for name in "abc"]
    assert splits[0] == splits[1] != splits[2]


def test_a_resplit_by_track_gives_each_class_its_fractions(leaking: Path, tmp_path: Path) -> None:
    result = resplit_feature_file(leaking, tmp_path / "new.h5", by="track", fractions=(0.6, 0.2, 0.2))
    # 25 tracks a class: 15, 5, 5 each.
    assert all(counts == {"train": 15, "val": 5, "test": 5} for counts in result.classes_after.values())
    assert result.num_leaking_after > 0


def test_unused_tracks_stay_unused(leaking: Path, tmp_path: Path) -> None:
    edited(leaking, lambda file: file["split"].__setitem__(slice(0, 10), -1))
    result = resplit_feature_file(leaking, tmp_path / "new.h5")
    assert sum(result.after.values()) == 90
    assert read_all_columns(tmp_path / "new.h5").split[:10].tolist() == [-1] * 10


def test_of_equal_tracks_the_one_that_judges_stays(leaking: Path, tmp_path: Path) -> None:
    def plant(file: h5py.File) -> None:  # rows 0, 1, 2 are train, val, test; 3 and 6 are train
        for source, target in [(0, 2), (3, 6)]:
            file["features/mel"][target] = file["features/mel"][source]

    edited(leaking, plant)
    result = resplit_feature_file(leaking, tmp_path / "new.h5", by="none", drop_duplicates=True)
    assert result.dropped == ("track-000", "track-006")
    assert result.after == {"train": 58, "val": 20, "test": 20}
    codes = {finding.code for finding in check_feature_file(tmp_path / "new.h5").findings}
    assert not codes & {"duplicates", "duplicates-across-splits"}


def test_artists_must_be_known_to_be_kept_together(tmp_path: Path) -> None:
    path = make_feature_file(tmp_path / "nobody.h5", artists=False)
    with pytest.raises(DataError, match=r"no artist is known.*--by track"):
        resplit_feature_file(path, tmp_path / "new.h5")


def test_an_unknown_label_set_to_stratify_by_is_told_with_the_known_ones(leaking: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"labels/gender: no such label set; did you mean 'genre'\?"):
        resplit_feature_file(leaking, tmp_path / "new.h5", stratify="gender")
