"""Feature files that came from elsewhere: kept in the cache, named by their content, written whole or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from fmasearch.errors import DataError

PIECE_BYTES = 8 * 2**20
"""A file travels in pieces of this size, so that memory stays bounded whatever its size."""


def stored_file(cache_dir: Path, sha256: str) -> Path:
    """Where the file of that content is, or would be."""
    return cache_dir / "files" / f"{sha256}.h5"


def store_pieces(cache_dir: Path, pieces: Iterable[bytes], *, expected: str | None, source: str) -> str:
    """Write `pieces` one after the other and return the SHA-256 of the whole.

    Raises:
        DataError: if it is not `expected`; nothing is kept then.
    """
    folder = cache_dir / "files"
    folder.mkdir(parents=True, exist_ok=True)
    arriving = folder / f".arriving.{os.getpid()}.tmp"
    digest = hashlib.sha256()
    try:
        with arriving.open("wb") as file:
            for piece in pieces:
                digest.update(piece)
                file.write(piece)
        sha256 = digest.hexdigest()
        if expected is not None and sha256 != expected:
            raise DataError(
                f"{source}: arrived with sha256 {sha256[:12]}, expected {expected[:12]}: it changed since the study "
                f"began, or was damaged on the way; start a new study, or try again"
            )
        arriving.replace(stored_file(cache_dir, sha256))
    finally:
        arriving.unlink(missing_ok=True)
    return sha256


def require_space(cache_dir: Path, num_bytes: int, source: str) -> None:
    """Raise DataError unless a file of `num_bytes` and the study's working copy of it fit on the cache's disk."""
    cache_dir.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(cache_dir).free
    if free < 2 * num_bytes:
        raise DataError(
            f"{cache_dir}: {free / 2**30:.1f} GiB free, but {source} and its working copy need "
            f"{2 * num_bytes / 2**30:.1f} GiB; free some, or set FMASEARCH_CACHE to a larger disk"
        )
