import copy
import pickle
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from fmasearch.config import GenresConfig, TrainConfig
from fmasearch.errors import SpaceError
from fmasearch.records import Scalar
from fmasearch.space import Choice, FloatRange, IntRange, Space

optuna.logging.set_verbosity(optuna.logging.ERROR)

HEAD = "task: {classification: genre}\n"
MODEL = "model: {architecture: cnn_gru}\n"

SMALL = """
description: two layers of conditions
task: {classification: genre}
model:
  architecture: cnn_gru
  hidden_dim: {choice: [64, 128]}
optimizer:
  learning_rate: {float: [1e-4, 1e-2], log: true}
scheduler:
  name: {choice: [constant, plateau]}
  patience: {int: [1, 5], when: {scheduler/name: plateau}}
  factor: {float: [0.25, 0.75], step: 0.25, when: {scheduler/patience: ">= 3"}}
known_good:
  C1: {model/hidden_dim: 128, optimizer/learning_rate: 1e-3, scheduler/name: constant}
  partial: {scheduler/name: plateau, scheduler/patience: 4}
"""

# By hand: constant 1; plateau with patience 1 or 2: 2; with 3, 4 or 5: three factors each, 9. In all 12.
SCHEDULES = (
    HEAD
    + MODEL
    + """
scheduler:
  name: {choice: [constant, plateau]}
  patience: {int: [1, 5], when: {scheduler/name: plateau}}
  factor: {float: [0.25, 0.75], step: 0.25, when: {scheduler/patience: ">= 3"}}
"""
)


