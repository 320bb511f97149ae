"""`--init-from`: what a space's text becomes, which starts are refused, and what is said of the others."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from rich.console import Console

from conftest import CLASSES, make_config, make_feature_file
from fmasearch.cli.starting import (
    Start,
    check_config,
    check_pretrained,
    check_space,
    model_file_of,
    print_start,
    start_config,
    start_space,
)
from fmasearch.config import TrainConfig
from fmasearch.data import FileInfo, Normaliser, read_info
from fmasearch.errors import ConfigError, ModelError, SpaceError
from fmasearch.model_file import SavedModel, load_model, save_model
from fmasearch.models import build_model
from fmasearch.space import Space

TASK = "task: {classification: genre}\n"
MODEL = "model: {architecture: cnn_gru, hidden_dim: 8, rnn_dim: 8, num_layers: 1, dropout: {float: [0.1, 0.5]}}\n"


@pytest.fixture
def info(feature_file: Path) -> FileInfo:
    return read_info(feature_file)


def saved_in(path: Path, *, class_names: tuple[str, ...] = CLASSES, **config: Any) -> Path:
    """A model file of a cnn_gru of 8 channels on 8 bins; its weights are fresh."""
    trained = make_config(**config)
    model = build_model(
        trained.architecture, input_dim=8, num_frames=24, output_dim=len(class_names), **trained.hyperparameters
    )
    normaliser = Normaliser(torch.zeros(8), torch.ones(8))
    settings = {"mel": {"sample_rate": 22_050, "hop_length": 512}}
    save_model(path, SavedModel(trained, model.state_dict(), class_names, (normaliser,), 8, 24, settings, {}, {}))
    return path


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    return saved_in(tmp_path / "model.pt")


def printed(start: Start | None) -> str:
    console = Console(width=300)
    with console.capture() as capture:
        print_start(console, start)
    return capture.get()


# --- the file's path -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "transfer",
    [
        "",
        "# a comment at the end",
        "transfer:\n",
        "transfer: {}  # nothing\n",
        "transfer: {freeze: backbone}\n",
        "transfer: {init_from: old.pt, freeze: backbone}\n",
        "transfer:\n  # why\n  freeze: {choice: [none, backbone]}\n",
        "transfer:\n  freeze: backbone\n  init_from: old.pt  # of last week\n",
        "transfer:\n  init_from: {choice: [null, old.pt]}\n",
        "transfer: {freeze: backbone}",  # and no newline
    ],
)
def test_the_option_is_written_into_a_spaces_text(transfer: str, tmp_path: Path) -> None:
    space = Space.parse(TASK + "# why\n" + MODEL + transfer, name="small")
    path = tmp_path / 'mo"del é: #1.pt'
    started = start_space(space, path)
    assert model_file_of(started) == str(path)
    again = Space.parse(started.text, name="small")
    assert again == started  # as a resumed study reads it
    assert started.text.count("# why") == space.text.count("# why")
    kept = {name: given for name, given in space.distributions.items() if name != "transfer/init_from"}
    assert dict(started.distributions) == kept
    assert started.constants["transfer"].get("freeze") == space.constants.get("transfer", {}).get("freeze")


def test_a_space_on_one_line_takes_the_option() -> None:
    space = Space.parse("{task: {classification: genre}, model: {architecture: cnn_gru}}")
    assert model_file_of(start_space(space, Path("/a/model.pt"))) == "/a/model.pt"


def test_a_space_without_transfer_stays_as_it_is() -> None:
    space = Space.parse(TASK + MODEL)
    assert start_space(space, None) is space


def test_paths_become_absolute_since_trials_run_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    own = Space.parse(TASK + MODEL + "transfer: {init_from: model.pt}")
    assert model_file_of(start_space(own, None)) == str(tmp_path / "model.pt")
    config = start_config(make_config(transfer={"init_from": "old.pt"}), Path("model.pt"))
    assert config.transfer.init_from == str(tmp_path / "model.pt")
    assert start_config(make_config(transfer={"init_from": "old.pt"}), None).transfer.init_from == str(
        tmp_path / "old.pt"
    )
    assert start_config(make_config(), None) == make_config()


# --- refusals --------------------------------------------------------------------------------------------------------


def started_config(model_file: Path, **values: Any) -> TrainConfig:
    return start_config(make_config(**values), model_file)


def test_a_file_that_is_no_model_is_refused(tmp_path: Path, info: FileInfo) -> None:
    with pytest.raises(ModelError, match=r"gone\.pt: no such model file"):
        check_config(started_config(tmp_path / "gone.pt"), info)


def test_a_model_of_other_features_is_refused_and_both_are_named(tmp_path: Path, model_file: Path) -> None:
    fused = read_info(make_feature_file(tmp_path / "fused.h5", chroma=True))
    with pytest.raises(ModelError, match=r"was trained on features mel; these trainings use mel, chroma"):
        check_config(started_config(model_file, features=["mel", "chroma"]), fused)


def test_a_model_of_another_width_is_refused_with_the_values_to_give(model_file: Path, info: FileInfo) -> None:
    with pytest.raises(
        ConfigError, match=r"they differ in hidden_dim 8 there, 16 here, pooling its default there, max"
    ):
        check_config(started_config(model_file, model={"hidden_dim": 16, "pooling": "max"}), info)


def test_a_model_of_another_architecture_is_refused(tmp_path: Path, info: FileInfo) -> None:
    with pytest.raises(ConfigError, match="the file holds a cnn_lstm, this is a cnn_gru"):
        check_config(started_config(saved_in(tmp_path / "lstm.pt", architecture="cnn_lstm")), info)


def test_a_model_of_other_bins_is_refused(tmp_path: Path, model_file: Path) -> None:
    wide = read_info(make_feature_file(tmp_path / "wide.h5", num_bins=80))
    with pytest.raises(ConfigError, match="hyperparameters are the same, the input is not"):
        check_config(started_config(model_file), wide)


def test_freezing_more_blocks_than_there_are_is_found_before_training(model_file: Path, info: FileInfo) -> None:
    with pytest.raises(ConfigError, match="the backbone has 4 blocks"):  # three convolutions and the GRU
        check_config(started_config(model_file, transfer={"freeze": "all_but_last(4)"}), info)


@pytest.mark.parametrize(
    ("searched", "extra", "where"),
    [
        ("{choice: [8, 16]}", "", "a sample"),
        ("{choice: [16, 8]}", "", "first values"),
        ("{choice: [8, 16]}", "known_good: {C1: {model/hidden_dim: 8}, C2: {model/hidden_dim: 16}}", "C2"),
    ],
)
def test_a_space_of_which_some_trials_could_not_start_is_refused(
    searched: str, extra: str, where: str, model_file: Path, info: FileInfo
) -> None:
    text = TASK + MODEL.replace("hidden_dim: 8", f"hidden_dim: {searched}") + extra
    space = start_space(Space.parse(text, name="widths"), model_file)
    with pytest.raises(SpaceError, match=rf"^widths: {where}: .*model\.pt: transfer: .* hidden_dim 8 there, 16 here"):
        check_space(space, info, seed=0)


def test_points_above_a_constraint_need_not_start(model_file: Path, info: FileInfo) -> None:
    text = TASK + MODEL.replace("hidden_dim: 8", "hidden_dim: {choice: [8, 64]}")
    space = Space.parse(text + "constraints: {parameters: '< 10k'}", name="small")  # 4,596, and over 100,000
    start = check_space(start_space(space, model_file), info, seed=0)
    assert start is not None
    assert start.transferred.share == 1.0


# --- the report ------------------------------------------------------------------------------------------------------


def test_a_start_is_reported_in_one_line(model_file: Path, info: FileInfo) -> None:
    config = started_config(model_file, transfer={"freeze": "all_but_last(1)"})
    first, *_ = printed(check_config(config, info)).splitlines()
    # three blocks of 7 tensors, a GRU of two directions with 4 each, two linear layers of 2
    assert first == (f"starts from {model_file}: 33 of 33 tensors, 100 % of the backbone; frozen: all_but_last(1)")
    assert printed(check_config(make_config(), info)) == ""


def test_the_report_of_a_space_is_of_its_first_point(model_file: Path, info: FileInfo) -> None:
    space = start_space(Space.parse(TASK + MODEL), model_file)
    assert "100 % of the backbone" in printed(check_space(space, info, seed=0))
    assert check_space(Space.parse(TASK + MODEL), info, seed=0) is None


def test_a_head_of_other_classes_is_pointed_out(tmp_path: Path, info: FileInfo) -> None:
    five = saved_in(tmp_path / "five.pt", class_names=("a", "b", "c", "d", "e"))
    text = printed(check_config(started_config(five), info))
    assert "head.output.weight: (5, 8) in the file, (4, 8) here" in text
    other = saved_in(tmp_path / "other.pt", class_names=("a", "b", "c", "d"))
    text = printed(check_config(started_config(other), info))
    assert "note: as many classes, but others: the last layer knows a, b, c, d" in text


def test_a_head_of_classes_that_has_to_predict_numbers_is_pointed_out(tmp_path: Path) -> None:
    info = read_info(make_feature_file(tmp_path / "a.h5", targets=["energy", "tempo", "arousal"]))
    four = {"regression": ["valence", "energy", "tempo", "arousal"]}
    text = printed(check_config(started_config(saved_in(tmp_path / "four.pt"), task=four), info))
    words = "rock, jazz, folk, dub, and starts from there on valence, energy, tempo, arousal"
    assert f"note: as many outputs, but others: the last layer knows {words}" in text


def test_the_variances_of_a_multitask_are_named_as_not_needed(tmp_path: Path, info: FileInfo) -> None:
    both = {"multitask": {"genre": "genre", "mood": ["valence"]}}
    trained = saved_in(tmp_path / "a.pt")
    saved = load_model(trained)
    weights = {**saved.weights, "head.log_variances": torch.zeros(2)}
    save_model(trained, replace(saved, weights=weights))
    text = printed(check_config(started_config(trained), info))
    assert "33 of 33 tensors, 100 % of the backbone; only in the file: head.log_variances" in text
    assert "head.output.weight: (4, 8) in the file, (5, 8) here" in printed(
        check_config(started_config(trained, task=both, loss={"weighting": "uncertainty"}), info)
    )


def test_features_made_in_another_way_are_pointed_out(model_file: Path, info: FileInfo) -> None:
    text = printed(check_config(started_config(model_file), info))
    assert "note: mel was made in another way for the model: sample_rate 22050 there, 16000 here\n" in text


# --- pretrained weights ----------------------------------------------------------------------------------------------

AST = TASK + "model: {architecture: ast, size: micro, pretrained: %s}\n"


def test_pretrained_weights_are_loaded_once_before_the_study(tmp_path: Path, info: FileInfo) -> None:
    path = tmp_path / "other.pt"
    torch.save({}, path)
    with pytest.raises(SpaceError, match=r"small: first values: model\.pretrained: .*other\.pt: expected a distilled"):
        check_pretrained(Space.parse(AST % json.dumps(str(path)), name="small"), info)
    with pytest.raises(SpaceError, match=r"absent\.pt: no such file"):
        check_pretrained(Space.parse(AST % "absent.pt", name="small"), info)


def test_a_model_that_starts_untrained_says_so(info: FileInfo, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(repository: str) -> NoReturn:
        raise OSError(f"no route to {repository}")

    # The package's attribute `ast` is the architecture, which has its module's name.
    monkeypatch.setattr(sys.modules["fmasearch.models.ast"], "read_hub", unreachable)
    space = Space.parse(AST.replace("micro", "{choice: [tiny, small]}") % "true", name="small")
    sentences = check_pretrained(space, info)
    assert len(sentences) == 2  # the sizes have weights of their own
    assert all(sentence.startswith("the model starts untrained") for sentence in sentences)


def test_a_space_without_pretrained_weights_loads_nothing(info: FileInfo) -> None:
    assert check_pretrained(Space.parse(AST % "false", name="small"), info) == []
    assert check_pretrained(Space.parse(TASK + MODEL, name="small"), info) == []
