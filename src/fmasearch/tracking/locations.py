"""Where MLflow keeps what it is told, and how its server is started; MLflow itself is not imported."""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from fmasearch.errors import StudyError

SQLITE = "sqlite:///"
DEFAULT_RUNS = Path("runs")

_POSTGRES = re.compile(r"^postgres(?:ql)?(\+\w+)?://")
_PASSWORD = re.compile(r"(://[^\s/:@]*):(.*)@", re.DOTALL)
_PASSWORD_OPTION = re.compile(r"([?&](?:ssl)?(?:password|passwd|pwd)=)[^&\s]*", re.IGNORECASE)


def default_uri(home: Path) -> str:
    """The tracking URI of the store in the folder `home`: one sqlite file."""
    return f"{SQLITE}{home.resolve() / 'mlflow.db'}"


def artifact_folder(uri: str, runs: Path | None = None) -> Path | None:
    """The folder of a store's artifacts; None for a server, which has its own.

    Args:
        uri: of a sqlite store, whose artifacts lie beside its file, or of PostgreSQL, which holds no files.
        runs: the studies' folder, where a database's artifacts lie.
    """
    if is_postgres(uri):
        return (runs or DEFAULT_RUNS).resolve() / "mlartifacts"
    file = database_file(uri)
    return file.parent / "mlartifacts" if file else None


def database_file(uri: str) -> Path | None:
    """The file behind a sqlite URI; None for anything else."""
    return Path(uri.removeprefix(SQLITE)).absolute() if uri.startswith(SQLITE) else None


def is_postgres(uri: str) -> bool:
    """Whether `uri` is of a PostgreSQL database."""
    return _POSTGRES.match(uri) is not None


def is_server(uri: str) -> bool:
    """Whether `uri` is of an MLflow server."""
    return uri.startswith(("http://", "https://"))


def with_driver(uri: str) -> str:
    """A PostgreSQL URI that names the driver that is installed; any other URI as it is.

    `postgresql://` alone means another driver to SQLAlchemy 2.1 (psycopg) than to those before it (psycopg2).

    Raises:
        StudyError: if no driver is installed.
    """
    found = _POSTGRES.match(uri)
    if found is None:
        return uri
    drivers = (found.group(1).removeprefix("+"),) if found.group(1) else ("psycopg2", "psycopg")
    driver = next((name for name in drivers if importlib.util.find_spec(name)), None)
    if driver is None:
        raise StudyError(
            f"{redacted(uri)}: PostgreSQL needs a driver, which is not installed: pip install 'fmasearch[postgres]'"
        )
    return _POSTGRES.sub(f"postgresql+{driver}://", uri)


def redacted(text: str) -> str:
    """A URI, or one word of a command line, without its password: `postgresql://user:***@host/db`."""
    return _PASSWORD_OPTION.sub(r"\1***", _PASSWORD.sub(r"\1:***@", text))


def redacted_command(words: Sequence[str]) -> str:
    """A command line as it is kept and shown: quoted for the shell, without passwords."""
    return shlex.join([redacted(word) for word in words])


def ui_command(uri: str, port: int = 5000, runs: Path | None = None) -> list[str]:
    """The command that shows a store in a browser on this machine only; it wants `ui_environment`, too.

    One worker process: the server's own default of 4 take 480 MB, for one reader.
    """
    command = [sys.executable, "-m", "mlflow", "server"]
    if not is_postgres(uri):
        command += ["--backend-store-uri", uri]
    if (folder := artifact_folder(uri, runs)) is not None:
        command += ["--artifacts-destination", folder.as_uri()]
    return [*command, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]


def ui_environment(uri: str) -> dict[str, str]:
    """Variables for `ui_command`: a database's URI goes here, since everybody may read a process's command line."""
    # MLflow's jobs serve what is not used here. Without them its server is 3 processes of 0.5 GB in all, not 10 of 1.5.
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    return quiet | ({"MLFLOW_BACKEND_STORE_URI": with_driver(uri)} if is_postgres(uri) else {})
