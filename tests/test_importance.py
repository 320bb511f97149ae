"""Importance: that the key which decides is found, that chance is told from it, and what each table rests on."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from conftest import run_cli
from fmasearch.cli import importances
from fmasearch.cli.importances import common_epoch, final_values, rung_values
from fmasearch.records import Objective, Params, StudyRecord, TrialState
from fmasearch.searcher import Importance, importance
from fmasearch.searcher.importance import top_share
from fmasearch.space import Space
from recorded_helpers import write_runs
from test_report import COMPLETED, FAILED, PRUNED, SECOND, search_only

SPACE = """
features: [mel]
task: {classification: genre}
model: {architecture: cnn_gru, hidden_dim: 8, num_layers: 1}
optimizer:
  learning_rate: {float: [1e-4, 1.0], log: true}
  weight_decay: {choice: [0.0, 0.1, 0.2]}
scheduler:
  name: {choice: [constant, plateau]}
  patience: {int: [1, 4], when: {scheduler/name: plateau}}
"""


def points(count: int, seed: int = 0) -> list[tuple[Params, float]]:
    """Random trials whose value is the learning rate alone: the higher, the better."""
    generator = np.random.default_rng(seed)
    sampled: list[tuple[Params, float]] = []
    for _ in range(count):
        rate = float(10 ** generator.uniform(-4, 0))
        name = str(generator.choice(["constant", "plateau"]))
        params: dict[str, str | int | float | bool | None] = {
            "optimizer/learning_rate": rate,
            "optimizer/weight_decay": float(generator.choice([0.0, 0.1, 0.2])),
            "scheduler/name": name,
        }
        if name == "plateau":
            params["scheduler/patience"] = int(generator.integers(1, 5))
        sampled.append((params, rate))
    return sampled


def found(trials: list[tuple[Params, float]], mode: str = "max", num_draws: int = 0) -> Importance:
    return importance(Space.parse(SPACE), trials, Objective("m", mode), num_draws=num_draws)  # type: ignore[arg-type]


def test_the_key_that_decides_is_found_above_chance_and_no_other() -> None:
    result = found(points(60), num_draws=40)
    first, *others = result.keys
    assert first.key == "optimizer/learning_rate"
    assert first.share > 0.8 > first.chance
    assert first.low > max(each.high for each in others)
    assert all(each.share <= each.chance for each in others)
    assert sum(each.share for each in result.keys) == pytest.approx(1)


def test_the_smallest_values_are_the_best_where_they_are_minimised() -> None:
    trials = points(40)
    negative = [(params, -value) for params, value in trials]
    assert found(trials, "max").keys[0].share == found(negative, "min").keys[0].share
    assert found(trials, "max").keys[0].share != found(trials, "min").keys[0].share


def test_a_key_with_conditions_counts_the_trials_in_which_it_was_active() -> None:
    trials = points(40)
    by_key = {each.key: each.num_trials for each in found(trials).keys}
    plateaus = sum(params["scheduler/name"] == "plateau" for params, _ in trials)
    assert by_key == {
        "optimizer/learning_rate": 40,
        "optimizer/weight_decay": 40,
        "scheduler/name": 40,
        "scheduler/patience": plateaus,
    }


def test_a_conditional_key_that_decides_where_it_is_active_is_found() -> None:
    # The best trials are those with a plateau of patience 4; without a plateau all are alike.
    generator = np.random.default_rng(1)
    trials = [
        (params, float(params.get("scheduler/patience", 0) == 4) + 1e-3 * generator.random())
        for params, _ in points(120)
    ]
    assert found(trials).keys[0].key == "scheduler/patience"


@pytest.mark.parametrize(("trials", "share"), [(200, 0.1), (40, 0.125), (20, 0.25), (8, 0.25)])
def test_the_best_are_a_tenth_or_five_trials_but_no_more_than_a_quarter(trials, share) -> None:
    assert top_share(trials) == share  # 5 / 40 = 0.125, 5 / 20 = 0.25; 5 / 8 would be most of them


def test_too_few_trials_are_called_too_few() -> None:
    assert found(points(20)).enough
    assert not found(points(19)).enough
    assert found(points(3)) == Importance((), 3, 0)


def test_values_that_are_not_numbers_are_left_out() -> None:
    trials = points(30)
    assert found([*trials, (trials[0][0], math.nan)]) == found(trials)


def record(**changes: object) -> StudyRecord:
    return replace(search_only(), **changes)  # type: ignore[arg-type]


def test_final_values_are_of_completed_trials_and_rung_values_of_all_that_got_there() -> None:
    study = record()  # two completed, one pruned after epoch 1, one failed after epoch 1; the first rung is epoch 1
    assert [value for _, value in final_values(study).points] == [0.6123456789, 0.5]
    assert [value for _, value in rung_values(study).points] == [0.3, 0.3, 0.2, 0.1]
    assert rung_values(study).words == "up to epoch 1: 4 of 4 trials got there"


def test_the_rung_comes_down_to_an_epoch_that_most_trials_reached() -> None:
    search = {"scheduler": {"name": "none", "grace_period": 3}}
    assert common_epoch(record(search=search, trials=(COMPLETED, SECOND, PRUNED))) == 3  # two of three
    assert common_epoch(record(search=search, trials=(COMPLETED, PRUNED, FAILED))) == 1  # only one has three epochs


def test_the_command_says_what_each_table_rests_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importances, "importance", partial(importance, num_draws=2))  # the words are the same
    write_runs(
        tmp_path, [(TrialState.COMPLETED, (0.1, 0.2)), *((TrialState.PRUNED, (0.01 * k, 0.1)) for k in range(8))]
    )
    assert run_cli(monkeypatch, "importance", tmp_path / "study") == 0
    out = capsys.readouterr().out
    assert "final values: 1 trial completed\n1 trial: too few to say anything" in out
    assert "up to epoch 2: 9 of 9 trials got there; the best 3 against all" in out  # a quarter of 9, rounded up
    assert "9 trials: too few to conclude from" in out
    assert run_cli(monkeypatch, "importance", tmp_path / "study", "--json") == 0
    final, rung = json.loads(capsys.readouterr().out)["importance"]
    assert (final["num_trials"], final["keys"], rung["epoch"], rung["enough_trials"]) == (1, [], 2, False)
