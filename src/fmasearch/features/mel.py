"""The log-mel spectrogram: its settings, and the front-end that turns audio into decibels.

The one front-end of fmasearch: whatever reads audio (the demo music, FMA, a WAV at inference) goes through
it, and its settings travel in the feature file, so that a model hears what it was trained on.

Shapes: B clips, N samples, T frames, F mel bins.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torchaudio.transforms import MelSpectrogram

POWER_FLOOR = 1e-10
"""Mel power below this is silence, as in librosa's `power_to_db(amin=1e-10)`: -100 dB of full scale."""

_BLOCK_FRAMES = 64


@dataclass(frozen=True, slots=True)
class MelSettings:
    """Everything that decides the numbers of a log-mel spectrogram. The defaults are FMA's usual ones."""

    sample_rate: int = 22050
    """Hertz; audio of another rate is resampled by whoever reads it."""
    n_fft: int = 2048
    """Samples in the Hann window and in the transform."""
    hop_length: int = 512
    """Samples from one frame to the next."""
    n_mels: int = 128
    f_min: float = 0.0
    f_max: float | None = None
    """Hertz; None is half the sample rate."""
    mel_scale: Literal["slaney", "htk"] = "slaney"
    norm: Literal["slaney"] | None = "slaney"
    """`slaney` divides each filter by its width in hertz."""
    top_db: float = 80.0
    """Decibels kept below the clip's maximum; anything quieter is `-top_db`."""

    @property
    def frame_rate(self) -> float:
        """Frames a second."""
        return self.sample_rate / self.hop_length

    @property
    def highest_frequency(self) -> float:
        """Upper edge of the last filter, in hertz."""
        return self.sample_rate / 2 if self.f_max is None else self.f_max

    def to_attrs(self) -> dict[str, str | int | float]:
        """The attributes of `/features/mel` in a feature file; none is missing or None."""
        return {
            "sample_rate": self.sample_rate,
            "n_fft": self.n_fft,
            "hop_length": self.hop_length,
            "n_mels": self.n_mels,
            "f_min": self.f_min,
            "f_max": self.highest_frequency,
            "mel_scale": self.mel_scale,
            "norm": self.norm or "none",
            "frame_rate": self.frame_rate,
            "top_db": self.top_db,
            "unit": "dB relative to the clip's maximum",
        }


class LogMel(nn.Module):
    """Audio to log-mel. Moves to a GPU with `.to(device)`; it has no parameters and needs no gradient.

    The mel power equals librosa's (`melspectrogram(y, pad_mode="constant")`) to 2e-6. The decibels are its
    `power_to_db(ref=np.max, top_db=80)`, but for a silent clip: librosa says 0 dB, the loudest there is, and
    this says `-top_db`.
    """

    def __init__(self, settings: MelSettings) -> None:
        super().__init__()
        self.settings = settings
        self.mel_spectrogram = MelSpectrogram(
            sample_rate=settings.sample_rate,
            n_fft=settings.n_fft,
            hop_length=settings.hop_length,
            n_mels=settings.n_mels,
            f_min=settings.f_min,
            f_max=settings.highest_frequency,
            power=2.0,
            center=True,
            pad_mode="constant",
            mel_scale=settings.mel_scale,
            norm=settings.norm,
        )

    @torch.no_grad()
    def forward(self, audio_BN: Tensor) -> Tensor:
        """Log-mel of every clip, each relative to its own loudest cell.

        Args:
            audio_BN: float32 samples on the module's device, full scale 1.

        Returns:
            (B, T, F) float32 in [-top_db, 0] dB, T = `num_frames(N)`.
        """
        return self.decibels(self.mel_spectrogram(audio_BN).transpose(1, 2))

    @torch.no_grad()
    def power_blocks(self, audio_N: Tensor) -> Iterator[Tensor]:
        """The power spectrogram of one clip, a block of frames at a time: (t, n_fft // 2 + 1), T frames in all.

        What is made of each block finds it in the processor's cache: log-mel takes 10 ms for 30 s this way, 16 ms
        by whole spectrograms (one core of an AMD EPYC, torch 2.11). It differs from `forward` by 1e-5 dB at most.
        On a GPU there is one block.
        """
        settings, window = self.settings, self.mel_spectrogram.spectrogram.window
        padded_N = nn.functional.pad(audio_N, (settings.n_fft // 2, settings.n_fft // 2))
        windows_TN = padded_N.unfold(0, settings.n_fft, settings.hop_length)
        block_frames = _BLOCK_FRAMES if audio_N.device.type == "cpu" else len(windows_TN)
        for windows_tN in torch.split(windows_TN, block_frames):
            spectrum_tF = torch.fft.rfft(windows_tN * window)
            yield spectrum_tF.real.square() + spectrum_tF.imag.square()

    @torch.no_grad()
    def mel_power(self, power_TF: Tensor) -> Tensor:
        """(T, n_mels) power in each mel filter, of a power spectrogram (T, n_fft // 2 + 1)."""
        filters: Tensor = self.mel_spectrogram.mel_scale.fb
        return power_TF @ filters

    @torch.no_grad()
    def decibels(self, power_BTF: Tensor) -> Tensor:
        """Mel power in decibels below each clip's loudest cell: (B, T, F) in [-top_db, 0]."""
        loudest_B11 = power_BTF.amax(dim=(1, 2), keepdim=True)
        decibels_BTF = 10 * (
            torch.log10(power_BTF.clamp_min(POWER_FLOOR)) - torch.log10(loudest_B11.clamp_min(POWER_FLOOR))
        )
        silent_B11 = loudest_B11 <= POWER_FLOOR
        decibels_BTF = decibels_BTF.masked_fill(silent_B11, -self.settings.top_db)
        return decibels_BTF.clamp_min(-self.settings.top_db).contiguous()

    def num_frames(self, num_samples: int) -> int:
        """Frames of a clip of so many samples: the first is centred on sample 0."""
        return num_samples // self.settings.hop_length + 1


class Quantised(NamedTuple):
    """Decibels as whole steps: `dB = offset + scale * level`."""

    levels: Tensor
    """uint8, in the shape of the decibels."""
    scale: float
    offset: float


def quantise(decibels: Tensor, *, top_db: float = 80.0) -> Quantised:
    """Store [-top_db, 0] dB in 256 levels: a cell errs by 0.16 dB at most. Values outside are clipped."""
    scale = top_db / 255
    levels = torch.round((decibels.float() + top_db) / scale).clamp(0, 255).to(torch.uint8)
    return Quantised(levels, scale, -top_db)
