"""Chroma: how much of a spectrum's power lies in each of the twelve pitch classes.

It is computed from the same power spectrogram as the mel, frame by frame, so that [mel, chroma] join.

Shapes: B clips, N samples, T frames, F frequencies of the transform.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchaudio.transforms import Spectrogram

NUM_CLASSES = 12
_CENTRE_OCTAVE = 5.0  # octaves above 27.5 Hz, an A: frequencies around 880 Hz count most
_OCTAVE_WIDTH = 2.0


class Chroma(nn.Module):
    """Audio to chroma. Moves to a GPU with `.to(device)`; it has no parameters and needs no gradient.

    It equals librosa's `chroma_stft(tuning=0.0, norm=np.inf)` to 1e-5. The course of the NTUA made `chroma_cqt`,
    which is not the same: a constant-Q transform resolves low notes that share a bin here. But it takes 127 ms
    for a clip of 30 s, twice as long as decoding and mel together; this takes 1 ms, as the spectrogram is there
    already (one core of an AMD EPYC, librosa 0.11, torch 2.11).

    Args:
        sample_rate: hertz.
        n_fft: samples in the Hann window and in the transform.
        hop_length: samples from one frame to the next.
    """

    filters_F12: Tensor

    def __init__(self, *, sample_rate: int = 22050, n_fft: int = 2048, hop_length: int = 512) -> None:
        super().__init__()
        self.spectrogram = Spectrogram(n_fft=n_fft, hop_length=hop_length, power=2.0, center=True, pad_mode="constant")
        filters_F12 = torch.from_numpy(chroma_filters(sample_rate, n_fft))
        self.register_buffer("filters_F12", filters_F12, persistent=False)

    @torch.no_grad()
    def forward(self, audio_BN: Tensor) -> Tensor:
        """Chroma of every clip: (B, T, 12) float32 in [0, 1]; each frame's strongest class is 1."""
        return self.of_power(self.spectrogram(audio_BN).transpose(1, 2))

    @torch.no_grad()
    def of_power(self, power_TF: Tensor) -> Tensor:
        """(..., T, 12) of a power spectrogram (..., T, n_fft // 2 + 1), such as `LogMel.power_blocks` gives.

        A frame of digital silence is 0 throughout.
        """
        raw_T12 = power_TF @ self.filters_F12
        strongest_T1 = raw_T12.amax(dim=-1, keepdim=True)
        silent_T1 = strongest_T1 < torch.finfo(torch.float32).tiny
        return raw_T12 / strongest_T1.masked_fill(silent_T1, 1.0)


def chroma_filters(sample_rate: int, n_fft: int) -> NDArray[np.float32]:
    """(F, 12) weights of every frequency in every pitch class, C first, A = 440 Hz; after Ellis (2007).

    A frequency is a Gaussian bump over the classes around it: half a semitone wide where bins are finer than
    that, as wide as a bin in the bass. Bumps have length one; then a Gaussian over octaves favours the middle.
    """
    num_frequencies = n_fft // 2 + 1
    octaves_F = np.log2(np.arange(1, num_frequencies + 1) * sample_rate / n_fft / 27.5)
    octaves_F = np.concatenate([[octaves_F[0] - 1.5], octaves_F])  # 0 Hz has no pitch: put it far below
    pitches_F = NUM_CLASSES * octaves_F
    widths_F1 = np.maximum(np.diff(pitches_F), 1.0)[:, None]
    half = NUM_CLASSES // 2
    away_F12 = (pitches_F[:num_frequencies, None] - np.arange(NUM_CLASSES) + half) % NUM_CLASSES - half
    bumps_F12 = np.exp(-0.5 * (2 * away_F12 / widths_F1) ** 2)
    bumps_F12 /= np.linalg.norm(bumps_F12, axis=1, keepdims=True)
    from_centre_F = (octaves_F[:num_frequencies] - _CENTRE_OCTAVE) / _OCTAVE_WIDTH
    weights_F12 = bumps_F12 * np.exp(-0.5 * from_centre_F**2)[:, None]
    return np.roll(weights_F12, -3, axis=1).astype(np.float32)  # A to C is three semitones


def to_attrs(*, sample_rate: int, n_fft: int, hop_length: int) -> dict[str, str | int | float]:
    """The attributes of `/features/chroma` in a feature file."""
    return {
        "sample_rate": sample_rate,
        "n_fft": n_fft,
        "hop_length": hop_length,
        "frame_rate": sample_rate / hop_length,
        "tuning": 0.0,
        "norm": "max",
        "method": "stft",
        "unit": "relative to the frame's strongest pitch class",
    }
