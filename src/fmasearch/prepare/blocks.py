"""A block: a few neighbouring tracks of a corpus, read and ready to be stored.

Shapes: n tracks that could be read, T frames, F bins.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from fmasearch.errors import TrackError
from fmasearch.tracks import FeatureSpec, Frames, Reader, Track

StorageType: TypeAlias = Literal["uint8", "float16"]
Levels: TypeAlias = NDArray[Any]

BLOCK_SIZE = 32
"""Tracks in a block: 5 to 40 s of reading 30 s clips on one core, 6 MB of uint8 levels of mel and chroma."""
_TOP_LEVEL = 255


@dataclass(frozen=True)
class Block:
    """What was read of a block. A track is either in `kept` or in `excluded`, by its place in the block."""

    kept: tuple[int, ...]
    features: Mapping[str, Levels]
    """(n, T, F) as stored, T the block's longest; padding is 0."""
    lengths: Mapping[str, NDArray[np.int32]]
    """(n,) frames before padding."""
    excluded: Mapping[int, str]
    """Reasons."""


def read_block(reader: Reader, tracks: Sequence[Track], dtype: StorageType) -> Block:
    """Read every track of a block on one thread. No track stops it: what cannot be read is excluded."""
    specs = reader.features
    levels: dict[str, list[Levels]] = {spec.name: [] for spec in specs}
    kept: list[int] = []
    excluded: dict[int, str] = {}
    with _one_thread():
        for place, track in enumerate(tracks):
            try:
                stored = _read_track(reader, track, dtype)
            except TrackError as error:
                excluded[place] = _one_line(error)
            except Exception as error:  # one odd file of 106,574 must not cost the others
                excluded[place] = f"unexpected: {type(error).__name__}: {_one_line(error)}"
            else:
                kept.append(place)
                for name, levels_TF in stored.items():
                    levels[name].append(levels_TF)
    return Block(
        tuple(kept),
        {spec.name: _stacked(levels[spec.name], spec, dtype) for spec in specs},
        {name: np.array([len(levels_TF) for levels_TF in each], np.int32) for name, each in levels.items()},
        excluded,
    )


def join_blocks(parts: Sequence[Block], starts: Sequence[int]) -> Block:
    """One block out of pieces of it; `starts` are the places of the pieces' first tracks."""
    shifted = list(zip(parts, starts, strict=True))
    return Block(
        tuple(start + place for part, start in shifted for place in part.kept),
        {name: _joined([part.features[name] for part in parts]) for name in parts[0].features},
        {name: np.concatenate([part.lengths[name] for part in parts]) for name in parts[0].lengths},
        {start + place: reason for part, start in shifted for place, reason in part.excluded.items()},
    )


def empty_block(specs: Sequence[FeatureSpec], dtype: StorageType, excluded: Mapping[int, str]) -> Block:
    """A block of which nothing could be read."""
    features = {spec.name: _stacked([], spec, dtype) for spec in specs}
    return Block((), features, {spec.name: np.zeros(0, np.int32) for spec in specs}, excluded)


def scale_and_offset(spec: FeatureSpec, dtype: StorageType) -> tuple[float, float]:
    """What a stored level stands for: value = offset + scale * level."""
    return ((spec.high - spec.low) / _TOP_LEVEL, spec.low) if dtype == "uint8" else (1.0, 0.0)


def _read_track(reader: Reader, track: Track, dtype: StorageType) -> dict[str, Levels]:
    frames = reader.read(track)
    return {spec.name: _stored(_checked(frames, spec), spec, dtype) for spec in reader.features}


def _checked(frames: Mapping[str, Frames], spec: FeatureSpec) -> Frames:
    """What the reader promised of this feature set; else the file would lie."""
    values_TF = frames[spec.name]
    num_frames, num_bins = values_TF.shape
    if num_bins != spec.num_bins or not 1 <= num_frames <= (spec.max_frames or num_frames):
        most = f"1 to {spec.max_frames}" if spec.max_frames else "1 or more"
        raise ValueError(f"{spec.name}: expected {most} frames of {spec.num_bins} bins, got {values_TF.shape}")
    if not np.isfinite(values_TF).all():
        raise TrackError(f"not finite: {spec.name} has NaN or infinity in it")
    return values_TF


def _stored(values_TF: Frames, spec: FeatureSpec, dtype: StorageType) -> Levels:
    """Levels of the feature set's range, or half floats; what lies outside either is clipped."""
    if dtype == "float16":
        largest = float(np.finfo(np.float16).max)
        return values_TF.clip(-largest, largest).astype(np.float16)
    scale, offset = scale_and_offset(spec, dtype)
    return np.round((values_TF - offset) / scale).clip(0, _TOP_LEVEL).astype(np.uint8)


def _stacked(each: Sequence[Levels], spec: FeatureSpec, dtype: StorageType) -> Levels:
    longest = max((len(levels_TF) for levels_TF in each), default=0)
    stacked_nTF = np.zeros((len(each), longest, spec.num_bins), np.dtype(dtype))
    for row_TF, levels_TF in zip(stacked_nTF, each, strict=True):
        row_TF[: len(levels_TF)] = levels_TF
    return stacked_nTF


def _joined(parts: Sequence[Levels]) -> Levels:
    longest = max(part.shape[1] for part in parts)
    return np.concatenate([np.pad(part, ((0, 0), (0, longest - part.shape[1]), (0, 0))) for part in parts])


@contextmanager
def _one_thread() -> Iterator[None]:
    """Every core has a reader of its own; more threads would only take them from each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _one_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
