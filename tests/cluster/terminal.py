"""A command on a terminal, as a person sees it: what it has said so far, and whether it has ended."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import signal
import struct
import subprocess
import termios
import threading
from collections.abc import Mapping
from pathlib import Path

_ROWS, _COLUMNS = 50, 150
_CONTROLS = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]|\x1b[()][A-Z0-9]|\x1b\][^\x07]*\x07|\r")


class Terminal:
    """Runs a command with a terminal of its own, in a session of its own; Ctrl-C reaches it by `type`."""

    def __init__(self, *command: str, cwd: Path, env: Mapping[str, str]) -> None:
        self._ours, theirs = os.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", _ROWS, _COLUMNS, 0, 0))
        own = ("setsid", "--ctty", "--wait", *command)  # ssh asks the session's terminal, not its standard input
        self._process = subprocess.Popen(own, cwd=cwd, env=dict(env), stdin=theirs, stdout=theirs, stderr=theirs)
        os.close(theirs)
        self._said = bytearray()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def said(self) -> str:
        """Everything, one drawing after the other, without colours and movements of the cursor."""
        return _CONTROLS.sub(b"", bytes(self._said)).decode(errors="replace")

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def wait(self, seconds: float) -> int | None:
        """Its exit code; None if it has not ended after so long."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self._process.wait(seconds)
            self._reader.join(1)
            return code
        return None

    def kill(self) -> None:
        """End it, whatever it does; nothing happens where it has ended."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        with contextlib.suppress(OSError):
            for child in children.read_text(encoding="utf-8").split():
                os.killpg(int(child), signal.SIGKILL)
        self._process.kill()
        self._process.wait()

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # how Linux says that the other end was closed
            while piece := os.read(self._ours, 65_536):
                self._said += piece
