"""A W&B sweep file, translated into a space and the settings of a search; what was lost on the way is said."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from fmasearch.config import TrainConfig, did_you_mean
from fmasearch.errors import SpaceError
from fmasearch.records import Scalar
from fmasearch.space import LARGEST_GRID
from fmasearch.space.wandb_names import (
    WORDS,
    find_names,
    is_whole,
    names_another_split,
    objective_of,
    path_of,
    words_of,
)
from fmasearch.space.wandb_values import Leaf, leaf_of

_SAMPLERS = {"random": "random", "grid": "grid", "bayes": "tpe"}
_OF_WANDB = ("program", "command", "name", "description", "project", "entity", "controller", "job", "image_uri")
_HANDLED = ("method", "metric", "parameters", "early_terminate", "run_cap")
_PLATEAU, _STEP = ("plateau", "step_plateau"), ("step", "step_plateau")
_TAKES_PART = {
    **dict.fromkeys(("scheduler/factor", "scheduler/patience", "scheduler/threshold"), ("scheduler/name", _PLATEAU)),
    **dict.fromkeys(("scheduler/threshold_mode", "scheduler/cooldown"), ("scheduler/name", _PLATEAU)),
    **dict.fromkeys(("scheduler/step_size", "scheduler/gamma"), ("scheduler/name", _STEP)),
    "scheduler/warmup_epochs": ("scheduler/name", ("cosine",)),
    "scheduler/warmup_fraction": ("scheduler/name", ("one_cycle",)),
    "optimizer/momentum": ("optimizer/name", ("sgd",)),
    "optimizer/nesterov": ("optimizer/name", ("sgd",)),
}
"""By path, the key that decides whether it does anything, and with which values."""
_DEFAULTS = {"scheduler/name": "constant", "optimizer/name": "adamw"}
_RULE_NUMBERS = ("eta", "min_iter", "max_iter", "s")
_SECTIONS = list(TrainConfig.model_fields)


@dataclass(frozen=True, slots=True)
class Translation:
    """A sweep in our words."""

    space_text: str
    """YAML of a space, the notes as comments at its head."""
    search: Mapping[str, Scalar]
    """Settings of a `SearchConfig` by path, such as `sampler/name`."""
    notes: tuple[str, ...]
    """What was decided or lost, one line each; losses begin with `not translated: `."""


def is_sweep(values: Mapping[str, Any]) -> bool:
    """Whether a parsed YAML file is a W&B sweep."""
    return "method" in values and "parameters" in values


def translate(values: Mapping[str, Any], *, source: str, architectures: Mapping[str, Collection[str]]) -> Translation:
    """Translate a sweep, as it was parsed.

    Args:
        source: the file, for errors; its name may also tell the architecture.
        architectures: names of the hyperparameters of each architecture.

    Raises:
        SpaceError: if it is no valid sweep, or does not tell which architecture it is about.
    """
    draft = _Draft(source, architectures)
    _read_architecture(draft, values)
    _read_method(draft, values)
    objective = _read_metric(draft, values.get("metric"))
    _read_parameters(draft, values["parameters"])
    _read_early_terminate(draft, values.get("early_terminate"))
    _name_schedule(draft)
    _tie_to_owners(draft)
    for key in values:
        if key not in (*_HANDLED, *_OF_WANDB):
            draft.lose(str(key), "a space and a search have nothing like it")
    draft.notes.insert(0, f"task: a sweep names none; classification of genre on mel, by validation {objective}")
    notes = tuple(sorted(draft.notes, key=lambda note: note.startswith("not translated")))
    description = ": ".join(str(values[key]).strip() for key in ("name", "description") if values.get(key))
    return Translation(_render(draft, description, objective, notes), draft.search, notes)


@dataclass
class _Draft:
    """A translation in the making; `leaves` and `names` (what the sweep calls them) are by path."""

    source: str
    architectures: Mapping[str, Collection[str]]
    leaves: dict[str, Leaf] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    search: dict[str, Scalar] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def lose(self, what: str, reason: object) -> None:
        self.notes.append(f"not translated: {what}: {reason}")

    def values_of(self, path: str) -> list[Scalar]:
        """Every value that a choice or a constant may take; of one that is absent, its default."""
        leaf = self.leaves.get(path, _DEFAULTS.get(path))
        values: list[Scalar] = leaf.get("choice", []) if isinstance(leaf, dict) else [leaf]
        return values

    def error(self, problem: str) -> SpaceError:
        return SpaceError(f"{self.source}: {problem}")


def _read_architecture(draft: _Draft, values: Mapping[str, Any]) -> None:
    """From the parameter that names it, or else from the first text about the sweep that does."""
    known = sorted(draft.architectures)
    for name, spec in _flat(draft, values["parameters"]):
        if path_of(name, ()) == "model/architecture":
            leaf, notes = _leaf(draft, name, spec, whole=False)
            _keep(draft, name, "model/architecture", _in_our_words(draft, name, leaf, _squashed(known)), notes)
    if "model/architecture" in draft.leaves:
        return
    texts = {f"the sweep's {key}": str(values.get(key) or "") for key in ("name", "program", "project")}
    for where, text in {**texts, "the file's name": Path(draft.source).stem}.items():
        if len(found := find_names(text, known)) == 1:
            draft.leaves["model/architecture"] = found[0]
            draft.notes.append(f"architecture: {found[0]}, from {where}")
            return
    raise draft.error(
        "which architecture does this sweep train? Name it in the sweep, as a parameter `model: {value: cnn_gru}` "
        f"or in its `name`; known here: {', '.join(known)}"
    )


def _read_method(draft: _Draft, values: Mapping[str, Any]) -> None:
    method, run_cap = values["method"], values.get("run_cap")
    if method not in _SAMPLERS:
        raise draft.error(f"method: expected one of {', '.join(_SAMPLERS)}, got {method!r}")
    draft.search["sampler/name"] = _SAMPLERS[method]
    if run_cap is not None:
        draft.search["num_trials"] = run_cap
    elif method == "grid":
        draft.search["num_trials"] = LARGEST_GRID  # no limit: every point
    else:
        draft.notes.append("run_cap: the sweep has none and would never end; --trials says how many")


def _read_metric(draft: _Draft, metric: Any) -> str:
    """The objective; macro F1 where the sweep's metric is none of ours."""
    if metric is None:
        return "macro_f1"
    if not isinstance(metric, Mapping) or "name" not in metric:
        raise draft.error(f"metric: expected a name and a goal, got {metric!r}")
    name = metric["name"]
    objective = objective_of(str(name))
    if objective is None:
        draft.lose(f"metric {name}", "no objective here; macro_f1 is maximised")
    elif names_another_split(str(name)):
        draft.notes.append(f"metric {name}: trials are compared by it on the validation split")
    if objective and metric.get("goal", "minimize") != "maximize":
        draft.lose("metric.goal", f"{objective} is maximised")
    for key in metric:
        if key not in ("name", "goal"):
            draft.lose(f"metric.{key}", "a search ends with its trials or its budget")
    return objective or "macro_f1"


