"""The feature file out of its blocks: rows in corpus order, whatever order the blocks were finished in.

Shapes: N tracks that were kept, n of them in a block, T frames, F bins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fmasearch.data import SPLITS, Columns, FeatureLayout, writing_feature_file
from fmasearch.prepare.blocks import StorageType, scale_and_offset
from fmasearch.prepare.parts import Parts
from fmasearch.tracks import Corpus, Exclusion, FeatureSpec, Track

_UNUSED = -1


@dataclass(frozen=True, slots=True)
class Inventory:
    """What all blocks hold together."""

    kept: tuple[Track, ...]
    excluded: tuple[Exclusion, ...]
    """Of the corpus, then of the reading, each in order."""
    lengths: Mapping[str, NDArray[np.int32]]
    """(N,) frames by feature set."""


def take_inventory(corpus: Corpus, specs: Sequence[FeatureSpec], parts: Parts, block_size: int) -> Inventory:
    """Look through all blocks, which must be complete, without reading their features."""
    kept: list[Track] = []
    excluded = list(corpus.excluded)
    lengths: dict[str, list[NDArray[np.int32]]] = {spec.name: [] for spec in specs}
    for index in range(parts.num_blocks):
        columns = parts.columns(index)
        tracks = corpus.tracks[index * block_size : (index + 1) * block_size]
        kept += [tracks[place] for place in columns.kept]
        for place, reason in sorted(columns.excluded.items()):
            excluded.append(Exclusion(tracks[place].track_id, tracks[place].source, reason))
        for name, each in lengths.items():
            each.append(columns.lengths[name])
    joined = {name: np.concatenate(each) for name, each in lengths.items()}
    return Inventory(tuple(kept), tuple(excluded), joined)


def assemble(
    corpus: Corpus, specs: Sequence[FeatureSpec], dtype: StorageType, parts: Parts, inventory: Inventory
) -> None:
    """Write `parts.assembled`, one block in memory at a time."""
    layouts = {spec.name: _layout(spec, dtype, inventory.lengths[spec.name]) for spec in specs}
    columns = make_columns(inventory)
    with writing_feature_file(
        parts.assembled, corpus=corpus.name, features=layouts, columns=columns, source=corpus.source
    ) as file:
        for index in range(parts.num_blocks):
            file.append(parts.features(index))


def make_columns(inventory: Inventory) -> Columns:
    """Splits, labels and identities of the tracks that were kept."""
    tracks = inventory.kept
    codes = {**SPLITS, "unused": _UNUSED}
    return Columns(
        split=np.array([codes[track.split] for track in tracks], np.int8),
        track_ids=[track.track_id for track in tracks],
        lengths=inventory.lengths,
        classes={name: _class_codes(name, tracks) for name in sorted({n for t in tracks for n in t.classes})},
        targets={name: _targets(name, tracks) for name in sorted({n for t in tracks for n in t.targets})},
        artist_ids=_artist_codes(tracks),
        sources=[track.source for track in tracks],
        licences=[track.licence for track in tracks],
    )


def _layout(spec: FeatureSpec, dtype: StorageType, lengths: NDArray[np.int32]) -> FeatureLayout:
    scale, offset = scale_and_offset(spec, dtype)
    return FeatureLayout(
        num_frames=spec.max_frames or int(lengths.max()),
        num_bins=spec.num_bins,
        dtype=dtype,
        settings=spec.settings,
        scale=scale,
        offset=offset,
    )


def _class_codes(name: str, tracks: Sequence[Track]) -> tuple[list[str], NDArray[np.int16]]:
    """Names in alphabetical order, and each track's place among them; -1 without a label."""
    names = sorted({track.classes[name] for track in tracks if name in track.classes})
    place = {class_name: code for code, class_name in enumerate(names)}
    return names, np.array([place[t.classes[name]] if name in t.classes else -1 for t in tracks], np.int16)


def _targets(name: str, tracks: Sequence[Track]) -> NDArray[np.float32]:
    return np.array([track.targets.get(name, np.nan) for track in tracks], np.float32)


def _artist_codes(tracks: Sequence[Track]) -> NDArray[np.int32]:
    """Numbers in order of first appearance; -1 where nobody knows."""
    known: dict[str, int] = {}
    codes = [-1 if t.artist is None else known.setdefault(t.artist, len(known)) for t in tracks]
    return np.array(codes, np.int32)
