"""Several objectives in the record: what a trial cost, and which trials no other one beats."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path

import pytest

from fmasearch.models import count_parameters
from fmasearch.records import EpochResult, Objective, StudyRecord, TrialRecord, TrialStart, TrialState, pareto_front
from fmasearch.study.run import _measure
from study_helpers import CONSTANTS, NUM_BINS, NUM_CLASSES, NUM_FRAMES, OBJECTIVE, make_plan

SMALL = Objective("parameters", "min")
FAST = Objective("epoch_seconds", "min")


def trial(
    number: int, best: float, parameters: float | None, seconds: float = 1.0, state: TrialState = TrialState.COMPLETED
) -> TrialRecord:
    costs = {} if parameters is None else {"parameters": parameters}
    start = TrialStart(number, f"t{number:04d}", {}, {}, seed=0, costs=costs)
    # The first epoch takes ten times as long, since data are read; the median of three does not see it.
    epochs = tuple(EpochResult(n, {}, 0.1, seconds * (10 if n == 1 else 1), best, best, 1) for n in (1, 2, 3))
    return TrialRecord(start, state, epochs, 1.0)


def front(trials: list[TrialRecord], *objectives: Objective) -> list[int]:
    return [each.start.number for each in pareto_front(trials, objectives)]


def test_the_front_are_the_trials_that_no_other_beats_best_first() -> None:
    trials = [
        trial(0, 0.5, 100),
        trial(1, 0.7, 900),
        trial(2, 0.6, 1_000),  # larger and worse than trial 1
        trial(3, 0.6, 300),
        trial(4, 0.5, 200),  # as good as trial 0, but larger
    ]
    assert front(trials, OBJECTIVE, SMALL) == [1, 3, 0]
    assert front(trials, OBJECTIVE) == [1]
    assert front(trials, SMALL) == [0]


def test_lower_is_better_where_the_objective_says_so_and_equals_stay_in_order() -> None:
    trials = [trial(1, 0.5, 100), trial(0, 0.5, 100), trial(2, 0.4, 200)]
    assert front(trials, Objective("val_rmse", "min"), SMALL) == [2, 0, 1]


def test_a_third_objective_makes_the_front_longer() -> None:
    trials = [trial(0, 0.6, 100, seconds=4.0), trial(1, 0.5, 200, seconds=2.0)]
    assert front(trials, OBJECTIVE, SMALL) == [0]
    assert front(trials, OBJECTIVE, SMALL, FAST) == [0, 1]
    assert trials[1].value(FAST) == 2.0


def test_stopped_trials_take_part_and_failed_or_unmeasured_ones_do_not() -> None:
    trials = [
        trial(0, 0.5, 100, state=TrialState.PRUNED),
        trial(1, 0.9, 10, state=TrialState.FAILED),
        trial(2, 0.9, None),
        trial(3, math.nan, 10),
        TrialRecord(TrialStart(4, "t0004", {}, {}, 0, costs={"parameters": 1}), TrialState.PRUNED, (), 0.0),
    ]
    assert front(trials, OBJECTIVE, SMALL) == [0]
    assert front([], OBJECTIVE, SMALL) == []


def test_costs_survive_the_journal_and_records_of_before_have_none() -> None:
    record = trial(0, 0.5, 100)
    assert TrialRecord.from_json(record.to_json()) == record
    older = {key: value for key, value in record.to_json().items() if key != "costs"}
    assert TrialRecord.from_json(older).start.costs == {}
    assert asdict(record.start)["costs"] == {"parameters": 100}


@pytest.mark.parametrize(("search", "metrics"), [({}, []), ({"also_minimise": ["flops"]}, ["flops"])])
def test_a_study_knows_its_objectives_from_its_search(search: dict[str, list[str]], metrics: list[str]) -> None:
    record = StudyRecord("s", "space", "search", OBJECTIVE, "", "", search, {}, {}, ())
    assert record.objectives == (OBJECTIVE, *(Objective(metric, "min") for metric in metrics))


def test_a_study_counts_what_it_minimises_and_nothing_else(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    space = CONSTANTS.replace("hidden_dim: 4", "hidden_dim: {choice: [4, 8]}")
    measure = _measure(
        make_plan(tmp_path / "two", space, sampler={"name": "tpe"}, also_minimise=["epoch_seconds", "parameters"])
    )
    settings = {"num_conv_layers": 1, "num_layers": 1, "dropout": 0.2, "hidden_dim": 8}
    shape = {"input_dim": NUM_BINS, "num_frames": NUM_FRAMES, "output_dim": NUM_CLASSES}
    assert measure({"model/hidden_dim": 8}) == {"parameters": count_parameters("cnn_gru", **shape, **settings)}
    assert measure({"model/hidden_dim": 8, "model/kernel_size": 4}) == {}  # no such model: kernels are odd
    assert _measure(make_plan(tmp_path / "one", space))({"model/hidden_dim": 8}) == {}
