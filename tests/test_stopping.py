"""Stopping by request: who may ask, who obeys, and what a study that was stopped looks like afterwards."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from conftest import run_cli
from fmasearch.errors import StudyError
from fmasearch.records import EpochResult, TrialRecord, TrialState
from fmasearch.space import Constraint
from fmasearch.study import SearchResult, StudyPlan, run_search, save_plan, start_runtime
from fmasearch.study.driver import driver_alive, driver_file, mark_driver, read_driver
from fmasearch.study.run import search_start
from fmasearch.study.stopping import SlowTrials, StopRequests, open_requests, request_stop, stop_requested
from fmasearch.tracking import CompositeTracker, JsonlTracker, default_uri, read_journal
from fmasearch.tracking.mlflow_tracker import MlflowTracker
from study_helpers import OBJECTIVE, make_plan
from test_study import RUN_STATES, optuna_states

ENDLESS = {"num_trials": 3, "max_epochs": 100_000, "max_concurrent": 2, "scheduler": {"name": "none"}}
"""Trials that a request always finds running, however long the process that asks takes to start."""


@pytest.fixture
def plan(tmp_path: Path) -> StudyPlan:
    """A study in `runs/study`, not started yet."""
    plan = make_plan(tmp_path / "runs", **ENDLESS)
    save_plan(plan)
    return plan


def result_of(plan: StudyPlan, trial: str) -> dict[str, Any]:
    return {"config": {"job": {"start": {"name": trial}}}}


def tell_running(plan: StudyPlan, *numbers: int) -> JsonlTracker:
    """A journal of trials that have trained one epoch."""
    journal = JsonlTracker(plan.folder.journal)
    for number in numbers:
        start = search_start(plan, number, {"optimizer/learning_rate": 0.01, "optimizer/weight_decay": 0.0})
        journal.start_trial(start)
        journal.log_epoch(start.name, EpochResult(1, {}, 1e-3, 0.5, 0.4, 0.4, 1))
    return journal


def test_a_driver_is_alive_for_as_long_as_it_says_so(plan: StudyPlan) -> None:
    assert driver_alive(plan.folder) is False
    with mark_driver(plan.folder):
        assert driver_alive(plan.folder) is True
    assert driver_alive(plan.folder) is False
    assert not driver_file(plan.folder).exists()


@pytest.mark.parametrize(
    ("changes", "alive"),
    [
        ({"pid": 2**22 + 1}, False),  # above the kernel's largest: nobody
        ({"pid_started": "1"}, False),  # the number is in use again, by a younger process
        ({"boot_id": "before the machine was started again"}, False),
        ({"host": "another"}, None),
        ({"pid_namespace": "pid:[1]"}, None),  # a container beside this one
    ],
)
def test_a_driver_that_is_dead_or_elsewhere_is_told_from_a_living_one(
    plan: StudyPlan, changes: dict[str, Any], alive: bool | None
) -> None:
    with mark_driver(plan.folder):
        values = json.loads(driver_file(plan.folder).read_text())
        driver_file(plan.folder).write_text(json.dumps({**values, **changes}))
        assert driver_alive(plan.folder) is alive


def test_a_study_is_run_by_one_process_at_a_time(plan: StudyPlan) -> None:
    with mark_driver(plan.folder), pytest.raises(StudyError, match=f"study: process {os.getpid()} of this machine"):
        mark_driver(plan.folder).__enter__()


def test_a_driver_that_was_killed_leaves_its_name_and_gives_way_to_the_next(plan: StudyPlan) -> None:
    code = "import os, sys; from pathlib import Path; from fmasearch.study.folder import StudyFolder\n"
    code += "from fmasearch.study.driver import mark_driver\n"
    code += "with mark_driver(StudyFolder(Path(sys.argv[1]))): os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", code, str(plan.folder.root)], check=False)
    assert read_driver(plan.folder) is not None
    assert driver_alive(plan.folder) is False
    with mark_driver(plan.folder):
        driver = read_driver(plan.folder)
    assert driver is not None
    assert driver.pid == os.getpid()


def test_requests_to_a_driver_that_is_gone_are_not_for_the_next(plan: StudyPlan) -> None:
    request_stop(plan.folder)
    with mark_driver(plan.folder):
        assert not stop_requested(plan.folder)


def test_only_the_trials_that_were_named_end(plan: StudyPlan) -> None:
    stopper = StopRequests(plan.folder)
    request_stop(plan.folder, ["t0003", "t0007"])
    verdicts = {name: stopper("any", result_of(plan, name)) for name in ("t0003", "t0004", "t0007")}
    assert verdicts == {"t0003": True, "t0004": False, "t0007": True}
    assert open_requests(plan.folder) == frozenset()  # taken


def test_a_trial_whose_epochs_take_longer_than_its_space_allows_ends_after_the_second(plan: StudyPlan) -> None:
    constraints = [Constraint("epoch_seconds", "<=", 10.0)]
    first = EpochResult(1, {}, 1e-3, 30.0, 0.4, 0.4, 1)  # slow, as first epochs are
    slow = SlowTrials(constraints, {"t0001": (first,)})  # an earlier session trained it

    def ends(trial: str, epoch: int, seconds: float) -> bool:
        result = replace(first, epoch=epoch, epoch_seconds=seconds)
        return slow("ray's name", {**result_of(plan, trial), "result": result.to_json()})

    assert not ends("t0000", 1, 30.0)
    assert not ends("t0000", 2, 9.0)  # the faster of the first two counts
    assert not ends("t0000", 3, 99.0)  # and later ones do not
    assert ends("t0001", 2, 11.0)


def test_a_driver_looks_twice_a_second_at_most(plan: StudyPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("fmasearch.study.stopping.time.monotonic", lambda: now)
    stopper = StopRequests(plan.folder)
    assert not stopper("any", result_of(plan, "t0003"))
    request_stop(plan.folder, ["t0003"])
    now = 100.4
    assert not stopper("any", result_of(plan, "t0003"))
    now = 100.6
    assert stopper("any", result_of(plan, "t0003"))


def test_the_whole_study_is_stopped_by_the_signal_of_ctrl_c(plan: StudyPlan) -> None:
    request_stop(plan.folder)
    with pytest.raises(KeyboardInterrupt), python_catches_ctrl_c():
        StopRequests(plan.folder).stop_all()
    assert open_requests(plan.folder) == frozenset()


@contextmanager
def python_catches_ctrl_c() -> Iterator[None]:
    """Also where tests run in the background, whose processes ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_request_that_nobody_would_read_is_refused(
    plan: StudyPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli(monkeypatch, "stop", "study", "--runs", tmp_path / "runs") == 2
    error = capsys.readouterr().err
    assert "study: nobody runs it" in error
    assert "tune --resume study" in error
    assert open_requests(plan.folder) == frozenset()


@pytest.mark.parametrize(
    ("trial", "words"),
    [
        ("t0009", "expected a running trial, got 't0009'; running: t0000, t0001"),
        ("t0002", "t0002 has ended: pruned after 1 epochs"),
    ],
)
def test_a_trial_that_is_not_running_cannot_be_stopped(
    plan: StudyPlan,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    trial: str,
    words: str,
) -> None:
    journal = tell_running(plan, 0, 1, 2)
    ended = read_journal(plan.folder.journal).trials["t0002"]
    journal.finish_trial(TrialRecord(ended.start, TrialState.PRUNED, ended.epochs, 1.0))
    with mark_driver(plan.folder):
        assert run_cli(monkeypatch, "stop", "study", "t0000", trial, "--runs", tmp_path / "runs") == 2
        assert words in capsys.readouterr().err
        assert open_requests(plan.folder) == frozenset()  # not the other one's either


def test_single_trials_are_not_stopped_once_the_search_has_ended(
    plan: StudyPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tell_running(plan, 0).close("finished")
    with mark_driver(plan.folder):
        assert run_cli(monkeypatch, "stop", "study", "t0000", "--runs", tmp_path / "runs") == 2
    assert "single trials can be stopped in the search only" in capsys.readouterr().err


def test_a_driver_that_does_not_answer_in_time_keeps_the_request(
    plan: StudyPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with mark_driver(plan.folder):
        assert run_cli(monkeypatch, "stop", "study", "--wait", "0.1", "--runs", tmp_path / "runs") == 1
        assert "has not read the request within 0m00s" in capsys.readouterr().out
        assert stop_requested(plan.folder)
        assert not stop_requested(plan.folder)  # told once


def test_a_driver_on_another_host_that_was_silent_for_long_is_sent_nothing(
    plan: StudyPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with mark_driver(plan.folder):
        driver = read_driver(plan.folder)
        assert driver is not None
        long_ago = time.time() - 1000  # the limit is 900 seconds
        driver_file(plan.folder).write_text(json.dumps(asdict(replace(driver, host="another", started=long_ago))))
        os.utime(plan.folder.plan_file, (long_ago, long_ago))
        assert run_cli(monkeypatch, "stop", "study", "--runs", tmp_path / "runs") == 2
    assert "nobody runs it" in capsys.readouterr().err


class Asked(threading.Thread):
    """`fmasearch stop ...` in a process of its own, as soon as the study's journal is `ready`."""

    def __init__(self, plan: StudyPlan, *trials: str, ready: Callable[[StudyPlan], bool]) -> None:
        super().__init__()
        self.plan, self.trials, self.ready = plan, trials, ready
        self.said = ""
        self.start()

    def run(self) -> None:
        deadline = time.monotonic() + 120
        while not self.ready(self.plan) and time.monotonic() < deadline:
            time.sleep(0.05)
        command = [sys.executable, "-m", "fmasearch", "stop", "study", *self.trials, "--runs"]
        done = subprocess.run([*command, str(self.plan.folder.root.parent)], capture_output=True, text=True)
        self.said = done.stdout + done.stderr


def search(plan: StudyPlan, store: str, *, resumed: bool = False) -> SearchResult:
    """As `tune` searches: with a journal, with MLflow, and with its name on the study."""
    journal = JsonlTracker(plan.folder.journal)
    mlflow = MlflowTracker(store, "stopping", plan.name, objective=OBJECTIVE, resume=resumed)
    with mark_driver(plan.folder), start_runtime(plan.search) as runtime:
        result = run_search(plan, OBJECTIVE, runtime, CompositeTracker([journal, mlflow]))
    status = "interrupted" if result.interrupted else "finished"
    journal.close(status)
    mlflow.close(status)
    return result


def has_learnt(*trials: str) -> Callable[[StudyPlan], bool]:
    """Whether these trials have trained an epoch."""

    def ready(plan: StudyPlan) -> bool:
        known = read_journal(plan.folder.journal).trials
        return all(name in known and known[name].epochs for name in trials)

    return ready


def mlflow_states(store: str) -> dict[str, TrialState]:
    client = MlflowClient(store)
    experiment = client.get_experiment_by_name("stopping")
    runs = client.search_runs([experiment.experiment_id], "tags.`fmasearch.stage` = 'search'")
    return {run.info.run_name: RUN_STATES[run.info.status] for run in runs}


@pytest.mark.ray
@pytest.mark.timeout(300)
def test_a_study_is_stopped_from_another_process_trial_by_trial_and_as_a_whole_and_goes_on(
    plan: StudyPlan, tmp_path: Path
) -> None:
    store = default_uri(tmp_path)
    whole = Asked(plan, ready=lambda plan: bool(read_journal(plan.folder.journal).finished))
    one = Asked(plan, "t0000", ready=has_learnt("t0000", "t0001"))
    assert search(plan, store).interrupted
    one.join()
    whole.join()
    # One trial was ended by name; the study was stopped while the others ran, which stay unfinished.
    assert one.said.startswith("t0000 pruned after")
    assert whole.said.startswith("stopped; nothing is lost.\nnext: ")
    assert f"tune --resume study --runs {plan.folder.root.parent}" in whole.said
    journal = read_journal(plan.folder.journal)
    assert journal.status == "interrupted"
    assert [record.name for record in journal.finished] == ["t0000"]
    assert "t0001" in {trial.start.name for trial in journal.unfinished}

    short = replace(plan, search=plan.search.model_copy(update={"max_epochs": 3}))  # no checkpoint: from the start
    result = search(short, store, resumed=True)
    assert not result.interrupted
    states = {record.name: record.state for record in result.trials}
    assert states == {"t0000": TrialState.PRUNED, "t0001": TrialState.COMPLETED, "t0002": TrialState.COMPLETED}
    assert optuna_states(plan) == states
    assert mlflow_states(store) == states
