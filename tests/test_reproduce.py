"""`reproduce`: a trial trained again is the same trial, and what is not the same is told."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from conftest import make_feature_file, run_cli
from fmasearch.cli.reproducing import compare
from fmasearch.config import TrainConfig
from fmasearch.data import open_dataset
from fmasearch.errors import DivergedError
from fmasearch.records import EpochResult, StudyRecord, TrialRecord, TrialStart, TrialState
from fmasearch.report import pictures, write_results
from fmasearch.study import StudyPlan, save_plan
from fmasearch.study.run import search_start
from fmasearch.tracking import JsonlTracker
from fmasearch.trainer import Trainer
from recorded_helpers import write_trial
from study_helpers import OBJECTIVE, make_plan, plant_failures


def trained(plan: StudyPlan, *, learning_rate: float = 0.01, max_epochs: int = 3) -> TrialRecord:
    """Trial 0 of the plan, trained here, as a search would have left it: pruned after `max_epochs`, or diverged."""
    start = search_start(plan, 0, {"optimizer/learning_rate": learning_rate, "optimizer/weight_decay": 0.0})
    epochs: list[EpochResult] = []
    try:
        for result in Trainer(TrainConfig.model_validate(start.config), open_dataset(plan.data)).epochs():
            epochs.append(result)
            if result.epoch == max_epochs:
                break
    except DivergedError as error:
        return TrialRecord(start, TrialState.FAILED, tuple(epochs), 1.0, f"DivergedError: {error}")
    return TrialRecord(start, TrialState.PRUNED, tuple(epochs), 1.0)


@pytest.fixture
def plan(tmp_path: Path) -> StudyPlan:
    plan = make_plan(tmp_path)
    save_plan(plan)
    return plan


@pytest.fixture
def reproduce(
    plan: StudyPlan, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """Exit code and output of `fmasearch reproduce STUDY/TRIAL`, the trial's record written down before."""

    def run(record: TrialRecord, *options: object, name: str = "t0000") -> tuple[int, str]:
        journal = plan.folder.confirm_journal if record.name.startswith("confirm") else plan.folder.journal
        write_trial(JsonlTracker(journal), record)
        code = run_cli(monkeypatch, "reproduce", f"{plan.folder.root}/{name}", *options)
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return run


def changed(record: TrialRecord, epoch: int, **metrics: float) -> TrialRecord:
    """The record with other metrics in one epoch."""
    epochs = [replace(e, metrics={**e.metrics, **metrics}) if e.epoch == epoch else e for e in record.epochs]
    return replace(record, epochs=tuple(epochs))


def test_a_trial_is_the_same_to_the_bit(plan, reproduce) -> None:
    record = trained(plan)
    code, out = reproduce(record)
    assert code == 0
    assert "t0000 of study: 3 of 3 recorded epochs, on cpu with 1 thread, tiny.h5" in out
    assert out.count(repr(record.epochs[2].objective)) >= 2  # recorded, and now
    assert "reproduced: the same numbers in all 3 epochs, to the bit" in out


def test_one_bit_is_a_difference_and_is_named(plan, reproduce) -> None:
    record = trained(plan)
    loss = record.epochs[1].metrics["val_loss"]
    code, out = reproduce(changed(record, 2, val_loss=math.nextafter(loss, 1.0)))
    assert code == 1
    assert "no   val_loss" in out
    words = (
        r"not reproduced: from epoch 2 on numbers differ, relatively by [12]\.\de-16 at the most \(val_loss, epoch 2\)"
    )
    assert re.search(words, out)  # half the distance of floats from 1 to 2, which is 2.2e-16, or all of it
    assert "what it was trained with is not recorded" in out  # there is no results folder
    assert reproduce(record, "--epochs", 1)[0] == 0  # the first epoch is the same


