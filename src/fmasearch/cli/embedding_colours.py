"""What may colour the points of an embedding: what the model says of the tracks, and what its file knows of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fmasearch.data import DataSpec, read_all_columns
from fmasearch.embedding import Embedding
from fmasearch.report.embedding_view import RIGHT_OR_WRONG, Categories, Colouring, Numbers


def colourings_of(shown: Embedding, spec: DataSpec) -> dict[str, Colouring]:
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
