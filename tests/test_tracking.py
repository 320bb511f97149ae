"""Trackers: one contract for all of them, the journal after a kill, and MLflow's states."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from fmasearch.errors import StudyError
from fmasearch.records import (
    ConfirmRecord,
    EpochResult,
    FinalRecord,
    Interval,
    Objective,
    TestReport,
    TrialRecord,
    TrialStart,
    TrialState,
)
from fmasearch.tracking import (
    CompositeTracker,
    JsonlTracker,
    MemoryTracker,
    Tracker,
    default_uri,
    read_journal,
    replay,
    ui_command,
)
from fmasearch.tracking.mlflow_store import init_store, newest_page, open_experiment
from fmasearch.tracking.mlflow_tracker import MlflowTracker

OBJECTIVE = Objective("val_macro_f1", "max")


def epoch(number: int, objective: float = 0.5) -> EpochResult:
    metrics = {"train_loss": 1.0 / number, "val_macro_f1": objective}
    return EpochResult(number, metrics, 1e-3, 0.25, objective, best_objective=objective, best_epoch=number)


def start(number: int = 0) -> TrialStart:
    config = {"features": ["mel"], "optimizer": {"learning_rate": 3e-4, "name": "adamw"}}
    return TrialStart(number, f"trial-{number:04d}", {"optimizer/learning_rate": 3e-4}, config, seed=7)


def record(number: int, state: TrialState, *objectives: float, error: str | None = None) -> TrialRecord:
    epochs = tuple(epoch(i, value) for i, value in enumerate(objectives, start=1))
    return TrialRecord(start(number), state, epochs, seconds=1.5, error=error)


COMPLETED = record(0, TrialState.COMPLETED, 0.4, 0.6, 0.7)
PRUNED = record(1, TrialState.PRUNED, 0.2)
FAILED = record(2, TrialState.FAILED, error="the loss is NaN in epoch 1")


def tell(tracker: Tracker, *records: TrialRecord) -> None:
    for trial in records:
        tracker.start_trial(trial.start)
        for result in trial.epochs:
            tracker.log_epoch(trial.name, result)
        tracker.finish_trial(trial)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new sqlite store; MLflow takes a second or more to create its schema."""
    folder = tmp_path_factory.mktemp("mlflow")
    init_store(default_uri(folder))
    return folder / "mlflow.db"


@pytest.fixture
def store(empty_store: Path, tmp_path: Path) -> str:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return default_uri(tmp_path)


OpenTracker = Callable[..., MlflowTracker]


@pytest.fixture
def open_mlflow(store: str) -> OpenTracker:
    def open_tracker(**settings: object) -> MlflowTracker:
        return MlflowTracker(store, "cnn_gru", "my-study", objective=OBJECTIVE, **settings)  # type: ignore[arg-type]

    return open_tracker


def runs(store: str, stage: str = "search") -> dict[str, Run]:
    """Runs of one stage by name; fails when two share a name."""
    found = MlflowClient(store).search_runs(["1"], f"tags.`fmasearch.stage` = '{stage}'")
    named = {run.info.run_name: run for run in found}
    assert len(named) == len(found)
    return named


def history(store: str, run: Run, metric: str) -> list[tuple[int, float]]:
    return [(m.step, m.value) for m in MlflowClient(store).get_metric_history(run.info.run_id, metric)]


# The contract: what every tracker does, read back from where it keeps it.


def read_memory(tracker: MemoryTracker, folder: Path) -> dict[str, tuple[str, list[float]]]:
    return {name: (r.state, [e.objective for e in r.epochs]) for name, r in tracker.records.items()}


def read_jsonl(tracker: JsonlTracker, folder: Path) -> dict[str, tuple[str, list[float]]]:
    found = read_journal(folder / "trials.jsonl").finished
    return {r.name: (r.state, [e.objective for e in r.epochs]) for r in found}


def read_mlflow(tracker: MlflowTracker, folder: Path) -> dict[str, tuple[str, list[float]]]:
    uri = default_uri(folder)
    states = {"FINISHED": "completed", "KILLED": "pruned", "FAILED": "failed"}
    return {
        name: (states[run.info.status], [value for _, value in history(uri, run, "val_macro_f1")])
        for name, run in runs(uri).items()
    }


