"""Spaces of several architectures: blocks, conditions on the architecture, and conditions several keys deep."""

from __future__ import annotations

import optuna
import pytest

from fmasearch.config import SamplerConfig, SearchConfig
from fmasearch.errors import SpaceError
from fmasearch.models import ARCHITECTURES, hyperparameters
from fmasearch.preflight import check_models
from fmasearch.searcher import build_sampler
from fmasearch.space import Space
from fmasearch.space.points import PointTrial, first_points, some_points
from fmasearch.space.wandb_sweep import translate

optuna.logging.set_verbosity(optuna.logging.ERROR)

MIXED = """
task: {classification: genre}
model:
  architecture: {choice: [cnn_gru, lstm, conformer]}
  dropout: {float: [0.1, 0.5]}
  num_layers: {int: [1, 2], when: {model/architecture: [cnn_gru, lstm]}}
  rnn_dropout: {float: [0.1, 0.4], when: {model/num_layers: 2}}
  conformer:
    num_layers: {int: [2, 4]}
    kernel_size: {choice: [7, 15], when: {model/num_layers: ">= 3"}}
    pooling: mean
  lstm: {pooling: {choice: [last, mean]}}
optimizer:
  learning_rate: {float: [1e-3, 1e-2], when: {model/architecture: [cnn_gru, lstm]}}
  conformer: {learning_rate: {float: [1e-4, 1e-3]}, weight_decay: 0.1}
known_good:
  deep: {model/architecture: conformer, model/num_layers: 4, model/kernel_size: 7, optimizer/learning_rate: 5e-4}
  flat: {model/architecture: lstm, model/num_layers: 1, model/lstm/pooling: last}
  any: {model/dropout: 0.3}
"""


def parse(model: str, rest: str = "") -> Space:
    return Space.parse(f"task: {{classification: genre}}\nmodel: {{{model}}}\n{rest}", name="x", source="x.yaml")


def problems(model: str, rest: str = "") -> list[str]:
    with pytest.raises(SpaceError) as error:
        parse(model, rest)
    return [line.removeprefix("x.yaml: ") for line in str(error.value).splitlines()]


def test_a_block_gives_an_architecture_ranges_and_constants_of_its_own() -> None:
    space = Space.parse(MIXED)
    sample = space.sample(PointTrial({"model/architecture": "conformer", "model/conformer/num_layers": 4}))
    assert sample == {
        "model/architecture": "conformer",
        "model/dropout": 0.1,
        "model/conformer/num_layers": 4,
        "model/conformer/kernel_size": 7,
        "optimizer/conformer/learning_rate": 1e-4,
    }
    config = space.train_config(sample, max_epochs=1, patience=None, seed=0)
    assert config.model == {
        "architecture": "conformer", "dropout": 0.1, "num_layers": 4, "kernel_size": 7, "pooling": "mean",
    }  # fmt: skip
    assert (config.optimizer.learning_rate, config.optimizer.weight_decay) == (1e-4, 0.1)


def test_other_architectures_know_nothing_of_a_block() -> None:
    space = Space.parse(MIXED)
    config = space.config(space.sample(PointTrial({"model/architecture": "cnn_gru", "model/num_layers": 2})))
    assert config["model"] == {"architecture": "cnn_gru", "dropout": 0.1, "num_layers": 2, "rnn_dropout": 0.1}
    assert config["optimizer"] == {"learning_rate": 1e-3}


def test_a_space_tells_which_architectures_a_key_may_take_part_with() -> None:
    space = Space.parse(MIXED)
    assert space.architectures == ("cnn_gru", "lstm", "conformer")
    assert space.architectures_of("model/dropout") == space.architectures
    assert space.architectures_of("model/rnn_dropout") == ("cnn_gru", "lstm")  # as the key that it depends on
    assert space.architectures_of("model/conformer/kernel_size") == ("conformer",)
    assert Space.parse("task: {classification: genre}\nmodel: {architecture: ast}").architectures == ("ast",)


