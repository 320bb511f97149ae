"""`show` and `best`: what a person and a program read of a study, finished or under way."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from conftest import run_cli
from fmasearch.cli.folders import Folders
from fmasearch.cli.recorded import known_studies, read_recorded
from fmasearch.cli.showing import ShowOptions, show
from fmasearch.config import load_train_config
from fmasearch.errors import StudyError, UserError
from fmasearch.records import TrialState
from fmasearch.report import pictures, write_results
from recorded_helpers import write_runs
from test_report import whole_study

COMPLETED, PRUNED, FAILED, RUNNING = TrialState.COMPLETED, TrialState.PRUNED, TrialState.FAILED, TrialState.RUNNING
TRIALS = (
    (COMPLETED, (0.3, 0.123456789012345)),
    (PRUNED, (0.2,)),
    (FAILED, (0.9,)),  # reached more than any, then diverged
    (COMPLETED, (0.1, 0.5)),
)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """`runs/study`: its search ended, nothing was confirmed."""
    write_runs(tmp_path / "runs", TRIALS, finished=True)
    return tmp_path / "runs"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`results/2026-11-20-tiny-smoke`: trial-0000 was confirmed over seeds and tested."""
    folder = tmp_path_factory.mktemp("record") / "results"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "save", lambda *_: [])  # seconds, and nobody looks at them here
        write_results(whole_study(), folder / "2026-11-20-tiny-smoke")
    return folder


def shown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, runs: Path, width: int = 100, **options: object
) -> list[str]:
    """Lines that `show study` prints on a terminal of `width` columns."""
    monkeypatch.setenv("COLUMNS", str(width))
    show("study", Folders(runs, runs / "none"), ShowOptions(**options))  # type: ignore[arg-type]
    return capsys.readouterr().out.splitlines()


def names(lines: list[str]) -> list[str]:
    return [line.split()[0] for line in lines if line.startswith("t0") and ":" not in line]


def test_the_best_trial_comes_first_and_one_that_diverged_last(runs, capsys, monkeypatch) -> None:
    lines = shown(capsys, monkeypatch, runs)
    assert "4 trials (2 completed, 1 pruned, 1 failed), sorted by val_macro_f1" in lines[0]
    assert names(lines) == ["t0003", "t0000", "t0001", "t0002"]
    assert lines[-1] == "t0002: DivergedError: train_loss=nan"


def test_any_column_sorts_by_the_end_of_its_name_and_either_way(runs, capsys, monkeypatch) -> None:
    by_rate = shown(capsys, monkeypatch, runs, sort="learning_rate", top=2)
    assert names(by_rate) == ["t0000", "t0001"]
    assert "; 2 of them, sorted by optimizer/learning_rate" in by_rate[0]
    assert names(shown(capsys, monkeypatch, runs, sort="seconds", reverse=True))[-1] in ("t0001", "t0002")


def test_an_unknown_column_is_answered_with_the_nearest(runs) -> None:
    with pytest.raises(UserError, match="--sort learning_rat: no such column; did you mean 'learning_rate'"):
        show("study", Folders(runs, runs), ShowOptions(sort="learning_rat"))


def test_only_trials_of_a_state_and_only_parameters_that_differ_are_shown(runs, capsys, monkeypatch) -> None:
    assert names(shown(capsys, monkeypatch, runs, state="pruned")) == ["t0001"]
    table = "\n".join(shown(capsys, monkeypatch, runs, only_changed=True))
    assert "rate" in table  # every trial has its own
    assert "decay" not in table  # 0.0 in all of them
    with pytest.raises(StudyError, match="has no running trials"):
        show("study", Folders(runs, runs), ShowOptions(state="running"))


def test_a_narrow_terminal_leaves_out_columns_and_says_which(results, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "62")
    show("2026-11-20-tiny-smoke", Folders(Path("none"), results), ShowOptions())
    table = [line for line in capsys.readouterr().out.splitlines() if not line.startswith(("2026", "trial-0003:"))]
    assert table[-1].startswith("not shown, for want of width: name; --csv")  # the same in all trials, so it goes first
    assert max(len(line.rstrip()) for line in table[:-1]) <= 62
    assert not any("…" in line for line in table)
    assert any("0.6123" in line and "0.001" in line for line in table)


def test_json_has_every_number_as_it_was_recorded_and_nothing_else(runs, capsys, monkeypatch) -> None:
    printed = json.loads("\n".join(shown(capsys, monkeypatch, runs, as_json=True)))
    third = printed["trials"][1]
    assert (third["trial"], third["objective"], third["metrics"]["val_loss"]) == ("t0000", 0.3, 1 / 3)
    assert printed["trials"][0]["params"] == {"optimizer/learning_rate": 0.004, "optimizer/weight_decay": 0.0}


def test_csv_has_a_line_a_trial_and_a_column_for_everything(runs, capsys, monkeypatch) -> None:
    text = "\n".join(shown(capsys, monkeypatch, runs, as_csv=True))
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["trial"] for row in rows] == ["t0003", "t0000", "t0001", "t0002"]
    assert float(rows[0]["val_loss"]) == 1 / 3
    assert rows[3]["error"] == "DivergedError: train_loss=nan"
    with pytest.raises(UserError, match="expected one of them"):
        show("study", Folders(runs, runs), ShowOptions(as_json=True, as_csv=True))


