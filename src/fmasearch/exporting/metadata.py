"""What an exported file says of itself, and how a model's outputs are read."""

from __future__ import annotations

from typing import Any

from fmasearch import __version__
from fmasearch.exporting.program import Readout
from fmasearch.model_file import SavedModel


def readout_of(saved: SavedModel) -> Readout:
    """Which outputs are classes, which are numbers, and how the latter come back into their own units."""
    return Readout(saved.class_names, {each.name: (each.mean, each.std) for each in saved.targets})


def describe(saved: SavedModel, readout: Readout, *, max_frames: int | None) -> dict[str, Any]:
    """The metadata, plain values for JSON.

    Args:
        max_frames: longest clip that the program answers; None has no limit.
    """
    features = [
        {"name": name, "bins": len(normaliser.mean_F), "settings": dict(saved.feature_settings.get(name, {}))}
        for name, normaliser in zip(saved.config.features, saved.normalisers, strict=True)
    ]
    return {
        "fmasearch_version": __version__,
        "architecture": saved.config.architecture,
        "inputs": {
            "features": f"float32 (batch, frames, {saved.input_dim}): the feature sets joined along bins, own units",
            "lengths": "int64 (batch): frames of each clip before its padding",
        },
        "outputs": {name: list(labels) for name, labels in readout.outputs().items()},
        "features": features,
        "trained_frames": saved.num_frames,
        "max_frames": max_frames,
        "crop": saved.config.crop.model_dump(mode="json"),
        "genres": None if saved.genres is None else saved.genres.to_json(),
        "data": {"sha256": saved.data.get("sha256")},
    }
