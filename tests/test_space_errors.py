"""What a space file can get wrong, and the literal words that say so."""

from pathlib import Path

import pytest

from fmasearch.errors import SpaceError
from fmasearch.space import Space

HEAD = "task: {classification: genre}\n"
MODEL = "model: {architecture: cnn_gru}\n"

SMALL = """
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
"""

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


def problems(text: str) -> list[str]:
    """The lines of the error that `text` raises, without the file's name."""
    with pytest.raises(SpaceError) as error:
        Space.parse(text, source="spaces/x.yaml", name="x")
    lines = str(error.value).splitlines()
    assert all(line.startswith("spaces/x.yaml: ") for line in lines)
    return [line.removeprefix("spaces/x.yaml: ") for line in lines]


def test_a_missing_file_is_a_space_error(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match=r"nowhere\.yaml: cannot be read: No such file or directory"):
        Space.load(tmp_path / "nowhere.yaml")


def test_a_key_given_twice_is_an_error() -> None:
    [line] = problems(HEAD + "model: {architecture: a, hidden_dim: 3, hidden_dim: 4}")
    assert "not valid YAML: the key 'hidden_dim' is given twice" in line


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("optimiser: {name: adam}", "optimiser: unknown section; did you mean 'optimizer'?"),
        ("seed: 3", "seed: belongs to the search file; every trial derives its own from it"),
        ("optimizer: 3", "optimizer: expected a mapping of keys to values, got 3"),
        (
            "optimizer: {learning_rte: 3}",
            "optimizer.learning_rte: unknown key; did you mean 'learning_rate'?",
        ),
        (
            "optimizer: {learning_rte: {float: [0.1, 0.2]}}",
            "optimizer.learning_rte: unknown key; did you mean 'learning_rate'?",
        ),
        (
            "optimizer: {name: {chioce: [adam]}}",
            "optimizer.name: unknown word 'chioce'; did you mean 'choice'?",
        ),
        (
            "optimizer: {name: {when: {a: 1}}}",
            "optimizer.name: expected exactly one of choice, float, int, got none",
        ),
        (
            "optimizer: {name: [adam]}",
            "optimizer.name: expected a value or a distribution such as {choice: [...]}, got ['adam']",
        ),
        (
            "features: {choice: [mel, chroma]}",
            "features: cannot be searched, since trials must be comparable; give one value",
        ),
        (
            "genres: {min_tracks: {choice: [100, 200]}}",
            "genres.min_tracks: cannot be searched, since trials must be comparable; give one value",
        ),
        (
            "genres: {merge: {Rock: {choice: [Rock, Metal]}}}",
            "genres.merge.Rock: cannot be searched, since trials must be comparable; give one value",
        ),
        ("genres: {choice: [a, b]}", "genres.choice: unknown key; known here: drop, merge, min_tracks"),
        (
            "genres: {drop: [x], merge: {A: [x]}}",
            "genres: a class is either merged or dropped, but x is in merge.A and in drop",
        ),
        ("genre: {drop: [x]}", "genre: unknown section; did you mean 'genres'?"),
        ("trainer: {max_epochs: 30}", "trainer.max_epochs: belongs to the search file, not to a space"),
        (
            "trainer: {patience: {int: [1, 4]}}",
            "trainer.patience: belongs to the search file, not to a space",
        ),
    ],
)
def test_unknown_or_misplaced_keys_are_named(text: str, problem: str) -> None:
    assert problem in problems(HEAD + MODEL + text)