def test_a_study_that_was_cut_off_is_shown_as_far_as_it_got(tmp_path, capsys, monkeypatch) -> None:
    write_runs(tmp_path, [(COMPLETED, (0.3, 0.4)), (RUNNING, (0.2,)), (RUNNING, ())])
    lines = shown(capsys, monkeypatch, tmp_path)
    assert "3 trials (2 running, 1 completed)" in lines[0]
    assert [line.split()[1:3] for line in lines if line.startswith("t0")][1] == ["cut", "off"]
    assert json.loads("\n".join(shown(capsys, monkeypatch, tmp_path, as_json=True)))["trials"][2]["objective"] is None


def test_an_unknown_study_is_answered_with_those_that_there_are(runs, results, monkeypatch, capsys) -> None:
    assert run_cli(monkeypatch, "show", "gone", "--runs", runs, "--results", results) == 2
    assert capsys.readouterr().err == "error: gone: no such study; studies here: 2026-11-20-tiny-smoke, study\n"


def test_every_committed_record_can_be_read() -> None:
    folders = Folders(Path("none"), Path(__file__).parents[1] / "results")
    for name in known_studies(folders):
        recorded = read_recorded(name, folders)
        assert recorded.record.final is not None
        assert recorded.trial(recorded.record.final.trial).epochs


def test_the_winner_of_a_record_is_named_with_its_test_and_its_interval(results, monkeypatch, capsys) -> None:
    assert run_cli(monkeypatch, "best", "2026-11-20-tiny-smoke", "--results", results) == 0
    out = capsys.readouterr().out
    assert "tested: the winner of the study, retrained on train for 2 epochs and judged once on 5 tracks" in out
    assert "0.619  0.500 – 0.700" in out
    assert "search: val_macro_f1 0.6123 at epoch 2 of 4 epochs (completed)" in out
    assert "its table is in" in out  # a record's own folder keeps no curves of the confirmation


def test_the_best_of_a_search_alone_is_called_that(runs, monkeypatch, capsys) -> None:
    assert run_cli(monkeypatch, "best", "study", "--runs", runs) == 0
    out = capsys.readouterr().out
    assert "t0003 of study" in out
    assert "the best of the search only (4 trials, interrupted): not confirmed over seeds" in out


def test_a_confirmed_winner_has_a_mean_and_a_spread_over_seeds(tmp_path, monkeypatch, capsys) -> None:
    seeds = [("confirm-t0000-seed0", 0.4), ("confirm-t0000-seed1", 0.5), ("confirm-t0001-seed0", 0.3)]
    write_runs(tmp_path, [(COMPLETED, (0.3,)), (COMPLETED, (0.6,))], confirmed=seeds, finished=True)
    assert run_cli(monkeypatch, "best", tmp_path / "study") == 0
    out = capsys.readouterr().out
    assert "t0000 of study" in out  # 0.45 on average, whatever t0001 had in the search
    assert "confirmed: the best mean over seeds; not tested yet" in out
    assert "val_macro_f1 0.4500 ± 0.0707 over 2 seeds (0.4000, 0.5000)" in out  # 0.1 / sqrt(2), n - 1


def test_half_a_confirmation_chooses_nothing_yet(tmp_path, monkeypatch, capsys) -> None:
    write_runs(tmp_path, [(COMPLETED, (0.3,)), (COMPLETED, (0.6,))], confirmed=[("confirm-t0000-seed0", 0.9)])
    assert run_cli(monkeypatch, "best", tmp_path / "study", "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["trial"], printed["stage"], printed["confirmation"]) == ("t0001", "search", None)
    assert run_cli(monkeypatch, "best", tmp_path / "study", "--trial", "t0000") == 0
    assert "val_macro_f1 0.9000 ± 0.0000 over 1 seed, so far" in capsys.readouterr().out


def test_what_is_exported_is_the_records_best_yaml(results, tmp_path, monkeypatch, capsys) -> None:
    folder, file = results / "2026-11-20-tiny-smoke", tmp_path / "best.yaml"
    assert run_cli(monkeypatch, "best", folder, "--export", file) == 0
    assert file.read_bytes() == (folder / "best.yaml").read_bytes()
    assert run_cli(monkeypatch, "best", folder, "--export", file) == 2
    assert "already exists" in capsys.readouterr().err
    assert run_cli(monkeypatch, "best", folder, "--export", file, "--force", "--trial", "trial-0002") == 0
    assert file.read_text().startswith("# trial-0002 of 2026-11-20-tiny-smoke: a trial of the search, pruned;")


def test_a_study_without_a_record_exports_what_it_trained(runs, tmp_path, monkeypatch) -> None:
    file = tmp_path / "best.yaml"
    assert run_cli(monkeypatch, "best", "study", "--runs", runs, "--export", file) == 0
    config = load_train_config(file)
    assert (config.optimizer.learning_rate, config.trainer.max_epochs) == (0.004, 4)
    assert file.read_text().startswith("# t0003 of study: the best of the search; not confirmed over seeds.\n")


def test_a_trial_that_is_not_there_is_answered_with_those_that_are(runs) -> None:
    with pytest.raises(StudyError, match="no trial 't0007'; there are t0000 to t0003"):
        read_recorded("study", Folders(runs, runs)).trial("t0007")
    with pytest.raises(StudyError, match="no trainings of a confirmation"):
        read_recorded("study", Folders(runs, runs)).trial("confirm-t0000-seed0")
