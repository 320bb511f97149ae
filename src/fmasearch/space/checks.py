"""Checks of a whole search space: its known-good points lie inside it, and training accepts its values."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, TypeAlias

from pydantic import ValidationError

from fmasearch.config import TrainConfig, did_you_mean, explain
from fmasearch.records import Params, Scalar
from fmasearch.space.conditions import Condition, all_conditions, can_hold
from fmasearch.space.distributions import FloatRange, same_value
from fmasearch.space.paths import ARCHITECTURE, config_key, dotted, owner_of
from fmasearch.space.reading import Draft

_Place: TypeAlias = tuple[int | str, ...]  # where pydantic met a problem, such as ("optimizer", "name")


def with_values(constants: Mapping[str, Any], params: Params) -> dict[str, Any]:
    """Nested `constants` with the values of `params` put at their paths; the input stays as it is."""
    config = {name: dict(block) if isinstance(block, Mapping) else block for name, block in constants.items()}
    for path, value in params.items():
        section, key = config_key(path)
        config.setdefault(section, {})[key] = value
    return config


def check_known_good(draft: Draft) -> dict[str, Params]:
    """The points, of sampled keys alone; what lies outside the space becomes problems of `draft`.

    In a point `model/hidden_dim` may stand for the key of that name that the point's architecture has alone.
    """
    named = {name: _resolved(draft, point) for name, point in draft.known_good.items()}
    return {
        name: {
            path: draft.distributions[path].canonical(value)
            for path, value in point.items()
            if _fits(draft, name, point, path)
        }
        for name, point in named.items()
    }


def _resolved(draft: Draft, point: Params) -> Params:
    architecture = point.get(ARCHITECTURE, draft.architectures[0] if len(draft.architectures) == 1 else None)
    return {draft.resolved(path, architecture): value for path, value in point.items()}


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
    for own in draft.own_constants.values():
        draft.problems += [line for path, value in own.items() for line in _new(base, refused, path, value)]


def check_together(draft: Draft) -> None:
    """Find keys that can never take part, and keys of the same name that two places give one architecture.

    Only for a draft without problems: conditions that go round in a circle would never end.
    """
    for path in draft.distributions:
        if reason := _never(draft, path):
            draft.problems.append(f"{dotted(path)}.when: can never hold: {reason}")
    first: dict[tuple[tuple[str, str], str], str] = {}
    for path in draft.keys:
        for architecture in _architectures_of(draft, path):
            other = first.setdefault((config_key(path), architecture), path)
            if other != path:
                draft.problems.append(
                    f"{dotted(path)}: {dotted(other)} gives the same key of {architecture}, too: say it in one place, "
                    f"or give the key outside the block a `when: {{model/architecture: [...]}}` without {architecture}"
                )


def _never(draft: Draft, path: str) -> str | None:
    """Why the conditions of a key, with those of the keys they ask about, cannot hold together; None if they can."""
    by_key: dict[str, list[Condition]] = {}
    for condition in all_conditions(path, draft.conditions):
        by_key.setdefault(condition.key, []).append(condition)
    for key, some in by_key.items():
        if not can_hold(some, draft.distributions[key]):
            return " and ".join(dict.fromkeys(str(condition) for condition in some))
    return None


def _architectures_of(draft: Draft, path: str) -> list[str]:
    """The architectures with which a key may take part."""
    asked = [each for each in all_conditions(path, draft.conditions) if each.key == ARCHITECTURE]
    own = owner_of(path)
    chosen = draft.architectures if own is None else (own,)
    return [each for each in chosen if all(condition.holds(each) for condition in asked)]


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
    lines = [line for place, line in _refusals(with_values(base, {path: value})) if place not in refused]
    there, here = ".".join(config_key(path)), dotted(path)
    return [f"{here}{line.removeprefix(there)}" if line.startswith(f"{there}:") else line for line in lines]


def _refusals(config: dict[str, Any]) -> Iterator[tuple[_Place, str]]:
    """What `TrainConfig` has against `config`: place and line of each problem."""
    try:
        TrainConfig.model_validate(config)
    except ValidationError as error:
        for problem in error.errors():
            yield problem["loc"], explain(TrainConfig, problem)
