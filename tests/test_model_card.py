"""The model card: the headings that people look for, and warnings exactly where they apply."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from conftest import make_feature_file
from fmasearch.cli.data_facts import origin_facts
from fmasearch.data import Columns, FeatureArray, FeatureLayout, read_info, write_feature_file, writing_feature_file
from fmasearch.records import (
    ClassScore,
    FinalRecord,
    Interval,
    Objective,
    StudyRecord,
    TestReport,
)
from fmasearch.report.model_card import model_card

HEADINGS = (
    "Model Details",
    "Intended Use",
    "Factors",
    "Metrics",
    "Evaluation Data",
    "Training Data",
    "Quantitative Analyses",
    "Ethical Considerations",
    "Caveats and Recommendations",
)
TEST = TestReport(
    split="test",
    num_tracks=135,
    metrics={"accuracy": 0.7, "macro_f1": 0.619, "log_loss": 0.9},
    intervals={"accuracy": Interval(0.7, 0.6, 0.8), "macro_f1": Interval(0.619, 0.5, 0.7)},
    resampled_by="artist",
    classes=(
        ClassScore("Folk", 0.75, 1.0, 0.857, support=90, predicted=120),
        ClassScore("Hip-Hop", 0.0, 0.0, 0.0, support=40, predicted=0),
        ClassScore("Rock", 0.5, 0.4, 0.444, support=5, predicted=4),
    ),
    confusion=((90, 0, 0), (0, 0, 0), (0, 0, 5)),
    baseline={"accuracy": 0.6},
)


def study(task: dict[str, Any] | None = None, test: TestReport = TEST, **data: Any) -> StudyRecord:
    config = {"model": {"architecture": "cnn_gru"}, "task": task or {"classification": "genre"}}
    facts = {"file": "fma.h5", "sha256": "cafe", "corpus": "fma_small", "tracks": {"train": 800, "test": 135}}
    return StudyRecord(
        name="2026-11-20-tiny",
        space_name="tiny",
        search_name="smoke",
        objective=Objective("val_macro_f1" if test.classes else "val_spearman", "max"),
        command="fmasearch tune",
        space_text="",
        search={},
        data={**facts, "classes": ["Folk", "Hip-Hop", "Rock"], "features": {"mel": [1292, 128]}, **data},
        environment={"fmasearch": "0.1", "torch": "2.11.0", "device": "a GPU"},
        trials=(),
        final=FinalRecord("t0001", config, "train+val", 7, (), {}, test, 1234, "/home/me/runs/x/model.pt", 60.0),
        search_seconds=3600.0,
    )


def section(card: str, heading: str) -> str:
    return card.partition(f"## {heading}\n")[2].partition("\n## ")[0]


def test_it_has_the_headings_of_the_paper_in_its_order() -> None:
    assert tuple(re.findall(r"^## (.+)$", model_card(study()), flags=re.MULTILINE)) == HEADINGS


def test_it_says_what_was_found_how_and_at_which_cost() -> None:
    card = model_card(study())
    assert "**Test macro_f1 0.619** (95 % interval 0.500 to 0.700) on 135 tracks" in card
    details = section(card, "Model Details")
    assert "`genre`, one of Folk, Hip-Hop, Rock" in details
    assert "mel (1,292 frames of 128 bins)" in details
    assert "a search of 0 trials, 0 epochs, 1 h 0 min" in details
    assert "| accuracy | 0.700 | 0.600 to 0.800 | 0.600 |" in section(card, "Quantitative Analyses")
    assert "| Hip-Hop | never predicted | 0.000 | 0.000 | 40 |" in section(card, "Quantitative Analyses")


def test_it_warns_of_classes_by_name() -> None:
    caveats = section(model_card(study()), "Caveats and Recommendations")
    assert "**Never predicted: Hip-Hop.** The model does not know it." in caveats
    assert "F1 below 0.5: Rock; do not rely on it." in caveats
    assert "Fewer than 30 test tracks: Rock (5); its rows are rough." in caveats


def test_it_shows_commands_and_no_path_of_this_machine() -> None:
    card = model_card(study())
    assert "fmasearch predict runs/2026-11-20-tiny/model.pt song.mp3" in card
    assert "/home/me" not in card


@pytest.mark.parametrize(
    ("facts", "resampled_by", "words"),
    [
        ({"artists": {"known": 40, "in_train_and_test": 0}}, "artist", "No artist is in both"),
        ({"artists": {"known": 40, "in_train_and_test": 3}}, "artist", "**3 artists have tracks in the training and"),
        ({"artists": {"known": 40, "in_train_and_test": 0}}, "track", "artists of the test tracks are not all known"),
        ({}, "track", "artists of the test tracks are not all known"),
    ],
)
def test_it_says_what_is_known_of_artists(facts: dict[str, Any], resampled_by: Any, words: str) -> None:
    assert words in section(model_card(study(test=replace(TEST, resampled_by=resampled_by), **facts)), "Factors")


def test_licences_are_listed_or_missed() -> None:
    assert "CC BY: 500, CC BY-NC: 300" in section(
        model_card(study(licences={"CC BY": 500, "CC BY-NC": 300})), "Training Data"
    )
    assert "records no licences" in section(model_card(study()), "Training Data")


def test_a_regression_has_no_word_on_classes() -> None:
    test = replace(TEST, metrics={"spearman": 0.5}, intervals={}, classes=(), confusion=(), baseline={"rmse": 0.2})
    card = model_card(study({"regression": ["valence", "energy"]}, test))
    assert "the numbers valence, energy, in the labels' own units" in card
    assert "mean of every target" in section(card, "Metrics")
    assert "class" not in section(card, "Caveats and Recommendations")


def test_origin_facts_count_licences_and_artists_in_train_and_test(tmp_path: Any) -> None:
    columns = Columns(
        split=np.array([0, 0, 1, 2, 2, 2]),
        track_ids=list("abcdef"),
        artist_ids=np.array([1, 2, 3, 2, 4, -1]),
        licences=["CC BY", "CC BY", "", "CC0", "CC0", "CC BY"],
    )
    layout = FeatureLayout(2, 2, "float16")
    with writing_feature_file(
        tmp_path / "a.h5", corpus="a", features={"mel": layout}, columns=columns, source="here"
    ) as file:
        file.append({"mel": np.zeros((6, 2, 2), np.float16)})
    facts = origin_facts(read_info(tmp_path / "a.h5"))
    assert facts["source"] == "here"
    assert facts["licences"] == {"CC BY": 3, "CC0": 2, "not recorded": 1}
    assert facts["artists"] == {"known": 4, "in_train_and_test": 1}  # artist 2


def test_a_file_that_records_nothing_gives_no_facts(tmp_path: Any) -> None:
    assert "licences" not in origin_facts(read_info(make_feature_file(tmp_path / "a.h5", artists=False)))
    mel = {"mel": FeatureArray(np.zeros((1, 2, 2), np.float16))}
    write_feature_file(tmp_path / "b.h5", corpus="b", features=mel, split=np.zeros(1), track_ids=["x"])
    assert origin_facts(read_info(tmp_path / "b.h5")) == {}
