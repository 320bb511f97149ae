"""The course's folders: stale names, gzipped arrays, both kinds of labels, and values that cannot be."""

import gzip
import io
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from corpora_helpers import make_fma
from fmasearch.config import parse_yaml
from fmasearch.corpora.npy_files import npy_shape
from fmasearch.corpora.patrec import PATREC_GENRES, PatrecReader, genres_block, read_patrec
from fmasearch.corpora.splitting import leaking_artists
from fmasearch.errors import DataError, TrackError
from fmasearch.tracks import Track

RAW_GENRES = (
    *("Rock", "Psych-Rock", "Indie-Rock", "Post-Rock", "Psych-Folk", "Folk", "Metal", "Punk", "Post-Punk", "Trip-Hop"),
    *("Pop", "Electronic", "Hip-Hop", "Classical", "Blues", "Chiptune", "Jazz", "Soundtrack", "International"),
    "Old-Time",
)


def fused(frames: int, seed: int = 0) -> NDArray[np.float64]:
    """(140, T) float64: 128 rows of dB, 12 of chroma, as the course saved them."""
    rng = np.random.default_rng(seed)
    return np.vstack([rng.uniform(-80, 0, (128, frames)), rng.uniform(0, 1, (12, frames))])


def save(path: Path, array: NDArray[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    np.save(buffer, array)
    path.write_bytes(gzip.compress(buffer.getvalue()) if path.suffix == ".gz" else buffer.getvalue())
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """20 training and 4 test tracks of two genres; names in the label files are stale in the course's three ways."""
    folder = tmp_path / "data" / "fma_genre_spectrograms"
    for number in range(20):
        save(folder / "train" / f"{100 + number}.fused.full.npy", fused(5 + number % 4, number))
    for number in range(4):
        save(folder / "test" / f"{500 + number}.fused.full.npy", fused(4))
    train = [f"{100 + n}.fused.full.npy.gz\t{('Rock', 'Folk')[n % 2]}" for n in range(20)]
    test = [f"{500 + n}.full.fused.npy.gz\t{('Rock', 'Folk')[n % 2]}" for n in range(4)]
    (folder / "train_labels.txt").write_text("\n".join(["Id\tGenre", *train]) + "\n")
    (folder / "test_labels.txt").write_text("\n".join(["Id\tGenre", *test]) + "\n")
    return tmp_path / "data"


@pytest.fixture
def multitask(tmp_path: Path) -> Path:
    """20 labelled tracks and 3 test tracks without a label."""
    folder = tmp_path / "multi" / "multitask_dataset"
    for number in range(20):
        save(folder / "train" / f"{number}.fused.full.npy", fused(4))
    for number in (900, 901, 902):
        save(folder / "test" / f"{number}.fused.full.npy", fused(4))
    rows = [f"{n},.578,.973,{n / 20}" for n in range(20)]
    (folder / "train_labels.txt").write_text("\n".join(["Id,valence,energy,danceability", *rows]) + "\n")
    return tmp_path / "multi"


def track(path: Path) -> Track:
    return Track("1", str(path), "train")


def test_stale_names_lead_to_their_files(root: Path) -> None:
    corpus, _ = read_patrec(root)
    by_id = {t.track_id: t for t in corpus.tracks}
    assert len(by_id) == 24
    assert corpus.excluded == ()
    assert by_id["101"].classes == {"genre": "Folk"}
    assert by_id["502"].source == str(root / "fma_genre_spectrograms" / "test" / "502.fused.full.npy")


def test_the_courses_test_tracks_stay_and_validation_comes_out_of_training(root: Path) -> None:
    corpus, _ = read_patrec(root, val_fraction=0.2)
    # A fifth of 20 training tracks, evenly over both genres.
    assert Counter(t.split for t in corpus.tracks) == {"train": 16, "val": 4, "test": 4}
    assert Counter(t.classes["genre"] for t in corpus.tracks if t.split == "val") == {"Rock": 2, "Folk": 2}
    assert corpus.notes[0].startswith("warning: validation: carved from the training tracks at random")


def test_the_reader_gives_mel_and_chroma_frames_first(root: Path) -> None:
    corpus, reader = read_patrec(root)
    original = fused(5 + 3, 3)  # of track 103
    values = reader.read(next(t for t in corpus.tracks if t.track_id == "103"))
    assert {name: (v.shape, v.dtype) for name, v in values.items()} == {
        "mel": ((8, 128), np.float32),
        "chroma": ((8, 12), np.float32),
    }
    assert values["mel"][2, 7] == np.float32(original[7, 2])
    assert values["chroma"][2, 11] == np.float32(original[139, 2])


def test_the_longest_track_is_known_from_headers_alone(root: Path) -> None:
    _, reader = read_patrec(root)
    assert [spec.max_frames for spec in reader.features] == [8, 8]  # of 5..8 frames
    assert [(spec.name, spec.num_bins, spec.low, spec.high) for spec in reader.features] == [
        ("mel", 128, -80.0, 0.0),
        ("chroma", 12, 0.0, 1.0),
    ]
    assert all(value is not None for spec in reader.features for value in spec.settings.values())


def test_gzipped_arrays_are_read_as_well(tmp_path: Path) -> None:
    path = save(tmp_path / "7.fused.full.npy.gz", fused(6))
    assert npy_shape(path) == (140, 6)
    assert PatrecReader(False, 6).read(track(path))["mel"].shape == (6, 128)


def test_beat_synchronous_sets_have_names_of_their_own(root: Path) -> None:
    old = root / "fma_genre_spectrograms"
    old.rename(root / "fma_genre_spectrograms_beat")
    labels = root / "fma_genre_spectrograms_beat" / "train_labels.txt"
    labels.write_text(labels.read_text().replace(".fused.full.npy.gz", ".beatsync.fused.npy.gz"))
    corpus, reader = read_patrec(root)
    assert (corpus.name, len(corpus.tracks)) == ("patrec_genre_beat", 24)
    assert [spec.name for spec in reader.features] == ["mel_beat", "chroma_beat"]
    assert "hop_length" not in reader.features[0].settings


def test_multitask_labels_are_numbers_and_its_test_tracks_are_unused(multitask: Path) -> None:
    corpus, _ = read_patrec(multitask, val_fraction=0.2)
    by_id = {t.track_id: t for t in corpus.tracks}
    assert by_id["5"].targets == {"valence": 0.578, "energy": 0.973, "danceability": 0.25}
    assert by_id["900"].split == "unused"
    # No labels in the course's test set, so a fifth each of the 20 chooses and judges.
    assert Counter(t.split for t in corpus.tracks) == {"train": 12, "val": 4, "test": 4, "unused": 3}


def test_artists_from_fma_keep_together(root: Path, tmp_path: Path) -> None:
    metadata = artists_csv(tmp_path, {100 + n: n // 4 for n in range(20)} | {500: 77, 501: 77, 502: 78, 503: 0})
    corpus, _ = read_patrec(root, fma_metadata=metadata)
    carved = [t for t in corpus.tracks if t.split in ("train", "val")]
    assert leaking_artists(carved) == []
    assert len({t.artist for t in carved if t.split == "val"}) == 1  # of five artists of four tracks each
    assert "validation: carved from the training tracks by artist" in corpus.notes
    assert "warning: 1 artists of the course's test tracks are among its training tracks, too" in corpus.notes


def artists_csv(folder: Path, artists: dict[int, int]) -> Path:
    """FMA's tracks.csv of these tracks; rows are made out of the helper's first one."""
    text = (make_fma(folder, tracks=9, seconds=0.1, formats=("wav",)).metadata / "tracks.csv").read_text()
    head = text.splitlines()[:3]
    rows = [f"{number},info,{artist},Name,training,small,168,Rock,Attribution" for number, artist in artists.items()]
    (folder / "meta").mkdir()
    (folder / "meta" / "tracks.csv").write_text("\n".join([*head, *rows]) + "\n")
    return folder / "meta"


def test_labels_without_arrays_and_arrays_without_labels_are_left_out(root: Path) -> None:
    train = root / "fma_genre_spectrograms" / "train"
    (train / "100.fused.full.npy").unlink()
    save(train / "999.fused.full.npy", fused(4))
    save(train / "500.fused.full.npy", fused(4))  # a test track
    labels = train.parent / "train_labels.txt"
    labels.write_text(labels.read_text() + "500.fused.full.npy.gz\tRock\n")
    corpus, _ = read_patrec(root)
    assert {e.track_id: e.reason for e in corpus.excluded} == {
        "100": "no such file",
        "999": "no label in train_labels.txt",
        "500": "also among the test tracks, and kept there",
    }
    assert next(t for t in corpus.tracks if t.track_id == "500").split == "test"


def test_several_data_sets_want_a_choice(root: Path, multitask: Path) -> None:
    (multitask / "multitask_dataset").rename(root / "multitask_dataset")
    with pytest.raises(DataError, match=r"expected one data set, got genre, multitask; choose one with --dataset"):
        read_patrec(root)
    assert read_patrec(root, dataset="multitask")[0].name == "patrec_multitask"
    with pytest.raises(DataError, match=r"expected the folder multitask_dataset_beat .*, got genre, multitask"):
        read_patrec(root, dataset="multitask_beat")


def test_a_data_set_is_found_by_itself_and_inside_wrappings(root: Path) -> None:
    assert len(read_patrec(root / "fma_genre_spectrograms")[0].tracks) == 24
    assert len(read_patrec(root.parent)[0].tracks) == 24
    moved = (root / "fma_genre_spectrograms").rename(root / "mine")
    assert read_patrec(moved)[0].name == "patrec_genre"


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (fused(6)[:128], r"expected an array of \(140, frames\), got \(128, 6\)"),
        (fused(6).T, r"got \(6, 140\)"),
        (fused(6)[:, :0], r"got \(140, 0\)"),
        (np.where(np.arange(6) == 3, np.nan, fused(6)), "mel: 128 values are NaN or infinite"),
        (fused(6) + 1.0, r"mel: expected values in -80..0, got "),
        (np.vstack([fused(6)[:128], 2 * np.ones((12, 6))]), r"chroma: expected values in 0..1, got 2..2"),
        (np.vstack([np.zeros((128, 6)), fused(6)[128:]]), "silent: every value is 0"),
        (fused(6).astype(np.int64), "expected floating-point numbers, got int64"),
    ],
)
def test_an_array_that_cannot_be_is_a_track_error(tmp_path: Path, array: NDArray[Any], reason: str) -> None:
    path = save(tmp_path / "1.fused.full.npy", array)
    with pytest.raises(TrackError, match=reason):
        PatrecReader(False, None).read(track(path))


@pytest.mark.parametrize("suffix", [".npy", ".npy.gz"])
def test_damaged_files_are_track_errors(tmp_path: Path, suffix: str) -> None:
    whole = save(tmp_path / f"whole{suffix}", fused(6)).read_bytes()
    for name, content in {"cut": whole[: len(whole) // 2], "text": b"<html>404</html>", "empty": b""}.items():
        path = tmp_path / f"{name}{suffix}"
        path.write_bytes(content)
        with pytest.raises(TrackError, match=r"not a \.npy array, or damaged"):
            PatrecReader(False, None).read(track(path))
    with pytest.raises(TrackError, match="no such file"):
        PatrecReader(False, None).read(track(tmp_path / "absent.npy"))


def test_damaged_headers_are_no_hindrance_to_the_scan(root: Path) -> None:
    for path in sorted((root / "fma_genre_spectrograms" / "train").iterdir())[:3]:
        path.write_bytes(b"")
    corpus, reader = read_patrec(root)
    assert (len(corpus.tracks), reader.max_frames) == (24, 8)


def test_a_label_line_that_is_none_is_named(root: Path) -> None:
    labels = root / "fma_genre_spectrograms" / "train_labels.txt"
    labels.write_text(labels.read_text().replace("102.fused.full.npy.gz\tRock", "102.fused.full.npy.gz Rock"))
    with pytest.raises(DataError, match="line 4: expected <name><TAB><genre>, got '102"):
        read_patrec(root)


def test_a_multitask_header_and_its_numbers_are_checked(multitask: Path) -> None:
    labels = multitask / "multitask_dataset" / "train_labels.txt"
    text = labels.read_text()
    labels.write_text(text.replace("7,.578", "7,high"))
    with pytest.raises(DataError, match="line 9: expected an id and three numbers, got '7,high"):
        read_patrec(multitask)
    labels.write_text(text.replace("energy", "arousal"))
    with pytest.raises(DataError, match="line 1: expected Id,valence,energy,danceability, got 'Id,valence,arousal"):
        read_patrec(multitask)


@pytest.mark.parametrize("fraction", [0.0, 0.5])
def test_a_validation_fraction_leaves_something_to_train_on(root: Path, fraction: float) -> None:
    with pytest.raises(DataError, match=r"more than 0 and less than 0\.5"):
        read_patrec(root, val_fraction=fraction)


def test_twenty_genres_become_the_courses_ten() -> None:
    target = {old: new for new, olds in PATREC_GENRES.merge.items() for old in olds}
    left = sorted({target.get(genre, genre) for genre in RAW_GENRES if genre not in PATREC_GENRES.drop})
    assert left == ["Blues", "Classical", "Electronic", "Folk", "Hip-Hop", "Jazz", "Metal", "Pop", "Rock", "Trip-Hop"]


def test_the_merge_is_written_as_a_block_that_a_space_can_hold() -> None:
    block = parse_yaml(genres_block(), source="genres")["genres"]
    assert {new: tuple(old) for new, old in block["merge"].items()} == PATREC_GENRES.merge
    assert tuple(block["drop"]) == PATREC_GENRES.drop


def test_corpus_and_reader_travel_to_workers(root: Path) -> None:
    found = read_patrec(root)
    assert pickle.loads(pickle.dumps(found)) == found
