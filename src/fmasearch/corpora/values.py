"""The check of values that somebody else computed: finite, in their range, and not those of silence."""

from __future__ import annotations

import numpy as np

from fmasearch.errors import TrackError
from fmasearch.tracks import FeatureSpec, Frames

_TOLERANCE = 1e-3
"""Of the range: what rounding may add to it."""


def require_range(spec: FeatureSpec, values_TF: Frames) -> None:
    """Refuse NaN, and values that are outside the range of the feature set by more than rounding.

    Raises:
        TrackError: with the range that was found.
    """
    if not np.isfinite(values_TF).all():
        raise TrackError(f"{spec.name}: {int((~np.isfinite(values_TF)).sum())} values are NaN or infinite")
    low, high = float(values_TF.min()), float(values_TF.max())
    spare = _TOLERANCE * (spec.high - spec.low)
    if low < spec.low - spare or high > spec.high + spare:
        raise TrackError(f"{spec.name}: expected values in {spec.low:g}..{spec.high:g}, got {low:g}..{high:g}")


def require_sound(values_TF: Frames) -> None:
    """Refuse a spectrogram that is the same everywhere: that is what silence gives.

    Raises:
        TrackError: with the value.
    """
    if np.ptp(values_TF) == 0:
        raise TrackError(f"silent: every value is {values_TF[0, 0]:g}")
