"""Checkpoints of running trials: one file each, in a folder or under an `s3://` or `gs://` URI."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from fmasearch.data.remote import delete_object, delete_objects, is_uri, read_object, require_writable, write_object
from fmasearch.errors import StudyError
from fmasearch.files import replacing

SHARED_MARK = ".driver"
"""The driver leaves this file beside the checkpoints: a node that sees it sees the driver's folder."""


@contextmanager
def checkpoint_folder(place: str) -> Iterator[None]:
    """The folder or URI `place`, ready for checkpoints; an empty folder goes at the end.

    Raises:
        StudyError: if it cannot be written.
    """
    if is_uri(place):
        require_writable(place)
        yield
        return
    mark = Path(place) / SHARED_MARK
    try:
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
    except OSError as error:
        raise StudyError(f"{place}: cannot be written: {error.strerror}") from None
    try:
        yield
    finally:
        mark.unlink(missing_ok=True)
        with suppress(OSError):  # checkpoints of an interrupted study stay
            mark.parent.rmdir()


def write_checkpoint(location: str, state: Mapping[str, Any]) -> None:
    """Save `state`; the file is whole or absent."""
    if is_uri(location):
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_object(location, buffer.getvalue())
        return
    with replacing(Path(location)) as temporary:
        torch.save(state, temporary)


def read_checkpoint(location: str, device: torch.device | str) -> Mapping[str, Any] | None:
    """What was saved, with tensors on `device`; None if nothing was, or it is damaged."""
    try:
        if is_uri(location):
            content = read_object(location)
            return None if content is None else _load(io.BytesIO(content), device)
        return _load(location, device) if Path(location).exists() else None
    except Exception:  # damaged, as by a power cut, torch raises anything: from the start it comes to the same
        return None


def remove_checkpoint(location: str) -> None:
    """Remove it, if it is there."""
    if is_uri(location):
        delete_object(location)
    else:
        Path(location).unlink(missing_ok=True)


def remove_checkpoints(place: str) -> None:
    """Remove all that are left in `place`, such as one whose driver was killed between a trial's end and this."""
    if is_uri(place):
        delete_objects(place)
    else:
        for file in Path(place).glob("*.pt"):
            file.unlink(missing_ok=True)


def _load(source: Any, device: torch.device | str) -> Mapping[str, Any]:
    state: Mapping[str, Any] = torch.load(source, map_location=device, weights_only=True)
    return state