def _read_parameters(draft: _Draft, parameters: Any) -> None:
    every = {name for names in draft.architectures.values() for name in names}
    for name, spec in _flat(draft, parameters):
        path = path_of(name, every)
        if path == "model/architecture":
            continue
        if path is None:
            draft.lose(name, "no such setting here")
            continue
        try:
            leaf, notes = leaf_of(spec, whole=is_whole(path))
        except ValueError as problem:
            draft.lose(name, problem)
            continue
        if path.startswith("search/"):
            _read_search_setting(draft, name, path.removeprefix("search/"), leaf)
        else:
            words = WORDS.get(path)
            _keep(draft, name, path, _in_our_words(draft, name, leaf, words) if words else leaf, notes)


def _keep(draft: _Draft, name: str, path: str, leaf: Leaf, notes: list[str]) -> None:
    """Put a leaf at its path, unless another parameter is there or no architecture has it."""
    if path in draft.names:
        draft.lose(name, f"{draft.names[path]} is {path} already")
        return
    section, _, key = path.partition("/")
    if section == "model" and key != "architecture":
        chosen = [str(each) for each in draft.values_of("model/architecture")]
        having = [each for each in chosen if key in draft.architectures[each]]
        if not having:
            known = sorted({known for each in chosen for known in draft.architectures[each]})
            draft.lose(name, f"{' and '.join(chosen)} has no {key}{did_you_mean(key, known)}")
            return
        if having != chosen:
            leaf = {**(leaf if isinstance(leaf, dict) else {"choice": [leaf]}), "when": {"model/architecture": having}}
    draft.leaves[path], draft.names[path] = leaf, name
    draft.notes += [f"{name}: {note}" for note in notes]


