"""The `.npy` file, plain or gzipped: its shape from its header alone, and its array."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from fmasearch.errors import TrackError

_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
_DAMAGE = (OSError, EOFError, ValueError, zlib.error)


def npy_shape(path: Path) -> tuple[int, ...] | None:
    """Shape of the array, reading a hundred bytes; None if the file is no such array."""
    try:
        with _open(path) as file:
            version = npy.read_magic(file)
            return tuple(_HEADERS[version](file)[0]) if version in _HEADERS else None
    except _DAMAGE:
        return None


def read_npy(path: Path) -> NDArray[Any]:
    """The array.

    Raises:
        TrackError: if the file is absent, cut short, or something else.
    """
    try:
        with _open(path) as file:
            array: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
    except FileNotFoundError:
        raise TrackError("no such file") from None
    except _DAMAGE as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise TrackError(f"not a .npy array, or damaged: {reason}") from None
    return array


def _open(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path)) if path.suffix == ".gz" else path.open("rb")
