"""A split on its device: levels stay as stored and become standardised float32 one batch at a time.

B batch, T frames, F bins of one feature set, N tracks of the split.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fmasearch.records import TargetStats


class Batch(NamedTuple):
    """`x_BTF` float32 and `targets_B` on the device; `lengths_B` int64 on the CPU, as packing wants it."""

    x_BTF: Tensor
    lengths_B: Tensor
    targets_B: Tensor


@dataclass(frozen=True)
class Normaliser:
    """Per-bin mean and standard deviation of one feature set, in its own unit, from training frames only."""

    mean_F: Tensor
    std_F: Tensor
    unit: str = ""

    @property
    def per_decibel_F(self) -> Tensor:
        """What 1 dB more is after standardisation; 0 where the unit is another one."""
        return 1 / self.std_F if self.unit.startswith("dB") else torch.zeros_like(self.std_F)


@dataclass(frozen=True, slots=True)
class Crop:
    """One stretch of `frames` frames of each track of a batch, from its start on; int64 on the CPU."""

    starts_B: Tensor
    frames: int


@dataclass(frozen=True)
class LevelStore:
    """One feature set of a split, and the affine map from its stored levels to standardised values."""

    levels_NTF: Tensor
    gain_F: Tensor
    bias_F: Tensor
    rows_N: Tensor | None = None
    """Where track n lies in `levels_NTF`, if not at n: mapped levels are shared as they are, not copied in part."""

    @classmethod
    def build(
        cls, levels_NTF: Tensor, scale: float, offset: float, normaliser: Normaliser, rows_N: Tensor | None = None
    ) -> LevelStore:
        """value = offset + scale * level, z = (value - mean) / std, folded into one gain and one bias."""
        device = levels_NTF.device
        gain_F = scale / normaliser.std_F
        bias_F = (offset - normaliser.mean_F) / normaliser.std_F
        return cls(levels_NTF, gain_F.to(device), bias_F.to(device), rows_N)

    def select(self, index_B: Tensor, frames_BT: Tensor | None = None) -> Tensor:
        """(B, T, F) float32, standardised: whole tracks, or each track's own frames."""
        return torch.addcmul(self.bias_F, self.levels(index_B, frames_BT).float(), self.gain_F)

    def levels(self, index_B: Tensor, frames_BT: Tensor | None = None) -> Tensor:
        """(B, T, F), as stored."""
        rows_B = index_B if self.rows_N is None else self.rows_N[index_B]
        return self.levels_NTF[rows_B] if frames_BT is None else self.levels_NTF[rows_B[:, None], frames_BT]

    def taken(self, index_N: Tensor) -> LevelStore:
        """A store of these tracks alone; their levels are copied."""
        return LevelStore(self.levels(index_N), self.gain_F, self.bias_F)