def _read_search_setting(draft: _Draft, name: str, key: str, leaf: Leaf) -> None:
    """Epochs, patience and seed belong to the search: one value for all trials, of epochs the most."""
    candidates = leaf if isinstance(leaf, dict) else {"choice": [leaf]}
    numbers = candidates.get("choice") or candidates.get("int") or []
    if not numbers or not all(isinstance(number, int) and not isinstance(number, bool) for number in numbers):
        draft.lose(name, f"expected whole numbers, got {numbers or leaf!r}")
    elif len(numbers) > 1 and key != "max_epochs":
        draft.lose(name, "belongs to the search, with one value for all trials")
    elif key in draft.search:
        draft.lose(name, f"{key} is given already")
    else:
        draft.search[key] = max(numbers)
        if len(numbers) > 1:
            draft.notes.append(f"{name}: belongs to the search, so every trial has up to {max(numbers)}")


def _in_our_words(draft: _Draft, name: str, leaf: Leaf, words: Mapping[str, str]) -> Leaf:
    """Named values as we call them; those that we do not have are lost, and an error if none is left."""
    values = leaf.get("choice", []) if isinstance(leaf, dict) else [leaf]
    ours: list[str] = []
    for value in values:
        word = words.get("".join(words_of("none" if value is None else str(value))))
        if word is None:
            draft.lose(f"{name} {value!r}", f"no such one here{did_you_mean(str(value), sorted(set(words.values())))}")
        elif word not in ours:
            ours.append(word)
    if not ours:
        known = ", ".join(sorted(set(words.values())))
        raise draft.error(f"parameters.{name}: expected some of {known}, got {leaf!r}")
    return ours[0] if len(ours) == 1 else {"choice": ours}


def _read_early_terminate(draft: _Draft, rule: Any) -> None:
    """W&B's brackets are the rungs of successive halving: min_iter * eta**k, or max_iter / eta**k for k up to s."""
    if rule is None:
        draft.search["scheduler/name"] = "none"
        draft.notes.append("early_terminate: the sweep has none, so no trial is stopped; --set scheduler/name=asha")
        return
    if not isinstance(rule, Mapping) or rule.get("type") != "hyperband":
        draft.lose("early_terminate", f"expected type: hyperband, got {rule!r}; trials are stopped by the default rule")
        return
    for key in _RULE_NUMBERS:
        if not isinstance(rule.get(key, 1), int | float) or rule.get(key, 1) <= 0:
            raise draft.error(f"early_terminate.{key}: expected a number above 0, got {rule[key]!r}")
    eta = rule.get("eta", 3)
    draft.search |= {"scheduler/name": "asha", "scheduler/reduction_factor": eta}
    if "min_iter" in rule:
        draft.search["scheduler/grace_period"] = rule["min_iter"]
        if "s" in rule:
            draft.lose("early_terminate.s", "there are rungs up to the last epoch")
    elif {"max_iter", "s"} <= rule.keys():
        draft.search["scheduler/grace_period"] = max(1, round(rule["max_iter"] / eta ** rule["s"]))
    if "max_iter" in rule:
        draft.search.setdefault("max_epochs", rule["max_iter"])
    if rule.get("strict"):
        draft.lose("early_terminate.strict", "a trial is judged by its best epoch so far")
    for key in rule:
        if key not in ("type", "strict", *_RULE_NUMBERS):
            draft.lose(f"early_terminate.{key}", "ASHA has nothing like it")


