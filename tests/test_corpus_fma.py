"""FMA: its tables, its split, its broken clips, its licences, as they are published."""

import pickle
from collections import Counter
from pathlib import Path

import pytest
import soundfile

from corpora_helpers import DEFECTS, FmaFolders, audio_path, make_fma
from fmasearch.corpora.fma import AUDIO_FEATURES, BROKEN_CLIPS, TOP_GENRES, read_fma, read_fma_tracks
from fmasearch.corpora.licences import check_patterns, is_allowed, licence_code
from fmasearch.errors import DataError
from fmasearch.tracks import Corpus


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> FmaFolders:
    """24 tracks of small and medium in turn, with every defect but the artist leak."""
    planted = (*DEFECTS, "multi_root", "duplicate")
    return make_fma(tmp_path_factory.mktemp("fma"), seconds=0.5, subsets=("small", "medium"), broken=planted)


@pytest.fixture(scope="module")
def corpus(folders: FmaFolders) -> Corpus:
    return read_fma(folders.audio, folders.metadata, subset="medium")


def test_a_track_has_its_genre_artist_licence_and_official_split(folders: FmaFolders, corpus: Corpus) -> None:
    track = next(track for track in corpus.tracks if track.track_id == "2")
    # The line in tracks.csv: 2, artist 5, training, Classical, Attribution.
    assert (track.classes, track.artist, track.split) == ({"genre": "Classical"}, "5", "train")
    assert track.licence == "Attribution"
    assert track.source == str(folders.audio / "000" / "000002.mp3")


def test_the_official_split_names_become_ours(corpus: Corpus) -> None:
    # Four artists a genre, two tracks each: two train, one chooses, one judges; three genres.
    whole = Counter(t.split for t in corpus.tracks if int(t.track_id) < 100_000)
    assert whole == {"train": 12, "val": 6, "test": 6}


def test_wav_ogg_and_flac_copies_are_found_under_fmas_names(corpus: Corpus) -> None:
    suffixes = Counter(Path(t.source).suffix for t in corpus.tracks if int(t.track_id) < 100_000)
    assert suffixes == {".mp3": 6, ".wav": 6, ".ogg": 6, ".flac": 6}


def test_a_clip_known_to_be_broken_is_left_out_unopened(folders: FmaFolders, corpus: Corpus) -> None:
    reasons = {exclusion.track_id: exclusion.reason for exclusion in corpus.excluded}
    assert reasons[folders.planted["known"]] == "known to be broken in FMA: 0 s of audio"
    assert len(BROKEN_CLIPS) == 20  # the authors' 21 but for 108924, which has 27.4 of 30 s


def test_whole_tracks_are_not_condemned_for_their_clips(folders: FmaFolders) -> None:
    full = read_fma(folders.audio, folders.metadata, subset="full")
    assert folders.planted["known"] in {track.track_id for track in full.tracks}


def test_an_absent_file_is_an_exclusion_that_says_where_it_should_be(folders: FmaFolders, corpus: Corpus) -> None:
    missing = next(e for e in corpus.excluded if e.track_id == folders.planted["missing"])
    assert missing.reason == "no such file"
    assert missing.source == str(audio_path(folders.audio, int(missing.track_id)))


def test_unreadable_files_are_left_for_the_reader_to_find(folders: FmaFolders, corpus: Corpus) -> None:
    kept = {track.track_id for track in corpus.tracks}
    assert {folders.planted[name] for name in ("text", "empty", "short", "silent", "clipped")} <= kept
    assert len(corpus.excluded) == 2  # known and missing


def test_a_track_of_several_top_genres_is_kept_without_one(folders: FmaFolders, corpus: Corpus) -> None:
    track = next(t for t in corpus.tracks if t.track_id == folders.planted["multi_root"])
    assert track.classes == {}
    assert any(note.startswith("1 tracks have no single top genre") for note in corpus.notes)


def test_subsets_are_cumulative(folders: FmaFolders, corpus: Corpus) -> None:
    small = read_fma(folders.audio, folders.metadata, subset="small")
    large = read_fma(folders.audio, folders.metadata, subset="large")
    assert {t.track_id for t in small.tracks} < {t.track_id for t in corpus.tracks}
    assert {t.track_id for t in large.tracks} == {t.track_id for t in corpus.tracks}
    assert sum(int(t.track_id) < 100_000 for t in small.tracks) == 12  # every second of 24


def test_echonest_gives_targets_to_the_tracks_it_knows(corpus: Corpus) -> None:
    by_id = {track.track_id: track for track in corpus.tracks}
    assert tuple(by_id["2"].targets) == AUDIO_FEATURES
    assert by_id["2"].targets["valence"] == pytest.approx(0.46164, abs=1e-5)  # as in echonest.csv
    assert by_id["139"].targets == {}  # every second track is unknown to echonest


def test_without_echonest_there_are_genres_alone_and_a_note(tmp_path: Path) -> None:
    folders = make_fma(tmp_path, tracks=9, seconds=0.2, formats=("wav",), echonest=False)
    corpus = read_fma(folders.audio, folders.metadata)
    assert all(track.targets == {} for track in corpus.tracks)
    assert "no echonest.csv: no valence, energy or danceability" in corpus.notes


def test_the_official_split_is_verified_to_keep_artists_apart(corpus: Corpus) -> None:
    # 12 artists of music, one for each of the seven defects and extras that are kept.
    assert "official split; verified: none of the 19 artists is in two splits" in corpus.notes


