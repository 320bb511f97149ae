"""The check of a feature file: every planted defect is found under its code, and a clean file has none."""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from conftest import make_feature_file
from fmasearch.data import scanning
from fmasearch.data.checking import Finding, check_feature_file
from fmasearch.data.rows import licence_counts, read_all_columns, read_track
from fmasearch.errors import DataError

REAL = Path(__file__).parents[1] / "../shared/data/fma_small.h5"
Plant = Callable[[h5py.File], None]


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    """120 tracks of 10 of a class in each split, 6 to 12 frames; row r is in split r % 3, artists have two tracks."""
    return make_feature_file(tmp_path / "clean.h5", tracks=(40, 40, 40), num_frames=12, varying_lengths=True)


def found(path: Path, plant: Plant) -> dict[str, Finding]:
    """Findings by code of a file with a defect in it."""
    with h5py.File(path, "r+") as file:
        plant(file)
    return {finding.code: finding for finding in check_feature_file(path).findings}


def copy_row(file: h5py.File, source: int, target: int) -> None:
    for name in ("features/mel", "lengths/mel"):
        file[name][target] = file[name][source]


def set_cell(name: str, row: object, value: object) -> Plant:
    return lambda file: file[name].__setitem__(row, value)


@pytest.mark.parametrize("dtype", ["float16", "uint8"])
def test_a_clean_file_has_no_findings(tmp_path: Path, dtype: str) -> None:
    path = make_feature_file(tmp_path / "clean.h5", tracks=(40, 40, 40), dtype=dtype, varying_lengths=True)
    report = check_feature_file(path)
    assert report.findings == ()
    assert not report.has_errors
    assert report.split_counts == {"train": 40, "val": 40, "test": 40, "unused": 0}
    assert report.num_artists == 60  # 20 of two tracks in each split
    assert report.class_counts["genre"]["jazz"] == {"train": 10, "val": 10, "test": 10}
    assert sum(report.lengths["mel"].counts) == 120


@pytest.mark.parametrize(
    ("code", "severity", "plant", "words"),
    [
        ("not-finite", "error", set_cell("features/mel", (7, 0, 0), np.nan), "mel: 1 track with NaN"),
        ("not-finite", "error", set_cell("features/mel", (7, -1, 0), np.inf), "mel: 1 track with NaN"),
        ("silent", "warning", set_cell("features/mel", (7, slice(0, 6)), -80.0), "mel: 1 track of silence"),
        ("constant", "warning", set_cell("features/mel", (7, slice(0, 6)), np.arange(8.0)), "all frames are equal"),
        ("padding", "warning", set_cell("features/mel", (7, -1, 3), -40.0), "after the own frames"),
        ("bad-length", "error", set_cell("lengths/mel", 7, 13), "not of 1 to 12 frames, but of 13 to 13"),
        ("bad-length", "error", set_cell("lengths/mel", 7, 0), "but of 0 to 0"),
        ("bad-label", "error", set_cell("labels/genre", 7, 4), "a code that is not -1..3"),
        ("bad-label", "error", set_cell("labels/valence", 7, np.inf), "an infinite value"),
        ("odd-split", "warning", set_cell("split", 7, 5), "none of -1, 0, 1, 2"),
        ("unlabelled", "note", set_cell("labels/genre", 7, -1), "1 track of 120 without genre"),
        ("unlabelled", "note", set_cell("labels/valence", 7, np.nan), "1 track of 120 without valence"),
        ("unknown-artists", "note", set_cell("artist_id", 7, -1), "1 track of 120 without a known artist"),
    ],
)
def test_a_defect_of_one_track_is_found_under_its_code(
    clean: Path, code: str, severity: str, plant: Plant, words: str
) -> None:
    def short_and_planted(file: h5py.File) -> None:
        file["lengths/mel"][7] = 6  # so that frames from 6 on are padding
        file["features/mel"][7, 6:] = 0
        plant(file)

    finding = found(clean, short_and_planted)[code]
    assert (finding.severity, finding.count, finding.examples) == (severity, 1, ("track-007",))
    assert words in finding.message


