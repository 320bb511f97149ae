"""The draft of a search space: a YAML file taken apart leaf by leaf, with every problem that was met.

Reading goes on after a problem, so that one error names them all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fmasearch.config import TrainConfig, did_you_mean
from fmasearch.records import Params, Scalar
from fmasearch.space.conditions import Condition, IsOneOf, domain_of, read_condition, sampling_order
from fmasearch.space.constraints import Constraint, read_constraint
from fmasearch.space.distributions import Choice, Distribution, FloatRange, IntRange
from fmasearch.space.paths import ARCHITECTURE, config_key, dotted, own_path, owner_of

_SECTIONS = [name for name in TrainConfig.model_fields if name != "seed"]
_FIXED_SECTIONS = ("features", "task", "genres")  # they decide what a score means, so trials must share them
_OWN_NAMES = {"genres": "merge", "task": "multitask"}  # mappings whose keys are the user's own, and no words of a space
_OF_THE_SEARCH = (("trainer", "max_epochs"), ("trainer", "patience"))
_KINDS = ("choice", "float", "int")
_WORDS = [*_KINDS, "log", "step", "when"]


@dataclass
class Draft:
    """A space in the making. `keys` are all paths of the file; `refused` spares problems that only follow."""

    description: str = ""
    architectures: tuple[str, ...] = ()
    """What `model.architecture` may be, as far as it is read before the rest."""
    constants: dict[str, Any] = field(default_factory=dict)
    own_constants: dict[str, dict[str, Scalar]] = field(default_factory=dict)
    """Constants that stand in an architecture's block: by architecture, then by path."""
    distributions: dict[str, Distribution] = field(default_factory=dict)
    conditions: dict[str, tuple[Condition, ...]] = field(default_factory=dict)
    known_good: dict[str, Params] = field(default_factory=dict)
    constraints: list[Constraint] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    refused: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)

    def refuse(self, path: str, problem: object) -> None:
        self.refused.add(path)
        self.problems.append(f"{dotted(path)}: {problem}")

    def constant(self, path: str) -> Scalar:
        """The constant at one of `keys` that is neither sampled nor refused."""
        if (owner := owner_of(path)) is not None:
            return self.own_constants[owner][path]
        section, key = config_key(path)
        value: Scalar = self.constants[section][key]
        return value

    def resolved(self, path: str, architecture: object) -> str:
        """`model/hidden_dim` as the architecture's own key, where it has one of that name in its block."""
        own = own_path(path, str(architecture))
        return own if owner_of(path) is None and own in self.keys else path


def read_draft(values: Mapping[str, Any]) -> Draft:
    """Take a parsed space file apart. Whatever is wrong stands in `problems`, as `key: what`."""
    draft = Draft(architectures=_architectures(values))
    whens: dict[str, object] = {}
    for name, content in values.items():
        if name == "description":
            draft.description = str(content or "").strip()
        elif name == "known_good":
            _read_known_good(draft, content)
        elif name == "constraints":
            _read_constraints(draft, content)
        elif name in _FIXED_SECTIONS:
            _read_fixed_section(draft, name, content)
        elif name in _SECTIONS:
            _read_section(draft, name, content, whens)
        else:
            draft.problems.append(_unknown_section(str(name)))
    for path, when in whens.items():
        draft.conditions[path] = _read_when(draft, path, when)
    _tie_blocks_to_architectures(draft)
    _put_in_sampling_order(draft)
    return draft


def _architectures(values: Mapping[str, Any]) -> tuple[str, ...]:
    """What the file lets `model.architecture` be. What is wrong about it is found with the other keys."""
    model = values.get("model")
    leaf = model.get("architecture") if isinstance(model, Mapping) else None
    listed = leaf.get("choice") if isinstance(leaf, Mapping) else [leaf]
    return tuple(each for each in listed if isinstance(each, str)) if isinstance(listed, list) else ()


def _unknown_section(name: str) -> str:
    if name == "seed":
        return "seed: belongs to the search file; every trial derives its own from it"
    return f"{name}: unknown section{did_you_mean(name, [*_SECTIONS, 'description', 'known_good', 'constraints'])}"


def _read_fixed_section(draft: Draft, name: str, content: Any) -> None:
    for key, leaf in _fixed_leaves(name, content):
        if isinstance(leaf, Mapping):
            where = f"{name}.{key}" if key else name
            draft.problems.append(f"{where}: cannot be searched, since trials must be comparable; give one value")
            draft.refused.add(name)
            return
    draft.constants[name] = content


