"""A study that is stopped with Ctrl-C, resumed, killed, and resumed to its end: no trial is lost or run twice."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import optuna
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from fmasearch.cli import main
from fmasearch.data import DataSpec
from fmasearch.records import TrialRecord, TrialState
from fmasearch.searcher import state_of
from fmasearch.study import StudyFolder, save_plan
from fmasearch.tracking import default_uri, read_journal
from fmasearch.tracking.jsonl import Journal
from study_helpers import CONSTANTS, curve, make_plan, train_alone, write_tiny_file

pytestmark = [pytest.mark.ray, pytest.mark.timeout(400)]

NUM_TRIALS = 4
SPACE = f"{CONSTANTS}\noptimizer:\n  learning_rate: {{float: [1e-3, 3e-2], log: true}}\n"
SEARCH = f"""
sampler: {{name: random, min_distance: null}}  # so that trials are numbered without gaps
scheduler: {{name: asha, grace_period: 30, reduction_factor: 2}}
num_trials: {NUM_TRIALS}
max_epochs: 60
max_concurrent: 2
resources: {{cpu: 1, gpu: 0}}
patience: null
checkpoint_seconds: 0.1
confirm: {{top_k: 1, seeds: 1}}
"""
MLFLOW_STATES = {"FINISHED": TrialState.COMPLETED, "KILLED": TrialState.PRUNED, "FAILED": TrialState.FAILED}


@dataclass(frozen=True)
class Story:
    """What was there after each of the three sessions."""

    root: Path
    name: str
    interrupted: subprocess.CompletedProcess[str]
    survivors: list[int]
    at_kill: Journal
    starts_at_kill: Counter[str]
    resumed: subprocess.CompletedProcess[str]

    @property
    def folder(self) -> StudyFolder:
        return StudyFolder(self.root / "runs" / self.name)

    @property
    def trials(self) -> dict[str, TrialRecord]:
        return {record.name: record for record in read_journal(self.folder.journal).finished}

    @property
    def spec(self) -> DataSpec:
        return DataSpec.of(self.root / "tiny.h5", features=["mel"], label="genre", cache_dir=self.root / "cache")


class Session:
    """`fmasearch tune ...` in a process group of its own, as a terminal would start it."""

    def __init__(self, root: Path, *arguments: str) -> None:
        self.root = root
        self.output = root / f"output-{time.monotonic_ns()}.txt"
        environment = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "fmasearch", "tune", *arguments],
            cwd=root,
            env={**environment, "FMASEARCH_CACHE": str(root / "cache"), "OMP_NUM_THREADS": "1"},
            stdout=self.output.open("w"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def signal_when(self, signum: signal.Signals, ready: Callable[[StudyFolder, Journal], bool]) -> None:
        """Send `signum` to the whole group as soon as the study's journal is `ready`."""
        while self.process.poll() is None:
            for plan in self.root.glob("runs/*/study.yaml"):
                folder = StudyFolder(plan.parent)
                if ready(folder, read_journal(folder.journal)):
                    os.killpg(self.process.pid, signum)
                    return
            time.sleep(0.02)
        pytest.fail(f"the study ended before it could be stopped:\n{self.output.read_text()}")

    def wait(self) -> subprocess.CompletedProcess[str]:
        code = self.process.wait(timeout=200)
        return subprocess.CompletedProcess(self.process.args, code, self.output.read_text())


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    root = tmp_path_factory.mktemp("resume")
    write_tiny_file(root / "tiny.h5")
    (root / "tiny.yaml").write_text(SPACE)
    (root / "short.yaml").write_text(SEARCH)
    try:
        yield tell(root)
    finally:
        for pid in processes_of(root):
            os.kill(pid, signal.SIGKILL)