class RandomTrial:
    """A trial that is not optuna's, to show that a space needs nothing but the protocol."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        if step is not None:
            steps = self._random.randint(0, round((high - low) / step))
            return min(low + step * steps, high)  # 3 * 0.05 is above 0.15; optuna clips too
        return self._random.uniform(low, high)

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        return self._random.randrange(low, high + 1, step)

    def suggest_categorical(self, name: str, choices: Sequence[Scalar]) -> Any:
        return self._random.choice(choices)


def optuna_samples(space: Space, num: int) -> list[dict[str, Scalar]]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return [space.sample(study.ask()) for _ in range(num)]


# Reading


def test_a_space_is_named_after_its_file_and_keeps_its_text(tmp_path: Path) -> None:
    path = tmp_path / "cnn_tiny.yaml"
    path.write_text(SMALL)
    space = Space.load(path)
    assert (space.name, space.text, space.description) == ("cnn_tiny", SMALL, "two layers of conditions")


def test_leaves_become_constants_and_distributions() -> None:
    space = Space.parse(SMALL)
    assert space.constants["model"] == {"architecture": "cnn_gru"}
    assert space.distributions["model/hidden_dim"] == Choice((64, 128))
    assert space.distributions["optimizer/learning_rate"] == FloatRange(1e-4, 1e-2, log=True)
    assert space.distributions["scheduler/patience"] == IntRange(1, 5)


def test_1e_minus_4_is_a_number_everywhere() -> None:
    text = HEAD + MODEL + "optimizer: {learning_rate: {float: [1e-4, 1E-2]}, weight_decay: {choice: [1e-4, 0.0]}}"
    space = Space.parse(text + "\nknown_good: {C1: {optimizer/learning_rate: 5e-4}}")
    assert space.distributions["optimizer/learning_rate"] == FloatRange(0.0001, 0.01)
    assert space.known_good["C1"] == {"optimizer/learning_rate": 0.0005}


def test_keys_come_after_those_their_conditions_ask_about() -> None:
    text = (
        HEAD
        + MODEL
        + (
            "scheduler:\n"
            '  factor: {float: [0.3, 0.8], when: {scheduler/patience: ">= 3"}}\n'
            "  patience: {int: [1, 5], when: {scheduler/name: plateau}}\n"
            "  name: {choice: [constant, plateau]}\n"
        )
    )
    assert list(Space.parse(text).distributions) == [
        "scheduler/name",
        "scheduler/patience",
        "scheduler/factor",
    ]


def test_a_space_without_anything_to_search_has_one_point() -> None:
    space = Space.parse(HEAD + MODEL + "augment:\n")  # a section may be left empty
    assert (space.size(), space.grid()) == (1, [{}])


# Sampling


def test_a_sample_holds_exactly_the_active_keys() -> None:
    for sample in optuna_samples(Space.parse(SMALL), 50):
        plateau = sample["scheduler/name"] == "plateau"
        assert ("scheduler/patience" in sample) == plateau
        assert ("scheduler/factor" in sample) == (plateau and sample["scheduler/patience"] >= 3)  # type: ignore[operator]
        assert "model/architecture" not in sample


def test_every_trial_shares_the_genres() -> None:
    space = Space.parse(SMALL + "genres: {merge: {choice: [Rock, Metal]}, drop: Blues, min_tracks: 20}")
    assert space.genres().merge == {"choice": ("Rock", "Metal")}  # a new name may be a space's own word
    assert len(space.distributions) == 5
    config = space.train_config(space.known_good["C1"], max_epochs=1, patience=None, seed=0)
    assert config.genres == space.genres()
    assert Space.parse(SMALL).genres() == GenresConfig()


def test_fixed_trial_replays_a_sample() -> None:
    space = Space.parse(SMALL)
    for sample in optuna_samples(space, 20):
        assert space.sample(optuna.trial.FixedTrial(dict(sample))) == sample


def test_tpe_tries_known_good_points_first_and_fills_in_what_they_leave_out() -> None:
    space = Space.parse(SMALL)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0))
    for point in space.known_good.values():
        study.enqueue_trial(dict(point))
    full, partial = space.sample(study.ask()), space.sample(study.ask())
    assert full == {"model/hidden_dim": 128, "optimizer/learning_rate": 1e-3, "scheduler/name": "constant"}
    assert partial.items() >= {"scheduler/name": "plateau", "scheduler/patience": 4}.items()
    assert {"model/hidden_dim", "optimizer/learning_rate", "scheduler/factor"} < partial.keys()


def test_null_and_booleans_are_values() -> None:
    text = HEAD + "model: {architecture: a, rnn_dim: {choice: [null, 64]}, residual: {choice: [true, false]}}"
    seen = {(s["model/rnn_dim"], s["model/residual"]) for s in optuna_samples(Space.parse(text), 50)}
    assert seen == {(None, True), (None, False), (64, True), (64, False)}


def test_space_and_its_sample_method_survive_pickling() -> None:
    space = Space.parse(SMALL, name="small")
    assert pickle.loads(pickle.dumps(space)) == space
    assert pickle.loads(pickle.dumps(space.sample))(RandomTrial(3)) == space.sample(RandomTrial(3))


# Conditions and known-good points

# The keys a condition is tried on; 1..4, or one of two names, or continuous, or always 2
CONDITIONED = HEAD + (
    "model:\n"
    "  architecture: a\n"
    "  num_layers: {int: [1, 4]}\n"
    "  pooling: {choice: [mean, last]}\n"
    "  dropout: {float: [0.1, 0.5]}\n"
    "  residual: {choice: [true, false]}\n"
    "  pool_size: 2\n"
    "  x: {choice: [1, 2], when: {%s}}\n"
)


@pytest.mark.parametrize("when", ["model/pooling: mean", "model/num_layers: '< 2'", "model/residual: true"])
def test_conditions_that_may_hold_decide(when: str) -> None:
    have_x = ["model/x" in sample for sample in optuna_samples(Space.parse(CONDITIONED % when), 30)]
    assert any(have_x)
    assert not all(have_x)


def test_a_condition_that_a_constant_fulfils_always_holds() -> None:
    space = Space.parse(CONDITIONED % "model/pool_size: 2")
    assert all("model/x" in sample for sample in optuna_samples(space, 5))


def test_all_conditions_of_a_key_must_hold() -> None:
    space = Space.parse(CONDITIONED % "model/pooling: mean, model/num_layers: '>= 3'")
    assert space.is_active("model/x", {"model/pooling": "mean", "model/num_layers": 3})
    assert not space.is_active("model/x", {"model/pooling": "last", "model/num_layers": 3})
    assert not space.is_active("model/x", {"model/pooling": "mean"})


def test_booleans_and_numbers_are_not_confused() -> None:
    assert not Choice((1, 2)).contains(True)
    assert not Choice((True, False)).contains(1)
    assert not IntRange(0, 3).contains(True)
    assert Choice((1, 2)).contains(1.0)
    assert Choice((None, 64)).contains(None)


def test_a_known_good_point_may_repeat_a_constant() -> None:
    text = SMALL.split("known_good:")[0] + "known_good: {C1: {model/architecture: cnn_gru, model/hidden_dim: 64}}"
    assert Space.parse(text).known_good == {"C1": {"model/hidden_dim": 64}}


def test_known_good_values_take_the_type_of_their_distribution() -> None:
    text = HEAD + "model: {architecture: a, x: {choice: [128, true]}, y: {float: [0.5, 3]}}\n"
    [point] = Space.parse(text + "known_good: {C1: {model/x: 128.0, model/y: 1}}").known_good.values()
    assert repr(point) == "{'model/x': 128, 'model/y': 1.0}"


# Configurations


def test_config_puts_sampled_values_among_the_constants() -> None:
    space = Space.parse(SMALL)
    before = copy.deepcopy(dict(space.constants))
    config = space.config({"model/hidden_dim": 64, "trainer/batch_size": 8})
    assert config["model"] == {"architecture": "cnn_gru", "hidden_dim": 64}
    assert config["trainer"] == {"batch_size": 8}
    assert space.constants == before


def test_train_config_takes_epochs_patience_and_seed_from_the_search() -> None:
    space = Space.parse(SMALL)
    config = space.train_config({"optimizer/learning_rate": 2e-3}, max_epochs=7, patience=None, seed=5)
    assert (config.trainer.max_epochs, config.trainer.patience, config.seed) == (7, None, 5)
    assert config.optimizer.learning_rate == 0.002
    assert config.scheduler.name == "constant"  # inactive or unsampled: the default of TrainConfig


# Grids


def test_grid_lists_every_point_and_respects_conditions() -> None:
    space = Space.parse(SCHEDULES)
    grid = space.grid()
    assert len(grid) == space.size() == 12
    assert grid[0] == {"scheduler/name": "constant"}
    assert grid[1] == {"scheduler/name": "plateau", "scheduler/patience": 1}
    assert [p["scheduler/factor"] for p in grid if p.get("scheduler/patience") == 4] == [0.25, 0.5, 0.75]


def test_stepped_floats_are_listed_as_one_would_write_them() -> None:
    assert FloatRange(0.1, 0.5, step=0.1).points() == (0.1, 0.2, 0.3, 0.4, 0.5)  # 0.1 + 0.1 + 0.1 is not 0.3


def test_a_grid_of_a_continuous_space_names_the_keys() -> None:
    space = Space.parse(SMALL, name="small")
    assert space.size() is None
    with pytest.raises(SpaceError) as error:
        space.grid()
    assert str(error.value) == (
        "small: optimizer.learning_rate: a grid needs a finite number of values; give a step or a choice, "
        "got a number in 0.0001..0.01"
    )


def test_a_grid_that_nobody_could_train_is_refused() -> None:
    text = HEAD + "model: {architecture: a, x: {int: [1, 1000]}, y: {int: [1, 1000]}}"
    with pytest.raises(SpaceError, match="the grid has 1,000,000 points, more than 100,000; narrow the space"):
        Space.parse(text).grid()


# Properties

_names = st.sampled_from(["mean", "last", "max", None, True, False, 2, 4, 0.5])
_choices = st.lists(_names, min_size=1, max_size=4, unique_by=repr).map(lambda values: {"choice": values})
_ints = st.builds(
    lambda low, step, count: {"int": [low, low + step * count], "step": step},
    st.integers(-5, 5), st.integers(1, 3), st.integers(0, 3),
)  # fmt: skip
_floats = st.builds(
    lambda low, step, count: {"float": [low / 100, (low + step * count) / 100], "step": step / 100},
    st.integers(-50, 50), st.integers(1, 30), st.integers(0, 4),
)  # fmt: skip


@st.composite
def discrete_spaces(draw: st.DrawFn) -> Space:
    """Up to five keys, each perhaps on the condition that an earlier one takes its first value."""
    model: dict[str, Any] = {"architecture": "a"}
    for index in range(draw(st.integers(1, 5))):
        leaf = dict(draw(st.one_of(_choices, _ints, _floats)))
        if index and draw(st.booleans()):
            other = draw(st.integers(0, index - 1))
            first = model[f"k{other}"]
            value = next(first[kind][0] for kind in ("choice", "int", "float") if kind in first)
            leaf["when"] = {f"model/k{other}": [value]}
        model[f"k{index}"] = leaf
    return Space.parse(yaml.safe_dump({"task": {"classification": "genre"}, "model": model}, sort_keys=False))


def is_inside(space: Space, point: dict[str, Scalar]) -> bool:
    active = {path for path in space.distributions if space.is_active(path, point)}
    return point.keys() == active and all(space.distributions[path].contains(point[path]) for path in point)


@settings(max_examples=50, deadline=None)
@given(discrete_spaces(), st.integers(0, 1000))
def test_every_sample_is_inside_its_space_and_validates(space: Space, seed: int) -> None:
    sample = space.sample(RandomTrial(seed))
    assert is_inside(space, sample)
    config = space.train_config(sample, max_epochs=3, patience=None, seed=seed)
    assert isinstance(config, TrainConfig)
    assert config.hyperparameters == {path.split("/")[1]: value for path, value in sample.items()}


@settings(max_examples=50, deadline=None)
@given(discrete_spaces())
def test_grid_points_are_distinct_and_inside_and_as_many_as_the_size(space: Space) -> None:
    grid = space.grid()
    assert len({repr(sorted(point.items())) for point in grid}) == len(grid) == space.size()
    assert all(is_inside(space, point) for point in grid)


@settings(max_examples=25, deadline=None)
@given(discrete_spaces())
def test_optuna_accepts_every_grid_point(space: Space) -> None:
    for point in space.grid()[:20]:
        assert space.sample(optuna.trial.FixedTrial(dict(point))) == point
