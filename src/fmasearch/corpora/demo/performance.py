"""The performance: a song's notes put in time, as three buses of samples (drums, bass, and melody)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from fmasearch.corpora.demo.instruments import Samples, hat, kick, note, snare
from fmasearch.corpora.demo.plan import STEPS, Artist, Song
from fmasearch.corpora.demo.styles import BASS_LINES, CHORDS, COMPS

JITTER_SECONDS = 0.003
LEAD_IN_BEATS = 2
"""Notes that began shortly before the clip still sound in it."""


@dataclass(frozen=True, slots=True)
class Buses:
    """Float32 samples, all of the clip's length."""

    drums: Samples
    bass: Samples
    melody: Samples


@dataclass(frozen=True, slots=True)
class _Step:
    """A sixteenth of the song that falls into the clip."""

    index: int
    """Sixteenths since the song began."""
    second: float
    """Since the clip began; swung, but not jittered. Negative before it."""
    root: int
    quality: str
    beats_left: float
    """Until the next chord."""
    first_of_chord: bool


class _Player:
    """Puts sounds on a bus, a little early or late and louder or softer each time."""

    def __init__(self, num_samples: int, sample_rate: int, rng: Generator) -> None:
        self.bus = np.zeros(num_samples, dtype=np.float32)
        self.sample_rate = sample_rate
        self.rng = rng

    def play(self, sound: Samples, second: float, gain: float) -> None:
        """Add a sound; what lies outside the clip is cut."""
        jitter, velocity = self.rng.normal(0, JITTER_SECONDS), self.rng.uniform(0.7, 1.1)
        start = round((second + jitter) * self.sample_rate)
        first, last = max(start, 0), min(start + len(sound), len(self.bus))
        if first < last:
            self.bus[first:last] += np.float32(gain * velocity) * sound[first - start : last - start]


def perform(song: Song, artist: Artist, num_samples: int, sample_rate: int, rng: Generator) -> Buses:
    """Play a clip of the song that begins at `song.start_beat`."""
    steps = list(_steps(song, num_samples / sample_rate))
    drums, bass, melody = (_Player(num_samples, sample_rate, rng) for _ in range(3))
    _play_drums(drums, steps, song, artist)
    _play_chords(melody, steps, song, artist)
    _play_bass(bass, steps, song, artist)
    _play_lead(melody, steps, song, artist)
    return Buses(drums.bus, bass.bus, melody.bus)


def _steps(song: Song, seconds: float) -> Iterator[_Step]:
    beat_seconds = 60 / song.tempo
    first = int((song.start_beat - LEAD_IN_BEATS) * 4)
    last = int((song.start_beat + seconds / beat_seconds) * 4) + 1
    for index in range(first, last):
        chord, position = divmod(index, 4 * song.beats_per_chord)
        root, quality = song.chords[chord % len(song.chords)]
        beat = index // 4 + _swung((index % 4) / 4, song.swing)
        yield _Step(
            index=index,
            second=(beat - song.start_beat) * beat_seconds,
            root=root,
            quality=quality,
            beats_left=song.beats_per_chord - position / 4,
            first_of_chord=position == 0,
        )


def _swung(phase: float, swing: float) -> float:
    """Delay the middle of a beat by half of `swing`, and stretch what is around it."""
    middle = 0.5 + swing / 2
    return phase * 2 * middle if phase <= 0.5 else middle + (phase - 0.5) * 2 * (1 - middle)


def _play_drums(player: _Player, steps: list[_Step], song: Song, artist: Artist) -> None:
    lanes = (
        (song.kick, kick(artist.drum_tuning[0], player.sample_rate), 1.0),
        (song.snare, snare(artist.drum_tuning[1], player.sample_rate), 0.75),
        (song.hat, hat(artist.hat_decay, player.sample_rate), 0.55),
    )
    for pattern, sound, gain in lanes:
        for step in steps:
            if pattern[step.index % STEPS]:
                player.play(sound, step.second, gain)


def _play_chords(player: _Player, steps: list[_Step], song: Song, artist: Artist) -> None:
    comp, beat_seconds = COMPS[song.comp_rhythm], 60 / song.tempo
    for step in steps:
        # A held chord begins when the chord changes, whatever the bar says; the first may have begun.
        held = step.first_of_chord or step is steps[0]
        hit = held if not comp.hold else _hit(comp.steps, step, player.rng)
        if not hit:
            continue
        seconds = min(comp.hold or step.beats_left, step.beats_left) * beat_seconds
        tones = CHORDS[step.quality]
        if comp.arpeggio:
            tones = (tones[(step.index // 2) % len(tones)],)
        for tone in tones:
            midi = 48 + (song.key + step.root) % 12 + tone + artist.detune
            sound = note(song.comp_instrument, midi, seconds, player.sample_rate)
            player.play(sound, step.second, 0.16 * artist.levels[0] / np.sqrt(len(tones)))


def _play_bass(player: _Player, steps: list[_Step], song: Song, artist: Artist) -> None:
    line, beat_seconds = BASS_LINES[song.bass_line], 60 / song.tempo
    for step in steps:
        if not _hit(line.steps, step, player.rng):
            continue
        tone = CHORDS[step.quality][(step.index // 4) % 3] if line.arpeggio else 0
        midi = 33 + (song.key + step.root + 3) % 12 + tone % 12 + artist.detune
        seconds = min(line.hold, step.beats_left) * beat_seconds
        sound = note(song.bass_instrument, midi, seconds, player.sample_rate)
        player.play(sound, step.second, 0.2 * artist.levels[1])


def _play_lead(player: _Player, steps: list[_Step], song: Song, artist: Artist) -> None:
    for step in steps:
        pitch = song.lead_notes[(step.index // 2) % len(song.lead_notes)]
        if step.index % 2 == 0 and pitch is not None:
            midi = 60 + song.key + pitch + artist.detune
            sound = note(song.lead_instrument, midi, 30 / song.tempo, player.sample_rate)
            player.play(sound, step.second, 0.13)


def _hit(chances: str, step: _Step, rng: Generator) -> bool:
    return bool(rng.random() * 9 < int(chances[step.index % len(chances)]))