@dataclass(frozen=True)
class Split:
    """The labelled tracks of one split."""

    name: str
    stores: tuple[LevelStore, ...]
    lengths_N: Tensor  # int64, CPU
    targets_N: Tensor
    """On the device: classes as int64 (N,), -1 = none; numeric labels as float32 (N, R) in their own units, NaN =
    none; both as float32 (N, 1 + R), the class first."""
    track_ids: tuple[str, ...]
    artist_ids: np.ndarray[tuple[int], np.dtype[np.int64]]

    def __len__(self) -> int:
        return len(self.track_ids)

    @property
    def device(self) -> torch.device:
        return self.targets_N.device

    @property
    def num_frames(self) -> int:
        return int(self.stores[0].levels_NTF.shape[1])

    @property
    def input_dim(self) -> int:
        return sum(int(store.levels_NTF.shape[2]) for store in self.stores)

    def num_batches(self, batch_size: int) -> int:
        """How many batches `shuffled` yields."""
        whole, rest = divmod(len(self), batch_size)
        return whole + (rest >= self._smallest(batch_size))

    def batch(self, index_B: Tensor, crop: Crop | None = None) -> Batch:
        """Select tracks by `index_B` (int64, CPU), whole or cropped.

        Feature sets are joined along bins; padding becomes 0. Crops are cut before levels become floats.
        """
        on_device_B = index_B.to(self.device, non_blocking=True)
        lengths_B, frames_BT, num_frames = self.lengths_N[index_B], None, self.num_frames
        if crop is not None:
            num_frames = crop.frames
            lengths_B = (lengths_B - crop.starts_B).clamp(max=num_frames)
            frames_BT = (crop.starts_B[:, None] + torch.arange(num_frames)).to(self.device, non_blocking=True)
        parts = [store.select(on_device_B, frames_BT) for store in self.stores]
        x_BTF = parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)
        if int(lengths_B.min()) < num_frames:
            frames_T = torch.arange(num_frames, device=self.device)
            x_BTF = x_BTF * (frames_T < lengths_B.to(self.device, non_blocking=True)[:, None])[:, :, None]
        return Batch(x_BTF, lengths_B, self.targets_N[on_device_B])

    def shuffled(
        self, batch_size: int, generator: torch.Generator, *, crop_frames: int | None = None
    ) -> Iterator[Batch]:
        """Every track once, in random order, whole or as one random crop of at most `crop_frames`.

        A last batch of one track is left out: batch norm wants two.
        """
        for index_B in torch.randperm(len(self), generator=generator).split(batch_size):
            if len(index_B) >= self._smallest(batch_size):
                yield self.batch(index_B, self._random_crop(index_B, crop_frames, generator))

    def ordered(self, batch_size: int, *, crop_frames: int | None = None, num_crops: int = 1) -> Iterator[Batch]:
        """Every track once, in file order, whole or as `num_crops` crops evenly spaced from its start to its end.

        Crops of a track follow each other: x_BTF and lengths_B then have `num_crops` rows for each of targets_B.
        One crop is the middle. A split of no more than `crop_frames` frames has whole tracks, once each.
        """
        for index_B in torch.arange(len(self)).split(batch_size):
            if not self.is_cropped(crop_frames):
                yield self.batch(index_B)
                continue
            assert crop_frames is not None
            places_C = torch.linspace(0, 1, num_crops) if num_crops > 1 else torch.tensor([0.5])
            spare_B = (self.lengths_N[index_B] - crop_frames).clamp(min=0)
            starts_B = (spare_B[:, None] * places_C).round().long().flatten()
            batch = self.batch(index_B.repeat_interleave(num_crops), Crop(starts_B, crop_frames))
            yield batch._replace(targets_B=batch.targets_B[::num_crops])

    def is_cropped(self, crop_frames: int | None) -> bool:
        """Whether crops of so many frames are less than the tracks' frames."""
        return crop_frames is not None and crop_frames < self.num_frames

    def _random_crop(self, index_B: Tensor, frames: int | None, generator: torch.Generator) -> Crop | None:
        if frames is None or not self.is_cropped(frames):
            return None
        num_starts_B = (self.lengths_N[index_B] - frames).clamp(min=0) + 1
        draws_B = torch.rand(len(index_B), generator=generator, dtype=torch.float64)
        return Crop((draws_B * num_starts_B).long(), frames)

    def _smallest(self, batch_size: int) -> int:
        return min(2, batch_size, len(self))

    def head(self, count: int) -> Split:
        """The first `count` tracks, spread over the split, as a split of their own."""
        index = torch.linspace(0, len(self) - 1, min(count, len(self))).long()
        return _take(self, index)


@dataclass(frozen=True)
class Dataset:
    """What a training sees. There is deliberately no test split in it."""

    train: Split
    val: Split | None
    class_names: tuple[str, ...]
    normalisers: tuple[Normaliser, ...]
    targets: tuple[TargetStats, ...] = ()
    """Numeric labels in the order of the targets."""

    @property
    def input_dim(self) -> int:
        return self.train.input_dim

    @property
    def num_frames(self) -> int:
        return self.train.num_frames

    def train_classes(self) -> Tensor:
        """Classes of the training tracks that have one, int64 on the CPU; empty where nothing is classified."""
        targets_N = self.train.targets_N.cpu()
        if not self.class_names:
            return torch.empty(0, dtype=torch.int64)
        if self.targets:  # beside numbers a class is one, too, and NaN if it is unknown
            targets_N = torch.where(targets_N[:, 0].isnan(), -1, targets_N[:, 0]).long()
        return targets_N[targets_N >= 0]

    @property
    def per_decibel_F(self) -> Tensor:
        """What 1 dB more is in each standardised bin, on the device; 0 for feature sets that are not in dB."""
        return torch.cat([normaliser.per_decibel_F for normaliser in self.normalisers]).to(self.train.device)


def merge_splits(name: str, splits: Sequence[Split]) -> Split:
    """One split out of several of the same file (train+val for a final training); copies the levels."""
    first = splits[0]
    stores = tuple(
        LevelStore(torch.cat([_all_levels(s, i) for s in splits]), store.gain_F, store.bias_F)
        for i, store in enumerate(first.stores)
    )
    return Split(
        name=name,
        stores=stores,
        lengths_N=torch.cat([s.lengths_N for s in splits]),
        targets_N=torch.cat([s.targets_N for s in splits]),
        track_ids=tuple(track for s in splits for track in s.track_ids),
        artist_ids=np.concatenate([s.artist_ids for s in splits]),
    )


def _all_levels(split: Split, store: int) -> Tensor:
    return split.stores[store].levels(torch.arange(len(split), device=split.device))


def _take(split: Split, index: Tensor) -> Split:
    device_index = index.to(split.device)
    return Split(
        name=split.name,
        stores=tuple(store.taken(device_index) for store in split.stores),
        lengths_N=split.lengths_N[index],
        targets_N=split.targets_N[device_index],
        track_ids=tuple(split.track_ids[int(i)] for i in index),
        artist_ids=split.artist_ids[index.numpy()],
    )