@pytest.fixture(params=["memory", "jsonl", "mlflow", "composite"])
def tracker_and_reader(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Tracker, Callable[..., object]]:
    if request.param == "mlflow":
        return request.getfixturevalue("open_mlflow")(), read_mlflow
    if request.param == "jsonl":
        return JsonlTracker(tmp_path / "trials.jsonl"), read_jsonl
    if request.param == "memory":
        return MemoryTracker(), read_memory
    both = CompositeTracker([JsonlTracker(tmp_path / "trials.jsonl"), MemoryTracker()])
    return (
        both,
        lambda tracker, folder: read_memory(tracker.trackers[1], folder) | read_jsonl(tracker, folder),
    )


def test_every_tracker_keeps_the_state_and_curve_of_every_trial(tracker_and_reader, tmp_path):
    tracker, reader = tracker_and_reader
    tell(tracker, COMPLETED, PRUNED, FAILED)
    tracker.close("finished")
    assert reader(tracker, tmp_path) == {
        "trial-0000": ("completed", [0.4, 0.6, 0.7]),
        "trial-0001": ("pruned", [0.2]),
        "trial-0002": ("failed", []),
    }


def test_every_tracker_takes_the_record_of_a_trial_that_it_never_heard_of(tracker_and_reader, tmp_path):
    tracker, reader = tracker_and_reader
    tracker.finish_trial(PRUNED)
    tracker.close("finished")
    assert reader(tracker, tmp_path) == {"trial-0001": ("pruned", [0.2])}


def test_every_tracker_takes_a_trial_that_is_cut_off_and_started_again_as_one(tracker_and_reader, tmp_path):
    tracker, reader = tracker_and_reader
    tracker.start_trial(COMPLETED.start)
    tracker.log_epoch("trial-0000", COMPLETED.epochs[0])
    tell(tracker, COMPLETED)
    tracker.close("finished")
    assert reader(tracker, tmp_path) == {"trial-0000": ("completed", [0.4, 0.6, 0.7])}


def test_a_composite_closes_every_tracker_even_when_one_fails():
    class Broken(MemoryTracker):
        def close(self, status):
            raise OSError("disk full")

    memory = MemoryTracker()
    with pytest.raises(OSError, match="disk full"):
        CompositeTracker([Broken(), memory]).close("failed")
    assert memory.status == "failed"


# The journal


def test_a_journal_reads_back_what_was_written(tmp_path):
    tracker = JsonlTracker(tmp_path / "study" / "trials.jsonl")
    tell(tracker, COMPLETED, FAILED)
    tracker.close("finished")
    journal = read_journal(tmp_path / "study" / "trials.jsonl")
    assert journal.finished == (COMPLETED, FAILED)
    assert (journal.status, journal.num_epochs) == ("finished", 3)


def test_an_absent_journal_is_an_empty_one(tmp_path):
    assert read_journal(tmp_path / "none.jsonl").trials == {}


def test_a_running_trial_is_readable_before_the_tracker_is_closed(tmp_path):
    tracker = JsonlTracker(tmp_path / "trials.jsonl")
    tracker.start_trial(start(3))
    tracker.log_epoch("trial-0003", epoch(1))
    (running,) = read_journal(tmp_path / "trials.jsonl").unfinished
    assert (running.start, running.epochs, running.record) == (start(3), (epoch(1),), None)


@pytest.mark.parametrize("lost", [1, 2, 40])
def test_a_cut_last_line_is_ignored_and_the_journal_goes_on_after_it(tmp_path, lost):
    path = tmp_path / "trials.jsonl"
    tell(JsonlTracker(path), COMPLETED, PRUNED)
    path.write_bytes(path.read_bytes()[:-lost])  # lost=1 cuts only the newline
    assert read_journal(path).finished == (COMPLETED,)
    JsonlTracker(path).finish_trial(PRUNED)
    assert read_journal(path).finished == (COMPLETED, PRUNED)


def test_epochs_of_an_attempt_that_was_given_up_are_forgotten(tmp_path):
    tracker = JsonlTracker(tmp_path / "trials.jsonl")
    tracker.start_trial(start())
    for result in (epoch(1, 0.1), epoch(2, 0.2), epoch(3, 0.3)):
        tracker.log_epoch("trial-0000", result)
    tracker.start_trial(start())  # goes on from a checkpoint after epoch 1
    assert [e.epoch for e in read_journal(tmp_path / "trials.jsonl").trials["trial-0000"].epochs] == [1, 2, 3]
    tracker.log_epoch("trial-0000", epoch(2, 0.9))
    trial = read_journal(tmp_path / "trials.jsonl").trials["trial-0000"]
    assert [e.objective for e in trial.epochs] == [0.1, 0.9]


def test_a_reopened_study_is_no_longer_closed(tmp_path):
    JsonlTracker(tmp_path / "trials.jsonl").close("interrupted")
    assert read_journal(tmp_path / "trials.jsonl").status == "interrupted"
    JsonlTracker(tmp_path / "trials.jsonl").start_trial(start())
    assert read_journal(tmp_path / "trials.jsonl").status is None


