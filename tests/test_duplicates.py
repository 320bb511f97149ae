"""Near-duplicates: what counts as one, and that the searcher samples again, but not for ever."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState as OptunaState

from fmasearch.records import Params
from fmasearch.searcher.duplicates import MAX_RESAMPLES, EarlierTrials
from fmasearch.space import Space
from study_helpers import CONSTANTS
from test_samplers import studies_in_memory
from test_searcher import GRID, make_searcher, train

__all__ = ["studies_in_memory"]

SPACE = Space.parse(f"""
{CONSTANTS}
optimizer:
  learning_rate: {{float: [1e-4, 1.0], log: true}}
  weight_decay: {{float: [0.0, 0.2]}}
  name: {{choice: [adamw, sgd]}}
  momentum: {{float: [0.0, 0.9], step: 0.3, when: {{optimizer/name: sgd}}}}
loss:
  label_smoothing: {{float: [0.0, 0.2]}}
""")
POINT: Params = {
    "optimizer/learning_rate": 0.01,
    "optimizer/weight_decay": 0.1,
    "optimizer/name": "sgd",
    "optimizer/momentum": 0.3,
    "loss/label_smoothing": 0.1,
}
TINY = f"""
{CONSTANTS}
optimizer:
  learning_rate: {{choice: [0.1, 0.01]}}
"""


@pytest.mark.parametrize(
    ("change", "repeats"),
    [
        ({}, True),
        ({"optimizer/weight_decay": 0.1019}, True),  # 0.0019 of a range of 0.2: 0.95 %
        ({"optimizer/weight_decay": 0.1021}, False),  # 1.05 %
        ({"optimizer/learning_rate": 0.0109}, True),  # log10(1.09) = 0.0374 of 4 decades: 0.94 %
        ({"optimizer/learning_rate": 0.0111}, False),  # log10(1.11) = 0.0453: 1.13 %, though 0.1 % of the plain range
        ({"optimizer/weight_decay": 0.1019, "loss/label_smoothing": 0.1019}, True),  # each is near by itself
        ({"optimizer/weight_decay": 0.1019, "loss/label_smoothing": 0.15}, False),  # one far number is enough
        ({"optimizer/name": "adamw"}, False),
        ({"optimizer/momentum": 0.30000000000000004}, True),  # how a stepped value comes back from a sampler
        ({"optimizer/momentum": 0.6}, False),
    ],
)
def test_a_trial_is_repeated_where_choices_are_equal_and_all_numbers_near(change: Params, repeats: bool) -> None:
    earlier = EarlierTrials(SPACE, 0.01)
    earlier.add(7, POINT)
    assert earlier.nearest({**POINT, **change}) == (7 if repeats else None)


def test_other_active_keys_are_another_configuration() -> None:
    earlier = EarlierTrials(SPACE, 0.01)
    earlier.add(0, POINT)
    assert earlier.nearest({key: value for key, value in POINT.items() if key != "optimizer/momentum"}) is None


def test_no_distance_leaves_equal_ones_alone_and_the_nearest_is_named() -> None:
    exact, near = EarlierTrials(SPACE, 0.0), EarlierTrials(SPACE, 0.01)
    for earlier in (exact, near):
        earlier.add(3, {**POINT, "optimizer/weight_decay": 0.101})
        earlier.add(4, {**POINT, "optimizer/weight_decay": 0.1005})
    assert exact.nearest(POINT) is None
    assert exact.nearest({**POINT, "optimizer/weight_decay": 0.101}) == 3
    assert near.nearest(POINT) == 4


def test_a_repeat_is_turned_down_without_using_up_a_trial(tmp_path: Path) -> None:
    searcher = make_searcher(tmp_path, TINY, num_trials=2, sampler={"name": "random"}, seed=0)
    rates = [train(searcher, trial_id, [0.5])["params"]["optimizer/learning_rate"] for trial_id in "ab"]
    assert sorted(rates) == [0.01, 0.1]  # of two values; the seed draws the first one twice
    repeats = [t for t in searcher.study.trials if "rejected" in t.user_attrs]
    assert {t.state for t in repeats} == {OptunaState.FAIL}
    assert {t.user_attrs["rejected"] for t in repeats} == {"nearly equal to trial 0"}
    assert searcher.suggest("c") == "FINISHED"


def test_a_space_that_is_used_up_is_sampled_on_after_a_few_attempts(tmp_path: Path) -> None:
    searcher = make_searcher(tmp_path, TINY, num_trials=4)
    for trial_id in "abcd":
        train(searcher, trial_id, [0.5])
    turned_down = sum("rejected" in trial.user_attrs for trial in searcher.study.trials)
    assert 2 * MAX_RESAMPLES <= turned_down <= 3 * MAX_RESAMPLES  # trials c and d, five times each; b perhaps a few
    assert len(searcher.study.trials) == 4 + turned_down


def test_known_good_points_and_grids_are_taken_as_they_are(tmp_path: Path) -> None:
    twice = f"{TINY}known_good: {{one: {{optimizer/learning_rate: 0.1}}, two: {{optimizer/learning_rate: 0.1}}}}"
    (tmp_path / "good").mkdir()
    good = make_searcher(tmp_path / "good", twice)
    taken: list[Any] = [good.suggest(i) for i in "ab"]
    assert [each["number"] for each in taken] == [0, 1]
    (tmp_path / "grid").mkdir()
    grid = make_searcher(tmp_path / "grid", GRID, sampler={"name": "grid", "min_distance": 0.5}, num_trials=60)
    for i in range(6):
        train(grid, str(i), [0.5])
    assert not any("rejected" in trial.user_attrs for trial in grid.study.trials)


def test_an_interrupted_trial_does_not_repeat_itself(tmp_path: Path) -> None:
    before = make_searcher(tmp_path).suggest("a")
    assert make_searcher(tmp_path).suggest("x") == before


def test_a_resumed_study_knows_what_it_tried(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"num_trials": 2, "sampler": {"name": "random"}}
    first = train(make_searcher(tmp_path, TINY, **settings), "a", [0.5])["params"]
    for seed in range(3):  # one of these draws the same rate at first
        resumed = make_searcher(tmp_path, TINY, **settings, seed=seed)
        assert resumed._earlier is not None
        assert resumed._earlier.nearest(first) == 0
