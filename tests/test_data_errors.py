"""Feature files that are refused: damaged, of another format, or without what a study asks for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from conftest import make_feature_file, spec_of
from fmasearch.data import (
    Dataset,
    DataSpec,
    content_hash,
    open_dataset,
    open_split,
    read_info,
)
from fmasearch.errors import DataError


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
    "length beyond the end": (
        put("lengths/mel", np.full(40, 25)),
        r"lengths/mel: expected 1\.\.24 frames, got 25\.\.25",
    ),
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
def test_a_damaged_file_is_one_clear_error(feature_file: Path, damage: Callable[[Path], Any], message: str) -> None:
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
