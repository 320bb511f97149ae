"""Studies on a local Ray: states that agree, actors that are reused, curves that do not depend on the actor."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pytest
import ray
from mlflow import MlflowClient
from mlflow.entities import Run
from ray import cloudpickle
from ray.tune.experiment import Trial

import study_helpers
from fmasearch.config import SearchConfig, derive_seed
from fmasearch.data import open_dataset, open_split
from fmasearch.errors import DataError, StudyError
from fmasearch.records import EpochResult, TrialRecord, TrialState
from fmasearch.searcher import open_study, state_of
from fmasearch.study import Runtime, SearchResult, StudyPlan, run_jobs, run_search, start_runtime
from fmasearch.study import run as study_run
from fmasearch.study.actor import TrialActor
from fmasearch.study.callback import TrackerCallback
from fmasearch.study.run import search_start
from fmasearch.study.runtime import _ENVIRONMENT
from fmasearch.tasks import Classification
from fmasearch.tasks.kept import read_kept
from fmasearch.tasks.resampled import resampled_objective
from fmasearch.tracking import CompositeTracker, JsonlTracker, MemoryTracker, default_uri, read_journal
from fmasearch.tracking.mlflow_tracker import MlflowTracker
from study_helpers import OBJECTIVE, curve, make_job, make_plan, plant_failures, steps, train_alone, write_tiny_file

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]

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
    "scheduler": {"name": "asha", "grace_period": 6, "reduction_factor": 3},  # one rung, at 6
}
RUN_STATES = {"FINISHED": TrialState.COMPLETED, "KILLED": TrialState.PRUNED, "FAILED": TrialState.FAILED}

HANDLER = signal.getsignal(signal.SIGINT)
"""What Ctrl-C does before any search: Python's own, or nothing where tests run in the background."""


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
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One MLflow store for all: a new one takes seconds."""
    return default_uri(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def mixed(local_ray: None, store: str, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """A study with finished, pruned, diverged and killed trials, two at a time."""
    return search(make_plan(tmp_path_factory.mktemp("mixed"), known_good=MIXED, **MIXED_SEARCH), store)


def search(plan: StudyPlan, store: str) -> Ran:
    """Run the search with journal, memory and MLflow, as `tune` does; its experiment is named after its folder."""
    name = plan.folder.root.parent.name
    memory = MemoryTracker()
    mlflow = MlflowTracker(store, name, plan.name, objective=OBJECTIVE)
    tracker = CompositeTracker([JsonlTracker(plan.folder.journal), mlflow, memory])
    pids: dict[str, int] = {}
    trials: list[Trial] = []
    callback = type("Recording", (RecordingCallback,), {"pids": pids, "trials": trials})
    with pytest.MonkeyPatch.context() as patch, start_runtime(plan.search) as runtime:
        patch.setattr(study_run, "TrackerCallback", callback)
        result = run_search(plan, OBJECTIVE, runtime, tracker)
    tracker.close("finished")
    client = MlflowClient(store)
    experiment = client.get_experiment_by_name(name)
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
    traceback = (mixed.plan.folder.errors / f"{diverged.name}.txt").read_text()
    assert "trainer.py" in traceback  # where it was raised, for whoever must mend it


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
    assert sorted(path.name for path in folder.root.iterdir()) == ["errors", "journal.jsonl", "optuna.db"]
    assert len(list(folder.errors.iterdir())) == 2  # the trial that diverged and the one whose worker died


def test_ctrl_c_is_python_s_own_again_after_a_search(mixed: Ran) -> None:
    """Ray leaves its handler behind, which would swallow a Ctrl-C in the final training."""
    assert signal.getsignal(signal.SIGINT) is HANDLER


def test_a_finished_search_that_is_run_again_trains_nothing(mixed: Ran, local_ray: None) -> None:
    tracker = MemoryTracker()
    with start_runtime(mixed.plan.search) as runtime:
        again = run_search(mixed.plan, OBJECTIVE, runtime, tracker)
    assert (again.trials, again.interrupted) == (mixed.result.trials, False)
    assert tracker.starts == {}


@pytest.fixture(scope="module")
def blind(local_ray: None, store: str, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """Random search without a scheduler, on a file whose test rows cannot be read."""
    root = tmp_path_factory.mktemp("blind")
    data = write_tiny_file(root / "unreadable.h5", test_is_readable=False)
    settings = {"sampler": {"name": "random"}, "scheduler": {"name": "none"}, "max_concurrent": 1}
    return search(make_plan(root, data=data, num_trials=3, **settings), store)


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


def test_the_time_budget_ends_running_trials_in_every_store(local_ray: None, store: str, tmp_path: Path) -> None:
    """What has epochs is pruned; a trial whose worker was still starting when the time was up has failed."""
    unending = {"max_epochs": 100_000, "max_concurrent": 1, "scheduler": {"name": "none"}}
    ran = search(make_plan(tmp_path, time_budget_seconds=5, **unending), store)
    states = {t.name: TrialState.PRUNED if t.epochs else TrialState.FAILED for t in ran.result.trials}
    assert not ran.result.interrupted
    assert list(states) == ["t0000"]
    assert {trial.name: trial.state for trial in ran.result.trials} == states
    assert optuna_states(ran.plan) == mlflow_states(ran) == journal_states(ran.plan) == states


def test_a_trial_that_was_cut_off_before_it_started_has_failed_everywhere(tmp_path: Path) -> None:
    plan, tracker = make_plan(tmp_path, num_trials=2), MemoryTracker()
    study = open_study(plan.folder.optuna_file, plan.search, plan.space, OBJECTIVE, concurrency=1)
    plan.space.sample(study.ask())
    study_run._close_cut_off(study, plan, CompositeTracker([JsonlTracker(plan.folder.journal), tracker]))
    assert optuna_states(plan) == journal_states(plan) == {"t0000": TrialState.FAILED}
    assert tracker.records["t0000"].error == "the time budget ended before its first epoch"


def test_a_search_whose_time_is_used_up_trains_no_more(tmp_path: Path) -> None:
    plan, tracker = make_plan(tmp_path, time_budget_seconds=5), MemoryTracker()
    journal = JsonlTracker(plan.folder.journal)
    journal.start_trial(search_start(plan, 0, {"optimizer/learning_rate": 0.01}))
    journal.log_epoch(
        "t0000", EpochResult(1, {}, 0.01, epoch_seconds=12.0, objective=0.5, best_objective=0.5, best_epoch=1)
    )
    runtime = Runtime(trial_cpus=1, trial_gpus=0, concurrency=2, on_cluster=False)
    open_study(plan.folder.optuna_file, plan.search, plan.space, OBJECTIVE, concurrency=2).ask()
    result = run_search(plan, OBJECTIVE, runtime, CompositeTracker([journal, tracker]))
    assert {trial.name: trial.state for trial in result.trials} == {"t0000": TrialState.PRUNED}
    assert 6 <= result.seconds < 12  # 12 s of training, two at a time


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
    kept = read_kept(plan.folder.confirm_outputs / f"{record.name}.npz")
    assert kept is not None  # and they are those of the best epoch, wherever that was trained
    task = Classification(kept.class_names)
    score = resampled_objective(task, kept.outputs_NK, kept.targets, kept.artist_ids_N, num_resamples=1, seed=0)
    assert record.best is not None
    assert score.value == pytest.approx(record.best.objective)
    assert not Path(job.checkpoint or "").exists()


def test_a_trial_that_fits_nowhere_is_refused(local_ray: None) -> None:
    with (
        pytest.raises(StudyError, match="one trial wants cpu=3, gpu=0, but there are cpu=2, gpu=0 on one machine"),
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


def test_a_trial_is_named_after_its_number(tmp_path: Path) -> None:
    start = search_start(make_plan(tmp_path), 12, {"optimizer/learning_rate": 0.01})
    assert (start.number, start.name) == (12, "t0012")
    assert start.config["trainer"]["max_epochs"] == 4