@pytest.mark.parametrize(
    ("leaf", "problem"),
    [
        ("{float: [0.1, 0.001]}", "low <= high must hold, got low=0.1, high=0.001"),
        ("{float: [0, 1], log: true}", "log needs low > 0, got low=0.0"),
        ("{float: [0.1, 1], log: yep}", "log: expected true or false, got 'yep'"),
        ("{float: [0.1, 1], log: true, step: 0.1}", "log and step exclude each other: drop one, or list the "
         "values as a choice"),
        ("{float: [0.1, 0.5], step: 0.3}", "step 0.3 does not divide 0.1..0.5; the fitting high is 0.4"),
        ("{float: [0.1, 0.5], step: 0}", "step > 0 must hold, got step=0"),
        ("{float: [0.1, .inf]}", "low and high must be finite, got low=0.1, high=inf"),
        ("{float: [0.1]}", "expected two numbers, [low, high], got [0.1]"),
        ("{float: [false, true]}", "expected two numbers, [low, high], got [False, True]"),
        ("{int: [1, 2.5]}", "expected two whole numbers, [low, high], got [1, 2.5]"),
        ("{int: [1, 8], step: 3}", "step 3 does not divide 1..8; the fitting high is 7"),
        ("{choice: []}", "a choice needs at least one value"),
        ("{choice: [1, 2, 1.0]}", "a choice names each value once, got 1.0 twice"),
        ("{choice: [1, true]}", "optuna cannot tell 1 from True in one choice"),
        ("{choice: [[1], [2]]}", "choice: expected a list of values, got [[1], [2]]"),
        ("{choice: [1, 2], log: true}", "log and step go with float and int, not with choice"),
    ],
)  # fmt: skip
def test_impossible_distributions_say_what_was_expected_and_what_came(leaf: str, problem: str) -> None:
    assert problems(HEAD + f"model: {{architecture: a, x: {leaf}}}") == [f"model.x: {problem}"]


def test_the_architecture_must_be_named() -> None:
    assert problems(HEAD + "model: {hidden_dim: 3}") == ["model: must name an `architecture`"]
    assert problems(HEAD) == ["model: required, but absent"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "optimizer: {learning_rate: {float: [1e-4, 5]}}",
            "optimizer.learning_rate: input should be less than or equal to 1, got 5.0",
        ),
        (
            "optimizer: {name: {choice: [adam, lion]}}",
            "optimizer.name: input should be 'adam', 'adamw' or 'sgd', got 'lion'",
        ),
        ("trainer: {batch_size: 0}", "trainer.batch_size: input should be greater than or equal to 1, got 0"),
    ],
)
def test_values_that_training_would_refuse_are_found_in_the_space(text: str, problem: str) -> None:
    assert problems(HEAD + MODEL + text) == [problem]


def test_a_continuous_range_for_a_whole_number_is_found_although_its_ends_are_whole() -> None:
    [line] = problems(HEAD + MODEL + "trainer: {batch_size: {float: [16, 64]}}")
    assert line.startswith("trainer.batch_size: input should be a valid integer")


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


@pytest.mark.parametrize(
    ("when", "problem"),
    [
        ("model/poling: mean", "no such key in this space, 'model/poling'; did you mean 'model/pooling'?"),
        ("model/pooling: max", "model/pooling is one of 'mean', 'last', never 'max'"),
        ("model/pooling: [mean, max]", "model/pooling is one of 'mean', 'last', never 'max'"),
        ("model/pooling: '>= 2'", "model/pooling is one of 'mean', 'last', never >= 2"),
        ("model/num_layers: 5", "model/num_layers is a whole number in 1..4, never 5"),
        ("model/num_layers: '> 4'", "model/num_layers is a whole number in 1..4, never > 4"),
        ("model/num_layers: true", "model/num_layers is a whole number in 1..4, never True"),
        ("model/residual: 1", "model/residual is one of True, False, never 1"),
        (
            "model/dropout: 0.2",
            "model/dropout is continuous and never equals a value; compare it, as in '>= 0.1'",
        ),
        ("model/pool_size: 3", "model/pool_size is one of 2, never 3"),
        ("model/num_layers: '>= two'", "model/num_layers: only numbers compare, got '>= two'"),
        (
            "model/num_layers: []",
            "model/num_layers: expected a value, a list of values or a comparison, got []",
        ),
        ("", "expected other keys and their values, such as {scheduler/name: plateau}, got {}"),
    ],
)
def test_conditions_that_can_never_hold_are_errors(when: str, problem: str) -> None:
    assert problems(CONDITIONED % when) == [f"model.x.when: {problem}"]