def test_an_artist_in_two_splits_is_an_error(clean: Path) -> None:
    # Artists 0 (rows 0 and 3, train) and 100 (rows 1 and 4, val): row 3 goes to the latter.
    finding = found(clean, set_cell("artist_id", 3, 100))["artist-leak"]
    assert (finding.severity, finding.count) == ("error", 1)
    assert finding.examples == ("artist 100 (1 train, 2 val)",)
    assert "(3 tracks)" in finding.message
    assert "resplit FILE --by artist" in finding.mend


@pytest.mark.parametrize("code", [-1, 5])
def test_an_artist_who_is_elsewhere_unused_does_not_leak(clean: Path, code: int) -> None:
    assert "artist-leak" not in found(clean, set_cell("split", 0, code))  # row 3 is the artist's other track


def test_equal_content_in_one_split_is_a_warning_and_across_splits_an_error(clean: Path) -> None:
    def plant(file: h5py.File) -> None:
        copy_row(file, 0, 3)  # both train
        copy_row(file, 6, 7)  # train and val

    findings = found(clean, plant)
    within, across = findings["duplicates"], findings["duplicates-across-splits"]
    assert (within.severity, within.examples) == ("warning", ("track-000 (train) = track-003 (train)",))
    assert (across.severity, across.examples) == ("error", ("track-006 (train) = track-007 (val)",))


def test_equal_content_is_judged_within_the_tracks_own_length(clean: Path) -> None:
    def plant(file: h5py.File) -> None:
        file["lengths/mel"][0] = 6
        copy_row(file, 0, 3)
        file["features/mel"][3, 6:] = -1.0  # no frame of the track

    assert found(clean, plant)["duplicates"].count == 1


def test_silent_tracks_are_no_duplicates(clean: Path) -> None:
    def plant(file: h5py.File) -> None:
        file["features/mel"][0] = 0.0
        copy_row(file, 0, 1)

    findings = found(clean, plant)
    assert findings["silent"].count == 2
    assert "duplicates-across-splits" not in findings


def test_unused_tracks_may_be_broken(clean: Path) -> None:
    def plant(file: h5py.File) -> None:
        file["split"][7] = -1
        file["features/mel"][7] = np.nan

    assert found(clean, plant).keys() == {"few-tracks"}  # 9 tracks are left of that class in val


def test_a_row_that_cannot_be_read_is_found_among_its_neighbours(clean: Path) -> None:
    with h5py.File(clean, "r+") as file:
        levels, settings = file["features/mel"][()], dict(file["features/mel"].attrs)
        del file["features/mel"]
        dataset = file.create_dataset("features/mel", data=levels, chunks=(1, 12, 8), compression="gzip")
        dataset.attrs.update(settings)
        chunk = dataset.id.get_chunk_info_by_coord((7, 0, 0))
    with clean.open("r+b") as raw:
        raw.seek(chunk.byte_offset)
        raw.write(bytes(chunk.size))
    (finding,) = check_feature_file(clean).findings
    assert (finding.severity, finding.code, finding.examples) == ("error", "unreadable", ("track-007",))


def test_a_class_is_named_if_it_has_no_training_track_or_few_tracks_anywhere(tmp_path: Path) -> None:
    path = make_feature_file(tmp_path / "few.h5", tracks=(40, 40, 36))  # 9 test tracks a class

    def plant(file: h5py.File) -> None:
        genre, split = file["labels/genre"][()], file["split"][()]
        file["labels/genre"][()] = np.where((split == 0) & (genre == 2), 0, genre)  # folk is not trained

    findings = found(path, plant)
    assert findings["untrained-class"].examples == ("folk",)
    assert findings["few-tracks"].examples == ("rock (9 test)", "jazz (9 test)", "dub (9 test)")


