"""W&B sweeps as spaces: every distribution and setting, and words for what has no equivalent."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from fmasearch.config import SearchConfig, load_yaml, parse_yaml
from fmasearch.errors import SpaceError
from fmasearch.models import ARCHITECTURES, hyperparameters
from fmasearch.space import Choice, FloatRange, IntRange, IsOneOf, Space
from fmasearch.space.wandb_names import _OWN_PATHS, SYNONYMS, find_names, is_whole, objective_of, path_of
from fmasearch.space.wandb_sweep import Translation, is_sweep, translate
from fmasearch.space.wandb_values import leaf_of

ROOT = Path(__file__).parents[1]
REFERENCE = sorted((ROOT / "spaces" / "reference").glob("*.yaml"))
KNOWN = {name: hyperparameters(name) for name in ARCHITECTURES}


def sweep(parameters: str = "{lr: {value: 0.1}}", *, method: str = "random", **others: Any) -> Translation:
    """A sweep named after cnn_gru; `parameters` in YAML."""
    values = {"method": method, "parameters": parse_yaml(parameters, source="test"), "name": "cnn_gru", **others}
    return translate(values, source="sweep.yaml", architectures=KNOWN)


def space_of(translation: Translation) -> Space:
    return Space.parse(translation.space_text)


def lost(translation: Translation) -> list[str]:
    return [note.removeprefix("not translated: ") for note in translation.notes if note.startswith("not translated: ")]


# The reference report


@pytest.mark.parametrize("path", REFERENCE, ids=lambda path: path.stem)
def test_every_key_of_a_reference_sweep_is_translated(path: Path) -> None:
    values = load_yaml(path)
    assert is_sweep(values)
    translation = translate(values, source=str(path), architectures=KNOWN)
    assert lost(translation) == []
    given = len(values["parameters"]) - 1  # epochs belong to the search
    assert len(space_of(translation).distributions) == given


def test_the_first_sweep_of_the_report_is_what_the_report_says() -> None:
    values = load_yaml(ROOT / "spaces/reference/wandb_cnn_gru.yaml")
    translation = translate(values, source="wandb_cnn_gru.yaml", architectures=KNOWN)
    space = space_of(translation)
    assert space.distributions == {
        "model/hidden_dim": Choice((64, 128, 256)),
        "model/dropout": Choice((0.2, 0.3, 0.5)),
        "model/num_layers": Choice((1, 2)),
        "trainer/batch_size": Choice((16, 32, 64)),
        "optimizer/learning_rate": Choice((1e-4, 3e-4, 5e-4, 7e-4, 1e-3)),
    }
    assert space.constants["model"] == {"architecture": "cnn_gru"}
    assert space.inputs()[1].objective == "accuracy"
    assert space.size() == 3 * 3 * 2 * 3 * 5
    assert translation.search == {"sampler/name": "random", "max_epochs": 20, "scheduler/name": "none"}


# Distributions


@pytest.mark.parametrize(
    ("spec", "leaf"),
    [
        ("{value: adam}", "adam"),
        ("{distribution: constant, value: null}", None),
        ("{values: [1, 2, 2]}", {"choice": [1, 2]}),
        ("{values: [0.5]}", 0.5),
        ("{min: 1, max: 4}", {"int": [1, 4]}),
        ("{min: 0, max: 0.5}", {"float": [0, 0.5]}),
        ("{distribution: int_uniform, min: 1, max: 4}", {"int": [1, 4]}),
        ("{distribution: uniform, min: 1, max: 4}", {"float": [1, 4]}),
        # round(X / 8) * 8 of 10..60 is 8..64: 10 / 8 is 1.25, 60 / 8 is 7.5, and a half goes to the even 8
        ("{distribution: q_uniform, min: 10, max: 60, q: 8}", {"int": [8, 64], "step": 8}),
        ("{distribution: q_uniform, min: 1, max: 9}", {"int": [1, 9]}),  # q defaults to 1
        ("{distribution: q_uniform, min: 0, max: 0.3, q: 0.1}", {"float": [0.0, 0.3], "step": 0.1}),
        ("{distribution: log_uniform_values, min: 1e-4, max: 0.1}", {"float": [1e-4, 0.1], "log": True}),
        ("{distribution: inv_log_uniform_values, min: 1e-4, max: 0.1}", {"float": [1e-4, 0.1], "log": True}),
        # exp(-6.907755) is 0.001, exp(-2.302585) is 0.1
        ("{distribution: log_uniform, min: -6.907755, max: -2.302585}", {"float": [0.001, 0.1], "log": True}),
        ("{distribution: inv_log_uniform, min: 2.302585, max: 6.907755}", {"float": [0.001, 0.1], "log": True}),
        ("{distribution: q_log_uniform_values, min: 16, max: 256}", {"int": [16, 256], "log": True}),
        # exp(2.772589) is 16, exp(4.158883) is 64
        ("{distribution: q_log_uniform, min: 2.772589, max: 4.158884}", {"int": [16, 64], "log": True}),
    ],
)  # fmt: skip
def test_each_distribution_becomes_the_leaf_it_is_here(spec: str, leaf: Any) -> None:
    assert leaf_of(yaml_of(spec), whole=False)[0] == leaf


def yaml_of(text: str) -> Any:
    return parse_yaml(f"value: {text}", source="test")["value"]


def test_whole_numbers_stay_whole_whatever_the_distribution_says() -> None:
    translation = sweep(
        "{batch_size: {distribution: log_uniform_values, min: 8, max: 64}, hidden: {min: 8.5, max: 64.}}"
    )
    distributions = space_of(translation).distributions
    assert distributions["trainer/batch_size"] == IntRange(8, 64, log=True)
    assert distributions["model/hidden_dim"] == IntRange(9, 64)


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("{distribution: normal, mu: 0.3, sigma: 0.1}", "there is no normal distribution here; give min and max"),
        ("{distribution: uniforn, min: 0, max: 1}", "unknown distribution 'uniforn'; did you mean 'uniform'?"),
        ("{distribution: uniform, min: 0}", "max: expected a number, got None"),
        ("{values: [[1, 2], [3]]}", "expected a list of single values"),
        ("{values: [1, true]}", "optuna cannot tell 1 from True"),
        ("{mu: 3}", "expected value, values, or min and max, got mu"),
        ("{distribution: q_uniform, min: 0, max: 1, q: 0}", "q: expected a number above 0, got 0"),
    ],
)
def test_distributions_without_an_equivalent_are_named_with_the_reason(spec: str, reason: str) -> None:
    translation = sweep(f"{{dropout: {spec}}}")
    [line] = lost(translation)
    assert line.startswith(f"dropout: {reason}")
    assert f"# not translated: {line}" in translation.space_text  # the record of a study says it, too
    assert "model/dropout" not in space_of(translation).distributions


def test_probabilities_and_steps_that_are_left_out_are_said() -> None:
    weighted = sweep("{dropout: {values: [0.1, 0.2], probabilities: [0.9, 0.1]}}")
    assert "dropout: probabilities are left out: every value is equally likely" in weighted.notes
    stepped = sweep("{bs: {distribution: q_log_uniform_values, q: 8, min: 16, max: 64}}")
    assert "bs: q: 8 is left out: a log range has no steps" in stepped.notes


# Names


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("lr", "optimizer/learning_rate"),
        ("learning-rate", "optimizer/learning_rate"),
        ("optimizer.lr", "optimizer/learning_rate"),
        ("optimizer", "optimizer/name"),
        ("optimizer.name", "optimizer/name"),
        ("hparams.hidden_size", "model/hidden_dim"),
        ("rnn_dim", "model/rnn_dim"),  # a hyperparameter by its own name
        ("label_smoothing", "loss/label_smoothing"),  # a key that only one section has
        ("patience", "search/patience"),
        ("scheduler.patience", "scheduler/patience"),
        ("trainer.max_epochs", "search/max_epochs"),
        ("reduce_lr_factor", "scheduler/factor"),
        ("n_mels", None),
    ],
)
def test_parameters_are_known_by_many_names(name: str, path: str | None) -> None:
    assert path_of(name, {"hidden_dim", "rnn_dim", "dropout"}) == path


def test_every_path_of_the_tables_exists() -> None:
    names = {f"model/{name}" for names in KNOWN.values() for name in names} | {"model/architecture"}
    assert {path for path in SYNONYMS if not path.startswith("search/")} <= names | set(_OWN_PATHS)
    words = [word for synonyms in SYNONYMS.values() for word in synonyms.split()]
    assert len(words) == len(set(words))  # a word that means two things would mean the later one


def test_whole_numbers_are_told_by_type_and_by_name() -> None:
    assert all(map(is_whole, ("trainer/batch_size", "crop/frames", "model/hidden_dim", "model/num_heads")))
    assert not any(map(is_whole, ("optimizer/learning_rate", "trainer/ema_decay", "model/dropout", "search/seed")))


def test_unknown_parameters_are_listed() -> None:
    assert lost(sweep("{lr: {value: 0.1}, n_mels: {value: 128}, cuda: {value: true}}")) == [
        "n_mels: no such setting here",
        "cuda: no such setting here",
    ]


def test_a_setting_that_comes_twice_is_taken_once() -> None:
    translation = sweep("{lr: {value: 0.1}, learning_rate: {values: [0.2, 0.3]}}")
    assert lost(translation) == ["learning_rate: lr is optimizer/learning_rate already"]
    assert space_of(translation).constants["optimizer"] == {"learning_rate": 0.1}


def test_known_names_that_the_architecture_lacks_are_listed() -> None:
    assert lost(sweep("{num_heads: {values: [2, 4]}}"))[0].startswith("num_heads: cnn_gru has no num_heads")


def test_nested_parameters_are_found_in_their_sections() -> None:
    text = "{optimizer: {parameters: {name: {values: [Adam, SGD]}, momentum: {min: 0.5, max: 0.9}}}}"
    space = space_of(sweep(text))
    assert space.distributions["optimizer/name"] == Choice(("adam", "sgd"))
    assert space.conditions == {"optimizer/momentum": (IsOneOf("optimizer/name", ("sgd",)),)}


# Architectures


def test_texts_tell_architectures_by_whole_words_and_the_longest_counts() -> None:
    assert find_names("train-CNN.LSTM v2", ["lstm", "cnn_lstm", "cnn"]) == ["cnn_lstm"]
    assert find_names("last one", ["ast", "lstm"]) == []


@pytest.mark.parametrize(
    ("others", "source"),
    [
        ({"name": "first try of cnn-lstm"}, "x.yaml"),
        ({"name": "x", "program": "train_cnn_lstm.py"}, "x.yaml"),
        ({"name": "x", "project": "CNN LSTM"}, "x.yaml"),
        ({"name": "x"}, "sweeps/wandb_cnn_lstm.yaml"),
    ],
)
def test_the_architecture_follows_from_a_text_about_the_sweep(others: dict[str, str], source: str) -> None:
    values = {"method": "random", "parameters": {"lr": {"value": 0.1}}, **others}
    translation = translate(values, source=source, architectures=KNOWN)
    assert space_of(translation).constants["model"] == {"architecture": "cnn_lstm"}


def test_a_sweep_without_an_architecture_is_told_how_to_name_it() -> None:
    with pytest.raises(
        SpaceError, match=r"sweep\.yaml: which architecture .* `model: \{value: cnn_gru\}` or in its `name`"
    ):
        sweep(name="anything")


def test_several_architectures_search_only_the_keys_they_have() -> None:
    text = "{model_type: {values: [CNN-GRU, lstm]}, first_kernel_size: {values: [3, 5]}, dropout: {values: [0.1, 0.2]}}"
    space = space_of(sweep(text))
    assert space.distributions["model/architecture"] == Choice(("cnn_gru", "lstm"))
    assert space.conditions == {"model/first_kernel_size": (IsOneOf("model/architecture", ("cnn_gru",)),)}


def test_an_unknown_architecture_is_an_error_unless_another_is_left() -> None:
    with pytest.raises(SpaceError, match=r"parameters\.model: expected some of .*cnn_gru.* got 'vgg'"):
        sweep("{model: {value: vgg}}")
    translation = sweep("{model: {values: [cnn_gru, vgg]}}")
    assert lost(translation)[0].startswith("model 'vgg': no such one here")
    assert space_of(translation).constants["model"] == {"architecture": "cnn_gru"}


# Schedules


@pytest.mark.parametrize(
    ("parameters", "name"),
    [
        ("{reduce_lr_factor: {values: [0.5, 0.7]}}", "plateau"),
        ("{step_lr_step_size: {values: [5, 10]}, step_lr_gamma: {values: [0.5, 0.7]}}", "step"),
        ("{reduce_lr_factor: {value: 0.7}, step_lr_gamma: {values: [0.5, 0.7]}}", "step_plateau"),
        ("{warmup_epochs: {values: [1, 2]}}", "cosine"),
        ("{lr_scheduler: {value: ReduceLROnPlateau}}", "plateau"),
        ("{lr_scheduler: {value: none}}", "constant"),
        ("{lr_scheduler: {value: OneCycleLR}}", "one_cycle"),
    ],
)
def test_the_schedule_is_the_one_whose_settings_are_tuned(parameters: str, name: str) -> None:
    translation = sweep(parameters)
    assert space_of(translation).constants["scheduler"]["name"] == name
    assert lost(translation) == []


def test_settings_of_a_schedule_take_part_with_it_alone() -> None:
    translation = sweep(
        "{scheduler: {values: [step, cosine]}, gamma: {values: [0.5, 0.7]}, lr_factor: {values: [0.1, 0.2]}}"
    )
    assert space_of(translation).conditions == {"scheduler/gamma": (IsOneOf("scheduler/name", ("step",)),)}
    assert lost(translation) == ["lr_factor: does nothing where scheduler/name is step or cosine"]


# The search


@pytest.mark.parametrize(("method", "sampler"), [("random", "random"), ("grid", "grid"), ("bayes", "tpe")])
def test_methods_are_samplers(method: str, sampler: str) -> None:
    assert sweep(method=method).search["sampler/name"] == sampler


def test_a_grid_takes_every_point_and_run_cap_counts_trials() -> None:
    assert sweep(method="grid").search["num_trials"] == 100_000
    assert sweep(method="grid", run_cap=7).search["num_trials"] == 7
    assert "num_trials" not in sweep().search
    assert any(note.startswith("run_cap: the sweep has none") for note in sweep().notes)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        # W&B's own examples: brackets 3, 9, 27, 81, and 27 / 3 = 9, 27 / 9 = 3
        ({"type": "hyperband", "min_iter": 3}, {"scheduler/grace_period": 3, "scheduler/reduction_factor": 3}),
        ({"type": "hyperband", "max_iter": 27, "s": 2}, {"scheduler/grace_period": 3, "max_epochs": 27}),
        (
            {"type": "hyperband", "min_iter": 2, "eta": 2},
            {"scheduler/grace_period": 2, "scheduler/reduction_factor": 2},
        ),
        (None, {"scheduler/name": "none"}),
    ],
)
def test_hyperband_is_asha_with_the_same_rungs(rule: Any, expected: dict[str, Any]) -> None:
    translation = sweep(early_terminate=rule)
    assert translation.search.items() >= expected.items()
    assert lost(translation) == []


def test_epochs_of_the_sweep_count_more_than_those_of_hyperband() -> None:
    rule = {"type": "hyperband", "max_iter": 27, "s": 2}
    assert sweep("{epochs: {values: [10, 20]}}", early_terminate=rule).search["max_epochs"] == 20


def test_what_asha_cannot_do_is_said() -> None:
    translation = sweep(early_terminate={"type": "hyperband", "min_iter": 3, "s": 2, "strict": True})
    assert [line.split(":")[0] for line in lost(translation)] == ["early_terminate.s", "early_terminate.strict"]
    assert lost(sweep(early_terminate={"type": "envelope"}))[0].startswith("early_terminate: expected type: hyperband")


@pytest.mark.parametrize(
    ("metric", "objective", "num_lost"),
    [
        ({"name": "val_accuracy", "goal": "maximize"}, "accuracy", 0),
        ({"name": "val/acc", "goal": "maximize"}, "accuracy", 0),
        ({"name": "test_accuracy", "goal": "maximize"}, "accuracy", 0),
        ({"name": "f1_macro", "goal": "maximize"}, "macro_f1", 0),
        ({"name": "val_balanced_accuracy", "goal": "maximize"}, "balanced_accuracy", 0),
        ({"name": "val_loss", "goal": "minimize"}, "macro_f1", 1),
        ({"name": "weighted_f1", "goal": "maximize"}, "macro_f1", 1),
        ({"name": "val_accuracy"}, "accuracy", 1),  # W&B would minimise it
        ({"name": "val_accuracy", "goal": "maximize", "target": 0.9}, "accuracy", 1),
        (None, "macro_f1", 0),
    ],
)
def test_metrics_are_objectives_where_there_is_one(metric: Any, objective: str, num_lost: int) -> None:
    translation = sweep(metric=metric)
    assert space_of(translation).inputs()[1].objective == objective
    assert len(lost(translation)) == num_lost


def test_no_metric_is_taken_for_the_one_it_only_resembles() -> None:
    assert objective_of("val_loss") is None
    assert objective_of("micro_f1") is None


def test_epochs_patience_and_seed_belong_to_the_search() -> None:
    translation = sweep("{epochs: {min: 10, max: 30}, patience: {value: 5}, seed: {values: [1, 2, 3]}}")
    assert translation.search.items() >= {"max_epochs": 30, "patience": 5}.items()
    assert lost(translation) == ["seed: belongs to the search, with one value for all trials"]


def test_settings_of_the_search_are_settings_we_have() -> None:
    rule = {"type": "hyperband", "max_iter": 27, "s": 2}
    text = "{patience: {value: 5}, seed: {value: 3}, epochs: {value: 30}}"
    for path in sweep(text, method="grid", run_cap=3, early_terminate=rule).search:
        values: Any = SearchConfig().model_dump()
        for key in path.split("/"):
            values = values[key]


def test_keys_of_wandb_itself_are_no_settings_and_others_are_listed() -> None:
    of_wandb = {"program": "train.py", "command": ["python"], "project": "p", "entity": "e", "description": "why"}
    translation = sweep(**of_wandb, imports=["x"])
    assert lost(translation) == ["imports: a space and a search have nothing like it"]
    assert space_of(translation).description == "cnn_gru: why"


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"method": "custom"}, "method: expected one of random, grid, bayes, got 'custom'"),
        ({"metric": "val_loss"}, "metric: expected a name and a goal, got 'val_loss'"),
        ({"parameters": {"lr": 0.1}}, r"parameters.lr: expected \{value: ...\} or the like, got 0.1"),
        ({"parameters": [1]}, r"parameters: expected parameters by name, got \[1\]"),
        ({"early_terminate": {"type": "hyperband", "eta": "3"}}, "early_terminate.eta: expected a number above 0"),
    ],
)
def test_what_is_no_valid_sweep_is_an_error(values: dict[str, Any], problem: str) -> None:
    sound = {"method": "random", "name": "cnn_gru", "parameters": {"lr": {"value": 0.1}}}
    with pytest.raises(SpaceError, match=f"^sweep.yaml: {problem}"):
        translate({**sound, **values}, source="sweep.yaml", architectures=KNOWN)


def test_our_own_spaces_are_no_sweeps() -> None:
    assert not any(is_sweep(load_yaml(path)) for path in (ROOT / "spaces").glob("*.yaml"))


def test_the_translation_is_readable_yaml_in_the_order_of_a_training() -> None:
    translation = sweep(
        "{bs: {values: [8, 16]}, lr: {min: 1e-05, max: 0.1}, momentum: {value: 0.9}, opt: {value: sgd}}"
    )
    body = translation.space_text.split("objective: macro_f1}\n")[1]
    assert body == (
        "\nmodel:\n  architecture: cnn_gru\n"
        "\noptimizer:\n  name: sgd\n  learning_rate: {float: [1.0e-05, 0.1]}\n  momentum: 0.9\n"
        "\ntrainer:\n  batch_size: {choice: [8, 16]}\n"
    )
    assert space_of(translation).distributions["optimizer/learning_rate"] == FloatRange(1e-5, 0.1)
    assert yaml.safe_load(translation.space_text)["trainer"] == {"batch_size": {"choice": [8, 16]}}
