"""Numeric labels in a split: own units, standardised by train alone, NaN where there is none, one error if unusable."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from conftest import make_config, make_feature_file, run_cli, spec_of
from fmasearch.config import GenresConfig
from fmasearch.data import DataSpec, check_labels, merge_splits, model_shape, open_dataset, open_split, read_info
from fmasearch.errors import ConfigError, DataError

SPACE = """
task: TASK
model: {architecture: stats, hidden_dim: 4}
optimizer: {learning_rate: {float: [1e-3, 1e-2]}}
"""


def column(path: Path, name: str, split: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """Labels as they stand in the file, of one split's rows."""
    with h5py.File(path) as file:
        values: np.ndarray[tuple[int], np.dtype[np.float32]] = file[f"labels/{name}"][()][file["split"][()] == split]
    return values


def set_labels(path: Path, name: str, split: int, value: float) -> None:
    with h5py.File(path, "r+") as file:
        values = file[f"labels/{name}"][()]
        values[file["split"][()] == split] = value
        file[f"labels/{name}"][...] = values


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """40 tracks with valence and energy; rows are dealt to train, val and test in turn while all have tracks left."""
    return make_feature_file(tmp_path / "a.h5", targets=["energy"], missing={"energy": [0, 3, 4], "valence": [0, 6]})


# --- as tensors ------------------------------------------------------------------------------------------------------


def test_targets_are_the_files_values_in_their_own_unit(path: Path) -> None:
    test = open_split(
        spec_of(path, label=None, targets=["energy", "valence"]), "test", open_dataset(spec_of(path)).normalisers
    )
    assert test.targets_N.dtype is torch.float32
    assert np.array_equal(test.targets_N[:, 0], column(path, "energy", 2))  # in the order asked for
    assert np.array_equal(test.targets_N[:, 1], column(path, "valence", 2))


def test_a_class_comes_before_the_numbers_and_is_nan_if_unknown(tmp_path: Path) -> None:
    path = make_feature_file(tmp_path / "a.h5", unlabelled=[3])
    train = open_dataset(spec_of(path, targets=["valence"])).train
    # Row 3 is the second track of train; classes take turns.
    assert train.targets_N.shape == (24, 2)
    assert train.targets_N[:4, 0].nan_to_num(-1).tolist() == [0, -1, 2, 3]
    assert np.array_equal(train.targets_N[:, 1], column(path, "valence", 0))


def test_a_track_with_any_label_stays_and_one_without_is_left_out(path: Path) -> None:
    dataset = open_dataset(spec_of(path, label=None, targets=["valence", "energy"]))
    assert len(dataset.train) == 23  # row 0 has neither
    assert "track-000" not in dataset.train.track_ids
    assert dataset.train.targets_N.isnan().sum(0).tolist() == [1, 1]  # rows 6 and 3; row 4 is of val
    assert dataset.val is not None
    assert dataset.val.targets_N.isnan().sum(0).tolist() == [0, 1]
    assert len(open_dataset(spec_of(path, targets=["valence", "energy"])).train) == 24  # row 0 has a class


