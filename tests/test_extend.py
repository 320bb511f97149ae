"""More trials for a finished study, and a new one that learns from it: one story in Ray, Optuna and MLflow each."""

from __future__ import annotations

import json
from pathlib import Path

import optuna
import pytest
import yaml
from mlflow import MlflowClient

from conftest import run_cli
from fmasearch.searcher.warm_start import EARLIER_KEY
from fmasearch.tracking import default_uri, read_journal
from study_helpers import SPACE, write_tiny_file

pytestmark = [pytest.mark.ray, pytest.mark.slow]

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
