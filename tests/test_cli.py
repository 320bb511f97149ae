"""The commands as a person types them: what they print, and how bad input ends."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console

from conftest import make_feature_file, run_cli
from fmasearch.cli.looks import read_looks
from fmasearch.cli.studies import read_files
from fmasearch.study import load_plan

ROOT = Path(__file__).parents[1]
SPACE = """
description: a test space
features: [mel]
task: {classification: genre}
model: {architecture: cnn_lstm, hidden_dim: {choice: [2, 4]}, num_layers: 1, rnn_dim: 4}
optimizer: {learning_rate: {float: [1e-3, 1e-2], log: true}}
trainer: {batch_size: 8}
known_good: {first: {optimizer/learning_rate: 5e-3}}
"""
BEST = """
features: [mel]
task: {classification: genre}
model: {architecture: cnn_lstm, hidden_dim: 4, num_layers: 1, rnn_dim: 4}
optimizer: {learning_rate: 1e-2}
trainer: {batch_size: 8, max_epochs: 3}
"""


@pytest.fixture
def space_file(tmp_path: Path) -> Path:
    file = tmp_path / "tiny.yaml"
    file.write_text(SPACE)
    return file


def test_help_names_every_command_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['fmasearch', '--help']\n"
        "from fmasearch.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'ray', 'mlflow', 'optuna', 'pydantic', 'numpy', 'h5py'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for command in ("tune", "train", "overfit", "test", "spaces", "data", "ui", "demo", "version"):
        assert command in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["tune"], ["expected a space and a feature file", "fmasearch tune spaces/cnn_gru.yaml --data"]),
        (["tune", "no.yaml", "--data", "no.h5"], ["no.yaml", "cannot be read"]),
        (["tune", "SPACE", "--data", "no.h5"], ["no.h5", "no such feature file", "fmasearch demo"]),
        (["tune", "SPACE", "--data", "DATA", "--search", "no.yaml"], ["no.yaml", "cannot be read"]),
        (["tune", "SPACE", "--data", "DATA", "--set", "trails=3"], ["trails", "unknown key", "num_trials"]),
        (["tune", "SPACE", "--data", "DATA", "--set", "seed"], ["--set seed", "section/key=value"]),
        (["tune", "SPACE", "--data", "DATA", "--trials", "0"], ["num_trials", "greater than or equal to 1", "got 0"]),
        (
            ["tune", "SPACE", "--data", "DATA", "--set", "sampler/name=grid"],
            ["learning_rate", "give a step or a choice"],
        ),
        (["tune", "--resume", "gone"], ["gone", "no such study"]),
        (["tune", "SPACE", "--data", "DATA", "--max-parameters", "many"], ["--max-parameters: expected a number"]),
        (["tune", "SPACE", "--data", "DATA", "--max-parameters", "10"], ["parameters <= 10 must hold", "at the least"]),
        (["tune", "SWEEP", "--data", "DATA"], ["sweep.yaml: which architecture does this sweep train?"]),
        (["spaces", "convert", "SPACE"], ["tiny.yaml: not a W&B sweep"]),
        (["train", "SPACE", "--data", "DATA"], ["description", "unknown key"]),
        (["tune", "SPACE", "--data", "DATA", "--init-from", "no.pt"], ["no.pt", "no such model file"]),
        (["overfit", "SPACE", "no.yaml", "--data", "DATA"], ["no.yaml", "cannot be read"]),
        (["overfit", "SPACE", "--data", "DATA", "--set", "model/rnn_dims=3"], ["rnn_dims", "did you mean 'rnn_dim'?"]),
        (["test", "no.pt", "--data", "DATA"], ["no.pt", "no such model file"]),
        (["data", "info", "SPACE"], ["tiny.yaml", "not an HDF5 file"]),
        (["spaces", "list", "NOWHERE"], ["no space files here"]),
        (["ui", "--runs", "NOWHERE"], ["no study has been tracked here"]),
    ],
)
def test_bad_input_ends_with_one_message_and_code_2(
    arguments: list[str],
    words: list[str],
    space_file: Path,
    feature_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sweep.yaml").write_text("{method: random, parameters: {lr: {value: 0.1}}}")
    stand_ins = {"SPACE": str(space_file), "DATA": str(feature_file), "NOWHERE": str(tmp_path / "nowhere")}
    stand_ins["SWEEP"] = str(tmp_path / "sweep.yaml")
    assert run_cli(monkeypatch, *(stand_ins.get(a, a) for a in arguments)) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ")
    assert "Traceback" not in printed.err + printed.out
    for word in words:
        assert word in printed.err
    assert not (tmp_path / "runs").exists()  # nothing was started


def test_a_space_whose_models_cannot_be_built_is_refused_before_anything_starts(
    tmp_path: Path, feature_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text(SPACE.replace("rnn_dim: 4", "rnn_dims: 4"))
    monkeypatch.chdir(tmp_path)
    assert run_cli(monkeypatch, "tune", str(file), "--data", str(feature_file)) == 2
    assert "did you mean 'rnn_dim'?" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_spaces_are_listed_shown_and_checked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], feature_file: Path
) -> None:
    assert run_cli(monkeypatch, "spaces", "list", str(ROOT / "spaces")) == 0
    listed = capsys.readouterr().out
    assert "cnn_gru.yaml" in listed
    assert "C1, C2, C3" in listed
    assert run_cli(monkeypatch, "spaces", "show", str(ROOT / "spaces" / "cnn_bilstm.yaml")) == 0
    shown = capsys.readouterr().out
    assert "optimizer/learning_rate" in shown
    assert "known good C7" in shown
    files = [str(ROOT / "spaces" / f"{name}.yaml") for name in ("cnn_gru", "stats")]  # test_yaml_files builds them all
    assert run_cli(monkeypatch, "spaces", "check", *files, "--data", str(feature_file)) == 0
    assert capsys.readouterr().out.count("ok ") == len(files)


SWEEP = """
method: random
metric: {name: val_accuracy, goal: maximize}
parameters:
  lr: {values: [1e-3, 1e-2]}
  rnn_dim: {value: 4}
  n_mels: {value: 128}
  epochs: {value: 20}
