"""The folder that `test --out` writes: the report as JSON, and its pictures."""

from __future__ import annotations

from pathlib import Path

from fmasearch.cli.json_text import json_text
from fmasearch.data import Split
from fmasearch.errors import DataError
from fmasearch.metrics import reliability_bins
from fmasearch.records import TestReport
from fmasearch.report import pictures, test_pictures
from fmasearch.tasks import Task
from fmasearch.tasks.reading import Reading, read_targets


def require_new_folder(folder: Path) -> None:
    """Nothing is overwritten.

    Raises:
        DataError: if there is something in it already.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"--out {folder}: is there already, and not empty; choose another folder")


def write_report(report: TestReport, folder: Path, reading: Reading, split: Split, task: Task) -> list[Path]:
    """Write `report.json` and a picture, as SVG and PNG, of everything that the model predicts.

    Args:
        reading: what the model says of the split's tracks.
        split: the tracks that were judged.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "report.json").write_text(json_text(report.to_json()), encoding="utf-8")
    except OSError as error:
        raise DataError(f"--out {folder}: cannot be written: {error.strerror}") from None
    truth = read_targets(task, split.targets_N.cpu())
    written = [folder / "report.json"]
    if report.classes:
        bins = reliability_bins(truth.classes_N, reading.probabilities_NK)
        written += pictures.save(lambda: pictures.confusion_matrix(report), folder, "confusion_matrix")
        written += pictures.save(lambda: test_pictures.confusion_shares(report), folder, "confusion_matrix_normalised")
        written += pictures.save(lambda: test_pictures.class_scores(report), folder, "class_f1")
        written += pictures.save(lambda: test_pictures.reliability(bins), folder, "reliability")
    if reading.target_names:
        written += pictures.save(
            lambda: test_pictures.scatter(reading.target_names, truth.values_NR, reading.values_NR, report.metrics),
            folder,
            "true_and_predicted",
        )
    return written
