"""Audio files that libsndfile wrote, in and out of order; resampling against librosa's soxr."""

import shutil
from pathlib import Path
from threading import Thread
from typing import Any

import librosa
import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray
from torchaudio.transforms import Resample

from fmasearch.errors import TrackError
from fmasearch.features.audio import Limits, decode, load, resample
from fmasearch.features.mel import LogMel, MelSettings

RATE = 44100


def tone(seconds: float, *, rate: int = RATE, hertz: float = 440.0, level: float = 0.5) -> NDArray[np.float32]:
    return (level * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def noise(num_samples: int, seed: int = 0) -> NDArray[np.float32]:
    return (0.1 * np.random.default_rng(seed).standard_normal(num_samples)).astype(np.float32)


def written(path: Path, samples: NDArray[Any], rate: int = RATE, **options: Any) -> Path:
    soundfile.write(path, samples, rate, **options)
    return path


def rejection(path: Path, limits: Limits | None = None, seconds: float | None = None) -> str:
    with pytest.raises(TrackError) as caught:
        load(path, sample_rate=22050, seconds=seconds, limits=limits)
    return str(caught.value)


@pytest.mark.parametrize(
    ("suffix", "tolerance"),
    [("wav", 4e-5), ("flac", 4e-5), ("ogg", 2e-2), ("mp3", 2e-2)],  # 16 bits, and two codecs that lose
)
def test_every_format_gives_the_samples_that_were_written(tmp_path: Path, suffix: str, tolerance: float) -> None:
    stereo = np.stack([tone(1.0), tone(1.0, hertz=660.0)])
    audio = decode(written(tmp_path / f"a.{suffix}", stereo.T))
    assert (audio.samples.shape, audio.sample_rate, audio.seconds) == ((2, RATE), RATE, 1.0)
    inner = slice(2000, -2000)  # codecs ring at the edges
    np.testing.assert_allclose(audio.samples[:, inner], stereo[:, inner], atol=tolerance)


@pytest.mark.parametrize("channels", [1, 2, 6])
def test_mono_is_the_mean_of_the_channels(tmp_path: Path, channels: int) -> None:
    samples = np.stack([noise(2000, seed) for seed in range(channels)])
    path = written(tmp_path / "a.wav", samples.T, subtype="FLOAT")
    np.testing.assert_allclose(load(path, sample_rate=RATE), samples.mean(axis=0), atol=1e-7)


def test_offset_and_seconds_cut_out_a_piece(tmp_path: Path) -> None:
    samples = noise(RATE)
    path = written(tmp_path / "a.wav", samples, subtype="FLOAT")
    piece = load(path, sample_rate=RATE, offset=0.25, seconds=0.5)
    np.testing.assert_array_equal(piece, samples[11025:33075])  # 0.25 and 0.75 of 44100
    assert len(load(path, sample_rate=RATE, offset=0.9, seconds=0.5)) == 4410  # what is left
    assert len(load(path, sample_rate=22050, seconds=0.30001)) == 6615  # 0.30001 * 22050 = 6615.2
    with pytest.raises(TrackError, match=r"^no audio$"):
        load(path, sample_rate=RATE, offset=2.0)


@pytest.mark.parametrize("rate", [8000, 16000, 32000, 44100, 48000, 96000])
def test_resampling_equals_soxr_below_the_filters_edge(rate: int) -> None:
    # Up to 0.86 of the lower Nyquist frequency; between there and it, the two filters fall off differently.
    audio = noise(2 * rate)
    ours = resample(torch.from_numpy(audio), rate, 22050).numpy()
    theirs = librosa.resample(audio, orig_sr=rate, target_sr=22050, res_type="soxr_hq")
    assert len(ours) == len(theirs) == 44100
    kept = round(0.86 * min(rate, 22050))  # bins of half a hertz
    inner = np.hanning(44100)  # so that the edges of the clip do not leak into all frequencies
    ours_F, theirs_F = (np.fft.rfft(samples * inner)[:kept] for samples in (ours, theirs))
    error = np.sum(np.abs(ours_F - theirs_F) ** 2) / np.sum(np.abs(theirs_F) ** 2)
    assert 10 * np.log10(error) < -75


@pytest.mark.parametrize(("rate", "num_samples"), [(44100, 44100), (48000, 4801), (44100, 1), (16000, 333)])
def test_the_product_gives_what_torchaudios_convolution_gives(rate: int, num_samples: int) -> None:
    audio = torch.from_numpy(noise(num_samples))
    method: dict[str, Any] = {"resampling_method": "sinc_interp_kaiser", "lowpass_filter_width": 32}
    theirs = Resample(rate, 22050, rolloff=0.95, beta=9.0, **method)(audio)
    torch.testing.assert_close(resample(audio, rate, 22050), theirs, atol=1e-6, rtol=0)


def test_log_mel_of_resampled_audio_equals_librosas() -> None:
    audio = noise(2 * RATE)
    ours = LogMel(MelSettings())(resample(torch.from_numpy(audio), RATE, 22050)[None])[0].numpy()
    samples = librosa.resample(audio, orig_sr=RATE, target_sr=22050)
    theirs = librosa.power_to_db(librosa.feature.melspectrogram(y=samples, sr=22050), ref=np.max).T
    # 121 of 128 bins lie below 9.5 kHz. The first and last two frames see the clip's hard edges, which ring.
    np.testing.assert_allclose(ours[2:-2, :121], theirs[2:-2, :121], atol=0.01)


def test_what_cannot_be_heard_afterwards_is_filtered_out() -> None:
    high = torch.from_numpy(tone(0.5, hertz=15000.0))  # would alias to 7050 Hz
    assert resample(high, RATE, 22050)[500:-500].abs().max() < 2e-4  # 68 dB below 0.5


@pytest.mark.parametrize("rate", [22254, 44056])  # 11025 phases each, were they taken as they are
def test_odd_rates_keep_length_and_pitch(rate: int) -> None:
    ours = resample(torch.from_numpy(tone(1.0, rate=rate)), rate, 22050).numpy()
    assert len(ours) == 22050
    np.testing.assert_allclose(ours[200:-200], tone(1.0, rate=22050)[200:-200], atol=1e-3)


def test_the_same_rate_changes_nothing() -> None:
    audio = torch.from_numpy(noise(100))
    assert resample(audio, 22050, 22050) is audio


def test_files_that_cannot_be_decoded_say_why(tmp_path: Path) -> None:
    (tmp_path / "text.mp3").write_text("not audio at all " * 100)
    (tmp_path / "nothing.mp3").write_bytes(b"")
    assert rejection(tmp_path / "text.mp3") == "cannot be decoded: not audio of a known format"
    assert rejection(tmp_path / "nothing.mp3") == "no audio"
    assert rejection(tmp_path / "absent.mp3") == "cannot be decoded: no such file or directory"
    assert rejection(tmp_path) == "cannot be decoded: is a directory"
    assert rejection(written(tmp_path / "empty.wav", np.zeros((0, 2)))) == "no audio"


def test_a_damaged_file_is_refused_and_its_decoder_kept_quiet(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = _with_a_hole(tmp_path)
    with pytest.raises(soundfile.LibsndfileError):
        soundfile.read(path)
    assert "mpg123" in capfd.readouterr().err  # so there is something to keep quiet
    assert rejection(path) == "cannot be decoded: damaged"
    assert capfd.readouterr().err == ""


def test_standard_error_is_there_again_after_threads_decoded(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    good = written(tmp_path / "good.mp3", tone(1.0))
    threads = [Thread(target=lambda: [decode(good) for _ in range(5)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with pytest.raises(soundfile.LibsndfileError):
        soundfile.read(_with_a_hole(tmp_path))
    assert "mpg123" in capfd.readouterr().err


def test_clips_that_are_too_short_say_how_long_they_are(tmp_path: Path) -> None:
    path = written(tmp_path / "a.wav", tone(1.6))
    assert rejection(path, Limits(), seconds=30.0) == "too short: 1.6 s of 30 s"
    assert rejection(path, Limits(min_seconds=5.0)) == "too short: 1.6 s of 5 s"
    assert len(load(path, sample_rate=22050, seconds=30.0, limits=Limits(min_seconds=1.6))) == 35280  # 1.6 * 22050


def test_silence_is_refused_also_when_channels_cancel(tmp_path: Path) -> None:
    limits = Limits(min_seconds=0)
    left = tone(0.5)
    faint = written(tmp_path / "faint.wav", tone(0.5, level=0.0009), subtype="FLOAT")  # -60.9 dB
    cancelling = written(tmp_path / "cancelling.wav", np.stack([left, -left], axis=1))
    assert rejection(faint, limits) == "silent: nothing above -60 dB of full scale"
    assert rejection(cancelling, limits) == "silent: nothing above -60 dB of full scale"
    audible = written(tmp_path / "audible.wav", tone(0.5, level=0.0011), subtype="FLOAT")  # -59.2 dB
    assert len(load(audible, sample_rate=22050, limits=limits)) == 11025


def test_clipping_is_counted_at_full_scale(tmp_path: Path) -> None:
    samples = np.full(1000, 0.5, np.float32)
    samples[:60], samples[60:120] = 1.0, -1.0
    path = written(tmp_path / "a.wav", samples, subtype="FLOAT")
    assert rejection(path, Limits(min_seconds=0)) == "clipped: 12 % of samples at full scale"
    assert len(load(path, sample_rate=RATE, limits=Limits(min_seconds=0, max_clipped=0.12))) == 1000


def test_samples_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    samples = tone(0.1)
    samples[100] = np.nan
    path = written(tmp_path / "a.wav", samples, subtype="FLOAT")
    assert rejection(path, Limits(min_seconds=0)) == "cannot be decoded: samples are not finite"


def test_an_mp3_that_was_cut_off_gives_what_is_left(tmp_path: Path) -> None:
    whole = written(tmp_path / "whole.mp3", tone(4.0))
    cut = tmp_path / "cut.mp3"
    shutil.copy(whole, cut)
    with cut.open("r+b") as file:
        file.truncate(whole.stat().st_size // 2)
    assert 1.0 < decode(cut).seconds < 3.0


def _with_a_hole(folder: Path) -> Path:
    """An MP3 whose decoder loses its way in the middle."""
    path = written(folder / "hole.mp3", noise(10 * RATE))
    content = bytearray(path.read_bytes())
    start = len(content) // 3
    content[start : start + 8000] = bytes(8000)
    path.write_bytes(bytes(content))
    return path
