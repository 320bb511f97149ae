"""`fmasearch data ...` as a person types it: what is printed, what is written, and the exit code."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from conftest import make_feature_file, run_cli
from fmasearch.cli.checking import histogram_lines
from fmasearch.data.checking import Histogram
from fmasearch.data.rows import read_all_columns


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """The exit code of `fmasearch data ARGUMENTS`, in this process."""
    return run_cli(monkeypatch, "data", *arguments)


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    return make_feature_file(tmp_path / "clean.h5", tracks=(40, 40, 40))


@pytest.fixture
def leaking(clean: Path) -> Path:
    """Artist 0 is in train and val."""
    with h5py.File(clean, "r+") as file:
        file["artist_id"][1] = 0
    return clean


def test_check_ends_with_0_for_a_clean_file(
    clean: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "check", clean) == 0
    out = capsys.readouterr().out
    assert "120 tracks (40 train, 40 val, 40 test), 60 artists" in out
    assert "mel: all 120 tracks have 24 frames" in out
    assert "ok: nothing to find fault with" in out


def test_check_ends_with_1_for_an_error_and_says_how_to_mend_it(
    leaking: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "check", leaking) == 1
    out = capsys.readouterr().out
    for words in ("error", "artist-leak", "artist 0 (2 train, 1 val)", "mend: `fmasearch data resplit", "1 error"):
        assert words in out


def test_check_ends_with_0_for_a_warning(
    clean: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with h5py.File(clean, "r+") as file:
        file["features/mel"][0] = -80.0
    assert run(monkeypatch, "check", clean) == 0
    assert "1 warning" in capsys.readouterr().out


def test_check_ends_with_2_for_what_is_no_feature_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.h5").write_text("not HDF5")
    assert run(monkeypatch, "check", tmp_path / "notes.h5") == 2
    assert "is not an HDF5 file" in capsys.readouterr().err


def test_check_prints_json(leaking: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "check", leaking, "--json") == 1
    report = json.loads(capsys.readouterr().out)
    assert [finding["code"] for finding in report["findings"]] == ["artist-leak"]
    assert report["class_counts"]["genre"]["rock"] == {"train": 10, "val": 10, "test": 10}


def test_clip_lengths_are_told_in_seconds_where_the_rate_is_known() -> None:
    lines = histogram_lines("mel", Histogram((100.0, 200.0, 300.0), (1, 4), 10.0))
    assert lines == [
        "mel: tracks by clip length (s)",
        f"      10.0 –     20.0  {'█' * 10} 1",  # a quarter of the longest bar, which is 40
        f"      20.0 –     30.0  {'█' * 40} 4",
    ]
    assert histogram_lines("mel", Histogram((7.0, 7.0), (3,), None)) == ["mel: all 3 tracks have 7 frames"]


def test_show_prints_what_is_known_and_draws_a_picture(
    clean: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with h5py.File(clean, "r+") as file:
        file["licence"] = np.array(["CC BY 4.0"] * 120, dtype=object)
        file["features/mel"].attrs["frame_rate"] = 12.0
    assert run(monkeypatch, "show", clean, "track-007", "--out", tmp_path / "track.png") == 0
    out = capsys.readouterr().out
    for words in ("split        val", "genre        folk", "artist       101", "CC BY 4.0", "24 of 24 frames (2.0 s)"):
        assert words in out
    assert (tmp_path / "track.png").read_bytes().startswith(b"\x89PNG")


def test_show_of_an_unknown_track_asks_whether_another_was_meant(
    clean: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "show", clean, "trak-007") == 2
    assert "did you mean 'track-007'?" in capsys.readouterr().err


def test_info_tells_classes_by_split_lengths_size_and_licences(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = make_feature_file(tmp_path / "info.h5", tracks=(8, 4, 4), dtype="uint8")
    with h5py.File(path, "r+") as file:
        file["licence"] = np.array(["CC BY 4.0"] * 12 + ["CC0"] * 4, dtype=object)
        file["features/mel"].attrs["frame_rate"] = 12.0
        file["lengths/mel"][0] = 12
    assert run(monkeypatch, "info", path) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "rock 2 1 1 4" in lines  # 8, 4 and 4 tracks of four classes
    assert "mel 16 × 24 × 8 uint8 3.1 kB 12.0 12 to 24 frames (1.0 to 2.0 s)" in lines
    assert "CC BY 4.0 12" in lines
    assert any("16 tracks (8 train, 4 val, 4 test)" in line and "kB on disk" in line for line in lines)
    assert run(monkeypatch, "info", path, "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["lengths"] == {"mel": [12, 24]}
    assert facts["licences"] == {"CC BY 4.0": 12, "CC0": 4}


def test_merge_writes_one_file_and_says_what_it_renamed(
    clean: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = make_feature_file(tmp_path / "other.h5", tracks=(4, 4, 4), seed=1)
    assert run(monkeypatch, "merge", clean, other, "--out", tmp_path / "both.h5") == 0
    out = capsys.readouterr().out
    assert "132 tracks of 2 files, 66 artists" in out
    assert "24 track ids were in several files" in out  # the 12 of the smaller file, twice
    assert run(monkeypatch, "merge", clean, "--out", tmp_path / "one.h5") == 2
    assert "at least two feature files" in capsys.readouterr().err


def test_resplit_prints_what_changed(
    leaking: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    new = tmp_path / "new.h5"
    assert run(monkeypatch, "resplit", leaking, "--fractions", "0.5,0.25,0.25", "--out", new) == 0
    out = capsys.readouterr().out
    sizes = [int((read_all_columns(new).split == code).sum()) for code in range(3)]
    assert [f"40 → {size}" for size in sizes if f"40 → {size}" not in out] == []
    assert "artists in several splits: 1 before, 0 now" in out
    assert "warning" not in out


def test_resplit_by_track_warns_of_artists_on_both_sides(
    clean: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "resplit", clean, "--by", "track", "--out", tmp_path / "new.h5") == 0
    assert "warning: tracks of an artist may be on both sides" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--fractions", "most,some,few"], "expected three numbers such as 0.8,0.1,0.1"),
        (["--fractions", "0.8,0.1"], "three numbers"),
        (["--by", "none"], "expected --drop-duplicates with it"),
    ],
)
def test_resplit_explains_bad_options(
    clean: Path,
    tmp_path: Path,
    arguments: list[str],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(monkeypatch, "resplit", clean, *arguments, "--out", tmp_path / "new.h5") == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "new.h5").exists()
