"""The live view of a study: tables on a terminal, one line per event elsewhere. It is a `Tracker` like the others."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.text import Text

from fmasearch.cli.live_nodes import Cluster, NodeRow, count_nodes, node_rows, node_table
from fmasearch.cli.live_tables import (
    RungRow,
    SeenTrial,
    best_of,
    fill_lines,
    rung_rows,
    rung_table,
    running_table,
)
from fmasearch.config import SearchConfig
from fmasearch.pruning import geometric_rungs
from fmasearch.records import EpochResult, Objective, TrialRecord, TrialStart, TrialState
from fmasearch.tracking import CloseStatus

if TYPE_CHECKING:
    from fmasearch.ray_session import Node

STYLES = {
    TrialState.COMPLETED: "green",
    TrialState.PRUNED: "yellow",
    TrialState.FAILED: "red",
}


class LiveView:
    """Shows trials while they run. What it is told before it is shown is what an earlier session did.

    Args:
        console: where to; a terminal gets live tables, anything else plain lines.
        title: what is running.
        objective: what trials are compared by.
        total: trials to expect.
        rungs: epochs at which weak trials are stopped.
        finished: trials of an earlier session.
        nodes: asks for the machines of the cluster; None on a single machine, and for who is not part of it.
        elapsed: seconds that this has been going on for; None shows no clock.
        unfinished: what trials without an end are called; other than `running` once the study stands still.
    """

    def __init__(
        self,
        console: Console,
        title: str,
        objective: Objective,
        *,
        total: int,
        rungs: Sequence[int] = (),
        finished: Sequence[TrialRecord] = (),
        nodes: Callable[[], Sequence[Node]] | None = None,
        elapsed: float | None = 0.0,
        unfinished: str = "running",
    ) -> None:
        self.console = console
        self.title = title
        self.objective = objective
        self.total = total
        self.rungs = tuple(rungs)
        self._elapsed = elapsed
        self._unfinished = unfinished
        self._started = time.monotonic()
        self._trials = {t.name: SeenTrial(t.start, list(t.epochs), t.state) for t in finished}
        self._lock = threading.Lock()  # the terminal is drawn by a thread of its own
        self._is_shown = False
        self._cluster = Cluster(nodes)
        self._earlier = self.num_ended

    @contextmanager
    def showing(self) -> Iterator[LiveView]:
        """Keep the tables on screen meanwhile; plain consoles get a line when something ends, joins or is lost."""
        self._started, self._earlier, self._is_shown = time.monotonic(), self.num_ended, True
        try:
            if self.console.is_terminal:
                with Live(get_renderable=self.render, console=self.console, refresh_per_second=2):
                    yield self
            else:
                self._print(f"{self.title}: {self.total} trials, {self._objective_words()}")
                self._print_nodes()
                yield self
        finally:
            self._is_shown = False

    def start_trial(self, start: TrialStart) -> None:
        with self._lock:
            seen = self._trials.setdefault(start.name, SeenTrial(start))
            seen.state = TrialState.RUNNING
        self._print_nodes()

    def log_epoch(self, name: str, result: EpochResult) -> None:
        with self._lock:
            seen = self._trials[name]
            seen.epochs = [epoch for epoch in seen.epochs if epoch.epoch < result.epoch] + [result]
        self._print_nodes()

    def finish_trial(self, record: TrialRecord) -> None:
        with self._lock:
            seen = self._trials.setdefault(record.name, SeenTrial(record.start))
            seen.epochs, seen.state = list(record.epochs), record.state
        if self._prints_lines:
            self._print(self._line(record))

    def close(self, status: CloseStatus) -> None:
        """Nothing to close: the table belongs to `showing`."""

    @property
    def trials(self) -> list[SeenTrial]:
        return list(self._trials.values())

    @property
    def num_ended(self) -> int:
        return sum(seen.state is not TrialState.RUNNING for seen in self._trials.values())

    @property
    def best(self) -> SeenTrial | None:
        return best_of(self.trials, self.objective)

    def rung_rows(self) -> list[RungRow]:
        return rung_rows(self.trials, self.rungs, self.objective)

    def node_rows(self) -> list[NodeRow]:
        return node_rows(self.trials, self._cluster.nodes)

    def render(self) -> Group:
        """The whole view."""
        self._cluster.look()
        with self._lock:
            nodes = self.node_rows()
            running = [seen for seen in self.trials if seen.state is TrialState.RUNNING]
            parts: list[RenderableType] = [self._headline(nodes)]
            if nodes and not running and self.num_ended == self._earlier:
                parts.append(Text(f"waiting for machines: no trial has started on {count_nodes(nodes)}", "yellow"))
            if self._trials:
                parts.append(self._best_line())
            if self._trials and self.rungs:
                parts.append(rung_table(self.rung_rows()))
            if running:
                parts.append(running_table(running, self._unfinished))
            if nodes:
                parts.append(node_table(nodes))
        return Group(*parts)

    def _headline(self, nodes: Sequence[NodeRow]) -> Text:
        states = Counter(seen.state for seen in self.trials)
        parts = [
            Text.assemble((self.title, "bold"), f"  {self.num_ended}/{self.total} trials ended"),
            Text(f"{states[TrialState.RUNNING]} {self._unfinished}", "cyan"),
            *(Text(f"{states[state]} {state}", style if states[state] else "dim") for state, style in STYLES.items()),
        ]
        if nodes:
            parts.append(Text(count_nodes(nodes)))
        if self._elapsed is not None:
            parts.append(Text(duration(self._elapsed + time.monotonic() - self._started)))
        if (left := self._seconds_left()) is not None:
            parts.append(Text(f"about {duration(left)} left", "dim"))
        return fill_lines(parts, self.console.width)

    def _best_line(self) -> Text:
        best = self.best
        if best is None:
            return Text("no epoch has ended yet", "dim")
        head = Text.assemble(
            "best ", (f"{best.best:.4f}", "bold green"), f" {self.objective.metric}  {best.start.name}"
        )
        params = (Text(f"{_short(key)}={_value(value)}", "dim") for key, value in best.start.params.items())
        return fill_lines([head, *params], self.console.width)

    def _line(self, record: TrialRecord) -> str:
        head = f"[{self.num_ended}/{self.total}] {record.name} {record.state}"
        if record.best is None:
            return f"{head}: {record.error}"
        best = self.best
        so_far = f", best so far {best.best:.4f} ({best.start.name})" if best else ""
        reason = f" ({record.error})" if record.error else ""
        return (
            f"{head} after {len(record.epochs)} epochs, {self.objective.metric} "
            f"{record.best.objective:.4f}{reason}{so_far}"
        )

    @property
    def _prints_lines(self) -> bool:
        return self._is_shown and not self.console.is_terminal

    def _print(self, line: str) -> None:
        self.console.print(escape(line), highlight=False, soft_wrap=True)

    def _print_nodes(self) -> None:
        """For plain consoles: which machines came and went since the last look."""
        if self._prints_lines:
            for line in self._cluster.look():
                self._print(line)

    def _seconds_left(self) -> float | None:
        """From the pace since the view is shown; nothing before a few trials have ended."""
        here = self.num_ended - self._earlier
        if not self._is_shown or here < 3 or self.num_ended >= self.total:
            return None
        return (time.monotonic() - self._started) / here * (self.total - self.num_ended)

    def _objective_words(self) -> str:
        return f"{'highest' if self.objective.mode == 'max' else 'lowest'} {self.objective.metric} wins"


def rung_epochs(search: SearchConfig) -> tuple[int, ...]:
    """The epochs at which ASHA and Hyperband compare trials, and the last one; none for rules without rungs."""
    scheduler = search.scheduler
    if scheduler.name not in ("asha", "hyperband"):
        return ()
    rungs = geometric_rungs(scheduler.grace_period, search.max_epochs, scheduler.one_in)
    return tuple(dict.fromkeys((*rungs, search.max_epochs)))


def duration(seconds: float) -> str:
    """`1h02m`, `3m05s`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s"


def _short(path: str) -> str:
    return path.rpartition("/")[2]


def _value(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
