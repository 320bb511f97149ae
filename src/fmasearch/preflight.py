"""The dry plan: can every sampled model be built, how big are they, and is the budget sane? Costs a second."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from fmasearch.config import SearchConfig, TrainConfig
from fmasearch.data import FileInfo
from fmasearch.errors import ConfigError, SpaceError
from fmasearch.models import build_model
from fmasearch.records import Params, Scalar
from fmasearch.space import Space


@dataclass(frozen=True, slots=True)
class Preflight:
    """What a study would cost, in parameters and epochs."""

    num_sampled: int
    min_parameters: int
    max_parameters: int
    max_epochs_in_all: int
    """Trials times epochs: what would be trained if no trial were stopped."""


def check_study(space: Space, search: SearchConfig, info: FileInfo, *, num_samples: int = 50) -> Preflight:
    """Build the known-good points and `num_samples` random ones on the meta device.

    Raises:
        SpaceError: naming the space and the sampled values that cannot be built; or why it has no grid.
    """
    points: list[tuple[str, Params]] = [(f"known_good.{name}", p) for name, p in space.known_good.items()]
    generator = random.Random(search.seed)
    points += [("sample", space.sample(_RandomTrial(generator))) for _ in range(num_samples)]
    sizes = [_num_parameters(space, where, params, info) for where, params in points]
    grid = search.sampler.name == "grid"
    trials = min(search.num_trials, len(space.grid())) if grid else search.num_trials
    total = trials * search.max_epochs
    return Preflight(
        num_sampled=len(points),
        min_parameters=min(sizes),
        max_parameters=max(sizes),
        max_epochs_in_all=min(total, search.max_total_epochs or total),
    )


def count_parameters(config: TrainConfig, *, input_dim: int, num_frames: int, output_dim: int) -> int:
    """Trainable parameters of a configuration's model; nothing is allocated."""
    with torch.device("meta"):
        model = build_model(
            config.architecture,
            input_dim=input_dim,
            num_frames=num_frames,
            output_dim=output_dim,
            **config.hyperparameters,
        )
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def _num_parameters(space: Space, where: str, params: Params, info: FileInfo) -> int:
    # A known-good point may leave keys to the sampler; the model's own defaults stand in for them here.
    config = space.train_config(params, max_epochs=1, patience=None, seed=0)
    features = [info.feature(name) for name in config.features]
    try:
        return count_parameters(
            config,
            input_dim=sum(feature.shape[2] for feature in features),
            num_frames=features[0].shape[1],
            output_dim=len(info.classes(config.task.classification)),
        )
    except ConfigError as error:
        raise SpaceError(f"{space.name}: {where} {dict(params)}: {error}") from None


class _RandomTrial:
    """Draws values without Optuna, for a look at the space."""

    def __init__(self, generator: random.Random) -> None:
        self._generator = generator

    def suggest_categorical(self, name: str, choices: Sequence[Scalar]) -> Scalar:
        return self._generator.choice(list(choices))

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        if step is not None:
            return low + step * self._generator.randint(0, round((high - low) / step))
        if log:
            return float(min(high, max(low, low * (high / low) ** self._generator.random())))
        return self._generator.uniform(low, high)

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        if log:  # half a unit beyond both ends, so that they too are drawn
            exponent = self._generator.uniform(math.log(low - 0.5), math.log(high + 0.5))
            return min(high, max(low, round(math.exp(exponent))))
        return self._generator.randrange(low, high + 1, step)
