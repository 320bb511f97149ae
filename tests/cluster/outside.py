"""What can be seen of a study from the laptop: `watch`, `status --json`, and MLflow through a forwarded port."""

from __future__ import annotations

import json
import re
import shlex
import socket
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

from evidence import StudyFiles
from hosts import ssh_to
from lab import Cluster, wait_until
from table import Table
from terminal import Terminal

MLFLOW_PORT, DASHBOARD_PORT = 5000, 8265
_HERE = f"http://127.0.0.1:{MLFLOW_PORT}"
# Asked directly: a proxy named in the environment knows nothing of the laboratory.
_DIRECTLY = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def check_status(cluster: Cluster, table: Table, study: StudyFiles, trials: int) -> None:
    """`status` and `status --json` of a study that runs."""
    name = study.root.name
    said = cluster.laptop.submit("status", name)
    table.check("status from outside", f"{name} search", " ".join(said.split("\n")[0].split()[:2]))
    values = json.loads(cluster.laptop.submit("status", name, "--json"))
    seen = {key: values[key] for key in ("study", "activity", "stage")} | {"total": values["search"]["trials"]["total"]}
    wanted = {"study": name, "activity": "running", "stage": "search", "total": trials}
    table.check("status --json from outside", wanted, seen)


def check_watched(table: Table, watching: Terminal, trials: int) -> None:
    """`watch` of a study that has just ended."""
    code = watching.wait(60)
    said = watching.said
    ended = [int(number) for number in re.findall(rf"(\d+)/{trials} trials ended", said)]
    steps = sorted(set(ended))
    table.check(
        "watch from outside: trials that had ended, as it went",
        f"in steps, up to {trials}",
        f"{steps[0]} to {steps[-1]} in {len(steps)} steps, drawn {len(ended)} times" if steps else "nothing",
        len(steps) > trials // 2 and ended == sorted(ended) and steps[-1] == trials,
    )
    last = next((line.strip() for line in reversed(said.splitlines()) if line.strip().startswith("test ")), "no test")
    table.check(
        "watch from outside: its end", "exit code 0 and the test", f"{code}, {last}", code == 0 and "tracks" in last
    )


def check_mlflow(cluster: Cluster, table: Table) -> None:
    """MLflow on the head, reached by port forwarding and not otherwise."""
    if not cluster.finished:
        cluster.finished.append(cluster.tune(trials=3, epochs=2)[1])
    study = cluster.finished[-1]
    for where in ("the laptop", "a worker"):
        found = {port: _knock(cluster, where, port) for port in (MLFLOW_PORT, DASHBOARD_PORT)}
        wanted = {MLFLOW_PORT: "refused", DASHBOARD_PORT: "refused"}
        table.check(f"MLflow and the dashboard at the head's address, from {where}", wanted, found)
    table.check("port 5000 of the laptop before `ray attach -p 5000`", "refused", _health())
    attached = cluster.laptop.terminal("ray", "attach", "-p", str(MLFLOW_PORT), cluster.laptop.cluster_file.name)
    try:
        answer = wait_until(lambda: _health() == "OK", 60) and _health()
        table.check("MLflow at port 5000 of the laptop while it is attached", "OK", answer)
        told = _states(study.root.name)
        table.check(
            "trials of the study, as MLflow tells them there",
            "names and states of its journal",
            ", ".join(f"{number} {state}" for state, number in Counter(told.values()).items()) or "none",
            bool(told) and told == study.states,
        )
        attached.type("exit\r")
        table.check("`ray attach` ends with its shell", 0, attached.wait(30))
    finally:
        attached.kill()
    # The launcher's ssh keeps a connection for ten seconds; asking through it would keep it longer.
    wait_until(lambda: not _listens(MLFLOW_PORT), 60)
    table.check("port 5000 of the laptop afterwards", "refused", _health())


def _knock(cluster: Cluster, where: str, port: int) -> str:
    """What comes of a connection to the head's address."""
    address = (cluster.head.address, port)
    if where == "the laptop":
        return _connection(address)
    code = f"import socket; socket.create_connection({address!r}, 5)"
    asked = ssh_to(cluster.workers[0], f". ~/.bashrc; python -c {shlex.quote(code)}")
    said = cluster.laptop.run(*asked, check=False)
    return "refused" if "ConnectionRefusedError" in said else said.strip() or "open"


def _connection(address: tuple[str, int]) -> str:
    try:
        socket.create_connection(address, 5).close()
    except ConnectionRefusedError:
        return "refused"
    except OSError as error:
        return str(error)
    return "open"


def _listens(port: int) -> bool:
    """Whether anybody on the laptop listens there."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text(encoding="utf-8").splitlines()]
    return any(words[1].endswith(f":{port:04X}") and words[3] == "0A" for words in lines)


def _health() -> str:
    """What MLflow answers at the laptop's own port."""
    if (reached := _connection(("127.0.0.1", MLFLOW_PORT))) != "open":
        return reached
    try:
        with _DIRECTLY.open(f"{_HERE}/health", timeout=10) as answer:
            return str(answer.read().decode())
    except OSError as error:
        return str(error)


def _states(study: str) -> dict[str, str]:
    """State of every trial of the search, by name."""
    experiments = _ask("experiments/search", {"max_results": 100})["experiments"]
    about = {"experiment_ids": [one["experiment_id"] for one in experiments], "max_results": 1000}
    runs = [_Run(run) for run in _ask("runs/search", about)["runs"]]
    (parent,) = (run for run in runs if run.tags.get("fmasearch.study") == study and run.stage == "study")
    children = [run for run in runs if run.tags.get("mlflow.parentRunId") == parent.id and run.stage == "search"]
    return {run.tags["fmasearch.trial"]: run.tags["fmasearch.state"] for run in children}


class _Run:
    def __init__(self, answered: dict[str, Any]) -> None:
        self.id = answered["info"]["run_id"]
        self.tags = {tag["key"]: tag["value"] for tag in answered["data"]["tags"]}
        self.stage = self.tags.get("fmasearch.stage")


def _ask(what: str, about: dict[str, Any]) -> Any:
    request = urllib.request.Request(
        f"{_HERE}/api/2.0/mlflow/{what}", json.dumps(about).encode(), {"Content-Type": "application/json"}
    )
    with _DIRECTLY.open(request, timeout=30) as answer:
        return json.load(answer)
