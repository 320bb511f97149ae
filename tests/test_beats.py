"""Beats of clicks whose tempo is known, and averages against librosa's `sync`."""

import importlib.util

import librosa
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fmasearch.errors import UserError
from fmasearch.features.beats import beat_medians, find_beats, require_beat_tracker
from fmasearch.features.mel import LogMel, MelSettings
from fmasearch.tracks import Frames


def clicks(beats_per_minute: float, seconds: float = 10.0, rate: int = 22050) -> NDArray[np.float32]:
    audio = 1e-4 * np.random.default_rng(0).standard_normal(round(seconds * rate))
    burst = np.random.default_rng(1).standard_normal(800) * np.exp(-np.arange(800) / 150)
    for start in range(0, len(audio) - 800, round(60 * rate / beats_per_minute)):
        audio[start : start + 800] += 0.3 * burst
    return audio.astype(np.float32)


def beats_of(decibels_TF: Frames) -> NDArray[np.int64]:
    return find_beats(decibels_TF, sample_rate=22050, hop_length=512, n_fft=2048)


def decibels_of(audio: NDArray[np.float32]) -> Frames:
    return np.asarray(LogMel(MelSettings())(torch.from_numpy(audio)[None])[0].numpy())


def values(num_frames: int, num_bins: int = 5) -> Frames:
    return np.random.default_rng(0).random((num_frames, num_bins)).astype(np.float32)


@pytest.mark.parametrize("beats_per_minute", [100.0, 120.0])
def test_beats_fall_on_the_clicks(beats_per_minute: float) -> None:
    beats = beats_of(decibels_of(clicks(beats_per_minute)))
    period = 60 / beats_per_minute * 22050 / 512
    phases = (beats / period + 0.5) % 1 - 0.5  # in beats away from the nearest click
    assert len(beats) > 0.7 * 10 * beats_per_minute / 60
    assert np.abs(phases[:-1]).max() * period <= 3.0  # frames, 23 ms each; the last has no click to hold on to


def test_beats_equal_those_that_librosa_finds_from_audio() -> None:
    audio = clicks(110.0)
    _, theirs = librosa.beat.beat_track(y=audio, sr=22050, hop_length=512)
    np.testing.assert_allclose(beats_of(decibels_of(audio)), theirs, atol=1)


def test_without_a_beat_there_is_one_every_half_second() -> None:
    steady_TF = np.full((100, 128), -80.0, np.float32)
    assert beats_of(steady_TF).tolist() == [22, 44, 66, 88]  # 0.5 * 22050 / 512 = 21.5 frames


def test_medians_equal_librosas_sync() -> None:
    values_TF, beats = values(60), np.array([7, 20, 33, 46])
    theirs = librosa.util.sync(values_TF.T, beats, aggregate=np.median).T
    assert beat_medians(values_TF, beats).shape == (5, 5)  # before, between three times, after
    np.testing.assert_allclose(beat_medians(values_TF, beats), theirs, rtol=1e-6)


def test_a_median_is_not_moved_by_one_loud_frame() -> None:
    values_TF = np.array([[1.0], [1.0], [100.0], [2.0], [2.0], [4.0]], np.float32)
    assert beat_medians(values_TF, np.array([3])).tolist() == [[1.0], [2.0]]


@pytest.mark.parametrize(
    ("beats", "num_intervals"),
    [([], 1), ([0], 1), ([10], 1), ([0, 5, 5, 10, 12], 2), (range(1, 10), 10)],
)
def test_every_interval_gives_exactly_one_frame(beats: list[int], num_intervals: int) -> None:
    assert len(beat_medians(values(10), np.array(beats, np.int64))) == num_intervals


def test_a_missing_librosa_is_said_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    require_beat_tracker()
    monkeypatch.setattr("fmasearch.features.beats.find_spec", lambda name: None)
    assert importlib.util.find_spec("librosa") is not None
    with pytest.raises(UserError, match=r"pip install fmasearch\[beats\]"):
        require_beat_tracker()
