"""Looks at a test split beside the study's own: recorded, told and shown, and never in the way of a command."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from conftest import make_config, make_feature_file, run_cli, spec_of
from fmasearch.cli.looks import earlier_tests, note_look, read_looks, remember_record
from fmasearch.config import SearchConfig
from fmasearch.finalize import train_final
from fmasearch.model_file import load_model, save_model
from fmasearch.records import ConfirmRecord, EpochResult, Look, TrialRecord, TrialStart, TrialState
from fmasearch.report.looks import with_looks

PAGE = "# a study\n\n**Test accuracy 0.900**\n\n## Test\n\nmore\n\n## Trials\n"


@dataclass(frozen=True)
class Study:
    """A tested study without its search: its working folder, its record, and its data."""

    folder: Path
    record: Path
    data: Path

    @property
    def model(self) -> Path:
        return self.folder / "model.pt"

    @property
    def looks(self) -> list[tuple[str, str]]:
        return [(look.by, look.split) for look in read_looks(self.folder)]


@pytest.fixture(scope="module")
def tested(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`runs/study` and `records/study` of a model that was trained for an epoch, and tested."""
    root = tmp_path_factory.mktemp("tested")
    config = make_config("stats").model_dump(mode="json")
    start = TrialStart(0, "confirm-t0001-seed0", {}, config, 1)
    trial = TrialRecord(start, TrialState.COMPLETED, (EpochResult(1, {}, 1e-3, 0.1, 0.5, 0.5, 1),), 1.0)
    spec = spec_of(make_feature_file(root / "data.h5"))
    folder = root / "runs" / "study"
    winner = ConfirmRecord("t0001", {}, config, (trial,))
    train_final(winner, spec, SearchConfig(), folder / "model.pt", folder / "final.json", study="study")
    (folder / "study.yaml").write_text(f"name: study\ndata: {{sha256: {spec.sha256}}}\n")
    (folder / "MODEL_CARD.md").write_text(PAGE)
    (root / "records" / "study").mkdir(parents=True)
    for name in ("README.md", "MODEL_CARD.md"):
        (root / "records" / "study" / name).write_text(PAGE)
    return root


