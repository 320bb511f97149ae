"""The facts of a node: versions, GPUs, memory, disk, cores and token. Only the standard library is imported.

They are gathered in a process that trains nothing, so what needs torch is asked of a process of its own.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

CGROUPS = Path("/sys/fs/cgroup")
_TORCH_SECONDS = 25  # a cold disk takes a while to read torch; a node has 30 s for its answer

# CUDA's driver says its version without being started, so this works where torch cannot use the GPU, too.
_ASK_TORCH = """
import ctypes, json, warnings
said = {"torch_cuda": "", "driver_cuda": "", "num_devices": 0, "problem": ""}
try:
    version = ctypes.c_int()
    ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
    said["driver_cuda"] = f"{version.value // 1000}.{version.value % 1000 // 10}"
except (OSError, AttributeError):
    pass
warnings.simplefilter("ignore")
import torch
said["torch_cuda"] = torch.version.cuda or ""
try:
    torch.cuda.init()
    said["num_devices"] = torch.cuda.device_count()
    torch.zeros(1, device="cuda")
except Exception as error:
    said["problem"] = str(error).splitlines()[0]
print(json.dumps(said))
"""


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU, as the driver describes it."""

    name: str
    memory_bytes: int
    driver: str


@dataclass(frozen=True, slots=True)
class Cuda:
    """CUDA, as torch finds it. Versions are of CUDA itself: what torch was built for, what the driver can serve."""

    torch_cuda: str = ""
    driver_cuda: str = ""
    num_devices: int = 0
    problem: str = ""
    """Why torch cannot use a GPU, in its own words; empty if it can."""


@dataclass(frozen=True, slots=True)
class Token:
    """Ray's token as this machine has it. `digest` is of the token and a word of the moment: it tells nothing else."""

    source: str = ""
    """A file or RAY_AUTH_TOKEN; empty if there is no token."""
    digest: str = ""
    mode: int | None = None
    """The file's permissions."""
    auth_mode: str = ""
    """RAY_AUTH_MODE."""


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """One machine. Sizes are in bytes; None is unknown."""

    python: str
    packages: Mapping[str, str]
    code: str
    """Hash of the sources of the fmasearch that runs there."""
    off_lock: tuple[str, ...]
    """Packages that are not what the lock file says, in words."""
    gpus: tuple[Gpu, ...]
    cuda: Cuda
    memory: int | None
    free_memory: int | None
    shared_memory: int | None
    cache: str
    free_cache: int | None
    threads: int
    quota: float | None
    """Cores that the container may use; None if it may use all."""
    token: Token

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> NodeFacts:
        """What `to_json` gave.

        Raises:
            TypeError: if another version of this module gave it.
        """
        rest = dict(values)
        rest["gpus"] = tuple(Gpu(**gpu) for gpu in rest["gpus"])
        rest["off_lock"] = tuple(rest["off_lock"])
        return cls(**{**rest, "cuda": Cuda(**rest["cuda"]), "token": Token(**rest["token"])})


def gather(packages: Sequence[str], lock: Mapping[str, str], *, word: str) -> NodeFacts:
    """The facts of this machine.

    Args:
        packages: whose versions matter.
        lock: versions by name, as `read_lock` gave them.
        word: mixed into the token's digest.
    """
    gpus = _gpus()
    memory, free_memory = _memory()
    cache = cache_folder()
    return NodeFacts(
        python=platform.python_version(),
        packages={name: version_of(name) for name in packages},
        code=code_hash(),
        off_lock=off_lock(lock),
        gpus=gpus,
        cuda=_cuda() if gpus else Cuda(),
        memory=memory,
        free_memory=free_memory,
        shared_memory=_shared_memory(),
        cache=str(cache),
        free_cache=free_bytes(cache),
        threads=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        quota=cpu_quota(),
        token=find_token(word),
    )


