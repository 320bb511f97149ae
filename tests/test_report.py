"""The results folder: what is in it for a whole study and for a search alone, and that numbers are right."""

from __future__ import annotations

import datetime
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from fmasearch.config import load_train_config
from fmasearch.errors import StudyError
from fmasearch.records import (
    ClassScore,
    ConfirmRecord,
    EpochResult,
    FinalRecord,
    Interval,
    Lead,
    Look,
    Objective,
    StudyRecord,
    TestReport,
    TrialRecord,
    TrialStart,
    TrialState,
)
from fmasearch.report import load_trials, results_folder, write_results
from fmasearch.report.model_card import model_card
from fmasearch.report.readme import readme
from fmasearch.report.sureness import sureness_section

SPACE = """\
features: [mel]
task: {classification: genre, objective: macro_f1}
model:
  architecture: cnn_gru
  dropout: {float: [0.1, 0.5]}
optimizer:
  name: {choice: [adam, adamw]}
  learning_rate: {float: [1e-4, 1e-2], log: true}
"""
PICTURES = {f"{name}.{kind}" for name in ("learning_curves", "parameters") for kind in ("svg", "png")}
ALWAYS = {"README.md", "study.yaml", "trials.jsonl"}


def trial(number: int, state: TrialState, *objectives: float, error: str | None = None) -> TrialRecord:
    """A trial whose learning rate is 0.001 times its number plus one; all share their dropout."""
    rate = 0.001 * (number + 1)
    params = {"model/dropout": 0.25, "optimizer/name": "adam", "optimizer/learning_rate": rate}
    config = {
        "features": ["mel"],
        "task": {"classification": "genre", "objective": "macro_f1"},
        "model": {"architecture": "cnn_gru", "dropout": 0.25},
        "optimizer": {"name": "adam", "learning_rate": rate},
    }
    epochs = []
    for epoch, objective in enumerate(objectives, start=1):
        best = max(objectives[:epoch])
        values = {"val_macro_f1": objective, "train_loss": 1 / 3}
        epochs.append(EpochResult(epoch, values, rate, 0.5, objective, best, objectives.index(best) + 1))
    label = "C1" if number == 0 else None
    start = TrialStart(number, f"trial-{number:04d}", params, config, seed=number, label=label)
    return TrialRecord(start, state, tuple(epochs), seconds=2.0, error=error)


COMPLETED = trial(0, TrialState.COMPLETED, 0.3, 0.6123456789, 0.5, 0.55)
SECOND = trial(1, TrialState.COMPLETED, 0.3, 0.4, 0.45, 0.5)
PRUNED = trial(2, TrialState.PRUNED, 0.2)
FAILED = trial(3, TrialState.FAILED, 0.1, error="DivergedError: train_loss=nan\nafter 12 batches")


def search_only() -> StudyRecord:
    return StudyRecord(
        name="2026-11-20-tiny-smoke",
        space_name="tiny",
        search_name="smoke",
        objective=Objective("val_macro_f1", "max"),
        command="fmasearch tune tiny.yaml --data tiny.h5 --search smoke.yaml",
        space_text=SPACE,
        search={
            "scheduler": {"name": "asha", "grace_period": 1, "reduction_factor": 2.0, "brackets": 1},
            "max_epochs": 4,
            "seed": 7,
        },
        data={"path": "tiny.h5", "sha256": "cafe" * 16, "tracks": {"train": 8, "val": 4, "test": 5}},
        environment={"torch": "2.11.0", "device": "2 CPU cores"},
        trials=(COMPLETED, SECOND, PRUNED, FAILED),
        search_seconds=75.0,
    )


def whole_study() -> StudyRecord:
    again = tuple(replace(COMPLETED, start=replace(COMPLETED.start, seed=seed)) for seed in (11, 12))
    worse = (SECOND, replace(FAILED, start=SECOND.start))
    classes = (
        ClassScore("Folk", 0.75, 1.0, 0.857, support=3, predicted=4),
        ClassScore("Hip-Hop", 0.0, 0.0, 0.0, support=1, predicted=0),
        ClassScore("Rock", 1.0, 1.0, 1.0, support=1, predicted=1),
    )
    test = TestReport(
        split="test",
        num_tracks=5,
        metrics={"accuracy": 0.8, "macro_f1": 0.619},
        intervals={"macro_f1": Interval(0.619, 0.5, 0.7)},
        resampled_by="artist",
        classes=classes,
        confusion=((3, 0, 0), (1, 0, 0), (0, 0, 1)),
        baseline={"accuracy": 0.6},
    )
    config, validation = COMPLETED.start.config, {"val_macro_f1": 0.65}
    final = FinalRecord("trial-0000", config, "train", 2, COMPLETED.epochs[:2], validation, test, 1234, "model.pt", 3.0)
    confirmed = (
        ConfirmRecord("trial-0000", COMPLETED.start.params, config, again),
        ConfirmRecord("trial-0001", SECOND.start.params, SECOND.start.config, worse),
    )
    return replace(search_only(), confirmed=confirmed, final=final)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("out") / "results" / "2026-11-20-tiny-smoke"
    write_results(whole_study(), folder)
    return folder


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    return (folder / "README.md").read_text()


