"""Studies on a local Ray: states that agree, actors that are reused, curves that do not depend on the actor."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
import ray
import study_helpers
from mlflow import MlflowClient
from mlflow.entities import Run
from ray import cloudpickle, tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from study_helpers import OBJECTIVE, curve, make_job, make_plan, plant_failures, train_alone, write_tiny_file

from fmasearch.config import SearchConfig, derive_seed
from fmasearch.data import open_dataset, open_split
from fmasearch.errors import DataError, StudyError
from fmasearch.records import EpochResult, TrialRecord, TrialStart, TrialState
from fmasearch.searcher import state_of
from fmasearch.study import SearchResult, StudyPlan, run_jobs, run_search, start_runtime
from fmasearch.study import run as study_run
from fmasearch.study.actor import TrialActor
from fmasearch.study.callback import TrackerCallback
from fmasearch.study.run import build_scheduler, search_start
from fmasearch.study.runtime import _ENVIRONMENT
from fmasearch.tracking import CompositeTracker, JsonlTracker, MemoryTracker, default_uri, read_journal
from fmasearch.tracking.base import Tracker
from fmasearch.tracking.jsonl import Journal, TrialJournal
from fmasearch.tracking.mlflow_tracker import MlflowTracker

pytestmark = pytest.mark.ray

CONCURRENCY = 2
# Two strong points first, then one that diverges, one whose worker dies, and weak ones that learn nothing.
MIXED = """
  strong: {optimizer/learning_rate: 0.03, optimizer/weight_decay: 0.0}
  strong_too: {optimizer/learning_rate: 0.02, optimizer/weight_decay: 0.0}
  diverges: {optimizer/learning_rate: 0.6, optimizer/weight_decay: 0.0}
  dies: {optimizer/learning_rate: 0.95, optimizer/weight_decay: 0.0}
  weak: {optimizer/learning_rate: 1e-7, optimizer/weight_decay: 0.0}
  weak_too: {optimizer/learning_rate: 2e-7, optimizer/weight_decay: 0.0}
  weak_three: {optimizer/learning_rate: 3e-7, optimizer/weight_decay: 0.0}
"""
MIXED_SEARCH = {
    "num_trials": 8,  # the last is the sampler's
    "max_epochs": 12,
    "sampler": {"name": "random"},
    "scheduler": {"name": "asha", "grace_period": 6, "reduction_factor": 2},
}
RUN_STATES = {"FINISHED": TrialState.COMPLETED, "KILLED": TrialState.PRUNED, "FAILED": TrialState.FAILED}


class RecordingCallback(TrackerCallback):
    """Keeps what Ray itself says: worker pids by trial, and its trials at the end."""

    pids: dict[str, int]
    trials: list[Trial]

    def on_trial_result(self, iteration: int, trials: list[Trial], trial: Trial, result: Any, **info: Any) -> None:
        super().on_trial_result(iteration, trials, trial, result, **info)
        self.pids[str(trial)] = result["pid"]

    def on_experiment_end(self, trials: list[Trial], **info: Any) -> None:
        self.trials.extend(trials)


@dataclass(frozen=True)
class Ran:
    """A search that was run, and everybody's view of it."""

    plan: StudyPlan
    result: SearchResult
    memory: MemoryTracker
    pids: dict[str, int]
    ray_trials: list[Trial]
    runs: list[Run]

    @property
    def by_name(self) -> dict[str, TrialRecord]:
        return {trial.name: trial for trial in self.result.trials}

    @property
    def by_label(self) -> dict[str | None, TrialRecord]:
        return {trial.start.label: trial for trial in self.result.trials}


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    """One Ray for all tests of this file, whose workers have failures planted."""
    with pytest.MonkeyPatch.context() as patch:
        for key, value in _ENVIRONMENT.items():
            patch.setenv(key, value)
        patch.delenv("RAY_ADDRESS", raising=False)
        cloudpickle.register_pickle_by_value(study_helpers)
        ray.init(
            num_cpus=CONCURRENCY,
            include_dashboard=False,
            log_to_driver=False,
            object_store_memory=100 * 2**20,
            runtime_env={"worker_process_setup_hook": plant_failures},
        )
        yield
        ray.shutdown()
        cloudpickle.unregister_pickle_by_value(study_helpers)