def test_conditions_in_a_circle_are_an_error() -> None:
    text = HEAD + (
        "model:\n"
        "  architecture: a\n"
        "  x: {choice: [1, 2], when: {model/y: 1}}\n"
        "  y: {choice: [1, 2], when: {model/x: 1}}\n"
    )
    assert problems(text) == ["conditions go round in a circle: model/x -> model/y -> model/x"]


@pytest.mark.parametrize(
    ("point", "problem"),
    [
        ("model/hidden_dim: 100", "model/hidden_dim: expected one of 64, 128, got 100"),
        ("model/hidden_dim: '64'", "model/hidden_dim: expected one of 64, 128, got '64'"),
        ("optimizer/learning_rate: 1", "optimizer/learning_rate: expected a number in 0.0001..0.01, got 1"),
        ("model/architecture: ast", "model/architecture: is always 'cnn_gru' in this space, got 'ast'"),
        (
            "model/hiden_dim: 64",
            "model/hiden_dim: no such key in this space; did you mean 'model/hidden_dim'?",
        ),
        (
            "scheduler/name: constant, scheduler/patience: 3",
            "scheduler/patience: takes part only when scheduler/name is 'plateau', got 'constant'",
        ),
        (
            "scheduler/patience: 2",
            "scheduler/patience: takes part only when scheduler/name is 'plateau', "
            "and the point does not name scheduler/name",
        ),
        (
            "scheduler/name: plateau, scheduler/patience: 2, scheduler/factor: 0.5",
            "scheduler/factor: takes part only when scheduler/patience >= 3, got 2",
        ),
        (
            "scheduler/name: plateau, scheduler/patience: 4, scheduler/factor: 0.6",
            "scheduler/factor: expected a number in 0.25..0.75 in steps of 0.25, got 0.6",
        ),
    ],
)
def test_known_good_points_outside_the_space_are_errors(point: str, problem: str) -> None:
    text = SMALL + f"known_good: {{C1: {{{point}}}}}"
    assert problems(text) == [f"known_good.C1: {problem}"]


@pytest.mark.parametrize(
    ("constraints", "problem"),
    [
        ("5e6", "constraints: expected a ceiling by quantity, such as {parameters: '<= 5e6'}, got 5000000.0"),
        ("{paramters: '<= 5e6'}", "constraints.paramters: cannot be limited; did you mean 'parameters'?"),
        ("{parameters: 5e6}", "constraints.parameters: expected a ceiling such as '<= 5e6' or '< 5M', got 5000000.0"),
        ("{parameters: '>= 5'}", "constraints.parameters: expected a ceiling such as '<= 5e6' or '< 5M', got '>= 5'"),
        (
            "{parameters: '<= many'}",
            "constraints.parameters: expected a number above 0, such as 5e6, 5_000_000 or 5M, got 'many'",
        ),
        (
            "{parameters: '<= 0'}",
            "constraints.parameters: expected a number above 0, such as 5e6, 5_000_000 or 5M, got '0'",
        ),
    ],
)
def test_constraints_that_are_no_ceilings_are_errors(constraints: str, problem: str) -> None:
    assert problems(HEAD + MODEL + f"constraints: {constraints}") == [problem]


def test_one_error_names_all_problems_once() -> None:
    text = "modle: {}\ntask: {}\n" + "model: {hidden_dim: {int: [9, 1]}}\noptimizer: {lr: {choice: [1, 2, 3]}}"
    assert problems(text) == [
        "modle: unknown section; did you mean 'model'?",
        "model.hidden_dim: low <= high must hold, got low=9, high=1",
        "task: expected one of classification, regression and multitask, got none of them",
        "model: must name an `architecture`",
        "optimizer.lr: unknown key; known here: layer_decay, learning_rate, momentum, name, nesterov, weight_decay",
    ]