def test_a_whole_study_leaves_every_file_and_nothing_else(tmp_path):
    written = write_results(whole_study(), tmp_path / "study")
    matrix = {"confusion_matrix.svg", "confusion_matrix.png"}
    assert {p.name for p in written} == ALWAYS | PICTURES | matrix | {"best.yaml", "test.json", "MODEL_CARD.md"}
    assert sorted(written) == sorted((tmp_path / "study").iterdir())
    assert [p.name for p in tmp_path.iterdir()] == ["study"]


def test_the_page_leads_with_the_test_its_interval_and_its_number_of_tracks(page):
    assert "**Test macro_f1 0.619** (95 % interval 0.500 to 0.700) on 5 tracks: `cnn_gru`" in page
    assert "4 trials (2 completed, 1 pruned, 1 failed), 10 epochs, 1 min 15 s on 2 CPU cores" in page


def test_the_page_shows_the_gap_between_validation_and_test(page):
    assert "| macro_f1 | 0.619 | 0.500 to 0.700 | 0.650 | −0.031 |" in page
    assert "| accuracy | 0.800 | – | – | – |" in page
    assert "largest class of the training split gives accuracy 0.600" in page


def test_a_class_that_is_never_predicted_is_marked_and_has_no_precision(page):
    assert "| Hip-Hop | – | 0.000 | 0.000 | 1 | never predicted |" in page


def sure(record: StudyRecord) -> str:
    """What a page says of how sure its winner is."""
    return sureness_section(record).replace("−", "-")


def lead(low: float, high: float) -> Lead:
    return Lead("trial-0000", "trial-0001", Interval((low + high) / 2, low, high), 781, "artist", (3, 3))


def test_the_page_says_whether_the_winner_can_be_told_apart():
    close, clear = (sure(replace(whole_study(), leads=(each,))) for each in (lead(-0.004, 0.022), lead(0.004, 0.022)))
    assert "**trial-0000 and trial-0001 cannot be told apart on 781 validation tracks: difference in macro_f1" in close
    assert "+0.009 (95 % interval -0.004 to +0.022).**" in close
    assert "| trial-0001 | +0.009 | -0.004 to +0.022 | no |" in close
    assert "paired bootstrap over artists and seeds" in close
    assert "trial-0000 is ahead of trial-0001 by more than chance explains on 781 validation tracks" in clear
    assert "| trial-0001 | +0.013 | +0.004 to +0.022 | yes |" in clear


def test_the_page_says_why_a_winner_was_not_compared():
    missing = Lead("trial-0000", "trial-0001", None, reason="its outputs were not kept")
    assert "better than trial-0001 cannot be said: its outputs were not kept." in sure(
        replace(whole_study(), leads=(missing,))
    )
    assert "were not compared track by track" in sure(whole_study())  # a record of before
    alone = replace(whole_study(), confirmed=whole_study().confirmed[:1])
    assert "Only one configuration was confirmed" in sure(alone)
    assert sure(search_only()) == ""


def test_the_page_shows_what_the_search_flattered():
    page = sure(whole_study())
    assert "saw trial-0000 at `val_macro_f1` 0.612, as the best of 3 trials; retrained over 2 seeds its mean" in page
    assert "is 0.612 ± 0.000: no selection gap." in page
    worse = replace(COMPLETED, epochs=COMPLETED.epochs[:1])  # 0.3 under each of two seeds
    fallen = replace(whole_study().confirmed[0], curves=(worse, worse))
    assert "is 0.300 ± 0.000: a selection gap of 0.312." in sure(replace(whole_study(), confirmed=(fallen,)))


def test_the_page_says_so_if_the_best_of_the_search_did_not_win():
    record = whole_study()
    final = replace(record.final, trial="trial-0001")
    page = sure(replace(record, confirmed=record.confirmed[::-1], final=final))
    assert "saw trial-0001 at `val_macro_f1` 0.500, behind trial-0000; retrained over 1 seed its mean is 0.500" in page
    assert "saw trial-0000 at `val_macro_f1` 0.612, as the best of 3 trials" in page
    gone = sure(replace(record, confirmed=record.confirmed[1:], final=final))
    assert "trial-0000, the best of the search with 0.612, has no confirmation." in gone