def test_an_infinite_label_is_none(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["labels/valence"][3] = np.inf
    train = open_dataset(spec_of(path, targets=["valence"])).train
    assert train.targets_N[:, 1].isnan().sum() == 3  # rows 0 and 6, too


def test_the_training_classes_of_a_multitask_are_those_that_are_known(tmp_path: Path) -> None:
    path = make_feature_file(tmp_path / "a.h5", unlabelled=[3])
    assert open_dataset(spec_of(path, targets=["valence"])).train_classes().bincount().tolist() == [6, 5, 6, 6]
    assert open_dataset(spec_of(path)).train_classes().bincount().tolist() == [6, 5, 6, 6]
    assert open_dataset(spec_of(path, label=None, targets=["valence"])).train_classes().tolist() == []


def test_merged_splits_keep_their_numbers(path: Path) -> None:
    dataset = open_dataset(spec_of(path, label=None, targets=["valence"]))
    assert dataset.val is not None
    merged = merge_splits("train+val", (dataset.train, dataset.val))
    assert np.array_equal(merged.targets_N[:22], dataset.train.targets_N)  # of 24 without rows 0 and 6
    assert np.array_equal(merged.targets_N[22:], dataset.val.targets_N)


def test_a_track_of_a_dropped_class_stays_for_its_numbers(path: Path) -> None:
    genres = GenresConfig(merge={"loud": ("rock", "dub")}, drop=("jazz",))
    spec = DataSpec.of(path, features=("mel",), label="genre", targets=("valence",), genres=genres)
    train = open_dataset(spec).train
    # rock, jazz, folk, dub in turn: loud is 1, folk is 0; row 0, of rock, has no valence but a class.
    assert len(train) == 24
    assert train.targets_N[:4, 0].nan_to_num(-1).tolist() == [1, -1, 0, 1]
    assert open_dataset(spec).class_names == ("folk", "loud")


def test_numbers_alone_have_no_classes_to_merge_or_drop(path: Path) -> None:
    with pytest.raises(ConfigError, match=r"a\.yaml: genres: the task has no classes to merge or drop"):
        DataSpec.of(
            path,
            features=("mel",),
            label=None,
            targets=("energy",),
            genres=GenresConfig(drop=("jazz",)),
            source="a.yaml",
        )


# --- standardised ----------------------------------------------------------------------------------------------------


def test_targets_are_standardised_by_the_training_tracks_that_have_them(path: Path) -> None:
    valence, energy = open_dataset(spec_of(path, targets=["valence", "energy"])).targets
    assert (valence.name, energy.name) == ("valence", "energy")
    for stats in (valence, energy):
        known = column(path, stats.name, 0).astype(np.float64)
        known = known[~np.isnan(known)]
        assert len(known) == 22
        assert (stats.mean, stats.std) == pytest.approx((known.mean(), known.std()))


def test_val_and_test_decide_nothing_about_the_standardisation(path: Path) -> None:
    before = open_dataset(spec_of(path, targets=["valence"])).targets
    set_labels(path, "valence", 2, 1e6)
    with h5py.File(path, "r+") as file:
        file["labels/valence"][...] = file["labels/valence"][()] * np.where(file["split"][()] == 1, 50, 1)
    assert open_dataset(spec_of(path, targets=["valence"])).targets == before


# --- what cannot be used ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize(("value", "got"), [(0.5, "tracks, all with 0.5"), (np.nan, "no track with a value")])
def test_a_target_without_different_values_is_an_error(path: Path, split: str, value: float, got: str) -> None:
    set_labels(path, "energy", ["train", "val"].index(split), value)
    spec = spec_of(path, targets=["energy"])
    with pytest.raises(
        DataError, match=rf"a\.h5: labels/energy: expected different values in the {split} split, got .*{got}"
    ):
        open_dataset(spec)
    with pytest.raises(DataError, match="leave it out of the task, or split the file again"):
        check_labels(spec)


@pytest.mark.parametrize("split", ["train", "val"])
def test_classes_beside_targets_need_tracks_that_have_one(path: Path, split: str) -> None:
    set_labels(path, "genre", ["train", "val"].index(split), -1)
    with pytest.raises(DataError, match=rf"a\.h5: labels/genre: no track of the {split} split has a label"):
        open_dataset(spec_of(path, targets=["valence"]))


def test_a_test_split_that_lacks_a_label_can_be_opened(path: Path) -> None:
    set_labels(path, "energy", 2, np.nan)
    spec = spec_of(path, targets=["energy"])
    assert open_split(spec, "test", open_dataset(spec).normalisers).targets_N[:, 1].isnan().all()


@pytest.mark.parametrize(
    ("label", "targets", "words"),
    [
        (None, ["genre"], r"labels/genre: expected numbers to predict, got class labels: .*classification: genre"),
        ("valence", [], r"labels/valence: expected class labels.*got a regression target: .*regression: \[valence\]"),
        (None, ["valance"], r"labels/valance: no such label; did you mean 'valence'"),
        ("genre", ["tempo"], r"labels/tempo: no such label; known here: energy, valence"),
    ],
)
def test_a_label_of_another_kind_is_named(path: Path, label: str | None, targets: list[str], words: str) -> None:
    with pytest.raises(DataError, match=r"a\.h5: " + words):
        spec_of(path, label=label, targets=targets)


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("{regression: [energy]}", "labels/energy: expected different values in the train split, got 24 tracks"),
        ("{multitask: {a: valence, b: [energy]}}", "labels/valence: expected class labels"),
        ("{multitask: {a: genre, b: [genres]}}", "labels/genres: no such label"),
        ("{multitask: {a: genre, b: [genre]}}", "task: expected every label once, got genre, genre"),
    ],
)
def test_a_study_of_unusable_labels_ends_with_one_error_before_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], task: str, words: str
) -> None:
    path = make_feature_file(tmp_path / "a.h5", targets=["energy"])
    set_labels(path, "energy", 0, 0.5)
    (tmp_path / "space.yaml").write_text(SPACE.replace("TASK", task))
    monkeypatch.chdir(tmp_path)
    assert run_cli(monkeypatch, "tune", "space.yaml", "--data", path) == 2
    printed = capsys.readouterr().err
    assert words in printed
    assert printed.count("error: ") == 1
    assert not (tmp_path / "runs").exists()


# --- as plain values -------------------------------------------------------------------------------------------------


def test_a_spec_survives_json(path: Path) -> None:
    spec = spec_of(path, label=None, targets=["energy", "valence"])
    assert DataSpec.from_json(spec.to_json()) == spec
    assert DataSpec.from_json(asdict(spec)) == spec


def test_a_spec_of_before_there_were_targets_is_read(path: Path) -> None:
    values = spec_of(path).to_json()
    del values["targets"]
    assert DataSpec.from_json(values) == spec_of(path)


def test_a_model_has_an_output_for_every_class_and_target(path: Path) -> None:
    tasks = {"genre": {"classification": "genre"}, "numbers": {"regression": ["valence", "energy"]}}
    tasks["both"] = {"multitask": {"genre": "genre", "mood": ["valence"], "power": ["energy"]}}
    outputs = {name: model_shape(read_info(path), make_config(task=task))["output_dim"] for name, task in tasks.items()}
    assert outputs == {"genre": 4, "numbers": 2, "both": 6}
