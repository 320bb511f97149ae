"""Hashes that need not be computed again: a JSON file in the cache, by whatever tells one version from the next."""

from __future__ import annotations

import json
from pathlib import Path

from fmasearch.files import replacing


def read_memo(memo: Path) -> dict[str, str]:
    """What is remembered; nothing of a file that is absent or damaged."""
    try:
        known = json.loads(memo.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def remember(memo: Path, key: str, sha256: str) -> None:
    """Add one; others that are written at the same time may be lost, and are computed again."""
    with replacing(memo) as temporary:
        temporary.write_text(json.dumps({**read_memo(memo), key: sha256}, indent=0), encoding="utf-8")
