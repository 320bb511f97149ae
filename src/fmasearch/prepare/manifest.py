"""The manifest: which tracks are not in the feature file, and why."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from fmasearch.files import replacing
from fmasearch.tracks import Exclusion

_HEADER = ("track_id", "source", "reason")


def manifest_path(out: Path) -> Path:
    """Where the manifest of a feature file lies."""
    return out.with_name(f"{out.name}.manifest.csv")


def write_manifest(path: Path, exclusions: Iterable[Exclusion]) -> None:
    """Write one row per track that was left out; the header alone where none was."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(_HEADER)
        rows.writerows((e.track_id, e.source, e.reason) for e in exclusions)


def read_manifest(path: Path) -> tuple[Exclusion, ...]:
    """The tracks that were left out."""
    with path.open(encoding="utf-8", newline="") as file:
        return tuple(Exclusion(row["track_id"], row["source"], row["reason"]) for row in csv.DictReader(file))


def by_reason(exclusions: Sequence[Exclusion]) -> dict[str, int]:
    """How many were left out by kind of reason, the commonest first: `too short: 1.6 s` counts as `too short`."""
    kinds = Counter(exclusion.reason.partition(":")[0] for exclusion in exclusions)
    return dict(kinds.most_common())
