"""The dry plan: can every sampled model be built, how big are they, and is the budget sane? Costs a second."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from fmasearch.config import SearchConfig
from fmasearch.costs import limited_costs
from fmasearch.data import FileInfo, genre_map
from fmasearch.errors import ConfigError, SpaceError
from fmasearch.models import check_hyperparameters
from fmasearch.records import Params
from fmasearch.space import Constraint, Space, Violation
from fmasearch.space.constraints import MAX_FILLS, MAX_REJECTIONS, known_before_training
from fmasearch.space.paths import ARCHITECTURE, config_key, dotted, own_path, owner_of
from fmasearch.space.points import PointTrial

_Costs: TypeAlias = Mapping[str, float]  # by quantity: parameters, and flops where they are limited


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
    """Those that samples were held against: the ones known before a training."""

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
    check_models(space)
    grid = len(space.grid()) if search.sampler.name == "grid" else None
    total = min(search.num_trials, grid or search.num_trials) * search.max_epochs
    known_good = {name: _costs_of_known_good(space, name, search.seed, info) for name in space.known_good}
    left_out = tuple(f"known_good.{name}: {each}" for name, each in known_good.items() if isinstance(each, Violation))
    if left_out and not may_leave_out:
        raise SpaceError("\n".join(f"{space.name}: {line}" for line in left_out))
    samples = _sample_costs(space, search.seed, num_samples, info)
    kept = [costs for costs in samples if space.violation(costs) is None]
    costs_of_kept = [costs for costs in known_good.values() if not isinstance(costs, Violation)] + kept
    sizes = [int(costs["parameters"]) for costs in costs_of_kept]
    return Preflight(
        num_sampled=len(known_good) + len(samples),
        min_parameters=min(sizes),
        max_parameters=max(sizes),
        max_epochs_in_all=min(total, search.max_total_epochs or total),
        num_random=len(samples),
        num_rejected=len(samples) - len(kept),
        left_out=left_out,
        constraints=known_before_training(space.constraints),
    )


def check_models(space: Space) -> None:
    """Check each hyperparameter's name and values against every architecture with which it may take part.

    Without data: samples alone would miss a key that is seldom active, and say nothing about the others.

    Raises:
        SpaceError: one line for each key and architecture that do not fit.
    """
    problems = [
        f"{space.name}: {problem}" for path in _model_keys(space) for problem in _problems_of_model_key(space, path)
    ]
    if problems:
        raise SpaceError("\n".join(dict.fromkeys(problems)))


def _model_keys(space: Space) -> list[str]:
    constants = [f"model/{key}" for key in space.constants["model"]]
    own = [path for paths in space.own_constants.values() for path in paths]
    return [
        path
        for path in dict.fromkeys([*constants, *own, *space.distributions])
        if path.startswith("model/") and path != ARCHITECTURE
    ]


def _problems_of_model_key(space: Space, path: str) -> list[str]:
    fitting, problems = [], []
    distribution = space.distributions.get(path)
    for architecture in space.architectures_of(path):
        values = [space.constant(path)] if distribution is None else distribution.corners()
        found = [line for value in values for line in check_hyperparameters(architecture, {config_key(path)[1]: value})]
        problems += found
        fitting += [] if found else [architecture]
    if not problems or owner_of(path) is not None or len(space.architectures) == 1:
        return [_at(path, line) for line in problems]
    hint = _hint(path, fitting)
    return [f"{_at(path, line)}; {hint}" for line in problems]


def _at(path: str, line: str) -> str:
    return f"{dotted(path)}{line.removeprefix('.'.join(config_key(path)))}"


def _hint(path: str, fitting: Sequence[str]) -> str:
    """How to keep a shared key from architectures that it does not fit."""
    if not fitting:
        return "no architecture of this space takes it so"
    section, key = config_key(own_path(path, fitting[0]))
    block = f"{section}: {{{fitting[0]}: {{{key}: ...}}}}"
    return f"give it `when: {{{ARCHITECTURE}: [{', '.join(fitting)}]}}`, or say it apart, as in `{block}`"


def _check_genres(space: Space, info: FileInfo) -> None:
    _, task = space.inputs()
    try:
        genre_map(info, task.label, space.genres(), source=space.name)
    except ConfigError as error:
        raise SpaceError(str(error)) from None


def _sample_costs(space: Space, seed: int, num_samples: int, info: FileInfo) -> list[_Costs]:
    """Costs of random samples; of more than asked for, where none of them keeps the constraints."""
    generator = random.Random(seed)
    samples: list[_Costs] = []
    none_fits = bool(known_before_training(space.constraints)) and num_samples > 0
    while len(samples) < num_samples or (none_fits and len(samples) < MAX_REJECTIONS):
        samples.append(_costs(space, "sample", space.sample(PointTrial({}, generator)), info))
        none_fits = none_fits and space.violation(samples[-1]) is not None
    if none_fits:
        raise SpaceError(
            f"{space.name}: constraints: none of {len(samples):,} samples keeps them: {_least(space, samples)}. "
            f"Raise the ceiling, or narrow the space"
        )
    return samples


def _least(space: Space, samples: Sequence[_Costs]) -> str:
    """How far the samples are from the constraints that none of them keeps."""
    least = {name: min(costs[name] for costs in samples) for name in samples[0]}
    violation = space.violation(least)
    return f"{violation} at the least" if violation else "each keeps one at the cost of another"


def _costs_of_known_good(space: Space, name: str, seed: int, info: FileInfo) -> _Costs | Violation:
    """Costs of a known-good point, or what it breaks however the keys are filled in that it leaves open."""
    point = space.known_good[name]
    generator = random.Random(seed)
    where = f"known_good.{name}"
    # The model's own defaults stand in for missing keys at first; an architecture has none.
    no_architecture = ARCHITECTURE in space.distributions and ARCHITECTURE not in point
    best = _costs(space, where, space.sample(PointTrial(point)) if no_architecture else point, info)
    for _ in range(MAX_FILLS if known_before_training(space.constraints) else 0):
        if space.violation(best) is None:
            break
        filled = space.sample(PointTrial(point, generator))
        if len(filled) == len(point):
            break
        best = min(best, _costs(space, where, filled, info), key=lambda costs: _rank(space, costs))
    return space.violation(best) or best


def _rank(space: Space, costs: _Costs) -> tuple[bool, float]:
    """Those that keep the constraints come first, then the smaller ones."""
    return space.violation(costs) is not None, costs["parameters"]


def _costs(space: Space, where: str, params: Params, info: FileInfo) -> _Costs:
    config = space.train_config(params, max_epochs=1, patience=None, seed=0)
    try:
        return limited_costs(config, info, space.constraints)
    except ConfigError as error:
        raise SpaceError(f"{space.name}: {where} {dict(params)}: {error}") from None
