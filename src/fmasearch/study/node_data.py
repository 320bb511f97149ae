"""A study's data on every node: the feature file, received once a node, and the cache that all its trials map.

The driver's node serves the file in pieces through Ray's object store, so that no shared disk is needed; a file that
has a URI is fetched from there instead. Whoever comes first on a node fetches, the others wait for it at a lock.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from fmasearch.data import DataSpec, content_hash, default_cache_dir, prepare
from fmasearch.data.remote import copy_here
from fmasearch.data.stored import PIECE_BYTES, require_space, store_pieces, stored_file
from fmasearch.files import locked, replacing

_PIECES_AHEAD = 2


@dataclass(frozen=True, slots=True)
class DataSource:
    """Where the nodes of a cluster get a study's feature file."""

    node_id: str
    """The driver's node: its paths are good there, and perhaps nowhere else."""
    server: str
    """Name of the `FileServer` actor on that node."""

    @property
    def is_here(self) -> bool:
        """Whether this process runs on the driver's node."""
        return bool(ray.get_runtime_context().get_node_id() == self.node_id)


@contextmanager
def data_source(spec: DataSpec, log: Path) -> Iterator[DataSource]:
    """Serve the file of `spec` from this node.

    Args:
        log: JSON file that says which node received how much: `{address: {bytes_received, seconds, file}}`.
    """
    node_id = ray.get_runtime_context().get_node_id()
    here = NodeAffinitySchedulingStrategy(node_id=node_id, soft=False)
    name = f"fmasearch-data-{time.time_ns()}"
    options = {"name": name, "num_cpus": 0, "scheduling_strategy": here}
    server = ray.remote(FileServer).options(**options).remote(spec.path, str(log))
    try:
        yield DataSource(node_id, name)
    finally:
        ray.kill(server)


def on_this_node(spec: DataSpec, source: DataSource | None) -> DataSpec:
    """The same data by this node's paths; the file is fetched and its cache built if this is the first to ask.

    Raises:
        DataError: if the file does not fit on this node's disk, or does not arrive as it was sent.
    """
    if source is None or source.is_here:
        return spec
    cache = default_cache_dir()
    with locked(cache / f"{spec.sha256[:16]}.lock"):
        started = time.monotonic()
        path, received = _find(spec, cache), 0
        if path is None:
            path = _fetch(spec, source, cache)
            received = path.stat().st_size
        local = replace(spec, path=str(path), cache_dir=str(cache))
        prepare(local)
    seconds = time.monotonic() - started
    ray.get(ray.get_actor(source.server).note.remote(ray.util.get_node_ip_address(), received, seconds, str(path)))
    return local


class FileServer:
    """Hands out pieces of one file, and writes down who received it."""

    def __init__(self, path: str, log: str) -> None:
        self._path = Path(path)
        self._log = Path(log)

    def num_bytes(self) -> int:
        return self._path.stat().st_size

    def piece(self, index: int) -> bytes:
        with self._path.open("rb") as file:
            file.seek(index * PIECE_BYTES)
            return file.read(PIECE_BYTES)

    def note(self, address: str, received: int, seconds: float, file: str) -> None:
        """Every trial's worker says what it found; the node's entry is what its first one received."""
        log = json.loads(self._log.read_text(encoding="utf-8")) if self._log.exists() else {}
        entry = log.setdefault(address, {"bytes_received": 0, "seconds": 0.0, "file": file})
        if received:
            entry |= {"bytes_received": entry["bytes_received"] + received, "seconds": round(seconds, 3), "file": file}
        with replacing(self._log) as temporary:
            temporary.write_text(json.dumps(log, indent=1), encoding="utf-8")


def _find(spec: DataSpec, cache: Path) -> Path | None:
    """The file on this node: received for an earlier study, or seen here as on the driver's node (a shared disk)."""
    if (stored := stored_file(cache, spec.sha256)).exists():
        return stored
    path = Path(spec.path)
    if path.exists() and content_hash(path, memo=cache / "hashes.json") == spec.sha256:
        return path
    return None


def _fetch(spec: DataSpec, source: DataSource, cache: Path) -> Path:
    if spec.uri is not None:
        return copy_here(spec.uri, cache, expected=spec.sha256)
    server = ray.get_actor(source.server)
    num_bytes: int = ray.get(server.num_bytes.remote())
    require_space(cache, num_bytes, spec.name)
    store_pieces(cache, _pieces(server, num_bytes), expected=spec.sha256, source=spec.name)
    return stored_file(cache, spec.sha256)


def _pieces(server: Any, num_bytes: int) -> Iterator[bytes]:
    """The file's pieces in order; the next few are on their way while one is written."""
    waiting = deque(range(-(-num_bytes // PIECE_BYTES)))
    coming: deque[Any] = deque()
    while waiting or coming:
        while waiting and len(coming) <= _PIECES_AHEAD:
            coming.append(server.piece.remote(waiting.popleft()))
        yield ray.get(coming.popleft())
