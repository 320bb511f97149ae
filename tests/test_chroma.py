"""Chroma, against notes whose pitch class is known and against librosa."""

import librosa
import numpy as np
import pytest
import torch

from fmasearch.features.chroma import Chroma, chroma_filters
from fmasearch.features.mel import LogMel, MelSettings

A, C, E_FLAT = 9, 0, 3  # places of pitch classes when C comes first


def chord(*hertz: float, seconds: float = 1.0, rate: int = 22050) -> torch.Tensor:
    time = torch.arange(round(seconds * rate)) / rate
    return torch.stack([0.2 * torch.sin(2 * torch.pi * h * time) for h in hertz]).sum(0)


@pytest.mark.parametrize(("sample_rate", "n_fft"), [(22050, 2048), (16000, 1024), (8000, 512)])
def test_filters_equal_librosas(sample_rate: int, n_fft: int) -> None:
    theirs = librosa.filters.chroma(sr=sample_rate, n_fft=n_fft, tuning=0.0)
    np.testing.assert_allclose(chroma_filters(sample_rate, n_fft), theirs.T, atol=1e-6)


def test_chroma_equals_librosas() -> None:
    audio = chord(220.0, 277.2, 329.6) + 0.05 * torch.randn(22050, generator=torch.Generator().manual_seed(0))
    theirs = librosa.feature.chroma_stft(y=audio.numpy(), sr=22050, tuning=0.0)
    np.testing.assert_allclose(Chroma()(audio[None])[0].numpy(), theirs.T, atol=1e-5)


@pytest.mark.parametrize(("hertz", "place"), [(440.0, A), (880.0, A), (523.25, C), (622.25, E_FLAT)])
def test_a_note_lands_in_its_pitch_class(hertz: float, place: int) -> None:
    values_TF = Chroma()(chord(hertz)[None])[0, 3:-3]
    assert (values_TF.argmax(1) == place).all()
    assert (values_TF.amax(1) == 1.0).all()


def test_the_mels_power_spectrogram_gives_the_same_and_as_many_frames() -> None:
    audio = chord(300.0, seconds=2.0)
    log_mel, chroma = LogMel(MelSettings()), Chroma()
    by_block = torch.cat([chroma.of_power(power) for power in log_mel.power_blocks(audio)])
    assert len(by_block) == log_mel(audio[None]).shape[1]
    torch.testing.assert_close(by_block, chroma(audio[None])[0], atol=1e-5, rtol=0)


def test_silence_has_no_pitch() -> None:
    assert torch.equal(Chroma()(torch.zeros(1, 2048)), torch.zeros(1, 5, 12))  # 2048 // 512 + 1 frames


@pytest.mark.gpu
def test_the_gpu_gives_the_same_chroma() -> None:
    audio = chord(440.0, 554.4)[None]
    torch.testing.assert_close(Chroma().to("cuda")(audio.cuda()).cpu(), Chroma()(audio), atol=1e-4, rtol=0)
