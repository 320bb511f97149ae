"""Ray for a while: join the one that is running, or start one on this machine; the cores and nodes there are."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray

# Read by Ray when it is imported or started.
_ENVIRONMENT = {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "RAY_USAGE_STATS_ENABLED": "0"}


def num_local_cpus() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def joins_ray() -> bool:
    """Whether a Ray is there to be joined: in this process, or at `RAY_ADDRESS`."""
    return ray.is_initialized() or bool(os.environ.get("RAY_ADDRESS"))


@dataclass(frozen=True, slots=True)
class Node:
    """A machine of the cluster, as Ray sees it."""

    node_id: str
    address: str
    alive: bool
    cpus: float
    gpus: float
    is_head: bool


def cluster_nodes() -> tuple[Node, ...]:
    """The machines of the Ray that this process has joined, the head first, dead ones last."""
    nodes = [_as_node(values) for values in ray.nodes()]
    return tuple(sorted(nodes, key=lambda node: (not node.alive, not node.is_head, node.address)))


@contextmanager
def ray_session(
    *, object_store_bytes: int, num_cpus: int | None = None, environment: Mapping[str, str] | None = None
) -> Iterator[None]:
    """Join the Ray that is running in this process or at `RAY_ADDRESS`, else start one here and stop it at the end.

    Args:
        object_store_bytes: of a Ray that is started.
        num_cpus: of a Ray that is started; None is all cores that this process may use.
        environment: variables for Ray's processes; what is set already stays.
    """
    wanted = {**_ENVIRONMENT, **(environment or {})}
    os.environ.update({key: os.environ.get(key, value) for key, value in wanted.items()})
    started = not ray.is_initialized()
    if started:
        _start(os.environ.get("RAY_ADDRESS"), num_cpus or num_local_cpus(), object_store_bytes)
    try:
        yield
    finally:
        if started:
            ray.shutdown()


def _start(address: str | None, num_cpus: int, object_store_bytes: int) -> None:
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
    if address:
        ray.init(address=address, **quiet)
    else:
        # "local", or it would join any Ray that somebody has running on this machine.
        ray.init("local", num_cpus=num_cpus, include_dashboard=False, object_store_memory=object_store_bytes, **quiet)


def _as_node(values: Mapping[str, Any]) -> Node:
    resources = values["Resources"]
    return Node(
        node_id=values["NodeID"],
        address=values["NodeManagerAddress"],
        alive=values["Alive"],
        cpus=resources.get("CPU", 0.0),
        gpus=resources.get("GPU", 0.0),
        is_head="node:__internal_head__" in resources,
    )
