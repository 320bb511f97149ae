"""The picture of one track: its spectrogram or chroma over time, with axes in seconds, hertz and the values' unit.

Shapes: T frames, F bins.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from fmasearch.errors import DataError
from fmasearch.report.pictures import PNG_DPI, STYLE

PITCH_CLASSES = ("C", "C♯", "D", "D♯", "E", "F", "F♯", "G", "G♯", "A", "A♯", "B")
FREQUENCIES = (100, 200, 500, 1000, 2000, 5000, 10_000, 20_000)
"""Hertz that get a tick, where they lie on the axis."""
CLOSEST = 0.045  # of the axis: the height of a word
SUFFIXES = (".png", ".svg", ".pdf")


def save_spectrogram(path: Path, values_TF: NDArray[np.float32], *, title: str, settings: Mapping[str, Any]) -> None:
    """Draw one track into a PNG, SVG or PDF file.

    Args:
        values_TF: the track's own frames, in their unit.
        settings: attributes of the feature set. `frame_rate` gives seconds; `f_min`, `f_max` and `mel_scale` give
            hertz; `unit` names the colours. What is not there is counted in frames and bins.

    Raises:
        DataError: if the file's suffix names no such format, or its folder cannot be written.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(f"{path}: expected a picture ending in {', '.join(SUFFIXES)}, got {path.suffix!r}")
    dated = {".png": {"Software": None}, ".svg": {"Date": None, "Creator": None}, ".pdf": {"CreationDate": None}}
    with matplotlib.rc_context(STYLE):
        figure = spectrogram(values_TF, title=title, settings=settings)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(path, dpi=PNG_DPI, metadata=dated[path.suffix.lower()])
        except OSError as error:
            raise DataError(f"{path}: cannot be written: {error.strerror}") from None


def spectrogram(values_TF: NDArray[np.float32], *, title: str, settings: Mapping[str, Any]) -> Figure:
    """Time to the right, low bins below, one colour scale over the track's own range."""
    num_frames, num_bins = values_TF.shape
    rate = settings.get("frame_rate")
    seconds = isinstance(rate, int | float) and rate > 0
    end = num_frames / float(rate) if seconds and rate else num_frames
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(
        values_TF.T,
        origin="lower",
        aspect="auto",
        extent=(0, end, -0.5, num_bins - 0.5),
        cmap="magma",
    )
    axes.set_title(title, loc="left")
    axes.set_xlabel("time (s)" if seconds else "frame")
    axes.spines[:].set_visible(False)
    if ticks := mel_ticks(num_bins, settings):
        axes.set_yticks([place for place, _ in ticks], [word for _, word in ticks])
        axes.set_ylabel("frequency (Hz)")
    elif num_bins == len(PITCH_CLASSES):
        axes.set_yticks(range(num_bins), PITCH_CLASSES)
        axes.set_ylabel("pitch class")
    else:
        axes.set_ylabel("mel bin" if "n_mels" in settings else "bin")
    bar = figure.colorbar(image, ax=axes, label=_bar_label(settings), pad=0.01)
    bar.outline.set_visible(False)
    return figure


def mel_ticks(num_bins: int, settings: Mapping[str, Any]) -> list[tuple[float, str]]:
    """Where round frequencies lie among the mel bins, and their names; nothing where the settings do not tell.

    Bin i is the filter whose peak is point i + 1 of `num_bins` + 2 points, evenly spaced in mel from f_min to f_max.
    """
    low, high, scale = (settings.get(key) for key in ("f_min", "f_max", "mel_scale"))
    if not (isinstance(low, int | float) and isinstance(high, int | float) and scale in ("slaney", "htk")):
        return []
    start, end = mel(low, scale), mel(high, scale)
    step = (end - start) / (num_bins + 1)
    places = [((mel(hertz, scale) - start) / step - 1, f"{hertz:,}") for hertz in FREQUENCIES]
    inside = [(place, word) for place, word in places if -0.5 <= place <= num_bins - 0.5]
    # The lowest ones lie close together, and would be written over each other.
    higher = [*(place for place, _ in inside[1:]), math.inf]
    return [tick for tick, above in zip(inside, higher, strict=True) if above - tick[0] > CLOSEST * num_bins]


def mel(hertz: float, scale: str) -> float:
    """HTK's formula; or Slaney's Auditory Toolbox: linear below 1 kHz, logarithmic above, 27 steps to 6.4 kHz."""
    if scale == "htk":
        return 2595 * math.log10(1 + hertz / 700)
    return hertz * 3 / 200 if hertz < 1000 else 15 + 27 * math.log(hertz / 1000) / math.log(6.4)


def _bar_label(settings: Mapping[str, Any]) -> str:
    """The unit; a long one in two lines, as the bar is short."""
    words = str(settings.get("unit", "value")).split()
    half = (len(words) + 1) // 2
    return " ".join(words) if len(words) < 4 else f"{' '.join(words[:half])}\n{' '.join(words[half:])}"
