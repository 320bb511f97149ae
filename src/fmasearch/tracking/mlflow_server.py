"""MLflow's server on this machine: started for a store, watched until it is told to end, never open to the world."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from fmasearch.errors import FmasearchError, StudyError
from fmasearch.tracking.locations import artifact_folder, database_file, redacted, ui_command, ui_environment
from fmasearch.tracking.mlflow_store import init_store, quiet

START_SECONDS = 120.0
_STOP_SECONDS = 10.0
_PROBE_TAG = "fmasearch.server_probe"
# Asked directly: a proxy named in the environment has no business between us and this machine.
_LOOPBACK = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def serve(uri: str, port: int, *, runs: Path, on_ready: Callable[[], None] = lambda: None) -> None:
    """Serve the store at `uri` on 127.0.0.1 until SIGTERM or SIGINT; the store is made if need be.

    Args:
        runs: the studies' folder, where a database's artifacts lie.
        on_ready: is called once the server answers.

    Raises:
        StudyError: if the port is taken, or the store cannot be opened.
        FmasearchError: if the server ends by itself.
    """
    require_free(port)
    init_store(uri)
    if (folder := artifact_folder(uri, runs)) is not None:
        folder.mkdir(parents=True, exist_ok=True)
    with _stopping() as ending:
        server = None
        try:
            server = subprocess.Popen(
                ui_command(uri, port, runs),
                env={**os.environ, **ui_environment(uri)},
                start_new_session=True,  # it has children, and all of them must end
            )
            _wait(server, port, on_ready)
        except _Stopped:
            return
        finally:
            ending()
            if server is not None:
                _end(server)


def serves(uri: str, port: int) -> bool:
    """Whether an MLflow server at `port` serves this very store: a mark that is left in one shows in the other."""
    file = database_file(uri)
    if (file is not None and not file.exists()) or _get(port, "health") != "OK":
        return False
    try:
        with quiet():
            direct = init_store(uri)
            experiments = direct.search_experiments(max_results=1)
            if not experiments:
                return False
            experiment, mark = experiments[0].experiment_id, secrets.token_hex(8)
            direct.set_experiment_tag(experiment, _PROBE_TAG, mark)
            try:
                served = MlflowClient(tracking_uri=f"http://127.0.0.1:{port}").get_experiment(experiment)
                return bool(served.tags.get(_PROBE_TAG) == mark)
            finally:
                direct.delete_experiment_tag(experiment, _PROBE_TAG)
    except MlflowException:  # no such experiment there
        return False


def is_taken(port: int) -> bool:
    """Whether somebody listens at `port` of this machine."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return True
            raise StudyError(f"port {port}: {error.strerror}; choose another with --port") from None
    return False


def require_free(port: int) -> None:
    """Raise StudyError if somebody listens at `port`, saying who, as far as that can be known."""
    if not is_taken(port):
        return
    who = "an MLflow server of another store" if _get(port, "health") == "OK" else "something"
    process = listener(port)
    by = f"{who}: {process}" if process else who
    raise StudyError(f"port {port} is taken by {by}; end it, or choose another port with --port")


def listener(port: int) -> str | None:
    """The process that listens at `port`, in words; None where the system does not tell."""
    sockets = {f"socket:[{inode}]" for inode in _listening(port)}
    for folder in Path("/proc").glob("[0-9]*/fd") if sockets else ():
        with contextlib.suppress(OSError):
            if any(str(file.readlink()) in sockets for file in folder.iterdir()):
                words = (folder.parent / "cmdline").read_bytes().decode(errors="replace").split("\0")
                command = redacted(" ".join(words).strip())
                return f"process {folder.parent.name} ({command[:77] + '...' if len(command) > 80 else command})"
    return None


class _Stopped(Exception):
    """SIGTERM or SIGINT came."""


@contextlib.contextmanager
def _stopping() -> Iterator[Callable[[], None]]:
    """Turn SIGTERM and SIGINT into `_Stopped`; after a call of what is yielded they are only noted."""
    ending = False

    def stop(number: int, frame: FrameType | None) -> None:
        if not ending:
            raise _Stopped

    def end() -> None:
        nonlocal ending
        ending = True

    earlier = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield end
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


def _wait(server: subprocess.Popen[bytes], port: int, on_ready: Callable[[], None]) -> None:
    """Until the server ends, which it should not.

    Raises:
        FmasearchError: when it does, or does not answer in time.
    """
    deadline = time.monotonic() + START_SECONDS
    while server.poll() is None and _get(port, "health") != "OK":
        if time.monotonic() > deadline:
            raise FmasearchError(f"MLflow's server did not answer within {START_SECONDS:g} s")
        time.sleep(0.2)
    if server.poll() is None:
        on_ready()
    code = server.wait()
    raise FmasearchError(f"MLflow's server ended by itself, with exit code {code}; its own words are above")


def _end(server: subprocess.Popen[bytes]) -> None:
    """The server and its children: asked to end, and made to if they do not."""
    for number, seconds in ((signal.SIGTERM, _STOP_SECONDS), (signal.SIGKILL, _STOP_SECONDS)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(seconds)
            return


def _get(port: int, page: str) -> str:
    """A page of the server at `port`, or nothing."""
    try:
        with _LOOPBACK.open(f"http://127.0.0.1:{port}/{page}", timeout=5) as answer:
            return str(answer.read(1000).decode(errors="replace")).strip()
    except (OSError, ValueError, urllib.error.URLError):
        return ""


def _listening(port: int) -> Iterator[str]:
    """Inodes of the sockets that listen at `port` (Linux)."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                    yield fields[9]
