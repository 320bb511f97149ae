"""The reader of audio files: a track's file in, its mel, chroma and beat-synchronous features out.

Shapes: N samples, T frames, Tb beats, F bins.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fmasearch.errors import ConfigError
from fmasearch.features import chroma
from fmasearch.features.audio import RESAMPLER, Limits, load
from fmasearch.features.beats import BEAT_TRACKER, FALLBACK_SECONDS, beat_medians, find_beats, require_beat_tracker
from fmasearch.features.chroma import Chroma
from fmasearch.features.mel import LogMel, MelSettings
from fmasearch.tracks import FeatureSpec, Frames, Track

FEATURES = ("mel", "chroma", "mel_beat", "chroma_beat")
"""What a reader of audio can give."""

_BEAT_FEATURES = frozenset({"mel_beat", "chroma_beat"})


@dataclass(frozen=True, slots=True)
class AudioSettings:
    """Everything that decides which files are taken and what numbers come of them."""

    mel: MelSettings = field(default_factory=MelSettings)
    """Its sample rate, window and hop are those of chroma and beats too."""
    features: tuple[str, ...] = ("mel",)
    """Of `FEATURES`, in the order in which they are given."""
    seconds: float = 30.0
    """Length that files are cut to, from their start: FMA's clips are the middle 30 s of a track already."""
    min_seconds: float | None = None
    """Shorter files are refused; None is a third of `seconds`. Between the two a clip keeps its own length."""
    silence_db: float = -60.0
    """Peak in dB of full scale below which a file is silent."""
    max_clipped: float = 0.1
    """Share of samples at full scale above which a file is clipped, 0 to 1."""

    def __post_init__(self) -> None:
        _check_features(self.features)
        if self.seconds <= 0:
            raise ConfigError(f"seconds: expected more than 0, got {self.seconds:g}")
        if not 0 <= self.shortest <= self.seconds:
            raise ConfigError(f"min_seconds: expected 0 to seconds ({self.seconds:g}), got {self.shortest:g}")
        if self.silence_db > 0:
            raise ConfigError(f"silence_db: expected 0 or less, got {self.silence_db:g}")
        if not 0 <= self.max_clipped <= 1:
            raise ConfigError(f"max_clipped: expected a share, 0 to 1, got {self.max_clipped:g}")

    @property
    def shortest(self) -> float:
        """Seconds that a file must have."""
        return self.seconds / 3 if self.min_seconds is None else self.min_seconds

    @property
    def num_samples(self) -> int:
        """Samples of a clip that is not short."""
        return round(self.seconds * self.mel.sample_rate)

    def to_attrs(self) -> dict[str, str | int | float]:
        """What every feature set of these settings has in common, for the feature file."""
        return {
            "seconds": self.seconds,
            "min_seconds": self.shortest,
            "silence_db": self.silence_db,
            "max_clipped": self.max_clipped,
            "channels": "mean",
            "resampler": RESAMPLER,
        }


