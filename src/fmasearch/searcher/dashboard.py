"""The dashboard: optuna-dashboard on a study's Optuna storage, for this machine only, and for reading only."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Callable, Iterable
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from urllib.parse import quote
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import optuna

from fmasearch.errors import StudyError

LOOPBACK = "127.0.0.1"
READING = ("GET", "HEAD", "OPTIONS")


def dashboard_app(file: Path) -> WSGIApplication:
    """The page of the study in the sqlite file `file`, which is opened for reading alone.

    The dashboard can rename and delete studies, write notes and attributes, end trials and tell them values. Here
    whatever is no reading is refused, and the file could not be written if it were not; a study that runs goes on
    writing beside it, and shows up as it does.

    Raises:
        StudyError: if there is no such file, or optuna-dashboard is not installed.
    """
    if find_spec("optuna_dashboard") is None:
        raise StudyError(
            "ui --optuna: needs optuna-dashboard, which is not installed: pip install 'fmasearch[dashboard]'"
        )
    if not file.is_file():
        raise StudyError(f"{file}: no such file; a study's Optuna storage is made when its search begins")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = optuna.storages.RDBStorage(
        f"sqlite:///{file.name}",
        engine_kwargs={"creator": partial(_connect, file.resolve())},
        skip_table_creation=True,
        skip_compatibility_check=True,
    )
    return _reading_only(import_module("optuna_dashboard").wsgi(storage))


def serve_dashboard(file: Path, port: int, on_ready: Callable[[str], None]) -> None:
    """Serve the page on 127.0.0.1 until Ctrl-C.

    Args:
        on_ready: is called with the page's address once it is served.

    Raises:
        StudyError: as `dashboard_app`, or if the port cannot be had.
    """
    app = dashboard_app(file)
    try:
        server = make_server(LOOPBACK, port, app, server_class=_Server, handler_class=_QuietHandler)
    except OSError as error:
        why = "is taken" if error.errno == errno.EADDRINUSE else f"cannot be had: {error.strerror}"
        raise StudyError(f"port {port} {why}; choose another with --port") from None
    with server:
        try:
            on_ready(f"http://{LOOPBACK}:{server.server_port}/dashboard")
            server.serve_forever()
        except KeyboardInterrupt:
            return


def _connect(file: Path) -> sqlite3.Connection:
    """For reading alone; waits while the search holds the file. SQLAlchemy's pool lends it to one thread at a time."""
    return sqlite3.connect(f"file:{quote(str(file))}?mode=ro", uri=True, timeout=60, check_same_thread=False)


def _reading_only(app: WSGIApplication) -> WSGIApplication:
    def guarded(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] in READING:
            return app(environ, start_response)
        start_response("405 Method Not Allowed", [("Content-Type", "application/json"), ("Allow", ", ".join(READING))])
        return [b'{"reason": "fmasearch shows its studies for reading only"}']

    return guarded


class _Server(ThreadingMixIn, WSGIServer):
    """A page asks for several things at once. A thread that still answers does not keep the program."""

    daemon_threads = True


class _QuietHandler(WSGIRequestHandler):
    """Says nothing about requests that were answered."""

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nobody reads it."""