def _fixed_leaves(name: str, content: Any) -> Iterable[tuple[str, Any]]:
    """What has to be one value, by key: below the names of merged genres and of parts of a multitask."""
    if name == "features" or not isinstance(content, Mapping):
        return [("", content)]
    named = _OWN_NAMES[name]
    own = content.get(named)
    if not isinstance(own, Mapping):
        return content.items()
    others = [(key, leaf) for key, leaf in content.items() if key != named]
    return [*((f"{named}.{new}", leaf) for new, leaf in own.items()), *others]


def _read_section(draft: Draft, section: str, content: Any, whens: dict[str, object]) -> None:
    if content is not None and not isinstance(content, Mapping):
        draft.refuse(section, f"expected a mapping of keys to values, got {content!r}")
        return
    draft.constants[section] = {}
    for key, leaf in (content or {}).items():
        if isinstance(leaf, Mapping) and key in draft.architectures:
            for own_key, own_leaf in leaf.items():
                _read_leaf(draft, f"{section}/{key}/{own_key}", own_leaf, whens)
        else:
            _read_leaf(draft, f"{section}/{key}", leaf, whens)


def _read_leaf(draft: Draft, path: str, leaf: Any, whens: dict[str, object]) -> None:
    draft.keys.append(path)
    section, key = config_key(path)
    if (section, key) in _OF_THE_SEARCH:
        draft.refuse(path, "belongs to the search file, not to a space")
    elif path != ARCHITECTURE and (section, key) == config_key(ARCHITECTURE):
        draft.refuse(path, "a block holds what its architecture has alone; it chooses none")
    elif isinstance(leaf, Mapping):
        if path == ARCHITECTURE and "when" in leaf:
            draft.refuse(path, "every trial has an architecture; drop the `when`")
        elif _is_block(leaf):
            draft.refuse(path, _unknown_block(draft, leaf))
        else:
            _read_distribution(draft, path, leaf)
            if "when" in leaf:
                whens[path] = leaf["when"]
    elif not _is_scalar(leaf):
        draft.refuse(path, f"expected a value or a distribution such as {{choice: [...]}}, got {leaf!r}")
    elif (owner := owner_of(path)) is not None:
        draft.own_constants.setdefault(owner, {})[path] = leaf
    else:
        draft.constants[section][key] = leaf


def _is_block(leaf: Mapping[str, Any]) -> bool:
    """Whether it looks like keys with their leaves, and not like a distribution, not even a misspelt one."""
    return bool(leaf) and not any(word in _WORDS or isinstance(each, list) for word, each in leaf.items())


def _unknown_block(draft: Draft, leaf: Mapping[str, Any]) -> str:
    chosen = ", ".join(draft.architectures) or "none"
    return (
        f"expected a value, a distribution such as {{choice: [...]}}, or the name of an architecture with the keys "
        f"that it has alone, of those that model.architecture chooses ({chosen}); got {dict(leaf)!r}"
    )


def _read_distribution(draft: Draft, path: str, leaf: Mapping[str, Any]) -> None:
    try:
        draft.distributions[path] = _distribution(leaf)
    except ValueError as problem:
        draft.refuse(path, problem)


def _distribution(leaf: Mapping[str, Any]) -> Distribution:
    """Raises ValueError saying what is expected and what came; the classes themselves refuse bad ranges."""
    unknown = [str(word) for word in leaf if word not in _WORDS]
    if unknown:
        raise ValueError(f"unknown word {unknown[0]!r}{did_you_mean(unknown[0], _WORDS)}")
    kinds = [kind for kind in _KINDS if kind in leaf]
    if len(kinds) != 1:
        raise ValueError(f"expected exactly one of {', '.join(_KINDS)}, got {' and '.join(kinds) or 'none'}")
    log, step = leaf.get("log", False), leaf.get("step")
    if type(log) is not bool:
        raise ValueError(f"log: expected true or false, got {log!r}")
    if kinds[0] == "choice":
        if "log" in leaf or "step" in leaf:
            raise ValueError("log and step go with float and int, not with choice")
        return Choice(_values(leaf["choice"]))
    if kinds[0] == "float":
        low, high = _ends(leaf["float"], "numbers", int | float)
        return FloatRange(float(low), float(high), log, _step(step, "a number", int | float))
    low, high = _ends(leaf["int"], "whole numbers", int)
    return IntRange(low, high, log, _step(step, "a whole number", int))


