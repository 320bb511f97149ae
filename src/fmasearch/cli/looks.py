"""Looks at a study's test split: written down in the study's folder, told to the person, shown in the report."""

from __future__ import annotations

import datetime
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from fmasearch.config import load_yaml
from fmasearch.data import content_hash, default_cache_dir
from fmasearch.errors import UserError
from fmasearch.files import replacing
from fmasearch.model_file import SavedModel
from fmasearch.records import Look
from fmasearch.tracking.locations import redacted_command

LOOKS = "looks.jsonl"
_RECORD = "record.txt"
_TESTS = ("final.json", "final-*.json")
"""A study's own tests: the last one, and those of before it was extended."""
_MODEL = "model.pt"
"""A study's only model; those of before do not say which study they are of."""


def note_look(by: str, models: Mapping[Path, SavedModel], data: Path, split: str) -> None:
    """Record that a study's test split was looked at through its model, and say so; nothing for any other look.

    It is the study's own test split if the file has the same content. The study is the one whose folder the model
    lies in, or that it names and that is in `runs`. A look that cannot be recorded is told all the same, and
    whatever fails here leaves the command alone.

    Args:
        by: the command's name.
        models: those that were used, by their files; several of one study are one look.
        data: the feature file.
        split: what was looked at; `all` holds the test split.
    """
    try:
        if split not in ("test", "all"):
            return
        studies = {_study_of(file, saved): saved for file, saved in models.items()}
        for study, saved in studies.items():
            if study is not None and _is_its_data(saved, data):
                _note(by, study, saved, split)
    except Exception as error:  # a defect of this must not cost a result that took minutes
        _say(f"this look at the test split could not be recorded: {escape(str(error))}")


def read_looks(study: Path) -> tuple[Look, ...]:
    """The looks that were recorded in the study's folder, in their order; damaged lines are left out."""
    file = study / LOOKS
    looks = []
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines() if file.exists() else ():
        try:
            looks.append(Look(**json.loads(line)))
        except (ValueError, TypeError):
            continue
    return tuple(looks)


def earlier_tests(runs: Path, name: str, data_sha256: str) -> tuple[str, ...]:
    """Who opened the test split of this very file before study `name` does: other studies in `runs`, or itself."""
    tested = sorted({file.parent for pattern in _TESTS for file in runs.glob(f"*/{pattern}")})
    others = [study.name for study in tested if study.name != name and _data_of(study) == data_sha256]
    return (*others, *["this study, before it was extended"] * _own_tests(runs / name))


def remember_record(study: Path, record: Path) -> None:
    """Note in the study's folder where its record is, so that later looks can be shown there."""
    with replacing(study / _RECORD) as temporary:
        temporary.write_text(str(record.resolve()), encoding="utf-8")


def _study_of(model_file: Path, saved: SavedModel) -> Path | None:
    """The folder of the model's study; the name alone, of one that is not here."""
    folder = model_file.resolve().parent
    if (folder / "study.yaml").is_file() and (saved.study == folder.name or model_file.name == _MODEL):
        return folder
    return None if saved.study is None else Path("runs").resolve() / saved.study


def _is_its_data(saved: SavedModel, data: Path) -> bool:
    return saved.data.get("sha256") == content_hash(data, memo=default_cache_dir() / "hashes.json")


def _own_tests(study: Path) -> int:
    """How often the study itself has opened its test split; one that was extended may have done so again."""
    return sum(len(list(study.glob(pattern))) for pattern in _TESTS)


def _data_of(study: Path) -> str | None:
    try:
        return str(load_yaml(study / "study.yaml")["data"]["sha256"])
    except (UserError, KeyError, TypeError):
        return None


def _note(by: str, study: Path, saved: SavedModel, split: str) -> None:
    name = escape(study.name)
    if not (study / "study.yaml").is_file():
        _say(f"this is another look at the test split of {name}, whose folder is not here to record it; {_HONEST}")
        return
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    command = redacted_command(["fmasearch", *sys.argv[1:]])
    look = Look(now, by, command, split, str(saved.data["sha256"]))
    _append(study / LOOKS, json.dumps(asdict(look)))
    looks = read_looks(study)
    tested = _own_tests(study)
    number = len(looks) + tested
    first = _HONEST if tested else "the study has not tested its model yet, and its own test should be the first"
    _say(f"this is look {number} at the test split of {name}, recorded in its folder; {first}")
    _show(study, looks)


_HONEST = "its first look, the study's own test, is the honest one"


def _append(file: Path, line: str) -> None:
    """One write, so that commands that run side by side do not cut each other's lines."""
    handle = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(handle, f"{line}\n".encode())
    finally:
        os.close(handle)


def _show(study: Path, looks: Sequence[Look]) -> None:
    """Write the looks into the study's record, wherever that is, and into the card beside the model."""
    from fmasearch.report import MODEL_CARD
    from fmasearch.report.looks import with_looks

    noted = study / _RECORD
    records = [Path(noted.read_text(encoding="utf-8"))] if noted.exists() else []
    records += [Path("results") / study.name, study.parent.parent / "results" / study.name]
    record = next((folder for folder in records if (folder / "README.md").is_file()), None)
    pages = [study / MODEL_CARD] + ([record / "README.md", record / MODEL_CARD] if record else [])
    for page in pages:
        if page.is_file():
            with replacing(page) as temporary:
                temporary.write_text(with_looks(page.read_text(encoding="utf-8"), looks), encoding="utf-8")


def _say(text: str) -> None:
    Console(stderr=True).print(f"[yellow]note:[/] {text}", highlight=False, soft_wrap=True)
