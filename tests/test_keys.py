"""`spaces keys`: every key that a space may set is there, with its values, default and meaning."""

from __future__ import annotations

import inspect
import json
from typing import Any

import pytest

from fmasearch.cli.keys import print_keys
from fmasearch.config import TrainConfig
from fmasearch.errors import ConfigError
from fmasearch.models import ARCHITECTURES


def keys(capsys: pytest.CaptureFixture[str], name: str | None = None) -> dict[str, dict[str, Any]]:
    print_keys(name, as_json=True)
    return {key["path"]: key for key in json.loads(capsys.readouterr().out)}


def test_every_setting_of_every_section_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    explained = {path: key for path, key in keys(capsys).items() if not path.startswith("model/")}
    expected = {
        f"{section}/{name}"
        for section, field in TrainConfig.model_fields.items()
        for name in getattr(field.annotation, "model_fields", {})
    }
    assert explained.keys() == expected - {"trainer/max_epochs", "trainer/patience"}  # they are the search's
    assert all(key["meaning"] and key["values"] and key["default"] for key in explained.values())


def test_ranges_and_choices_are_said_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    optimizer = keys(capsys, "optimizer")
    assert optimizer["optimizer/name"]["values"] == "adam, adamw, sgd"
    assert optimizer["optimizer/layer_decay"]["values"] == "number > 0, <= 1"
    assert keys(capsys, "trainer")["trainer/ema_decay"]["values"] == "number > 0, < 1 or null"
    genres = keys(capsys, "genres")
    assert [(key["values"], key["default"]) for key in genres.values()] == [
        ("names, each with list of text", "{}"),
        ("list of text", "[]"),
        ("whole number >= 0", "0"),
    ]
    task = keys(capsys, "task")
    assert [(key["values"], key["default"]) for key in task.values()] == [
        ("text or null", "null"),
        ("list of text", "[]"),
        ("names, each with text or list of text", "{}"),
        ("text or null", "null"),
    ]


def test_brackets_of_a_meaning_are_printed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    print_keys("task", as_json=False)
    assert "[valence, energy, danceability]" in capsys.readouterr().out


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_hyperparameters_are_those_of_the_signature(architecture: str, capsys: pytest.CaptureFixture[str]) -> None:
    parameters = list(inspect.signature(ARCHITECTURES[architecture]).parameters)[3:]
    assert list(keys(capsys, architecture)) == [f"model/{name}" for name in parameters]
    print_keys(architecture, as_json=False)
    printed = " ".join(capsys.readouterr().out.split())
    assert " ".join((inspect.getdoc(ARCHITECTURES[architecture]) or "?").split()) in printed


def test_an_unknown_name_is_told_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="optimiser: no such section or architecture; did you mean 'optimizer'"):
        print_keys("optimiser", as_json=False)