"""


def test_a_ceiling_is_shown_and_checked(
    space_file: Path, feature_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    space_file.write_text(SPACE + "constraints: {parameters: '<= 5M'}\n")
    assert run_cli(monkeypatch, "spaces", "show", str(space_file)) == 0
    assert "constraint: parameters <= 5,000,000" in capsys.readouterr().out
    assert run_cli(monkeypatch, "spaces", "check", str(space_file)) == 0
    assert "2 searched keys, parameters <= 5,000,000" in capsys.readouterr().out
    assert run_cli(monkeypatch, "spaces", "check", str(space_file), "--data", str(feature_file)) == 0
    assert "(parameters <= 5,000,000 rejects 0 of 200 samples)" in capsys.readouterr().out


def test_a_sweep_is_converted_into_a_space_file(
    tmp_path: Path, feature_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep, out = tmp_path / "cnn_lstm.yaml", tmp_path / "mine" / "space.yaml"
    sweep.write_text(SWEEP)
    assert run_cli(monkeypatch, "spaces", "convert", str(sweep), "--out", str(out)) == 0
    printed = capsys.readouterr().out
    assert "not translated: n_mels: no such setting here" in printed
    settings = "--set sampler/name=random --set max_epochs=20 --set scheduler/name=none"
    assert f"tune {out} --data FILE {settings}" in printed
    assert run_cli(monkeypatch, "spaces", "convert", str(sweep)) == 0
    assert capsys.readouterr().out == out.read_text()
    assert run_cli(monkeypatch, "spaces", "check", str(out), "--data", str(feature_file)) == 0


def test_a_sweep_brings_its_own_search_unless_a_file_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = tmp_path / "cnn_lstm.yaml"
    sweep.write_text(SWEEP)
    space, name, search = read_files(sweep, None, ["max_epochs=3"], Console())
    assert (space.name, name, search.sampler.name, search.max_epochs) == ("cnn_lstm", "sweep", "random", 3)
    _, name, search = read_files(sweep, ROOT / "search" / "smoke.yaml", [], Console(width=200))
    assert (name, search.sampler.name, search.max_epochs) == ("smoke", "tpe", 2)
    assert "not translated: sampler/name=random, max_epochs=20, scheduler/name=none:" in capsys.readouterr().out


def test_data_info_counts_tracks_classes_and_artists(
    feature_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli(monkeypatch, "data", "info", str(feature_file)) == 0
    text = capsys.readouterr().out
    assert "40 tracks (24 train, 8 val, 8 test)" in text
    assert ["rock", "6", "2", "2", "10"] in [line.split() for line in text.splitlines()]
    assert run_cli(monkeypatch, "data", "info", str(feature_file), "--json") == 0
    assert json.loads(capsys.readouterr().out)["split_counts"] == {"train": 24, "val": 8, "test": 8}


def test_train_saves_a_model_that_test_judges(
    feature_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config, model = tmp_path / "best.yaml", tmp_path / "out" / "model.pt"
    config.write_text(BEST)
    arguments = ["train", str(config), "--data", str(feature_file), "--out", str(model), "--device", "cpu"]
    assert run_cli(monkeypatch, *arguments, "--set", "trainer/max_epochs=2") == 0
    printed = capsys.readouterr().out
    assert "epoch   2" in printed
    assert "epoch   3" not in printed
    assert torch.load(model, weights_only=True)["config"]["trainer"]["max_epochs"] == 2
    assert run_cli(monkeypatch, "test", str(model), "--data", str(feature_file), "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["num_tracks"] == 8
    assert [row["name"] for row in report["classes"]] == ["rock", "jazz", "folk", "dub"]
    assert run_cli(monkeypatch, "test", str(model), "--data", str(feature_file), "--split", "val") == 0
    assert "val split: 8 tracks" in capsys.readouterr().out


def test_a_model_refuses_data_of_other_classes(
    feature_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config, model = tmp_path / "best.yaml", tmp_path / "model.pt"
    config.write_text(BEST.replace("max_epochs: 3", "max_epochs: 1"))
    run_cli(monkeypatch, "train", str(config), "--data", str(feature_file), "--out", str(model), "--device", "cpu")
    other = make_feature_file(tmp_path / "other.h5", num_classes=3)
    assert run_cli(monkeypatch, "test", str(model), "--data", str(other)) == 2
    assert "expected the model's rock, jazz, folk, dub; got rock, jazz, folk" in capsys.readouterr().err


def test_overfit_batch_says_whether_the_model_is_healthy(
    feature_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "best.yaml"
    config.write_text(BEST)
    arguments = ["train", str(config), "--data", str(feature_file), "--overfit-batch", "--device", "cpu"]
    arguments += ["--set", "model/hidden_dim=16", "--set", "model/rnn_dim=16"]
    assert run_cli(monkeypatch, *arguments) == 0
    assert "16 tracks memorised" in capsys.readouterr().out
    assert run_cli(monkeypatch, *arguments, "--set", "optimizer/learning_rate=1e-7") == 1
    assert "could not memorise 16 tracks" in capsys.readouterr().err


@pytest.fixture
def trained(feature_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model of three epochs."""
    config, model = tmp_path / "best.yaml", tmp_path / "trained.pt"
    config.write_text(BEST)
    arguments = ["train", str(config), "--data", str(feature_file), "--out", str(model), "--device", "cpu"]
    assert run_cli(monkeypatch, *arguments) == 0
    return model


