"""The demo track: who plays what in which split, and every choice that makes it, drawn before it is rendered.

Genre -> artist -> track. Artists leave a fingerprint on all their tracks (equaliser, tuning, room, home key),
and belong to one split as a whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.random import Generator

from fmasearch.corpora.demo.labels import Affect, affect_of
from fmasearch.corpora.demo.profiles import DemoProfile
from fmasearch.corpora.demo.styles import BASS_LINES, COMPS, GENRES, Genre

TRAIN: Literal[0] = 0
VALIDATION: Literal[1] = 1
TEST: Literal[2] = 2
STEPS = 32
"""Steps of a drum pattern: two bars of sixteenths, repeated."""

EQ_POINTS = 9
"""Points of an artist's equaliser, evenly spaced in log frequency."""

_NOTES_OF_A_KEY = (0, 2, 3, 5, 7, 9, 10)


@dataclass(frozen=True, slots=True)
class Artist:
    """What all tracks of an artist share."""

    home_key: int
    tempo_factor: float
    detune: float
    """Semitones."""
    drum_tuning: tuple[float, float]
    """Factors on the pitch of kick and snare."""
    hat_decay: float
    levels: tuple[float, float, float]
    """Factors on accompaniment, bass and drums."""
    reverb_factor: float
    tilt: float
    equaliser_db: tuple[float, ...]
    low_pass_hz: float
    noise_floor: float
    """Amplitude of tape hiss, full scale 1."""


@dataclass(frozen=True, slots=True)
class Song:
    """What is played, and how it is mixed."""

    tempo: float
    """Beats a minute."""
    swing: float
    kick: tuple[bool, ...]
    snare: tuple[bool, ...]
    hat: tuple[bool, ...]
    key: int
    """Semitones above C."""
    chords: tuple[tuple[int, str], ...]
    """Root above the key, and quality in `CHORDS`; repeated for ever."""
    beats_per_chord: int
    comp_rhythm: str
    comp_instrument: str
    bass_line: str
    bass_instrument: str
    lead_instrument: str
    lead_notes: tuple[int | None, ...]
    """Semitones above the key for each eighth of four bars; None rests."""
    drive: float
    tilt: float
    reverb_wet: float
    reverb_seconds: float
    start_beat: float
    """Where in the song the clip begins."""
    level_db: float


@dataclass(frozen=True, slots=True)
class DemoTrack:
    """A planned track: where it belongs, its targets, and all that `render` needs."""

    track_id: str
    artist_id: int
    genre: int
    """Index in `GENRES`: the label, which noise may have changed; never the source of the sound."""
    split: Literal[0, 1, 2]
    """0 train, 1 validation, 2 test."""
    affect: Affect
    artist: Artist
    song: Song
    performance_seed: tuple[int, ...]

    @property
    def valence(self) -> float:
        return self.affect.valence

    @property
    def energy(self) -> float:
        return self.affect.energy

    @property
    def danceability(self) -> float:
        return self.affect.danceability


def plan_tracks(profile: DemoProfile, seed: int) -> list[DemoTrack]:
    """Plan a whole corpus, ordered by genre, artist and track.

    Each track draws from its own generator, seeded by (seed, genre, artist, track): it stays the same
    whatever else is planned, and whichever process renders it.
    """
    return [
        _plan_track(profile, seed, genre, artist, number)
        for genre in range(len(GENRES))
        for artist in range(profile.num_artists)
        for number in range(profile.tracks_per_artist)
    ]


def split_of(artist: int, num_artists: int) -> Literal[0, 1, 2]:
    """The split of a genre's n-th artist: 60/20/20, and at least one artist each in validation and test."""
    held_out = max(1, round(0.2 * num_artists))
    if artist >= num_artists - held_out:
        return TEST
    return VALIDATION if artist >= num_artists - 2 * held_out else TRAIN


def _plan_track(profile: DemoProfile, seed: int, genre: int, artist: int, number: int) -> DemoTrack:
    rng = _generator(seed, genre, artist, number, 0)
    performer = _draw_artist(_generator(seed, genre, artist, 0, 1), profile)
    style = _cross(GENRES[genre], rng, profile.cross)
    song = _draw_song(style, performer, rng, profile)
    affect = affect_of(song, performer.levels[2], rng)
    label = int(rng.integers(len(GENRES))) if rng.random() < profile.label_noise else genre
    return DemoTrack(
        track_id=f"{genre:02d}-{artist:02d}-{number:02d}",
        artist_id=genre * profile.num_artists + artist,
        genre=label,
        split=split_of(artist, profile.num_artists),
        affect=affect,
        artist=performer,
        song=song,
        performance_seed=(seed, genre, artist, number, 2),
    )


def _generator(*words: int) -> Generator:
    """A generator for (seed, genre, artist, track, purpose).

    The purpose is always a fifth word: numpy pads shorter seeds with zeros, so that an artist's
    (seed, genre, artist) would be the seed of its first track.
    """
    assert len(words) == 5
    return np.random.default_rng(words)


