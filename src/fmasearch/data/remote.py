"""Files under `s3://` and `gs://` URIs: feature files copied here once, and small objects read and written whole.

Credentials are found where the provider's own tools find them (environment, configuration files, the machine's role).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyarrow import fs

from fmasearch.data.memo import read_memo, remember
from fmasearch.data.stored import PIECE_BYTES, require_space, store_pieces, stored_file
from fmasearch.errors import DataError, StudyError

SCHEMES = ("s3://", "gs://", "gcs://")


def is_uri(path: str | Path) -> bool:
    """Whether `path` is a URI of a kind that is read here."""
    return str(path).startswith(SCHEMES)


def copy_here(uri: str, cache_dir: Path, *, expected: str | None = None) -> Path:
    """The feature file at `uri`, in the cache under the name of its content; copied unless it is there.

    Args:
        expected: the SHA-256 that it must have.

    Raises:
        DataError: if it cannot be read, does not fit on the disk, or is not what was expected.
    """
    memo = cache_dir / "uris.json"
    with _reading(uri):
        system, path = fs.FileSystem.from_uri(uri)
        info = system.get_file_info(path)
        if info.type is not fs.FileType.File:
            raise DataError(f"{uri}: no such object; check the name, and that this machine may read it")
        key = f"{uri}:{info.size}:{info.mtime_ns}"
        sha256 = expected or read_memo(memo).get(key)
        if sha256 is None or not stored_file(cache_dir, sha256).exists():
            require_space(cache_dir, info.size, uri)
            sha256 = store_pieces(cache_dir, _pieces(system, path), expected=expected, source=uri)
            remember(memo, key, sha256)
    return stored_file(cache_dir, sha256)


def read_object(uri: str) -> bytes | None:
    """The whole object; None if there is none."""
    system, path = fs.FileSystem.from_uri(uri)
    if system.get_file_info(path).type is not fs.FileType.File:
        return None
    with system.open_input_stream(path) as stream:
        return bytes(stream.read())


def write_object(uri: str, content: bytes) -> None:
    """Write the whole object: afterwards it is there whole, or not at all."""
    system, path = fs.FileSystem.from_uri(uri)
    with system.open_output_stream(path) as stream:
        stream.write(content)


def delete_object(uri: str) -> None:
    """Remove it, if it is there."""
    system, path = fs.FileSystem.from_uri(uri)
    if system.get_file_info(path).type is fs.FileType.File:
        system.delete_file(path)


def delete_objects(uri: str) -> None:
    """Remove all that is below `uri`."""
    system, path = fs.FileSystem.from_uri(uri)
    system.delete_dir_contents(path, missing_dir_ok=True)


def join_uri(uri: str, *names: str) -> str:
    """`uri` with `names` appended to its path; what follows a `?` stays behind it."""
    path, mark, query = uri.partition("?")
    return "/".join([path.rstrip("/"), *names]) + mark + query


def require_writable(uri: str) -> None:
    """Write a small object below `uri` and remove it.

    Raises:
        StudyError: if that cannot be done.
    """
    probe = join_uri(uri, ".fmasearch-probe")
    try:
        write_object(probe, b"")
        delete_object(probe)
    except (OSError, ValueError) as error:
        raise StudyError(f"{uri}: cannot be written: {_first_line(error)}") from None


def _pieces(system: fs.FileSystem, path: str) -> Iterator[bytes]:
    with system.open_input_stream(path) as stream:
        while piece := stream.read(PIECE_BYTES):
            yield piece


@contextmanager
def _reading(uri: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:  # pyarrow's errors are these
        raise DataError(f"{uri}: cannot be read: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
