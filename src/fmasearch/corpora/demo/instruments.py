"""The instrument: single notes and drum hits as float32 samples.

A pitched note is a sum of decaying harmonics, sum_k a_k Re(z^k) with z = exp((-damping + i omega) t). That is
a polynomial in z: Horner's rule takes one complex multiplication per harmonic and sample. Harmonic k then
decays k times as fast as the first, much as on a plucked string.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]

MAX_HARMONICS = 14


@dataclass(frozen=True, slots=True)
class Instrument:
    """How the harmonics of a note are made and how they fade."""

    law: Callable[[int], float]
    """Amplitude of the k-th harmonic, k from 1."""
    decay: float
    """Decay of the whole note, 1/s; 0 sustains."""
    damping: float
    """Extra decay of harmonic k, k * damping 1/s."""
    attack: float
    """Seconds to full level."""
    vibrato: float = 0.0
    """Depth in semitones, at 5.5 Hz."""


def _odd(k: int) -> float:
    return 1 / k if k % 2 else 0.0


def _picked(k: int) -> float:
    """A string picked at 22 % of its length."""
    return abs(float(np.sin(np.pi * k * 0.22))) / k


def _bell(k: int) -> float:
    """A tine: little but the first, the fourth and the seventh."""
    return {1: 1.0, 2: 0.12, 4: 0.3, 7: 0.12}.get(k, 0.0)


def _breath(k: int) -> float:
    return {1: 1.0, 2: 0.35, 3: 0.12, 4: 0.05, 5: 0.02}.get(k, 0.0)


def _rumble(k: int) -> float:
    return {1: 1.0, 2: 0.1, 3: 0.03}.get(k, 0.0)


INSTRUMENTS: dict[str, Instrument] = {
    "electric_guitar": Instrument(_picked, decay=1.6, damping=0.5, attack=0.004),
    "distorted": Instrument(lambda k: k**-0.7, decay=0.5, damping=0.1, attack=0.004),
    "strings": Instrument(lambda k: k**-1.1, decay=0.0, damping=0.0, attack=0.11, vibrato=0.18),
    "saw": Instrument(lambda k: 1 / k, decay=1.2, damping=0.0, attack=0.004),
    "square": Instrument(_odd, decay=0.8, damping=0.0, attack=0.006),
    "plucked": Instrument(lambda k: k**-0.9, decay=3.0, damping=1.2, attack=0.002),
    "flute": Instrument(_breath, decay=0.0, damping=0.0, attack=0.06, vibrato=0.12),
    "electric_piano": Instrument(_bell, decay=1.5, damping=0.6, attack=0.003),
    "finger_bass": Instrument(lambda k: k**-1.6, decay=1.5, damping=0.6, attack=0.008),
    "pick_bass": Instrument(lambda k: k**-1.0, decay=1.2, damping=0.5, attack=0.004),
    "saw_bass": Instrument(lambda k: 1 / k, decay=2.0, damping=0.0, attack=0.004),
    "sub_bass": Instrument(_rumble, decay=0.6, damping=0.0, attack=0.01),
}


def note(instrument: str, midi: float, seconds: float, sample_rate: int) -> Samples:
    """A note of RMS about 1 in the tenth of a second after its attack, released over 20 ms.

    Args:
        midi: pitch in semitones, 69 is 440 Hz; fractions detune.
        seconds: length, release included.
    """
    longest = next((s for s in (0.25, 0.5, 1.0, 2.0) if s >= seconds), seconds)
    num_samples = max(2, int(seconds * sample_rate))
    played = _sustained(instrument, round(midi, 1), longest, sample_rate)[:num_samples].copy()
    release = min(num_samples, int(0.02 * sample_rate))
    played[-release:] *= np.linspace(1, 0, release, dtype=np.float32)
    return played


@lru_cache(maxsize=256)
def _sustained(instrument: str, midi: float, seconds: float, sample_rate: int) -> Samples:
    """The note before its release. Few lengths are made, so that most notes are found in the cache."""
    voice = INSTRUMENTS[instrument]
    frequency = 440 * 2 ** ((midi - 69) / 12)
    time = np.arange(int(seconds * sample_rate) + 1, dtype=np.float32) / np.float32(sample_rate)
    harmonics = max(1, min(MAX_HARMONICS, int(0.47 * sample_rate / frequency)))
    z = _phasor(frequency, voice, time)
    total = np.zeros_like(z)
    for k in range(harmonics, 0, -1):
        # Fixed phases that are spread out (golden angle): in phase, the harmonics would make a click train.
        total += np.complex64(voice.law(k) * np.exp(2.39996j * k * k))
        total *= z
    envelope = np.exp(-voice.decay * time) * np.minimum(time / np.float32(voice.attack), 1)
    sound = total.real * envelope
    body = sound[int(voice.attack * sample_rate) :][: sample_rate // 10]
    return _frozen(sound / (np.sqrt(np.mean(body * body)) + np.float32(1e-9)))


def _phasor(frequency: float, voice: Instrument, time: Samples) -> NDArray[np.complex64]:
    """z(t), its angle taken modulo a turn in float64 before float32 loses it."""
    cycles = frequency * time.astype(np.float64)
    if voice.vibrato:
        depth = frequency * (2 ** (voice.vibrato / 12) - 1) / (2 * np.pi * 5.5)
        cycles += depth * np.sin(2 * np.pi * 5.5 * time)
    angle = (2 * np.pi * (cycles % 1.0)).astype(np.float32)
    z = np.empty(len(time), dtype=np.complex64)
    z.real, z.imag = np.cos(angle), np.sin(angle)
    if voice.damping:
        z *= np.exp(-voice.damping * time)
    return z


@lru_cache(maxsize=32)
def kick(tuning: float, sample_rate: int) -> Samples:
    """A sine that falls from about 150 to 50 Hz, with a click."""
    time = np.arange(int(0.28 * sample_rate), dtype=np.float32) / np.float32(sample_rate)
    cycles = tuning * (50 * time + 100 * 0.035 * (1 - np.exp(-time / 0.035)))
    click = np.exp(-time / 0.002) * 0.5
    return _frozen((np.sin(2 * np.pi * cycles) + click) * np.exp(-time / 0.09))


@lru_cache(maxsize=32)
def snare(tuning: float, sample_rate: int) -> Samples:
    """A short tone and a burst of high-passed noise."""
    time = np.arange(int(0.22 * sample_rate), dtype=np.float32) / np.float32(sample_rate)
    noise = np.diff(np.random.default_rng(1).standard_normal(len(time) + 1)) * np.exp(-time / 0.06)
    tone = np.sin(2 * np.pi * 185 * tuning * time) * np.exp(-time / 0.05)
    return _frozen(0.7 * tone + 0.45 * noise)


@lru_cache(maxsize=32)
def hat(decay: float, sample_rate: int) -> Samples:
    """Twice-differenced noise: nearly all of it above a quarter of the sample rate."""
    time = np.arange(int(0.12 * sample_rate), dtype=np.float32) / np.float32(sample_rate)
    noise = np.diff(np.random.default_rng(2).standard_normal(len(time) + 2), n=2)
    return _frozen(0.25 * noise * np.exp(-time / (0.03 * decay)))


def _frozen(samples: NDArray[Any]) -> Samples:
    """Read-only float32: cached sounds are shared."""
    result = samples.astype(np.float32)
    result.flags.writeable = False
    return result
