"""The audio file: which files of a folder are audio that can be decoded, and which are audio that cannot."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

AUDIO_SUFFIXES = (".mp3", ".ogg", ".flac", ".wav", ".au")
"""What libsndfile decodes; GTZAN was published as .au."""

UNREADABLE_SUFFIXES = (".m4a", ".aac", ".mp4", ".opus", ".wma", ".ape", ".webm")
"""Audio that has to be converted first."""


def find_files(folder: Path) -> Iterator[Path]:
    """All files under a folder, in the order of their names; hidden ones (`._song.mp3`) are passed over.

    Links to folders are followed, as large collections often lie on another disk.
    """
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith("."):
                yield Path(parent, name)
