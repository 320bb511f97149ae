"""The log-mel front-end, against formulas written out in numpy."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fmasearch.features.mel import LogMel, MelSettings, quantise

SMALL = MelSettings(sample_rate=8000, n_fft=256, hop_length=64, n_mels=20, f_min=100.0)


def test_log_mel_equals_the_formulas_written_out() -> None:
    rng = np.random.default_rng(0)
    audio = (0.2 * rng.standard_normal((2, 1000)) * np.array([[1.0], [0.01]])).astype(np.float32)
    expected = np.stack([_log_mel_by_hand(clip.astype(np.float64), SMALL) for clip in audio])
    actual = LogMel(SMALL)(torch.from_numpy(audio)).numpy()
    np.testing.assert_allclose(actual, expected, atol=2e-3)


def test_every_clip_is_relative_to_its_own_maximum_and_keeps_80_db() -> None:
    time = torch.arange(4000) / 8000
    sine = torch.sin(2 * torch.pi * 1000 * time)
    loud_then_faint = torch.where(time < 0.25, sine, 1e-6 * sine)  # 120 dB down, far below what is kept
    mel = LogMel(SMALL)(torch.stack([loud_then_faint, 0.1 * loud_then_faint]))
    assert mel.amax(dim=(1, 2)).tolist() == [0.0, 0.0]
    assert mel.amin() == -80.0
    torch.testing.assert_close(mel[0], mel[1], atol=1e-3, rtol=0)  # a gain changes nothing


def test_silence_is_as_quiet_as_it_gets() -> None:
    mel = LogMel(SMALL)(torch.zeros(1, 1000))
    assert torch.equal(mel, torch.full((1, 16, 20), -80.0))  # 1000 // 64 + 1 frames


@pytest.mark.parametrize(("num_samples", "num_frames"), [(64, 2), (1000, 16), (1023, 16), (1024, 17)])
def test_frames_are_counted_as_they_come_out(num_samples: int, num_frames: int) -> None:
    log_mel = LogMel(SMALL)
    assert log_mel.num_frames(num_samples) == num_frames
    assert log_mel(torch.ones(1, num_samples)).shape == (1, num_frames, 20)


def test_thirty_seconds_of_fma_are_1292_frames() -> None:
    assert LogMel(MelSettings()).num_frames(30 * 22050) == 1292  # as both reference reports have it


def test_attributes_name_every_setting_and_the_unit() -> None:
    attrs = MelSettings().to_attrs()
    assert attrs["f_max"] == 11025.0  # half the sample rate, not None
    assert attrs["frame_rate"] == pytest.approx(43.066, abs=1e-3)  # 22050 / 512
    assert attrs["unit"] == "dB relative to the clip's maximum"
    assert attrs.keys() >= {"sample_rate", "n_fft", "hop_length", "n_mels", "f_min", "mel_scale", "norm"}


def test_an_absent_norm_is_written_as_a_word() -> None:
    assert MelSettings(norm=None).to_attrs()["norm"] == "none"  # an HDF5 attribute cannot be None


def test_256_levels_err_by_a_sixth_of_a_decibel() -> None:
    decibels = torch.linspace(-80, 0, 10_001)
    levels, scale, offset = quantise(decibels)
    assert levels.dtype == torch.uint8
    assert levels[[0, -1]].tolist() == [0, 255]
    assert (offset + scale * levels - decibels).abs().max() <= 0.1569  # half of 80 / 255


def test_quantising_clips_what_lies_outside() -> None:
    assert quantise(torch.tensor([-100.0, 3.0])).levels.tolist() == [0, 255]


@pytest.mark.parametrize("num_samples", [1, 1000, 64 * 64, 20_000])  # 1, 16, 65 and 313 frames: blocks have 64
def test_mel_by_blocks_is_the_same_mel(num_samples: int) -> None:
    audio = torch.randn(num_samples, generator=torch.Generator().manual_seed(0))
    log_mel = LogMel(SMALL)
    power_TF = torch.cat([log_mel.mel_power(power_tF) for power_tF in log_mel.power_blocks(audio)])
    torch.testing.assert_close(power_TF.T, log_mel.mel_spectrogram(audio), rtol=1e-4, atol=1e-9)
    torch.testing.assert_close(log_mel.decibels(power_TF[None]), log_mel(audio[None]), atol=1e-4, rtol=0)


@pytest.mark.gpu
def test_the_gpu_gives_the_same_log_mel() -> None:
    audio = torch.randn(2, 4000, generator=torch.Generator().manual_seed(0))
    on_gpu = LogMel(SMALL).to("cuda")(audio.to("cuda")).cpu()
    torch.testing.assert_close(on_gpu, LogMel(SMALL)(audio), atol=2e-3, rtol=0)


def _log_mel_by_hand(audio: NDArray[Any], settings: MelSettings) -> NDArray[Any]:
    """Centred frames, periodic Hann window, power, Slaney's filters, the top 80 decibels."""
    half, hop = settings.n_fft // 2, settings.hop_length
    padded = np.pad(audio, half)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(settings.n_fft) / settings.n_fft)
    starts = range(0, len(audio) + 1, hop)
    frames = np.stack([padded[start : start + settings.n_fft] * window for start in starts])
    power = np.abs(np.fft.rfft(frames)) ** 2 @ _slaney_filters(settings).T
    decibels = 10 * np.log10(np.maximum(power, 1e-10) / power.max())
    return np.asarray(np.maximum(decibels, -80))


def _slaney_filters(settings: MelSettings) -> NDArray[Any]:
    """Triangles on Slaney's scale (3 mels per 200 Hz to 1 kHz, then 27 per factor 6.4), each of area one."""
    frequency = np.fft.rfftfreq(settings.n_fft, 1 / settings.sample_rate)
    edges = np.linspace(_to_mel(settings.f_min), _to_mel(settings.highest_frequency), settings.n_mels + 2)
    hertz = np.where(edges < 15, edges * 200 / 3, 1000 * 6.4 ** ((edges - 15) / 27))
    low, centre, high = hertz[:-2, None], hertz[1:-1, None], hertz[2:, None]
    triangles = np.minimum((frequency - low) / (centre - low), (high - frequency) / (high - centre))
    return np.asarray(np.maximum(triangles, 0) * 2 / (high - low))


def _to_mel(hertz: float) -> float:
    return hertz * 3 / 200 if hertz < 1000 else 15 + 27 * float(np.log(hertz / 1000) / np.log(6.4))