def test_a_class_of_more_than_ten_times_another_is_noted(tmp_path: Path) -> None:
    path = make_feature_file(tmp_path / "uneven.h5", tracks=(44, 40, 40))  # 11 training tracks a class

    def plant(file: h5py.File) -> None:
        genre, split = file["labels/genre"][()], file["split"][()]
        dub = np.flatnonzero((split == 0) & (genre == 3))
        file["labels/genre"][dub[1:]] = 0  # 21 of rock, 1 of dub

    assert found(path, plant)["imbalance"].message == "genre: 21 training tracks of rock, 1 of dub"


def test_repeated_ids_and_empty_splits_are_warnings(tmp_path: Path) -> None:
    path = make_feature_file(tmp_path / "no_val.h5", tracks=(40, 0, 40))
    findings = found(path, set_cell("track_id", 7, "track-000"))
    assert findings["repeated-id"].examples == ("track-000", "track-000")
    assert findings["empty-split"].message == "no tracks in the val split"


def test_errors_come_first_and_notes_last(clean: Path) -> None:
    def plant(file: h5py.File) -> None:
        file["artist_id"][7] = -1
        file["features/mel"][7] = 0.0
        file["features/mel"][9, 0, 0] = np.nan

    assert list(found(clean, plant)) == ["not-finite", "silent", "unknown-artists"]


def test_blocks_of_one_row_find_the_same(clean: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def plant(file: h5py.File) -> None:
        copy_row(file, 6, 7)

    whole = found(clean, plant)
    monkeypatch.setattr(scanning, "_BLOCK_BYTES", 1)
    rows: list[int] = []
    report = check_feature_file(clean, on_rows=rows.append)
    assert {finding.code: finding for finding in report.findings} == whole
    assert rows == [1] * 120


def test_a_track_is_read_without_its_padding_and_in_its_unit(tmp_path: Path) -> None:
    path = make_feature_file(tmp_path / "levels.h5", dtype="uint8")
    with h5py.File(path, "r+") as file:
        file["lengths/mel"][2] = 3
        file["features/mel"][2, :3] = 20
    track = read_track(path, "track-002")
    assert (track.split, track.classes, track.artist_id) == ("test", {"genre": "rock"}, 200)
    assert track.values_TF.tolist() == [[-70.0] * 8] * 3  # -80 dB + 20 levels of 0.5 dB


@pytest.mark.parametrize(
    ("wanted", "hint"),
    [("625", "did you mean '000625'"), ("00853", "did you mean '000853'"), ("x", "the first ones are 000625, 000853")],
)
def test_an_unknown_track_is_told_with_the_nearest_known_one(tmp_path: Path, wanted: str, hint: str) -> None:
    path = make_feature_file(tmp_path / "ids.h5", tracks=(2, 1, 0), num_classes=2)
    with h5py.File(path, "r+") as file:
        file["track_id"][()] = np.array(["000625", "000853", "001039"], dtype=object)
    with pytest.raises(DataError, match=hint):
        read_track(path, wanted)


def test_licences_are_counted_the_most_frequent_first(feature_file: Path) -> None:
    assert licence_counts(read_all_columns(feature_file)) == {}
    with h5py.File(feature_file, "r+") as file:
        file["licence"] = np.array(["CC BY"] * 30 + ["CC0"] * 4 + [""] * 6, dtype=object)
    assert list(licence_counts(read_all_columns(feature_file)).items()) == [("CC BY", 30), ("", 6), ("CC0", 4)]


@pytest.mark.skipif(not REAL.exists(), reason="the real FMA-small features are not on this machine")
def test_real_fma_small_has_recordings_under_two_ids() -> None:
    report = check_feature_file(REAL)
    across = {finding.code: finding for finding in report.findings}["duplicates-across-splits"]
    assert across.examples == ("144933 (train) = 145702 (test)", "144938 (train) = 145707 (test)")
