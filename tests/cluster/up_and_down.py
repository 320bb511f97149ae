"""`ray up`, `doctor --cluster` and `ray down`: what comes up, who is let in, and what is left."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from hosts import Host, ssh_to
from lab import Cluster, wait_until
from table import Table

LOG_MONITOR = "log_monitor.py"


def bring_up(cluster: Cluster, table: Table) -> None:
    started = time.monotonic()
    cluster.laptop.run("ray", "up", "-y", cluster.laptop.cluster_file.name)
    said = wait_until(lambda: _status_with(cluster, "/3.0 CPU"), seconds=180)
    table.check(
        "ray up: all three come up; `ray status` works with the token",
        "3.0 CPU",
        f"{'3.0 CPU' if said else 'not all'} after {time.monotonic() - started:.0f} s",
        bool(said),
    )
    tokens = {_token(host.path("~/.ray/auth_token")) for host in cluster.first} | {
        _token(Path.home() / ".ray/auth_token")
    }
    table.check("one token on the laptop and all hosts", 1, len(tokens))
    denied = cluster.laptop.on_head("RAY_AUTH_MODE=disabled ray status", check=False)
    table.check("without the token", "refused", "refused" if "/3.0 CPU" not in denied else "let in")


def check_doctor(cluster: Cluster, table: Table) -> None:
    said = cluster.laptop.submit("doctor", "--cluster", check=False)
    alive = [host.address for host in cluster.alive]
    table.check("doctor --cluster speaks of every host", alive, [address for address in alive if address in said])


def check_down(cluster: Cluster, table: Table) -> None:
    started = time.monotonic()
    cluster.laptop.run("ray", "down", "-y", cluster.laptop.cluster_file.name)
    wait_until(lambda: not _ray_processes(cluster.alive, but=LOG_MONITOR), seconds=180)
    table.check(
        "ray down: processes of Ray that are left",
        "none, log monitors aside",
        f"{', '.join(_ray_processes(cluster.alive, but=LOG_MONITOR)) or 'none'} after "
        f"{time.monotonic() - started:.0f} s",
        not _ray_processes(cluster.alive, but=LOG_MONITOR),
    )
    # The launcher stops Ray on the head alone. Workers notice within a minute, but ray 2.60 forgets this process there.
    forgotten = _ray_processes(cluster.alive)
    table.check("ray down: log monitors that are left on workers", "stated", len(forgotten), True)
    for host in cluster.alive[1:]:
        cluster.laptop.run(*ssh_to(host, ". ~/.bashrc; ray stop"))
    table.check("`ray stop` on each worker ends them", "none", ", ".join(_ray_processes(cluster.alive)) or "none")


def _status_with(cluster: Cluster, words: str) -> str | None:
    """What `ray status` says on the head, if it has these words."""
    said = cluster.laptop.on_head("ray status", check=False, timeout=60)
    return said if words in said else None


def _token(file: Path) -> str:
    return file.read_text(encoding="utf-8").strip() if file.is_file() else f"none at {file}"


def _ray_processes(on: Sequence[Host], *, but: str | None = None) -> list[str]:
    """Processes of Ray and of trials, in words; those that contain `but` do not count."""
    words = ("raylet", "gcs_server", "ray::", "site-packages/ray/", "fmasearch tune")
    lines = [(host.name, line) for host in on for line in host.processes().values()]
    return [
        f"{name}: {line[-60:]}"
        for name, line in lines
        if any(word in line for word in words) and (but is None or but not in line)
    ]
