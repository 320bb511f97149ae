"""The journal of a study: one JSON line per event, only appended to; a resumed study starts from it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fmasearch.errors import StudyError
from fmasearch.records import EpochResult, TrialRecord, TrialStart
from fmasearch.tracking.base import CloseStatus, Tracker


class JsonlTracker:
    """Appends every event to `path` and flushes it: after a kill -9 only the last line may be cut.

    An existing journal is continued; a cut last line is dropped first.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        _drop_cut_line(path)
        self._file = path.open("ab")

    def start_trial(self, start: TrialStart) -> None:
        self._write({"event": "start", "start": asdict(start)})

    def log_epoch(self, name: str, result: EpochResult) -> None:
        self._write({"event": "epoch", "name": name, "result": result.to_json()})

    def finish_trial(self, record: TrialRecord) -> None:
        # The whole record, though its epochs are there already: one line then says all about a finished
        # trial, whatever attempts came before. 27 epochs are about 8 kB.
        self._write({"event": "finish", "record": record.to_json()})

    def note(self, text: str) -> None:
        """Write down what happened to the study itself; a report repeats it."""
        self._write({"event": "note", "text": text})

    def close(self, status: CloseStatus) -> None:
        self._write({"event": "close", "status": status})
        self._file.close()

    def _write(self, event: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(event, separators=(",", ":")).encode() + b"\n")
        self._file.flush()


def append_note(path: Path, text: str) -> None:
    """Write a note into a journal that is closed, and by that open it again: its status is that of the last close."""
    journal = JsonlTracker(path)
    journal.note(text)
    journal._file.close()


@dataclass(frozen=True, slots=True)
class TrialJournal:
    """What a journal knows of one trial; `record` is None while it runs, and when it was cut off."""

    start: TrialStart
    epochs: tuple[EpochResult, ...] = ()
    record: TrialRecord | None = None


@dataclass(frozen=True, slots=True)
class Journal:
    """A journal, read: trials by name in the order they first started; `status` of the last close, if any."""

    trials: Mapping[str, TrialJournal] = field(default_factory=dict)
    status: CloseStatus | None = None
    notes: tuple[str, ...] = ()
    """What happened to the study itself: it was extended, or ended before its trials were used up."""

    @property
    def finished(self) -> tuple[TrialRecord, ...]:
        return tuple(trial.record for trial in self.trials.values() if trial.record is not None)

    @property
    def unfinished(self) -> tuple[TrialJournal, ...]:
        """Trials that started and never ended."""
        return tuple(trial for trial in self.trials.values() if trial.record is None)

    @property
    def num_epochs(self) -> int:
        return sum(len(trial.epochs) for trial in self.trials.values())


def read_journal(path: Path) -> Journal:
    """Read the journal at `path`; an absent file is an empty journal, a last line without its end is ignored.

    Raises:
        StudyError: if a complete line is not an event, which no crash of ours leaves behind.
    """
    content = path.read_bytes() if path.exists() else b""
    trials: dict[str, TrialJournal] = {}
    status: CloseStatus | None = None
    notes: list[str] = []
    for number, line in enumerate(content.split(b"\n")[:-1], start=1):
        with _naming(path, number):
            event = json.loads(line)
            status = event["status"] if event["event"] == "close" else None
            notes += [event["text"]] if event["event"] == "note" else []
            _apply(event, trials)
    return Journal(trials, status, tuple(notes))


class JournalReader:
    """Tells a tracker what another process appends to the journal at `path`, look by look.

    An absent file is an empty journal; a last line without its end is left for the next look.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._num_bytes = 0
        self._num_lines = 0
        self.status: CloseStatus | None = None
        """Of the last close; None once something was told after it."""

    def tell(self, tracker: Tracker) -> None:
        """Tell `tracker` every event since the last look, but no close: a resumed study goes on after one.

        Raises:
            StudyError: as `read_journal`.
        """
        for line in self._new_lines():
            self._num_lines += 1
            with _naming(self._path, self._num_lines):
                event = json.loads(line)
                self.status = event["status"] if event["event"] == "close" else None
                _tell(event, tracker)

    def _new_lines(self) -> list[bytes]:
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._num_bytes)
            content = file.read()
        *lines, cut = content.split(b"\n")
        self._num_bytes += len(content) - len(cut)
        return lines


def replay(journal: Journal, tracker: Tracker) -> None:
    """Tell `tracker` every finished trial, for one that missed some when the driver was killed."""
    for record in journal.finished:
        tracker.finish_trial(record)


def _apply(event: Mapping[str, Any], trials: dict[str, TrialJournal]) -> None:
    match event["event"]:
        case "start":
            start = TrialStart(**event["start"])
            # A trial started again may go on from a checkpoint, so what it logged before stands.
            epochs = trials[start.name].epochs if start.name in trials else ()
            trials[start.name] = TrialJournal(start, epochs)
        case "epoch":
            trial, result = trials[event["name"]], EpochResult.from_json(event["result"])
            # Later epochs belong to an attempt that was given up.
            earlier = tuple(e for e in trial.epochs if e.epoch < result.epoch)
            trials[event["name"]] = TrialJournal(trial.start, (*earlier, result))
        case "finish":
            record = TrialRecord.from_json(event["record"])
            trials[record.name] = TrialJournal(record.start, record.epochs, record)
        case "note" | "close":
            pass
        case other:
            raise ValueError(f"unknown event {other!r}")


def _tell(event: Mapping[str, Any], tracker: Tracker) -> None:
    match event["event"]:
        case "start":
            tracker.start_trial(TrialStart(**event["start"]))
        case "epoch":
            tracker.log_epoch(event["name"], EpochResult.from_json(event["result"]))
        case "finish":
            tracker.finish_trial(TrialRecord.from_json(event["record"]))
        case "note" | "close":
            pass
        case other:
            raise ValueError(f"unknown event {other!r}")


@contextmanager
def _naming(path: Path, number: int) -> Iterator[None]:
    """Say which line of which file it was that could not be read."""
    try:
        yield
    except (ValueError, KeyError, TypeError) as error:
        raise StudyError(f"{path}:{number}: not an event of a study's journal: {error!r}") from None


def _drop_cut_line(path: Path) -> None:
    """Shorten the file to its last complete line, so that the next event starts on a line of its own."""
    if not path.exists():
        return
    content = path.read_bytes()
    complete = content.rfind(b"\n") + 1
    if complete < len(content):
        with path.open("r+b") as file:
            file.truncate(complete)
