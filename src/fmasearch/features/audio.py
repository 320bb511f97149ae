"""The audio file: decoded once by libsndfile, checked, mixed to mono and resampled.

Shapes: C channels, N samples, M taps of the filter, P samples that one step of it makes, W steps.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchaudio.transforms import Resample

from fmasearch.errors import TrackError

Samples: TypeAlias = NDArray[np.float32]

RESAMPLER = "torchaudio sinc, Kaiser window, 32 crossings, rolloff 0.95, beta 9"
"""How samples of another rate are resampled, in words for the feature file."""

_FULL_SCALE = 0.999
_MOST_PHASES = 512
_LEAST_PHASES = 64
_GUARD = 4096  # samples
_STDERR = 2


@dataclass(frozen=True, slots=True)
class Audio:
    """What a file holds."""

    samples: Samples
    """(C, N) float32, full scale 1; MP3s may go beyond."""
    sample_rate: int
    """Hertz."""

    @property
    def seconds(self) -> float:
        num_samples: int = self.samples.shape[1]
        return num_samples / self.sample_rate


@dataclass(frozen=True, slots=True)
class Limits:
    """Which audio is good enough to learn from."""

    min_seconds: float = 10.0
    """FMA's broken clips have 0 to 6.6 s; its shortest sound one has 27.4 s."""
    silence_db: float = -60.0
    """A peak of the mono mix below this, in dB of full scale, is silence."""
    max_clipped: float = 0.1
    """Share of samples at full scale above which a track is clipped."""


def load(
    path: str | Path,
    *,
    sample_rate: int,
    seconds: float | None = None,
    offset: float = 0.0,
    limits: Limits | None = None,
) -> Samples:
    """Mono samples of a file: the mean of its channels, resampled.

    Args:
        sample_rate: hertz that come out.
        seconds: at most so many; None is the whole file.
        offset: seconds that are passed over first.
        limits: what to refuse; None takes all that has a sample.

    Returns:
        (N,) float32, N <= round(seconds * sample_rate).

    Raises:
        TrackError: `cannot be decoded: ...`, `no audio`, `too short: 1.6 s of 30 s`, `silent: ...`, or
            `clipped: 12 % of samples at full scale`.
    """
    audio = decode(path, seconds=seconds, offset=offset)
    mono = mix(audio.samples)
    if limits is not None:
        _check(audio, mono, limits, seconds)
    resampled = resample(torch.from_numpy(mono), audio.sample_rate, sample_rate).numpy()
    return resampled if seconds is None else resampled[: round(seconds * sample_rate)]


def decode(path: str | Path, *, seconds: float | None = None, offset: float = 0.0) -> Audio:
    """All channels of a file at its own rate: MP3, OGG, FLAC, WAV and what else libsndfile reads.

    What libsndfile and its MP3 decoder say about damaged files on standard error is kept from there.

    Raises:
        TrackError: `cannot be decoded: ...` or `no audio`.
    """
    _require_bytes(Path(path))
    with _quiet_stderr():
        samples_NC, sample_rate = _read(path, seconds, offset)
    if not samples_NC.size:
        raise TrackError("no audio")
    return Audio(samples_NC.T, sample_rate)


def duration(path: str | Path) -> float:
    """Seconds that a file says it has; one that was cut short, or is damaged, may say too much.

    Raises:
        TrackError: `cannot be decoded: ...` or `no audio`.
    """
    _require_bytes(Path(path))
    with _quiet_stderr(), _open(path) as file:
        return float(file.frames) / float(file.samplerate)


def resample(audio_N: Tensor, from_rate: int, to_rate: int) -> Tensor:
    """Change the sample rate. Below 0.86 of the lower Nyquist frequency it equals `soxr_hq` to -75 dB.

    The filter is torchaudio's; the arithmetic is not. torchaudio runs it by a strided convolution, which for
    44.1 -> 22.05 kHz makes one sample a step: 47 ms for 30 s on one core. One matrix product that makes 64
    samples a step gives the same to 1e-6 in 7 ms (2 AMD EPYC cores, torch 2.11).

    Rates whose ratio needs more than 512 phases (22,254 Hz, say) are resampled in the frequency domain.

    Returns:
        (ceil(N * to_rate / from_rate),) samples.
    """
    if from_rate == to_rate:
        return audio_N
    ratio = Fraction(to_rate, from_rate)
    num_samples = math.ceil(len(audio_N) * ratio)
    if ratio.numerator > _MOST_PHASES:
        return _by_fourier(audio_N, ratio)[:num_samples]
    filters = _filters(ratio)
    num_taps, num_made = filters.taps_MP.shape
    num_steps = math.ceil(num_samples / num_made)
    padded_N = audio_N.new_zeros((num_steps - 1) * filters.stride + num_taps)
    reached = min(len(audio_N), len(padded_N) - filters.width)
    padded_N[filters.width : filters.width + reached] = audio_N[:reached]
    windows_WM = padded_N.unfold(0, num_taps, filters.stride)
    return (windows_WM @ filters.taps_MP).flatten()[:num_samples]


class _Filters(NamedTuple):
    """A polyphase filter that makes P samples out of `stride` at a step."""

    taps_MP: Tensor
    stride: int
    width: int
    """Zeros before the first sample."""


