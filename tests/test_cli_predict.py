"""`predict` as a person types it: what it prints and writes, exit codes, and model files that lie in wait."""

from __future__ import annotations

import csv
import json
import os
import pickle
from pathlib import Path

import pytest
import torch

from conftest import CLASSES, make_config, make_feature_file, run_cli
from fmasearch.model_file import save_model
from test_predicting import model_of


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Classifies `data.h5` beside it, and predicts its valence."""
    task = {"multitask": {"genre": "genre", "emotion": ["valence"]}}
    save_model(tmp_path / "model.pt", model_of(make_feature_file(tmp_path / "data.h5"), make_config(task=task)))
    return tmp_path / "model.pt"


def test_the_table_names_the_likeliest_classes_and_the_values(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli(monkeypatch, "predict", model, model.with_name("data.h5"), "--split", "test", "--top", "2") == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == ["track", "most", "likely", "2nd", "valence"]
    assert len(rows) == 8
    assert rows[0].split()[0] == "track-002"  # rows are dealt to train, val, test in turn
    assert rows[0].split()[1] in CLASSES


def test_json_has_every_class_and_goes_alone_to_standard_output(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = model.with_name("data.h5")
    assert run_cli(monkeypatch, "predict", model, data, "--json") == 0
    values = json.loads(capsys.readouterr().out)
    assert (values["model"], len(values["predictions"]), values["unusable"]) == (str(model), 40, [])
    first = values["predictions"][0]
    assert (first["file"], first["track"]) == (str(data), "track-000")
    assert first["probabilities"].keys() == set(CLASSES)
    assert sum(first["probabilities"].values()) == pytest.approx(1)


def test_csv_is_written_whole_in_the_order_of_the_models_classes(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli(monkeypatch, "predict", model, model.with_name("data.h5"), "--out", tmp_path / "p.csv") == 0
    with (tmp_path / "p.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["file", "track", "class", *(f"p({name})" for name in CLASSES), "valence", "windows"]
    for row in rows:
        assert max(CLASSES, key=lambda name: float(row[f"p({name})"])) == row["class"]
    assert capsys.readouterr().out == ""


def test_some_unusable_inputs_end_with_1_and_none_usable_with_2(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    data = model.with_name("data.h5")
    assert run_cli(monkeypatch, "predict", model, tmp_path / "empty", data, "--split", "val", "--csv") == 1
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 9  # a header and 8 tracks
    assert "empty: no audio in it" in printed.err
    assert run_cli(monkeypatch, "predict", model, tmp_path / "empty") == 2
    printed = capsys.readouterr()
    assert "none of 1 inputs could be used" in printed.err
    assert printed.out == ""


class Attack:
    """A pickle that runs a command as soon as it is read."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.witness}",)


@pytest.mark.parametrize("command", ["predict", "test", "compare"])
def test_a_model_file_that_would_run_a_command_is_refused_and_nothing_runs(
    command: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    witness, data = tmp_path / "ran", model.with_name("data.h5")
    torch.save({"format": "fmasearch-model", "config": Attack(witness)}, tmp_path / "zip.pt")
    (tmp_path / "bare.pt").write_bytes(pickle.dumps(Attack(witness)))
    for name in ("zip.pt", "bare.pt"):
        arguments = {
            "predict": [tmp_path / name, data],
            "test": [tmp_path / name, "--data", data],
            "compare": [model, tmp_path / name, "--data", data],
        }
        assert run_cli(monkeypatch, command, *arguments[command]) == 2
        assert f"{name}: is damaged, or not a model" in capsys.readouterr().err
    assert not witness.exists()
    pickle.loads((tmp_path / "bare.pt").read_bytes())  # and it is a real attack
    assert witness.exists()


def test_a_model_file_that_was_cut_short_is_refused(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = model.read_bytes()
    for length in (0, 10, len(whole) // 2, len(whole) - 1):
        model.write_bytes(whole[:length])
        assert run_cli(monkeypatch, "predict", model, model.with_name("data.h5")) == 2
        assert "is damaged, or not a model" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--json", "--csv"], "expected one of them"),
        (["--out", "p.txt"], "expected a name ending in .json or .csv"),
        (["song.mp3"], "model.pt: features/mel: cannot be computed from audio"),
        (["other.h5"], "other.h5: no such feature file"),
    ],
)
def test_bad_input_ends_with_2_before_anything_is_predicted(
    options: list[str], words: str, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(model.parent)
    assert run_cli(monkeypatch, "predict", "model.pt", "data.h5", *options) == 2
    printed = capsys.readouterr()
    assert words in printed.err
    assert printed.out == ""