def _cross(genre: Genre, rng: Generator, chance: float) -> Genre:
    """With some chance, one of the three cue families of another genre."""
    crossed, other, family = rng.random() < chance, int(rng.integers(len(GENRES) - 1)), int(rng.integers(3))
    if not crossed:
        return genre
    donor = [g for g in GENRES if g is not genre][other]
    return Genre(
        genre.name,
        donor.rhythm if family == 0 else genre.rhythm,
        donor.sound if family == 1 else genre.sound,
        donor.harmony if family == 2 else genre.harmony,
    )


def _draw_artist(rng: Generator, profile: DemoProfile) -> Artist:
    return Artist(
        home_key=int(rng.integers(12)),
        tempo_factor=float(rng.normal(1, 0.06)),
        detune=round(float(rng.uniform(-0.3, 0.3)), 1),
        drum_tuning=(float(rng.uniform(0.8, 1.25)), float(rng.uniform(0.8, 1.25))),
        hat_decay=float(rng.uniform(0.6, 1.6)),
        levels=(float(rng.uniform(0.6, 1.5)), float(rng.uniform(0.6, 1.5)), float(rng.uniform(0.6, 1.5))),
        reverb_factor=float(rng.uniform(0.6, 1.7)),
        tilt=float(rng.normal(0, 1.6)),
        equaliser_db=tuple(float(x) for x in rng.normal(0, profile.artist_eq_db, EQ_POINTS)),
        low_pass_hz=float(rng.uniform(2800, 5500)),
        noise_floor=float(10 ** rng.uniform(-4.2, -2.6)),
    )


def _draw_song(style: Genre, artist: Artist, rng: Generator, profile: DemoProfile) -> Song:
    rhythm, sound, harmony = style.rhythm, style.sound, style.harmony
    tempo = float(np.clip(rng.normal(rhythm.tempo, rhythm.tempo_std) * artist.tempo_factor, 55, 190))
    key = (artist.home_key + int(rng.choice([0, 5, 7, int(rng.integers(12))]))) % 12
    return Song(
        tempo=tempo,
        swing=float(np.clip(rhythm.swing + rng.normal(0, 0.05), 0, 0.4)),
        kick=_draw_pattern(rhythm.kick, rng, profile.pattern_noise),
        snare=_draw_pattern(rhythm.snare, rng, profile.pattern_noise),
        hat=_draw_pattern(rhythm.hat, rng, profile.pattern_noise),
        key=key,
        chords=_parse_chords(str(rng.choice(harmony.progressions))),
        beats_per_chord=harmony.beats_per_chord,
        comp_rhythm=_swap(harmony.comp, tuple(COMPS), rng, profile.instrument_swap),
        comp_instrument=_swap(sound.comp, _comp_instruments(), rng, profile.instrument_swap),
        bass_line=_swap(harmony.bass, tuple(BASS_LINES), rng, profile.instrument_swap / 2),
        bass_instrument=sound.bass,
        lead_instrument=sound.lead,
        lead_notes=_draw_lead(rng),
        drive=sound.drive * float(rng.uniform(0.4, 1.5)),
        tilt=sound.tilt + artist.tilt + float(rng.normal(0, profile.tilt_noise)),
        reverb_wet=sound.reverb_wet * artist.reverb_factor,
        reverb_seconds=sound.reverb_seconds,
        start_beat=float(rng.uniform(0, 16)),
        level_db=float(rng.normal(0, 3)),
    )


def _draw_pattern(chances: str, rng: Generator, noise: float) -> tuple[bool, ...]:
    """Two bars of hits, fixed for the track. An empty lane stays empty: that instrument is not there."""
    draws, deviations = rng.random(STEPS), rng.normal(0, noise, STEPS)
    if not chances.strip("0"):
        return (False,) * STEPS
    chance = np.array([int(c) / 9 for c in chances * 2]) + deviations
    return tuple(bool(hit) for hit in draws < chance)


def _parse_chords(progression: str) -> tuple[tuple[int, str], ...]:
    pairs = (chord.split(":") for chord in progression.split())
    return tuple((int(root), quality) for root, quality in pairs)


def _swap(own: str, choices: tuple[str, ...], rng: Generator, chance: float) -> str:
    swapped, other = rng.random() < chance, str(rng.choice(choices))
    return other if swapped else own


def _comp_instruments() -> tuple[str, ...]:
    return tuple(sorted({genre.sound.comp for genre in GENRES}))


def _draw_lead(rng: Generator) -> tuple[int | None, ...]:
    """A wandering line over a seven-note scale; how busy it is, is the track's own."""
    density = rng.uniform(0.1, 0.5)
    position, notes = int(rng.integers(7)), []
    for plays, step in zip(rng.random(STEPS) < density, rng.integers(-2, 3, STEPS), strict=True):
        position = min(max(position + int(step), -2), 11)
        octave, degree = divmod(position, len(_NOTES_OF_A_KEY))
        notes.append(12 * octave + _NOTES_OF_A_KEY[degree] if plays else None)
    return tuple(notes)
