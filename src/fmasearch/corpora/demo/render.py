"""The rendering: planned tracks to audio. Its functions pickle: a caller may spread blocks over processes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fmasearch.corpora.demo.instruments import Samples
from fmasearch.corpora.demo.mixing import mix
from fmasearch.corpora.demo.performance import perform
from fmasearch.corpora.demo.plan import DemoTrack
from fmasearch.corpora.demo.profiles import DemoProfile


def render(track: DemoTrack, profile: DemoProfile) -> Samples:
    """Render one track. Returns (num_samples,) float32 at `profile.sample_rate`, below full scale."""
    rng = np.random.default_rng(track.performance_seed)
    buses = perform(track.song, track.artist, profile.num_samples, profile.sample_rate, rng)
    return mix(buses, track.song, track.artist, profile.sample_rate, rng)


def render_block(tracks: Sequence[DemoTrack], profile: DemoProfile) -> Samples:
    """Render several tracks. Returns (n, num_samples) float32.

    Tracks of an artist share notes, which are cached in the process: blocks are best taken in order.
    """
    block = np.empty((len(tracks), profile.num_samples), dtype=np.float32)
    for row, track in zip(block, tracks, strict=True):
        row[:] = render(track, profile)
    return block
