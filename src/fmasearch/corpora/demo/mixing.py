"""The mix: overdrive, hiss, and all that is linear (tilt, equaliser, low-pass, room) in one transform."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from fmasearch.corpora.demo.instruments import Samples
from fmasearch.corpora.demo.performance import Buses
from fmasearch.corpora.demo.plan import EQ_POINTS, Artist, Song

PEAK = 0.5
"""Peak of a track before its own level, 3 dB standard deviation; what would pass full scale is turned down."""

DRUM_LEVEL = 0.7
"""Drums against notes: a kick peaks at 0.7, a chord has an RMS of about 0.16."""


def mix(buses: Buses, song: Song, artist: Artist, sample_rate: int, rng: Generator) -> Samples:
    """One float32 track, below full scale."""
    dry = _overdriven(buses.melody, song.drive) + buses.bass
    dry += np.float32(artist.levels[2] * DRUM_LEVEL) * buses.drums
    spectrum = np.fft.rfft(dry)
    spectrum[0] = 0  # a kick has an offset, a record has none
    spectrum *= _colour(song, artist, len(dry), sample_rate)
    # The convolution is circular: the room rings on from the clip's end into its start, like an excerpt's.
    spectrum *= 1 + np.float32(song.reverb_wet) * _room(round(song.reverb_seconds, 2), len(dry), sample_rate)
    wet: Samples = np.fft.irfft(spectrum, len(dry)).astype(np.float32)
    wet *= np.float32(PEAK / (np.abs(wet).max() + 1e-9))
    wet += np.float32(artist.noise_floor * PEAK) * rng.standard_normal(len(dry), dtype=np.float32)
    gain = min(10 ** (song.level_db / 20), 0.99 / float(np.abs(wet).max()))
    wet *= np.float32(gain)
    return wet


def _overdriven(bus: Samples, drive: float) -> Samples:
    """A soft clipper that keeps the loudness: tanh of the bus at `drive` times its own level."""
    level = np.sqrt(np.mean(bus * bus)) + np.float32(1e-9)
    if drive < 0.02 or level < 1e-6:
        return bus
    driven: Samples = np.tanh(np.float32(1.5 * drive) * bus / level)
    driven *= level / np.sqrt(np.mean(driven * driven))
    return driven


def _colour(song: Song, artist: Artist, num_samples: int, sample_rate: int) -> Samples:
    """Gain at each frequency: tilt, the artist's equaliser, and an eighth-order low-pass."""
    octaves, frequency = _octaves(num_samples, sample_rate)
    knots = np.linspace(octaves[0], octaves[-1], EQ_POINTS)
    decibels = np.interp(octaves, knots, artist.equaliser_db) + song.tilt / 2 * octaves
    low_pass = 1 / np.sqrt(1 + (frequency / artist.low_pass_hz) ** 16)
    gain: Samples = (10 ** (decibels / 20) * low_pass).astype(np.float32)
    return gain


@lru_cache(maxsize=2)
def _octaves(num_samples: int, sample_rate: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Frequency of each bin, in octaves around 500 Hz (none below 40 Hz), and in hertz."""
    frequency = np.fft.rfftfreq(num_samples, 1 / sample_rate)
    octaves = np.log2(np.maximum(frequency, 40) / 500)
    return octaves, frequency


@lru_cache(maxsize=16)
def _room(seconds: float, num_samples: int, sample_rate: int) -> NDArray[np.complex64]:
    """Spectrum of an exponentially decaying noise burst of unit energy, after 12 ms of silence."""
    length = min(int(seconds * sample_rate), num_samples)
    time = np.arange(length) / sample_rate
    impulse = np.random.default_rng(3).standard_normal(length) * 10 ** (-3 * time / seconds)
    impulse[: int(0.012 * sample_rate)] = 0
    impulse /= np.sqrt(np.sum(impulse**2))
    return np.fft.rfft(impulse, num_samples).astype(np.complex64)
