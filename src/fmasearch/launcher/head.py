"""The head of a cluster, as Ray's cluster launcher reaches it: commands, files up, files down.

The launcher is a command, `ray`; it is never imported. Checked with ray 2.60: `ray exec` runs the command in
`bash --login -i` behind `ssh -tt`, after `~/.bashrc`, and ends with 1 whatever fails; `ray rsync-up` and `rsync-down`
are `rsync -avz`, so a folder needs its trailing slash, parents are not made, and the cluster file's `rsync_exclude`
and `rsync_filter` apply.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fmasearch.config import load_yaml
from fmasearch.errors import ConfigError, StudyError
from fmasearch.launcher.envelope import Envelope, enveloped

_POLL_SECONDS = 0.3
_REASONS = {  # what the launcher, ssh and rsync say, and what it means
    "not found!": "the cluster is not up",  # Head node of cluster (NAME) not found!
    "Permission denied (": "its head refuses the ssh key (auth: ssh_user, ssh_private_key)",
    "Connection refused": "its head does not answer ssh",
    "Connection timed out": "its head does not answer ssh",
    "No route to host": "its head does not answer ssh",
    "Could not resolve hostname": "the name of its head is not known here",
}


@dataclass(frozen=True, slots=True)
class Done:
    """A command that ended on the head."""

    exit_code: int
    output: str


@dataclass(frozen=True, slots=True)
class Head:
    """The head of the cluster that `cluster` describes."""

    cluster: Path
    ray: str
    """The `ray` command of this machine."""

    def run(self, command: str) -> Done:
        """Run a bash command there, in its home; standard error is part of the output.

        Raises:
            StudyError: if the head cannot be reached.
        """
        pieces: list[bytes] = []
        exit_code = self.stream(command, pieces.append)
        return Done(exit_code, b"".join(pieces).decode(errors="replace"))

    def stream(
        self,
        command: str,
        sink: Callable[[bytes], object],
        *,
        on_terminal: bool = False,
        own_session: bool = False,
        ports: Sequence[int] = (),
        columns: int = 120,
    ) -> int:
        """Run a bash command there and hand its output to `sink` as it comes; returns its exit code.

        Args:
            on_terminal: let it draw on this terminal and read from it.
            own_session: keep Ctrl-C from it: whoever waits here decides. What `sink` raises ends it.
            ports: forwarded from this machine's loopback address while it runs.

        Raises:
            StudyError: if the head cannot be reached, or is lost before the command ends.
        """
        forward = [argument for port in ports for argument in ("--port-forward", str(port))]
        wrapped = enveloped(command, on_terminal=on_terminal, columns=columns)
        envelope = Envelope()
        process = subprocess.Popen(
            [self.ray, "exec", *forward, str(self.cluster), wrapped],
            stdin=None if on_terminal else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=own_session,
        )
        try:
            _pump(process, envelope, sink)
            process.wait()
        finally:
            _end(process, own_session)
        if envelope.exit_code is None:
            raise self._unreachable(bytes(envelope.chatter), begun=envelope.begun)
        return envelope.exit_code

    def send(self, source: Path, target: str, on_progress: Callable[[int], object] = lambda num_bytes: None) -> None:
        """Copy a file or a folder's contents there; what is there already is not sent again.

        Args:
            target: below the home, whose folder exists; it holds no character that a shell minds.
            on_progress: told now and then how many bytes of a file have been read for sending (on Linux).
        """
        slash = "/" if source.is_dir() else ""
        self._rsync(
            "rsync-up", f"{source.resolve()}{slash}", f"~/{target}{slash}", lambda: on_progress(_position(source))
        )

    def bring(self, source: str, target: Path) -> None:
        """Copy the contents of a folder below its home into a folder here."""
        self._rsync("rsync-down", f"~/{source}/", f"{target.resolve()}/", lambda: None)

    def _rsync(self, command: str, source: str, target: str, on_poll: Callable[[], object]) -> None:
        with tempfile.TemporaryFile() as said:  # a pipe that nobody reads would fill
            process = subprocess.Popen(
                [self.ray, command, str(self.cluster), source, target],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
            )
            try:
                while process.poll() is None:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(_POLL_SECONDS)
                    on_poll()
            finally:
                _end(process, own_session=False)
            if process.returncode != 0:
                said.seek(0)
                raise self._unreachable(said.read(), begun=False, doing=f"{source} could not be copied to {target}")

    def _unreachable(self, chatter: bytes, *, begun: bool, doing: str = "") -> StudyError:
        text = chatter.decode(errors="replace")
        for words, reason in _REASONS.items():
            if words in text:
                return StudyError(f"{self.cluster}: {reason}; `ray up {shlex.quote(str(self.cluster))}` starts it")
        if "is your shell clean" in text:
            return StudyError(f"{self.cluster}: ~/.bashrc on the head prints something, which rsync takes for its own")
        if begun:
            return StudyError(f"{self.cluster}: the connection to the head was lost; what runs there goes on")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        said = " | ".join(lines[-3:]) or "nothing"
        what = doing or "its head could not be reached"
        return StudyError(
            f"{self.cluster}: {what}; `ray` said: {said}; "
            f"is the cluster up (`ray up {shlex.quote(str(self.cluster))}`)?"
        )


def open_cluster(file: Path) -> Head:
    """The head of the cluster that a file of Ray's cluster launcher describes; nothing is sent yet.

    Raises:
        ConfigError: if it is no such file.
        StudyError: if this machine has no `ray` command.
    """
    if not file.is_file():
        raise ConfigError(f"{file}: no such file; expected a file of Ray's cluster launcher, such as cluster.yaml")
    values = load_yaml(file)
    provider = values.get("provider")
    if not isinstance(values.get("cluster_name"), str) or not isinstance(provider, dict) or "type" not in provider:
        raise ConfigError(
            f"{file}: expected a file of Ray's cluster launcher, with cluster_name and provider.type, got the keys "
            f"{', '.join(map(str, list(values)[:6])) or '(none)'}"
        )
    return Head(file, _ray_command())


def _ray_command() -> str:
    """The `ray` of this environment, else the one that the shell finds."""
    beside = Path(sys.executable).with_name("ray")
    ray = str(beside) if beside.exists() else shutil.which("ray")
    if ray is None:
        raise StudyError("ray: no such command here; install fmasearch, which brings it, in this environment")
    return ray


def _pump(process: subprocess.Popen[bytes], envelope: Envelope, sink: Callable[[bytes], object]) -> None:
    assert process.stdout is not None
    # Not to the end of the pipe: ssh leaves a helper behind that may hold it open for ten seconds more.
    while envelope.exit_code is None and (piece := os.read(process.stdout.fileno(), 65_536)):
        if output := envelope.feed(piece):
            sink(output)
    if output := envelope.finish():
        sink(output)


def _end(process: subprocess.Popen[bytes], own_session: bool) -> None:
    """End a process that still runs, and what it started if it has a session of its own."""
    if process.stdout is not None:
        process.stdout.close()
    if process.poll() is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        if own_session:
            os.killpg(process.pid, signal.SIGTERM)
        else:
            process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _position(source: Path) -> int:
    """How far the rsync that sends this file has read it; 0 where that cannot be seen."""
    try:
        wanted = source.stat()
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if (process / "comm").read_text().strip() == "rsync":
                    for descriptor in (process / "fd").iterdir():
                        if os.path.samestat(descriptor.stat(), wanted):
                            words = (process / "fdinfo" / descriptor.name).read_text().split()
                            return int(words[words.index("pos:") + 1])
    except OSError:
        pass
    return 0
