"""More trials for a finished study, and a new one that learns from it: one story in Ray, Optuna and MLflow each."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
import yaml
from mlflow import MlflowClient

from conftest import run_cli
from fmasearch.cli.extending import longer_search, reopen
from fmasearch.cli.pipeline import _kept_final
from fmasearch.records import ConfirmRecord, FinalRecord, TestReport
from fmasearch.searcher.warm_start import EARLIER_KEY
from fmasearch.study import StudyPlan, load_plan, save_plan
from fmasearch.tracking import JsonlTracker, default_uri, read_journal
from study_helpers import SPACE, make_plan, write_tiny_file

SEARCH = """
sampler: {name: tpe, num_startup_trials: 2}
num_trials: 4
max_epochs: 3
max_total_epochs: 12
max_concurrent: 2
resources: {cpu: 1, gpu: 0}
scheduler: {name: asha, grace_period: 1, reduction_factor: 2}
confirm: {top_k: 2, seeds: 1}
"""


def search_runs(root: Path) -> dict[str, set[str]]:
    """Names of the search trials by the study that MLflow has them under; each study has one parent."""
    client = MlflowClient(default_uri(root / "runs"))
    (experiment,) = (each for each in client.search_experiments() if each.name == "tiny")
    found: dict[str, set[str]] = {}
    for run in client.search_runs([experiment.experiment_id]):
        tags = run.data.tags
        if tags["fmasearch.stage"] == "study":
            assert tags["fmasearch.study"] not in found
            found[tags["fmasearch.study"]] = set()
    for run in client.search_runs([experiment.experiment_id], "tags.`fmasearch.stage` = 'search'"):
        found[run.data.tags["fmasearch.study"]].add(run.data.tags["fmasearch.trial"])
    return found


def optuna_trials(folder: Path) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name="fmasearch", storage=f"sqlite:///{folder / 'optuna.db'}").trials


def finished_study(root: Path, winner: str) -> StudyPlan:
    """A study of 4 trials whose test is over, as its folder has it; nothing was trained."""
    plan = make_plan(root, num_trials=4, max_total_epochs=10)
    save_plan(plan)
    for path in (plan.folder.journal, plan.folder.confirm_journal):
        JsonlTracker(path).close("finished")
    report = TestReport("test", 6, {"accuracy": 0.5}, {}, "track")
    final = FinalRecord(winner, {}, "train", 3, (), {}, report, 927, "model.pt", 1.0)
    plan.folder.final_file.write_text(json.dumps(final.to_json()))
    return plan


def test_a_study_that_is_opened_again_keeps_its_test_aside_and_its_notes(tmp_path: Path) -> None:
    plan = finished_study(tmp_path, "t0001")
    longer = replace(plan, search=longer_search(plan.search, 2))
    assert (longer.search.num_trials, longer.search.max_total_epochs) == (6, 15)  # 10 epochs a 4 trials
    for _ in range(2):  # killed in between, and asked for again
        reopen(longer, "extended by 2 trials, from 4 to 6")
    for path in (plan.folder.journal, plan.folder.confirm_journal):
        assert read_journal(path).status is None
        assert read_journal(path).notes == ("extended by 2 trials, from 4 to 6",)
    assert load_plan(plan.folder.root).search.num_trials == 6
    assert not plan.folder.final_file.exists()
    assert [file.name for file in plan.folder.earlier_finals] == ["final-1.json"]


def test_the_same_winner_keeps_its_test_and_another_one_is_tested(tmp_path: Path) -> None:
    plan = finished_study(tmp_path, "t0001")
    reopen(plan, "extended by 2 trials, from 4 to 6")
    assert _kept_final(plan, ConfirmRecord("t0005", {}, {}, ())) is None
    assert [file.name for file in plan.folder.earlier_finals] == ["final-1.json"]
    kept = _kept_final(plan, ConfirmRecord("t0001", {}, {}, ()))
    assert kept is not None
    assert kept.trial == "t0001"
    assert plan.folder.final_file.exists()
    assert plan.folder.earlier_finals == []


@pytest.mark.ray
@pytest.mark.slow
def test_a_study_is_extended_and_another_starts_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    data = write_tiny_file(tmp_path / "tiny.h5")
    Path("tiny.yaml").write_text(SPACE)
    Path("hard.yaml").write_text(SEARCH)
    tune = ["tune", "tiny.yaml", "--data", str(data), "--search", "hard.yaml"]
    assert run_cli(monkeypatch, *tune) == 0
    (first,) = (tmp_path / "runs").glob("*-tiny-hard")
    names = set(read_journal(first / "journal.jsonl").trials)
    assert len(names) == 4
    winner = json.loads((first / "final.json").read_text())["trial"]

    assert run_cli(monkeypatch, "tune", "--resume", first.name, "--extend", "3") == 0
    printed = capsys.readouterr().out
    assert "extended by 3 trials, from 4 to 7" in printed
    journal = read_journal(first / "journal.jsonl")
    assert (len(journal.finished), journal.status) == (7, "finished")
    assert names < set(journal.trials)
    trials = [each for each in optuna_trials(first) if "rejected" not in each.user_attrs]
    assert {f"t{each.number:04d}" for each in trials} == set(journal.trials)
    assert search_runs(tmp_path)[first.name] == set(journal.trials)
    record = tmp_path / "results" / first.name
    assert len((record / "trials.jsonl").read_text().splitlines()) == 7
    study = yaml.safe_load((record / "study.yaml").read_text())
    assert (study["search"]["num_trials"], study["search"]["max_total_epochs"]) == (7, 21)  # 12 epochs a 4 trials
    assert "Extended by 3 trials, from 4 to 7." in (record / "README.md").read_text()
    won_again = json.loads((first / "final.json").read_text())["trial"] == winner
    assert ("its test stands" in printed) == won_again
    assert (first / "final-1.json").exists() != won_again  # a test that another winner made stale is kept
    assert run_cli(monkeypatch, "tune", "--resume", first.name) == 2

    assert run_cli(monkeypatch, *tune, "--warm-start", str(record), "--trials", "2") == 0
    (second,) = (tmp_path / "runs").glob("*-tiny-hard-2")
    assert "the sampler knows 7 of its 7 trials" in capsys.readouterr().out
    told = [each for each in optuna_trials(second) if EARLIER_KEY in each.user_attrs]
    own = [each for each in optuna_trials(second) if EARLIER_KEY not in each.user_attrs]
    assert (len(told), len(own)) == (7, 2)
    assert set(read_journal(second / "journal.jsonl").trials) == {f"t{each.number:04d}" for each in own}
    assert search_runs(tmp_path)[second.name] == {f"t{each.number:04d}" for each in own}
