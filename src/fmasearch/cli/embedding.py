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

from fmasearch.cli.health import prepared_device
from fmasearch.config import did_you_mean
from fmasearch.data import DataSpec, open_split, read_all_columns, read_info
from fmasearch.data.feature_file import SplitName
from fmasearch.embedding import Embedding, Outputs, embed_split, joined
from fmasearch.errors import UserError
from fmasearch.evaluate import judged_spec
from fmasearch.files import replacing
from fmasearch.model_file import SavedModel, load_model
from fmasearch.models import ClipModel
from fmasearch.projections import (
    METHODS,
    ProjectionQuality,
    available_methods,
    chance,
    judge_projection,
    project,
    require_methods,
    require_vectors,
)
from fmasearch.report.embedding_page import write_page
from fmasearch.report.embedding_picture import save_picture
from fmasearch.report.embedding_view import (
    QUALITY_TITLES,
    RIGHT_OR_WRONG,
    Categories,
    Colouring,
    EmbeddingView,
    Numbers,
    Projection,
)

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
    require_vectors(embedding.vectors_NE, max(dimensions))
    shown = embedding.taken(_drawn(len(embedding), options.max_tracks, options.seed))
    colourings = _colourings(shown, spec)
    colour = _colour(options.color, colourings, shown)
    folder = out or model_file.with_name(f"{model_file.stem}-embedding")
    embedding.save(folder / "embeddings.npz")
    judged = _judged(colour, colourings, shown)
    projections = _projections(shown, judged, methods, dimensions, options.seed, console)
    view = EmbeddingView(
        title=f"How {model_file.name} hears {spec.name}",
        facts=_facts(saved, shown),
        track_ids=shown.track_ids,
        colourings=colourings,
        colour=colour,
        judged_by=None if judged is None else judged.title,
        projections=projections,
        vectors_quality=_quality(shown, shown.vectors_NE, judged, options.seed).to_json(),
        chance_quality=chance(_codes(shown, judged)).to_json(),
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


def _colourings(shown: Embedding, spec: DataSpec) -> dict[str, Colouring]:
    """What is known of the tracks: by the model first, then by the file's other labels."""
    found: dict[str, Colouring] = {}
    if spec.label is not None:
        found["class"] = Categories(spec.label, shown.class_names, shown.classes_N)
        found["predicted"] = Categories(f"predicted {spec.label}", shown.class_names, shown.predicted_classes_N)
    for place, name in enumerate(shown.target_names):
        found[name] = Numbers(name, shown.targets_NR[:, place].astype(np.float64))
        predicted_N = shown.predicted_targets_NR[:, place].astype(np.float64)
        found[f"predicted_{name}"] = Numbers(f"predicted {name}", predicted_N)
    found |= _errors(shown)
    found["split"] = _categories("split", shown.splits)
    artists = ["unknown" if artist < 0 else str(artist) for artist in shown.artist_ids_N]
    found["artist"] = _categories("artist", artists)
    return found | {key: each for key, each in _other_labels(shown, spec).items() if key not in found}


def _errors(shown: Embedding) -> dict[str, Colouring]:
    """Right or wrong where there are classes; where there are values, the absolute error, mean over targets."""
    found: dict[str, Colouring] = {}
    if shown.class_names:
        wrong_N = (shown.predicted_classes_N != shown.classes_N).astype(np.int64)
        codes_N = np.where(shown.classes_N < 0, -1, wrong_N)
        found["error"] = Categories("error", ("right", "wrong"), codes_N, own_looks=RIGHT_OR_WRONG)
    if shown.target_names:
        errors_NR = np.abs(shown.predicted_targets_NR - shown.targets_NR).astype(np.float64)
        known_NR = np.isfinite(errors_NR)
        total_N, count_N = np.where(known_NR, errors_NR, 0).sum(axis=1), known_NR.sum(axis=1)
        mean_N = np.where(count_N > 0, total_N / np.maximum(count_N, 1), np.nan)
        key = "absolute_error" if "error" in found else "error"
        found[key] = Numbers("absolute error", mean_N)
    return found


def _other_labels(shown: Embedding, spec: DataSpec) -> dict[str, Colouring]:
    """Label sets of the file that the model knows nothing of."""
    columns = read_all_columns(spec.path)
    row_of = {track_id: row for row, track_id in enumerate(columns.track_ids)}
    rows = np.array([row_of[track_id] for track_id in shown.track_ids])
    own = {spec.label if shown.class_names else "", *shown.target_names}
    classes: dict[str, Colouring] = {
        name: Categories(name, tuple(names), np.asarray(codes)[rows].astype(np.int64))
        for name, (names, codes) in columns.classes.items()
        if name not in own
    }
    return classes | {
        name: Numbers(name, np.asarray(values)[rows].astype(np.float64))
        for name, values in columns.targets.items()
        if name not in own
    }


def _categories(title: str, words: Sequence[str]) -> Categories:
    names = tuple(dict.fromkeys(words))
    code_of = {name: code for code, name in enumerate(names)}
    return Categories(title, names, np.array([code_of[word] for word in words], np.int64))


def _colour(asked: str | None, colourings: Mapping[str, Colouring], shown: Embedding) -> str:
    """The colouring to begin with: classes where there are any, else the first target."""
    if asked is None:
        return "class" if shown.class_names else shown.target_names[0]
    if asked not in colourings:
        raise UserError(f"--color: nothing is called {asked!r}{did_you_mean(asked, list(colourings))}")
    return asked


def _judged(colour: str, colourings: Mapping[str, Colouring], shown: Embedding) -> Categories | None:
    """The classes that the numbers are about: those of the colour, if it is a label set, else the model's own."""
    of_the_model = ("predicted", "error", "split", "artist")
    for key in (colour, "class"):
        colouring = colourings.get(key)
        if isinstance(colouring, Categories) and key not in of_the_model:
            return colouring
    return None


def _codes(shown: Embedding, judged: Categories | None) -> NDArray[np.int64]:
    return np.full(len(shown), -1) if judged is None else judged.codes_N


def _quality(shown: Embedding, points_ND: NDArray[Any], judged: Categories | None, seed: int) -> ProjectionQuality:
    return judge_projection(shown.vectors_NE, points_ND, _codes(shown, judged), shown.artist_ids_N, seed)


def _projections(
    shown: Embedding,
    judged: Categories | None,
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
        temporary.write_text(json.dumps({"classes": view.judged_by, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    return ["embedding.html", *(f"{each.method}.png" for each in flat), "quality.json", "embeddings.npz"]


def _print(console: Console, view: EmbeddingView, folder: Path, written: Sequence[str]) -> None:
    table = Table(box=None)
    for heading in ("projection", *QUALITY_TITLES.values()):
        table.add_column(heading, justify="left" if heading == "projection" else "right")
    for name, quality in view.quality_rows():
        numbers = ("–" if math.isnan(quality[key]) else f"{quality[key]:.3f}" for key in QUALITY_TITLES)
        table.add_row(name, *numbers)
    console.print(table)
    console.print(f"written to {escape(str(folder))}: {', '.join(written)}", highlight=False, soft_wrap=True)
