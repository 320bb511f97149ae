"""Studies on the head: which there are, and how one is brought home."""

from __future__ import annotations

import filecmp
import shlex
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fmasearch.errors import StudyError
from fmasearch.launcher.head import Head

_KEPT = ("study.yaml", "journal.jsonl", "confirm.jsonl", "final.json", "model.pt", "MODEL_CARD.md")
"""Of a study's working folder; checkpoints and what Ray keeps stay on the head."""


@dataclass(frozen=True, slots=True, order=True)
class StudyOnHead:
    """A study there; `finished` once its record has been written."""

    name: str
    finished: bool


@dataclass(frozen=True, slots=True)
class Fetched:
    """Where a study is now. `results` is None while it has no record yet, `model` while it has no model."""

    runs: Path
    results: Path | None
    model: Path | None


def list_studies(head: Head) -> tuple[StudyOnHead, ...]:
    """The studies on the head, by name."""
    done = head.run(
        'cd "$HOME"/fmasearch 2>/dev/null || exit 0; for plan in runs/*/study.yaml; do [ -f "$plan" ] || continue; '
        'name="$(basename "$(dirname "$plan")")"; '
        'if [ -d "results/$name" ]; then echo "finished $name"; else echo "unfinished $name"; fi; done'
    )
    lines = (line.partition(" ") for line in done.output.splitlines())
    return tuple(sorted(StudyOnHead(name, state == "finished") for state, _, name in lines if name))


def fetch_study(head: Head, name: str, *, results: Path, runs: Path, force: bool = False) -> Fetched:
    """Bring a study's record to `results/NAME`, its model and journals to `runs/NAME`.

    Args:
        force: replace another study of this name that is here.

    Raises:
        StudyError: if the head has no such study, or another of this name is here.
    """
    if not name or "/" in name or name in (".", ".."):
        raise StudyError(f"{name!r}: expected the name of a study, as `fmasearch fetch {head.cluster}` lists them")
    runs.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=runs) as temporary:
        brought = Path(temporary)
        _bring(head, name, brought)
        here = (results / name, runs / name)
        same = _is_same_study(brought, *here)
        if not same and any(folder.exists() for folder in here) and not force:
            there = next(folder for folder in here if folder.exists())
            raise StudyError(
                f"{there}: another study of this name is here already; move it away, "
                f"name other folders (--out, --runs), or replace it with --force"
            )
        if not same and (runs / name).exists():
            shutil.rmtree(runs / name)
        return _settle(brought, *here)


def _bring(head: Head, name: str, target: Path) -> None:
    """The study's files, gathered on the head in one folder of hard links, so that one transfer brings them."""
    quoted, kept = shlex.quote(name), shlex.join(_KEPT)
    staging = f"fmasearch/.fetch/{target.name.removeprefix('.fetch-')}"
    done = head.run(
        f'cd "$HOME" && [ -f fmasearch/runs/{quoted}/study.yaml ] || exit 44; '
        f"mkdir -p {staging}/runs && "
        f"if [ -d fmasearch/results/{quoted} ]; then {_linked(f'fmasearch/results/{quoted}', f'{staging}/results')}; fi"
        f' && for file in {kept}; do if [ -f fmasearch/runs/{quoted}/"$file" ]; '
        f"""then {_linked(f'fmasearch/runs/{quoted}/"$file"', f'{staging}/runs/"$file"')} || exit 1; fi; done"""
    )
    if done.exit_code == 44:
        known = ", ".join(study.name for study in list_studies(head)) or "none yet"
        raise StudyError(f"{name}: {head.cluster} has no such study; studies there: {known}")
    if done.exit_code != 0:
        raise StudyError(f"{name}: could not be gathered on the head: {done.output.strip()}")
    try:
        head.bring(staging, target)
    finally:
        head.run(f'rm -rf "$HOME"/{staging}')


def _linked(source: str, target: str) -> str:
    """The command that makes `target` of hard links, or of copies where there can be no links."""
    return f"{{ cp -al {source} {target} 2>/dev/null || {{ rm -rf {target}; cp -a {source} {target}; }}; }}"


def _is_same_study(brought: Path, results: Path, runs: Path) -> bool:
    """Whether what is here is the study that was brought: an earlier state of it, or the same record."""
    plan = runs / "study.yaml"
    if runs.exists():
        return plan.is_file() and filecmp.cmp(plan, brought / "runs" / "study.yaml", shallow=False)
    return results.is_dir() and _equal_folders(results, brought / "results")


def _equal_folders(first: Path, second: Path) -> bool:
    def files(folder: Path) -> Iterable[tuple[str, bytes]]:
        return sorted((str(p.relative_to(folder)), p.read_bytes()) for p in folder.rglob("*") if p.is_file())

    return second.is_dir() and files(first) == files(second)


def _settle(brought: Path, results: Path, runs: Path) -> Fetched:
    """Move what was brought to its place; a record that is here is replaced as a whole."""
    runs.mkdir(parents=True, exist_ok=True)
    for file in (brought / "runs").iterdir():
        file.replace(runs / file.name)
    model = runs / "model.pt"
    record = brought / "results"
    if record.is_dir():
        if results.exists():
            shutil.rmtree(results)
        results.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(record, results)
    return Fetched(runs, results if results.is_dir() else None, model if model.is_file() else None)
