"""A study's working folder, `runs/<study>/`: where everything is that a resumed study needs."""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fmasearch.config import SearchConfig, load_yaml, parse_section
from fmasearch.data import DataSpec
from fmasearch.data.remote import is_uri, join_uri
from fmasearch.errors import StudyError
from fmasearch.files import replacing
from fmasearch.space import Space


@dataclass(frozen=True, slots=True)
class StudyFolder:
    """Paths of one study."""

    root: Path

    @property
    def plan_file(self) -> Path:
        return self.root / "study.yaml"

    @property
    def journal(self) -> Path:
        """Search trials, line by line."""
        return self.root / "journal.jsonl"

    @property
    def confirm_journal(self) -> Path:
        return self.root / "confirm.jsonl"

    @property
    def confirm_outputs(self) -> Path:
        """What each confirmation training said of the validation tracks, `<training>.npz`."""
        return self.root / "confirm"

    @property
    def optuna_file(self) -> Path:
        return self.root / "optuna.db"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def errors(self) -> Path:
        """Tracebacks of failed trials, `<trial>.txt`."""
        return self.root / "errors"

    @property
    def model_file(self) -> Path:
        return self.root / "model.pt"

    @property
    def final_file(self) -> Path:
        """Written once, after the one look at the test split."""
        return self.root / "final.json"

    @property
    def earlier_finals(self) -> list[Path]:
        """Tests of a study that was extended after them, the first one first."""
        return sorted(self.root.glob("final-*.json"), key=lambda path: int(path.stem.partition("-")[2]))

    @property
    def next_earlier_final(self) -> Path:
        return self.root / f"final-{len(self.earlier_finals) + 1}.json"

    @property
    def earlier(self) -> Path:
        """Of a warm start: the earlier studies' trials."""
        return self.root / "earlier.json"

    @property
    def nodes(self) -> Path:
        """On a cluster: how much of the data each node received."""
        return self.root / "nodes.json"

    @property
    def ray(self) -> Path:
        """What Ray Tune keeps for itself; nothing of ours depends on it."""
        return self.root / "ray"


@dataclass(frozen=True, slots=True)
class StudyPlan:
    """What a study will do, fixed when it starts; a resumed study reads it back."""

    name: str
    folder: StudyFolder
    space: Space
    search_name: str
    search: SearchConfig
    data: DataSpec
    command: str
    storage: str | None = None
    """Folder or URI for checkpoints that every node of a cluster sees; None keeps them in the study's folder."""

    @property
    def checkpoints(self) -> str:
        """Folder or URI of the checkpoints of running trials."""
        if self.storage is None:
            return str(self.folder.checkpoints.resolve())
        if is_uri(self.storage):
            return join_uri(self.storage, self.name, "checkpoints")
        return str(Path(self.storage).resolve() / self.name / "checkpoints")

    def checkpoint_of(self, trial: str) -> str:
        """Path or URI of one trial's checkpoint."""
        place, file = self.checkpoints, f"{trial}.pt"
        return join_uri(place, file) if is_uri(place) else str(Path(place) / file)

    @property
    def hashes(self) -> dict[str, str]:
        """Identities of what went in, as tags."""
        search = yaml.safe_dump(self.search.model_dump(mode="json"), sort_keys=True)
        hashes = {
            "fmasearch.space_hash": hashlib.sha256(self.space.text.encode()).hexdigest()[:12],
            "fmasearch.search_hash": hashlib.sha256(search.encode()).hexdigest()[:12],
            "fmasearch.data_hash": self.data.sha256[:12],
        }
        if self.data.genres is not None:  # the same file, and other classes
            genres = json.dumps(self.data.genres.to_json(), sort_keys=True)
            hashes["fmasearch.genres_hash"] = hashlib.sha256(genres.encode()).hexdigest()[:12]
        return hashes


def new_study_name(space: str, search: str, *, taken_in: Sequence[Path]) -> str:
    """`<date>-<space>-<search>`, with -2, -3 ... where a folder of that name exists."""
    base = f"{datetime.date.today().isoformat()}-{space}-{search}"
    names = (base if n == 1 else f"{base}-{n}" for n in range(1, 10_000))
    return next(name for name in names if not any((folder / name).exists() for folder in taken_in))


def save_plan(plan: StudyPlan) -> None:
    """Write the plan into its folder, which is made."""
    values = {
        "name": plan.name,
        "command": plan.command,
        "space": {"name": plan.space.name, "text": plan.space.text},
        "search": {"name": plan.search_name, **plan.search.model_dump(mode="json")},
        "data": plan.data.to_json(),
        "storage": plan.storage,
    }
    with replacing(plan.folder.plan_file) as temporary:
        temporary.write_text(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), encoding="utf-8")


def load_plan(root: Path) -> StudyPlan:
    """Read a study's plan back.

    Raises:
        StudyError: if there is no study in `root`.
        ConfigError: if its plan is damaged.
    """
    folder = StudyFolder(root)
    if not folder.plan_file.is_file():
        known = sorted(p.parent.name for p in root.parent.glob("*/study.yaml"))
        hint = f"; studies here: {', '.join(known)}" if known else f"; there is no study in {root.parent}"
        raise StudyError(f"{root}: no such study{hint}")
    values = load_yaml(folder.plan_file)
    source = str(folder.plan_file)
    search: Mapping[str, Any] = values["search"]
    return StudyPlan(
        name=values["name"],
        folder=folder,
        space=Space.parse(values["space"]["text"], source=source, name=values["space"]["name"]),
        search_name=search["name"],
        search=parse_section(SearchConfig, {k: v for k, v in search.items() if k != "name"}, source=source),
        data=DataSpec.from_json(values["data"]),
        command=values["command"],
        storage=values.get("storage"),
    )
