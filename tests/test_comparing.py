"""Comparing two models: the same tracks, differences that are right, and a conclusion that claims no more."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from conftest import make_config, make_feature_file, run_cli
from fmasearch.comparing import compare_models
from fmasearch.data import GenreMap
from fmasearch.errors import DataError, ModelError
from fmasearch.model_file import SavedModel, save_model
from test_predicting import model_of

MULTITASK = {"multitask": {"genre": "genre", "emotion": ["valence"]}}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return make_feature_file(tmp_path / "a.h5", tracks=(24, 8, 40), chroma=True)


def trained(file: Path, *features: str, **sections: object) -> SavedModel:
    return model_of(file, make_config("stats", features=list(features or ("mel",)), **sections))


def stubborn(saved: SavedModel) -> SavedModel:
    """The same model with a last layer that answers one class for everything."""
    weights = {name: tensor.clone() for name, tensor in saved.weights.items()}
    weights["head.output.weight"].zero_()
    weights["head.output.bias"].zero_()[1] = 5.0
    return replace(saved, weights=weights)


def test_a_model_does_not_differ_from_itself(file: Path) -> None:
    saved = trained(file)
    comparison = compare_models(saved, saved, file, num_resamples=50)
    assert (comparison.num_tracks, comparison.resampled_by) == (40, "artist")
    for row in comparison.rows:
        of = row.difference
        assert (row.a - row.b, of.difference, of.low, of.high, of.p_value) == (0, 0, 0, 0, 1)
    assert comparison.mcnemar is not None
    assert (comparison.mcnemar.only_a, comparison.mcnemar.only_b, comparison.mcnemar.p_value) == (0, 0, 1)
    assert comparison.conclusions == ("A and B are not distinguishable in macro F1 on these 40 tracks.",)


def test_a_model_that_learnt_is_better_than_one_that_always_answers_the_same(file: Path) -> None:
    saved = trained(file, optimizer={"learning_rate": 0.05}, trainer={"batch_size": 2})
    better, worse = saved, stubborn(saved)
    comparison = compare_models(better, worse, file, num_resamples=200)
    accuracy = next(row for row in comparison.rows if row.metric == "accuracy")
    assert accuracy.b == 0.25  # one class of four
    assert accuracy.difference.difference == pytest.approx(accuracy.a - accuracy.b)
    assert comparison.conclusions == ("A is better in macro F1 than chance explains.",)
    turned = compare_models(worse, better, file, num_resamples=200)
    assert turned.conclusions == ("B is better in macro F1 than chance explains.",)
    assert comparison.mcnemar is not None
    assert comparison.mcnemar.only_a - comparison.mcnemar.only_b == pytest.approx(40 * accuracy.difference.difference)


def test_models_may_use_other_features_and_predict_more(file: Path) -> None:
    single = trained(file, "chroma", task={"regression": ["valence"]})
    several = trained(file, "mel", "chroma", task=MULTITASK)
    comparison = compare_models(single, several, file, num_resamples=50)
    assert {row.metric for row in comparison.rows} >= {"valence_spearman", "valence_rmse"}
    assert "macro_f1" not in {row.metric for row in comparison.rows}
    assert (comparison.only_a, comparison.only_b) == ((), ("genre",))
    assert len(comparison.conclusions) == 1
    assert "valence Spearman" in comparison.conclusions[0]


def test_two_multitask_models_are_compared_in_both(file: Path) -> None:
    saved = trained(file, task=MULTITASK)
    comparison = compare_models(saved, trained(file, "chroma", task=MULTITASK), file, num_resamples=50)
    assert comparison.headlines == ("macro_f1", "valence_spearman")
    assert len(comparison.conclusions) == 2


def test_models_that_share_nothing_are_refused(file: Path) -> None:
    with pytest.raises(ModelError, match="nothing in common: A predicts genre; B predicts valence"):
        compare_models(trained(file), trained(file, task={"regression": ["valence"]}), file)


def test_models_of_other_classes_are_refused(file: Path) -> None:
    saved = trained(file)
    names = ("jazz", "rock", "folk", "dub")
    with pytest.raises(ModelError, match=r"different classes of genre .* A rock, jazz, .* B jazz, rock"):
        compare_models(saved, replace(saved, class_names=names), file)


def test_models_that_merge_the_files_classes_in_other_ways_are_refused(file: Path, tmp_path: Path) -> None:
    saved = trained(make_feature_file(tmp_path / "two.h5", num_classes=2))  # rock and jazz
    sources, names = ("rock", "jazz", "folk", "dub"), ("rock", "jazz")
    merged = [replace(saved, genres=GenreMap(sources, names, codes)) for codes in ((0, 1, 0, 1), (0, 1, 1, 0))]
    with pytest.raises(ModelError, match="make different classes"):
        compare_models(merged[0], merged[1], file)


def test_features_of_other_settings_are_refused(file: Path) -> None:
    saved = trained(file)
    other = replace(saved, feature_settings={"mel": {**saved.feature_settings["mel"], "hop_length": 256}})
    with pytest.raises(DataError, match="hop_length: expected 256, found 512"):
        compare_models(saved, other, file)


def test_the_command_prints_a_table_a_test_and_a_warning_on_the_test_split(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save_model(tmp_path / "a.pt", trained(file))
    save_model(tmp_path / "b.pt", stubborn(trained(file)))
    assert run_cli(monkeypatch, "compare", tmp_path / "a.pt", tmp_path / "b.pt", "--data", file) == 0
    printed = capsys.readouterr().out
    assert "test split: 40 tracks; 95 % paired bootstrap intervals over artists" in printed
    assert "McNemar's test" in printed
    assert "is a selection too" in printed
    options = ("--data", file, "--split", "val", "--json")
    assert run_cli(monkeypatch, "compare", tmp_path / "a.pt", tmp_path / "b.pt", *options) == 0
    values = json.loads(capsys.readouterr().out)
    assert (values["split"], values["num_tracks"], values["b"]) == ("val", 8, str(tmp_path / "b.pt"))
    assert len(values["conclusions"]) == 1