def tell(root: Path) -> Story:
    session = Session(root, "tiny.yaml", "--data", "tiny.h5", "--search", "short.yaml")
    session.signal_when(signal.SIGINT, lambda folder, journal: bool(cut_off_with_checkpoint(folder, journal)))
    interrupted = session.wait()
    [plan] = root.glob("runs/*/study.yaml")
    folder = StudyFolder(plan.parent)

    session = Session(root, "--resume", plan.parent.name)
    session.signal_when(
        signal.SIGKILL, lambda folder, journal: bool(journal.finished and cut_off_with_checkpoint(folder, journal))
    )
    session.wait()
    survivors = wait_for_end(root)
    at_kill, starts_at_kill = read_journal(folder.journal), count_starts(folder)

    resumed = Session(root, "--resume", plan.parent.name).wait()
    return Story(root, plan.parent.name, interrupted, survivors, at_kill, starts_at_kill, resumed)


def cut_off_with_checkpoint(folder: StudyFolder, journal: Journal) -> list[str]:
    names = [trial.start.name for trial in journal.unfinished]
    return [name for name in names if (folder.checkpoints / f"{name}.pt").exists()]


def count_starts(folder: StudyFolder) -> Counter[str]:
    events = [json.loads(line) for line in folder.journal.read_text().splitlines()]
    return Counter(event["start"]["name"] for event in events if event["event"] == "start")


def processes_of(root: Path) -> list[int]:
    """Processes that were started for this study, Ray's included: all inherit its environment."""
    mark = f"FMASEARCH_CACHE={root / 'cache'}".encode()
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            content = environ.read_bytes()
        except OSError:  # it ended, or belongs to somebody else
            continue
        if mark in content.split(b"\0"):
            found.append(int(environ.parent.name))
    return found