def _values(listed: Any) -> tuple[Scalar, ...]:
    if not isinstance(listed, list) or not all(_is_scalar(value) for value in listed):
        raise ValueError(f"choice: expected a list of values, got {listed!r}")
    return tuple(listed)


def _ends(listed: Any, what: str, kind: Any) -> tuple[Any, Any]:
    if not isinstance(listed, list) or len(listed) != 2 or not all(_is_number(end, kind) for end in listed):
        raise ValueError(f"expected two {what}, [low, high], got {listed!r}")
    return listed[0], listed[1]


def _step(step: Any, what: str, kind: Any) -> Any:
    if step is not None and not _is_number(step, kind):
        raise ValueError(f"step: expected {what}, got {step!r}")
    return step


def _is_number(value: object, kind: Any) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _is_scalar(value: object) -> bool:
    return value is None or isinstance(value, str | int | float)


def _read_known_good(draft: Draft, content: Any) -> None:
    if content is not None and not isinstance(content, Mapping):
        draft.problems.append(f"known_good: expected a mapping of names to points, got {content!r}")
        return
    for name, point in (content or {}).items():
        if isinstance(point, Mapping) and all(_is_scalar(value) for value in point.values()):
            draft.known_good[str(name)] = {str(path): value for path, value in point.items()}
        else:
            expected = "expected values by path, such as {model/hidden_dim: 128}"
            draft.problems.append(f"known_good.{name}: {expected}, got {point!r}")


def _read_constraints(draft: Draft, content: Any) -> None:
    if content is not None and not isinstance(content, Mapping):
        expected = "expected a ceiling by quantity, such as {parameters: '<= 5e6'}"
        draft.problems.append(f"constraints: {expected}, got {content!r}")
        return
    for quantity, wanted in (content or {}).items():
        try:
            draft.constraints.append(read_constraint(str(quantity), wanted))
        except ValueError as problem:
            draft.problems.append(f"constraints.{quantity}: {problem}")


def _read_when(draft: Draft, path: str, when: object) -> tuple[Condition, ...]:
    if not isinstance(when, Mapping) or not when:
        expected = "expected other keys and their values, such as {scheduler/name: plateau}"
        draft.problems.append(f"{dotted(path)}.when: {expected}, got {when!r}")
        return ()
    return tuple(
        condition
        for key, wanted in when.items()
        if (condition := _read_condition(draft, path, str(key), wanted)) is not None
    )


def _read_condition(draft: Draft, path: str, key: str, wanted: object) -> Condition | None:
    """A condition on a sampled key; None if it was refused, or if a constant fulfils it for good.

    In an architecture's block `model/num_layers` means its own, if it has one.
    """
    where = f"{dotted(path)}.when"
    if (owner := owner_of(path)) is not None:
        key = draft.resolved(key, owner)
    if key not in draft.keys:
        draft.problems.append(f"{where}: no such key in this space, {key!r}{did_you_mean(key, draft.keys)}")
        return None
    try:
        condition = read_condition(key, wanted)
    except ValueError as problem:
        draft.problems.append(f"{where}: {problem}")
        return None
    if key in draft.refused:
        return None
    sampled = draft.distributions.get(key)
    reason = condition.impossible(sampled or domain_of(draft.constant(key)))
    if reason:
        draft.problems.append(f"{where}: {reason}")
    return condition if sampled else _of_architecture(draft, key)


def _of_architecture(draft: Draft, path: str) -> Condition | None:
    """The condition that every key of an architecture's block has; None if that is the only architecture."""
    owner = owner_of(path)
    return IsOneOf(ARCHITECTURE, (owner,)) if owner is not None and ARCHITECTURE in draft.distributions else None


def _tie_blocks_to_architectures(draft: Draft) -> None:
    for path in draft.distributions:
        condition = _of_architecture(draft, path)
        others = draft.conditions.get(path, ())
        if condition is not None and condition not in others:
            draft.conditions[path] = (condition, *others)


def _put_in_sampling_order(draft: Draft) -> None:
    conditions = {path: some for path, some in draft.conditions.items() if some and path in draft.distributions}
    try:
        order = sampling_order(draft.distributions, conditions)
    except ValueError as problem:
        draft.problems.append(str(problem))
        return
    draft.conditions = conditions
    draft.distributions = {path: draft.distributions[path] for path in order}
