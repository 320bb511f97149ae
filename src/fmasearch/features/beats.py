"""Beats of a clip, and features with one frame per beat. The only module that imports librosa.

Shapes: T frames, F bins, Tb beats.
"""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

from fmasearch.errors import UserError
from fmasearch.tracks import Frames

FALLBACK_SECONDS = 0.5
"""Length of an interval where no beat is found: 120 beats a minute."""

BEAT_TRACKER = "librosa beat_track on the onset strength of the mel (no separation of percussion)"
"""How beats are found, in words for the feature file."""


def require_beat_tracker() -> None:
    """Fail early, and without the second that importing librosa takes.

    Raises:
        UserError: if librosa is not installed.
    """
    if find_spec("librosa") is None:
        raise UserError("features mel_beat and chroma_beat need librosa, which is absent: pip install fmasearch[beats]")


def find_beats(decibels_TF: Frames, *, sample_rate: int, hop_length: int, n_fft: int) -> NDArray[np.int64]:
    """Frames on which a beat falls, rising, within the clip; fixed steps of half a second where none is found.

    librosa's tracker (Ellis, 2007) with its default tempo prior, on the onset strength of our own log-mel:
    decibels gained since the frame before, median over the bins, as librosa's tracker has it for itself. The
    course of the NTUA separated the percussion first (librosa's `hpss`), at 1.3 s for a clip of 30 s; this takes
    16 ms (one core of an AMD EPYC, librosa 0.11).

    Args:
        decibels_TF: log-mel of the clip.
    """
    # Optional, and a second to import: only who wants beats pays for it.
    from librosa.beat import beat_track
    from librosa.onset import onset_strength

    envelope_T = onset_strength(
        S=decibels_TF.T, sr=sample_rate, hop_length=hop_length, n_fft=n_fft, aggregate=np.median
    )
    _, beats = beat_track(onset_envelope=envelope_T, sr=sample_rate, hop_length=hop_length)
    if len(beats):
        return np.asarray(beats, np.int64)
    step = max(1, round(FALLBACK_SECONDS * sample_rate / hop_length))
    return np.arange(step, len(decibels_TF), step, dtype=np.int64)


def beat_medians(values_TF: Frames, beats: NDArray[np.int64]) -> Frames:
    """One frame per interval between beats: each bin's median over it.

    The clip's start and end bound the first and last interval. The median, not the mean, as in the course's
    files (`librosa.util.sync(..., aggregate=np.median)`), so that models can be trained on one and hear the
    other; and the click at the start of a beat does not outweigh the chord that follows.

    Args:
        values_TF: mel power (before decibels are taken) or chroma.
        beats: frames, in any order; those outside the clip are left out.

    Returns:
        (Tb, F) float32, Tb >= 1; exactly one frame per interval that has any.
    """
    inner = beats[(beats > 0) & (beats < len(values_TF))]
    intervals = np.split(values_TF, np.unique(inner))
    return np.stack([np.median(interval_TF, axis=0) for interval_TF in intervals]).astype(np.float32)