@pytest.fixture(scope="module")
def mixed(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """A study with finished, pruned, diverged and killed trials, two at a time."""
    return search(make_plan(tmp_path_factory.mktemp("mixed"), known_good=MIXED, **MIXED_SEARCH))


def search(plan: StudyPlan) -> Ran:
    """Run the search with journal, memory and MLflow, as `tune` does."""
    root = plan.folder.root.parent
    memory = MemoryTracker()
    mlflow = MlflowTracker(default_uri(root), "tiny", plan.name, objective=OBJECTIVE)
    tracker = CompositeTracker([JsonlTracker(plan.folder.journal), mlflow, memory])
    pids: dict[str, int] = {}
    trials: list[Trial] = []
    callback = type("Recording", (RecordingCallback,), {"pids": pids, "trials": trials})
    with pytest.MonkeyPatch.context() as patch, start_runtime(plan.search) as runtime:
        patch.setattr(study_run, "TrackerCallback", callback)
        result = run_search(plan, OBJECTIVE, runtime, tracker)
    tracker.close("finished")
    client = MlflowClient(default_uri(root))
    [experiment] = [e for e in client.search_experiments() if e.name == "tiny"]
    runs = [r for r in client.search_runs([experiment.experiment_id]) if r.data.tags["fmasearch.stage"] == "search"]
    return Ran(plan, result, memory, pids, trials, runs)


def optuna_states(plan: StudyPlan) -> dict[str, TrialState]:
    """Read back from the file, without our code."""
    study = optuna.load_study(study_name="fmasearch", storage=f"sqlite:///{plan.folder.optuna_file}")
    started = [trial for trial in study.trials if trial.state is not optuna.trial.TrialState.WAITING]
    return {f"t{trial.number:04d}": state_of(trial) for trial in started}


def mlflow_states(ran: Ran) -> dict[str, TrialState]:
    assert len({run.info.run_name for run in ran.runs}) == len(ran.runs)
    return {run.info.run_name: RUN_STATES[run.info.status] for run in ran.runs}


def journal_states(plan: StudyPlan) -> dict[str, TrialState | None]:
    journal = read_journal(plan.folder.journal)
    return {name: trial.record.state if trial.record else None for name, trial in journal.trials.items()}


def ray_state(trial: Trial) -> TrialState:
    """Ray knows ERROR and TERMINATED, and by its last result whether a terminated trial had finished."""
    if trial.status == Trial.ERROR:
        return TrialState.FAILED
    assert trial.status == Trial.TERMINATED
    return TrialState.COMPLETED if trial.last_result["finished"] else TrialState.PRUNED


def test_ray_optuna_mlflow_and_the_journal_agree_on_every_trial(mixed: Ran) -> None:
    states = {trial.name: trial.state for trial in mixed.result.trials}
    assert sorted(states) == [f"t{number:04d}" for number in range(8)]
    assert set(states.values()) == {TrialState.COMPLETED, TrialState.PRUNED, TrialState.FAILED}
    assert {str(trial): ray_state(trial) for trial in mixed.ray_trials} == states
    assert optuna_states(mixed.plan) == states
    assert mlflow_states(mixed) == states
    assert journal_states(mixed.plan) == states
    assert {name: record.state for name, record in mixed.memory.records.items()} == states


def test_planted_trials_end_as_they_must(mixed: Ran) -> None:
    ended = {label: trial.state for label, trial in mixed.by_label.items()}
    assert TrialState.COMPLETED in (ended["strong"], ended["strong_too"])
    assert ended["diverges"] is ended["dies"] is TrialState.FAILED
    assert ended["weak"] is ended["weak_too"] is ended["weak_three"] is TrialState.PRUNED


def test_a_pruned_trial_stopped_at_a_rung(mixed: Ran) -> None:
    assert {len(mixed.by_label[label].epochs) for label in ("weak", "weak_too", "weak_three")} == {6}


def test_a_failed_trial_keeps_its_epochs_and_its_reason(mixed: Ran) -> None:
    diverged, died = mixed.by_label["diverges"], mixed.by_label["dies"]
    assert [len(diverged.epochs), len(died.epochs)] == [1, 1]
    assert diverged.error is not None
    assert diverged.error.startswith("DivergedError: epoch 2: train_loss=nan")
    assert died.error is not None


def test_optuna_has_the_curve_of_every_trial(mixed: Ran) -> None:
    study = optuna.load_study(study_name="fmasearch", storage=f"sqlite:///{mixed.plan.folder.optuna_file}")
    for frozen in study.trials:
        record = mixed.by_name[f"t{frozen.number:04d}"]
        assert frozen.intermediate_values == {e.epoch: e.best_objective for e in record.epochs}
        assert frozen.params == record.start.params


def test_the_seed_of_a_trial_follows_from_study_seed_and_number(mixed: Ran) -> None:
    for trial in mixed.result.trials:
        assert trial.start.seed == trial.start.config["seed"] == derive_seed(0, "trial", trial.start.number)


def test_actors_are_reused(mixed: Ran) -> None:
    """Eight trials; only a failure costs a worker, and the third may be started before Ray knows of the first."""
    failures = 2
    assert len(mixed.pids) == 8
    assert len(set(mixed.pids.values())) <= CONCURRENCY + failures < 8


def test_a_trial_in_a_reused_actor_equals_a_fresh_trainer_without_ray(mixed: Ran) -> None:
    for trial in mixed.result.trials:
        if trial.state is not TrialState.FAILED:
            alone = train_alone(trial.start.config, mixed.plan.data, max_epochs=len(trial.epochs))
            assert curve(trial.epochs) == alone, trial.name


def test_ray_leaves_no_files_and_no_checkpoints_behind(mixed: Ran) -> None:
    folder = mixed.plan.folder
    assert sorted(path.name for path in folder.root.iterdir()) == ["journal.jsonl", "optuna.db"]


def test_a_finished_search_that_is_run_again_trains_nothing(mixed: Ran, local_ray: None) -> None:
    tracker = MemoryTracker()
    with start_runtime(mixed.plan.search) as runtime:
        again = run_search(mixed.plan, OBJECTIVE, runtime, tracker)
    assert (again.trials, again.interrupted) == (mixed.result.trials, False)
    assert tracker.starts == {}


@pytest.fixture(scope="module")
def blind(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """Random search without a scheduler, on a file whose test rows cannot be read."""
    root = tmp_path_factory.mktemp("blind")
    data = write_tiny_file(root / "unreadable.h5", test_is_readable=False)
    plan = make_plan(root, data=data, num_trials=3, sampler={"name": "random"}, scheduler={"name": "none"})
    return search(plan)


def test_the_test_rows_of_the_unreadable_file_raise_when_read(blind: Ran) -> None:
    dataset = open_dataset(blind.plan.data)
    with pytest.raises(DataError, match="labels/genre"):
        open_split(blind.plan.data, "test", dataset.normalisers)


def test_a_search_completes_though_the_test_split_is_unreadable(blind: Ran) -> None:
    assert [trial.state for trial in blind.result.trials] == [TrialState.COMPLETED] * 3


def test_the_test_rows_have_no_influence_on_any_curve(blind: Ran, tmp_path: Path) -> None:
    intact = make_plan(tmp_path)
    for trial in blind.result.trials:
        assert curve(trial.epochs) == train_alone(trial.start.config, intact.data)


def test_without_a_scheduler_every_trial_trains_to_the_end(blind: Ran) -> None:
    assert [len(trial.epochs) for trial in blind.result.trials] == [blind.plan.search.max_epochs] * 3


def test_the_time_budget_ends_running_trials_in_every_store(local_ray: None, tmp_path: Path) -> None:
    unending = {"max_epochs": 100_000, "time_budget_seconds": 6, "scheduler": {"name": "none"}, "num_trials": 20}
    ran = search(make_plan(tmp_path, known_good="  a: {optimizer/learning_rate: 0.01}", **unending))
    states = {trial.name: trial.state for trial in ran.result.trials}
    assert not ran.result.interrupted
    assert states == dict.fromkeys(("t0000", "t0001"), TrialState.PRUNED)
    assert optuna_states(ran.plan) == mlflow_states(ran) == journal_states(ran.plan) == states
    # `seconds` is the time of the search, not the sum over trials that ran beside each other.
    assert 6 <= ran.result.seconds < 20


def test_a_budget_that_ends_before_any_epoch_leaves_failed_trials(local_ray: None, tmp_path: Path) -> None:
    ran = search(make_plan(tmp_path, time_budget_seconds=0.01))
    states = {trial.name: trial.state for trial in ran.result.trials}
    assert set(states.values()) <= {TrialState.FAILED}
    assert optuna_states(ran.plan) == mlflow_states(ran) == journal_states(ran.plan) == states


def test_a_training_that_was_cut_off_goes_on_from_its_checkpoint(local_ray: None, tmp_path: Path) -> None:
    """Three epochs in an actor that is then gone; the fourth is in its checkpoint's future."""
    plan = make_plan(tmp_path, max_epochs=6)
    job = make_job(plan, 0, 0.01, checkpoint_seconds=0.0)
    told = tuple(EpochResult.from_json(result["result"]) for result in steps(TrialActor(job.to_config()), 4))
    tracker = MemoryTracker()
    with start_runtime(plan.search) as runtime:
        earlier = {job.start.name: told}
        run_jobs(plan, [job.start], runtime, tracker, objective=OBJECTIVE, earlier=earlier)
    record = tracker.records[job.start.name]
    assert record.state is TrialState.COMPLETED
    assert curve(record.epochs) == train_alone(job.start.config, plan.data)
    assert curve(record.epochs[:3]) == curve(told[:3])
    assert not Path(job.checkpoint_file).exists()


def test_a_trial_that_fits_nowhere_is_refused(local_ray: None) -> None:
    with (
        pytest.raises(StudyError, match="one trial wants cpu=3, gpu=0, but there are cpu=2"),
        start_runtime(SearchConfig.model_validate({"resources": {"cpu": 3, "gpu": 0}})),
    ):
        pass


def test_concurrency_is_what_the_resources_hold_and_no_more_than_asked(local_ray: None) -> None:
    def concurrency(**search: Any) -> int:
        with start_runtime(SearchConfig.model_validate(search)) as runtime:
            return runtime.concurrency

    assert concurrency() == 2
    assert concurrency(resources={"cpu": 0.5}) == 4
    assert concurrency(resources={"cpu": 2}) == 1
    assert concurrency(max_concurrent=1) == 1
    assert concurrency(max_concurrent=9) == 2


def steps(actor: TrialActor, count: int) -> list[dict[str, Any]]:
    return [actor.step() for _ in range(count)]


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


def test_a_trial_is_named_after_its_number(tmp_path: Path) -> None:
    start = search_start(make_plan(tmp_path), 12, {"optimizer/learning_rate": 0.01})
    assert (start.number, start.name) == (12, "t0012")
    assert start.config["trainer"]["max_epochs"] == 4