class AudioReader:
    """Reads audio files under one folder; a `tracks.Reader`. Every file is decoded once, and transformed once.

    Args:
        root: folder that `Track.source` is relative to.
        device: where spectrograms are computed.

    Raises:
        UserError: if beats are wanted and librosa is absent.
    """

    def __init__(self, settings: AudioSettings, root: str | Path, device: str = "cpu") -> None:
        self.settings = settings
        self.root = str(root)
        self.device = device
        if _BEAT_FEATURES & set(settings.features):
            require_beat_tracker()

    def __reduce__(self) -> tuple[type[AudioReader], tuple[AudioSettings, str, str]]:
        """Travel light: each process builds its own filters when it reads its first track."""
        return AudioReader, (self.settings, self.root, self.device)

    @property
    def features(self) -> tuple[FeatureSpec, ...]:
        """The feature sets that `read` gives, in the order of the settings."""
        return tuple(_spec(name, self.settings) for name in self.settings.features)

    def read(self, track: Track, *, offset: float = 0.0) -> dict[str, Frames]:
        """All feature sets of one track by name, each (T, F) or (Tb, F) float32.

        Args:
            offset: seconds of the file that are passed over first.

        Raises:
            TrackError: if the file cannot be used: undecodable, empty, too short, silent or clipped.
        """
        settings = self.settings
        samples_N = load(
            Path(self.root, track.source),
            sample_rate=settings.mel.sample_rate,
            seconds=settings.seconds,
            offset=offset,
            limits=Limits(settings.shortest, settings.silence_db, settings.max_clipped),
        )
        return self.transform(torch.from_numpy(samples_N))

    @torch.no_grad()
    def transform(self, audio_N: Tensor) -> dict[str, Frames]:
        """The same for samples that are there already: mono, at the settings' rate, at most `num_samples`."""
        wanted = set(self.settings.features)
        mel_power_tF, chroma_t12 = [], []
        for power_tF in self._log_mel.power_blocks(audio_N.to(self.device)):
            if wanted - {"chroma"}:
                mel_power_tF.append(self._log_mel.mel_power(power_tF))
            if wanted & {"chroma", "chroma_beat"}:
                chroma_t12.append(self._chroma.of_power(power_tF))
        found: dict[str, Frames] = {}
        if mel_power_tF:
            mel_power_TF = torch.cat(mel_power_tF)
            found["mel"] = _frames(self._log_mel.decibels(mel_power_TF[None])[0])
        if chroma_t12:
            found["chroma"] = _frames(torch.cat(chroma_t12))
        if wanted & _BEAT_FEATURES:
            found |= self._by_beat(found, _frames(mel_power_TF))
        return {name: found[name] for name in self.settings.features}

    def _by_beat(self, found: Mapping[str, Frames], mel_power_TF: Frames) -> dict[str, Frames]:
        """Medians are taken of power and only then to decibels, as in the course's files."""
        mel = self.settings.mel
        beats = find_beats(found["mel"], sample_rate=mel.sample_rate, hop_length=mel.hop_length, n_fft=mel.n_fft)
        by_beat: dict[str, Frames] = {}
        if "mel_beat" in self.settings.features:
            power_1TF = torch.from_numpy(beat_medians(mel_power_TF, beats))[None]
            by_beat["mel_beat"] = _frames(self._log_mel.decibels(power_1TF)[0])
        if "chroma_beat" in self.settings.features:
            by_beat["chroma_beat"] = beat_medians(found["chroma"], beats)
        return by_beat

    @cached_property
    def _log_mel(self) -> LogMel:
        return LogMel(self.settings.mel).to(self.device)

    @cached_property
    def _chroma(self) -> Chroma:
        mel = self.settings.mel
        return Chroma(sample_rate=mel.sample_rate, n_fft=mel.n_fft, hop_length=mel.hop_length).to(self.device)


def _check_features(names: tuple[str, ...]) -> None:
    expected = f"expected some of {', '.join(FEATURES)}, each once"
    if not names or len(set(names)) < len(names) or not set(names) <= set(FEATURES):
        raise ConfigError(f"features: {expected}, got {', '.join(names) or 'none'}")


def _spec(name: str, settings: AudioSettings) -> FeatureSpec:
    mel = settings.mel
    attrs: dict[str, Any]
    if name.startswith("mel"):
        num_bins, low, high, attrs = mel.n_mels, -mel.top_db, 0.0, mel.to_attrs()
    else:
        num_bins, low, high = chroma.NUM_CLASSES, 0.0, 1.0
        attrs = chroma.to_attrs(sample_rate=mel.sample_rate, n_fft=mel.n_fft, hop_length=mel.hop_length)
    attrs |= settings.to_attrs()
    max_frames: int | None = settings.num_samples // mel.hop_length + 1
    if name in _BEAT_FEATURES:
        max_frames = None
        del attrs["frame_rate"]  # frames last as long as their beat
        attrs |= {"per_frame": "median of a beat", "beats": BEAT_TRACKER, "fallback_seconds": FALLBACK_SECONDS}
    return FeatureSpec(name, num_bins, max_frames, low, high, attrs)


def _frames(values_TF: Tensor) -> Frames:
    frames_TF: Frames = values_TF.cpu().numpy()
    return frames_TF
