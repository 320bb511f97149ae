"""The scheduler that stops weak trials, told by hand what Ray Tune would tell it; no Ray is started."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.schedulers import TrialScheduler

from fmasearch.config import SearchConfig
from fmasearch.records import EpochResult, TrialRecord, TrialStart, TrialState
from fmasearch.study.scheduler import build_scheduler
from fmasearch.tracking.jsonl import Journal, TrialJournal
from study_helpers import OBJECTIVE

ASHA = SearchConfig.model_validate({"max_epochs": 9, "scheduler": {"grace_period": 1, "reduction_factor": 3}})


def stub(name: str) -> Any:
    return SimpleNamespace(trial_id=name, config={"job": {"start": {"name": name}}})


def report(scheduler: TrialScheduler, name: str, epoch: int, best: float) -> str:
    return str(scheduler.on_trial_result(None, stub(name), {"epoch": epoch, "best_objective": best}))


def told(name: str, bests: list[float]) -> TrialRecord:
    epochs = tuple(EpochResult(n, {}, 0.1, 0.0, v, best_objective=v, best_epoch=n) for n, v in enumerate(bests, 1))
    return TrialRecord(TrialStart(0, name, {}, {}, seed=0), TrialState.PRUNED, epochs, 1.0)


def test_asha_stops_the_weak_and_never_the_best() -> None:
    scheduler = build_scheduler(ASHA, OBJECTIVE)
    decisions = {}
    for name, best in [("fair", 0.5), ("weak", 0.1), ("best", 0.9), ("weaker", 0.05), ("good", 0.8)]:
        scheduler.on_trial_add(None, stub(name))
        decisions[name] = report(scheduler, name, 1, best)
    # One in three goes on: "good" passes because the third of .9, .5, .1, .05 begins at .63.
    assert [name for name, decision in decisions.items() if decision == "STOP"] == ["weak", "weaker"]
    assert report(scheduler, "best", 2, 0.9) == "CONTINUE"  # epoch 2 is no rung
    assert report(scheduler, "best", 9, 0.9) == "CONTINUE"  # max_epochs, where the trainer itself ends


def test_asha_knows_what_trials_of_earlier_sessions_reached() -> None:
    earlier = [told("t0000", [0.9]), told("t0001", [0.8]), told("t0002", [0.7])]
    journal = Journal({record.name: TrialJournal(record.start, record.epochs, record) for record in earlier})
    fresh, resumed = build_scheduler(ASHA, OBJECTIVE), build_scheduler(ASHA, OBJECTIVE, journal)
    for scheduler, decision in [(fresh, "CONTINUE"), (resumed, "STOP")]:  # a first trial always goes on
        scheduler.on_trial_add(None, stub("t0003"))
        assert report(scheduler, "t0003", 1, 0.5) == decision


def test_a_resumed_trial_enters_the_rungs_with_what_it_had_there() -> None:
    cut_off = told("t0000", [0.2, 0.2, 0.3, 0.8])
    journal = Journal({"t0000": TrialJournal(cut_off.start, cut_off.epochs)})
    scheduler = build_scheduler(ASHA, OBJECTIVE, journal)
    scheduler.on_trial_add(None, stub("t0000"))
    assert report(scheduler, "t0000", 5, 0.9) == "CONTINUE"
    scheduler.on_trial_add(None, stub("t0001"))
    assert report(scheduler, "t0001", 1, 0.25) == "CONTINUE"  # better than the 0.2 at epoch 1


def test_a_trial_that_ended_by_itself_is_one_to_be_compared_with() -> None:
    scheduler = build_scheduler(ASHA, OBJECTIVE)
    scheduler.on_trial_complete(None, stub("patient"), {"epoch": 1, "best_objective": 0.5})
    scheduler.on_trial_complete(None, stub("never ran"), {})
    assert report(scheduler, "weak", 1, 0.4) == "STOP"


@pytest.mark.parametrize(("name", "decision"), [("none", "CONTINUE"), ("median", "STOP")])
def test_the_search_names_the_rule(name: str, decision: str) -> None:
    search = SearchConfig.model_validate({"scheduler": {"name": name}})
    scheduler = build_scheduler(search, OBJECTIVE)
    assert {report(scheduler, f"t{number:04d}", 2, 0.1 * number) for number in range(1, 6)} == {"CONTINUE"}
    assert report(scheduler, "weak", 2, 0.2) == decision  # the median of the five others is 0.3
