"""What the driver itself needs: the feature file, MLflow's store, and a folder for studies that it may write."""

from __future__ import annotations

import math
import os
from pathlib import Path

from fmasearch.data import content_hash, read_info
from fmasearch.doctor.checks import LEAST_DISK, LITTLE_DISK
from fmasearch.doctor.facts import free_bytes
from fmasearch.doctor.lines import GIB, Check, Status
from fmasearch.doctor.storage import is_uri, object_problem, within
from fmasearch.errors import DataError, StudyError
from fmasearch.tracking.locations import redacted
from fmasearch.tracking.mlflow_store import describe_store

_SECONDS = 30.0


def check_runs(runs: Path) -> Check:
    """Where studies work."""
    folder = runs.absolute()
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    if not (existing.is_dir() and os.access(existing, os.W_OK)):
        return Check("runs", "failed", f"{existing}: may not be written", "name another folder with --runs")
    free = free_bytes(folder)
    if free is None or free >= LITTLE_DISK:
        words = "" if free is None else f": {free / GIB:,.1f} GiB free"
        return Check("runs", "ok", f"{folder}{words}")
    status: Status = "failed" if free < LEAST_DISK else "warning"
    return Check("runs", status, f"{folder}: {free / GIB:,.1f} GiB free", "free some, or name another with --runs")


def check_mlflow(uri: str) -> Check:
    """The store that a study would write to."""
    try:
        return Check("MLflow", "ok", within(_SECONDS, describe_store, uri))
    except TimeoutError as error:
        return Check("MLflow", "failed", f"{redacted(uri)}: {error}", "is it running, and reachable from here?")
    except StudyError as error:
        return Check("MLflow", "failed", str(error), _mlflow_mend(str(error)))


def check_data(data: str) -> tuple[Check, int]:
    """The feature file, and how many bytes it and its working copy take on a node's disk (0 if it is unusable)."""
    if is_uri(data):
        size, problem = object_problem(data)
        if problem:
            mend = "check the URI, and this machine's credentials"
            return Check("data", "failed", f"{redacted(data)}: {problem}", mend), 0
        found = f"{redacted(data)}: {_size(size)}; its hash is checked when a node copies it"
        return Check("data", "ok", found), 2 * size
    try:
        info = read_info(data)
        sha256 = content_hash(data)
    except DataError as error:
        return Check("data", "failed", str(error), "fmasearch data check FILE" if Path(data).exists() else ""), 0
    size = Path(data).stat().st_size
    levels = sum(math.prod(f.shape) * _itemsize(f.dtype) for f in info.features.values())
    found = f"{data}: {info.num_tracks:,} tracks, {_size(size)}, sha256 {sha256[:12]}"
    return Check("data", "ok", found), size + levels


def _mlflow_mend(problem: str) -> str:
    if "pip install" in problem or "fmasearch ui --serve" in problem or "--runs" in problem:
        return ""  # said already
    if "password" in problem or "role" in problem:
        return "check user and password in --mlflow or MLFLOW_TRACKING_URI"
    if "connect" in problem:
        return "is the database running, and does it listen there? pg_isready -h HOST -p PORT"
    return "another version of MLflow wrote it: `mlflow db upgrade URI` after a copy, or name another with --mlflow"


def _itemsize(dtype: str) -> int:
    return {"uint8": 1, "float16": 2}.get(dtype, 4)


def _size(size: int) -> str:
    return f"{size / GIB:,.2f} GiB" if size >= GIB // 10 else f"{size / 2**20:,.1f} MiB"
