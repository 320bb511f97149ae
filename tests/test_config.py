import math
from pathlib import Path

import pytest

from fmasearch.config import (
    SearchConfig,
    TrainConfig,
    did_you_mean,
    load_search,
    load_train_config,
    load_yaml,
    parse_section,
    parse_yaml,
)
from fmasearch.errors import ConfigError

MINIMAL = {"task": {"classification": "genre"}, "model": {"architecture": "cnn_gru", "hidden_dim": 64}}


def refusal(section: type[TrainConfig] | type[SearchConfig], values: dict[str, object]) -> str:
    with pytest.raises(ConfigError) as error:
        parse_section(section, values, source="x.yaml")
    return str(error.value)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1e-4", 0.0001),
        ("1E3", 1000.0),
        ("-2.5e+1", -25.0),
        (".5e1", 5.0),
        ("1_0e1", 100.0),
        ("3", 3),
        ("0.1", 0.1),
    ],
)
def test_numbers_are_numbers_in_every_notation(text: str, number: float) -> None:
    value = parse_yaml(f"x: {text}", source="x.yaml")["x"]
    assert (value, type(value)) == (number, type(number))


@pytest.mark.parametrize("text", ["e4", "1e", "4-e1", "'1e-4'", "mel"])
def test_what_only_looks_like_a_number_stays_text(text: str) -> None:
    assert isinstance(parse_yaml(f"x: {text}", source="x.yaml")["x"], str)


def test_a_key_given_twice_is_an_error_at_any_depth() -> None:
    with pytest.raises(ConfigError) as error:
        parse_yaml("a: 1\nb:\n  c: 2\n  c: 3\n", source="x.yaml")
    assert str(error.value) == (
        "x.yaml: not valid YAML: the key 'c' is given twice in \"<unicode string>\", line 4, column 3: c: 3 ^"
    )


def test_a_merge_key_fills_in_what_is_not_given() -> None:
    values = parse_yaml("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\n", source="x.yaml")
    assert values["b"] == {"x": 1, "y": 3}


