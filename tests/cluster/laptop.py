"""The laptop: the project folder, the cluster file and the commands of a person who uses a cluster."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from hosts import HOME_TEMPLATE, ROOM, Host
from terminal import Terminal

# A host gives Ray one CPU, and the smallest object store that Ray takes.
RAY_START = "ray start --num-cpus=1 --object-store-memory=80000000"
_PROJECT = ("src", "spaces", "search", "pyproject.toml", "requirements.lock", "README.md", "LICENSE")


class CommandFailed(Exception):
    """A command of the laptop that should have worked; the message is its end."""


@dataclass
class Laptop:
    """Runs commands in a copy of the project, as its user would; if `verbose`, it shows all that they say."""

    project: Path
    verbose: bool = False
    cluster: Mapping[str, Any] = field(default_factory=dict)

    @property
    def cluster_file(self) -> Path:
        return self.project / "cluster.onprem.yaml"

    def run(self, *command: str, timeout: float = 300, check: bool = True) -> str:
        """Run a command to its end and return what it says.

        Raises:
            CommandFailed: if it ends badly and `check` is set, or takes too long.
        """
        started = time.monotonic()
        try:
            done = subprocess.run(
                command,
                cwd=self.project,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=timeout,
                check=False,
            )
            output, code = done.stdout.decode(errors="replace"), done.returncode
        except subprocess.TimeoutExpired as error:
            output, code = (error.stdout or b"").decode(errors="replace"), 124
        if self.verbose:
            took = time.monotonic() - started
            print(f"$ {shlex.join(command)}\n{output}\n[{code} after {took:.1f} s]\n", flush=True)
        if check and code:
            raise CommandFailed(f"{shlex.join(command)} ended with {code}: {output.strip()[-1500:]}")
        return output

    def fmasearch(self, *words: str, **options: Any) -> str:
        """`fmasearch WORDS` here."""
        return self.run(sys.executable, "-m", "fmasearch", *words, **options)

    def submit(self, *words: str, detach: bool = False, **options: Any) -> str:
        """`fmasearch submit CLUSTER -- WORDS`."""
        flags = ["--detach"] if detach else []
        return self.fmasearch("submit", *flags, self.cluster_file.name, "--", *words, **options)

    def terminal(self, *command: str) -> Terminal:
        """Start a command on a terminal; it runs on beside others."""
        return Terminal(*command, cwd=self.project, env=self._environment())

    def on_head(self, command: str, **options: Any) -> str:
        """`ray exec CLUSTER COMMAND`."""
        return self.run("ray", "exec", self.cluster_file.name, command, **options)

    def _environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "PATH": f"{Path(sys.prefix) / 'bin'}:{os.environ['PATH']}",
            "PYTHONPATH": str(self.project / "src"),
            "OMP_NUM_THREADS": "1",
            "RAY_USAGE_STATS_ENABLED": "0",
            "COLUMNS": "150",
        }


def open_laptop(checkout: Path, *, verbose: bool) -> Laptop:
    """A laptop with a copy of the project as it is now, and a token for the cluster to come."""
    project = Path.home() / "project"
    project.mkdir()
    kept = [str(checkout / name) for name in _PROJECT]
    subprocess.run(["rsync", "-a", "--exclude=__pycache__", "--exclude=*.egg-info", *kept, str(project)], check=True)
    laptop = Laptop(project, verbose)
    laptop.run("ray", "get-auth-token", "--generate")
    return laptop


def install_beforehand(checkout: Path) -> None:
    """Lay out `~/fmasearch/venv` for every host, with the very packages of this environment.

    The launcher's setup commands then find it there, as on a machine that was set up before, and download nothing.
    The project itself is not in it: it comes from `~/fmasearch/code`, where the launcher puts it.
    """
    home = Path.home()
    target = HOME_TEMPLATE / "fmasearch" / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(target)], check=True)
    packages = f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    lines = [str(home / "fmasearch" / "code" / "src"), str(Path(sys.prefix) / packages)]
    (target / packages / "elsewhere.pth").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for script in (Path(sys.prefix) / "bin").iterdir():
        content = script.read_bytes() if script.is_file() else b""
        if content.startswith(b"#!") and not (target / "bin" / script.name).exists():
            here = bytes(home / "fmasearch" / "venv" / "bin")
            (target / "bin" / script.name).write_bytes(content.replace(bytes(Path(sys.prefix) / "bin"), here))
            (target / "bin" / script.name).chmod(0o755)
    shutil.copy(checkout / "requirements.lock", target / "requirements.lock")


def write_cluster_file(laptop: Laptop, checkout: Path, hosts: Sequence[Host]) -> None:
    """Write the checkout's own `cluster.onprem.yaml` with the lines changed that it asks to edit.

    Args:
        hosts: the head, then workers.
    """
    config = yaml.safe_load((checkout / "cluster.onprem.yaml").read_text(encoding="utf-8"))
    config["provider"]["head_ip"] = hosts[0].address
    config["provider"]["worker_ips"] = [host.address for host in hosts[1:]]
    config["auth"] = {"ssh_user": "root", "ssh_private_key": str(ROOM / "key")}
    for kind in ("head", "worker"):
        commands = config[f"{kind}_start_ray_commands"]
        config[f"{kind}_start_ray_commands"] = [command.replace("ray start", RAY_START) for command in commands]
    laptop.cluster = config
    laptop.cluster_file.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
