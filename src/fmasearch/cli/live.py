"""The live view of a study: a table on a terminal, one line per event elsewhere. It is a `Tracker` like the others."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from fmasearch.config import SearchConfig
from fmasearch.records import EpochResult, Objective, TrialRecord, TrialStart, TrialState
from fmasearch.tracking import CloseStatus

STYLES = {
    TrialState.COMPLETED: "green",
    TrialState.PRUNED: "yellow",
    TrialState.FAILED: "red",
}


@dataclass
class _Seen:
    """One trial as the view knows it."""

    start: TrialStart
    epochs: list[EpochResult] = field(default_factory=list)
    state: TrialState = TrialState.RUNNING

    @property
    def best(self) -> float:
        return self.epochs[-1].best_objective if self.epochs else float("nan")


class LiveView:
    """Shows trials while they run.

    Args:
        console: where to; a terminal gets a live table, anything else plain lines.
        title: what is running.
        objective: what trials are compared by.
        total: trials to expect.
        rungs: epochs at which weak trials are stopped.
        finished: trials of an earlier session.
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
    ) -> None:
        self.console = console
        self.title = title
        self.objective = objective
        self.total = total
        self.rungs = tuple(rungs)
        self._started = time.monotonic()
        self._trials = {t.name: _Seen(t.start, list(t.epochs), t.state) for t in finished}
        self._earlier = len(self._trials)
        self._live: Live | None = None

    @contextmanager
    def showing(self) -> Iterator[LiveView]:
        """Keep the table on screen meanwhile; plain consoles only get its last state."""
        if not self.console.is_terminal:
            self.console.print(f"{self.title}: {self.total} trials, {self._objective_words()}", highlight=False)
            yield self
            return
        with Live(self.render(), console=self.console, refresh_per_second=4, transient=False) as live:
            self._live = live
            yield self
            live.update(self.render())
            self._live = None

    def start_trial(self, start: TrialStart) -> None:
        seen = self._trials.setdefault(start.name, _Seen(start))
        seen.state = TrialState.RUNNING
        self._refresh()

    def log_epoch(self, name: str, result: EpochResult) -> None:
        self._trials[name].epochs.append(result)
        self._refresh()

    def finish_trial(self, record: TrialRecord) -> None:
        seen = self._trials.setdefault(record.name, _Seen(record.start))
        seen.epochs, seen.state = list(record.epochs), record.state
        if self._live is None and not self.console.is_terminal:
            self.console.print(self._line(record), highlight=False, soft_wrap=True)
        self._refresh()

    def close(self, status: CloseStatus) -> None:
        """Nothing to close: the table belongs to `showing`."""

    def render(self) -> Group:
        """The whole view."""
        parts: list[Table | Text] = [self._headline(), self._best_line()]
        if self.rungs:
            parts.append(self._rung_table())
        running = [seen for seen in self._trials.values() if seen.state is TrialState.RUNNING]
        if running:
            parts.append(self._running_table(running))
        return Group(*parts)

    def _refresh(self) -> None:
        if self._live is not None:
            self._live.update(self.render())

    def _headline(self) -> Text:
        states = Counter(seen.state for seen in self._trials.values())
        ended = sum(count for state, count in states.items() if state is not TrialState.RUNNING)
        text = Text.assemble((self.title, "bold"), f"  {ended}/{self.total} trials ended")
        text.append(f"  {states[TrialState.RUNNING]} running", "cyan")
        for state, style in STYLES.items():
            text.append(f"  {states[state]} {state}", style if states[state] else "dim")
        text.append(f"  {_duration(time.monotonic() - self._started)}")
        if (left := self._seconds_left(ended)) is not None:
            text.append(f"  about {_duration(left)} left", "dim")
        return text

    def _best_line(self) -> Text:
        best = self._best()
        if best is None:
            return Text("no epoch has ended yet", "dim")
        params = "  ".join(f"{_short(k)}={_value(v)}" for k, v in best.start.params.items())
        return Text.assemble(
            "best ",
            (f"{best.best:.4f}", "bold green"),
            f" {self.objective.metric}  {best.start.name}  ",
            (params, "dim"),
        )

    def _rung_table(self) -> Table:
        table = Table(box=None, pad_edge=False, header_style="dim")
        for heading in ("rung (epoch)", "reached", "best", "median"):
            table.add_column(heading, justify="right")
        for rung in self.rungs:
            values = [e.best_objective for s in self._trials.values() for e in s.epochs if e.epoch == rung]
            best = f"{_extreme(values, self.objective):.4f}" if values else "–"
            median = f"{statistics.median(values):.4f}" if values else "–"
            table.add_row(str(rung), str(len(values)), best, median)
        return table

    def _running_table(self, running: Sequence[_Seen]) -> Table:
        table = Table(box=None, pad_edge=False, header_style="dim")
        for heading, justify in (
            ("running", "left"),
            ("epoch", "right"),
            ("best", "right"),
            ("s/epoch", "right"),
        ):
            table.add_column(heading, justify="left" if justify == "left" else "right")
        for seen in running[:12]:
            if seen.epochs:
                last = seen.epochs[-1]
                table.add_row(
                    seen.start.name,
                    str(last.epoch),
                    f"{last.best_objective:.4f}",
                    f"{last.epoch_seconds:.1f}",
                )
            else:
                table.add_row(seen.start.name, "0", "–", "–")
        if len(running) > 12:
            table.add_row(f"and {len(running) - 12} more", "", "", "")
        return table

    def _line(self, record: TrialRecord) -> str:
        ended = sum(s.state is not TrialState.RUNNING for s in self._trials.values())
        head = f"[{ended}/{self.total}] {record.name} {record.state}"
        if record.best is None:
            return escape(f"{head}: {record.error}")
        best = self._best()
        so_far = f", best so far {best.best:.4f} ({best.start.name})" if best else ""
        reason = f" ({record.error})" if record.error else ""
        return escape(
            f"{head} after {len(record.epochs)} epochs, {self.objective.metric} "
            f"{record.best.objective:.4f}{reason}{so_far}"
        )

    def _best(self) -> _Seen | None:
        scored = [s for s in self._trials.values() if s.epochs and s.state is not TrialState.FAILED]
        if not scored:
            return None
        return max(scored, key=lambda s: s.best) if self.objective.mode == "max" else min(scored, key=lambda s: s.best)

    def _seconds_left(self, ended: int) -> float | None:
        """From the pace of this session; nothing before a few trials have ended."""
        here = ended - self._earlier
        if here < 3 or ended >= self.total:
            return None
        return (time.monotonic() - self._started) / here * (self.total - ended)

    def _objective_words(self) -> str:
        return f"{'highest' if self.objective.mode == 'max' else 'lowest'} {self.objective.metric} wins"


def rung_epochs(search: SearchConfig) -> tuple[int, ...]:
    """The epochs at which ASHA compares trials; none without it."""
    if search.scheduler.name == "none":
        return ()
    rungs, milestone = [], float(search.scheduler.grace_period)
    while milestone < search.max_epochs:
        rungs.append(int(-(-milestone // 1)))
        milestone *= search.scheduler.reduction_factor
    return (*rungs, search.max_epochs)


def _extreme(values: Sequence[float], objective: Objective) -> float:
    return max(values) if objective.mode == "max" else min(values)


def _short(path: str) -> str:
    return path.rpartition("/")[2]


def _value(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s"
