"""A line of the doctor's: what was looked at, what was found, how to mend it; and words that lines share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from fmasearch.doctor.facts import NodeFacts
from fmasearch.doctor.reports import NodeReport

Status: TypeAlias = Literal["ok", "warning", "failed"]
Answered: TypeAlias = Sequence[tuple[NodeReport, NodeFacts]]
"""The nodes that answered."""

GIB = 2**30
INSTALL = "pip install -r requirements.lock"
INSTALL_AGAIN = "`ray up CLUSTER.yaml` copies the code and installs the lock file again, on every node"


@dataclass(frozen=True, slots=True)
class Check:
    """One line: what was looked at, what was found, and for anything but ok how to mend it."""

    name: str
    status: Status
    found: str
    mend: str = ""


def there(report: NodeReport, command: str) -> str:
    """A command, and on which node to run it."""
    return f"on {report.address}: {command}" if report.on_cluster else command


def on(report: NodeReport) -> str:
    """The node that a line is about."""
    return f"{report.address}: " if report.on_cluster else ""


def everywhere(answered: Answered) -> str:
    """On how many nodes something holds, where there are several."""
    return f", on {len(answered)} nodes" if len(answered) > 1 else ""


def some(addresses: Sequence[str]) -> list[str]:
    """At most eight of them, and how many more there are."""
    return [*addresses[:8], *([f"{len(addresses) - 8} more"] if len(addresses) > 8 else [])]