def test_a_selection_gap_of_errors_is_counted_upwards():
    """The search saw 0.2; two seeds had 0.3 each, which is worse."""
    record = replace(whole_study(), objective=Objective("val_loss", "min"), trials=(PRUNED, COMPLETED), final=None)
    curves = (replace(COMPLETED, epochs=COMPLETED.epochs[:1]),) * 2
    confirmed = ConfirmRecord("trial-0002", PRUNED.start.params, PRUNED.start.config, curves)
    assert "a selection gap of 0.100." in sure(replace(record, confirmed=(confirmed,)))


def test_the_page_puts_the_gap_to_the_test_beside_its_interval():
    assert (
        "validation `macro_f1` is 0.650, its test 0.619 (95 % interval 0.500 to 0.700): test - validation is -0.031, "
        "and the validation score lies inside the test's interval." in sure(whole_study())
    )


def test_tests_of_other_studies_on_the_same_split_are_named():
    record = whole_study()
    record = replace(record, final=replace(record.final, earlier_tests=("one", "two", "three", "four")))
    for page in (readme(record, folder="results/x", pictures=[]), model_card(record)):
        assert "test split had been opened 4 times before, by studies of the same runs folder (one, two, three" in page


def test_looks_before_the_record_was_written_are_on_its_pages():
    look = Look("2026-11-20T10:00:00+00:00", "test", "fmasearch test", "test", "cafe")
    record = replace(whole_study(), looks=(look, look))
    for page in (readme(record, folder="results/x", pictures=[]), model_card(record)):
        assert "looked at 2 more times** with models of this study" in page


def test_confirmation_counts_the_seeds_that_worked(page):
    assert "| **trial-0000** | 2 | 0.612 ± 0.000 | 0.612, 0.612 | 2, 2 | 0.612 |" in page
    assert "| trial-0001 | 1 (1 failed) | 0.500 | 0.500 | 4 | 0.500 |" in page  # one seed has no spread


def test_the_trials_are_ranked_without_the_failed_ones_and_show_what_varied(page):
    assert "| 1 | trial-0000 (C1) | completed | 0.612 | 2 | 4 | 2 |" in page
    assert "| key | trial-0000 | trial-0001 | trial-0002 |" in page
    assert "| optimizer/learning_rate | 0.001 | 0.002 | 0.003 |" in page
    assert "| model/dropout | 0.25" not in page  # the same in all trials
    assert "- trial-0003, after 1 epoch: DivergedError: train_loss=nan after 12 batches" in page


def test_what_was_searched_is_a_table_and_the_file_itself(page):
    assert "| optimizer/learning_rate | 0.0001 to 0.01, log |" in page
    assert "| optimizer/name | adam, adamw |" in page
    assert f"```yaml\n{SPACE}```" in page


def test_the_cost_counts_what_pruning_spared(page):
    # The pruned trial trained 1 of 4 epochs; all four trials trained 4 + 4 + 1 + 1 of 16.
    assert "stopped 1 of 4 trials, which spared them 3 epochs" in page
    assert "trained 10 of the 16 epochs that 4 x 4 would have been" in page
    assert "| confirmation | 4 | 13 | 8.0 s |" in page


def test_the_page_says_how_to_repeat_the_study(page):
    assert "fmasearch tune tiny.yaml --data tiny.h5 --search smoke.yaml\n" in page
    assert "fmasearch train results/2026-11-20-tiny-smoke/best.yaml --data tiny.h5" in page
    assert "Study seed 7" in page


def test_every_picture_on_the_page_exists(folder, page):
    shown = [line.split("](")[1].rstrip(")") for line in page.splitlines() if line.startswith("![")]
    assert len(shown) == 3
    assert all((folder / name).is_file() for name in shown)


def test_the_best_configuration_can_be_trained(folder):
    config = load_train_config(folder / "best.yaml")
    assert (config.architecture, config.optimizer.learning_rate) == ("cnn_gru", 0.001)
    assert (folder / "best.yaml").read_text().startswith("# trial-0000 of 2026-11-20-tiny-smoke: trained for 2")


def test_the_study_file_holds_search_data_environment_and_space(folder):
    study = yaml.safe_load((folder / "study.yaml").read_text())
    assert study["search"]["scheduler"]["name"] == "asha"
    assert study["data"]["tracks"] == {"train": 8, "val": 4, "test": 5}
    assert study["space"] == {"name": "tiny", "text": SPACE}


