"""Samples of a space with what their models cost, counted on the meta device."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from fmasearch.config import TrainConfig
from fmasearch.costs import ModelCost, model_cost
from fmasearch.data import FileInfo
from fmasearch.errors import ConfigError, SpaceError
from fmasearch.records import Params
from fmasearch.space import Constraint, Space
from fmasearch.space.paths import ARCHITECTURE
from fmasearch.space.points import PointTrial
from fmasearch.trainer import REGULARISERS


@dataclass(frozen=True, slots=True)
class Sample:
    """One configuration and its model's cost."""

    name: str
    """Of a known-good point; `sample` if it was drawn."""
    config: TrainConfig
    cost: ModelCost
    broken: tuple[Constraint, ...] = ()
    """Constraints that its model does not keep."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """Samples that were drawn, known-good points beside them."""

    random: tuple[Sample, ...]
    known_good: tuple[Sample, ...]
    num_wanted: int
    """Random samples that were asked for; fewer were drawn where counting them took too long."""

    @property
    def kept(self) -> tuple[Sample, ...]:
        """Random samples that keep the constraints; known-good points too, where no random one does."""
        kept = tuple(sample for sample in self.random if not sample.broken)
        return kept or tuple(sample for sample in self.known_good if not sample.broken)

    @property
    def num_rejected(self) -> int:
        return sum(bool(sample.broken) for sample in self.random)

    @property
    def rejected_by(self) -> dict[Constraint, int]:
        """Random samples that each constraint turns down; one sample may break several."""
        return dict(Counter(constraint for sample in self.random for constraint in sample.broken))


def draw_samples(
    space: Space,
    info: FileInfo,
    *,
    seed: int,
    num_samples: int = 200,
    max_seconds: float = 20.0,
    clock: Callable[[], float] = time.monotonic,
) -> Sampling:
    """Draw the known-good points and random samples, and count what their models cost.

    The random ones are those that a study of the same seed is checked with. Dropout and the like change no size, so
    models that differ in them alone are counted once.

    Args:
        max_seconds: when it ends with fewer samples than asked for; one is drawn at least.

    Raises:
        SpaceError: naming the space and the sampled values that cannot be built.
    """
    started = clock()
    known_good = [_sample(space, name, _filled(space, name), info) for name in space.known_good]
    drawn: list[Sample] = []
    for params in _random_points(space, seed, num_samples):
        drawn.append(_sample(space, "sample", params, info))
        if clock() - started > max_seconds:
            break
    return Sampling(tuple(drawn), tuple(known_good), num_samples)


def _random_points(space: Space, seed: int, num_samples: int) -> Iterator[Params]:
    generator = random.Random(seed)
    for _ in range(num_samples):
        yield space.sample(PointTrial({}, generator))


def _filled(space: Space, name: str) -> Params:
    """A known-good point; the model's own defaults stand for what it leaves open, but for an architecture."""
    point = space.known_good[name]
    no_architecture = ARCHITECTURE in space.distributions and ARCHITECTURE not in point
    return space.sample(PointTrial(point)) if no_architecture else point


def _sample(space: Space, name: str, params: Params, info: FileInfo) -> Sample:
    config = space.train_config(params, max_epochs=1, patience=None, seed=0)
    try:
        cost = model_cost(_plain(config), info)
    except ConfigError as error:
        where = name if name == "sample" else f"known_good.{name}"
        raise SpaceError(f"{space.name}: {where} {dict(params)}: {error}") from None
    values = {"parameters": cost.parameters, "flops": cost.flops}
    broken = (each for each in space.constraints if each.quantity in values and not each.holds(values[each.quantity]))
    return Sample(name, config, cost, tuple(broken))


def _plain(config: TrainConfig) -> TrainConfig:
    """The configuration with every rate of dropout the same, and no patches left out: more models are equal then.

    A transformer that leaves out patches in training takes less memory than is counted so.
    """
    plain = {
        name: 0.0 if "patchout" in name else 0.1
        for name, value in config.hyperparameters.items()
        if name.endswith(REGULARISERS) and isinstance(value, float) and 0 < value < 1
    }
    return config.model_copy(update={"model": {**config.model, **plain}})
