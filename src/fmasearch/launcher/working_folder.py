"""The working folder: which files travel to the cluster, their sizes, and a hash that names them."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from fmasearch.errors import StudyError

LIMIT_BYTES = 100 * 2**20
"""Ray refuses a job's working folder above this."""

MOST_FILES = 20_000
_TOP_FOLDERS = frozenset({"data", "results", "runs", "mlruns"})  # at the top only: src/fmasearch/data is code
_FOLDERS = (".git", ".venv", "venv", "__pycache__", "node_modules", "*_cache", ".hypothesis", "*.egg-info")
_FILES = ("*.h5", "*.hdf5", "*.pt", "*.npy", "*.npz", "*.pyc")


@dataclass(frozen=True, slots=True)
class WorkingFolder:
    """Files by path relative to `root`, with `/`, sorted, and their sizes in bytes."""

    root: Path
    sizes: dict[str, int]
    digest: str
    """First 16 hex digits of a SHA-256 over names, executable bits and contents."""

    @property
    def num_bytes(self) -> int:
        return sum(self.sizes.values())

    @property
    def has_package(self) -> bool:
        """Whether it holds fmasearch itself, so that the cluster runs this code and not the one installed there."""
        return "src/fmasearch/__init__.py" in self.sizes

    @contextmanager
    def staged(self) -> Iterator[Path]:
        """A temporary folder with these files and nothing else: hard links where they can be, else copies."""
        with tempfile.TemporaryDirectory(prefix="fmasearch-submit-") as temporary:
            for name in self.sizes:
                target = Path(temporary, name)
                target.parent.mkdir(parents=True, exist_ok=True)
                _link_or_copy((self.root / name).resolve(), target)
            yield Path(temporary)


def collect(root: Path) -> WorkingFolder:
    """The files under `root` that a job needs.

    In a git checkout: what git tracks or would track. Elsewhere: all files. In both: no feature files, weights,
    caches, and no `data`, `results` or `runs` at the top.

    Raises:
        StudyError: if they are more than Ray takes; the message names the largest.
    """
    root = root.resolve()
    listed = _git_files(root)
    names = _walk(root) if listed is None else listed
    paths = {name: root / name for name in sorted(names) if not _is_left_out(name)}
    sizes = {name: path.stat().st_size for name, path in paths.items() if path.is_file()}
    _require_small(root, sizes, in_checkout=listed is not None)
    return WorkingFolder(root, sizes, _digest(root, sizes))


def _git_files(root: Path) -> set[str] | None:
    """None outside a checkout, or where there is no git."""
    try:
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        done = subprocess.run(command, cwd=root, capture_output=True, check=False)
    except OSError:
        return None
    if done.returncode != 0:
        return None
    return {os.fsdecode(name) for name in done.stdout.split(b"\0") if name}


def _walk(root: Path) -> set[str]:
    found: set[str] = set()
    for folder, folders, files in os.walk(root):
        inside = Path(folder).relative_to(root)
        folders[:] = [name for name in folders if not _is_left_out((inside / name / "-").as_posix())]
        found.update((inside / name).as_posix() for name in files)
        if len(found) > MOST_FILES:
            raise StudyError(
                f"{root}: expected a project folder of at most {MOST_FILES:,} files, got more; "
                f"change to the folder that holds spaces/ and submit from there"
            )
    return found


def _is_left_out(name: str) -> bool:
    *folders, file = PurePosixPath(name).parts
    if folders and folders[0] in _TOP_FOLDERS:
        return True
    if any(fnmatch(folder, pattern) for folder in folders for pattern in _FOLDERS):
        return True
    return any(fnmatch(file, pattern) for pattern in _FILES)


def _require_small(root: Path, sizes: dict[str, int], *, in_checkout: bool) -> None:
    total = sum(sizes.values())
    if total <= LIMIT_BYTES:
        return
    largest = sorted(sizes, key=lambda name: -sizes[name])[:5]
    listed = ", ".join(f"{name} ({_mib(sizes[name])})" for name in largest)
    cure = "name them in .gitignore" if in_checkout else "move them out of this folder, or into data/"
    raise StudyError(
        f"{root}: expected a working folder of at most {_mib(LIMIT_BYTES)}, which is what Ray takes, "
        f"got {_mib(total)}; the largest files are {listed}; {cure} (a feature file travels by --data)"
    )


def _mib(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:,.1f} MiB"


def _digest(root: Path, sizes: dict[str, int]) -> str:
    digest = hashlib.sha256()
    for name in sizes:
        path = root / name
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{name}\0{os.access(path, os.X_OK)}\0{content}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copy2(source, target)
