"""What a study left behind: its journal and the note of who received its data, read straight from a host's disk."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import yaml


@dataclass(frozen=True)
class EpochTold:
    """One epoch as the journal heard of it, also one that was trained a second time."""

    trial: str
    epoch: int
    node: str


@dataclass(frozen=True)
class StudyFiles:
    """A study's working folder, wherever it lies."""

    root: Path

    @property
    def events(self) -> list[dict[str, Any]]:
        journal = self.root / "journal.jsonl"
        content = journal.read_bytes() if journal.exists() else b""
        return [json.loads(line) for line in content.split(b"\n")[:-1]]

    @property
    def finished(self) -> dict[str, dict[str, Any]]:
        """Trials that ended, by name."""
        return {e["record"]["name"]: e["record"] for e in self.events if e["event"] == "finish"}

    @property
    def started(self) -> set[str]:
        return {event["start"]["name"] for event in self.events if event["event"] == "start"}

    @property
    def states(self) -> dict[str, str]:
        return {name: record["state"] for name, record in sorted(self.finished.items())}

    @property
    def epochs_told(self) -> list[EpochTold]:
        told = [event for event in self.events if event["event"] == "epoch"]
        return [EpochTold(e["name"], e["result"]["epoch"], e["result"]["node"]) for e in told]

    @property
    def epochs_by_node(self) -> Counter[str]:
        return Counter(epoch.node for epoch in self.epochs_told)

    def repeated(self, trial: str) -> int:
        """Epochs of a trial that were trained once more."""
        numbers = [epoch.epoch for epoch in self.epochs_told if epoch.trial == trial]
        return len(numbers) - len(set(numbers))

    def first_epochs(self, trial: str) -> list[str]:
        """The nodes that trained the first epoch of a trial, in order."""
        return [epoch.node for epoch in self.epochs_told if (epoch.trial, epoch.epoch) == (trial, 1)]

    def course(self, trial: str) -> str:
        """Which epochs of a trial were trained where: `1-7 on 10.77.0.13, 8-20 on 10.77.0.11`."""
        told = [epoch for epoch in self.epochs_told if epoch.trial == trial]
        parts = [(node, [epoch.epoch for epoch in epochs]) for node, epochs in groupby(told, lambda epoch: epoch.node)]
        return ", ".join(f"{numbers[0]}-{numbers[-1]} on {node}" for node, numbers in parts)

    @property
    def curves(self) -> dict[str, list[tuple[int, float]]]:
        """Epoch and objective of every trial."""
        return {
            name: [(epoch["epoch"], epoch["objective"]) for epoch in record["epochs"]]
            for name, record in sorted(self.finished.items())
        }

    @property
    def received(self) -> dict[str, dict[str, Any]]:
        """Bytes, seconds and file by node."""
        file = self.root / "nodes.json"
        return dict(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else {}

    @property
    def training_seconds(self) -> float:
        return float(sum(epoch["epoch_seconds"] for record in self.finished.values() for epoch in record["epochs"]))


def search_seconds(results: Path) -> float:
    """How long the search took by the clock, as a study's record says."""
    return float(yaml.safe_load((results / "study.yaml").read_text(encoding="utf-8"))["search_seconds"])


def sha256_of(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
