"""Readers at work: blocks read in this process, or by Ray's workers on every core of the machine or cluster."""

from __future__ import annotations

import platform
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import ray
from ray.exceptions import NodeDiedError, RayTaskError, WorkerCrashedError

from fmasearch.errors import DataError
from fmasearch.prepare.blocks import BLOCK_SIZE, Block, StorageType, empty_block, join_blocks, read_block
from fmasearch.ray_session import joins_ray, num_local_cpus, ray_session
from fmasearch.tracks import Reader, Track

Job: TypeAlias = tuple[int, Sequence[Track]]
"""A block's index and tracks."""

_LEAST_STORE_BYTES = 100 * 2**20
_TYPICAL_BEATS = 200  # frames of a 30 s clip where only reading tells; 129 beats is the most seen in FMA
_DIED = "unexpected: the process that read it died"


def read_blocks(
    reader: Reader, jobs: Iterable[Job], dtype: StorageType, *, workers: int | None = None, root: Path | None = None
) -> Generator[tuple[int, Block], None, None]:
    """Read blocks, in the order in which they are finished. Close it to stop early.

    Args:
        workers: processes that read at once. None is one per core of this machine, or of the cluster in
            `RAY_ADDRESS`; 0, and None on a single core, reads in this process and does without Ray.
        root: a folder or file that every node must see.

    Raises:
        DataError: if a node does not see `root`; its tracks would all be excluded.
    """
    if workers == 0 or (workers is None and num_local_cpus() == 1 and not joins_ray()):
        for index, tracks in jobs:
            yield index, read_block(reader, tracks, dtype)
        return
    with _ray_for(reader, dtype, workers) as most_in_flight:
        yield from _read_on_ray(reader, jobs, dtype, most_in_flight, root)


def _read_on_ray(
    reader: Reader, jobs: Iterable[Job], dtype: StorageType, most_in_flight: int, root: Path | None
) -> Iterator[tuple[int, Block]]:
    """Only so many blocks are under way that memory stays bounded, and that no core waits for the driver."""
    read = ray.remote(read_block_on_node).options(num_cpus=1, max_retries=0)
    shared = ray.put(reader)
    waiting = iter(jobs)
    running: dict[Any, Job] = {}
    while True:
        for index, tracks in islice(waiting, most_in_flight - len(running)):
            running[read.remote(shared, tracks, dtype, root)] = (index, tracks)
        if not running:
            return
        (done,), _ = ray.wait(list(running), num_returns=1)
        index, tracks = running.pop(done)
        try:
            block = ray.get(done)
        except (WorkerCrashedError, NodeDiedError):  # a decoder that falls takes the whole block along
            block = _read_one_by_one(shared, reader, tracks, dtype)
        except RayTaskError as error:
            if isinstance(error.cause, DataError):  # as it was raised, without the worker's traceback
                raise error.cause from None
            raise
        del done  # the store may forget it as soon as the caller has
        yield index, block


def read_block_on_node(reader: Reader, tracks: Sequence[Track], dtype: StorageType, root: Path | None) -> Block:
    """Runs in a worker: `read_block`, where there is something to read."""
    if root is not None and not root.exists():
        raise DataError(
            f"{root}: the machine {platform.node()} does not see it; every machine of the cluster must have it under "
            f"this path, or start without RAY_ADDRESS"
        )
    return read_block(reader, tracks, dtype)


def _read_one_by_one(shared: Any, reader: Reader, tracks: Sequence[Track], dtype: StorageType) -> Block:
    """The block without the tracks that kill whoever reads them; those are excluded."""
    read = ray.remote(read_block).options(num_cpus=1, max_retries=1)
    results = [read.remote(shared, [track], dtype) for track in tracks]
    parts: list[Block] = []
    for result in results:
        try:
            parts.append(ray.get(result))
        except (WorkerCrashedError, NodeDiedError):
            parts.append(empty_block(reader.features, dtype, {0: _DIED}))
    return join_blocks(parts, range(len(tracks)))


@contextmanager
def _ray_for(reader: Reader, dtype: StorageType, workers: int | None) -> Iterator[int]:
    """Join the Ray of this process or of `RAY_ADDRESS`, else start one meanwhile; yields the most blocks in flight."""
    num_cpus = workers or num_local_cpus()
    # All blocks in flight may lie in the store, and some more while they are written; it is memory only when used.
    store = max(_LEAST_STORE_BYTES, 3 * num_cpus * _block_bytes(reader, dtype))
    with ray_session(object_store_bytes=store, num_cpus=num_cpus):
        cores = max(1, int(ray.cluster_resources().get("CPU", 1)))
        yield workers if workers is not None and workers < cores else 2 * cores


def _block_bytes(reader: Reader, dtype: StorageType) -> int:
    cells = sum((spec.max_frames or _TYPICAL_BEATS) * spec.num_bins for spec in reader.features)
    return BLOCK_SIZE * cells * np.dtype(dtype).itemsize
