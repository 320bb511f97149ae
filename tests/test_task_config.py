"""The task section: one kind of task, every label once, an objective that is measured; else one error."""

from __future__ import annotations

from typing import Any

import pytest

from fmasearch.config import TaskConfig, TrainConfig, parse_section
from fmasearch.errors import ConfigError, SpaceError
from fmasearch.space import Space

PARTS = {"emotion": ["valence", "energy"], "genre": "genre", "speed": ["tempo"]}
NUMBERS = ["valence", "energy"]


@pytest.mark.parametrize(
    ("task", "problem"),
    [
        ({}, "task: expected one of classification, regression and multitask, got none of them"),
        ({"regression": []}, "task: expected one of classification, regression and multitask, got none of them"),
        (
            {"classification": "genre", "regression": ["valence"]},
            "task: expected one of classification, regression and multitask, got classification and regression",
        ),
        (
            {"classification": "genre", "multitask": {"genre": "genre", "mood": NUMBERS}},
            "task: expected one of classification, regression and multitask, got classification and multitask",
        ),
        ({"regression": ["valence", "valence"]}, "task: expected every label once, got valence, valence"),
        (
            {"multitask": {"a": ["valence"], "b": ["energy", "valence"]}},
            "task: expected every label once, got valence, energy, valence",
        ),
        ({"multitask": {"a": "x", "b": ["x"]}}, "task: expected every label once, got x, x"),
        (
            {"multitask": {"genre": "genre", "valence": ["valence"]}},
            "task: multitask: a part may not be called like a numeric label, got valence",
        ),
        (
            {"multitask": {"genre": "genre"}},
            "task.multitask: expected two parts or more, at most one of them a label set (its name) and the others "
            "lists of numeric labels, got {genre: genre}",
        ),
        (
            {"multitask": {"genre": "genre", "mood": "valence"}},  # a list was meant
            "task.multitask: expected two parts or more, at most one of them a label set (its name) and the others "
            "lists of numeric labels, got {genre: genre, mood: valence}",
        ),
        (
            {"multitask": {"genre": "genre", "mood": []}},
            "task.multitask: mood: expected a label set, or a list of numeric labels, got []",
        ),
        (
            {"multitask": {"genre": "genre", "mood": 3}},
            "task.multitask: mood: expected a label set, or a list of numeric labels, got 3",
        ),
        (
            {"multitask": {"mean": "genre", "mood": NUMBERS}},
            "task.multitask: mean: this word is taken by metrics; call the part something else",
        ),
        (
            {"multitask": {"clip_mood": NUMBERS, "genre": "genre"}},  # clip_mood_r2 is the r2 of crops in part mood
            "task.multitask: clip_mood: this word is taken by metrics; call the part something else",
        ),
        (
            {"regression": ["valence", "clip"]},
            "task: a numeric label may not be called clip: clip_spearman would read as another metric; make the "
            "feature file with another name for it",
        ),
        (
            {"multitask": {"genre": "genre", "mood": ["mean"]}},
            "task: a numeric label may not be called mean: mean_spearman would read as another metric; make the "
            "feature file with another name for it",
        ),
        (
            {"classification": "genre", "objective": "spearman"},
            "task.objective: expected one of macro_f1, accuracy, balanced_accuracy, got 'spearman'",
        ),
        (
            {"regression": NUMBERS, "objective": "macro_f1"},
            "task.objective: expected one of spearman, pearson, r2, ccc, mse, mae, rmse, of all targets or of one, as "
            "in valence_spearman, got 'macro_f1'",
        ),
        (
            {"multitask": {"genre": "genre", "mood": NUMBERS}, "objective": "valence_rmse"},
            "task.objective: expected one of mean, genre, mood, got 'valence_rmse'",
        ),
        ({"multitasks": {}}, "task.multitasks: unknown key; did you mean 'multitask'?"),
    ],
)
def test_a_task_that_cannot_be_is_one_error(task: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_section(TrainConfig, {"task": task, "model": {"architecture": "stats"}}, source="a.yaml")
    lines = str(error.value).splitlines()
    assert f"a.yaml: {problem}" == lines[0]
    assert len(lines) == 1 or "multitasks" in task  # without a known key there is no task either


def test_a_single_target_may_stand_without_brackets() -> None:
    assert TaskConfig.model_validate({"regression": "valence"}).targets == ("valence",)


def test_a_task_comes_back_from_json() -> None:
    for values in ({"regression": NUMBERS, "objective": "mae"}, {"multitask": PARTS}, {"classification": "genre"}):
        task = TaskConfig.model_validate(values)
        assert TaskConfig.model_validate(task.model_dump(mode="json")) == task


def test_labels_and_targets_are_in_the_order_of_the_outputs() -> None:
    task = TaskConfig.model_validate({"multitask": PARTS})
    assert (task.label, task.targets) == ("genre", ("valence", "energy", "tempo"))
    assert list(task.parts) == ["genre", "emotion", "speed"]  # classes come first
    assert TaskConfig(classification="genre").parts == {"genre": "genre"}
    assert TaskConfig(regression=("valence",)).label is None


def test_a_space_may_have_parts_but_not_search_them() -> None:
    text = "task: {multitask: {genre: genre, choice: [valence]}}\nmodel: {architecture: stats}"
    task = Space.parse(text).inputs()[1]
    assert task.parts == {"genre": "genre", "choice": ("valence",)}
    searched = text.replace("genre: genre", "genre: {choice: [genre, style]}")
    with pytest.raises(SpaceError, match=r"task\.multitask\.genre: cannot be searched"):
        Space.parse(searched)
