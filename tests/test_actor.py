"""The actor driven by hand, trial after trial; no Ray is started."""

from __future__ import annotations

from pathlib import Path

from fmasearch.records import EpochResult
from fmasearch.study.actor import TrialActor
from study_helpers import curve, make_job, make_plan, steps, train_alone


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


def test_a_damaged_checkpoint_means_training_from_the_start(tmp_path: Path) -> None:
    job = make_job(make_plan(tmp_path), 0, 0.01)
    Path(job.checkpoint or "").parent.mkdir()
    Path(job.checkpoint or "").write_bytes(b"half of a")
    assert TrialActor(job.to_config()).step()["epoch"] == 1
