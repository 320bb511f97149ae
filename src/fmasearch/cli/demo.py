"""`fmasearch demo`: synthetic music through the real front-end, then a whole study on it."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress

from fmasearch.cli import studies
from fmasearch.cli.folders import Folders
from fmasearch.corpora.demo import GENRES, PROFILES, DemoProfile, DemoTrack, plan_tracks, render_block
from fmasearch.data import FeatureArray, write_feature_file
from fmasearch.features.audio_reader import AudioSettings
from fmasearch.features.mel import LogMel, MelSettings
from fmasearch.ray_session import num_local_cpus

SPACE = Path(__file__).parent / "demo_files" / "demo.yaml"
SEARCH = Path(__file__).parent / "demo_files" / "quick.yaml"
SEED = 0
BLOCK = 40
VERSION = 1  # of the rendered music; a new one renders again


def run(folders: Folders, *, trials: int | None, small: bool) -> Path:
    """Render what is not there yet, then tune on it; returns the results folder."""
    profile = PROFILES["tiny" if small else "demo"]
    file = folders.runs / "demo" / f"{profile.name}-v{VERSION}.h5"
    if not file.exists():
        write_demo(file, profile, Console())
    overrides = [f"num_trials={trials}"] if trials else []
    overrides += ["max_epochs=4", "confirm/seeds=2"] if small else []
    return studies.tune(SPACE, file, SEARCH, overrides, folders)


def write_demo(file: Path, profile: DemoProfile, console: Console) -> None:
    """Render the demo corpus and write its feature file (about 33 kB a track)."""
    started = time.monotonic()
    tracks = plan_tracks(profile, SEED)
    settings = MelSettings(
        sample_rate=profile.sample_rate,
        n_fft=profile.n_fft,
        hop_length=profile.hop_length,
        n_mels=profile.n_mels,
        f_min=profile.f_min,
    )
    reading = AudioSettings(mel=settings, seconds=profile.seconds)  # how to hear a song as these were
    front_end = LogMel(settings)
    mel = np.empty((len(tracks), front_end.num_frames(profile.num_samples), profile.n_mels), np.float16)
    done = 0
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task(f"rendering {len(tracks)} synthetic tracks", total=len(tracks))
        for audio in _render_all(tracks, profile):
            mel[done : done + len(audio)] = front_end(torch.from_numpy(audio)).numpy()
            done += len(audio)
            progress.update(task, completed=done)
    write_feature_file(
        file,
        corpus=f"fmasearch-demo-{profile.name}",
        features={"mel": FeatureArray(mel, {**settings.to_attrs(), **reading.to_attrs()})},
        classes={"genre": ([genre.name for genre in GENRES], np.array([t.genre for t in tracks]))},
        targets={
            "valence": np.array([t.valence for t in tracks]),
            "energy": np.array([t.energy for t in tracks]),
            "danceability": np.array([t.danceability for t in tracks]),
        },
        split=np.array([t.split for t in tracks]),
        track_ids=[str(t.track_id) for t in tracks],
        artist_ids=np.array([t.artist_id for t in tracks]),
        source="synthetic: rendered by fmasearch; genre names are stand-ins",
    )
    console.print(
        f"rendered {len(tracks)} synthetic tracks of {profile.seconds:g} s in "
        f"{time.monotonic() - started:.0f} s: {file}",
        highlight=False,
        soft_wrap=True,
    )


def _render_all(
    tracks: list[DemoTrack], profile: DemoProfile
) -> Iterator[np.ndarray[tuple[int, int], np.dtype[np.float32]]]:
    """Blocks of audio in order, rendered by as many processes as there are cores."""
    blocks = [tracks[start : start + BLOCK] for start in range(0, len(tracks), BLOCK)]
    context = multiprocessing.get_context("spawn")  # forking a process with torch's threads may hang
    with ProcessPoolExecutor(num_local_cpus(), mp_context=context) as pool:
        yield from pool.map(render_block, blocks, [profile] * len(blocks))
