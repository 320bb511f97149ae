"""What a number was measured with: versions, device, cores, commit."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from fmasearch import __version__

PACKAGES = ("torch", "torchaudio", "ray", "optuna", "mlflow", "numpy", "h5py")


def describe() -> dict[str, str]:
    """Plain text by name; nothing that identifies the user or the machine."""
    import torch

    device = f"CPU ({_processor()})"
    if torch.cuda.is_available():
        device = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
    versions = {name: _version(name) for name in PACKAGES}
    return {
        "fmasearch": __version__,
        "python": platform.python_version(),
        **versions,
        "device": device,
        "cores": str(_cores()),
        "system": f"{platform.system()} {platform.machine()}",
        **git_state(),
    }


def program() -> str:
    """How to call fmasearch again from here: by its name where the shell finds it, else by its path."""
    if shutil.which("fmasearch"):
        return "fmasearch"
    script = Path(sys.argv[0])
    if script.name != "fmasearch":
        return f"{shlex.quote(sys.executable)} -m fmasearch"
    return shlex.quote(os.path.relpath(script))


def git_state(folder: Path | None = None) -> dict[str, str]:
    """Commit and whether there are uncommitted changes; empty outside a git checkout."""
    commit = _git("rev-parse", "HEAD", folder=folder)
    if not commit:
        return {}
    return {
        "commit": commit,
        "uncommitted_changes": "yes" if _git("status", "--porcelain", folder=folder) else "no",
    }


def _git(*arguments: str, folder: Path | None) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def _cores() -> int:
    from fmasearch.ray_session import num_local_cpus

    return num_local_cpus()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
