"""`test --out`: the folder with the report and its pictures, and that they show what was measured."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from conftest import make_config, make_feature_file, run_cli
from fmasearch.metrics import reliability_bins
from fmasearch.model_file import save_model
from fmasearch.records import ClassScore, TestReport
from fmasearch.report.test_pictures import class_scores, confusion_shares, reliability, scatter
from test_predicting import model_of

OF_CLASSES = {"confusion_matrix", "confusion_matrix_normalised", "class_f1", "reliability"}
REPORT = TestReport(
    split="test",
    num_tracks=7,
    metrics={"accuracy": 5 / 7},
    intervals={},
    resampled_by="track",
    classes=(
        ClassScore("Folk", 3 / 5, 0.75, 2 / 3, support=4, predicted=5),
        ClassScore("Rock", 1.0, 1.0, 1.0, support=2, predicted=2),
        ClassScore("Soul", 0.0, 0.0, 0.0, support=1, predicted=0),
        ClassScore("Pop", 0.0, 0.0, 0.0, support=0, predicted=0),
    ),
    confusion=((3, 1, 0, 0), (0, 2, 0, 0), (1, 0, 0, 0), (0, 0, 0, 0)),
)


def texts(figure: object) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("task", "names"),
    [
        ({"classification": "genre"}, OF_CLASSES),
        ({"regression": ["valence"]}, {"true_and_predicted"}),
        ({"multitask": {"genre": "genre", "emotion": ["valence"]}}, OF_CLASSES | {"true_and_predicted"}),
    ],
)
def test_the_folder_has_the_report_and_the_pictures_of_what_is_predicted(
    task: dict[str, object],
    names: set[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = make_feature_file(tmp_path / "data.h5")
    save_model(tmp_path / "model.pt", model_of(data, make_config("stats", task=task)))
    out = tmp_path / "new" / "test"
    assert run_cli(monkeypatch, "test", tmp_path / "model.pt", "--data", data, "--json", "--out", out) == 0
    printed = json.loads(capsys.readouterr().out)
    assert json.loads((out / "report.json").read_text()) == printed
    expected = {f"{name}.{kind}" for name in names for kind in ("svg", "png")}
    assert {path.name for path in out.iterdir()} == {"report.json"} | expected
    assert all(path.stat().st_size > 1000 for path in out.glob("*.svg"))


def test_a_folder_with_something_in_it_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert run_cli(monkeypatch, "test", "model.pt", "--data", "data.h5", "--out", tmp_path) == 2
    assert "not empty; choose another folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_shares_of_the_confusion_matrix_are_of_the_true_class() -> None:
    # Folk 3 and 1 of 4, Rock 2 of 2, Soul 1 of 1; nothing is written for Pop, of which there is no track
    assert texts(confusion_shares(REPORT)) == ["75", "25", "100", "100"]


def test_a_class_that_is_never_predicted_is_called_that_and_not_a_nought() -> None:
    assert texts(class_scores(REPORT)) == ["never predicted", "never predicted", "0.667", "1.000"]


def test_the_calibration_picture_shows_accuracy_confidence_and_their_gap() -> None:
    # Two tracks at 0.9, one of them right: accuracy 0.5 there, and a calibration error of 0.4
    bins = reliability_bins(np.array([0, 1]), np.array([[0.9, 0.1], [0.9, 0.1]]), 10)
    upper, lower = reliability(bins).axes
    assert [bar.get_height() for bar in upper.patches] == [0.5]
    assert "0.400" in upper.get_title(loc="left")
    assert sum(bar.get_height() for bar in lower.patches) == 2


def test_the_scatter_leaves_out_tracks_without_a_label() -> None:
    targets = np.array([[0.1, 5.0], [np.nan, 6.0], [0.3, np.nan], [0.4, 8.0]])
    figure = scatter(("valence", "tempo"), targets, targets + 1, {"valence_spearman": 0.5})
    first, second = figure.axes
    assert first.lines[0].get_xdata().tolist() == [0.1, 0.3, 0.4]
    assert second.lines[0].get_ydata().tolist() == [6.0, 7.0, 9.0]
    assert "Spearman 0.500" in first.get_title(loc="left")
