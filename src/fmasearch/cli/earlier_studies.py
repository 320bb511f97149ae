"""An earlier study of the same space: its curves and epochs are a better guess at the next one than any model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fmasearch.cli.folders import Folders
from fmasearch.cli.recorded import read_recorded
from fmasearch.config import SearchConfig
from fmasearch.errors import UserError
from fmasearch.records import StudyRecord
from fmasearch.report.findings import space_of
from fmasearch.space import Space

_FEWEST_TRIALS = 10


@dataclass(frozen=True, slots=True)
class EarlierStudy:
    """A study of the same space, and how far it was like the one that is planned."""

    record: StudyRecord
    same_data: bool
    same_place: bool
    """Whether its epochs took place on such a device, with as much of it for a trial."""

    @property
    def tells_seconds(self) -> bool:
        return self.same_data and self.same_place


def find_earlier(
    space: Space, search: SearchConfig, data_sha256: str, device: str, folders: Folders
) -> EarlierStudy | None:
    """The study that tells most: on the same data before others, then in the same place, then with most trials.

    Args:
        device: as a record names the one that trials ran on.

    Returns:
        None if no study of the same keys, constants and ceilings has trained ten trials.
    """
    found = [
        EarlierStudy(record, record.data.get("sha256") == data_sha256, _same_place(record, search, device))
        for record in _records(space.name, folders)
        if sum(bool(trial.epochs) for trial in record.trials) >= _FEWEST_TRIALS and _is_of(record, space)
    ]
    return max(found, key=lambda each: (each.same_data, each.same_place, len(each.record.trials)), default=None)


def _records(space: str, folders: Folders) -> Iterator[StudyRecord]:
    """Studies of a space of this name that can be read; what is in both folders is read from `results`, and once."""
    seen = set()
    for file in [*folders.results.glob("*/study.yaml"), *folders.runs.glob("*/study.yaml")]:
        if file.parent.name in seen or not _names(file, space):
            continue
        try:
            record = read_recorded(str(file.parent), folders).record
        except (UserError, KeyError, ValueError, OSError):  # a damaged record is somebody else's trouble
            continue
        seen.add(file.parent.name)
        yield record


def _names(file: Path, space: str) -> bool:
    """A quick look, as reading a study takes long."""
    try:
        return f"name: {space}\n" in file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False


def _is_of(record: StudyRecord, space: Space) -> bool:
    """Whether it searched the same keys under the same ceilings; comments and known-good points may differ."""
    other = space_of(record)
    return other is not None and (
        other.distributions == space.distributions
        and other.conditions == space.conditions
        and other.constants == space.constants
        and other.constraints == space.constraints
        and other.own_constants == space.own_constants
    )


def _same_place(record: StudyRecord, search: SearchConfig, device: str) -> bool:
    resources = record.search.get("resources", {})
    return (
        record.environment.get("device") == device
        and resources.get("cpu") == search.resources.cpu
        and resources.get("gpu") == search.resources.gpu
    )
