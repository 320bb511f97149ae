"""One copy per node: each split's levels as a plain `.npy`, memory-mapped by every trial.

Only the splits that are asked for are ever read from the feature file, so a search, which asks for train and
val, leaves the test rows untouched on disk.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fmasearch.config import GenresConfig
from fmasearch.data.feature_file import (
    FeatureInfo,
    FileInfo,
    SplitColumns,
    SplitName,
    content_hash,
    read_columns,
    read_feature_blocks,
    read_info,
)
from fmasearch.data.genres import GenreMap, genre_map
from fmasearch.data.remote import copy_here, is_uri
from fmasearch.data.splits import Dataset, LevelStore, Normaliser, Split
from fmasearch.errors import DataError
from fmasearch.files import replacing
from fmasearch.records import TargetStats

NO_GENRES = GenresConfig()
_FLAT_STD = 1e-4  # a bin that never moves is centred, not blown up


@dataclass(frozen=True, slots=True)
class DataSpec:
    """Which file, features and labels a study uses. Plain values, so that it travels to any worker."""

    path: str
    features: tuple[str, ...]
    label: str | None
    """The label set that is classified, if any is."""
    sha256: str
    cache_dir: str
    genres: GenreMap | None = None
    """How the file's classes are merged and dropped; None leaves them as they are."""
    uri: str | None = None
    """Where the file was copied from, if it was: other nodes copy it from there, too."""
    targets: tuple[str, ...] = ()
    """Numeric labels that are predicted."""

    @classmethod
    def of(
        cls,
        path: str | Path,
        *,
        features: Sequence[str],
        label: str | None,
        targets: Sequence[str] = (),
        genres: GenresConfig = NO_GENRES,
        source: str = "",
        cache_dir: Path | None = None,
    ) -> DataSpec:
        """Check the file and hash it.

        Args:
            path: or its `s3://` or `gs://` URI; it is copied into the cache then, unless it is there.
            source: the file that says `genres`, named in errors.

        Raises:
            DataError: if the file cannot be used, or lacks a feature set or the label set.
            ConfigError: if it lacks a class that `genres` name, or they leave fewer than two.
        """
        folder = cache_dir or default_cache_dir()
        uri = str(path) if is_uri(path) else None
        file = copy_here(uri, folder) if uri else Path(path)
        info = read_info(file)
        for feature in features:
            info.feature(feature)
        for target in targets:
            info.require_target(target)
        resolved = genre_map(info, label, genres, source=source)
        _require_equal_frames(info, features)
        sha256 = content_hash(file, memo=folder / "hashes.json")
        return cls(
            str(file.resolve()), tuple(features), label, sha256, str(folder), resolved, uri, targets=tuple(targets)
        )

    @property
    def name(self) -> str:
        """The file's name, as people know it."""
        return Path(self.uri.partition("?")[0] if self.uri else self.path).name

    def class_names(self, info: FileInfo) -> tuple[str, ...]:
        """The classes of the study, none if nothing is classified; `info` is of this file."""
        if self.label is None:
            return ()
        return info.classes(self.label) if self.genres is None else self.genres.names

    def to_json(self) -> dict[str, Any]:
        genres = None if self.genres is None else self.genres.to_json()
        return {**asdict(self), "features": list(self.features), "targets": list(self.targets), "genres": genres}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> DataSpec:
        """What `to_json` or `asdict` gave; specs of before there were genres or targets have none."""
        genres = values.get("genres")
        resolved = None if genres is None else GenreMap.from_json(genres)
        lists = {name: tuple(values.get(name, ())) for name in ("features", "targets")}
        return cls(**{**values, **lists, "genres": resolved})


