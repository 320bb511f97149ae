"""The `Tracker` protocol: who is told that trials start, learn and end; and the trackers without a file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, TypeAlias

from fmasearch.records import EpochResult, TrialRecord, TrialStart

CloseStatus: TypeAlias = Literal["finished", "failed", "interrupted"]


class Tracker(Protocol):
    """Hears of a study's search trials, on the driver only: workers talk to no tracker.

    A trial is told as one `start_trial`, its epochs in order, and one `finish_trial`. A trial that was cut
    off is started again under its own name. Calls come from one thread.
    """

    def start_trial(self, start: TrialStart) -> None: ...

    def log_epoch(self, name: str, result: EpochResult) -> None:
        """An epoch of the running trial `name` ended."""

    def finish_trial(self, record: TrialRecord) -> None:
        """A trial ended; `record` is authoritative, also for its epochs."""

    def close(self, status: CloseStatus) -> None:
        """The study ended; nothing is told afterwards."""


class MemoryTracker:
    """Keeps everything in dictionaries; for tests and for short local runs."""

    def __init__(self) -> None:
        self.starts: dict[str, TrialStart] = {}
        self.epochs: dict[str, list[EpochResult]] = {}
        self.records: dict[str, TrialRecord] = {}
        self.status: CloseStatus | None = None

    def start_trial(self, start: TrialStart) -> None:
        self.starts[start.name] = start
        self.epochs.setdefault(start.name, [])
        self.records.pop(start.name, None)

    def log_epoch(self, name: str, result: EpochResult) -> None:
        self.epochs[name] = [e for e in self.epochs[name] if e.epoch < result.epoch] + [result]

    def finish_trial(self, record: TrialRecord) -> None:
        self.starts[record.name] = record.start
        self.epochs[record.name] = list(record.epochs)
        self.records[record.name] = record

    def close(self, status: CloseStatus) -> None:
        self.status = status


class CompositeTracker:
    """Tells several trackers, in order: put the journal first, so that what a later one misses is on disk."""

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self.trackers = tuple(trackers)

    def start_trial(self, start: TrialStart) -> None:
        for tracker in self.trackers:
            tracker.start_trial(start)

    def log_epoch(self, name: str, result: EpochResult) -> None:
        for tracker in self.trackers:
            tracker.log_epoch(name, result)

    def finish_trial(self, record: TrialRecord) -> None:
        for tracker in self.trackers:
            tracker.finish_trial(record)

    def close(self, status: CloseStatus) -> None:
        """Close every tracker, also when one fails; then raise the first failure."""
        failures: list[Exception] = []
        for tracker in self.trackers:
            try:
                tracker.close(status)
            except Exception as error:
                failures.append(error)
        if failures:
            raise failures[0]