def test_a_point_may_name_an_architectures_own_keys_as_a_configuration_does() -> None:
    known = Space.parse(MIXED).known_good
    assert known["deep"] == {
        "model/architecture": "conformer",
        "model/conformer/num_layers": 4,
        "model/conformer/kernel_size": 7,
        "optimizer/conformer/learning_rate": 5e-4,
    }
    assert known["flat"]["model/lstm/pooling"] == "last"


def test_each_architecture_has_a_first_point() -> None:
    space = Space.parse(MIXED)
    assert [name for name, _ in first_points(space)] == ["first values of cnn_gru", "flat", "deep"]
    assert [point["model/architecture"] for _, point in first_points(space)] == list(space.architectures)
    named = [name for name, _ in some_points(space, num_random=2, seed=0)]
    assert named == ["deep", "flat", "any", "a sample", "a sample"]


def test_grouped_tpe_samples_every_branch_and_goes_where_the_values_are_better() -> None:
    space = Space.parse(MIXED)
    sampler = build_sampler(
        SearchConfig(sampler=SamplerConfig(name="tpe")), space, concurrency=1
    )  # ten random trials first
    study = optuna.create_study(sampler=sampler, direction="maximize")
    samples = []
    for _ in range(40):
        trial = study.ask()
        samples.append(space.sample(trial))
        study.tell(trial, float(samples[-1]["model/architecture"] == "lstm"))
    assert {key for sample in samples for key in sample} == set(space.distributions)
    lstms = [sample["model/architecture"] == "lstm" for sample in samples]
    assert sum(lstms[-20:]) >= 10  # 7 would be chance


def test_a_sweep_of_several_architectures_becomes_a_mixed_space() -> None:
    sweep = {
        "method": "bayes",
        "parameters": {
            "model": {"values": ["cnn_gru", "lstm"]},
            "hidden_dim": {"values": [8, 16]},
            "kernel_size": {"values": [3, 5]},
            "frame_stride": {"value": 2},
        },
    }
    known = {architecture: hyperparameters(architecture) for architecture in ARCHITECTURES}
    space = Space.parse(translate(sweep, source="sweep.yaml", architectures=known).space_text)
    check_models(space)
    assert space.architectures_of("model/hidden_dim") == ("cnn_gru", "lstm")
    assert space.architectures_of("model/kernel_size") == ("cnn_gru",)
    assert space.architectures_of("model/frame_stride") == ("lstm",)


def test_the_grid_of_a_mixed_space_has_each_architectures_own_points() -> None:
    space = parse("architecture: {choice: [a, b]}, x: {int: [1, 2]}, b: {y: {int: [1, 3], when: {model/x: 2}}}")
    # a with x 1 or 2; b with x 1, or with x 2 and one of three y
    assert len(space.grid()) == space.size() == 2 + 1 + 3


def test_conditions_may_be_three_keys_deep() -> None:
    chain = (
        "architecture: a, w: {choice: [1, 2]}, x: {choice: [1, 2], when: {model/w: 2}}, "
        "y: {int: [1, 9], when: {model/x: 2}}, z: {choice: [1, 2, 3], when: {model/y: '> 8'}}"
    )
    # w 1; w 2 with x 1; x 2 with y of 1 to 8; y 9 with three z
    assert parse(chain).size() == 1 + 1 + 8 + 3


# Problems


