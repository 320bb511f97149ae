"""The driver of a study: the process that runs it, whether it lives, and where requests to it lie."""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from fmasearch.errors import StudyError
from fmasearch.files import replacing
from fmasearch.study.folder import StudyFolder


@dataclass(frozen=True, slots=True)
class Driver:
    """A process that runs a study, told apart from any other on any host that shares the study's folder."""

    pid: int
    pid_started: str
    """When the process started, in the kernel's own count: a number that is used again has another. "" if unknown."""
    pid_namespace: str
    """What `pid` counts in; hosts made of containers may share all but this."""
    host: str
    boot_id: str
    started: float
    """Seconds since 1970."""


def driver_file(folder: StudyFolder) -> Path:
    """There while a process runs the study, and left behind by one that was killed."""
    return folder.root / "driver.json"


def requests_folder(folder: StudyFolder) -> Path:
    """Where others put requests to the driver (see `fmasearch.study.stopping`); emptied when a driver starts."""
    return folder.root / "requests"


def read_driver(folder: StudyFolder) -> Driver | None:
    """Who runs the study, or was killed while it did; None if there is no such file, or one that is not ours."""
    try:
        return Driver(**json.loads(driver_file(folder).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def driver_alive(folder: StudyFolder) -> bool | None:
    """Whether the study's driver lives; None if it is on another host, where nobody here can look."""
    driver = read_driver(folder)
    if driver is None:
        return False
    here = _this_process()
    if driver.host != here.host:
        return None
    if driver.boot_id != here.boot_id:  # started again since
        return False
    if driver.pid_namespace != here.pid_namespace:
        return None
    return _start_of(driver.pid) == driver.pid_started


@contextmanager
def mark_driver(folder: StudyFolder) -> Iterator[None]:
    """Say in the study's folder that this process runs it, for as long as the block lasts.

    Raises:
        StudyError: if another process of this host is running it.
    """
    other = read_driver(folder)
    if other is not None and driver_alive(folder):
        name = folder.root.name
        raise StudyError(
            f"{name}: process {other.pid} of this machine is running it; `fmasearch watch {name}` shows it, "
            f"`fmasearch stop {name}` stops it"
        )
    _forget_requests(folder)
    with replacing(driver_file(folder)) as temporary:
        temporary.write_text(json.dumps(asdict(_this_process())), encoding="utf-8")
    try:
        yield
    finally:
        _forget_requests(folder)
        driver_file(folder).unlink(missing_ok=True)


def _forget_requests(folder: StudyFolder) -> None:
    shutil.rmtree(requests_folder(folder), ignore_errors=True)


def _this_process() -> Driver:
    return Driver(
        pid=os.getpid(),
        pid_started=_start_of(os.getpid()) or "",
        pid_namespace=_link("/proc/self/ns/pid"),
        host=socket.gethostname(),
        boot_id=_text("/proc/sys/kernel/random/boot_id"),
        started=time.time(),
    )


def _start_of(pid: int) -> str | None:
    """When the living process `pid` started; "" where the system does not tell, None if there is no such process."""
    if not Path("/proc/self/stat").exists():
        return _start_without_proc(pid)
    state, *rest = _text(f"/proc/{pid}/stat").rpartition(")")[2].split() or ["X"]
    return None if state in "ZX" else rest[18]  # starttime is field 22, state is field 3: man 5 proc_pid_stat


def _start_without_proc(pid: int) -> str | None:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return ""


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _link(path: str) -> str:
    try:
        return str(Path(path).readlink())
    except OSError:
        return ""
