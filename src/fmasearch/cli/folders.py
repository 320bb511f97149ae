"""The folders of studies, as the command line names them."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from fmasearch.tracking import default_uri


@dataclass(frozen=True)
class Folders:
    """Where a study works, leaves its record, and is tracked."""

    runs: Path
    results: Path
    mlflow_uri: str | None = None

    @property
    def tracking_uri(self) -> str:
        return self.mlflow_uri or default_uri(self.runs)

    @property
    def runs_option(self) -> str:
        """What to add to a command so that it finds these studies; nothing where it would anyway."""
        return "" if self.runs == Path("runs") else f" --runs {shlex.quote(str(self.runs))}"

    @property
    def results_option(self) -> str:
        """The same for their records."""
        return "" if self.results == Path("results") else f" --results {shlex.quote(str(self.results))}"