def test_trials_come_back_with_curves_rounded_and_params_exact(tmp_path):
    odd = replace(COMPLETED, start=replace(COMPLETED.start, params={"model/dropout": 0.123456789}))
    write_results(replace(search_only(), trials=(odd, FAILED)), tmp_path / "study")
    first, second = load_trials(tmp_path / "study")
    assert first.start.params == {"model/dropout": 0.123456789}
    assert first.epochs[1].objective == 0.612346  # six digits of 0.6123456789
    assert (second.state, second.error) == (TrialState.FAILED, FAILED.error)


def test_a_metric_that_is_not_a_number_survives_as_valid_json(tmp_path):
    epoch = replace(PRUNED.epochs[0], metrics={"val_macro_f1": 0.2, "val_loss": math.nan})
    write_results(replace(search_only(), trials=(replace(PRUNED, epochs=(epoch,)),)), tmp_path / "study")
    assert "NaN" not in (tmp_path / "study" / "trials.jsonl").read_text()
    assert math.isnan(load_trials(tmp_path / "study")[0].epochs[0].metrics["val_loss"])


def test_the_test_file_holds_the_confusion_matrix_and_the_intervals(folder):
    test = json.loads((folder / "test.json").read_text())["test"]
    assert test["confusion"] == [[3, 0, 0], [1, 0, 0], [0, 0, 1]]
    assert test["intervals"]["macro_f1"] == {"value": 0.619, "low": 0.5, "high": 0.7}


def test_a_search_alone_says_so_and_writes_what_there_is(tmp_path):
    written = write_results(search_only(), tmp_path / "study")
    assert {p.name for p in written} == ALWAYS | PICTURES | {"best.yaml"}
    page = (tmp_path / "study" / "README.md").read_text()
    assert "no model has been retrained and tested" in page
    assert "`val_macro_f1` 0.612 (trial-0000, epoch 2). Being the best of 3 trials" in page


def test_a_model_trained_on_validation_too_is_compared_with_its_confirmation(tmp_path):
    record = whole_study()
    assert record.final is not None
    final = replace(record.final, trained_on="train+val", validation={})
    write_results(replace(record, final=final), tmp_path / "study")
    page = (tmp_path / "study" / "README.md").read_text()
    assert "0.612 (mean of 2 seeds); test − validation is +0.007" in page  # 0.619 - 0.6123


@pytest.mark.parametrize("trials", [(), (replace(FAILED, epochs=()),)])
def test_a_search_without_any_result_is_still_written(tmp_path, trials):
    written = write_results(replace(search_only(), trials=trials), tmp_path / "study")
    assert {p.name for p in written} == ALWAYS
    assert "No trial gave a result." in (tmp_path / "study" / "README.md").read_text()


def test_the_smallest_objective_wins_when_it_is_minimised(tmp_path):
    record = replace(search_only(), objective=Objective("val_loss", "min"), trials=(COMPLETED, PRUNED))
    write_results(record, tmp_path / "study")
    assert "| 1 | trial-0002 |" in (tmp_path / "study" / "README.md").read_text()  # 0.2 < 0.6


def test_an_unreadable_space_costs_its_table_only(tmp_path):
    write_results(replace(search_only(), space_text="of another: version"), tmp_path / "study")
    assert "of another: version" in (tmp_path / "study" / "README.md").read_text()


def test_pictures_of_equal_studies_are_equal_files(folder, tmp_path):
    write_results(whole_study(), tmp_path / "study")
    for name in ("learning_curves.svg", "parameters.svg", "confusion_matrix.svg", "learning_curves.png"):
        assert (tmp_path / "study" / name).read_bytes() == (folder / name).read_bytes()


def test_a_folder_is_never_written_over(tmp_path):
    (tmp_path / "study").mkdir()
    with pytest.raises(StudyError, match="already exists"):
        write_results(search_only(), tmp_path / "study")


def test_a_failure_leaves_nothing_behind(tmp_path):
    broken = replace(search_only(), command=None)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        write_results(broken, tmp_path / "study")
    assert list(tmp_path.iterdir()) == []


def test_a_second_study_of_a_day_gets_a_number(tmp_path):
    date = datetime.date(2026, 11, 20)
    for expected in ("2026-11-20-tiny-smoke", "2026-11-20-tiny-smoke-2", "2026-11-20-tiny-smoke-3"):
        folder = results_folder(tmp_path, date, "tiny", "smoke")
        assert folder == tmp_path / expected
        folder.mkdir()
