"""`status` and `watch`: what is read of a study from its folder alone, while another process runs it and after."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from conftest import run_cli
from fmasearch.records import EpochResult, FinalRecord, TestReport, TrialRecord, TrialStart, TrialState
from fmasearch.study import StudyPlan, save_plan
from fmasearch.study.driver import driver_file, mark_driver
from fmasearch.study.progress import Activity, Stage, read_progress
from fmasearch.study.run import search_start
from fmasearch.tracking import JournalReader, JsonlTracker, MemoryTracker
from study_helpers import make_plan

SEARCH = {
    "num_trials": 4,
    "max_epochs": 4,
    "scheduler": {"name": "asha", "grace_period": 1},
    "confirm": {"top_k": 2, "seeds": 2},
}


@pytest.fixture
def plan(tmp_path: Path) -> StudyPlan:
    """A study in `runs/study`, not started yet."""
    plan = make_plan(tmp_path / "runs", **SEARCH)
    save_plan(plan)
    return plan


def start(plan: StudyPlan, number: int) -> TrialStart:
    return search_start(plan, number, {"optimizer/learning_rate": 0.01, "optimizer/weight_decay": 0.0})


def epochs(*objectives: float, node: str = "") -> tuple[EpochResult, ...]:
    """Each better than the one before, in 2.5 seconds."""
    return tuple(
        EpochResult(n, {"val_macro_f1": value}, 1e-3, 2.5, value, value, n, node=node)
        for n, value in enumerate(objectives, start=1)
    )


def tell(journal: JsonlTracker, start: TrialStart, *objectives: float, node: str = "", end: TrialState | None) -> None:
    """A trial, from its start to its end if it has one."""
    journal.start_trial(start)
    trained = epochs(*objectives, node=node)
    for epoch in trained:
        journal.log_epoch(start.name, epoch)
    if end is not None:
        journal.finish_trial(TrialRecord(start, end, trained, 5.0))


def tell_search(plan: StudyPlan) -> JsonlTracker:
    """Two trials ended, two run on a node each."""
    journal = JsonlTracker(plan.folder.journal)
    tell(journal, start(plan, 0), 0.3, 0.6, node="10.0.0.3", end=TrialState.COMPLETED)
    tell(journal, start(plan, 1), 0.2, node="10.0.0.4", end=TrialState.PRUNED)
    tell(journal, start(plan, 2), 0.4, 0.5, node="10.0.0.4", end=None)
    journal.start_trial(start(plan, 3))
    return journal


def tell_confirmation(plan: StudyPlan) -> None:
    journal = JsonlTracker(plan.folder.confirm_journal)
    for name in ("t0000", "t0001"):
        for seed in range(2):
            trial = replace(start(plan, seed), name=f"confirm-{name}-seed{seed}")
            tell(journal, trial, 0.5, end=TrialState.COMPLETED)
    journal.close("finished")


def tell_final(plan: StudyPlan) -> None:
    test = TestReport("test", 6, {"accuracy": 0.75}, {}, "track", (), (), 0.33)
    final = FinalRecord("t0000", {}, "train", 1, epochs(0.5), {}, test, 100, "model.pt", 1.0)
    plan.folder.final_file.write_text(json.dumps(final.to_json()))


def stage_of(plan: StudyPlan) -> tuple[Stage, Activity]:
    progress = read_progress(plan.folder.root)
    return progress.stage, progress.activity


def test_the_stages_of_a_study_follow_from_what_it_has_written(plan: StudyPlan) -> None:
    with mark_driver(plan.folder):
        assert stage_of(plan) == (Stage.SEARCH, Activity.RUNNING)
        tell_search(plan).close("finished")
        assert stage_of(plan) == (Stage.CONFIRM, Activity.RUNNING)
        tell_confirmation(plan)
        assert stage_of(plan) == (Stage.FINAL, Activity.RUNNING)
        tell_final(plan)
        assert stage_of(plan) == (Stage.RECORD, Activity.RUNNING)
    assert stage_of(plan) == (Stage.RECORD, Activity.FINISHED)


def test_a_study_without_a_driver_was_interrupted_and_one_with_a_dead_driver_was_killed(plan: StudyPlan) -> None:
    tell_search(plan).close("interrupted")
    assert stage_of(plan) == (Stage.SEARCH, Activity.INTERRUPTED)
    with mark_driver(plan.folder):
        killed = json.loads(driver_file(plan.folder).read_text()) | {"pid": 2**22 + 1}  # nobody's number
    driver_file(plan.folder).write_text(json.dumps(killed))
    assert stage_of(plan) == (Stage.SEARCH, Activity.GONE)


def test_the_confirmation_expects_the_best_few_times_the_seeds(plan: StudyPlan) -> None:
    tell_search(plan).close("finished")
    assert read_progress(plan.folder.root).num_confirmations == 4  # two of the two that ended, two seeds each


def test_status_shows_a_running_search_with_its_nodes_and_what_to_do(
    plan: StudyPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with mark_driver(plan.folder):
        tell_search(plan)
        assert run_cli(monkeypatch, "status", "study", "--runs", tmp_path / "runs") == 0
    text = capsys.readouterr().out
    rows = [line.split() for line in text.splitlines()]
    assert rows[0][:3] == ["study", "search", "process"]
    assert "2/4 trials ended  2 running  1 completed  1 pruned  0 failed  2 nodes" in text
    assert "best 0.6000 val_macro_f1  t0000  learning_rate=0.01  weight_decay=0" in text
    assert ["t0002", "2", "0.5000", "2.5", "10.0.0.4"] in rows
    assert ["t0003", "0", "–", "–", "–"] in rows
    assert ["10.0.0.3", "0", "2"] in rows
    assert ["10.0.0.4", "1", "3"] in rows  # one epoch of t0001, two of t0002
    assert ["1", "3", "0.4000", "0.3000"] in rows  # the first rung: 0.3, 0.2, 0.4
    assert f"fmasearch watch study --runs {tmp_path}/runs" in text
    assert f"fmasearch stop study --runs {tmp_path}/runs" in text


def test_status_of_an_interrupted_study_says_how_to_go_on_as_it_was_started(
    plan: StudyPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save_plan(replace(plan, command="fmasearch tune tiny.yaml --mlflow http://127.0.0.1:5000"))
    tell_search(plan).close("interrupted")
    assert run_cli(monkeypatch, "status", "study", "--runs", tmp_path / "runs") == 0
    text = capsys.readouterr().out
    assert "interrupted, its search is unfinished" in text
    assert "2 cut off" in text
    assert f"fmasearch tune --resume study --runs {tmp_path}/runs --mlflow http://127.0.0.1:5000\n" in text


def test_status_as_json_holds_the_same(
    plan: StudyPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with mark_driver(plan.folder):
        tell_search(plan)
        assert run_cli(monkeypatch, "status", "study", "--json", "--runs", tmp_path / "runs") == 0
    values = json.loads(capsys.readouterr().out)
    search = values["search"]
    assert (values["stage"], values["activity"], values["confirm"]) == ("search", "running", None)
    assert search["trials"] == {"total": 4, "ended": 2, "running": 2, "completed": 1, "pruned": 1, "failed": 0}
    assert (search["best"]["trial"], search["best"]["best"]) == ("t0000", 0.6)
    assert [trial["trial"] for trial in search["running"]] == ["t0002", "t0003"]
    assert search["nodes"][1] == {"node": "10.0.0.4", "running": 1, "epochs": 3}


def test_status_without_a_name_lists_all_studies_the_liveliest_first(
    plan: StudyPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    older = make_plan(tmp_path / "older", **SEARCH)
    older = replace(older, name="older", folder=type(plan.folder)(tmp_path / "runs" / "older"))
    save_plan(older)
    os.utime(older.folder.plan_file, (time.time() - 7200,) * 2)
    tell_search(plan)
    (tmp_path / "runs" / "broken").mkdir()
    (tmp_path / "runs" / "broken" / "study.yaml").write_text("name: [")
    assert run_cli(monkeypatch, "status", "--runs", tmp_path / "runs") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[:5] == ["study", "interrupted", "(search)", "2/4", "0.6000"]
    assert lines[2].split() == ["older", "interrupted", "(search)", "0/4", "–", "2h00m"]
    assert lines[3].startswith("unreadable: ")


@pytest.mark.parametrize("command", ["status", "watch", "stop"])
def test_an_unknown_study_lists_the_known_ones(
    plan: StudyPlan,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
) -> None:
    assert run_cli(monkeypatch, command, "stduy", "--runs", tmp_path / "runs") == 2
    assert "no such study; studies here: study" in capsys.readouterr().err


def test_a_reader_leaves_half_a_line_for_its_next_look(plan: StudyPlan) -> None:
    tell_search(plan)
    whole = plan.folder.journal.read_bytes()
    half = len(whole) - 10
    memory, reader = MemoryTracker(), JournalReader(plan.folder.journal)
    plan.folder.journal.write_bytes(whole[:half])
    reader.tell(memory)
    assert list(memory.starts) == ["t0000", "t0001", "t0002"]
    plan.folder.journal.write_bytes(whole)
    reader.tell(memory)
    assert list(memory.starts) == ["t0000", "t0001", "t0002", "t0003"]
    assert len(memory.epochs["t0002"]) == 2  # told once


def test_a_reader_knows_the_last_close_and_forgets_it_when_the_study_goes_on(plan: StudyPlan) -> None:
    reader = JournalReader(plan.folder.journal)
    reader.tell(MemoryTracker())
    assert reader.status is None  # there is no journal yet
    tell_search(plan).close("interrupted")
    reader.tell(MemoryTracker())
    assert reader.status == "interrupted"
    memory = MemoryTracker()
    JsonlTracker(plan.folder.journal).start_trial(start(plan, 2))
    reader.tell(memory)
    assert (reader.status, list(memory.starts)) == (None, ["t0002"])


def drive_meanwhile(plan: StudyPlan, patch: pytest.MonkeyPatch, *steps: Callable[[], object]) -> None:
    """Somebody runs the study: takes the next step whenever `watch` waits, and ends after the last."""
    driver = mark_driver(plan.folder)
    driver.__enter__()
    left = [*steps, lambda: driver.__exit__(None, None, None)]
    patch.setattr("fmasearch.cli.watching.time", SimpleNamespace(sleep=lambda seconds: left.pop(0)()))


def test_watch_follows_a_study_through_all_its_stages_to_its_record(
    plan: StudyPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results"
    journal = tell_search(plan)
    steps = (
        lambda: tell(journal, start(plan, 2), 0.4, 0.7, end=TrialState.COMPLETED),
        lambda: journal.close("finished"),
        lambda: tell_confirmation(plan),
        lambda: tell_final(plan),
        lambda: (results / "study").mkdir(parents=True),
    )
    drive_meanwhile(plan, monkeypatch, *steps)
    assert run_cli(monkeypatch, "watch", "study", "--runs", tmp_path / "runs", "--results", results) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "search tiny: 4 trials, highest val_macro_f1 wins"
    assert lines[2] == "[3/4] t0002 completed after 2 epochs, val_macro_f1 0.7000, best so far 0.7000 (t0002)"
    assert lines[3] == "confirm over seeds: 4 trials, highest val_macro_f1 wins"  # and t0000 was not told again
    assert lines[4].startswith("[1/4] confirm-t0000-seed0 completed")
    assert "final training" in lines
    assert lines[-2:] == ["test accuracy 0.750 of t0000, on 6 tracks", f"its record is in: {results}/study"]


def test_watch_ends_with_a_study_that_is_interrupted(
    plan: StudyPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = tell_search(plan)
    drive_meanwhile(plan, monkeypatch, lambda: journal.close("interrupted"))
    assert run_cli(monkeypatch, "watch", "study", "--runs", tmp_path / "runs") == 130
    assert "go on with it: " in capsys.readouterr().out


def test_ctrl_c_ends_the_watching_alone(
    plan: StudyPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def press_ctrl_c(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fmasearch.cli.watching.time", SimpleNamespace(sleep=press_ctrl_c))
    with mark_driver(plan.folder):
        assert run_cli(monkeypatch, "watch", "study", "--runs", tmp_path / "runs") == 0
        assert "no longer watching; the study goes on" in capsys.readouterr().out
        assert stage_of(plan) == (Stage.SEARCH, Activity.RUNNING)
