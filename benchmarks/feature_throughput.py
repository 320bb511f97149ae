"""How many 30 s MP3s a second does a core turn into log-mel? fmasearch's reader against librosa, in turn, in one run.

The MP3s (44.1 kHz, stereo) are made here: tones that sweep and swell over filtered noise, at three constant bit rates
around FMA's mean of 263 kbit/s. Both sides decode by the same libsndfile and give (T, 128) decibels of the same 30 s
at 22,050 Hz. Times are CPU seconds of this process, which has one thread, so that what else runs on the machine
counts little. A pair is all clips by one side, then all by the other.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before numpy: one thread each

import librosa
import numpy as np
import soundfile
import torch
from numpy.typing import NDArray

from fmasearch.cli import environment
from fmasearch.features import audio
from fmasearch.features.audio_reader import AudioReader, AudioSettings
from fmasearch.tracks import Track

RATE = 44100
SECONDS = 30
COMPRESSION = (0.0, 0.15, 0.3)  # libsndfile's levels: 320, 256 and 224 kbit/s
FMA_LARGE = 106_574
CORES = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--clips", type=int, default=9, help="clips of a pair")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        files = [_clip(Path(folder), number) for number in range(arguments.clips)]
        rates = [8 * file.stat().st_size / SECONDS / 1000 for file in files]
        reader = AudioReader(AudioSettings(), folder)
        difference = max(_largest_difference(reader, file) for file in files)  # and both are warm
        ours, peer = [], []
        for _ in range(arguments.pairs):
            ours.append(_seconds(lambda: [_fmasearch(reader, file) for file in files]) / len(files))
            peer.append(_seconds(lambda: [_librosa(file) for file in files]) / len(files))
        shares = _shares(reader, files)
    facts = environment.describe()
    print(
        f"{facts['device']}, {facts['cores']} cores, torch {facts['torch']}, librosa {librosa.__version__}, one thread"
    )
    print(
        f"load average {os.getloadavg()[0]:.1f}; {arguments.pairs} pairs of {len(files)} MP3s of {SECONDS} s, ", end=""
    )
    print(f"{min(rates):.0f} to {max(rates):.0f} kbit/s")
    for name, values in (("fmasearch", ours), ("librosa", peer)):
        seconds = statistics.median(values)
        hours = FMA_LARGE * seconds / CORES / 3600
        print(f"{name:10} {1 / seconds:6.1f} clips/s a core  {seconds * 1000:6.1f} ms  ({_spread(values)})", end="")
        print(f"  FMA-large on {CORES} such cores: {hours * 60:.1f} min")
    print(_ratios("ratio, all", ours, peer))
    decoding = shares["fmasearch"]["decode"]
    print(_ratios("without the decoding that both share", *([t - decoding for t in side] for side in (ours, peer))))
    print(f"at most, were all but decoding free: {statistics.median(peer) / decoding:.2f}")
    for side, parts in shares.items():
        listed = "  ".join(f"{part} {seconds * 1000:.1f}" for part, seconds in parts.items())
        print(f"{side:10} ms a clip: {listed}")
    print(f"largest difference below 9.5 kHz, within 60 dB of the clip's maximum: {difference:.3f} dB")


def _fmasearch(reader: AudioReader, file: Path) -> NDArray[np.float32]:
    """(T, 128) decibels."""
    return reader.read(Track(file.stem, file.name, "train"))["mel"]


def _librosa(file: Path) -> NDArray[np.float32]:
    """(128, T) decibels."""
    samples, _ = librosa.load(file, sr=22050, duration=SECONDS)
    return _librosa_mel(samples)


def _librosa_mel(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    power = librosa.feature.melspectrogram(y=samples, sr=22050, n_fft=2048, hop_length=512, n_mels=128)
    decibels: NDArray[np.float32] = librosa.power_to_db(power, ref=np.max)
    return decibels


def _shares(reader: AudioReader, files: list[Path]) -> dict[str, dict[str, float]]:
    """Median CPU seconds of each part, measured alone."""
    decoded = [audio.decode(file, seconds=SECONDS) for file in files]
    loaded = [audio.load(file, sample_rate=22050, seconds=SECONDS) for file in files]
    mono = [torch.from_numpy(clip.samples.mean(axis=0)) for clip in decoded]
    return {
        "fmasearch": {
            "decode": _median(lambda i: audio.decode(files[i], seconds=SECONDS), len(files)),
            "mono, resample": _median(
                lambda i: audio.resample(torch.from_numpy(audio.mix(decoded[i].samples)), RATE, 22050), len(files)
            ),
            "spectrogram": _median(lambda i: reader.transform(torch.from_numpy(loaded[i])), len(files)),
        },
        "librosa": {
            "decode": _median(lambda i: soundfile.read(files[i], dtype="float32"), len(files)),
            "mono": _median(lambda i: librosa.to_mono(decoded[i].samples), len(files)),
            "resample": _median(lambda i: librosa.resample(mono[i].numpy(), orig_sr=RATE, target_sr=22050), len(files)),
            "spectrogram": _median(lambda i: _librosa_mel(loaded[i]), len(files)),
        },
    }


def _median(work: Callable[[int], Any], count: int) -> float:
    return statistics.median(_seconds(lambda i=i: work(i)) for _ in range(3) for i in range(count))


def _seconds(work: Callable[[], Any]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def _largest_difference(reader: AudioReader, file: Path) -> float:
    """In decibels, where the two resamplers are meant to agree and the clip is audible."""
    ours, theirs = _fmasearch(reader, file), _librosa(file).T
    audible = theirs > -60
    audible[:, 121:] = False
    audible[[0, 1, -2, -1]] = False  # frames that see the clip's hard edges, which ring in either filter
    return float(np.abs(ours - theirs)[audible].max())


def _clip(folder: Path, number: int) -> Path:
    """One MP3 of the clip's number: both sides of a stereo picture differ."""
    rng = np.random.default_rng(number)
    time_N = np.arange(SECONDS * RATE) / RATE
    samples_N2 = 0.02 * _coloured(rng, (len(time_N), 2))
    for hertz in rng.uniform(80, 3000, 12):
        swell = 0.5 + 0.5 * np.sin(2 * np.pi * rng.uniform(0.1, 2.0) * time_N + rng.uniform(0, 6))
        tone = swell * np.sin(2 * np.pi * hertz * time_N + 3 * np.sin(2 * np.pi * 0.3 * time_N))
        samples_N2 += 0.05 * tone[:, None] * rng.uniform(0.3, 1.0, 2)
    file = folder / f"{number:03}.mp3"
    level = COMPRESSION[number % len(COMPRESSION)]
    soundfile.write(file, samples_N2, RATE, bitrate_mode="CONSTANT", compression_level=level)
    return file


def _coloured(rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.float64]:
    """Noise that loses 3 dB an octave, with a deviation of 1."""
    spectrum = np.fft.rfft(rng.standard_normal(shape), axis=0)
    spectrum /= np.sqrt(np.maximum(np.arange(len(spectrum)), 20))[:, None]
    noise = np.fft.irfft(spectrum, n=shape[0], axis=0)
    return np.asarray(noise / noise.std())


def _ratios(name: str, ours: list[float], peer: list[float]) -> str:
    ratios = [b / a for a, b in zip(ours, peer, strict=True)]
    return f"{name}: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def _spread(values: list[float]) -> str:
    return f"{min(values) * 1000:.1f} to {max(values) * 1000:.1f}"


if __name__ == "__main__":
    main()
