"""Warm starts: what a new study takes from an earlier one, and what it leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState as OptunaState

from fmasearch.config import SearchConfig, derive_seed
from fmasearch.errors import SpaceError
from fmasearch.records import EpochResult, TrialRecord, TrialStart, TrialState
from fmasearch.searcher import EarlierStudy, open_study, own_trials, require_some
from fmasearch.searcher.warm_start import EARLIER_KEY, first_points, point_of, sampler_memory
from fmasearch.space import Space
from study_helpers import CONSTANTS, OBJECTIVE, SPACE

RATE, DECAY = "optimizer/learning_rate", "optimizer/weight_decay"
OTHER_DROPOUT = SPACE.replace("dropout: 0.2", "dropout: 0.5")
NARROW = f"""
{CONSTANTS}
optimizer: {{learning_rate: {{float: [1e-3, 1e-2], log: true}}, weight_decay: 0.0}}
"""


def trial(number: int, rate: float, bests: list[float], state: TrialState = TrialState.PRUNED) -> TrialRecord:
    """A trial of `SPACE` with its best objective after each epoch."""
    space = Space.parse(SPACE)
    params = {RATE: rate, DECAY: 0.0}
    config = space.train_config(params, max_epochs=9, patience=None, seed=derive_seed(0, number))
    start = TrialStart(number, f"t{number:04d}", params, config.model_dump(mode="json"), 0)
    epochs = tuple(EpochResult(i, {}, rate, 0.1, best, best, i) for i, best in enumerate(bests, start=1))
    return TrialRecord(start, state, epochs, 1.0)


def earlier(*trials: TrialRecord, name: str = "before", comparable: bool = True) -> EarlierStudy:
    return EarlierStudy(name, trials, comparable)


THREE = (trial(0, 0.1, [0.3, 0.4]), trial(1, 5e-3, [0.5, 0.8], TrialState.COMPLETED), trial(2, 2e-3, [0.6]))


def test_the_sampler_remembers_curves_and_final_values_as_if_they_were_its_own() -> None:
    pruned, completed, _ = sampler_memory(Space.parse(SPACE), [earlier(*THREE)])
    assert (pruned.state, pruned.value, pruned.intermediate_values) == (OptunaState.PRUNED, None, {1: 0.3, 2: 0.4})
    assert (completed.state, completed.value, completed.params[RATE]) == (OptunaState.COMPLETE, 0.8, 5e-3)
    assert completed.user_attrs == {EARLIER_KEY: "before/t0001"}


@pytest.mark.parametrize(
    ("space", "study"),
    [(SPACE, earlier(*THREE, comparable=False)), (OTHER_DROPOUT, earlier(*THREE))],
    ids=["other data", "other constants"],
)
def test_values_that_mean_something_else_are_not_remembered_but_the_best_are_tried(
    space: str, study: EarlierStudy
) -> None:
    parsed = Space.parse(space)
    assert sampler_memory(parsed, [study]) == []
    assert [name for name, _ in first_points(parsed, [study], OBJECTIVE, limit=2)] == ["before/t0001", "before/t0002"]


def test_only_what_lies_in_the_new_space_is_taken_in_its_own_terms() -> None:
    narrow = Space.parse(NARROW)  # weight decay is constant here, and a rate of 0.1 is too large
    assert [point_of(narrow, each.start.config) for each in THREE] == [None, {RATE: 5e-3}, {RATE: 2e-3}]
    require_some(narrow, earlier(*THREE))
    with pytest.raises(SpaceError, match="none of its 1 trials lies in"):
        require_some(narrow, earlier(THREE[0]))


def test_several_studies_take_turns_and_name_no_point_twice() -> None:
    again = earlier(trial(7, 5e-3, [0.9]), trial(8, 0.2, [0.7]), name="other")
    points = first_points(Space.parse(SPACE), [earlier(*THREE), again], OBJECTIVE)
    assert [name for name, _ in points] == ["before/t0001", "before/t0002", "other/t0008", "before/t0000"]


def test_an_earlier_study_survives_json() -> None:
    study = earlier(*THREE)
    assert EarlierStudy.from_json(study.to_json()) == study


def test_a_study_opened_twice_knows_everything_once(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"num_trials": 5, "max_epochs": 9}
    space = Space.parse(f"{SPACE}\nknown_good: {{mine: {{{RATE}: 0.01}}}}\n")
    search = SearchConfig.model_validate(settings)
    for _ in range(2):
        study = open_study(tmp_path / "optuna.db", search, space, OBJECTIVE, concurrency=1, earlier=[earlier(*THREE)])
        assert len(study.trials) == 3 + 1 + 3
        waiting = [each.user_attrs["label"] for each in own_trials(study)]
        assert waiting == ["mine", "before/t0001", "before/t0002", "before/t0000"]
