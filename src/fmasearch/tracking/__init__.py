"""What happened in a study, told while it happens: the `Tracker` protocol and who listens.

Nothing imported here needs MLflow; its tracker is `fmasearch.tracking.mlflow_tracker`.
"""

import os

from fmasearch.tracking.base import CloseStatus, CompositeTracker, MemoryTracker, Tracker
from fmasearch.tracking.jsonl import (
    Journal,
    JournalReader,
    JsonlTracker,
    TrialJournal,
    append_note,
    read_journal,
    replay,
)
from fmasearch.tracking.locations import artifact_folder, default_uri, ui_command

# MLflow reads these when it is imported, which only modules of this package do. A study runs offline:
# no usage reports, and no run links printed between the lines of the live view. A user's own value stands.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")

__all__ = [
    "CloseStatus",
    "CompositeTracker",
    "Journal",
    "JournalReader",
    "JsonlTracker",
    "MemoryTracker",
    "Tracker",
    "TrialJournal",
    "append_note",
    "artifact_folder",
    "default_uri",
    "read_journal",
    "replay",
    "ui_command",
]