def test_a_results_folder_is_compared_to_its_six_digits(plan, tmp_path, monkeypatch, capsys) -> None:
    record = trained(plan)
    monkeypatch.setattr(pictures, "save", lambda *_: [])
    study = StudyRecord(
        name="study",
        space_name="tiny",
        search_name="test",
        objective=OBJECTIVE,
        command=f"fmasearch tune tiny.yaml --data {plan.data.path}",
        space_text=plan.space.text,
        search={"resources": {"cpu": 1.0}},
        data={"file": "tiny.h5", "sha256": plan.data.sha256},
        environment={"torch": "1.0", "device": "CPU (of long ago)"},
        trials=(record,),
    )
    write_results(study, tmp_path / "results" / "good")
    wrong = changed(record, 1, val_loss=record.epochs[0].metrics["val_loss"] * 1.00001)
    write_results(replace(study, trials=(wrong,)), tmp_path / "results" / "wrong")
    assert run_cli(monkeypatch, "reproduce", "good/t0000", "--results", tmp_path / "results") == 0
    assert "to 6 digits, which is what a results folder keeps" in capsys.readouterr().out
    assert run_cli(monkeypatch, "reproduce", "wrong/t0000", "--results", tmp_path / "results") == 1
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split()[:2] == ["torch", "1.0"] for line in lines)  # what it was trained with, beside ours


def test_a_trial_that_diverged_diverges_again(plan, reproduce, monkeypatch) -> None:
    monkeypatch.setattr(Trainer, "_run_epoch", Trainer._run_epoch)  # so that it is put back
    plant_failures()  # a learning rate above 0.5 breaks the weights after the first epoch
    record = trained(plan, learning_rate=0.6)
    assert (record.state, len(record.epochs)) == (TrialState.FAILED, 1)
    code, out = reproduce(record)
    assert code == 0
    assert "to the bit, and it diverges in the next one as it did" in out


def test_one_that_no_longer_diverges_is_not_reproduced(plan, reproduce) -> None:
    record = trained(plan, max_epochs=1)
    code, out = reproduce(replace(record, state=TrialState.FAILED, error="DivergedError: epoch 2"))
    assert code == 1
    assert "the recorded one diverged in the next epoch; here it did not" in out


def test_a_training_of_the_confirmation_is_reproduced_from_its_own_seed(plan, reproduce) -> None:
    record = trained(plan, max_epochs=1)
    start = TrialStart(0, "confirm-t0000-seed0", record.start.params, record.start.config, seed=record.start.seed)
    assert reproduce(replace(record, start=start), name="confirm-t0000-seed0")[0] == 0


def test_other_data_is_refused(plan, reproduce, tmp_path) -> None:
    other = make_feature_file(tmp_path / "other.h5")
    record = trained(plan, max_epochs=1)
    code, out = reproduce(record, "--data", other)
    assert code == 2
    assert f"other.h5: not the file that study was trained on: expected sha256 {plan.data.sha256[:12]} (tiny.h5)" in out
    Path(plan.data.path).unlink()
    code, out = reproduce(record)
    assert code == 2
    assert "tiny.h5: the study's feature file is not there; name it with --data" in out


def test_a_name_without_a_study_and_a_trial_without_epochs_are_refused(plan, reproduce, monkeypatch, capsys) -> None:
    assert run_cli(monkeypatch, "reproduce", "t0000") == 2
    assert "expected a study and a trial, as in" in capsys.readouterr().err
    record = trained(plan, max_epochs=1)
    code, out = reproduce(replace(record, epochs=(), state=TrialState.FAILED, error="out of memory"))
    assert (code, "no epoch of it was recorded" in out) == (2, True)


def test_numbers_that_are_no_numbers_are_equal_to_themselves_alone() -> None:
    epoch = EpochResult(1, {"val_loss": float("nan")}, 0.1, 1.0, 0.5, 0.5, 1)
    assert compare(epoch, replace(epoch, epoch_seconds=9.0, node="10.0.0.2"), exact=True).equal
    finite = replace(epoch, metrics={"val_loss": 0.5})
    assert set(compare(epoch, finite, exact=True).different) == {"val_loss"}
    assert not compare(epoch, replace(epoch, metrics={}), exact=True).equal
