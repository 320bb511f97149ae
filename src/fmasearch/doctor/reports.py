"""What is known of a node once it was asked: plain values, read without Ray."""

from __future__ import annotations

from dataclasses import dataclass

from fmasearch.doctor.facts import NodeFacts


@dataclass(frozen=True, slots=True)
class Tried:
    """How a node took to the storage."""

    problem: str = ""
    """Why it could not write, read back and delete there; empty if it could."""
    seen: bool = True
    """Whether the driver saw what the node wrote."""


@dataclass(frozen=True, slots=True)
class Clock:
    """A node's clock against the driver's, in seconds: it is `ahead` by that, give or take `error`."""

    ahead: float
    error: float


@dataclass(frozen=True, slots=True)
class NodeReport:
    """What is known of a node. `facts` is None if it did not answer, and `problem` says why."""

    address: str
    is_head: bool = False
    on_cluster: bool = False
    facts: NodeFacts | None = None
    problem: str = ""
    ray_cpus: float = 0.0
    ray_gpus: float = 0.0
    object_store: int | None = None
    clock: Clock | None = None
    storage: Tried | None = None
    data_problem: str = ""
    """Why it cannot read the data from its URI."""
