"""`embed`: the vectors of a model's tracks, their projections as a page and pictures, and how good those are."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fmasearch.cli.embedding_colours import colourings_of
from fmasearch.cli.health import prepared_device
from fmasearch.cli.looks import note_look
from fmasearch.config import did_you_mean
from fmasearch.data import DataSpec, open_split, read_info
from fmasearch.data.feature_file import SplitName
from fmasearch.embedding import Embedding, Outputs, embed_split, joined
from fmasearch.errors import UserError
from fmasearch.evaluate import judged_spec
from fmasearch.files import replacing
from fmasearch.model_file import SavedModel, load_model
from fmasearch.models import ClipModel
from fmasearch.projection_quality import ProjectionQuality, chance, judge_projection
from fmasearch.projections import METHODS, available_methods, project, require_methods, require_vectors
from fmasearch.report.embedding_page import write_page
from fmasearch.report.embedding_picture import save_picture
from fmasearch.report.embedding_view import Categories, Colouring, EmbeddingView, Numbers, Projection

ALL_SPLITS: tuple[SplitName, ...] = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class EmbedOptions:
    """What is drawn of which tracks, as the command line says it."""

    split: str = "test"
    methods: str | None = None
    """Names with commas between them; None takes all that are installed."""
    dimensions: str = "2,3"
    color: str | None = None
    max_tracks: int = 3000
    seed: int = 0


def embed(
    model_file: Path, data: Path, options: EmbedOptions, out: Path | None, device: str | None, threads: int | None
) -> Path:
    """Write everything into a folder, by default beside the model; returns it."""
    console = Console()
    methods, dimensions = _methods(options.methods, console), _dimensions(options.dimensions)
    saved = load_model(model_file)
    spec = judged_spec(saved, data)
    embedding = _embedding(saved, spec, options.split, prepared_device(device, threads))
    note_look("embed", {model_file: saved}, Path(spec.path), options.split)
    require_vectors(embedding.vectors_NE, max(dimensions))
    shown = embedding.taken(_drawn(len(embedding), options.max_tracks, options.seed))
    colourings = colourings_of(shown, spec)
    colour = _colour(options.color, colourings, shown)
    folder = out or model_file.with_name(f"{model_file.stem}-embedding")
    embedding.save(folder / "embeddings.npz")
    judged = _judged(colour, colourings, shown)
    projections = _projections(shown, judged, methods, dimensions, options.seed, console)
    codes_N, targets = _codes(shown, judged), tuple(judged.targets)
    view = EmbeddingView(
        title=f"How {model_file.name} hears {spec.name}",
        facts=_facts(saved, shown),
        track_ids=shown.track_ids,
        colourings=colourings,
        colour=colour,
        judged_by=None if judged.classes is None else judged.classes.title,
        judged_targets=targets,
        projections=projections,
        vectors_quality=_quality(shown, shown.vectors_NE, judged, options.seed).to_json(),
        chance_quality=chance(codes_N, targets).to_json(),
        num_dimensions=shown.vectors_NE.shape[1],
        notes=_notes(embedding, shown),
    )
    written = _write(view, folder)
    _print(console, view, folder, written)
    return folder


def _methods(names: str | None, console: Console) -> list[str]:
    """The methods asked for, or all there are; it is said which of those are left out."""
    if names is None:
        for name in METHODS.keys() - set(available_methods()):
            console.print(f"[dim]{name} is left out: pip install 'fmasearch\\[{name}]' brings it[/]", highlight=False)
        return list(available_methods())
    asked = list(dict.fromkeys(name.strip() for name in names.split(",")))
    require_methods(asked)
    return asked


def _dimensions(text: str) -> list[int]:
    asked = sorted({part.strip() for part in text.split(",")})
    if not set(asked) <= {"2", "3"}:
        raise UserError(f"--dimensions: expected 2, 3 or 2,3, got {text!r}")
    return [int(part) for part in asked]


def _embedding(saved: SavedModel, spec: DataSpec, split: str, device: str) -> Embedding:
    counts = read_info(spec.path).split_counts
    names = [name for name in ALL_SPLITS if (counts[name] if split == "all" else name == split)]
    model, outputs = saved.build(), _outputs(saved)
    assert isinstance(model, ClipModel)
    model.to(device)
    splits = (open_split(spec, name, saved.normalisers, device=device) for name in names)
    return joined([embed_split(model, each, saved.task, outputs, saved.config.crop) for each in splits])


def _outputs(saved: SavedModel) -> Outputs:
    return Outputs(
        class_names=saved.class_names,
        target_names=tuple(target.name for target in saved.targets),
        means_R=tuple(target.mean for target in saved.targets),
        stds_R=tuple(target.std for target in saved.targets),
    )


def _drawn(num_tracks: int, most: int, seed: int) -> NDArray[np.int64]:
    """Rows to show, in their order."""
    if num_tracks <= most:
        return np.arange(num_tracks)
    return np.sort(np.random.default_rng(seed).choice(num_tracks, most, replace=False))


def _colour(asked: str | None, colourings: Mapping[str, Colouring], shown: Embedding) -> str:
    """The colouring to begin with: classes where there are any, else the first target."""
    if asked is None:
        return "class" if shown.class_names else shown.target_names[0]
    if asked not in colourings:
        raise UserError(f"--color: nothing is called {asked!r}{did_you_mean(asked, list(colourings))}")
    return asked


@dataclass(frozen=True)
class _Judged:
    """What the numbers are about."""

    classes: Categories | None
    targets: dict[str, NDArray[np.float64]]


def _judged(colour: str, colourings: Mapping[str, Colouring], shown: Embedding) -> _Judged:
    """The colour's classes, if it is a label set, else the model's; the model's targets, and the colour's numbers."""
    predicted = [f"predicted_{name}" for name in shown.target_names]
    no_labels = {"predicted", "error", "absolute_error", "split", "artist", *predicted}
    keys = dict.fromkeys((colour, "class", *shown.target_names))
    labels = [(key, colourings[key]) for key in keys if key in colourings and key not in no_labels]
    return _Judged(
        classes=next((each for _, each in labels if isinstance(each, Categories)), None),
        targets={key: each.values_N for key, each in labels if isinstance(each, Numbers)},
    )


def _codes(shown: Embedding, judged: _Judged) -> NDArray[np.int64]:
    return np.full(len(shown), -1) if judged.classes is None else judged.classes.codes_N


def _quality(shown: Embedding, points_ND: NDArray[Any], judged: _Judged, seed: int) -> ProjectionQuality:
    codes_N = _codes(shown, judged)
    return judge_projection(shown.vectors_NE, points_ND, codes_N, shown.artist_ids_N, seed, judged.targets)


def _projections(
    shown: Embedding,
    judged: _Judged,
    methods: Sequence[str],
    dimensions: Sequence[int],
    seed: int,
    console: Console,
) -> tuple[Projection, ...]:
    found = []
    for method in methods:
        for number in dimensions:
            started = time.perf_counter()
            with console.status(f"{method}, {number}-D, of {len(shown):,} tracks"):
                points_ND = project(shown.vectors_NE, method, number, seed)
                quality = _quality(shown, points_ND, judged, seed)
            found.append(Projection(method, points_ND, quality.to_json()))
            console.print(f"[dim]{found[-1].name}: {time.perf_counter() - started:.1f} s[/]", highlight=False)
    return tuple(found)


def _facts(saved: SavedModel, shown: Embedding) -> str:
    splits = ", ".join(f"{shown.splits.count(name):,} of {name}" for name in dict.fromkeys(shown.splits))
    size, architecture = shown.vectors_NE.shape[1], saved.config.architecture
    return (
        f"{len(shown):,} tracks ({splits}): each is the vector of {size} numbers before the last layer of "
        f"{architecture}."
    )


def _notes(embedding: Embedding, shown: Embedding) -> tuple[str, ...]:
    notes = []
    if len(shown) < len(embedding):
        notes.append(f"{len(shown):,} of {len(embedding):,} tracks are shown, drawn at random (--max-tracks).")
    if {"train", "val"} & set(shown.splits):
        notes.append(
            "The model learnt from the tracks of train, and was at least chosen by those of val: they lie better apart "
            "than new music does."
        )
    return tuple(notes)


def _write(view: EmbeddingView, folder: Path) -> list[str]:
    """Page, pictures of what has two dimensions, numbers; returns the files' names."""
    write_page(view, folder / "embedding.html")
    flat = [projection for projection in view.projections if projection.dimensions == 2]
    for projection in flat:
        save_picture(view, projection, folder / f"{projection.method}.png")
    rows = [
        {"projection": name, **{key: None if math.isnan(each) else round(each, 6) for key, each in quality.items()}}
        for name, quality in view.quality_rows()
    ]
    with replacing(folder / "quality.json") as temporary:
        about = {"classes": view.judged_by, "targets": list(view.judged_targets)}
        temporary.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    return ["embedding.html", *(f"{each.method}.png" for each in flat), "quality.json", "embeddings.npz"]


def _print(console: Console, view: EmbeddingView, folder: Path, written: Sequence[str]) -> None:
    """Numbers on classes apart from those on targets, of which two are as wide as a terminal."""
    groups = view.quality_groups()
    num_others = len(groups) - len(view.judged_targets)
    targets = groups[num_others:]
    for about in [groups[:num_others], *(targets[start : start + 2] for start in range(0, len(targets), 2))]:
        console.print(_table(view, about))
    console.print(f"written to {escape(str(folder))}: {', '.join(written)}", highlight=False, soft_wrap=True)


def _table(view: EmbeddingView, groups: Sequence[tuple[str, Mapping[str, str]]]) -> Table:
    titles = {key: (name, title) for name, of_group in groups for key, title in of_group.items()}
    table = Table(box=None)
    table.add_column("projection", no_wrap=True)
    for name, title in titles.values():
        table.add_column(escape(f"{name}\n{title}" if name in view.judged_targets else title), justify="right")
    for row, quality in view.quality_rows():
        numbers = ("–" if math.isnan(quality[key]) else f"{quality[key]:.3f}".replace("-", "−") for key in titles)
        table.add_row(row, *numbers)
    return table
