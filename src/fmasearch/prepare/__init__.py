"""Preparing a corpus: its tracks in, a feature file out; on all cores, bounded in memory, resumable."""

from fmasearch.prepare.manifest import by_reason, manifest_path, read_manifest
from fmasearch.prepare.parts import Parts, parts_path
from fmasearch.prepare.run import Prepared, Progress, prepare_corpus, require_new

__all__ = [
    "Parts",
    "Prepared",
    "Progress",
    "by_reason",
    "manifest_path",
    "parts_path",
    "prepare_corpus",
    "read_manifest",
    "require_new",
]
