"""The nodes of a Ray cluster, asked all at once: facts, clock, storage. One that does not answer fails alone."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.exceptions import GetTimeoutError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from fmasearch.doctor.facts import NodeFacts, gather
from fmasearch.doctor.reports import Clock, NodeReport, Tried
from fmasearch.doctor.storage import delete_probe, object_problem, sees_probe, within, write_probe
from fmasearch.errors import StudyError
from fmasearch.ray_session import Node, cluster_nodes

ANSWER_SECONDS = 30.0
_ROUND_TRIPS = 5
_THIS_MACHINE = "this machine"
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_RAISED = re.compile(r"[\w.]*(Error|Exception): ")


@dataclass(frozen=True, slots=True)
class Questions:
    """What every node is asked.

    Args:
        packages: whose versions matter.
        lock: versions by name that the lock file pins.
        storage: folder or URI to try out, if any; `make_storage` if it may be made.
        data_uri: of an object that every node must be able to read, if any.
    """

    packages: tuple[str, ...]
    lock: Mapping[str, str]
    storage: str | None = None
    make_storage: bool = True
    data_uri: str | None = None


def ask_here(questions: Questions) -> NodeReport:
    """This machine, without Ray."""
    report = NodeReport(_THIS_MACHINE, facts=gather(questions.packages, questions.lock, word=""))
    if questions.storage is not None:
        report = replace(report, storage=_try_storage_here(questions.storage, make=questions.make_storage))
    if questions.data_uri is not None:
        report = replace(report, data_problem=_within_or_words(object_problem, questions.data_uri)[1])
    return report


def ask_cluster(questions: Questions, *, seconds: float = ANSWER_SECONDS) -> tuple[NodeReport, ...]:
    """Every living node of the Ray that is joined here, the head first.

    Args:
        seconds: to wait for each kind of answer, from all nodes together.
    """
    nodes = [node for node in cluster_nodes() if node.alive]
    stores = {values["NodeID"]: values["Resources"].get("object_store_memory") for values in ray.nodes()}
    actors = {node.node_id: _start(node.node_id) for node in nodes}
    try:
        asked = _Asked(actors, seconds)
        facts = asked.all("gather", questions.packages, dict(questions.lock), secrets.token_hex(8))
        answered = _Asked({each: actors[each] for each, answer in facts.items() if not answer.problem}, seconds)
        clocks = answered.clocks()
        tried = answered.storage(questions.storage, make=questions.make_storage) if questions.storage else {}
        read = answered.all("object_problem", questions.data_uri) if questions.data_uri else {}
    finally:
        for actor in actors.values():
            ray.kill(actor)
    reports, names = [], _names(nodes)
    for node in nodes:
        answer = facts[node.node_id]
        found, problem = _parsed(answer)
        reports.append(
            NodeReport(
                address=names[node.node_id],
                is_head=node.is_head,
                on_cluster=True,
                facts=found,
                problem=problem,
                ray_cpus=node.cpus,
                ray_gpus=node.gpus,
                object_store=None if stores.get(node.node_id) is None else int(stores[node.node_id]),
                clock=clocks.get(node.node_id),
                storage=tried.get(node.node_id),
                data_problem=_data_problem(read.get(node.node_id)),
            )
        )
    return tuple(reports)


@contextlib.contextmanager
def joined_cluster(address: str | None) -> Iterator[None]:
    """Join the Ray at `address`, or the one that runs on this machine; one that is joined already stays so.

    Raises:
        StudyError: if there is none, or it does not let us in.
    """
    if ray.is_initialized():
        yield
        return
    _require_listener(address)
    try:
        ray.init(address=address or "auto", log_to_driver=False, logging_level=logging.ERROR, configure_logging=True)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise StudyError(f"Ray at {address or 'this machine'}: {reason(error)}") from None
    try:
        yield
    finally:
        ray.shutdown()


class _Node:
    """Lives on a node while it is asked."""

    def gather(self, packages: Sequence[str], lock: Mapping[str, str], word: str) -> dict[str, Any]:
        return gather(packages, lock, word=word).to_json()

    def now(self) -> float:
        return time.time()

    def write_probe(self, place: str, name: str, make: bool) -> str:
        return write_probe(place, name, make=make)

    def delete_probe(self, place: str, name: str) -> str:
        return delete_probe(place, name)

    def object_problem(self, uri: str) -> tuple[int, str]:
        return object_problem(uri)


@dataclass(frozen=True, slots=True)
class _Answer:
    value: Any = None
    problem: str = ""


class _Asked:
    """Actors by node id, called all at once."""

    def __init__(self, actors: Mapping[str, Any], seconds: float) -> None:
        self._actors = actors
        self._seconds = seconds

    def all(self, method: str, *arguments: Any) -> dict[str, _Answer]:
        """What each answers to the same question."""
        return self.each(method, dict.fromkeys(self._actors, arguments))

    def each(self, method: str, arguments: Mapping[str, tuple[Any, ...]]) -> dict[str, _Answer]:
        """What each answers to a question of its own."""
        deadline = time.monotonic() + self._seconds
        calls = {node: getattr(self._actors[node], method).remote(*given) for node, given in arguments.items()}
        return {node: self._answer(call, deadline) for node, call in calls.items()}

    def clocks(self) -> dict[str, Clock]:
        """One node after the other: the quickest of a few round trips says most."""
        found = {}
        for node, actor in self._actors.items():
            readings = [self._read_clock(actor) for _ in range(_ROUND_TRIPS)]
            if known := [reading for reading in readings if reading is not None]:
                found[node] = min(known, key=lambda reading: reading.error)
        return found

    def storage(self, place: str, *, make: bool) -> dict[str, Tried]:
        """Every node writes a probe of its own, the driver looks for it, the node removes it."""
        run = secrets.token_hex(4)
        names = {node: f".fmasearch-doctor-{run}-{number}" for number, node in enumerate(self._actors)}
        written = self.each("write_probe", {node: (place, name, make) for node, name in names.items()})
        wrote = [node for node, answer in written.items() if not (answer.problem or answer.value)]
        seen = {node: _within_or_false(sees_probe, place, names[node]) for node in wrote}
        deleted = self.each("delete_probe", {node: (place, names[node]) for node in wrote})
        return {
            node: Tried(_words(written[node]) or _words(deleted.get(node, _Answer())), seen.get(node, True))
            for node in self._actors
        }

    def _read_clock(self, actor: Any) -> Clock | None:
        before = time.time()
        answer = self._answer(actor.now.remote(), time.monotonic() + self._seconds)
        after = time.time()
        if answer.problem:
            return None
        return Clock(float(answer.value) - (before + after) / 2, (after - before) / 2)

    def _answer(self, call: Any, deadline: float) -> _Answer:
        try:
            return _Answer(ray.get(call, timeout=max(0.01, deadline - time.monotonic())))
        except GetTimeoutError:
            return _Answer(problem=f"did not answer within {self._seconds:g} s")
        except Exception as error:  # whatever an actor raised, or Ray of an actor that could not be started or died
            return _Answer(problem=reason(getattr(error, "cause", None) or error))


def _start(node_id: str) -> Any:
    place = NodeAffinitySchedulingStrategy(node_id=node_id, soft=False)
    return ray.remote(_Node).options(num_cpus=0, scheduling_strategy=place, max_concurrency=1).remote()


def _parsed(answer: _Answer) -> tuple[NodeFacts | None, str]:
    if answer.problem:
        return None, answer.problem
    try:
        return NodeFacts.from_json(answer.value), ""
    except (TypeError, KeyError):
        return None, "runs another version of fmasearch"


def _data_problem(answer: _Answer | None) -> str:
    return "" if answer is None else answer.problem or answer.value[1]


def _words(answer: _Answer) -> str:
    return answer.problem or answer.value or ""


def _try_storage_here(place: str, *, make: bool) -> Tried:
    name = f".fmasearch-doctor-{os.getpid()}"
    try:
        problem = within(ANSWER_SECONDS, lambda: write_probe(place, name, make=make) or delete_probe(place, name))
    except TimeoutError as error:
        problem = str(error)
    return Tried(problem)


def _within_or_words(function: Callable[..., tuple[int, str]], *arguments: Any) -> tuple[int, str]:
    try:
        return within(ANSWER_SECONDS, function, *arguments)
    except TimeoutError as error:
        return 0, str(error)


def _within_or_false(function: Callable[..., bool], *arguments: Any) -> bool:
    try:
        return within(ANSWER_SECONDS, function, *arguments)
    except TimeoutError:
        return False


def _require_listener(address: str | None) -> None:
    """Ray itself tries for minutes to reach a machine that is not there."""
    host, _, port = (address or "").rpartition(":")
    if not host or not port.isdigit():  # "auto", or nothing: Ray looks for its own address file
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise StudyError(f"Ray at {address}: nothing answers there: {error}") from None


def reason(error: BaseException) -> str:
    """What went wrong in one line: Ray puts the error of the other side last, beneath its own words and a traceback."""
    lines = [line.strip() for line in _COLOUR.sub("", str(error)).splitlines() if line.strip()]
    raised = [line for line in lines if _RAISED.match(line)]
    return raised[-1] if raised else f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _names(nodes: Sequence[Node]) -> dict[str, str]:
    """Addresses by node id; of several nodes on one machine, with the beginning of the id."""
    counts = Counter(node.address for node in nodes)
    return {
        node.node_id: node.address if counts[node.address] == 1 else f"{node.address}/{node.node_id[:6]}"
        for node in nodes
    }
