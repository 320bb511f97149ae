"""The actor driven by hand, trial after trial, and the scheduler that stops it; no Ray is started."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from fmasearch.config import SearchConfig
from fmasearch.records import EpochResult, TrialRecord, TrialStart, TrialState
from fmasearch.study.actor import TrialActor
from fmasearch.study.scheduler import build_scheduler
from fmasearch.tracking.jsonl import Journal, TrialJournal
from study_helpers import OBJECTIVE, curve, make_job, make_plan, steps, train_alone


def test_a_trial_gives_the_same_curve_first_or_tenth_in_its_actor(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, max_epochs=2)
    job = make_job(plan, 0, 0.01)
    actor = TrialActor(job.to_config())
    first = [EpochResult.from_json(result["result"]) for result in steps(actor, 2)]
    for number in range(1, 9):
        assert actor.reset_config(make_job(plan, number, 0.001 * number).to_config())
        steps(actor, 1 + number % 2)  # some are stopped early
    actor.reset_config(job.to_config())
    tenth = [EpochResult.from_json(result["result"]) for result in steps(actor, 2)]
    assert curve(first) == curve(tenth) == train_alone(job.start.config, plan.data)


def test_an_actor_opens_its_data_once(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    actor = TrialActor(make_job(plan, 0, 0.01).to_config())
    dataset = actor._trainer.dataset
    actor.reset_config(make_job(plan, 1, 0.02).to_config())
    assert actor._trainer.dataset is dataset


def test_a_checkpoint_holds_only_epochs_that_the_driver_has_been_told(tmp_path: Path) -> None:
    """Ray asks for an epoch once the driver has written down the one before."""
    plan = make_plan(tmp_path)
    job = make_job(plan, 0, 0.01, checkpoint_seconds=0.0)
    steps(TrialActor(job.to_config()), 3)
    resumed = TrialActor(job.to_config())
    assert resumed.step()["epoch"] == 3  # the third was perhaps never heard of


def test_short_trials_write_no_checkpoint(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    steps(TrialActor(make_job(plan, 0, 0.01).to_config()), 4)
    assert not plan.folder.checkpoints.exists()


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
    assert report(scheduler, "best", 9, 0.9) == "STOP"  # max_epochs


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


def test_no_scheduler_is_first_in_first_out() -> None:
    search = SearchConfig.model_validate({"scheduler": {"name": "none"}})
    assert isinstance(build_scheduler(search, OBJECTIVE), FIFOScheduler)


def test_a_damaged_checkpoint_means_training_from_the_start(tmp_path: Path) -> None:
    job = make_job(make_plan(tmp_path), 0, 0.01)
    Path(job.checkpoint or "").parent.mkdir()
    Path(job.checkpoint or "").write_bytes(b"half of a")
    assert TrialActor(job.to_config()).step()["epoch"] == 1


def test_a_trials_bracket_follows_from_seed_and_name() -> None:
    search = ASHA.model_copy(update={"scheduler": ASHA.scheduler.model_copy(update={"brackets": 3})})

    def brackets() -> list[int]:
        scheduler = build_scheduler(search, OBJECTIVE)
        trials = [SimpleNamespace(trial_id=str(n), config={"job": {"start": {"name": f"t{n:04d}"}}}) for n in range(20)]
        for trial in trials:
            scheduler.on_trial_add(None, trial)
        return [scheduler._brackets.index(scheduler._trial_info[trial.trial_id]) for trial in trials]

    first = brackets()
    assert len(set(first)) > 1
    assert brackets() == first
