"""What tests share: small synthetic feature files, a cache of their own, and one thread of torch."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from xdist.scheduler import LoadScopeScheduling

from fmasearch.cli import main
from fmasearch.config import TrainConfig
from fmasearch.data import Dataset, DataSpec, FeatureArray, open_dataset, write_feature_file
from fmasearch.records import EpochResult, Params
from fmasearch.trainer import Trainer

torch.set_num_threads(1)  # tests run beside each other, and beside studies

CLASSES = ("rock", "jazz", "folk", "dub")

MASKS = {"num_freq_masks": 1, "freq_mask_bins": 3, "num_time_masks": 1, "time_mask_frames": 6, "probability": 0.8}
"""SpecAugment that fits those files."""


_SMALL_RNN: Params = {"hidden_dim": 8, "rnn_dim": 8, "num_layers": 1, "dropout": 0.2}
_SMALL_2D: Params = {"base_channels": 4, "num_blocks": 2, "pool_bins": 2, "dropout": 0.2}
SMALL: dict[str, Params] = {
    "cnn_gru": _SMALL_RNN,
    "cnn_lstm": _SMALL_RNN,
    "cnn_bilstm": _SMALL_RNN,
    "lstm": {"hidden_dim": 8, "num_layers": 1, "frame_stride": 2, "dropout": 0.2},
    "cnn2d": {**_SMALL_2D, "feature_size": 16},
    "resnet": {"base_channels": 8, "num_blocks": 4, "dropout": 0.2},
    "cnn2d_gru": {**_SMALL_2D, "rnn_dim": 8},
    "cnn2d_lstm": {**_SMALL_2D, "rnn_dim": 8},
    "stats": {"hidden_dim": 16, "dropout": 0.2},
    "ast": {"size": "micro", "time_stride": 4, "dropout": 0.2, "drop_path": 0.1, "patchout_time": 0.3},
    "conformer": {"hidden_dim": 16, "num_layers": 1, "num_heads": 2, "num_conv_layers": 1, "conv_channels": 4},
}
"""Every architecture at a few thousand parameters (ast: half a million), its random parts switched on."""


def make_feature_file(
    path: Path,
    *,
    tracks: tuple[int, int, int] = (24, 8, 8),
    num_classes: int = 4,
    num_frames: int = 24,
    num_bins: int = 8,
    dtype: str = "float16",
    contrast: float = 10.0,
    varying_lengths: bool = False,
    chroma: bool = False,
    artists: bool = True,
    unlabelled: Sequence[int] = (),
    targets: Sequence[str] = (),
    missing: Mapping[str, Sequence[int]] = MappingProxyType({}),
    seed: int = 0,
) -> Path:
    """Write a feature file whose class k is louder by `contrast` dB in every bin that is k modulo `num_classes`.

    Args:
        tracks: of train, val and test; rows are dealt to the splits in turn, classes take turns in each split.
        dtype: float16 dB, or uint8 levels of 0.5 dB from -80 dB.
        contrast: against noise of 5 dB per cell: 10 is separable, 0 is noise alone.
        varying_lengths: half the frames to all of them; padding is 0.
        chroma: add a second feature set of 4 bins, which knows nothing of the class.
        artists: two tracks of a split each, or all unknown.
        unlabelled: rows without a class.
        targets: numeric labels beside `valence`, which is noise: by how many dB bin 0, 1, ... of a track is louder
            than its class makes it, 6 dB one way or the other.
        missing: rows without a value, by name of a numeric label.
    """
    generator = np.random.default_rng(seed)
    split = _dealt(tracks)
    num_tracks = len(split)
    place = np.array([np.count_nonzero(split[:row] == code) for row, code in enumerate(split)])
    genre = place % num_classes
    louder = np.arange(num_bins) % num_classes == genre[:, None]
    mel = generator.normal(-40.0, 5.0, (num_tracks, num_frames, num_bins)) + contrast * louder[:, None, :]
    louder_by = np.random.default_rng(seed + 1).normal(
        0.0, 6.0, (num_tracks, len(targets))
    )  # apart: draws nothing else
    mel[:, :, : len(targets)] += louder_by[:, None, :]
    full = np.full(num_tracks, num_frames)
    lengths = generator.integers(num_frames // 2, num_frames + 1, num_tracks) if varying_lengths else full
    padding = np.arange(num_frames) >= lengths[:, None]
    features = {"mel": _stored(mel, dtype, padding)}
    if chroma:
        features["chroma"] = _stored(generator.random((num_tracks, num_frames, 4)), "float16", padding)
    genre[list(unlabelled)] = -1
    numbers = {"valence": generator.random(num_tracks), **dict(zip(targets, louder_by.T, strict=True))}
    for name, rows in missing.items():
        numbers[name][list(rows)] = np.nan
    write_feature_file(
        path,
        corpus="synthetic",
        features=features,
        lengths=dict.fromkeys(features, lengths),
        classes={"genre": (CLASSES[:num_classes], genre)},
        targets=numbers,
        split=split,
        track_ids=[f"track-{row:03d}" for row in range(num_tracks)],
        artist_ids=100 * split + place // 2 if artists else None,
    )
    return path


def spec_of(path: Path, *features: str, label: str | None = "genre", targets: Sequence[str] = ()) -> DataSpec:
    """The study's view of a feature file: `mel` unless other features are named."""
    return DataSpec.of(path, features=features or ("mel",), label=label, targets=targets)


