"""Whole studies of numbers: from a space to a record with every target's scores, and to models that can be tested."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import optuna
import pytest
import yaml

from conftest import make_feature_file, run_cli
from fmasearch.config import SearchConfig
from fmasearch.config.training import TARGET_METRICS
from fmasearch.records import EpochResult, Objective, StudyRecord, TestReport, TrialRecord, TrialStart, TrialState
from fmasearch.report import load_trials
from fmasearch.searcher import open_study
from fmasearch.space import Space

ROOT = Path(__file__).parents[1]
SPACE = """
description: a test space
features: [mel]
task: TASK
model: {architecture: stats, hidden_dim: {choice: [8, 16]}, num_layers: 1, dropout: 0.0}
loss: {regression: {choice: [mse, ccc]}}
optimizer: {learning_rate: {float: [1e-3, 1e-1], log: true}}
crop: {frames: 12, num_eval: 3}
trainer: {batch_size: 8}
"""
REGRESSION = "{regression: [energy, tempo], objective: rmse}"
MULTITASK = "{multitask: {mood: [energy, tempo], genre: genre}}"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    missing = {"energy": [0, 3, 4, 5], "tempo": [0, 1, 6, 8]}
    return make_feature_file(
        tmp_path / "music.h5", tracks=(24, 12, 12), targets=["energy", "tempo"], missing=missing, unlabelled=[2, 3, 7]
    )


def tuned(
    tmp_path: Path, data: Path, task: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[str, Path, Path]:
    """What a study printed, its results folder, and its working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "tiny.yaml").write_text(SPACE.replace("TASK", task))
    smoke = ROOT / "search" / "smoke.yaml"
    assert run_cli(monkeypatch, "tune", "tiny.yaml", "--data", data, "--search", smoke) == 0
    (results,) = (tmp_path / "results").iterdir()
    (study,) = (tmp_path / "runs").glob("*-tiny-smoke")
    return capsys.readouterr().out, results, study


def rows(page: str) -> dict[str, list[str]]:
    """Cells of the page's tables by their first one."""
    lines = [
        [cell.strip() for cell in line.strip("| ").split("|")] for line in page.splitlines() if line.startswith("|")
    ]
    return {cells[0]: cells[1:] for cells in lines}


def errors_of(tested: dict[str, Any], *names: str) -> str:
    """The baseline's errors as the page shows them; the mean has no name in a single task."""
    metrics = [f"{name}_rmse" if name else "rmse" for name in names]
    return ", ".join(f"{metric} {tested['baseline'][metric]:.3f}" for metric in metrics)


