"""Folders of genres: GTZAN's layout, its lists, artists from a file, and the warning where there are none."""

from pathlib import Path

import pytest

from fmasearch.corpora.folders import read_folders
from fmasearch.corpora.splitting import LEAK, leaking_artists
from fmasearch.errors import DataError
from fmasearch.tracks import Corpus


@pytest.fixture
def gtzan(tmp_path: Path) -> Path:
    """Two genres of ten empty files: nothing is opened before it is read."""
    root = tmp_path / "genres"
    for genre in ("blues", "jazz"):
        for number in range(10):
            touch(root / genre / f"{genre}.{number:05d}.wav")
    return root


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def splits_of(corpus: Corpus) -> dict[str, str]:
    return {track.track_id: track.split for track in corpus.tracks}


def test_the_folder_is_the_genre_and_the_path_is_the_id(gtzan: Path) -> None:
    corpus = read_folders(gtzan)
    assert len(corpus.tracks) == 20
    first = corpus.tracks[0]
    assert (first.track_id, first.classes) == ("blues/blues.00000.wav", {"genre": "blues"})
    assert first.source == str(gtzan / "blues" / "blues.00000.wav")


def test_a_genres_own_folders_are_searched(gtzan: Path) -> None:
    touch(gtzan / "blues" / "Album" / "CD1" / "song.mp3")
    by_id = {track.track_id: track for track in read_folders(gtzan).tracks}
    assert by_id["blues/Album/CD1/song.mp3"].classes == {"genre": "blues"}


def test_ids_are_unique_where_names_are_not(gtzan: Path) -> None:
    touch(gtzan / "blues" / "song.mp3")
    touch(gtzan / "jazz" / "song.mp3")
    touch(gtzan / "jazz" / "song.FLAC")
    ids = [track.track_id for track in read_folders(gtzan).tracks]
    assert len(ids) == len(set(ids)) == 23


def test_what_is_no_usable_audio_is_passed_over_or_named(gtzan: Path) -> None:
    for name in ("blues/._blues.00000.wav", "blues/cover.jpg", ".trash/x.wav", "blues/new.m4a", "loose.wav"):
        touch(gtzan / name)
    corpus = read_folders(gtzan)
    assert len(corpus.tracks) == 20
    assert {e.track_id: e.reason for e in corpus.excluded} == {
        "blues/new.m4a": "format .m4a: convert it to .wav or .flac",
        "loose.wav": "in no genre's folder",
    }


def test_a_random_split_is_stratified_and_warns_of_leaks(gtzan: Path) -> None:
    corpus = read_folders(gtzan)
    for genre in ("blues", "jazz"):
        found = sorted(split for track, split in splits_of(corpus).items() if track.startswith(genre))
        assert found == ["test", *["train"] * 8, "val"]
    assert corpus.notes == (f"{LEAK}; name the artists with --groups",)
    assert corpus.source.endswith("split: random")


def test_the_seed_decides_the_random_split(gtzan: Path) -> None:
    assert splits_of(read_folders(gtzan, seed=1)) == splits_of(read_folders(gtzan, seed=1))
    assert splits_of(read_folders(gtzan, seed=1)) != splits_of(read_folders(gtzan, seed=2))


def test_artists_are_kept_together(gtzan: Path, tmp_path: Path) -> None:
    lines = [f"{genre}.{n:05d},{genre} artist {n // 2}" for genre in ("blues", "jazz") for n in range(10)]
    corpus = read_folders(gtzan, groups=write(tmp_path / "artists.csv", "track,artist", *lines))
    assert corpus.tracks[3].artist == "blues artist 1"
    assert leaking_artists(corpus.tracks) == []
    assert set(splits_of(corpus).values()) == {"train", "val", "test"}
    assert corpus.notes == ()


def test_tracks_are_named_by_path_file_name_or_stem(gtzan: Path, tmp_path: Path) -> None:
    groups = write(
        tmp_path / "g.csv", "blues/blues.00000.wav,A", "blues.00001.wav,B", "jazz.00002,C", "jazz/jazz.00003.au,D"
    )
    artists = {t.track_id: t.artist for t in read_folders(gtzan, groups=groups).tracks if t.artist}
    assert artists == {
        "blues/blues.00000.wav": "A",
        "blues/blues.00001.wav": "B",
        "jazz/jazz.00002.wav": "C",
        "jazz/jazz.00003.wav": "D",
    }