def make_dataset(path: Path, **options: Any) -> Dataset:
    """Write a feature file and open train and val."""
    return open_dataset(spec_of(make_feature_file(path, **options)))


def make_config(
    architecture: str = "cnn_gru", *, seed: int = 0, model: Params | None = None, **sections: Any
) -> TrainConfig:
    """A training of `SMALL[architecture]`; `sections` as in a `TrainConfig`."""
    small = {"architecture": architecture, **SMALL[architecture]}
    sections = {"optimizer": {"learning_rate": 5e-3}, **sections}
    sections["trainer"] = {"batch_size": 8, "max_epochs": 4, **sections.get("trainer", {})}
    return TrainConfig.model_validate(
        {"task": {"classification": "genre"}, "model": {**small, **(model or {})}, "seed": seed, **sections}
    )


def curve(results: Iterator[EpochResult]) -> list[EpochResult]:
    """Epochs without the one number that may differ."""
    return [replace(result, epoch_seconds=0.0) for result in results]


def weights_of(trainer: Trainer) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}


def assert_equal_weights(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


def run_cli(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """The exit code of `fmasearch ARGUMENTS`, in this process."""
    monkeypatch.setattr(sys, "argv", ["fmasearch", *map(str, arguments)])
    monkeypatch.setenv("COLUMNS", "160")
    with pytest.raises(SystemExit) as ended:
        main()
        raise SystemExit(0)
    return int(ended.value.code or 0)


def diverge(trainer: Trainer) -> None:
    with torch.no_grad():
        next(trainer.model.parameters()).fill_(math.inf)


class RayTogether(LoadScopeScheduling):
    """Deals out whole files to the processes of `pytest -n`; those that start a Ray go to one, one after the other."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "ray" if "pytest.mark.ray" in (self.config.rootpath / file).read_text(encoding="utf-8") else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> RayTogether:
    return RayTogether(config, log)


@pytest.fixture(autouse=True)
def cache_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own; nobody's real one is read or written."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("FMASEARCH_CACHE", str(folder))
    return folder


@pytest.fixture
def feature_file(tmp_path: Path) -> Path:
    """40 tracks of four separable classes: 24 train, 8 val, 8 test."""
    return make_feature_file(tmp_path / "small.h5")


@pytest.fixture
def dataset(feature_file: Path) -> Dataset:
    return open_dataset(spec_of(feature_file))


@pytest.fixture
def noisy(tmp_path: Path) -> Dataset:
    """Clips of varying lengths whose classes overlap, so that curves have something to tell."""
    return make_dataset(tmp_path / "noisy.h5", contrast=1.0, varying_lengths=True, dtype="uint8")


def _dealt(tracks: tuple[int, int, int]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Split codes with splits interleaved for as long as each has tracks left: rows of a split are no run."""
    left, dealt = list(tracks), []
    while any(left):
        for code in range(3):
            if left[code]:
                left[code] -= 1
                dealt.append(code)
    return np.array(dealt)


def _stored(values: Any, dtype: str, padding: Any) -> FeatureArray:
    levels = np.round((values + 80.0) / 0.5).clip(0, 255) if dtype == "uint8" else values
    levels[padding] = 0
    settings = {"sample_rate": 16_000, "hop_length": 512, "unit": "dB"}
    return FeatureArray(levels.astype(dtype), settings, scale=0.5 if dtype == "uint8" else 1.0, offset=-80.0)
