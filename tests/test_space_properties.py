"""Properties of random spaces: what is sampled lies inside, replays as it was, and survives YAML."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import optuna
import yaml
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from fmasearch.config import TrainConfig, parse_section, parse_yaml
from fmasearch.errors import SpaceError
from fmasearch.records import Scalar
from fmasearch.space import Space, SuggestingTrial
from fmasearch.space.points import PointTrial

optuna.logging.set_verbosity(optuna.logging.ERROR)

# The same examples on every machine: a property that fails fails for everybody.
few = settings(max_examples=30, deadline=None, derandomize=True)

HEAD = {"task": {"classification": "genre"}}
ARCHITECTURE = "model/architecture"


@dataclass(frozen=True)
class Key:
    """What a space should know of a key, told without the space's own code."""

    path: str
    leaf: Any
    architecture: str | None = None
    """In whose block it stands."""
    when: Mapping[str, Any] = field(default_factory=dict)
    """By path: a value, or [">=", bound]."""

    @property
    def in_file(self) -> Any:
        if not self.when:
            return self.leaf
        shown = {path: f">= {each[1]!r}" if isinstance(each, list) else each for path, each in self.when.items()}
        return {**self.leaf, "when": shown}


@dataclass(frozen=True)
class Drawn:
    """A random space, and what it is made of."""

    space: Space
    keys: tuple[Key, ...]

    def active(self, sample: Mapping[str, Scalar]) -> set[str]:
        """The sampled keys that ought to take part: keys come after those that they depend on."""
        active: set[str] = set()
        for key in self.keys:
            mine = key.architecture in (None, sample[ARCHITECTURE])
            if mine and isinstance(key.leaf, dict) and all(holds(sample, active, *each) for each in key.when.items()):
                active.add(key.path)
        return active


def holds(sample: Mapping[str, Scalar], active: set[str], path: str, wanted: Any) -> bool:
    if path not in active:
        return False
    value: Any = sample[path]
    return bool(value >= wanted[1]) if isinstance(wanted, list) else value == wanted


def is_inside(leaf: Any, value: Any) -> bool:
    if "choice" in leaf:
        return any(value == each and type(value) is type(each) for each in leaf["choice"])
    kind, whole = ("int", int) if "int" in leaf else ("float", float)
    low, high = leaf[kind]
    if type(value) is not whole or not low <= value <= high:
        return False
    steps: float = (value - low) / leaf["step"] if "step" in leaf else 0
    return bool(abs(steps - round(steps)) < 1e-6)


_values = st.sampled_from([None, True, "mean", "max", 2, 0.5, 64])
_choices = st.lists(_values, min_size=1, max_size=4, unique_by=repr).map(lambda values: {"choice": values})
_ints = st.builds(
    lambda low, width, log: {"int": [low, low + width], "log": log},
    st.integers(1, 40), st.integers(0, 60), st.booleans(),
)  # fmt: skip
_stepped = st.builds(
    lambda low, step, count: {"int": [low, low + step * count], "step": step},
    st.integers(-9, 9), st.integers(2, 7), st.integers(0, 4),
)  # fmt: skip
_floats = st.builds(
    lambda low, factor, log: {"float": [low, low * factor], "log": log},
    st.sampled_from([1e-5, 0.003, 0.1, 2.5]), st.sampled_from([1.0, 1.7, 300.0]), st.booleans(),
)  # fmt: skip
_stepped_floats = st.builds(
    lambda low, step, count: {"float": [low / 100, (low + step * count) / 100], "step": step / 100},
    st.integers(-50, 50), st.integers(1, 30), st.integers(1, 5),
)  # fmt: skip
leaves = st.one_of(_choices, _ints, _stepped, _floats, _stepped_floats)


@st.composite
def conditions(draw: st.DrawFn, earlier: list[Key]) -> dict[str, Any]:
    """Up to two conditions on sampled keys; one on the last of them makes the chain longer."""
    sampled = [key for key in earlier if isinstance(key.leaf, dict)]
    chosen = draw(st.lists(st.sampled_from(sampled[-3:]), max_size=2, unique_by=lambda key: key.path))
    wanted: dict[str, Any] = {}
    for key in chosen:
        leaf = key.leaf
        if "choice" in leaf:
            wanted[key.path] = draw(st.sampled_from(leaf["choice"]))
        else:
            low, high = leaf.get("int") or leaf["float"]
            wanted[key.path] = [">=", draw(st.sampled_from([low, high]))]
    return wanted