@lru_cache(maxsize=8)
def _filters(ratio: Fraction) -> _Filters:
    """torchaudio's filter, repeated side by side until a step makes enough samples to be worth a product."""
    made, used = ratio.numerator, ratio.denominator
    single = Resample(
        used, made, resampling_method="sinc_interp_kaiser", lowpass_filter_width=32, rolloff=0.95, beta=9.0
    )
    kernel_PM = single.kernel[:, 0]
    times, num_taps = math.ceil(_LEAST_PHASES / made), kernel_PM.shape[1]
    taps_PM = kernel_PM.new_zeros(times * made, (times - 1) * used + num_taps)
    for i in range(times):
        taps_PM[i * made : (i + 1) * made, i * used : i * used + num_taps] = kernel_PM
    return _Filters(taps_PM.T.contiguous(), times * used, single.width)


def _by_fourier(audio_N: Tensor, ratio: Fraction) -> Tensor:
    """Keep the frequencies that both rates have, the top tenth of them faded out, and transform back.

    Zeros are appended until both lengths are whole, and so many that the end does not run into the start.
    """
    times = math.ceil((len(audio_N) + _GUARD) / ratio.denominator)
    num_used, num_made = times * ratio.denominator, times * ratio.numerator
    spectrum_F = torch.fft.rfft(audio_N, n=num_used)[: num_made // 2 + 1]
    num_faded = len(spectrum_F) // 10
    spectrum_F[-num_faded:] *= torch.cos(torch.linspace(0, math.pi / 2, num_faded)) ** 2
    resampled_N: Tensor = torch.fft.irfft(spectrum_F, n=num_made)
    return resampled_N * float(ratio)


def _require_bytes(path: Path) -> None:
    """Said here, as libsndfile calls an empty file `not a regular file` and a missing one a `system error`."""
    try:
        with path.open("rb") as file:
            empty = not file.read(1)
    except OSError as error:
        raise TrackError(f"cannot be decoded: {(error.strerror or 'cannot be read').lower()}") from None
    if empty:
        raise TrackError("no audio")


def _read(path: str | Path, seconds: float | None, offset: float) -> tuple[Samples, int]:
    """(N, C) samples as they lie in the file, and its rate."""
    with _open(path) as file:
        rate: int = file.samplerate
        try:
            if offset:
                file.seek(min(round(offset * rate), file.frames))
            count = -1 if seconds is None else math.ceil(seconds * rate)
            samples_NC: Samples = file.read(count, dtype="float32", always_2d=True)
        except (soundfile.LibsndfileError, MemoryError):  # a damaged header may claim any length
            raise TrackError("cannot be decoded: damaged") from None
    return samples_NC, rate


def _open(path: str | Path) -> soundfile.SoundFile:
    try:
        return soundfile.SoundFile(path)
    except (soundfile.LibsndfileError, TypeError):  # TypeError: a suffix that says headerless (.raw)
        raise TrackError("cannot be decoded: not audio of a known format") from None


def mix(samples_CN: Samples) -> Samples:
    """(N,) mean of the channels.

    Added one by one: numpy's `mean` over interleaved samples takes 20 ms for 30 s of stereo, this 1 ms.
    """
    mixed_N = np.array(samples_CN[0])
    for channel_N in samples_CN[1:]:
        mixed_N += channel_N
    if len(samples_CN) > 1:
        mixed_N /= np.float32(len(samples_CN))
    return mixed_N


def _check(audio: Audio, mono_N: Samples, limits: Limits, seconds: float | None) -> None:
    if audio.seconds < limits.min_seconds:
        raise TrackError(
            f"too short: {audio.seconds:.1f} s of {limits.min_seconds if seconds is None else seconds:g} s"
        )
    loudest = max(float(mono_N.max()), -float(mono_N.min()))
    if not math.isfinite(loudest):
        raise TrackError("cannot be decoded: samples are not finite")
    if loudest < 10 ** (limits.silence_db / 20):
        raise TrackError(f"silent: nothing above {limits.silence_db:g} dB of full scale")
    clipped = _clipped_share(audio.samples)
    if clipped > limits.max_clipped:
        raise TrackError(f"clipped: {clipped:.0%} of samples at full scale".replace("%", " %"))


def _clipped_share(samples_CN: Samples) -> float:
    """Share of samples at full scale or beyond; few tracks have any, and those cost a second look."""
    if max(samples_CN.max(), -samples_CN.min()) < _FULL_SCALE:
        return 0.0
    return float(np.count_nonzero(np.abs(samples_CN) >= _FULL_SCALE) / samples_CN.size)


class _Quiet:
    """How many threads want standard error quiet, and the real one while any does."""

    lock = threading.Lock()
    users = 0
    kept: int | None = None


@contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Drop what C libraries print: libmpg123 writes to file descriptor 2, which `sys.stderr` knows nothing of.

    The first thread to enter puts the null device there, the last to leave puts things back.
    """
    with _Quiet.lock:
        _Quiet.users += 1
        if _Quiet.users == 1:
            _Quiet.kept = _replace_stderr()
    try:
        yield
    finally:
        with _Quiet.lock:
            _Quiet.users -= 1
            if _Quiet.users == 0 and _Quiet.kept is not None:
                os.dup2(_Quiet.kept, _STDERR)
                os.close(_Quiet.kept)


def _replace_stderr() -> int | None:
    """A copy of the real standard error; None where the process has none, as a daemon may."""
    try:
        kept = os.dup(_STDERR)
    except OSError:
        return None
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, _STDERR)
    os.close(null)
    return kept
