"""How much memory does one more trial take? Mapped levels against a copy of the data per process.

Linux only: reads the proportional set size (PSS) that the kernel accounts to each process, which divides a shared
page by the number of its users. Each process really trains on every track once, so that every page is touched.
"""

from __future__ import annotations

import argparse
import dataclasses
import multiprocessing
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch

from fmasearch.cli import environment
from fmasearch.data import DataSpec, FeatureArray, Split, open_dataset, prepare, write_feature_file

MIB = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tracks", type=int, default=4000)
    parser.add_argument("--processes", type=int, default=4)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        spec = _feature_file(Path(folder), arguments.tracks)
        prepare(spec)
        size = sum(f.stat().st_size for f in Path(spec.cache_dir).rglob("*.npy")) / MIB
        mapped = _memory(spec, arguments.processes, copy=False)
        copied = _memory(spec, arguments.processes, copy=True)
    facts = environment.describe()
    print(f"{arguments.tracks} tracks of 256 x 128 uint8 ({size:.0f} MiB), {arguments.processes} processes")
    print(f"{facts['device']}, torch {facts['torch']}")
    print("MiB a process          PSS   private")
    print(f"mapped (fmasearch)  {mapped[0]:6.0f}  {mapped[1]:8.0f}")
    print(f"a copy per process  {copied[0]:6.0f}  {copied[1]:8.0f}")
    print(f"the data itself     {mapped[2]:6.0f} against {copied[2]:.0f}: PSS above that of a process without data")
    print(f"ratio of private memory above that of a process without data: {copied[3] / max(mapped[3], 1):.0f}")


def _memory(spec: DataSpec, processes: int, *, copy: bool) -> tuple[float, float, float, float]:
    """Mean PSS and private memory of a process, and both above a process that opened no data, in MiB."""
    context = multiprocessing.get_context("spawn")
    pipes = [context.Pipe() for _ in range(processes)]
    workers = [context.Process(target=_work, args=(spec, copy, theirs)) for _, theirs in pipes]
    for worker in workers:
        worker.start()
    before = [ours.recv() for ours, _ in pipes]
    for ours, _ in pipes:
        ours.send("open")
    for ours, _ in pipes:
        ours.recv()
    for ours, _ in pipes:  # only now, when every process has touched every page
        ours.send("measure")
    after = [ours.recv() for ours, _ in pipes]
    for worker in workers:
        worker.join()
    means = [sum(values) / processes / MIB for values in zip(*after, strict=True)]
    base = [sum(values) / processes / MIB for values in zip(*before, strict=True)]
    return means[0], means[1], means[0] - base[0], means[1] - base[1]


def _work(spec: DataSpec, copy: bool, pipe: Connection) -> None:
    torch.set_num_threads(1)
    pipe.send(_usage())
    pipe.recv()
    dataset = open_dataset(spec)
    train = _copied(dataset.train) if copy else dataset.train
    for batch in train.ordered(64):
        float(batch.x_BTF[0, 0, 0])
    pipe.send("read")
    pipe.recv()
    pipe.send(_usage())


def _copied(split: Split) -> Split:
    stores = tuple(store.taken(torch.arange(len(split))) for store in split.stores)
    return dataclasses.replace(split, stores=stores)


def _usage() -> tuple[int, int]:
    """PSS and private bytes of this process."""
    fields = {}
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]:
        name, value = line.split(":")
        fields[name] = int(value.split()[0]) * 1024
    return fields["Pss"], fields["Private_Clean"] + fields["Private_Dirty"]


def _feature_file(root: Path, tracks: int) -> DataSpec:
    levels = np.random.default_rng(0).integers(0, 256, (tracks, 256, 128), np.uint8)
    split = np.zeros(tracks, np.int8)
    split[-tracks // 10 :] = 1
    write_feature_file(
        root / "levels.h5",
        corpus="bench",
        features={"mel": FeatureArray(levels, scale=80 / 255, offset=-80.0)},
        classes={"genre": (["a", "b"], np.arange(tracks) % 2)},
        split=split,
        track_ids=[str(i) for i in range(tracks)],
    )
    return DataSpec.of(root / "levels.h5", features=["mel"], label="genre", cache_dir=root / "cache")


if __name__ == "__main__":
    main()