@pytest.mark.parametrize("line", ["nonsense", '{"event":"party"}', '{"event":"epoch","name":"trial-0009"}'])
def test_a_damaged_line_is_named(tmp_path, line):
    (tmp_path / "trials.jsonl").write_text('{"event":"close","status":"failed"}\n' + line + "\n")
    with pytest.raises(StudyError, match=r"trials\.jsonl:2: not an event"):
        read_journal(tmp_path / "trials.jsonl")


# MLflow


def test_a_study_is_a_parent_run_and_a_child_for_every_trial(open_mlflow, store):
    tags = {"mlflow.source.git.commit": "abc123", "fmasearch.space_hash": "feed"}
    tracker = open_mlflow(tags=tags, params={"sampler": {"name": "tpe"}, "num_trials": 3})
    tell(tracker, COMPLETED, PRUNED, FAILED)
    tracker.close("finished")
    parent, children = runs(store, "study")["my-study"], runs(store)
    assert parent.info.status == "FINISHED"
    assert parent.data.params == {"sampler/name": "tpe", "num_trials": "3"}
    assert tags.items() <= parent.data.tags.items()
    assert {c.data.tags["mlflow.parentRunId"] for c in children.values()} == {parent.info.run_id}
    assert {c.data.tags["mlflow.source.git.commit"] for c in children.values()} == {"abc123"}
    assert children["trial-0002"].data.tags["fmasearch.error"] == "the loss is NaN in epoch 1"
    # Of 3 trials, epochs 3 + 1 + 0; the best of those that did not fail is the completed one's 0.7.
    assert history(store, parent, "best_val_macro_f1") == [(1, 0.7), (2, 0.7), (3, 0.7)]
    expected = {"num_completed": 1, "num_pruned": 1, "num_failed": 1, "num_epochs": 4}
    assert expected.items() <= parent.data.metrics.items()


def test_a_trial_logs_its_metrics_by_epoch_and_nothing_else(open_mlflow, store):
    tell(open_mlflow(), COMPLETED)
    run = runs(store)["trial-0000"]
    assert history(store, run, "val_macro_f1") == [(1, 0.4), (2, 0.6), (3, 0.7)]
    assert history(store, run, "learning_rate") == [(1, 1e-3), (2, 1e-3), (3, 1e-3)]
    assert set(run.data.metrics) == {
        *("train_loss", "val_macro_f1", "learning_rate", "epoch_seconds"),
        *("best_val_macro_f1", "best_epoch", "num_epochs"),
    }
    assert run.data.params == {
        "optimizer/learning_rate": "0.0003",
        "optimizer/name": "adamw",
        "features": '["mel"]',
    }


def test_a_resumed_study_goes_on_in_the_same_runs(open_mlflow, store):
    first = open_mlflow(params={"num_trials": 2})
    tell(first, COMPLETED)
    first.start_trial(PRUNED.start)
    first.close("interrupted")
    assert runs(store)["trial-0001"].data.tags["fmasearch.state"] == "interrupted"
    second = open_mlflow(params={"num_trials": 5}, resume=True)  # other settings must not stop it
    assert second.parent_run_id == first.parent_run_id
    assert runs(store, "study")["my-study"].info.status == "RUNNING"
    second.start_trial(PRUNED.start)
    assert runs(store)["trial-0001"].info.status == "RUNNING"
    second.finish_trial(PRUNED)
    second.close("finished")
    assert {n: r.info.status for n, r in runs(store).items()} == {
        "trial-0000": "FINISHED",
        "trial-0001": "KILLED",
    }
    assert runs(store, "study")["my-study"].data.metrics["num_epochs"] == 4  # 3 + 1, over both lives


def test_epochs_that_were_flushed_before_a_kill_are_not_logged_twice(open_mlflow, store):
    killed = open_mlflow(flush_seconds=0)
    killed.start_trial(COMPLETED.start)
    killed.log_epoch("trial-0000", COMPLETED.epochs[0])
    tell(open_mlflow(resume=True), COMPLETED)
    assert history(store, runs(store)["trial-0000"], "val_macro_f1") == [(1, 0.4), (2, 0.6), (3, 0.7)]


