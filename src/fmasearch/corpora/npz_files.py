"""The `.npz` file: its arrays, mapped from the disk where they are stored as they are."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from fmasearch.errors import DataError

MAX_COMPRESSED_BYTES = 4 * 2**30
"""A compressed array is unpacked into the memory of every worker; a larger one is refused."""

_LOCAL_HEADER_BYTES = 30


def npz_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """All arrays by key, read-only; those of `np.savez` take no memory until they are looked at.

    Raises:
        DataError: if the file is damaged, or an array holds Python objects or is compressed and too large.
    """
    arrays = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if member.filename.endswith(".npy"):
                    arrays[member.filename.removesuffix(".npy")] = _array(path, archive, member)
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise DataError(f"{path}: not an NPZ file, or damaged: {error}") from None
    return arrays


def _array(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> NDArray[Any]:
    is_stored = member.compress_type == zipfile.ZIP_STORED
    with archive.open(member) as file:
        if npy.read_magic(file) != (1, 0):
            raise DataError(f"{path}: {member.filename}: expected an array of format 1.0; save it with numpy.savez")
        shape, is_fortran, dtype = npy.read_array_header_1_0(file)
        header_bytes = file.tell()
    if dtype.hasobject:
        raise DataError(f"{path}: {member.filename}: holds Python objects; save it as an array of numbers or text")
    if is_stored and member.file_size > header_bytes:
        start = _start_of_data(path, member) + header_bytes
        return np.memmap(path, dtype, "r", start, shape, "F" if is_fortran else "C")
    if member.file_size > MAX_COMPRESSED_BYTES:
        raise DataError(
            f"{path}: {member.filename}: {member.file_size / 2**30:.0f} GiB, compressed; save it with numpy.savez"
        )
    with archive.open(member) as file:
        array: NDArray[Any] = npy.read_array(file, allow_pickle=False)
    return array


def _start_of_data(path: Path, member: zipfile.ZipInfo) -> int:
    """Where a member's bytes begin: behind its local header, whose name and extra field have lengths of their own."""
    with path.open("rb") as file:
        file.seek(member.header_offset)
        header = file.read(_LOCAL_HEADER_BYTES)
    name_bytes, extra_bytes = struct.unpack("<HH", header[26:30])
    return member.header_offset + _LOCAL_HEADER_BYTES + int(name_bytes) + int(extra_bytes)
