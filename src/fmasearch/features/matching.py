"""Feature settings: whether two records of them give the same numbers, and the reader that computes by them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeAlias

from fmasearch.errors import DataError
from fmasearch.features.audio_reader import FEATURES, AudioReader, AudioSettings
from fmasearch.features.mel import MelSettings

Settings: TypeAlias = Mapping[str, Any]
"""Attributes of a feature set, as a feature file and a model record them."""

LIMITS = ("min_seconds", "silence_db", "max_clipped")
"""Which tracks were taken."""

NO_NUMBERS = frozenset({"seconds", *LIMITS})
"""Settings that say which tracks were taken, and how much of them; the numbers of a frame are the same."""

_NOTHING = "none"


def require_same(found: Settings, expected: Settings, *, where: str) -> None:
    """Refuse features that were computed in another way than those that a model was trained on.

    Args:
        found: of the feature file.
        expected: of the model.
        where: the file and the feature set, for the error.

    Raises:
        DataError: naming every key that differs, what was expected, and what was found.
    """
    if differences := _differences(found, expected, ignored=NO_NUMBERS):
        raise DataError(
            f"{where}: other settings than the model was trained on: {'; '.join(differences)}; prepare the audio again "
            f"with the model's settings, or give the audio itself"
        )


def reader_by(features: Mapping[str, Settings], root: str | Path = "") -> AudioReader:
    """The reader that computes from audio what a model was trained on.

    Args:
        features: settings by feature set, in the model's order.
        root: folder that sources are relative to.

    Raises:
        DataError: if they do not say all that is needed, or name what this version does not compute.
        UserError: if beats are needed and librosa is absent.
    """
    if unknown := [name for name in features if name not in FEATURES]:
        raise DataError(
            f"features {', '.join(unknown)}: cannot be computed from audio (that goes for {', '.join(FEATURES)}); "
            f"give a feature file"
        )
    _require_complete(features)
    reader = AudioReader(_audio_settings(features), root)
    for spec in reader.features:
        if differences := _differences(spec.settings, features[spec.name], ignored=frozenset(LIMITS)):
            raise DataError(
                f"features/{spec.name}: this version computes something else from audio: {'; '.join(differences)}; "
                f"give a feature file"
            )
    return reader


def _require_complete(features: Mapping[str, Settings]) -> None:
    """Imported features often lack what would be needed to compute them again."""
    usual = AudioReader(AudioSettings(features=tuple(features)), "").features
    for spec in usual:
        missing = [key for key in spec.settings if key not in features[spec.name] and key not in LIMITS]
        if missing:
            unit = features[spec.name].get("unit", "an unknown unit")
            raise DataError(
                f"features/{spec.name}: cannot be computed from audio: the model does not know the settings "
                f"{', '.join(missing)} (its features are in {unit!r}, and were imported perhaps); give a feature file"
            )


def _audio_settings(features: Mapping[str, Settings]) -> AudioSettings:
    """What the feature sets have in common; where they contradict each other, the comparison afterwards tells."""
    merged: dict[str, Any] = {}
    for name in sorted(features, key=lambda name: name.startswith("mel")):  # of `norm` and `unit`, the mel's counts
        merged |= features[name]
    known = [field.name for field in fields(MelSettings) if field.name in merged]
    mel = {key: merged[key] for key in known if key != "norm"}
    if any(name.startswith("mel") for name in features):
        mel["norm"] = None if merged["norm"] == "none" else merged["norm"]
    limits = {key: float(merged[key]) for key in LIMITS if key in merged}
    return AudioSettings(mel=MelSettings(**mel), features=tuple(features), seconds=float(merged["seconds"]), **limits)


def _differences(found: Settings, expected: Settings, *, ignored: frozenset[str]) -> list[str]:
    keys = [key for key in dict.fromkeys([*expected, *found]) if key not in ignored]
    return [
        f"{key}: expected {expected.get(key, _NOTHING)}, found {found.get(key, _NOTHING)}"
        for key in keys
        if not _equal(found.get(key, _NOTHING), expected.get(key, _NOTHING))
    ]


def _equal(found: Any, expected: Any) -> bool:
    if isinstance(found, int | float) and isinstance(expected, int | float):
        return math.isclose(found, expected, rel_tol=1e-6)
    return bool(found == expected)
