"""The dry plan: can every sampled model be built, how big are they, and is the budget sane? Costs a second."""

from __future__ import annotations

import random
from dataclasses import dataclass

from fmasearch.config import SearchConfig
from fmasearch.data import FileInfo, genre_map, model_shape
from fmasearch.errors import ConfigError, SpaceError
from fmasearch.models import count_parameters
from fmasearch.records import Params
from fmasearch.space import Constraint, Space, Violation
from fmasearch.space.constraints import MAX_FILLS, MAX_REJECTIONS
from fmasearch.space.points import PointTrial


@dataclass(frozen=True, slots=True)
class Preflight:
    """What a study would cost, in parameters and epochs. Sizes are of the models that keep the constraints."""

    num_sampled: int
    """Models built, known-good points among them."""
    min_parameters: int
    max_parameters: int
    max_epochs_in_all: int
    """Trials times epochs: what would be trained if no trial were stopped."""
    num_random: int = 0
    num_rejected: int = 0
    """So many of `num_random` samples break a constraint."""
    left_out: tuple[str, ...] = ()
    """Known-good points that break one, and how."""
    constraints: tuple[Constraint, ...] = ()

    @property
    def sizes(self) -> str:
        """How large the models are, in words; what share of samples the constraints turn down."""
        words = f"{self.min_parameters:,} to {self.max_parameters:,} parameters"
        if not self.constraints:
            return words
        limits = " and ".join(str(constraint) for constraint in self.constraints)
        return f"{words} ({limits} rejects {self.num_rejected} of {self.num_random} samples)"


def check_study(
    space: Space, search: SearchConfig, info: FileInfo, *, num_samples: int = 50, may_leave_out: bool = False
) -> Preflight:
    """Build the known-good points and `num_samples` random ones on the meta device.

    Args:
        may_leave_out: report known-good points that break a constraint, rather than to raise.

    Raises:
        SpaceError: naming the space and the sampled values that cannot be built; or what breaks its constraints; or
            why it has no grid; or which of its genres the file lacks.
    """
    _check_genres(space, info)
    grid = len(space.grid()) if search.sampler.name == "grid" else None
    total = min(search.num_trials, grid or search.num_trials) * search.max_epochs
    known_good = {name: _size_of_known_good(space, name, search.seed, info) for name in space.known_good}
    left_out = tuple(f"known_good.{name}: {each}" for name, each in known_good.items() if isinstance(each, Violation))
    if left_out and not may_leave_out:
        raise SpaceError("\n".join(f"{space.name}: {line}" for line in left_out))
    samples = _sample_sizes(space, search.seed, num_samples, info)
    kept = [size for size in samples if space.violation({"parameters": size}) is None]
    sizes = [size for size in known_good.values() if isinstance(size, int)] + kept
    return Preflight(
        num_sampled=len(known_good) + len(samples),
        min_parameters=min(sizes),
        max_parameters=max(sizes),
        max_epochs_in_all=min(total, search.max_total_epochs or total),
        num_random=len(samples),
        num_rejected=len(samples) - len(kept),
        left_out=left_out,
        constraints=space.constraints,
    )


def _check_genres(space: Space, info: FileInfo) -> None:
    _, task = space.inputs()
    try:
        genre_map(info, task.label, space.genres(), source=space.name)
    except ConfigError as error:
        raise SpaceError(str(error)) from None


def _sample_sizes(space: Space, seed: int, num_samples: int, info: FileInfo) -> list[int]:
    """Parameters of random samples; of more than asked for, where none of them keeps the constraints."""
    generator = random.Random(seed)
    sizes: list[int] = []
    none_fits = bool(space.constraints) and num_samples > 0
    while len(sizes) < num_samples or (none_fits and len(sizes) < MAX_REJECTIONS):
        sizes.append(_num_parameters(space, "sample", space.sample(PointTrial({}, generator)), info))
        none_fits = none_fits and space.violation({"parameters": sizes[-1]}) is not None
    if none_fits:
        violation = space.violation({"parameters": min(sizes)})
        raise SpaceError(
            f"{space.name}: constraints: none of {len(sizes):,} samples keeps them: {violation} at the least. "
            f"Raise the ceiling, or narrow the space"
        )
    return sizes


def _size_of_known_good(space: Space, name: str, seed: int, info: FileInfo) -> int | Violation:
    """Parameters of a known-good point, or what it breaks however the keys are filled in that it leaves open."""
    point = space.known_good[name]
    generator = random.Random(seed)
    # The model's own defaults stand in for missing keys at first.
    smallest = _num_parameters(space, f"known_good.{name}", point, info)
    for _ in range(MAX_FILLS if space.constraints else 0):
        if space.violation({"parameters": smallest}) is None:
            break
        filled = space.sample(PointTrial(point, generator))
        if len(filled) == len(point):
            break
        smallest = min(smallest, _num_parameters(space, f"known_good.{name}", filled, info))
    return space.violation({"parameters": smallest}) or smallest


def _num_parameters(space: Space, where: str, params: Params, info: FileInfo) -> int:
    config = space.train_config(params, max_epochs=1, patience=None, seed=0)
    try:
        return count_parameters(config.architecture, **model_shape(info, config), **config.hyperparameters)
    except ConfigError as error:
        raise SpaceError(f"{space.name}: {where} {dict(params)}: {error}") from None
