"""The search space: which values each key of a training may take, read from `spaces/*.yaml`.

Optuna is not imported: a space samples through whatever trial it is given.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fmasearch.config import GenresConfig, TaskConfig, TrainConfig, parse_section, parse_yaml
from fmasearch.errors import ConfigError, SpaceError
from fmasearch.records import Params, Scalar
from fmasearch.space.checks import check_known_good, check_together, check_values, with_values
from fmasearch.space.conditions import Compares, Condition, IsOneOf, all_conditions, is_active
from fmasearch.space.constraints import Constraint, Violation, first_violation, with_constraints
from fmasearch.space.distributions import Choice, Distribution, FloatRange, IntRange, SuggestingTrial
from fmasearch.space.paths import ARCHITECTURE, config_key, dotted, owner_of
from fmasearch.space.reading import read_draft

__all__ = [
    "Choice",
    "Compares",
    "Condition",
    "Constraint",
    "Distribution",
    "FloatRange",
    "IntRange",
    "IsOneOf",
    "Space",
    "SuggestingTrial",
    "Violation",
]

LARGEST_GRID = 100_000


@dataclass(frozen=True)
class Space:
    """A search space, checked as a whole; it holds plain values and pickles.

    Paths are `section/key`, or `section/architecture/key` for what stands in an architecture's block: a key that only
    this architecture has, or has in other ranges than the others. Both go to `section/key` of a configuration.
    """

    name: str
    description: str
    text: str
    """The YAML as it was read."""
    constants: Mapping[str, Any]
    """Nested like a `TrainConfig`: what every trial shares."""
    distributions: Mapping[str, Distribution]
    """By path, every key after the keys that its conditions ask about."""
    conditions: Mapping[str, tuple[Condition, ...]]
    """By path, for keys that are not always active: all must hold."""
    known_good: Mapping[str, Params]
    """Named points to try first, of sampled keys only; active keys they leave out are sampled."""
    constraints: tuple[Constraint, ...] = ()
    """Ceilings; a sample above one is rejected before it is trained, or stopped once that is known."""
    own_constants: Mapping[str, Params] = field(default_factory=dict)
    """By architecture, then by path: constants of its block, which only its own trials share."""

    @classmethod
    def load(cls, path: str | Path) -> Space:
        """Read a space file; the space is named after it.

        Raises:
            SpaceError: one line per problem, naming the file and the key.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise SpaceError(f"{path}: cannot be read: {reason}") from None
        return cls.parse(text, source=str(path), name=Path(path).stem)

    @classmethod
    def parse(cls, text: str, *, source: str = "space", name: str = "space") -> Space:
        """`load` for text; `source` names it in errors."""
        try:
            draft = read_draft(parse_yaml(text, source=source))
        except ConfigError as error:
            raise SpaceError(str(error)) from None
        known_good = check_known_good(draft)
        check_values(draft)
        if not draft.problems:
            check_together(draft)
        if draft.problems:  # the two choices of one key can meet the same refusal
            raise SpaceError("\n".join(f"{source}: {problem}" for problem in dict.fromkeys(draft.problems)))
        return cls(
            name=name,
            description=draft.description,
            text=text,
            constants=draft.constants,
            distributions=draft.distributions,
            conditions=draft.conditions,
            known_good=known_good,
            constraints=tuple(draft.constraints),
            own_constants=draft.own_constants,
        )

    @property
    def architectures(self) -> tuple[str, ...]:
        """What a trial's architecture may be, in the order of the file."""
        if (sampled := self.distributions.get(ARCHITECTURE)) is not None:
            return tuple(str(name) for name in sampled.corners())
        return (str(self.constants["model"]["architecture"]),)

    def architectures_of(self, path: str) -> tuple[str, ...]:
        """Those architectures with which a key, sampled or constant, may take part."""
        asked = [each for each in all_conditions(path, self.conditions) if each.key == ARCHITECTURE]
        own = owner_of(path)
        return tuple(
            each
            for each in self.architectures
            if own in (None, each) and all(condition.holds(each) for condition in asked)
        )

    def constrained(self, constraint: Constraint) -> Space:
        """The same space with `constraint` added, or in the place of one on the same quantity; in `text`, too."""
        others = tuple(each for each in self.constraints if each.quantity != constraint.quantity)
        constraints = (*others, constraint)
        return replace(self, text=with_constraints(self.text, constraints), constraints=constraints)

    def violation(self, values: Mapping[str, float]) -> Violation | None:
        """The first constraint that `values` (by quantity, as in `parameters`) do not keep, if any."""
        return first_violation(self.constraints, values)

    def sample(self, trial: SuggestingTrial) -> dict[str, Scalar]:
        """Let `trial` suggest a value for every active key; returns the sampled values by path alone."""
        sampled: dict[str, Scalar] = {}
        for path, distribution in self.distributions.items():
            if self.is_active(path, sampled):
                sampled[path] = distribution.suggest(trial, path)
        return sampled

    def is_active(self, path: str, params: Params) -> bool:
        """Whether the sampled key `path` takes part where the keys before it are `params`."""
        return is_active(self.conditions.get(path, ()), params)

    def constant(self, path: str) -> Scalar:
        """The constant at a path, also one of an architecture's block."""
        if (own := owner_of(path)) is not None:
            return self.own_constants[own][path]
        section, key = config_key(path)
        value: Scalar = self.constants[section][key]
        return value

    def config(self, params: Params) -> dict[str, Any]:
        """Constants and sampled values, nested as `TrainConfig.model_validate` takes them."""
        architecture = params.get(ARCHITECTURE, self.constants.get("model", {}).get("architecture"))
        return with_values(self.constants, {**self.own_constants.get(str(architecture), {}), **params})

    def train_config(self, params: Params, *, max_epochs: int, patience: int | None, seed: int) -> TrainConfig:
        """The training of one trial: the space says what, the search says how long and with which seed."""
        from_search: Params = {"trainer/max_epochs": max_epochs, "trainer/patience": patience}
        config = self.config({**params, **from_search})
        return parse_section(TrainConfig, {**config, "seed": seed}, source=self.name)

    def inputs(self) -> tuple[tuple[str, ...], TaskConfig]:
        """Feature sets and task, which every trial shares: neither can be searched."""
        fixed = {key: self.constants[key] for key in ("features", "task") if key in self.constants}
        config = TrainConfig.model_validate({**fixed, "model": {"architecture": "any"}})
        return config.features, config.task

    def genres(self) -> GenresConfig:
        """How classes are merged and dropped, which every trial shares, too."""
        return GenresConfig.model_validate(self.constants.get("genres", {}))

    def size(self) -> int | None:
        """The number of different points, counted without listing them; None if a key is continuous."""
        asked_about = {condition.key for some in self.conditions.values() for condition in some}
        counts: Counter[tuple[tuple[str, Scalar], ...]] = Counter({(): 1})
        for path, distribution in self.distributions.items():
            points = distribution.points()
            if points is None:
                return None
            longer: Counter[tuple[tuple[str, Scalar], ...]] = Counter()
            for known, count in counts.items():
                if not self.is_active(path, dict(known)):
                    longer[known] += count
                elif path not in asked_about:
                    longer[known] += count * len(points)
                else:
                    longer.update({(*known, (path, point)): count for point in points})
            counts = longer
        return counts.total()

    def grid(self) -> list[dict[str, Scalar]]:
        """Every point of a discrete space, the last key varying fastest.

        Raises:
            SpaceError: if a key is continuous, or the grid has more than 100,000 points.
        """
        continuous = [path for path, each in self.distributions.items() if each.points() is None]
        if continuous:
            raise SpaceError(
                "\n".join(
                    f"{self.name}: {dotted(path)}: a grid needs a finite number of values; "
                    f"give a step or a choice, got {self.distributions[path]}"
                    for path in continuous
                )
            )
        if (size := self.size() or 0) > LARGEST_GRID:
            raise SpaceError(f"{self.name}: the grid has {size:,} points, more than {LARGEST_GRID:,}; narrow the space")
        grid: list[dict[str, Scalar]] = [{}]
        for path, distribution in self.distributions.items():
            grid = [longer for point in grid for longer in self._extended(point, path, distribution.points() or ())]
        return grid

    def _extended(self, point: dict[str, Scalar], path: str, values: tuple[Scalar, ...]) -> list[dict[str, Scalar]]:
        if not self.is_active(path, point):
            return [point]
        return [{**point, path: value} for value in values]
