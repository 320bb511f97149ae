"""The table of what was checked: filled stage by stage, printed at the end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Table:
    """What was checked, what was expected and found, and whether that is well."""

    rows: list[tuple[str, str, str, bool]] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    @property
    def all_well(self) -> bool:
        return bool(self.rows) and all(ok for *_, ok in self.rows)

    def check(self, what: str, expected: object, found: object, ok: bool | None = None) -> None:
        """Note one check; `ok` is whether found equals expected, unless it is given."""
        well = found == expected if ok is None else ok
        self.rows.append((what, str(expected), str(found), well))

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """A part of the script. What goes wrong in it is a row, and the next part is tried."""
        seconds = int(time.monotonic() - self.started)
        print(f"{seconds // 60}:{seconds % 60:02} {name}", flush=True)
        try:
            yield
        except Exception as error:
            self.check(name, "no error", f"{type(error).__name__}: {error}", False)

    def print(self) -> None:
        first = min(60, max((len(what) for what, *_ in self.rows), default=0))
        second = min(60, max((len(expected) for _, expected, *_ in self.rows), default=0))
        print(f"\n     {'checked':<{first}}  {'expected':<{second}}  found")
        for what, expected, found, ok in self.rows:
            print(f"{'ok  ' if ok else 'FAIL'} {what:<{first}}  {expected:<{second}}  {found}")
        failed = sum(not ok for *_, ok in self.rows)
        minutes = (time.monotonic() - self.started) / 60
        print(f"\n{len(self.rows)} checks, {failed} failed, {minutes:.1f} minutes", flush=True)
