"""Checks of a whole search space: its known-good points lie inside it, and training accepts its values."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, TypeAlias

from pydantic import ValidationError

from fmasearch.config import TrainConfig, did_you_mean, explain
from fmasearch.records import Params, Scalar
from fmasearch.space.distributions import FloatRange, same_value
from fmasearch.space.reading import Draft

_Place: TypeAlias = tuple[int | str, ...]  # where pydantic met a problem, such as ("optimizer", "name")


def with_values(constants: Mapping[str, Any], params: Params) -> dict[str, Any]:
    """Nested `constants` with the values of `params` put at their paths; the input stays as it is."""
    config = {name: dict(block) if isinstance(block, Mapping) else block for name, block in constants.items()}
    for path, value in params.items():
        section, _, key = path.partition("/")
        config.setdefault(section, {})[key] = value
    return config


def check_known_good(draft: Draft) -> dict[str, Params]:
    """The points, of sampled keys alone; what lies outside the space becomes problems of `draft`."""
    return {
        name: {
            path: draft.distributions[path].canonical(value)
            for path, value in point.items()
            if _fits(draft, name, point, path)
        }
        for name, point in draft.known_good.items()
    }


def _fits(draft: Draft, name: str, point: Params, path: str) -> bool:
    """Whether one entry of a point belongs to what is sampled; a constant's own value is merely repeated."""
    value = point[path]
    if path not in draft.keys:
        problem = f"no such key in this space{did_you_mean(path, draft.keys)}"
    elif path not in draft.distributions:
        if path in draft.refused or same_value(draft.constant(path), value):
            return False
        problem = f"is always {draft.constant(path)!r} in this space, got {value!r}"
    elif not draft.distributions[path].contains(value):
        problem = f"expected {draft.distributions[path]}, got {value!r}"
    elif reason := _inactive(draft, point, path):
        problem = reason
    else:
        return True
    draft.problems.append(f"known_good.{name}: {path}: {problem}")
    return False


def _inactive(draft: Draft, point: Params, path: str) -> str | None:
    """Why `path` takes no part in the point; it must follow from the point itself, or it would be luck."""
    for condition in draft.conditions.get(path, ()):
        if condition.key not in point:
            return f"takes part only when {condition}, and the point does not name {condition.key}"
        if not condition.holds(point[condition.key]):
            return f"takes part only when {condition}, got {point[condition.key]!r}"
    return None


def check_values(draft: Draft) -> None:
    """Let `TrainConfig` judge the constants, and each distribution's ends or choices one at a time.

    Its limits are ranges, so that a range whose two ends pass lies inside.
    """
    base = _base(draft)
    refused = dict(_refusals(base))
    draft.problems += refused.values()
    for path, distribution in draft.distributions.items():
        lines = [line for corner in distribution.corners() for line in _new(base, refused, path, corner)]
        if not lines and isinstance(distribution, FloatRange):
            lines = _new(base, refused, path, distribution.between())
        draft.problems += lines


def _base(draft: Draft) -> dict[str, Any]:
    """The constants, with something in the place of what is required but sampled or refused already."""
    stand_ins: dict[str, Scalar] = {}
    if "task" in draft.refused:
        stand_ins["task/classification"] = "?"
    if {"model", "model/architecture"} & draft.refused:
        stand_ins["model/architecture"] = "?"
    if architectures := draft.distributions.get("model/architecture"):
        stand_ins["model/architecture"] = architectures.corners()[0]
    return with_values(draft.constants, stand_ins)


def _new(base: dict[str, Any], refused: Collection[_Place], path: str, value: Scalar) -> list[str]:
    """What `TrainConfig` has against `value` at `path`, apart from what it has against the base itself."""
    return [line for place, line in _refusals(with_values(base, {path: value})) if place not in refused]


def _refusals(config: dict[str, Any]) -> Iterator[tuple[_Place, str]]:
    """What `TrainConfig` has against `config`: place and line of each problem."""
    try:
        TrainConfig.model_validate(config)
    except ValidationError as error:
        for problem in error.errors():
            yield problem["loc"], explain(TrainConfig, problem)
