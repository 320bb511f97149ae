"""Tracks of a corpus, and what is read of them: plain values that travel to any worker.

Shapes: T frames, F bins.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Split: TypeAlias = Literal["train", "val", "test", "unused"]
Frames: TypeAlias = NDArray[np.float32]
"""(T, F) values of one track in a feature set's own unit."""


@dataclass(frozen=True, slots=True)
class Track:
    """One track: where it is, and all that is known of it without opening it."""

    track_id: str
    source: str
    """Where its reader finds it: a path, or a key in a file."""
    split: Split
    classes: Mapping[str, str] = field(default_factory=dict)
    """Class name by label set, such as `genre`; a set that is absent has no label for this track."""
    targets: Mapping[str, float] = field(default_factory=dict)
    """Number by label set, such as `valence`."""
    artist: str | None = None
    licence: str = ""


@dataclass(frozen=True, slots=True)
class Exclusion:
    """A track that is left out, and why, in words for a person: `too short: 1.6 s of 30 s`."""

    track_id: str
    source: str
    reason: str


@dataclass(frozen=True, slots=True)
class Corpus:
    """Who is in it, with which label and split; nothing of it has been opened yet."""

    name: str
    tracks: tuple[Track, ...]
    excluded: tuple[Exclusion, ...] = ()
    notes: tuple[str, ...] = ()
    """What to tell people before anything starts, e.g. that a random split leaks artists."""
    source: str = ""
    """Provenance, one line, kept in the feature file."""


@dataclass(frozen=True, slots=True)
class FeatureSpec:
    """One feature set that a reader gives, before any track was read."""

    name: str
    num_bins: int
    max_frames: int | None
    """Frames of the longest track; None where only reading tells, as with beats."""
    low: float
    high: float
    """Range of the values, in their unit: what 256 levels are spread over."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Attributes in the feature file: `unit`, `sample_rate`, `hop_length`, ...; none is None."""


class Reader(Protocol):
    """Turns tracks into features. It pickles: workers get a copy each and read many tracks with it."""

    @property
    def features(self) -> tuple[FeatureSpec, ...]:
        """The feature sets that `read` gives, in order."""

    def read(self, track: Track) -> Mapping[str, Frames]:
        """All feature sets of one track by name, each (T, F) float32, at least one frame and finite.

        Raises:
            TrackError: if the track cannot be used; the reason goes to the manifest, the run goes on.
        """
