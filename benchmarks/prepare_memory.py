"""Does the memory of `data prepare` grow with the corpus? Peak of the driver and of its largest worker, by clips.

Linux only. A fake reader gives random features of the size that 30 s of FMA have (1292 x 128), so that it is the
machinery that is measured: blocks, Ray, parts on disk, the streaming writer. Each size runs in a process of its own.
A sampler reads what the kernel accounts to the driver and to Ray's workers twenty times a second: RSS, and of it what
is the process's own (anonymous memory), without pages of files and of Ray's store, which others share.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fmasearch.cli import environment
from fmasearch.prepare import prepare_corpus
from fmasearch.tracks import Corpus, FeatureSpec, Frames, Track

MIB = 2**20
NUM_FRAMES, NUM_BINS = 1292, 128


@dataclass(frozen=True)
class RandomReader:
    """Random levels, seeded by the track; a copy of one of a few pictures, as drawing them anew takes longest."""

    num_frames: int

    @property
    def features(self) -> tuple[FeatureSpec, ...]:
        return (FeatureSpec("mel", NUM_BINS, self.num_frames, -80.0, 0.0, {"unit": "dB"}),)

    def read(self, track: Track) -> Mapping[str, Frames]:
        generator = np.random.default_rng(int(track.track_id) % 97)
        return {"mel": generator.random((self.num_frames, NUM_BINS), np.float32) * 80 - 80}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, nargs="+", default=[1_000, 10_000])
    parser.add_argument("--frames", type=int, default=NUM_FRAMES)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument(
        "--folder", type=Path, default=None, help="where to write; needs twice the file (2 x 165 kB a clip)"
    )
    parser.add_argument("--one", type=int, default=None, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one is not None:
        print(json.dumps(measure(arguments.one, arguments.frames, arguments.workers, arguments.folder)))
        return
    facts = environment.describe()
    print(f"{arguments.frames} x {NUM_BINS} uint8 a clip, {arguments.workers} workers, peak MiB")
    print(f"{facts['device']}, ray {facts['ray']}, numpy {facts['numpy']}")
    print("  clips  file MiB  seconds   driver RSS  (own)   worker RSS  (own)")
    for clips in arguments.clips:
        command = [sys.executable, __file__, "--one", str(clips), "--frames", str(arguments.frames)]
        command += ["--workers", str(arguments.workers)]
        command += ["--folder", str(arguments.folder)] if arguments.folder else []
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found = json.loads(done.stdout.splitlines()[-1])
        print(
            f"{clips:7,} {found['file']:9,.0f} {found['seconds']:8.0f} {found['driver_rss']:12.0f} "
            f"{found['driver_own']:7.0f} {found['worker_rss']:12.0f} {found['worker_own']:7.0f}",
            flush=True,
        )


def measure(clips: int, num_frames: int, workers: int, folder: Path | None) -> dict[str, float]:
    """Peaks in MiB while so many clips are prepared, and what it took."""
    tracks = tuple(Track(str(n), f"{n}.mp3", "train", {"genre": "rock"}) for n in range(clips))
    sampler = Sampler()
    with tempfile.TemporaryDirectory(dir=folder) as place:
        out = Path(place) / "bench.h5"
        started = time.monotonic()
        sampler.start()
        prepare_corpus(Corpus("bench", tracks), RandomReader(num_frames), out, workers=workers)
        seconds = time.monotonic() - started
        sampler.stop()
        size = out.stat().st_size / MIB
    return {"file": size, "seconds": seconds, **{name: peak / MIB for name, peak in sampler.peaks.items()}}


class Sampler(threading.Thread):
    """Watches this process and Ray's workers below it."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peaks = {"driver_rss": 0, "driver_own": 0, "worker_rss": 0, "worker_own": 0}
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.wait(0.05):
            self._note("driver", os.getpid())
            for pid in _workers(os.getpid()):
                self._note("worker", pid)

    def stop(self) -> None:
        self._ended.set()
        self.join()

    def _note(self, who: str, pid: int) -> None:
        try:
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        except OSError:  # it has just ended
            return
        fields = {name: value for name, _, value in (line.partition(":") for line in lines)}
        for kind, field in (("rss", "VmRSS"), ("own", "RssAnon")):
            found = int(fields.get(field, "0 kB").split()[0]) * 1024
            self.peaks[f"{who}_{kind}"] = max(self.peaks[f"{who}_{kind}"], found)


def _workers(driver: int) -> list[int]:
    """Processes that read blocks: Ray names them `ray::read_block`, and idle ones `ray::IDLE`."""
    parents: dict[int, tuple[int, str]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text()
            name = (stat.parent / "cmdline").read_text().partition("\0")[0]
        except OSError:
            continue
        parents[int(stat.parent.name)] = (int(text.rpartition(")")[2].split()[1]), name)
    return [pid for pid, (_, name) in parents.items() if name.startswith("ray::") and _is_below(pid, driver, parents)]


def _is_below(pid: int, ancestor: int, parents: Mapping[int, tuple[int, str]]) -> bool:
    while pid in parents and pid != ancestor:
        pid = parents[pid][0]
    return pid == ancestor


if __name__ == "__main__":
    main()