@pytest.mark.parametrize("text", ["a: [1", "{{a}}: 1", "? [a]\n: 1", "a: *nowhere", "a: !!python/object:os.system {}"])
def test_what_is_not_plain_yaml_is_a_config_error(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^x\.yaml: not valid YAML: "):
        parse_yaml(text, source="x.yaml")


@pytest.mark.parametrize(("text", "kind"), [("", "NoneType"), ("- a", "list"), ("a", "str")])
def test_a_file_is_a_mapping(text: str, kind: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_yaml(text, source="x.yaml")
    assert str(error.value) == f"x.yaml: expected a mapping of keys to values, got {kind}"


def test_unreadable_files_are_config_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file or directory"):
        load_yaml(tmp_path / "nowhere.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe9\n")
    with pytest.raises(ConfigError, match=r"latin\.yaml: cannot be read: .*invalid continuation byte"):
        load_yaml(tmp_path / "latin.yaml")


def test_did_you_mean_names_what_is_close_or_lists_what_is_known() -> None:
    assert did_you_mean("chioce", ["choice", "float"]) == "; did you mean 'choice'?"
    assert did_you_mean("zzz", ["choice", "float"]) == "; known here: choice, float"
    assert did_you_mean("zzz", []) == ""


def test_every_problem_is_one_line() -> None:
    values = {**MINIMAL, "optimiser": {}, "optimizer": {"learning_rte": 1e-3, "learning_rate": 5}}
    lines = refusal(TrainConfig, values).splitlines()
    assert lines == [
        "x.yaml: optimizer.learning_rate: input should be less than or equal to 1, got 5",
        "x.yaml: optimizer.learning_rte: unknown key; did you mean 'learning_rate'?",
        "x.yaml: optimiser: unknown key; did you mean 'optimizer'?",
    ]


def test_a_list_as_a_hyperparameter_is_one_problem() -> None:
    values = {**MINIMAL, "model": {"architecture": "cnn_gru", "hidden_dim": [64]}}
    assert refusal(TrainConfig, values) == "x.yaml: model: hidden_dim: expected a single value, got [64]"


@pytest.mark.parametrize("model", [{}, {"architecture": 3}, {"architecture": ""}])
def test_a_model_names_its_architecture(model: dict[str, object]) -> None:
    assert refusal(TrainConfig, {**MINIMAL, "model": model}) == "x.yaml: model: must name an `architecture`"


def test_hyperparameters_keep_their_types() -> None:
    model = {"architecture": "a", "i": 1, "f": 0.5, "b": True, "n": None, "s": "mean"}
    config = parse_section(TrainConfig, {**MINIMAL, "model": model}, source="x.yaml")
    assert config.architecture == "a"
    expected = {"i": 1, "f": 0.5, "b": True, "n": None, "s": "mean"}
    assert repr(config.hyperparameters) == repr(expected)  # repr, since 1 == True


def test_features_may_be_one_name_but_not_none_or_twice() -> None:
    assert parse_section(TrainConfig, {**MINIMAL, "features": "chroma"}, source="").features == ("chroma",)
    for features in ([], ["mel", "mel"]):
        assert "name at least one feature set, and none twice" in refusal(
            TrainConfig, {**MINIMAL, "features": features}
        )


def test_genres_are_lists_of_classes_and_one_name_is_a_list() -> None:
    genres = {"merge": {"Rock": ["Rock", "Post-Rock"], "Folk": "Psych-Folk"}, "drop": "Soundtrack"}
    config = parse_section(TrainConfig, {**MINIMAL, "genres": genres}, source="").genres
    assert config.merge == {"Rock": ("Rock", "Post-Rock"), "Folk": ("Psych-Folk",)}
    assert (config.drop, config.min_tracks) == (("Soundtrack",), 0)
    assert parse_section(TrainConfig, MINIMAL, source="").genres.merge == {}


@pytest.mark.parametrize(
    ("genres", "problem"),
    [
        (
            {"merge": {"A": ["x"], "B": ["y", "x"]}},
            "genres.merge: a class may be named once, but x is merged into A and into B",
        ),
        ({"merge": {"A": ["x", "x"]}}, "genres.merge: a class may be named once, but x is merged twice into A"),
        ({"merge": {"A": []}}, "genres.merge: expected the classes that A is made of, got none"),
        (
            {"merge": {"A": ["x"]}, "drop": ["x"]},
            "genres: a class is either merged or dropped, but x is in merge.A and in drop",
        ),
        (
            {"merge": {"A": ["x"]}, "drop": ["A"]},
            "genres: a class is either merged or dropped, but A is in merge.A and in drop",
        ),
        ({"min_tracks": -1}, "genres.min_tracks: input should be greater than or equal to 0, got -1"),
        ({"merge": {"A": [False]}}, "genres.merge.A.0: input should be a valid string, got False"),  # YAML's `no`
        ({"mrege": {}}, "genres.mrege: unknown key; did you mean 'merge'?"),
    ],
)
def test_genres_that_contradict_themselves_are_refused(genres: dict[str, object], problem: str) -> None:
    assert refusal(TrainConfig, {**MINIMAL, "genres": genres}).startswith(f"x.yaml: {problem}")


def test_infinite_numbers_are_refused() -> None:
    assert "optimizer.learning_rate" in refusal(TrainConfig, {**MINIMAL, "optimizer": {"learning_rate": math.nan}})


def test_configurations_are_frozen() -> None:
    config = parse_section(TrainConfig, MINIMAL, source="x.yaml")
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 3  # type: ignore[misc]


def test_a_training_configuration_survives_its_own_file(tmp_path: Path) -> None:
    path = tmp_path / "best.yaml"
    genres = {"merge": {"Rock": ["Rock", "Post-Rock"]}, "drop": ["Soundtrack"], "min_tracks": 200}
    config = parse_section(TrainConfig, {**MINIMAL, "genres": genres}, source="x.yaml")
    path.write_text(config.model_dump_json())  # JSON is YAML
    assert load_train_config(path) == config


@pytest.mark.parametrize(("text", "seconds"), [("90m", 5400), ("6h", 21600), ("2d", 172800), ("1.5s", 1.5), ("30", 30)])
def test_time_budgets_have_units(tmp_path: Path, text: str, seconds: float) -> None:
    path = tmp_path / "search.yaml"
    path.write_text(f"time_budget_seconds: {text}\n")
    assert load_search(path).time_budget_seconds == seconds


@pytest.mark.parametrize("budget", ["6 hours", "h", "1.2.3h", -1, 0])
def test_odd_time_budgets_are_refused(budget: object) -> None:
    assert refusal(SearchConfig, {"time_budget_seconds": budget}).startswith("x.yaml: time_budget_seconds: ")


def test_every_trial_can_reach_the_first_rung() -> None:
    values = {"max_epochs": 3, "scheduler": {"grace_period": 4}}
    assert refusal(SearchConfig, values) == (
        "x.yaml: scheduler.grace_period <= max_epochs must hold, got grace_period=4, max_epochs=3"
    )
    for name in ("hyperband", "median"):
        assert "grace_period=4" in refusal(SearchConfig, {**values, "scheduler": {"name": name, "grace_period": 4}})
    parse_section(SearchConfig, {**values, "scheduler": {"name": "none", "grace_period": 4}}, source="x.yaml")


def test_a_misspelt_search_key_names_the_right_one() -> None:
    values = {"num_trails": 10, "sampler": {"nam": "tpe"}}
    assert refusal(SearchConfig, values).splitlines() == [
        "x.yaml: sampler.nam: unknown key; did you mean 'name'?",
        "x.yaml: num_trails: unknown key; did you mean 'num_trials'?",
    ]
