"""Where MLflow keeps what it is told, and how its server is started; MLflow itself is not imported."""

from __future__ import annotations

import sys
from pathlib import Path

SQLITE = "sqlite:///"


def default_uri(home: Path) -> str:
    """The tracking URI of the store in the folder `home`: one sqlite file."""
    return f"{SQLITE}{home.resolve() / 'mlflow.db'}"


def artifact_folder(uri: str) -> Path | None:
    """The folder of a sqlite store's artifacts, beside its file; None for a server, which has its own."""
    file = database_file(uri)
    return file.parent / "mlartifacts" if file else None


def database_file(uri: str) -> Path | None:
    """The file behind a sqlite URI; None for anything else."""
    return Path(uri.removeprefix(SQLITE)).absolute() if uri.startswith(SQLITE) else None


def ui_command(uri: str, port: int = 5000) -> list[str]:
    """The command that shows a sqlite store in a browser on this machine only.

    One worker process: the server's own default of 4 take 480 MB, for one reader.
    """
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri]
    if (folder := artifact_folder(uri)) is not None:
        command += ["--artifacts-destination", folder.as_uri()]
    return [*command, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
