"""The results folder: a `StudyRecord`, written once for people and for machines, small enough to commit."""

from __future__ import annotations

import datetime
import json
import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

import yaml

from fmasearch.errors import StudyError
from fmasearch.records import FinalRecord, StudyRecord, TrialRecord
from fmasearch.report import pictures
from fmasearch.report.findings import best_config, space_of, varied, winner
from fmasearch.report.model_card import model_card
from fmasearch.report.readme import readme

__all__ = ["MODEL_CARD", "load_trials", "results_folder", "write_results"]

MODEL_CARD = "MODEL_CARD.md"
DIGITS = 6  # significant digits of what was measured; what was set keeps all of its own


def results_folder(root: Path, date: datetime.date, space: str, search: str) -> Path:
    """`<root>/<date>-<space>-<search>`, with -2, -3, ... if that exists."""
    base = root / f"{date.isoformat()}-{space}-{search}"
    folder, number = base, 1
    while folder.exists():
        number += 1
        folder = base.with_name(f"{base.name}-{number}")
    return folder


def write_results(record: StudyRecord, folder: Path, *, replace: bool = False) -> list[Path]:
    """Write everything about a study into the new folder `folder`, which appears complete or not at all.

    A record of a search without confirmation or final test gives the files that it can.

    Args:
        replace: put the folder in the place of an earlier one: the study was extended since.

    Raises:
        StudyError: if the folder is there already, and is not to be replaced.
    """
    if folder.exists() and not replace:
        raise StudyError(f"{folder}: already exists; results are written once, choose another folder")
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    unfinished.mkdir(parents=True)
    try:
        names = [path.relative_to(unfinished) for path in _write_all(record, unfinished, folder)]
        if folder.exists():
            shutil.rmtree(folder)
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return [folder / name for name in names]


def load_trials(folder: Path) -> list[TrialRecord]:
    """The trials of a results folder, with their learning curves."""
    lines = (folder / "trials.jsonl").read_text(encoding="utf-8").splitlines()
    return [TrialRecord.from_json(_with_nan(json.loads(line))) for line in lines]


def _write_all(record: StudyRecord, folder: Path, published: Path) -> list[Path]:
    drawn = _draw(record, folder)
    page = readme(record, folder=f"{published.parent.name}/{published.name}", pictures=[path.stem for path in drawn])
    files = {
        "README.md": page,
        "study.yaml": _yaml(_study(record)),
        "trials.jsonl": "".join(f"{_json(_trial(trial), None)}\n" for trial in record.trials),
    }
    if (config := best_config(record)) is not None:
        files["best.yaml"] = _best_header(record) + _yaml(config)
    if record.final is not None:
        files["test.json"] = _json(_final(record.final), 2) + "\n"
        files[MODEL_CARD] = model_card(record)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in files] + drawn


def _draw(record: StudyRecord, folder: Path) -> list[Path]:
    drawn: list[Path] = []
    if any(trial.epochs for trial in record.trials):
        drawn += pictures.save(lambda: pictures.learning_curves(record), folder, "learning_curves")
    if record.ranked() and varied(record):
        space = space_of(record)
        distributions = space.distributions if space else {}
        drawn += pictures.save(lambda: pictures.parameters(record, distributions), folder, "parameters")
    if (final := record.final) is not None and final.test.classes:
        drawn += pictures.save(lambda: pictures.confusion_matrix(final.test), folder, "confusion_matrix")
    return drawn


def _study(record: StudyRecord) -> dict[str, Any]:
    return {
        "name": record.name,
        "command": record.command,
        "objective": {"metric": record.objective.metric, "mode": record.objective.mode},
        "winner": winner(record),
        "search": {"name": record.search_name, **record.search},
        "data": record.data,
        "environment": record.environment,
        "tags": record.tags,
        "search_seconds": _rounded(record.search_seconds),
        "space": {"name": record.space_name, "text": record.space_text},
    }


def _trial(trial: TrialRecord) -> dict[str, Any]:
    """A trial as it writes itself, measurements rounded; params and config stay exact, to be re-run."""
    values = trial.to_json()
    return values | {"seconds": _rounded(trial.seconds), "epochs": _rounded(values["epochs"])}


def _final(final: FinalRecord) -> dict[str, Any]:
    return {
        "trial": final.trial,
        "trained_on": final.trained_on,
        "epochs": final.epochs,
        "num_parameters": final.num_parameters,
        "seconds": _rounded(final.seconds),
        "validation": _rounded(final.validation),
        "test": _rounded(final.test.to_json()),
        "curve": [_rounded(result.to_json()) for result in final.curve],
    }


def _best_header(record: StudyRecord) -> str:
    state = "confirmed over seeds" if record.confirmed else "the best of the search; not confirmed over seeds"
    if record.final:
        state = f"trained for {record.final.epochs} epochs on {record.final.trained_on}, and tested"
    return (
        f"# {winner(record)} of {record.name}: {state}.\n"
        "# Train it with `fmasearch train <this file> --data <feature file>`.\n"
    )


def _json(values: Mapping[str, Any], indent: int | None) -> str:
    separators = (",", ":") if indent is None else None
    return json.dumps(values, indent=indent, separators=separators, ensure_ascii=False, allow_nan=False)


def _rounded(values: Any) -> Any:
    """Floats to six significant digits; NaN and infinities, which JSON does not have, become null."""
    if isinstance(values, float):
        return float(f"{values:.{DIGITS}g}") if math.isfinite(values) else None
    if isinstance(values, Mapping):
        return {key: _rounded(each) for key, each in values.items()}
    if isinstance(values, list | tuple):
        return [_rounded(each) for each in values]
    return values


def _with_nan(trial: dict[str, Any]) -> dict[str, Any]:
    """Undo null for measurements, which are never absent."""
    for epoch in trial["epochs"]:
        epoch["metrics"] = {key: math.nan if v is None else v for key, v in epoch["metrics"].items()}
        for key in ("objective", "best_objective"):
            epoch[key] = math.nan if epoch[key] is None else epoch[key]
    return trial


def _yaml(values: Mapping[str, Any]) -> str:
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


class _Dumper(yaml.SafeDumper):
    """SafeDumper that writes any mapping and sequence plainly, and text of several lines as a block."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_text(self, text: str) -> yaml.Node:
        style = "|" if "\n" in text else None
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)

    def represent_mapping_as_dict(self, mapping: Mapping[str, Any]) -> yaml.Node:
        return self.represent_dict(dict(mapping))

    def represent_sequence_as_list(self, values: Any) -> yaml.Node:
        return self.represent_list(list(values))


_Dumper.add_representer(str, _Dumper.represent_text)
for _text in (str, PurePath):
    _Dumper.add_multi_representer(_text, lambda dumper, text: dumper.represent_text(str(text)))
_Dumper.add_multi_representer(Mapping, _Dumper.represent_mapping_as_dict)  # type: ignore[type-abstract]
_Dumper.add_representer(tuple, _Dumper.represent_sequence_as_list)
