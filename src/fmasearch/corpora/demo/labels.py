"""The affect of a demo track: valence, energy and danceability, derived from what generates it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from numpy.random import Generator

from fmasearch.corpora.demo.styles import MAJORNESS


@dataclass(frozen=True, slots=True)
class Affect:
    """Continuous targets in [0, 1]."""

    valence: float
    energy: float
    danceability: float


class Playable(Protocol):
    """The part of a song that moves a listener."""

    @property
    def tempo(self) -> float: ...
    @property
    def swing(self) -> float: ...
    @property
    def kick(self) -> Sequence[bool]: ...
    @property
    def snare(self) -> Sequence[bool]: ...
    @property
    def hat(self) -> Sequence[bool]: ...
    @property
    def chords(self) -> Sequence[tuple[int, str]]: ...
    @property
    def lead_notes(self) -> Sequence[int | None]: ...
    @property
    def drive(self) -> float: ...
    @property
    def tilt(self) -> float: ...


def affect_of(song: Playable, drum_level: float, rng: Generator) -> Affect:
    """Rate a song by what it is made of.

    Fast, busy, driven and bright is energetic; major, fast and bright is happy; a kick on the beat near 118
    beats a minute is danceable. Normal noise stands for what listeners disagree about.
    """
    tempo = (song.tempo - 108) / 25
    energy = (
        1.1 * tempo
        + 2.2 * (_density(song, drum_level) - 0.7)
        + 0.9 * math.tanh(song.drive - 0.4)
        + 0.25 * (song.tilt + 4)
    )
    valence = (
        2.4 * (_majorness(song.chords) - 0.5)
        + 0.6 * tempo
        + 0.2 * (song.tilt + 4)
        - 0.5 * math.tanh(song.drive)
        + 0.6 * (_share(note is not None for note in song.lead_notes) - 0.3)
    )
    drums = min(1.0, drum_level) if any(song.kick) else 0.0
    danceability = 1.3 * (
        1.6 * (_four_on_the_floor(song.kick) - 0.35)
        + 1.3 * math.exp(-(((song.tempo - 118) / 22) ** 2))
        + 1.2 * (drums - 0.5)
        - 2 * song.swing
    )
    noise = rng.normal(0, (0.7, 0.5, 0.5))
    return Affect(
        valence=_logistic(valence + noise[0]),
        energy=_logistic(energy + noise[1]),
        danceability=_logistic(danceability - 0.5 + noise[2]),
    )


def _density(song: Playable, drum_level: float) -> float:
    """Drum hits a step, over the three lanes; quiet drums count less."""
    return (_share(song.kick) + _share(song.snare) + _share(song.hat)) * min(1.0, 2 * drum_level)


def _four_on_the_floor(kick: Sequence[bool]) -> float:
    """How much more often the kick falls on a beat than beside it."""
    return _share(kick[0::4]) - _share(hit for i, hit in enumerate(kick) if i % 4)


def _majorness(chords: Sequence[tuple[int, str]]) -> float:
    return sum(MAJORNESS[quality] for _, quality in chords) / len(chords)


def _share(hits: Iterable[bool]) -> float:
    values = list(hits)
    return sum(values) / len(values)


def _logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x))
