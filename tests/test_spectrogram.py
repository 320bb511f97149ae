"""The picture of a track: frequencies lie where librosa says, and the file is what its name says."""

from pathlib import Path

import librosa
import numpy as np
import pytest

from fmasearch.errors import DataError
from fmasearch.features.mel import MelSettings
from fmasearch.report.spectrogram import mel_ticks, save_spectrogram, spectrogram


@pytest.mark.parametrize("scale", ["slaney", "htk"])
def test_ticks_lie_at_the_bins_of_their_frequency(scale: str) -> None:
    settings = {"f_min": 30.0, "f_max": 11025.0, "mel_scale": scale}
    # librosa gives the edges of all filters too, which are the first and last of 130 points.
    points = librosa.mel_frequencies(n_mels=130, fmin=30, fmax=11025, htk=scale == "htk")[1:-1]
    ticks = mel_ticks(128, settings)
    # 100 Hz would be written over 200 Hz.
    assert [word for _, word in ticks] == ["200", "500", "1,000", "2,000", "5,000", "10,000"]
    for place, word in ticks:
        hertz = float(word.replace(",", ""))
        # Between the two bins whose frequencies enclose it.
        assert place == pytest.approx(np.interp(hertz, points, np.arange(128)), abs=0.02)


def test_axes_say_what_is_known() -> None:
    axes = spectrogram(np.zeros((86, 128), np.float32), title="a track", settings=MelSettings().to_attrs()).axes
    assert (axes[0].get_xlabel(), axes[0].get_ylabel()) == ("time (s)", "frequency (Hz)")
    assert axes[0].get_xlim()[1] == pytest.approx(86 * 512 / 22050)
    assert axes[1].get_ylabel() == "dB relative to\nthe clip's maximum"


@pytest.mark.parametrize(
    ("num_bins", "settings", "label"),
    [(12, {}, "pitch class"), (128, {"n_mels": 128}, "mel bin"), (20, {}, "bin")],
)
def test_axes_count_what_is_not_known(num_bins: int, settings: dict[str, int], label: str) -> None:
    axes = spectrogram(np.zeros((5, num_bins), np.float32), title="", settings=settings).axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("frame", label)


@pytest.mark.parametrize(("suffix", "magic"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")])
def test_the_suffix_chooses_the_format(tmp_path: Path, suffix: str, magic: bytes) -> None:
    path = tmp_path / "new" / f"track{suffix}"
    save_spectrogram(path, np.eye(8, 12, dtype=np.float32), title="", settings={})
    assert path.read_bytes().startswith(magic)


def test_another_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"track\.gif: expected a picture ending in \.png, \.svg, \.pdf"):
        save_spectrogram(tmp_path / "track.gif", np.zeros((2, 2), np.float32), title="", settings={})