def wait_for_end(root: Path) -> list[int]:
    """Ray's processes notice within seconds that their driver is gone."""
    deadline = time.monotonic() + 60
    while (left := processes_of(root)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return left


def search_runs(story: Story, stage: str) -> list[Run]:
    client = MlflowClient(default_uri(story.root / "runs"))
    experiment = client.get_experiment_by_name("tiny")
    condition = f"tags.`fmasearch.stage` = '{stage}'"
    return list(client.search_runs([experiment.experiment_id], condition))


def test_ctrl_c_ends_with_130_and_the_command_that_goes_on(story: Story) -> None:
    assert story.interrupted.returncode == 130, story.interrupted.stdout
    assert re.search(rf"^next: .*fmasearch tune --resume {story.name}$", story.interrupted.stdout, re.MULTILINE)
    assert "Traceback" not in story.interrupted.stdout


def test_a_killed_driver_takes_ray_with_it(story: Story) -> None:
    assert story.survivors == []


def test_no_trial_is_lost_and_none_is_there_twice(story: Story) -> None:
    assert story.resumed.returncode == 0, story.resumed.stdout
    names = [json.loads(line)["name"] for line in (results(story) / "trials.jsonl").read_text().splitlines()]
    assert sorted(names) == [f"t{number:04d}" for number in range(NUM_TRIALS)]
    assert sorted(story.trials) == sorted(names)


def test_trials_that_had_finished_are_not_run_again(story: Story) -> None:
    finished = {record.name: record for record in story.at_kill.finished}
    starts = count_starts(story.folder)
    assert finished
    for name, record in finished.items():
        assert starts[name] == story.starts_at_kill[name]
        assert story.trials[name] == record


def test_a_trial_that_was_cut_off_goes_on_from_its_checkpoint(story: Story) -> None:
    lines = [json.loads(line) for line in story.folder.journal.read_text().splitlines()]
    first_epochs = {name: first_epochs_of_sessions(lines, name) for name in story.trials}
    again = {name: firsts[1:] for name, firsts in first_epochs.items() if len(firsts) > 1}
    assert all(firsts[0] == 1 for firsts in first_epochs.values())
    assert again
    assert any(epoch > 1 for firsts in again.values() for epoch in firsts)


def test_curves_of_trials_that_were_cut_off_equal_uninterrupted_ones_bit_for_bit(story: Story) -> None:
    starts = count_starts(story.folder)
    cut_off = [record for record in story.trials.values() if starts[record.name] > 1]
    assert cut_off
    for record in cut_off:
        alone = train_alone(record.start.config, story.spec, max_epochs=len(record.epochs))
        assert curve(record.epochs) == alone, record.name


def test_optuna_mlflow_and_the_journal_agree_after_all_and_nothing_runs(story: Story) -> None:
    states = {name: record.state for name, record in story.trials.items()}
    study = optuna.load_study(study_name="fmasearch", storage=f"sqlite:///{story.folder.optuna_file}")
    runs = search_runs(story, "search")
    assert TrialState.RUNNING not in states.values()
    assert {f"t{trial.number:04d}": state_of(trial) for trial in study.trials} == states
    assert len(runs) == NUM_TRIALS
    assert {run.info.run_name: MLFLOW_STATES[run.info.status] for run in runs} == states


def test_mlflow_has_every_epoch_of_a_trial_once(story: Story) -> None:
    client = MlflowClient(default_uri(story.root / "runs"))
    for run in search_runs(story, "search"):
        history = client.get_metric_history(run.info.run_id, "val_macro_f1")
        epochs = story.trials[run.info.run_name].epochs
        assert {value.step: value.value for value in history} == {e.epoch: e.objective for e in epochs}
        assert len(history) == len(epochs)


def test_the_study_goes_on_to_its_test_and_its_record(story: Story) -> None:
    assert "test accuracy:" in story.resumed.stdout
    assert {"README.md", "test.json", "best.yaml", "study.yaml"} <= {path.name for path in results(story).iterdir()}
    [parent] = search_runs(story, "study")
    assert parent.info.status == "FINISHED"
    assert not story.folder.ray.exists()
    assert not sorted(path.name for path in story.folder.root.glob("checkpoints/*"))


def test_a_finished_study_says_so(
    story: Story, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(story.root)
    assert call(monkeypatch, "tune", "--resume", story.name) == 2
    assert f"{story.name}: is finished; its record is in results/{story.name}" in capsys.readouterr().err


def test_an_unknown_study_lists_the_known_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("2025-01-02-a-b", "2025-01-01-a-b"):
        shutil.copytree(saved_study(tmp_path), tmp_path / "runs" / name)
    assert call(monkeypatch, "tune", "--resume", "2025-01-03", "--runs", str(tmp_path / "runs")) == 2
    assert "no such study; studies here: 2025-01-01-a-b, 2025-01-02-a-b" in capsys.readouterr().err


def test_a_study_whose_data_file_has_changed_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study = saved_study(tmp_path)
    write_tiny_file(tmp_path / "tiny.h5", test_is_readable=False)
    assert call(monkeypatch, "tune", "--resume", study.name, "--runs", str(study.parent)) == 2
    assert "tiny.h5: has changed since the study began" in capsys.readouterr().err


def results(story: Story) -> Path:
    return story.root / "results" / story.name


def saved_study(root: Path) -> Path:
    """A study that is planned and has not begun."""
    plan = make_plan(root)
    save_plan(plan)
    return plan.folder.root


def first_epochs_of_sessions(lines: list[dict[str, object]], name: str) -> list[int]:
    """The first epoch that a trial told after each of its starts."""
    firsts: list[int] = []
    waiting = False
    for event in lines:
        if event["event"] == "start" and event["start"]["name"] == name:  # type: ignore[index]
            waiting = True
        elif event["event"] == "epoch" and event["name"] == name and waiting:
            firsts.append(event["result"]["epoch"])  # type: ignore[index]
            waiting = False
    return firsts


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run a command in this process; returns its exit code."""
    monkeypatch.setattr(sys, "argv", ["fmasearch", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    return int(caught.value.code or 0)