def judged_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], study: Path, data: Path
) -> tuple[dict[str, Any], str]:
    """What `fmasearch test` says of the study's model, as JSON and on the screen."""
    assert run_cli(monkeypatch, "test", study / "model.pt", "--data", data, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert run_cli(monkeypatch, "test", study / "model.pt", "--data", data) == 0
    return report, capsys.readouterr().out


@pytest.mark.ray
def test_a_study_of_numbers_ends_with_every_targets_scores(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    printed, results, study = tuned(tmp_path, data, REGRESSION, monkeypatch, capsys)
    assert "4 trials, lowest val_rmse wins" in printed
    tested = json.loads((results / "test.json").read_text())["test"]
    assert f"test rmse: {tested['metrics']['rmse']:.3f} (without a model: {tested['baseline']['rmse']:.3f})" in printed

    page = (results / "README.md").read_text()
    assert "**Test rmse " in page
    table = rows(page)
    for name in (
        *TARGET_METRICS,
        *(f"{target}_{metric}" for target in ("energy", "tempo") for metric in TARGET_METRICS),
    ):
        assert " to " in table[name][1]  # the interval
        assert f"clip_{name}" in table
        assert table[f"clip_{name}"][1] == "–"
    assert f"Always answering the mean of the training split gives {errors_of(tested, 'energy', 'tempo', '')}." in page
    assert "largest class" not in page
    assert table["targets"] == ["energy, tempo"]
    assert "classes" not in table
    assert not (results / "confusion_matrix.svg").exists()

    assert yaml.safe_load((results / "study.yaml").read_text())["objective"] == {"metric": "val_rmse", "mode": "min"}
    trials = load_trials(results)
    assert len(trials) == 4
    for trial in trials:
        assert trial.best is not None
        assert trial.best.objective == min(epoch.metrics["val_rmse"] for epoch in trial.epochs)

    report, shown = judged_again(monkeypatch, capsys, study, data)
    assert report["metrics"] == pytest.approx(tested["metrics"], rel=1e-4)
    assert "energy_spearman" in shown
    assert "baseline: always answering the mean of every target of the training split" in shown
    best = ["train", results / "best.yaml", "--data", data, "--out", tmp_path / "again.pt", "--device", "cpu"]
    assert run_cli(monkeypatch, *best) == 0
    assert "best val_rmse" in capsys.readouterr().out
    assert (
        run_cli(monkeypatch, "overfit", results / "best.yaml", "--data", data, "--device", "cpu", "--steps", "2") == 1
    )
    assert "best (" in capsys.readouterr().out
    assert run_cli(monkeypatch, "status", study.name) == 0
    assert f"test rmse {tested['metrics']['rmse']:.3f}" in capsys.readouterr().out


@pytest.mark.ray
@pytest.mark.slow
def test_a_multitask_study_ends_with_classes_and_targets(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    task = MULTITASK + "\nscheduler: {name: cosine}"
    monkeypatch.setattr(
        "test_regression_study.SPACE", SPACE.replace("[mse, ccc]}", "[mse, ccc]}, weighting: uncertainty")
    )
    printed, results, study = tuned(tmp_path, data, task, monkeypatch, capsys)
    assert "4 trials, highest val_mean wins" in printed
    tested = json.loads((results / "test.json").read_text())["test"]
    page = (results / "README.md").read_text()
    table = rows(page)
    for name in ("genre_macro_f1", "genre_accuracy", "mood_spearman", "energy_spearman", "tempo_rmse"):
        assert " to " in table[name][1]
        assert f"clip_{name}" in table
    assert f"**Test mean {tested['metrics']['mean']:.3f}**" in page
    assert "Always answering the largest class of the training split gives genre_accuracy " in page
    assert (
        f"Always answering the mean of the training split gives {errors_of(tested, 'energy', 'tempo', 'mood')}." in page
    )
    assert table["classes"] == ["rock, jazz, folk, dub"]
    assert table["targets"] == ["energy, tempo"]
    assert (results / "confusion_matrix.svg").exists()
    # Rows are dealt in turn while all splits have tracks left: 2 and 7 are not of train, 3 is; 2 is of test.
    assert sum(row["support"] for row in tested["classes"]) == 11
    report, shown = judged_again(monkeypatch, capsys, study, data)
    assert report["confusion"] == tested["confusion"]
    assert report["metrics"] == pytest.approx(tested["metrics"], rel=1e-4)
    assert "baseline: always answering the largest class and the mean of every target of the training split" in shown
    assert [row["name"] for row in report["classes"]] == ["rock", "jazz", "folk", "dub"]


def test_an_objective_of_which_less_is_better_turns_the_search_around(tmp_path: Path) -> None:
    space = Space.parse(SPACE.replace("TASK", REGRESSION), name="tiny")
    objective = Objective("val_rmse", "min")
    study = open_study(tmp_path / "optuna.db", SearchConfig(), space, objective, concurrency=1)
    assert study.direction is optuna.study.StudyDirection.MINIMIZE


def test_trials_with_smaller_errors_are_ranked_first() -> None:
    def trial(number: int, error: float) -> TrialRecord:
        epoch = EpochResult(1, {"val_rmse": error}, 1e-3, 0.1, error, error, 1)
        return TrialRecord(TrialStart(number, f"t{number}", {}, {}, 0), TrialState.COMPLETED, (epoch,), 1.0)

    trials = tuple(trial(number, error) for number, error in enumerate([2.0, 0.5, 1.0]))
    record = StudyRecord("a", "b", "c", Objective("val_rmse", "min"), "", "", {}, {}, {}, trials)
    assert [each.name for each in record.ranked()] == ["t1", "t2", "t0"]


def test_a_report_of_before_there_were_tasks_without_classes_is_read() -> None:
    now = TestReport("test", 5, {"accuracy": 0.8}, {}, "artist", baseline={"accuracy": 0.6})
    before = {key: value for key, value in now.to_json().items() if key != "baseline"} | {"majority_accuracy": 0.6}
    assert TestReport.from_json(before) == now


def test_a_report_of_numbers_survives_json() -> None:
    report = TestReport("test", 5, {"spearman": 0.8, "clip_spearman": 0.7}, {}, "track", baseline={"rmse": np.pi})
    assert TestReport.from_json(json.loads(json.dumps(report.to_json()))) == report
    assert report.headline(Objective("val_spearman", "max")) == "spearman"


CONFIG = """
features: [mel]
task: {multitask: {mood: [energy, tempo], genre: genre}}
model: {architecture: stats, hidden_dim: 8, num_layers: 1}
optimizer: {learning_rate: 1e-2}
trainer: {batch_size: 8, max_epochs: 2}
"""


def test_a_multitask_model_judges_a_file_whose_training_tracks_have_no_class(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG)
    model = tmp_path / "model.pt"
    arguments = ["train", tmp_path / "config.yaml", "--data", data, "--out", model, "--device", "cpu"]
    assert run_cli(monkeypatch, *arguments) == 0
    assert "best val_mean" in capsys.readouterr().out
    other = make_feature_file(tmp_path / "other.h5", targets=["energy", "tempo"], seed=1)
    with h5py.File(other, "r+") as file:
        file["labels/genre"][...] = np.where(file["split"][()] == 0, -1, file["labels/genre"][()])
    assert run_cli(monkeypatch, "test", model, "--data", other, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["metrics"]["genre_accuracy"] >= 0
    assert {"energy_rmse", "mood_mae"} <= report["baseline"].keys()  # by the model's own training means
    assert "genre_accuracy" not in report["baseline"]  # no largest class to answer
