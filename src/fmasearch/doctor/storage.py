"""A place for checkpoints, tried out: a folder, or an `s3://` or `gs://` URI. Runs on any node; imports no torch."""

from __future__ import annotations

import re
from collections.abc import Callable
from threading import Thread
from typing import Any, TypeVar

from pyarrow import fs

_T = TypeVar("_T")
_SIGNATURE = b"\x89HDF\r\n\x1a\n"


def is_uri(place: str) -> bool:
    return "://" in place


def write_probe(place: str, name: str, *, make: bool = True) -> str:
    """Write `name` into `place` and read it back; returns what went wrong, or nothing.

    Args:
        make: make the folder, if it is not there.
    """
    try:
        system, folder = fs.FileSystem.from_uri(place)
        if system.get_file_info(folder).type is fs.FileType.NotFound:
            if not make:
                return "no such folder"
            if not is_uri(place):  # an object store has no folders, and a bucket is not ours to make
                system.create_dir(folder, recursive=True)
        with system.open_output_stream(f"{folder}/{name}") as stream:
            stream.write(name.encode())
        with system.open_input_stream(f"{folder}/{name}") as stream:
            return "" if stream.read() == name.encode() else "what was written reads back otherwise"
    except (OSError, ValueError, NotImplementedError) as error:  # pyarrow's errors are these
        return _first_line(error)


def sees_probe(place: str, name: str) -> bool:
    """Whether `name` is in `place`, seen from here."""
    try:
        system, folder = fs.FileSystem.from_uri(place)
        return bool(system.get_file_info(f"{folder}/{name}").type is fs.FileType.File)
    except (OSError, ValueError, NotImplementedError):
        return False


def delete_probe(place: str, name: str) -> str:
    """Remove `name`; returns what went wrong, or nothing."""
    try:
        system, folder = fs.FileSystem.from_uri(place)
        system.delete_file(f"{folder}/{name}")
    except (OSError, ValueError, NotImplementedError) as error:
        return _first_line(error)
    return ""


def object_problem(uri: str) -> tuple[int, str]:
    """Size in bytes of the HDF5 file at `uri`, and why it cannot be read from here, or nothing."""
    try:
        system, path = fs.FileSystem.from_uri(uri)
        info = system.get_file_info(path)
        if info.type is not fs.FileType.File:
            return 0, "no such object"
        with system.open_input_stream(path) as stream:
            is_hdf5 = stream.read(len(_SIGNATURE)) == _SIGNATURE
        return int(info.size), "" if is_hdf5 else "not an HDF5 file"
    except (OSError, ValueError, NotImplementedError) as error:
        return 0, _first_line(error)


def within(seconds: float, function: Callable[..., _T], *arguments: Any) -> _T:
    """What `function` returns. A hung file system or an address that swallows everything must not hang the doctor.

    Raises:
        TimeoutError: if it takes longer; it is left behind.
    """
    results: list[_T] = []
    errors: list[BaseException] = []

    def call() -> None:
        try:
            results.append(function(*arguments))
        except BaseException as error:
            errors.append(error)

    thread = Thread(target=call, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TimeoutError(f"no answer within {seconds:g} s")
    if errors:
        raise errors[0]
    return results[0]


def _first_line(error: Exception) -> str:
    line = str(error).strip().partition("\n")[0]
    return re.sub(r"^\[Errno \d+\] ", "", line) or type(error).__name__