def code_hash() -> str:
    """Of every source file of the package that is imported here, in 12 digits."""
    spec = importlib.util.find_spec("fmasearch")
    assert spec is not None
    assert spec.origin is not None
    root = Path(spec.origin).parent
    digest = hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        digest.update(f"{file.relative_to(root).as_posix()}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:12]


def read_lock(file: Path) -> dict[str, str]:
    """Versions by name, of the lines `name==version`."""
    lines = (line.split("#")[0].split(";")[0].strip() for line in file.read_text(encoding="utf-8").splitlines())
    pinned = (line.partition("==") for line in lines if "==" in line and not line.startswith("-"))
    return {name.strip(): version.split()[0] for name, _, version in pinned}


def off_lock(lock: Mapping[str, str]) -> tuple[str, ...]:
    """Packages whose version here is another than the lock file's, or absent; builds (`+cu126`) may differ."""
    found = ((name, wanted, version_of(name)) for name, wanted in lock.items())
    return tuple(
        f"{name} {here} (locked {wanted})"
        for name, wanted, here in found
        if here != wanted and here.partition("+")[0] != wanted
    )


def version_of(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def cache_folder() -> Path:
    """Where feature files are kept, as `fmasearch.data` has it, which imports torch."""
    if "FMASEARCH_CACHE" in os.environ:
        return Path(os.environ["FMASEARCH_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "fmasearch"


def free_bytes(folder: Path) -> int | None:
    """Free space for a folder that may not exist yet; None where it cannot be told."""
    folder = folder.absolute()
    existing = next((place for place in (folder, *folder.parents) if place.exists()), None)
    try:
        return None if existing is None else shutil.disk_usage(existing).free
    except OSError:
        return None


def find_token(word: str) -> Token:
    """The token that Ray would use here: it looks in the environment, in the file that names, and at home."""
    auth_mode = os.environ.get("RAY_AUTH_MODE", "")
    if token := os.environ.get("RAY_AUTH_TOKEN"):
        return Token("RAY_AUTH_TOKEN", _digest(token, word), None, auth_mode)
    file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    try:
        token, mode = file.read_text(encoding="utf-8").strip(), file.stat().st_mode & 0o777
    except (OSError, UnicodeDecodeError):
        token, mode = "", 0
    return Token(str(file), _digest(token, word), mode, auth_mode) if token else Token(auth_mode=auth_mode)


def cpu_quota(root: Path = CGROUPS, own: Path = Path("/proc/self/cgroup")) -> float | None:
    """Cores that control groups, and so containers, leave to this process; None without a limit."""
    limits = []
    for group in _groups(root, own):
        with contextlib.suppress(OSError, ValueError):
            quota, period = (group / "cpu.max").read_text().split()
            limits.append(int(quota) / int(period))  # "max" is no number
    with contextlib.suppress(OSError, ValueError):  # version 1
        quota = (root / "cpu" / "cpu.cfs_quota_us").read_text()
        if int(quota) > 0:
            limits.append(int(quota) / int((root / "cpu" / "cpu.cfs_period_us").read_text()))
    return min(limits, default=None)


def _memory() -> tuple[int | None, int | None]:
    """Memory and what of it is free, or what the control group leaves."""
    total, free = _memory_of_machine()
    for group in _groups(CGROUPS, Path("/proc/self/cgroup")):
        with contextlib.suppress(OSError, ValueError):
            limit = int((group / "memory.max").read_text())
            left = limit - int((group / "memory.current").read_text())
            total, free = min(limit, total or limit), min(left, free if free is not None else left)
    return total, free


def _memory_of_machine() -> tuple[int | None, int | None]:
    try:
        lines = [line.split() for line in Path("/proc/meminfo").read_text().splitlines()]
    except OSError:
        return None, None
    sizes = {fields[0].rstrip(":"): int(fields[1]) * 1024 for fields in lines if len(fields) > 1}
    return sizes.get("MemTotal"), sizes.get("MemAvailable")


def _groups(root: Path, own: Path) -> Iterator[Path]:
    """This process's control group and those around it (version 2)."""
    try:
        path = next(line[3:] for line in own.read_text().splitlines() if line.startswith("0::"))
    except (OSError, StopIteration):
        return
    group = root / path.strip("/")
    while group != root and root in group.parents:
        yield group
        group = group.parent
    yield root


def _shared_memory() -> int | None:
    try:
        return shutil.disk_usage("/dev/shm").total
    except OSError:
        return None


def _gpus() -> tuple[Gpu, ...]:
    """What the driver's own tool lists; nothing without one."""
    command = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits"]
    rows = [[field.strip() for field in line.split(",")] for line in _output(command, seconds=10).splitlines()]
    return tuple(Gpu(row[0], int(row[1]) * 2**20, row[2]) for row in rows if len(row) == 3 and row[1].isdigit())


def _cuda() -> Cuda:
    """Ask torch in a process of its own, which may see every GPU: Ray hides them from tasks that want none."""
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    said = _output([sys.executable, "-c", _ASK_TORCH], seconds=_TORCH_SECONDS, environment=environment)
    try:
        return Cuda(**json.loads(said.strip().splitlines()[-1]))
    except (ValueError, IndexError):
        return Cuda(problem=f"torch gave no answer within {_TORCH_SECONDS} s, or cannot be imported")


def _output(command: Sequence[str], *, seconds: float, environment: Mapping[str, str] | None = None) -> str:
    """What a command prints; nothing if it is not there, fails or takes longer."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=True, env=environment)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout


def _digest(token: str, word: str) -> str:
    return hashlib.sha256(f"{word}\0{token}".encode()).hexdigest()[:16] if token else ""