@pytest.mark.parametrize(
    ("model", "problem"),
    [
        (
            "architecture: {choice: [a, b]}, x: {int: [1, 2]}, a: {x: 3}",
            "model.a.x: model.x gives the same key of a, too: say it in one place, or give the key outside the block "
            "a `when: {model/architecture: [...]}` without a",
        ),
        (
            "architecture: {choice: [a, b]}, c: {x: {int: [1, 2]}}",
            "model.c: expected a value, a distribution such as {choice: [...]}, or the name of an architecture with "
            "the keys that it has alone, of those that model.architecture chooses (a, b); got {'x': {'int': [1, 2]}}",
        ),
        (
            "architecture: {choice: [a, b]}, a: {architecture: b}",
            "model.a.architecture: a block holds what its architecture has alone; it chooses none",
        ),
        (
            "architecture: {choice: [a, b], when: {model/x: 1}}, x: {int: [1, 2]}",
            "model.architecture: every trial has an architecture; drop the `when`",
        ),
        (
            "architecture: {choice: [a, b]}, a: {x: {int: [1, 2]}}, y: {int: [1, 2], when: {model/x: 1}}",
            "model.y.when: no such key in this space, 'model/x'; did you mean 'model/a/x'?",
        ),
        (
            "architecture: {choice: [a, b]}, y: {int: [1, 2], when: {model/architecture: c}}",
            "model.y.when: model/architecture is one of 'a', 'b', never 'c'",
        ),
        (
            "architecture: {choice: [a, b]}, x: {int: [1, 2], when: {model/architecture: a}}, "
            "b: {y: {int: [1, 2], when: {model/x: 1}}}",
            "model.b.y.when: can never hold: model/architecture is 'b' and model/architecture is 'a'",
        ),
        (
            "architecture: a, x: {int: [1, 9]}, y: {int: [1, 2], when: {model/x: '> 4'}}, "
            "z: {int: [1, 2], when: {model/y: 1, model/x: '<= 4'}}",
            "model.z.when: can never hold: model/x > 4 and model/x <= 4",
        ),
    ],
)
def test_what_cannot_be_meant_is_named(model: str, problem: str) -> None:
    assert problems(model) == [problem]


def test_conditions_that_meet_between_two_values_can_hold() -> None:
    parse("architecture: a, x: {float: [0.1, 0.5]}, y: {int: [1, 2], when: {model/x: '> 0.2'}}, "
          "z: {int: [1, 2], when: {model/y: 1, model/x: '< 0.3'}}")  # fmt: skip
    between = "architecture: a, x: {int: [1, 9]}, y: {int: [1, 2], when: {model/x: '> 4'}}, "
    parse(f"{between}z: {{int: [1, 2], when: {{model/y: 1, model/x: '< 6'}}}}")
    assert problems(f"{between}z: {{int: [1, 2], when: {{model/y: 1, model/x: '< 5'}}}}")  # no whole number


def test_values_in_a_block_are_checked_as_training_would() -> None:
    assert problems("architecture: {choice: [a, b]}", "optimizer: {a: {learning_rate: 5, name: {choice: [lion]}}}") == [
        "optimizer.a.name: input should be 'adam', 'adamw' or 'sgd', got 'lion'",
        "optimizer.a.learning_rate: input should be less than or equal to 1, got 5",
    ]


def test_hyperparameters_are_held_against_every_architecture_they_take_part_with() -> None:
    check_models(Space.parse(MIXED))
    space = parse(
        "architecture: {choice: [cnn_gru, lstm]}, rnn_dim: {choice: [64]}, kernel_size: 4, "
        "lstm: {hiden_dim: 3, num_layers: {int: [1, 9]}}"
    )
    with pytest.raises(SpaceError) as error:
        check_models(space)
    lines = str(error.value).splitlines()
    assert [line.split(":")[1].strip() for line in lines] == [
        "model.kernel_size", "model.kernel_size", "model.lstm.hiden_dim", "model.rnn_dim", "model.lstm.num_layers",
    ]  # fmt: skip
    assert "odd" in lines[0]
    assert all(line.endswith("no architecture of this space takes it so") for line in lines[:2])
    assert lines[2].endswith("unknown hyperparameter of lstm; did you mean 'hidden_dim'?")
    when = "`when: {model/architecture: [cnn_gru]}`"
    assert f"give it {when}, or say it apart, as in `model: {{cnn_gru: {{rnn_dim: ...}}}}`" in lines[3]
    assert lines[4] == "x: model.lstm.num_layers: expected an integer from 1 to 8, got 9"