def test_an_artist_in_two_splits_is_named(tmp_path: Path) -> None:
    folders = make_fma(tmp_path, tracks=9, seconds=0.2, formats=("wav",), broken=["artist_leak"])
    notes = read_fma(folders.audio, folders.metadata).notes
    assert notes[0].startswith("warning: the official split is not artist-disjoint: 1 artists")
    assert "(Artist 4)" in notes[0]  # the first Classical one, with three artists a genre


def test_a_licence_filter_leaves_out_the_others_with_their_licence(folders: FmaFolders) -> None:
    corpus = read_fma(folders.audio, folders.metadata, subset="medium", licence_filter=["by", "by-sa"])
    assert {licence_code(track.licence) for track in corpus.tracks} == {"by", "by-sa"}
    reasons = {e.track_id: e.reason for e in corpus.excluded}
    assert reasons["276"] == "licence not asked for: Attribution-Noncommercial-Share Alike 3.0 United States"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("Attribution", "by"),
        ("Attribution-ShareAlike 3.0 International", "by-sa"),
        ("Attribution-Noncommercial-Share Alike 3.0 United States", "by-nc-sa"),
        ("Attribution-NonCommercial-NoDerivatives (aka Music Sharing) 3.0 International", "by-nc-nd"),
        ("Attribution-NoDerivs 3.0", "by-nd"),
        ("/licenses/by-nc/4.0/", "by-nc"),
        ("CC BY-SA 4.0", "by-sa"),
        ("CC0 1.0 Universal", "cc0"),
        ("Public Domain Mark 1.0", "public-domain"),
        ("FMA-Limited: Download Only", None),
        ("", None),
    ],
)
def test_licences_are_recognised_however_they_are_spelt(text: str, code: str | None) -> None:
    assert licence_code(text) == code


def test_a_licence_pattern_is_a_short_form_a_glob_or_a_part() -> None:
    assert not is_allowed("Attribution-ShareAlike", ["by"])  # exactly `by`
    assert is_allowed("Attribution-ShareAlike 3.0", ["*3.0"])
    assert not is_allowed("Attribution-ShareAlike 3.0", ["*4.0", "Share*"])  # a glob matches the whole text
    assert is_allowed("FMA-Limited: Download Only", ["fma-limited"])
    assert not is_allowed("", ["*"])


@pytest.mark.parametrize("pattern", ["by-com", "CC-BY-XX", " "])
def test_a_short_form_that_does_not_exist_is_refused(pattern: str) -> None:
    with pytest.raises(DataError, match="by-nc-nd"):
        check_patterns([pattern])


def test_missing_metadata_says_what_the_archive_holds(folders: FmaFolders, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"tracks\.csv: no such file; unpack fma_metadata\.zip, which holds"):
        read_fma(folders.audio, tmp_path)


def test_a_missing_column_is_named(folders: FmaFolders, tmp_path: Path) -> None:
    text = (folders.metadata / "tracks.csv").read_text()
    (tmp_path / "tracks.csv").write_text(text.replace("genre_top", "genre", 1))
    with pytest.raises(DataError, match="column track, genre_top: expected in the header"):
        read_fma(folders.audio, tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected 2 header rows and tracks below, got 0 rows"),
        (b"\xff\xfe\x00", "expected a CSV file in UTF-8"),
        (b"PK\x03\x04", "expected 2 header rows"),  # the archive itself
    ],
)
def test_a_tracks_csv_that_is_none_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "tracks.csv").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_fma_tracks(tmp_path)


def test_a_tracks_csv_cut_short_is_refused(folders: FmaFolders, tmp_path: Path) -> None:
    text = (folders.metadata / "tracks.csv").read_text()
    (tmp_path / "tracks.csv").write_text(text[: text.rindex("line, and a second")])  # within a quoted cell
    with pytest.raises(DataError, match=r"tracks\.csv: cannot be read, is it cut short\?"):
        read_fma_tracks(tmp_path)


def test_a_filter_that_leaves_nothing_says_so(folders: FmaFolders) -> None:
    with pytest.raises(DataError, match="no track of small is left; the first: licence not asked for: Attribution"):
        read_fma(folders.audio, folders.metadata, licence_filter=["cc0"])


def test_planted_defects_are_what_they_are_called(folders: FmaFolders) -> None:
    sounds = {}
    for name in ("short", "silent", "clipped"):
        sounds[name], rate = soundfile.read(audio_path(folders.audio, int(folders.planted[name]), "wav"))
        assert rate == 22050
    assert len(sounds["short"]) == 6615  # 0.3 s
    assert not sounds["silent"].any()
    assert (abs(sounds["clipped"]) > 0.999).mean() > 0.5
    for name, size in {"empty": 0, "text": 700, "known": 700}.items():  # 20 lines of 35 letters
        assert audio_path(folders.audio, int(folders.planted[name])).stat().st_size == size


def test_an_unknown_split_is_named_with_its_track(folders: FmaFolders, tmp_path: Path) -> None:
    text = (folders.metadata / "tracks.csv").read_text()
    (tmp_path / "tracks.csv").write_text(text.replace("training", "trainig", 1))
    with pytest.raises(DataError, match="track 2: set, split: expected training, validation, test, got 'trainig'"):
        read_fma_tracks(tmp_path)


def test_a_folder_too_high_is_mended_in_the_message(folders: FmaFolders) -> None:
    with pytest.raises(DataError, match=r"none of the \d+ tracks .* did you mean .*fma_small\?"):
        read_fma(folders.audio.parent, folders.metadata)


def test_the_top_genres_are_sixteen_in_alphabetical_order() -> None:
    assert len(TOP_GENRES) == 16
    assert list(TOP_GENRES) == sorted(TOP_GENRES)


def test_a_corpus_travels_to_workers(corpus: Corpus) -> None:
    assert pickle.loads(pickle.dumps(corpus)) == corpus
