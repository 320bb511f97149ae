"""The machines of a cluster in the live view: which there are, what they do, who came and who went."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from fmasearch.cli.live_tables import MOST_ROWS, SeenTrial, cut_short, small_table
from fmasearch.records import TrialState

if TYPE_CHECKING:
    from fmasearch.ray_session import Node

_LOOK_SECONDS = 2.0  # between two looks at the cluster


@dataclass(frozen=True, slots=True)
class NodeRow:
    """A machine, and what it does. What only Ray knows is None for who is not part of its cluster."""

    node: str
    alive: bool | None
    cpus: float | None
    gpus: float | None
    running: int
    epochs: int


class Cluster:
    """The machines of a cluster, looked at now and then.

    Args:
        ask: who there is; None if nobody can tell.
    """

    def __init__(self, ask: Callable[[], Sequence[Node]] | None) -> None:
        self._ask = ask
        self._looked_at: float | None = None
        self.nodes: tuple[Node, ...] | None = None

    def look(self) -> list[str]:
        """Look again, unless it is too early; returns in words who came and who went."""
        now = time.monotonic()
        if self._ask is None or (self._looked_at is not None and now - self._looked_at < _LOOK_SECONDS):
            return []
        self._looked_at = now
        before = self.nodes
        try:
            self.nodes = tuple(self._ask())
        except Exception:  # Ray raises anything when its head does not answer; a view must not end a study
            return []
        return _changes(before, self.nodes)


def node_rows(trials: Sequence[SeenTrial], nodes: Sequence[Node] | None) -> list[NodeRow]:
    """One row for each machine that is there, then for each that trained an epoch and was lost.

    Args:
        trials: what was trained, and where.
        nodes: the cluster, as Ray sees it; None for who is not part of it.
    """
    epochs = Counter(epoch.node for trial in trials for epoch in trial.epochs if epoch.node)
    running = Counter(trial.node for trial in trials if trial.state is TrialState.RUNNING)
    # A machine that left and came back is one machine, and alive.
    there = {node.address: node for node in nodes or () if node.alive}
    rows = [NodeRow(a, True, node.cpus, node.gpus, running[a], epochs[a]) for a, node in there.items()]
    if nodes is None:
        return [NodeRow(a, None, None, None, running[a], epochs[a]) for a in sorted(epochs)]
    # Ray remembers the dead of its own cluster; a machine of an earlier session is not lost.
    lost = {node.address for node in nodes if not node.alive} & (epochs.keys() - there.keys())
    return [*rows, *(NodeRow(a, False, None, None, running[a], epochs[a]) for a in sorted(lost))]


def node_table(rows: Sequence[NodeRow]) -> Table:
    """Machines; what only Ray knows has columns only where it is known."""
    from_ray = any(row.alive is not None for row in rows)
    table = small_table("node", *(["", "CPUs>", "GPUs>"] if from_ray else []), "running>", "epochs>")
    for row in rows[:MOST_ROWS]:
        known: list[str | Text] = [_alive(row), _number(row.cpus), _number(row.gpus)] if from_ray else []
        table.add_row(row.node, *known, str(row.running), str(row.epochs), style="dim" if row.alive is False else "")
    return cut_short(table, len(rows))


def count_nodes(rows: Sequence[NodeRow]) -> str:
    """`3 nodes`, `1 node, 2 lost`."""
    lost = sum(row.alive is False for row in rows)
    return _plural(len(rows) - lost) + (f", {lost} lost" if lost else "")


def _changes(before: Sequence[Node] | None, now: Sequence[Node]) -> list[str]:
    there = {node.address for node in now if node.alive}
    if before is None:
        return [_plural(len(there))]
    then = {node.address for node in before if node.alive}
    changes = [*(f"{a} joined" for a in sorted(there - then)), *(f"{a} is lost" for a in sorted(then - there))]
    return [f"node {change} ({_plural(len(there))} now)" for change in changes]


def _plural(count: int) -> str:
    return f"{count} node{'' if count == 1 else 's'}"


def _alive(row: NodeRow) -> Text:
    return Text("alive", "green") if row.alive else Text("lost", "red")


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:g}"