@st.composite
def spaces(draw: st.DrawFn) -> Drawn:
    """One to three architectures, shared keys, own keys in blocks, conditions up to five keys deep."""
    architectures = draw(st.lists(st.sampled_from(["alpha", "beta", "gamma"]), min_size=1, max_size=3, unique=True))
    keys = [Key(ARCHITECTURE, {"choice": architectures})]
    for index in range(draw(st.integers(0, 5))):
        keys.append(Key(f"model/k{index}", draw(leaves), when=draw(conditions(keys))))
    shared = list(keys)
    for owner in architectures:
        known = list(shared)
        for index in range(draw(st.integers(0, 3))):
            path = f"model/{owner}/own{index}"
            if draw(st.integers(0, 3)) == 0:
                known.append(Key(path, draw(_values), owner))
            else:
                known.append(Key(path, draw(leaves), owner, draw(conditions(known))))
        rate = {"float": draw(st.sampled_from([[1e-4, 1e-2], [0.01, 0.5]])), "log": True}
        known.append(Key(f"optimizer/{owner}/learning_rate", rate, owner))
        keys += known[len(shared) :]
    text = yaml.safe_dump(nested(keys), sort_keys=False)
    try:
        return Drawn(Space.parse(text), tuple(keys))
    except SpaceError as error:
        if all(".when: can never hold: " in line for line in str(error).splitlines()):
            reject()  # two conditions that exclude each other: see test_space_architectures
        raise


def nested(keys: list[Key]) -> dict[str, Any]:
    content: dict[str, Any] = dict(HEAD)
    for key in keys:
        section = content
        *outer, name = key.path.split("/")
        for each in outer:
            section = section.setdefault(each, {})
        section[name] = key.in_file
    return content


def trials(seed: int) -> list[SuggestingTrial]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    return [study.ask(), PointTrial({}, random.Random(seed)), PointTrial({})]


def train_config(space: Space, sample: Mapping[str, Scalar]) -> TrainConfig:
    return space.train_config(sample, max_epochs=3, patience=None, seed=1)


@few
@given(spaces(), st.integers(0, 999))
def test_a_sample_holds_the_active_keys_alone_each_inside_its_range(drawn: Drawn, seed: int) -> None:
    leaf_of = {key.path: key.leaf for key in drawn.keys}
    for trial in trials(seed):
        sample = drawn.space.sample(trial)
        assert sample.keys() == drawn.active(sample)
        assert all(is_inside(leaf_of[path], value) for path, value in sample.items()), sample


@few
@given(spaces(), st.integers(0, 999))
def test_a_configuration_has_what_was_sampled_and_the_constants_of_its_architecture(drawn: Drawn, seed: int) -> None:
    for trial in trials(seed):
        sample = drawn.space.sample(trial)
        chosen = sample[ARCHITECTURE]
        constants = {key.path: key.leaf for key in drawn.keys if not isinstance(key.leaf, dict)}
        own = {path: value for path, value in constants.items() if path.split("/")[1] == chosen}
        expected = {path.split("/")[-1]: value for path, value in {**sample, **own}.items()}
        config = train_config(drawn.space, sample)
        assert config.optimizer.learning_rate == expected.pop("learning_rate")
        assert repr(sorted(config.model.items())) == repr(sorted(expected.items()))


@few
@given(spaces(), st.integers(0, 999))
def test_a_sample_that_is_tried_again_is_the_same(drawn: Drawn, seed: int) -> None:
    for trial in trials(seed):
        sample = drawn.space.sample(trial)
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed + 1))
        study.enqueue_trial(dict(sample))
        for again in (optuna.trial.FixedTrial(dict(sample)), study.ask(), PointTrial(sample)):
            assert repr(drawn.space.sample(again)) == repr(sample)


@few
@given(spaces(), st.integers(0, 999))
def test_a_sample_is_a_known_good_point_by_its_paths_and_by_those_of_its_configuration(drawn: Drawn, seed: int) -> None:
    samples = [drawn.space.sample(trial) for trial in trials(seed)]
    points = {f"p{number}": sample for number, sample in enumerate(samples)}
    short = {
        f"c{number}": {path.replace(f"/{sample[ARCHITECTURE]}/", "/"): value for path, value in sample.items()}
        for number, sample in enumerate(samples)
    }
    text = yaml.safe_dump({**nested(list(drawn.keys)), "known_good": {**points, **short}}, sort_keys=False)
    known = Space.parse(text).known_good
    assert [known[name] for name in (*points, *short)] == [*samples, *samples]


@few
@given(spaces(), st.integers(0, 999))
def test_a_space_and_its_configurations_survive_yaml(drawn: Drawn, seed: int) -> None:
    assert Space.parse(drawn.space.text) == drawn.space
    for trial in trials(seed):
        config = train_config(drawn.space, drawn.space.sample(trial))
        text = yaml.safe_dump(config.model_dump(mode="json"))
        assert parse_section(TrainConfig, parse_yaml(text, source="best.yaml"), source="best.yaml") == config
