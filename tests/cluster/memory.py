"""How much memory a feature file takes on its way from the head to workers, of every process that it passes."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
from evidence import StudyFiles
from hosts import Host
from lab import ENDLESS, Cluster, wait_until
from table import Table

MIB = 2**20
BULK_BYTES = 256 * MIB
"""Three times what the object store of a host holds; see `laptop.RAY_START`."""
BOUND_BYTES = 192 * MIB
"""The object store's 76 MiB, which count as memory of each process that looks into it, and what a raylet has under way.

Between two raylets of one machine, ray 2.60, the receiver's had 193 MiB at most for a file of 256 MiB, and 198 MiB for
one of 1 GiB.
"""
SECONDS_TO_ARRIVE = 120

_RAYLET = "/core/src/ray/raylet/raylet "


@dataclass
class Peak:
    """A process's largest resident memory from now on, by the kernel's own count. `proc`: its folder, on its host."""

    who: str
    proc: Path
    before: int = 0
    highest: int = 0

    def __post_init__(self) -> None:
        (self.proc / "clear_refs").write_text("5")  # the peak is what there is now
        self.before = self._read("VmRSS")

    def note(self) -> None:
        self.highest = self._read("VmHWM")

    @property
    def growth(self) -> int:
        return self.highest - self.before

    def __str__(self) -> str:
        return f"{self.who} {self.before / MIB:.0f} + {self.growth / MIB:.0f} MiB"

    def _read(self, key: str) -> int:
        lines = (self.proc / "status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


@dataclass
class Transfer:
    """Watches a file go from the head to workers. It must be started before the study that sends it."""

    head: Host
    workers: tuple[Host, ...]
    sending: list[Peak] = field(default_factory=list)
    receiving: dict[str, list[Peak]] = field(default_factory=dict)
    arrived: set[str] = field(default_factory=set)
    _known: dict[str, set[str]] = field(default_factory=dict)
    _stopped: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        self._known = {host.name: {file.name for file in _files(host).glob("*.h5")} for host in self.workers}
        threading.Thread(target=self._watch, daemon=True).start()

    @property
    def complete(self) -> bool:
        return len(self.arrived) == len(self.workers)

    def stop(self) -> None:
        self._stopped.set()

    def _watch(self) -> None:
        while not self.complete and not self._stopped.is_set():
            for host in self.workers:
                if host.name not in self.receiving:
                    self._look_for_beginning(host)
                elif host.name not in self.arrived:
                    self._look_for_end(host)
            time.sleep(0.003)

    def _look_for_beginning(self, host: Host) -> None:
        for file in _files(host).glob(".arriving.*.tmp"):
            worker = file.name.split(".")[2]  # the process that writes it, as its host numbers it
            self.receiving[host.name] = [
                Peak("its worker", host.path(f"/proc/{worker}")),
                *(Peak("its raylet", process) for process in _processes(host, _RAYLET)),
            ]
            self.sending = self.sending or [
                Peak(who, process)
                for who, words in (
                    ("file server", "ray::FileServer"),
                    ("raylet", _RAYLET),
                    ("driver", "-m fmasearch tune"),
                )
                for process in _processes(self.head, words)
            ]

    def _look_for_end(self, host: Host) -> None:
        if {file.name for file in _files(host).glob("*.h5")} > self._known[host.name]:
            for peak in (*self.sending, *self.receiving[host.name]):
                peak.note()
            self.arrived.add(host.name)


def check_memory(cluster: Cluster, table: Table) -> StudyFiles:
    """A study of a file that no object store could hold, one trial a host; returns it while it runs."""
    data = _make_large(cluster.data.with_name("large.h5"))
    workers = cluster.alive[1:]
    transfer = Transfer(cluster.head, workers)
    transfer.start()
    _, study = cluster.tune(trials=len(cluster.alive), epochs=ENDLESS, data=data, detach=True)
    wait_until(lambda: transfer.complete and len(study.received) == len(workers), SECONDS_TO_ARRIVE)
    transfer.stop()
    num_bytes = data.stat().st_size
    received = {address: entry["bytes_received"] for address, entry in study.received.items()}
    table.check(
        "a file larger than the object store: sent to each host, bytes",
        {host.address: num_bytes for host in workers},
        received,
    )
    for who, peaks in (("sends", transfer.sending), *((f"receives, {n}", p) for n, p in transfer.receiving.items())):
        table.check(
            f"memory of who {who}, before + grown by, for {num_bytes / MIB:.0f} MiB",
            f"grown by less than {BOUND_BYTES / MIB:.0f} MiB",
            ", ".join(map(str, peaks)) or "no such process",
            transfer.complete and bool(peaks) and all(peak.growth < BOUND_BYTES for peak in peaks),
        )
    return study


def _make_large(path: Path) -> Path:
    """A feature file whose bulk is a feature set that the study does not use: it is sent, and costs nothing else."""
    from conftest import make_feature_file

    make_feature_file(path, tracks=(120, 40, 240), num_frames=200, num_bins=8)
    levels = np.random.default_rng(0).integers(0, 256, (400, 200, BULK_BYTES // 80_000), dtype=np.uint8)
    with h5py.File(path, "a") as file:
        file["features/wide"] = levels
        file["features/wide"].attrs.update({**file["features/mel"].attrs, "scale": 0.5, "offset": -80.0})
        file["lengths/wide"] = file["lengths/mel"][:]
    return path


def _files(host: Host) -> Path:
    """Where a host keeps the feature files that it received."""
    return host.path("/var/tmp/fmasearch-root/files")


def _processes(host: Host, words: str) -> list[Path]:
    """`/proc` folders of a host's processes that have these words in their command line; shells that run them aside."""
    found = [number for number, line in host.processes().items() if words in line and not line.startswith("/bin/")]
    return [host.path(f"/proc/{number}") for number in found]