@pytest.fixture
def study(tested: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """A copy of its own for every test; commands are typed in another folder."""
    shutil.copytree(tested, tmp_path / "here", dirs_exist_ok=True)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    root = tmp_path / "here"
    made = Study(root / "runs" / "study", root / "records" / "study", root / "data.h5")
    remember_record(made.folder, made.record)
    return made


def test_a_later_look_is_recorded_told_and_shown(
    study: Study, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli(monkeypatch, "test", study.model, "--data", study.data, "--json") == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["split"] == "test"  # the note is not in the JSON
    assert "this is look 2 at the test split of study" in printed.err
    (look,) = read_looks(study.folder)
    assert (look.by, look.split, look.data_sha256) == ("test", "test", load_model(study.model).data["sha256"])
    assert look.command.startswith("fmasearch test ")
    for page in (study.record / "README.md", study.record / "MODEL_CARD.md", study.folder / "MODEL_CARD.md"):
        head, _, rest = page.read_text().partition("\n## Test\n")
        assert "**The test split was looked at once more** with models of this study" in head
        assert rest == "\nmore\n\n## Trials\n"


def test_every_look_counts_and_the_page_has_one_paragraph(
    study: Study, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli(monkeypatch, "compare", study.model, study.model, "--data", study.data) == 0
    assert run_cli(monkeypatch, "predict", study.model, study.data, "--json") == 0
    assert "this is look 3 at the test split" in capsys.readouterr().err
    assert study.looks == [("compare", "test"), ("predict", "all")]
    page = (study.record / "README.md").read_text()
    assert page.count("The test split was looked at 2 more times") == page.count("looked at") == 1
    assert "`compare` 1×, `predict` 1×" in page


def test_the_other_splits_and_other_files_are_no_look_at_it(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    other = make_feature_file(study.folder / "other.h5", seed=9)
    assert run_cli(monkeypatch, "test", study.model, "--data", study.data, "--split", "val") == 0
    assert run_cli(monkeypatch, "predict", study.model, study.data, "--split", "train", "--json") == 0
    assert run_cli(monkeypatch, "test", study.model, "--data", other) == 0
    assert study.looks == []
    assert (study.record / "README.md").read_text() == PAGE


def test_the_same_file_under_another_name_is_the_same_test_split(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = study.data.with_name("copy.h5")
    shutil.copyfile(study.data, copy)
    assert run_cli(monkeypatch, "test", study.model, "--data", copy) == 0
    assert study.looks == [("test", "test")]


def test_a_model_that_was_copied_away_still_knows_its_study(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    away = tmp_path / "away.pt"
    shutil.copyfile(study.model, away)
    assert run_cli(monkeypatch, "test", away, "--data", study.data) == 0
    assert "test split of study, whose folder is not here to record it" in capsys.readouterr().err
    monkeypatch.chdir(study.folder.parent.parent)  # there it is, in runs
    assert run_cli(monkeypatch, "test", away, "--data", study.data) == 0
    assert study.looks == [("test", "test")]


def test_a_model_of_before_is_known_by_the_folder_it_lies_in(study: Study) -> None:
    saved = load_model(study.model)
    object.__setattr__(saved, "study", None)  # an older file has no such key
    save_model(study.model, saved)
    saved = load_model(study.model)
    assert saved.study is None
    note_look("test", {study.model: saved}, study.data, "test")
    note_look("test", {study.folder / "mine.pt": saved}, study.data, "test")  # somebody's own, left beside it
    assert study.looks == [("test", "test")]


def test_a_look_before_the_study_has_tested_is_told_as_one(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    (study.folder / "final.json").unlink()
    note_look("test", {study.model: load_model(study.model)}, study.data, "test")
    printed = capsys.readouterr().err
    assert "look 1 at the test split" in printed
    assert "has not tested its model yet" in printed


def test_a_look_that_cannot_be_recorded_costs_nothing(
    study: Study, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (study.folder / "looks.jsonl").mkdir()
    assert run_cli(monkeypatch, "test", study.model, "--data", study.data) == 0
    printed = capsys.readouterr()
    assert "test split: 8 tracks" in printed.out
    assert "could not be recorded" in printed.err


def test_damaged_lines_are_left_out(study: Study) -> None:
    (study.folder / "looks.jsonl").write_bytes(
        b'{"time": "t", "by": "test", "command": "c", "split": "test", "data_sha256": "s"}\n{"time": "cut\n\xff\n'
    )
    assert read_looks(study.folder) == (Look("t", "test", "c", "test", "s"),)


def test_studies_that_opened_the_same_test_split_before_are_counted(study: Study) -> None:
    runs, sha256 = study.folder.parent, load_model(study.model).data["sha256"]
    assert earlier_tests(runs, "new", sha256) == ("study",)
    assert earlier_tests(runs, "new", "another file") == ()
    (runs / "untested").mkdir()
    (runs / "untested" / "study.yaml").write_text(f"data: {{sha256: {sha256}}}\n")
    (runs / "damaged").mkdir()
    (runs / "damaged" / "study.yaml").write_text("- no mapping")
    (runs / "damaged" / "final.json").write_text("{}")
    assert earlier_tests(runs, "new", sha256) == ("study",)


def test_a_study_that_was_extended_and_tests_again_counts_its_own_test(study: Study) -> None:
    sha256 = load_model(study.model).data["sha256"]
    assert earlier_tests(study.folder.parent, "unknown", "another file") == ()
    (study.folder / "final.json").rename(study.folder / "final-1.json")
    assert earlier_tests(study.folder.parent, "study", sha256) == ("this study, before it was extended",)


def test_a_page_without_looks_is_left_as_it_was() -> None:
    looks = [Look("2026-11-21T10:00:00+00:00", "test", "c", "test", "s")]
    shown = with_looks(PAGE, looks)
    assert "2026-11-21: `test` 1×" in shown
    assert with_looks(PAGE, []) == with_looks(shown, []) == PAGE
