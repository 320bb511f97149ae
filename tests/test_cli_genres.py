"""Merged and dropped classes through the commands: said once, kept in the model, tested by the model's own map."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

from conftest import make_feature_file, run_cli
from fmasearch.cli.health import read_configs
from fmasearch.cli.pipeline import Interrupted
from fmasearch.study import load_plan
from test_cli import BEST, ROOT, SPACE

GENRES = "genres: {merge: {'R&B / loud': [rock, dub]}, drop: [jazz], min_tracks: 6}\n"
LINE = "genres: 4 -> 2 classes; merged R&B / loud (rock, dub); dropped jazz (by the study)"


@pytest.fixture
def trained(
    feature_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Path:
    """A model of three epochs on 12 loud and 6 folk tracks."""
    config, model = tmp_path / "best.yaml", tmp_path / "model.pt"
    config.write_text(BEST + GENRES)
    assert run_cli(monkeypatch, "train", str(config), "--data", str(feature_file), "--out", str(model)) == 0
    assert capsys.readouterr().out.splitlines()[0] == LINE
    return model


def test_a_model_is_tested_by_its_own_map(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = torch.load(trained, weights_only=True)
    assert saved["class_names"] == ["folk", "R&B / loud"]
    assert saved["genres"]["codes"] == [1, -1, 0, 1]
    other = make_feature_file(tmp_path / "other.h5", tracks=(8, 4, 12), seed=1)  # only 2 training tracks of folk
    assert run_cli(monkeypatch, "test", str(trained), "--data", str(other), "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert [(row["name"], row["support"]) for row in report["classes"]] == [("folk", 3), ("R&B / loud", 6)]
    assert report["baseline"]["accuracy"] == pytest.approx(6 / 9)
    fewer = make_feature_file(tmp_path / "fewer.h5", num_classes=3)
    assert run_cli(monkeypatch, "test", str(trained), "--data", str(fewer)) == 2
    assert "expected the model's rock, jazz, folk, dub; got rock, jazz, folk" in capsys.readouterr().err


def test_a_training_goes_on_from_a_model_of_the_same_genres(
    trained: Path,
    feature_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["train", str(tmp_path / "best.yaml"), "--data", str(feature_file), "--out", str(tmp_path / "b.pt")]
    assert run_cli(monkeypatch, *arguments, "--init-from", str(trained), "--set", "trainer/max_epochs=1") == 0
    printed = capsys.readouterr().out
    assert "29 of 29 tensors" in printed  # the last layer, too: it knows the same two classes
    assert "but others" not in printed


@pytest.mark.parametrize(
    ("genres", "message"),
    [
        ("{drop: [jaz]}", "x.yaml: genres.drop: no class 'jaz' in labels/genre of DATA; did you mean 'jazz'?"),
        ("{min_tracks: 7}", "got 4 -> 0 classes; dropped dub (6 training tracks < 7), folk (6 training tracks < 7)"),
        (
            "{merge: {a: [rock], b: [rock]}}",
            "x.yaml: genres.merge: a class may be named once, but rock is merged into a and into b",
        ),
    ],
)
@pytest.mark.parametrize("command", ["train", "tune", "overfit"])
def test_genres_that_cannot_be_made_end_with_code_2(
    command: str,
    genres: str,
    message: str,
    feature_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "x.yaml"
    file.write_text((SPACE if command == "tune" else BEST) + f"genres: {genres}\n")
    assert run_cli(monkeypatch, command, str(file), "--data", str(feature_file)) == 2
    assert message.replace("DATA", str(feature_file)) in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_configuration_with_merged_genres_is_not_taken_for_a_space(tmp_path: Path) -> None:
    (tmp_path / "best.yaml").write_text(BEST + GENRES)
    [config] = read_configs(tmp_path / "best.yaml", [])
    assert config.genres.drop == ("jazz",)
    (tmp_path / "written.yaml").write_text(json.dumps(config.model_dump(mode="json")))  # as a study writes its winner
    assert read_configs(tmp_path / "written.yaml", []) == [config]


def test_tune_says_what_it_merged_and_a_resumed_study_keeps_it(
    feature_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    def interrupt(*_: object, **__: object) -> None:
        raise Interrupted

    monkeypatch.setattr("fmasearch.cli.pipeline.run", interrupt)
    (tmp_path / "tiny.yaml").write_text(SPACE + GENRES)
    assert run_cli(monkeypatch, "tune", "tiny.yaml", "--data", str(feature_file)) == 130
    assert LINE in capsys.readouterr().out.splitlines()
    (study,) = (tmp_path / "runs").iterdir()
    genres = load_plan(study).data.genres
    assert genres is not None
    assert genres.names == ("folk", "R&B / loud")
    assert run_cli(monkeypatch, "tune", "--resume", study.name) == 130  # and no change of the data


@pytest.mark.ray
def test_a_study_of_merged_genres_goes_to_its_record(
    feature_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "tiny.yaml").write_text(SPACE + GENRES)
    smoke = str(ROOT / "search" / "smoke.yaml")
    assert run_cli(monkeypatch, "tune", "tiny.yaml", "--data", str(feature_file), "--search", smoke) == 0
    (folder,) = (tmp_path / "results").iterdir()
    page = (folder / "README.md").read_text()
    assert "| classes | folk, R&B / loud |" in page
    assert "| genres/merged/R&B / loud | rock, dub |" in page
    assert "| genres/dropped/jazz | by the study |" in page
    record = yaml.safe_load((folder / "study.yaml").read_text())
    assert record["data"]["genres"]["classes_of_the_file"] == 4
    assert "fmasearch.genres_hash" in record["tags"]
    tested = json.loads((folder / "test.json").read_text())["test"]
    assert [(row["name"], row["support"]) for row in tested["classes"]] == [("folk", 2), ("R&B / loud", 4)]
    capsys.readouterr()
    (study,) = (tmp_path / "runs").glob("*-tiny-smoke")
    assert run_cli(monkeypatch, "test", str(study / "model.pt"), "--data", str(feature_file), "--json") == 0
    assert json.loads(capsys.readouterr().out)["confusion"] == tested["confusion"]
    best = ["train", str(folder / "best.yaml"), "--data", str(feature_file), "--out", str(tmp_path / "again.pt")]
    assert run_cli(monkeypatch, *best, "--device", "cpu") == 0
    assert LINE in capsys.readouterr().out
