"""What the tests of the launcher share: a `ray` whose head is a folder, with real bash and rsync behind it."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fmasearch.launcher import Head

needs_rsync = pytest.mark.skipif(shutil.which("rsync") is None, reason="rsync is not installed")

# Commands run as `ray exec` runs them over ssh: a shell parses a line that starts an interactive login bash.
_RAY = """#!{python}
import json, os, shlex, subprocess, sys
home = {home!r}
command, *rest = sys.argv[1:]
with open(os.path.join(home, "..", "calls.jsonl"), "a") as calls:
    calls.write(json.dumps(sys.argv[1:]) + "\\n")
if "down" in open(rest[-2 if command == "exec" else -3]).read():
    sys.exit("RuntimeError: Head node of cluster (test) not found!")
print("2026-11-21 INFO chatter of the launcher", flush=True)
if command == "exec":
    inner = "source ~/.bashrc; export OMP_NUM_THREADS=1 PYTHONWARNINGS=ignore && (" + rest[-1] + ")"
    line = "bash --login -c -i " + shlex.quote(inner)
    code = subprocess.call(["sh", "-c", line], env=dict(os.environ, HOME=home), cwd=home, stderr=subprocess.STDOUT)
else:
    paths = [home + path[1:] if path.startswith("~") else path for path in rest[-2:]]
    excludes = ["--exclude=" + os.environ["FAKE_EXCLUDE"]] if "FAKE_EXCLUDE" in os.environ else []
    code = subprocess.call(["rsync", "-avz", *excludes, *paths])
print("Shared connection to head closed.", flush=True)
sys.exit("Error: Command failed" if code else 0)
"""

# On the head `ray job submit` notes what it is told, and the job server tells what `job.json` says.
_HEAD_RAY = """#!{python}
import json, os, pathlib, sys
pathlib.Path({home!r}, "submitted.json").write_text(json.dumps([sys.argv[1:], os.environ["RAY_API_SERVER_ADDRESS"]]))
sys.exit(json.loads(pathlib.Path({home!r}, "job.json").read_text())["submit"])
"""
_JOB_SUBMISSION = """
import asyncio, json, pathlib, types
told = json.loads(pathlib.Path({home!r}, "job.json").read_text())
class JobSubmissionClient:
    def __init__(self, address): pass
    async def tail_job_logs(self, job):
        yield told["log"]
        await asyncio.sleep(told["seconds"])
    def get_job_info(self, job):
        status = types.SimpleNamespace(value=told["status"])
        return types.SimpleNamespace(status=status, driver_exit_code=told["exit_code"], message=told["message"])
"""


@dataclass(frozen=True)
class FakeCluster:
    """`home` is the head's home, `file` its cluster file, `ray` the launcher's command."""

    home: Path
    file: Path
    ray: Path

    @property
    def head(self) -> Head:
        return Head(self.file, str(self.ray))

    @property
    def calls(self) -> list[list[str]]:
        """The launcher's commands so far."""
        log = self.home.parent / "calls.jsonl"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    def count(self, command: str) -> int:
        return sum(call[0] == command for call in self.calls)

    def plan_job(self, **told: Any) -> None:
        """What becomes of the next job: `log`, `status`, `exit_code`, `message`, `seconds`, and of `submit`."""
        log = "2026-11-21-tiny-default: models of 12 to 40 parameters, at most 4 epochs\n"
        job = {"log": log, "status": "SUCCEEDED", "exit_code": 0, "message": "", "seconds": 0, "submit": 0}
        (self.home / "job.json").write_text(json.dumps({**job, **told}))

    @property
    def submitted(self) -> list[str]:
        words, _ = json.loads((self.home / "submitted.json").read_text())
        return [str(word) for word in words]


def make_cluster(folder: Path, monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    """A cluster that is up; commands of fmasearch that are run on its head are run by this very environment."""
    home, file, ray = folder / "head's home", folder / "cluster.yaml", folder / "ray"
    commands, modules = home / "bin", home / "modules" / "ray"
    for made in (commands, modules):
        made.mkdir(parents=True)
    file.write_text("cluster_name: test\nprovider: {type: local, head_ip: 127.0.0.1}\n")
    names = {"python": sys.executable, "home": str(home)}
    _write_command(ray, _RAY.format(**names))
    _write_command(commands / "ray", _HEAD_RAY.format(**names))
    _write_command(commands / "python", f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (modules / "__init__.py").touch()
    (modules / "job_submission.py").write_text(_JOB_SUBMISSION.format(**names))
    source = Path(__file__).parents[1] / "src"
    (home / ".bashrc").write_text(
        f'echo "the .bashrc says something"\nexport PATH="{commands}:$PATH" PYTHONPATH="{source}:{modules.parent}"\n'
        "unset RAY_API_SERVER_ADDRESS\n"
    )
    monkeypatch.setattr("fmasearch.launcher.head._ray_command", lambda: str(ray))
    cluster = FakeCluster(home, file, ray)
    cluster.plan_job()
    return cluster


def make_project(folder: Path, **files: int) -> Path:
    """A folder with a tiny space, and files of some bytes, by name with `__` for `/`."""
    (folder / "spaces").mkdir(parents=True)
    (folder / "spaces" / "tiny.yaml").write_text(
        "features: [mel]\ntask: {classification: genre}\n"
        "model: {architecture: cnn_lstm, hidden_dim: {choice: [2, 4]}, num_layers: 1, rnn_dim: 4}\n"
    )
    for name, num_bytes in files.items():
        path = folder / name.replace("__", "/").replace("_DOT_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * num_bytes)
    return folder


def make_study(home: Path, name: str, *, finished: bool = True, plan: str = "a plan") -> None:
    """A study's files below `home` (`runs/NAME`, `results/NAME`)."""
    runs = home / "runs" / name
    (runs / "checkpoints").mkdir(parents=True)
    (runs / "study.yaml").write_text(plan)
    (runs / "journal.jsonl").write_text("{}\n")
    (runs / "checkpoints" / "t0000.pt").write_text("large")
    if finished:
        (runs / "model.pt").write_text("weights")
        (home / "results" / name).mkdir(parents=True)
        (home / "results" / name / "README.md").write_text(f"record of {plan}")


def _write_command(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)