def default_cache_dir() -> Path:
    """`FMASEARCH_CACHE`, or `fmasearch` under the user's cache folder."""
    if "FMASEARCH_CACHE" in os.environ:
        return Path(os.environ["FMASEARCH_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "fmasearch"


def check_labels(spec: DataSpec) -> None:
    """Look at the labels of train and val before anything expensive begins; features are left alone.

    Raises:
        DataError: as `read_columns`, or if a split lacks a label that the study predicts: there is nothing to learn
            from, or to choose a model by.
    """
    _target_stats(spec, study_columns(spec, "train"))
    _require_labels(spec, "val", study_columns(spec, "val"))


def prepare(spec: DataSpec, splits: Sequence[SplitName] = ("train", "val")) -> None:
    """Build what is missing of the cache, so that workers only map it."""
    info = read_info(spec.path)
    for split in splits:
        columns = _columns(spec, split)
        for name in spec.features:
            _levels_file(spec, info.feature(name), columns, split)


def open_dataset(spec: DataSpec, *, device: torch.device | str = "cpu", with_val: bool = True) -> Dataset:
    """Map train and val; the test split is not opened."""
    info = read_info(spec.path)
    columns = study_columns(spec, "train")
    targets = _target_stats(spec, columns)
    normalisers = tuple(_normaliser(spec, info.feature(name), columns) for name in spec.features)
    train = _build_split(spec, info, "train", columns, normalisers, device)
    val = None
    if with_val:
        columns = study_columns(spec, "val")
        _require_labels(spec, "val", columns)
        val = _build_split(spec, info, "val", columns, normalisers, device)
    return Dataset(train, val, spec.class_names(info), normalisers, targets)


def open_split(
    spec: DataSpec, split: SplitName, normalisers: Sequence[Normaliser], *, device: torch.device | str = "cpu"
) -> Split:
    """Map one split, standardised by `normalisers` (of the training split, or of a saved model)."""
    info = read_info(spec.path)
    columns = study_columns(spec, split)
    return _build_split(spec, info, split, columns, normalisers, device)


def study_columns(spec: DataSpec, split: SplitName) -> SplitColumns:
    """The columns of one split, labels as codes of the study's classes; still a row for every track of the split.

    Raises:
        DataError: as `read_columns`, or if no track of the split is of a class that the study keeps.
    """
    columns = _columns(spec, split)
    if spec.genres is None:
        return columns
    labels = spec.genres.apply(columns.labels)
    if (labels < 0).all() and np.isnan(columns.values).all():
        raise DataError(
            f"{spec.path}: labels/{spec.label}: no track of the {split} split is of a class that the study keeps: "
            f"{', '.join(spec.genres.names)}"
        )
    return replace(columns, labels=labels)


def _columns(spec: DataSpec, split: SplitName) -> SplitColumns:
    return read_columns(spec.path, split, features=spec.features, label=spec.label, targets=spec.targets)


def _target_stats(spec: DataSpec, train: SplitColumns) -> tuple[TargetStats, ...]:
    """Mean and standard deviation of each target over the training tracks that have it."""
    _require_labels(spec, "train", train)
    known = [values[~np.isnan(values)] for values in train.values.T.astype(np.float64)]
    return tuple(
        TargetStats(name, float(values.mean()), float(values.std()))
        for name, values in zip(spec.targets, known, strict=True)
    )


def _require_labels(spec: DataSpec, split: SplitName, columns: SplitColumns) -> None:
    """Every target has two different values, and something is of a class, where there are targets and classes."""
    for name, values in zip(spec.targets, columns.values.T, strict=True):
        known = values[~np.isnan(values)]
        if len(np.unique(known)) < 2:
            got = f"{len(known)} tracks, all with {known[0]:g}" if len(known) else "no track with a value"
            raise DataError(
                f"{spec.path}: labels/{name}: expected different values in the {split} split, got {got}; leave it out "
                f"of the task, or split the file again"
            )
    if spec.label is not None and (columns.labels < 0).all():  # beside targets, or nothing would have a label
        raise DataError(f"{spec.path}: labels/{spec.label}: no track of the {split} split has a label")


def _targets(spec: DataSpec, columns: SplitColumns, rows: NDArray[np.int64]) -> torch.Tensor:
    """Classes as int64 (n,), -1 = none; numbers as float32 (n, R), NaN = none; both as float32 (n, 1 + R)."""
    codes, values = columns.labels[rows], torch.from_numpy(columns.values[rows])
    if not spec.targets:
        return torch.from_numpy(codes)
    if spec.label is None:
        return values
    classes = torch.from_numpy(np.where(codes < 0, np.nan, codes).astype(np.float32))
    return torch.cat([classes[:, None], values], dim=1)


def _build_split(
    spec: DataSpec,
    info: FileInfo,
    split: SplitName,
    columns: SplitColumns,
    normalisers: Sequence[Normaliser],
    device: torch.device | str,
) -> Split:
    labelled = np.flatnonzero((columns.labels >= 0) | ~np.isnan(columns.values).all(axis=1))
    stores = []
    for name, normaliser in zip(spec.features, normalisers, strict=True):
        feature = info.feature(name)
        if len(normaliser.mean_F) != feature.shape[2]:
            raise DataError(
                f"{spec.path}: features/{name}: expected {len(normaliser.mean_F)} bins, got {feature.shape[2]}"
            )
        # Copy-on-write: nobody writes, so every process shares the page cache, and torch sees a writable array.
        levels = torch.from_numpy(np.load(_levels_file(spec, feature, columns, split), mmap_mode="c"))
        rows = None
        if len(labelled) < len(columns.labels):
            rows = torch.from_numpy(labelled)
            if torch.device(device).type != "cpu":  # a copy is made anyway: of the labelled tracks alone
                levels, rows = levels[rows], None
        stores.append(LevelStore.build(levels.to(device), feature.scale, feature.offset, normaliser, rows))
    return Split(
        name=split,
        stores=tuple(stores),
        lengths_N=torch.from_numpy(columns.lengths[labelled]),
        targets_N=_targets(spec, columns, labelled).to(device),
        track_ids=tuple(columns.track_ids[int(row)] for row in labelled),
        artist_ids=columns.artist_ids[labelled],
    )


def _levels_file(spec: DataSpec, feature: FeatureInfo, columns: SplitColumns, split: SplitName) -> Path:
    """The split's levels as `.npy`, built if absent: streamed in blocks, renamed when complete."""
    target = _folder(spec) / f"{feature.name}-{split}.npy"
    if target.exists():
        return target
    shape = (len(columns.rows), *feature.shape[1:])
    with replacing(target) as temporary:
        mapped = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.dtype(feature.dtype), shape=shape)
        done = 0
        for block in read_feature_blocks(spec.path, feature, columns.rows):
            _require_finite(spec, feature, block, columns, done)
            mapped[done : done + len(block)] = block
            done += len(block)
        mapped.flush()
    return target


def _normaliser(spec: DataSpec, feature: FeatureInfo, columns: SplitColumns) -> Normaliser:
    """Mean and standard deviation per bin over the training split's valid frames, in float64, kept in the cache."""
    target = _folder(spec) / f"{feature.name}-train-stats.npz"
    if not target.exists():
        mean, std = _measure(_levels_file(spec, feature, columns, "train"), feature, columns)
        with replacing(target) as temporary:
            np.savez(temporary, mean=mean, std=std)
    with np.load(target) as stats:
        mean_F, std_F = (torch.from_numpy(stats[name]).float() for name in ("mean", "std"))
    return Normaliser(mean_F, std_F, str(feature.settings.get("unit", "")))


def _measure(
    levels_file: Path, feature: FeatureInfo, columns: SplitColumns
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    levels_NTF: NDArray[Any] = np.load(levels_file, mmap_mode="r")
    frames_T = np.arange(levels_NTF.shape[1])
    count = 0
    total_F = np.zeros(levels_NTF.shape[2])
    squares_F = np.zeros(levels_NTF.shape[2])
    for start in range(0, len(levels_NTF), 256):
        valid_NT = frames_T < columns.lengths[start : start + 256, None]
        values = feature.offset + feature.scale * levels_NTF[start : start + 256][valid_NT].astype(np.float64)
        count += len(values)
        total_F += values.sum(axis=0)
        squares_F += np.square(values).sum(axis=0)
    mean_F = total_F / count
    std_F = np.sqrt(np.maximum(squares_F / count - np.square(mean_F), 0.0))
    return mean_F, np.where(std_F < _FLAT_STD, 1.0, std_F)


def _require_finite(
    spec: DataSpec, feature: FeatureInfo, block: NDArray[Any], columns: SplitColumns, done: int
) -> None:
    if block.dtype == np.uint8:
        return
    broken = np.flatnonzero(~np.isfinite(block).all(axis=(1, 2)))
    if len(broken):
        names = ", ".join(columns.track_ids[done + int(row)] for row in broken[:5])
        raise DataError(
            f"{spec.path}: features/{feature.name}: expected finite values, got NaN or infinity in "
            f"{len(broken)} tracks of this block (track_id {names}); set their split to -1 or prepare them again"
        )


def _require_equal_frames(info: FileInfo, features: Sequence[str]) -> None:
    frames = {name: info.feature(name).shape[1] for name in features}
    if len(set(frames.values())) > 1:
        raise DataError(f"{info.path}: features {frames}: expected equal numbers of frames to join them along bins")


def _folder(spec: DataSpec) -> Path:
    return Path(spec.cache_dir) / spec.sha256[:16]