def _name_schedule(draft: _Draft) -> None:
    """A sweep that tunes a schedule without naming it means the one whose settings they are."""
    if "scheduler/name" in draft.leaves:
        return
    owners = [set(_TAKES_PART[path][1]) for path in draft.leaves if path.startswith("scheduler/")]
    fitting = set.intersection(*owners) if owners else set()
    if fitting:
        name = next(name for name in ("plateau", "step", "cosine", "one_cycle", "step_plateau") if name in fitting)
        draft.leaves["scheduler/name"] = name
        draft.notes.append(f"scheduler: {name}, which is what its settings belong to")


def _tie_to_owners(draft: _Draft) -> None:
    """Settings that only some optimisers or schedules have take part with those alone."""
    for path in [path for path in draft.leaves if path in _TAKES_PART]:
        owner, fitting = _TAKES_PART[path]
        names = draft.values_of(owner)
        some = [name for name in names if name in fitting]
        leaf = draft.leaves[path]
        if not some:
            del draft.leaves[path]
            draft.lose(draft.names[path], f"does nothing where {owner} is {' or '.join(map(str, names))}")
        elif some != names and isinstance(leaf, dict):
            draft.leaves[path] = {**leaf, "when": {owner: some}}


def _flat(draft: _Draft, parameters: Any, prefix: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Parameters by name; nested ones as `outer.inner`."""
    if not isinstance(parameters, Mapping):
        raise draft.error(f"parameters: expected parameters by name, got {parameters!r}")
    for name, spec in parameters.items():
        if not isinstance(spec, Mapping):
            raise draft.error(f"parameters.{prefix}{name}: expected {{value: ...}} or the like, got {spec!r}")
        if "parameters" in spec:
            yield from _flat(draft, spec["parameters"], f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", spec


def _leaf(draft: _Draft, name: str, spec: Mapping[str, Any], *, whole: bool) -> tuple[Leaf, list[str]]:
    try:
        return leaf_of(spec, whole=whole)
    except ValueError as problem:
        raise draft.error(f"parameters.{name}: {problem}") from None


def _squashed(names: Collection[str]) -> dict[str, str]:
    """cnn_gru by cnngru, so that CNN-GRU finds it."""
    return {"".join(words_of(name)): name for name in names}


def _render(draft: _Draft, description: str, objective: str, notes: tuple[str, ...]) -> str:
    lines = [f"# Translated from the W&B sweep {Path(draft.source).name}."]
    lines += [f"# {note}" for note in notes]
    lines += [f"description: {_yaml(description or 'a W&B sweep')}", "", "features: [mel]"]
    lines += [f"task: {{classification: genre, objective: {objective}}}"]
    for section in _SECTIONS:
        inside = [path for path in draft.leaves if path.startswith(f"{section}/")]
        inside.sort(key=lambda path: not path.endswith(("/architecture", "/name")))
        lines += ["", f"{section}:"] if inside else []
        lines += [f"  {path.partition('/')[2]}: {_yaml(draft.leaves[path])}" for path in inside]
    return "\n".join(lines) + "\n"


def _yaml(value: object) -> str:
    """A value on one line."""
    text = yaml.safe_dump([value], default_flow_style=True, sort_keys=False, allow_unicode=True, width=1e9)
    return text.strip()[1:-1]