def test_tracks_without_an_artist_are_counted_and_named(gtzan: Path, tmp_path: Path) -> None:
    lines = [f"blues.{n:05d},artist {n}" for n in range(10)]
    notes = read_folders(gtzan, groups=write(tmp_path / "g.csv", *lines)).notes
    assert notes[0].startswith("warning: g.csv has no artist for 10 tracks (jazz/jazz.00000.wav, ")


def test_a_name_that_two_tracks_have_is_refused(gtzan: Path, tmp_path: Path) -> None:
    touch(gtzan / "blues" / "song.mp3")
    touch(gtzan / "jazz" / "song.mp3")
    with pytest.raises(DataError, match=r"line 2: song: expected one track, got blues/song\.mp3, jazz/song\.mp3"):
        read_folders(gtzan, groups=write(tmp_path / "g.csv", "blues.00000,A", "song,B"))


def test_a_track_of_two_artists_is_refused(gtzan: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"line 2: blues/blues\.00000\.wav: expected one artist, got 'A' and 'B'"):
        read_folders(gtzan, groups=write(tmp_path / "g.csv", "blues.00000,A", "blues.00000.wav,B"))


def test_lists_decide_and_what_they_omit_is_left_out(gtzan: Path, tmp_path: Path) -> None:
    corpus = read_folders(
        gtzan,
        lists={
            "train": write(tmp_path / "train_filtered.txt", "blues/blues.00000.wav", "jazz/jazz.00000.wav"),
            "val": write(tmp_path / "valid_filtered.txt", "blues/blues.00001.wav", "", "jazz/jazz.00001.wav"),
            "test": write(tmp_path / "test_filtered.txt", "blues/blues.00002.wav", "jazz/jazz.00054.wav"),
        },
    )
    assert splits_of(corpus) == {
        "blues/blues.00000.wav": "train",
        "blues/blues.00001.wav": "val",
        "blues/blues.00002.wav": "test",
        "jazz/jazz.00000.wav": "train",
        "jazz/jazz.00001.wav": "val",
    }
    reasons = {e.track_id: e.reason for e in corpus.excluded}
    assert reasons["jazz/jazz.00009.wav"] == "on none of the split lists"
    assert reasons["jazz/jazz.00054.wav"] == "no such file (named in test_filtered.txt)"
    assert len(reasons) == 16  # 15 of 20 files, and the one that is not there
    assert "warning: test has no track of jazz" in corpus.notes
    assert not any(note.startswith(LEAK) for note in corpus.notes)


def test_a_track_on_two_lists_is_refused(gtzan: Path, tmp_path: Path) -> None:
    lists = {"train": write(tmp_path / "a", "blues.00000"), "val": write(tmp_path / "b", "blues.00001", "blues.00000")}
    with pytest.raises(DataError, match=r"line 2: .*expected in one split, got train and val"):
        read_folders(gtzan, lists=lists)


def test_lists_without_validation_are_refused(gtzan: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected one for train, val and test, got none for val"):
        read_folders(gtzan, lists={"train": write(tmp_path / "a", "blues.00000"), "val": None})


def test_artists_check_lists_that_others_made(gtzan: Path, tmp_path: Path) -> None:
    lists = {"train": write(tmp_path / "a", "blues.00000"), "val": write(tmp_path / "b", "blues.00001")}
    groups = write(tmp_path / "g.csv", "blues.00000,Ann", "blues.00001,Ann")
    notes = read_folders(gtzan, lists=lists, groups=groups).notes
    assert any("not artist-disjoint: 1 artists are in several splits (Ann)" in note for note in notes)


@pytest.mark.parametrize("lines", [("nothing/known.wav",), ("",)])
def test_a_list_that_names_no_track_is_refused(gtzan: Path, tmp_path: Path, lines: tuple[str, ...]) -> None:
    lists = {"train": write(tmp_path / "a", *lines), "val": write(tmp_path / "b", "blues.00001")}
    with pytest.raises(DataError, match=r"a: expected one track of the corpus a line"):
        read_folders(gtzan, lists=lists)


def test_a_groups_file_that_names_no_track_shows_how_it_should_look(gtzan: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected lines like `blues"):
        read_folders(gtzan, groups=write(tmp_path / "g.csv", "track,artist", "x,A"))


def test_a_line_without_an_artist_is_refused(gtzan: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"line 2: expected a track and its artist, got 'blues\.00001'"):
        read_folders(gtzan, groups=write(tmp_path / "g.csv", "blues.00000,A", "blues.00001"))


def test_a_folder_without_audio_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        read_folders(tmp_path / "nowhere")
    with pytest.raises(DataError, match="got no such file"):
        read_folders(tmp_path)
