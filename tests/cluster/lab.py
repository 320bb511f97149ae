"""The lab: its machines, the person at the laptop, and the studies that they run."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from evidence import StudyFiles
from hosts import Host
from laptop import Laptop, install_beforehand, open_laptop, write_cluster_file

T = TypeVar("T")

ENDLESS = 3000
"""Epochs of trials that nobody waits for."""

SPACE = """\
features: [mel]
task: {classification: genre}
model: {architecture: cnn_gru, hidden_dim: 8, rnn_dim: 8, num_conv_layers: 1, num_layers: 1, dropout: 0.2}
optimizer: {learning_rate: {float: [1.0e-4, 1.0e-2], log: true}}
trainer: {batch_size: 16}
"""
SEARCH = """\
sampler: {name: random}    # what a trial tries must not depend on which trials ended before it
scheduler: {name: none}
patience: null
checkpoint_seconds: 0      # after every epoch
confirm: {top_k: 1, seeds: 1}
resources: {cpu: 1, gpu: 0}
"""


@dataclass
class Cluster:
    """The machines, and the person at the laptop."""

    laptop: Laptop
    head: Host
    workers: tuple[Host, ...]
    spare: Host
    """Listed in the cluster file, and switched off at first."""
    data: Path
    finished: list[StudyFiles] = field(default_factory=list)
    """Studies of the cluster that ended with a record."""

    @property
    def first(self) -> tuple[Host, ...]:
        return (self.head, *self.workers)

    @property
    def alive(self) -> tuple[Host, ...]:
        return tuple(host for host in (*self.first, self.spare) if host.is_on)

    def studies(self) -> set[str]:
        return {plan.parent.name for plan in self.head.path("~/fmasearch/runs").glob("*/study.yaml")}

    def study(self, name: str) -> StudyFiles:
        return StudyFiles(self.head.path("~/fmasearch/runs") / name)

    def tune(
        self, *, trials: int, epochs: int, options: tuple[str, ...] = (), data: Path | None = None, detach: bool = False
    ) -> tuple[str, StudyFiles]:
        """Submit a study; returns what was printed, and where the study is."""
        before = self.studies()
        words = ("tune", "spaces/lab.yaml", "--search=search/lab.yaml", f"--data={data or self.data}")
        said = self.laptop.submit(*words, *size(trials, epochs), *options, detach=detach, timeout=300)
        (name,) = self.studies() - before
        return said, self.study(name)


def make_cluster(checkout: Path, *, verbose: bool) -> Cluster:
    from conftest import make_feature_file

    laptop = open_laptop(checkout, verbose=verbose)
    install_beforehand(checkout)
    (laptop.project / "spaces" / "lab.yaml").write_text(SPACE, encoding="utf-8")
    (laptop.project / "search" / "lab.yaml").write_text(SEARCH, encoding="utf-8")
    # Most of its 20 MB are test tracks: they are worth sending, and cost no time in training.
    data = make_feature_file(Path.home() / "lab.h5", tracks=(120, 40, 240), num_frames=200, num_bins=128, contrast=1.0)
    names = ("head", "one", "two", "spare")
    machines = [Host(name, f"10.77.0.{11 + number}") for number, name in enumerate(names)]
    write_cluster_file(laptop, checkout, machines)
    head, one, two, spare = machines
    for host in (head, one, two):
        host.start()
    return Cluster(laptop, head, (one, two), spare, data)


def size(trials: int, epochs: int) -> tuple[str, str]:
    """The options of `tune` that say how much."""
    return f"--trials={trials}", f"--max-epochs={epochs}"


def wait_until(look: Callable[[], T], seconds: float, *, every: float = 0.5) -> T | None:
    """What `look` returns once that is something; None if it is nothing for so long."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        if time.monotonic() > deadline:
            return None
        time.sleep(every)
    return found