def test_train_goes_on_from_the_weights_of_a_model(
    trained: Path,
    feature_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "tuned.pt"
    arguments = ["train", str(tmp_path / "best.yaml"), "--data", str(feature_file), "--device", "cpu"]
    arguments += ["--out", str(out), "--set", "trainer/max_epochs=1", "--set", "transfer/freeze=backbone"]
    monkeypatch.chdir(tmp_path)
    assert run_cli(monkeypatch, *arguments, "--init-from", trained.name) == 0
    # three blocks of 7 tensors, an LSTM of 4, a head of 4
    line = f"starts from {trained}: 29 of 29 tensors, 100 % of the backbone; frozen: backbone"
    assert line in capsys.readouterr().out
    before, after = (torch.load(file, weights_only=True) for file in (trained, out))
    assert after["config"]["transfer"] == {"init_from": str(trained), "freeze": "backbone"}
    same = {name for name, tensor in before["weights"].items() if torch.equal(tensor, after["weights"][name])}
    assert same == {name for name in before["weights"] if name.startswith("backbone.")}
    assert run_cli(monkeypatch, *arguments, "--out", str(trained), "--init-from", str(trained)) == 2
    assert "is the model that training starts from" in capsys.readouterr().err


def test_tune_refuses_a_start_that_some_trials_cannot_make_and_keeps_one_that_all_can(
    trained: Path,
    feature_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fmasearch.cli.studies.run_study", lambda plan, folders, console, **_: Path())  # no search
    space = tmp_path / "tiny.yaml"
    arguments = ["tune", str(space), "--data", str(feature_file), "--init-from", "trained.pt"]
    space.write_text(SPACE)
    assert run_cli(monkeypatch, *arguments) == 2
    assert "hidden_dim 4 there, 2 here" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
    space.write_text(SPACE.replace("{choice: [2, 4]}", "4"))
    assert run_cli(monkeypatch, *arguments) == 0
    assert f"starts from {trained}: 29 of 29 tensors" in capsys.readouterr().out
    (study,) = (tmp_path / "runs").iterdir()
    assert f'transfer: {{init_from: "{trained}"}}' in load_plan(study).space.text
    trained.unlink()
    assert run_cli(monkeypatch, "tune", "--resume", study.name) == 2
    assert "trained.pt: no such model file" in capsys.readouterr().err


def test_overfit_checks_one_configuration_of_each_file(
    space_file: Path,
    feature_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = tmp_path / "best.yaml"
    config.write_text(BEST.replace("cnn_lstm", "cnn_gru"))
    arguments = ["overfit", str(space_file), str(config), "--data", str(feature_file), "--device", "cpu"]
    arguments += ["--set", "model/hidden_dim=16", "--set", "model/rnn_dim=16", "--set", "optimizer/learning_rate=1e-2"]
    assert run_cli(monkeypatch, *arguments) == 0
    first, second = capsys.readouterr().out.splitlines()[-2:]
    assert first.split()[:2] == ["tiny", "cnn_lstm"]
    assert second.split()[:2] == ["best", "cnn_gru"]
    assert first.endswith("healthy")
    assert second.endswith("healthy")
    assert run_cli(monkeypatch, *arguments, "--steps", "2") == 1
    printed = capsys.readouterr().out
    assert "tiny: not healthy, step 2" in printed
    assert "best: the loss" in printed  # and what is likely to be wrong


@pytest.mark.ray
def test_tune_goes_from_a_space_to_a_results_folder(
    space_file: Path,
    feature_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    smoke = str(ROOT / "search" / "smoke.yaml")
    assert run_cli(monkeypatch, "tune", str(space_file), "--data", str(feature_file), "--search", smoke) == 0
    printed = capsys.readouterr().out
    assert "[4/4]" in printed
    assert "test accuracy: " in printed
    assert " ui shows every trial" in printed
    (folder,) = (tmp_path / "results").iterdir()
    assert folder.name.endswith("-tiny-smoke")
    names = {file.name for file in folder.iterdir()}
    assert {"README.md", "study.yaml", "trials.jsonl", "best.yaml", "test.json"} <= names
    assert {"learning_curves.png", "confusion_matrix.svg"} <= names
    assert len((folder / "trials.jsonl").read_text().splitlines()) == 4
    (study,) = (tmp_path / "runs").glob("*-tiny-smoke")
    assert run_cli(monkeypatch, "test", str(study / "model.pt"), "--data", str(feature_file), "--json") == 0
    again, first = json.loads(capsys.readouterr().out), json.loads((folder / "test.json").read_text())["test"]
    assert again["confusion"] == first["confusion"]  # the saved model is the one that was tested
    assert [look.by for look in read_looks(study)] == ["test"]
    assert "looked at once more" in (folder / "README.md").read_text()
    assert len(list((study / "confirm").iterdir())) == 2  # what two seeds said of the validation tracks
    best = ["train", str(folder / "best.yaml"), "--data", str(feature_file), "--out", str(tmp_path / "again.pt")]
    assert run_cli(monkeypatch, *best, "--device", "cpu") == 0
    assert run_cli(monkeypatch, "tune", "--resume", study.name) == 2
    assert "is finished" in capsys.readouterr().err