def test_a_replayed_journal_brings_mlflow_up_to_date_without_touching_what_is_there(open_mlflow, store, tmp_path):
    journal = JsonlTracker(tmp_path / "trials.jsonl")
    tell(CompositeTracker([journal, open_mlflow()]), COMPLETED)
    tell(journal, FAILED)  # killed before MLflow was told
    replay(read_journal(tmp_path / "trials.jsonl"), open_mlflow(resume=True))
    assert {n: r.info.status for n, r in runs(store).items()} == {
        "trial-0000": "FINISHED",
        "trial-0002": "FAILED",
    }
    assert len(history(store, runs(store)["trial-0000"], "val_macro_f1")) == 3


def test_a_study_that_is_not_resumed_gets_a_parent_of_its_own(open_mlflow):
    assert open_mlflow().parent_run_id != open_mlflow().parent_run_id


def test_batches_beyond_mlflows_limits_are_split(open_mlflow, store):
    many = replace(start(), config={f"key{i}": i for i in range(150)})  # its limit is 100 params
    epochs = tuple(epoch(i) for i in range(1, 301))  # 4 metrics each: 1200, its limit is 1000
    tell(open_mlflow(), TrialRecord(many, TrialState.COMPLETED, epochs, seconds=1.0))
    run = runs(store)["trial-0000"]
    assert len(run.data.params) == 151
    assert [step for step, _ in history(store, run, "epoch_seconds")] == list(range(1, 301))


def test_confirmations_are_children_of_their_own_stage(open_mlflow, store):
    curves = (COMPLETED, record(1, TrialState.COMPLETED, 0.5))
    confirmed = ConfirmRecord("trial-0000", {}, {}, curves)
    open_mlflow().log_confirmation([confirmed])
    open_mlflow(resume=True).log_confirmation([confirmed])  # told again by a resumed study: no duplicates
    assert set(runs(store, "confirm")) == {"confirm-trial-0000-seed0", "confirm-trial-0000-seed1"}
    assert runs(store) == {}
    mean = runs(store, "study")["my-study"].data.metrics["confirmed_val_macro_f1_mean"]
    assert mean == pytest.approx(0.6)  # (0.7 + 0.5) / 2


def test_the_final_model_lands_on_the_parent(open_mlflow, store, tmp_path):
    intervals = {"macro_f1": Interval(0.66, 0.6, 0.7)}
    test = TestReport("test", 40, {"macro_f1": 0.66}, intervals, "artist", baseline={"macro_f1": 0.125})
    final = FinalRecord("trial-0000", {}, "train", 3, COMPLETED.epochs, {}, test, 1234, "model.pt", 9.0)
    (tmp_path / "results").mkdir()
    for name in ("model.pt", "results/README.md"):
        (tmp_path / name).write_text("here")
    tracker = open_mlflow()
    tracker.log_final(final, [tmp_path / "model.pt", tmp_path / "results"])
    tracker.describe("**0.66**")
    parent = runs(store, "study")["my-study"]
    expected = {
        "test_macro_f1": 0.66,
        "test_macro_f1_low": 0.6,
        "test_baseline_macro_f1": 0.125,
        "num_parameters": 1234,
    }
    assert expected.items() <= parent.data.metrics.items()
    assert parent.data.tags["fmasearch.winner"] == "trial-0000"
    paths = {item.path for item in MlflowClient(store).list_artifacts(parent.info.run_id)}
    assert paths == {"model.pt", "results"}
    assert (tmp_path / "mlartifacts").is_dir()


def test_a_deleted_experiment_is_explained(open_mlflow, store):
    open_mlflow()
    MlflowClient(store).delete_experiment("1")
    with pytest.raises(StudyError, match="mlflow experiments restore"):
        open_mlflow()


def test_a_store_that_is_not_mlflows_is_a_study_error(tmp_path):
    (tmp_path / "mlflow.db").write_text("not a database, but long enough to look at its header" * 20)
    with pytest.raises(StudyError, match="MLflow cannot open this store"):
        init_store(default_uri(tmp_path))


def test_opening_a_store_is_silent(tmp_path, capfd):
    init_store(default_uri(tmp_path / "new"))
    assert capfd.readouterr() == ("", "")


def test_the_server_is_bound_to_this_machine(tmp_path):
    command = ui_command(default_uri(tmp_path), 5001)
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert command[command.index("--port") + 1] == "5001"
    assert f"sqlite:///{tmp_path}/mlflow.db" in command


def test_the_page_to_open_is_the_newest_experiments_training_runs(store: str) -> None:
    client = init_store(store)
    open_experiment(client, "first")
    time.sleep(0.005)  # creation times are milliseconds
    newest = open_experiment(client, "second")
    expected = f"http://127.0.0.1:5000/#/experiments/{newest}/runs?workflowType=machine_learning"
    assert newest_page(store, 5000) == expected
