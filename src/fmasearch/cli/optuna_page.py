"""`ui --optuna`: optuna-dashboard on one study, beside MLflow's page of all of them."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from fmasearch.cli.folders import Folders
from fmasearch.cli.recorded import find_study
from fmasearch.errors import StudyError
from fmasearch.searcher.dashboard import serve_dashboard


def serve(study: str, folders: Folders, port: int) -> None:
    """Serve the study's page on the loopback address until Ctrl-C.

    Raises:
        StudyError: if there is no such study, or only its record; or as `serve_dashboard`.
    """
    folder = find_study(study, folders)
    if not (folder / "optuna.db").is_file():
        raise StudyError(
            f"{folder}: holds no Optuna storage; the study's working folder does, as {Path('runs') / folder.name} once "
            f"its search has begun"
        )
    console = Console()

    def on_ready(address: str) -> None:
        console.print(
            f"optuna-dashboard: [bold]{address}[/] shows {folder.name}, for reading only  (Ctrl-C ends it)",
            highlight=False,
            soft_wrap=True,
        )

    serve_dashboard(folder / "optuna.db", port, on_ready)
