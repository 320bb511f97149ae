"""The demo profile: how much music is made, how it is recorded, and how hard its genres are to tell apart."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DemoProfile:
    """Size, recording and difficulty of a demo corpus; the same profile and seed give the same samples."""

    name: str
    num_artists: int
    """Artists per genre; a fifth each go to validation and test, at least one."""
    tracks_per_artist: int
    seconds: float
    n_mels: int
    sample_rate: int = 11025
    n_fft: int = 1024
    hop_length: int = 256
    """With 11,025 Hz: 43.07 frames a second, the rate of FMA at 22,050 Hz and hop 512."""
    f_min: float = 30.0

    cross: float = 0.06
    """Chance that a track borrows its rhythm, its sound or its harmony from another genre."""
    instrument_swap: float = 0.15
    """Chance that the accompaniment's instrument is any instrument, and likewise for its rhythm."""
    pattern_noise: float = 0.06
    """Standard deviation added to each step's drum probability."""
    tilt_noise: float = 1.0
    """Standard deviation of a track's spectral tilt, in the units of the style table."""
    label_noise: float = 0.01
    """Chance that a track carries the label of a random genre."""
    artist_eq_db: float = 6.0
    """Standard deviation of an artist's equaliser: the fingerprint that leaks when artists cross splits."""

    @property
    def num_samples(self) -> int:
        """Samples of a track."""
        return round(self.seconds * self.sample_rate)


PROFILES: dict[str, DemoProfile] = {
    "tiny": DemoProfile("tiny", num_artists=6, tracks_per_artist=4, seconds=3.0, n_mels=40),
    "demo": DemoProfile("demo", num_artists=24, tracks_per_artist=10, seconds=6.0, n_mels=64),
}
