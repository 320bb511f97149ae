"""The demo music: synthetic tracks in ten stand-in genres, planned, labelled and rendered with numpy alone.

    tracks = plan_tracks(PROFILES["demo"], seed=0)
    audio = render_block(tracks[:32], PROFILES["demo"])  # (32, samples) float32

The arrow: `styles` (what a genre is) and `profiles` (how much, how hard) -> `plan` (who plays what, split,
targets) -> `performance` (notes in time, on `instruments`) -> `mixing` (room, equaliser, level) -> `render`.
"""

from fmasearch.corpora.demo.plan import DemoTrack, plan_tracks
from fmasearch.corpora.demo.profiles import PROFILES, DemoProfile
from fmasearch.corpora.demo.render import render, render_block
from fmasearch.corpora.demo.styles import GENRES

__all__ = ["GENRES", "PROFILES", "DemoProfile", "DemoTrack", "plan_tracks", "render", "render_block"]
