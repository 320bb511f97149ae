"""Every sampler behind the bridge: what it suggests, what it learns from, and that it goes on when it is resumed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.study import StudyDirection
from optuna.trial import TrialState as OptunaState
from optuna.trial import create_trial

from fmasearch.config import SearchConfig, parse_section
from fmasearch.errors import ConfigError
from fmasearch.records import EpochResult, Params, TrialState
from fmasearch.searcher import OptunaSearcher, build_sampler, close_trial, num_trials, open_study, sampler_notes
from fmasearch.searcher.expectations import expected_objectives, mirror_of
from fmasearch.searcher.reach import all_keys, constant_keys, constant_numbers
from fmasearch.space import Space
from study_helpers import CONSTANTS, OBJECTIVE

SAMPLERS = ("trees", "tpe", "gp", "cmaes", "qmc", "nsga2", "random", "grid")
MODELS = ("trees", "tpe", "gp", "cmaes", "nsga2")

# Two numbers that all trials have, a choice, and keys two conditions deep.
SPACE = f"""
{CONSTANTS}
optimizer:
  learning_rate: {{float: [1e-4, 1e-1], log: true}}
  weight_decay: {{float: [0.0, 0.2]}}
  name: {{choice: [adamw, sgd]}}
  momentum: {{float: [0.0, 0.9], when: {{optimizer/name: sgd}}}}
scheduler:
  name: {{choice: [constant, cosine]}}
  warmup_epochs: {{int: [0, 5], when: {{scheduler/name: cosine}}}}
"""
GRID = f"""
{CONSTANTS}
optimizer:
  learning_rate: {{choice: [0.1, 0.01, 0.001]}}
  name: {{choice: [adamw, sgd]}}
  momentum: {{choice: [0.0, 0.5, 0.9], when: {{optimizer/name: sgd}}}}
"""


@pytest.fixture(autouse=True)
def studies_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """One study to a path, for as long as a test runs: sqlite takes most of the time where nothing is trained."""
    kept: dict[str, optuna.storages.BaseStorage] = {}

    class InMemory:
        def __new__(cls, url: str, **_: Any) -> Any:
            return kept.setdefault(url, optuna.storages.InMemoryStorage())

    monkeypatch.setattr(optuna.storages, "RDBStorage", InMemory)


def make_searcher(
    folder: Path, sampler: str, *, num: int = 40, seed: int = 0, concurrency: int = 4, **search: Any
) -> OptunaSearcher:
    """A searcher on the study in `folder`; making it again is what a resumed study does."""
    settings = SearchConfig.model_validate(
        {"sampler": {"name": sampler, "num_startup_trials": 8}, "num_trials": num, "seed": seed, **search}
    )
    space = Space.parse(GRID if sampler == "grid" else SPACE)
    folder.mkdir(exist_ok=True)
    return OptunaSearcher(
        open_study(folder / "optuna.db", settings, space, OBJECTIVE, concurrency=concurrency),
        space,
        num_trials=num_trials(settings, space),
        make_config=lambda number, params, label: {"number": number, "params": params},
        min_distance=settings.sampler.min_distance,
        measure=size_of if settings.also_minimise else None,
    )


def suggest(searcher: OptunaSearcher, trial_id: str) -> Params:
    suggestion: Any = searcher.suggest(trial_id)
    params: Params = suggestion["params"]
    return params


def quality(params: Params) -> float:
    """1 at a learning rate of 0.01 and a weight decay of 0.05, less by the squared distance in units of the ranges."""
    rate, decay = params["optimizer/learning_rate"], params.get("optimizer/weight_decay", 0.05)
    assert isinstance(rate, float)
    assert isinstance(decay, float)
    return 1.0 - ((math.log10(rate) + 2) / 3) ** 2 - ((decay - 0.05) / 0.2) ** 2


def size_of(params: Params) -> Mapping[str, float]:
    """A model is the larger, the larger its weight decay: against the objective beyond 0.05."""
    return {"parameters": 1_000 + 1e6 * float(params.get("optimizer/weight_decay") or 0)}


def end(searcher: OptunaSearcher, trial_id: str, params: Params, state: TrialState = TrialState.COMPLETED) -> None:
    """Two epochs, of which the first gives half of what the last one does; a stopped trial has the first alone."""
    if state is TrialState.FAILED:
        searcher.on_trial_complete(trial_id, error=True)
        return
    first, last = quality(params) / 2, quality(params)
    if state is TrialState.PRUNED:
        searcher.on_trial_complete(trial_id, epoch(1, first))
        return
    searcher.on_trial_result(trial_id, epoch(1, first))
    searcher.on_trial_complete(trial_id, epoch(2, last, finished=True))


def epoch(number: int, best: float, *, finished: bool = False) -> dict[str, Any]:
    return {"epoch": number, "best_objective": best, "finished": finished, "result/epoch_seconds": float(number)}


def search_on(
    searcher: OptunaSearcher,
    *,
    at_once: int = 4,
    states: Sequence[TrialState] = (TrialState.COMPLETED,),
    limit: int = 99,
) -> list[Params]:
    """Search with `at_once` trials under way, which end in the order they began, in the states by turns."""
    suggested: list[Params] = []
    while len(suggested) < limit:
        wave = [f"{len(suggested) + k}" for k in range(at_once)]
        configs = [(i, c["params"]) for i in wave if isinstance(c := searcher.suggest(i), dict)]
        for trial_id, params in configs:
            end(searcher, trial_id, params, states[len(suggested) % len(states)])
            suggested.append(params)
        if len(configs) < at_once:
            break
    return suggested


ALL_ENDS = (TrialState.COMPLETED, TrialState.PRUNED, TrialState.FAILED, TrialState.PRUNED, TrialState.COMPLETED)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_sampler_stays_in_the_space_whatever_ends_its_trials_and_goes_on_without_repeating_itself(
    tmp_path: Path, sampler: str
) -> None:
    num = {"grid": 12, "gp": 16}.get(sampler, 24)  # the grid: 3 rates x (adamw, or sgd with 3 momenta)
    before = search_on(make_searcher(tmp_path, sampler, num=num), states=ALL_ENDS, limit=12 if num > 12 else 8)
    searcher = make_searcher(tmp_path, sampler, num=num)
    after = search_on(searcher, states=ALL_ENDS)
    space = searcher.space
    for params in before + after:
        assert set(params) == {path for path in space.distributions if space.is_active(path, params)}
        assert all(space.distributions[path].contains(value) for path, value in params.items())
    different = {tuple(sorted(params.items())) for params in before + after}
    assert len(different) == len(before + after) == num
    assert {key for params in before + after for key in params} == set(space.distributions)  # every branch was tried


@pytest.mark.parametrize("sampler", MODELS)
def test_a_model_based_sampler_leaves_its_random_phase_behind(tmp_path: Path, sampler: str) -> None:
    suggested = search_on(make_searcher(tmp_path / sampler, sampler, num=20 if sampler == "gp" else 40, seed=1))
    assert is_learnt(suggested)
    assert not is_learnt(search_on(make_searcher(tmp_path / "random", "random", num=40, seed=1)))


@pytest.mark.parametrize("sampler", ["trees", "tpe", "gp", "cmaes"])
def test_a_sampler_learns_where_early_stopping_leaves_one_finished_trial_in_eight(tmp_path: Path, sampler: str) -> None:
    states = (TrialState.COMPLETED, *[TrialState.PRUNED] * 7)
    num = 20 if sampler == "gp" else 40
    assert is_learnt(search_on(make_searcher(tmp_path, sampler, num=num, seed=2), states=states))


def is_learnt(suggested: Sequence[Params]) -> bool:
    """Half of the last eight trials are better than all but the best three of the first eight, which are random."""
    first, last = sorted(map(quality, suggested[:8])), sorted(map(quality, suggested[-8:]))
    return last[4] > first[4]


def test_qmc_goes_on_with_its_sequence_and_covers_a_space_evenly(tmp_path: Path) -> None:
    through = search_on(make_searcher(tmp_path / "through", "qmc", num=16))
    search_on(make_searcher(tmp_path / "cut", "qmc", num=16), limit=8)
    resumed = search_on(make_searcher(tmp_path / "cut", "qmc", num=16))
    assert resumed == through[8:]
    decays = sorted(int(float(params["optimizer/weight_decay"] or 0) / 0.2 * 16) for params in through)
    assert decays == list(range(16))  # 16 points of a Sobol sequence: one in every sixteenth of each range


def test_cmaes_keeps_its_state_in_the_study(tmp_path: Path) -> None:
    search_on(make_searcher(tmp_path, "cmaes", num=60), limit=40)
    searcher = make_searcher(tmp_path, "cmaes", num=60)
    search_on(searcher)
    generations = [
        t.system_attrs["cma:generation"] for t in searcher.study.trials if "cma:generation" in t.system_attrs
    ]
    assert generations == sorted(generations)
    assert generations[-1] > generations[len(generations) // 2] > 0  # it goes on counting, and does not start again


def test_the_random_phase_is_given_or_ten_or_twice_the_concurrency() -> None:
    def startup(concurrency: int, given: int | None) -> int:
        settings = SearchConfig.model_validate({"sampler": {"name": "tpe", "num_startup_trials": given}})
        sampler: Any = build_sampler(settings, Space.parse(SPACE), concurrency=concurrency)
        return int(sampler._n_startup_trials)

    assert (startup(1, None), startup(8, None), startup(8, 3)) == (10, 16, 3)


def test_a_space_knows_its_keys_before_a_trial_does() -> None:
    space = Space.parse(f"{SPACE}loss: {{label_smoothing: {{choice: [0.1]}}}}")
    assert set(all_keys(space)) == set(space.distributions) - {"loss/label_smoothing"}  # one value is no choice
    assert set(constant_keys(space)) == set(all_keys(space)) - {"optimizer/momentum", "scheduler/warmup_epochs"}
    assert list(constant_numbers(space)) == ["optimizer/learning_rate", "optimizer/weight_decay"]


def notes(sampler: str, space: str = SPACE, scheduler: str = "none") -> tuple[str, ...]:
    settings = SearchConfig.model_validate({"sampler": {"name": sampler}, "scheduler": {"name": scheduler}})
    return sampler_notes(settings, Space.parse(space))


def test_a_user_is_told_what_of_a_space_is_beyond_a_samplers_reach() -> None:
    assert notes("cmaes") == (
        "cmaes models optimizer.learning_rate, optimizer.weight_decay; tpe chooses the others, one by one: "
        "optimizer.name, optimizer.momentum, scheduler.name, scheduler.warmup_epochs",
    )
    assert notes("gp")[0].endswith("one by one: optimizer.momentum, scheduler.warmup_epochs")
    assert notes("nsga2") == (
        "nsga2 draws keys with conditions at random: optimizer.momentum, scheduler.warmup_epochs; tpe models them",
    )
    assert "asha leaves few" in notes("nsga2", scheduler="asha")[1]
    assert notes("tpe") == notes("qmc") == notes("random") == notes("grid", GRID) == ()


def test_cmaes_refuses_a_space_without_numbers_that_every_trial_has() -> None:
    with pytest.raises(ConfigError) as error:
        notes("cmaes", GRID)
    assert str(error.value) == ("sampler.name: cmaes needs a number that every trial has, and space has none; take tpe")


# What a sampler of finished trials is shown of stopped ones


def trial(state: OptunaState, points: Mapping[int, float], x: float = 0.5) -> optuna.trial.FrozenTrial:
    return create_trial(
        state=state,
        value=max(points.values()) if state is OptunaState.COMPLETE else None,
        params={"x": x},
        distributions={"x": optuna.distributions.FloatDistribution(0, 1)},
        intermediate_values=dict(points),
    )


def numbered(*trials: optuna.trial.FrozenTrial) -> list[optuna.trial.FrozenTrial]:
    study = optuna.create_study(direction="maximize")
    study.add_trials(trials)
    added: list[optuna.trial.FrozenTrial] = study.get_trials()
    return added


def test_a_stopped_trial_is_expected_to_gain_what_finished_ones_gained_from_its_epoch() -> None:
    trials = numbered(
        trial(OptunaState.COMPLETE, {1: 0.2, 2: 0.5, 3: 0.6}),
        trial(OptunaState.COMPLETE, {1: 0.4, 2: 0.6, 3: 0.7}),
        trial(OptunaState.PRUNED, {1: 0.1}),  # they gained 0.4 and 0.3 from epoch 1
        trial(OptunaState.PRUNED, {1: 0.3, 2: 0.45}),  # and 0.1 each from epoch 2
        trial(OptunaState.PRUNED, {1: 0.5}),  # 0.85 would beat all that was trained
        trial(OptunaState.PRUNED, {}),
        trial(OptunaState.FAIL, {1: 0.9}),
    )
    expected = expected_objectives(trials, StudyDirection.MAXIMIZE)
    assert expected == pytest.approx({0: 0.6, 1: 0.7, 2: 0.45, 3: 0.55, 4: 0.7})


def test_without_a_finished_trial_stopped_ones_count_as_they_are() -> None:
    trials = numbered(trial(OptunaState.PRUNED, {1: 0.1}), trial(OptunaState.PRUNED, {1: 0.2, 2: 0.3}))
    assert expected_objectives(trials, StudyDirection.MINIMIZE) == {0: 0.1, 1: 0.3}


def test_a_mirror_shows_what_runs_and_what_was_just_turned_down_as_running(tmp_path: Path) -> None:
    searcher = make_searcher(tmp_path, "random", num=6)
    for trial_id in "abc":
        end(searcher, trial_id, suggest(searcher, trial_id), TrialState.PRUNED)
    searcher.suggest("d")
    keys = constant_numbers(searcher.space)
    repeat = searcher.study.ask(dict(keys))
    repeat.set_user_attr("rejected", "nearly equal to trial 0")
    searcher.study.tell(repeat, state=OptunaState.FAIL)
    asked = searcher.study.ask()
    mirror, mirrored = mirror_of(searcher.study, asked._cached_frozen_trial, keys)
    states = [each.state.name for each in mirror.get_trials()]
    assert states == ["COMPLETE"] * 3 + ["RUNNING"] * 3  # d, the repeat, and what is asked for
    assert (mirrored.number, mirrored.params) == (5, {})
    assert [each.state.name for each in searcher.study.trials[:3]] == ["PRUNED"] * 3  # the study itself is untouched


# Several objectives


@pytest.mark.parametrize("sampler", ["tpe", "gp", "qmc", "nsga2", "random", "grid"])
def test_a_study_of_several_objectives_goes_through_with_every_end_of_a_trial(tmp_path: Path, sampler: str) -> None:
    num = {"grid": 12, "gp": 12}.get(sampler, 24)
    searcher = make_searcher(tmp_path, sampler, num=num, also_minimise=["parameters", "epoch_seconds"])
    suggested = search_on(searcher, states=ALL_ENDS)
    ours = [t for t in searcher.study.trials if "rejected" not in t.user_attrs]
    assert len(ours) == len(suggested) == num
    assert [d.name for d in searcher.study.directions] == ["MAXIMIZE", "MINIMIZE", "MINIMIZE"]
    assert searcher.study.metric_names == ["val_macro_f1", "parameters", "epoch_seconds"]
    finished, stopped = ours[0], ours[1]
    assert finished.values == [quality(suggested[0]), size_of(suggested[0])["parameters"], 1.5]  # the median of 1 and 2
    assert (stopped.state, stopped.values) == (OptunaState.PRUNED, None)
    assert stopped.user_attrs["curve"] == [[1, quality(suggested[1]) / 2, 1.0]]
    assert searcher.mode == "max"  # which ASHA stops by


def test_cmaes_refuses_several_objectives() -> None:
    values = {"sampler": {"name": "cmaes"}, "also_minimise": ["parameters"]}
    with pytest.raises(ConfigError, match=r"^x\.yaml: sampler\.name: cmaes has one objective; with also_minimise take"):
        parse_section(SearchConfig, values, source="x.yaml")
    with pytest.raises(ConfigError, match="also_minimise: name each quantity once"):
        parse_section(SearchConfig, {"also_minimise": ["flops", "flops"]}, source="x.yaml")


def test_a_cut_off_trial_of_several_objectives_is_closed_with_all_its_values(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"num": 3, "also_minimise": ["epoch_seconds", "parameters"]}
    searcher = make_searcher(tmp_path, "random", **settings)
    params = suggest(searcher, "a")
    searcher.on_trial_result("a", epoch(1, 0.1))
    resumed = make_searcher(tmp_path, "random", **settings)
    epochs = tuple(EpochResult(n, {}, 0.1, 10.0 * n, v, v, n) for n, v in [(1, 0.1), (2, 0.3), (3, 0.4)])
    close_trial(resumed.study, 0, TrialState.COMPLETED, epochs)
    # The first epoch was told before, as one second: the median of 1, 20 and 30.
    assert resumed.study.trials[0].values == [0.4, 20.0, size_of(params)["parameters"]]


def test_a_resumed_trial_of_several_objectives_tells_its_later_epochs_again(tmp_path: Path) -> None:
    searcher = make_searcher(tmp_path, "random", num=1, also_minimise=["epoch_seconds"])
    searcher.suggest("a")
    for number in (1, 2, 3):
        searcher.on_trial_result("a", epoch(number, 0.1 * number))
    resumed = make_searcher(tmp_path, "random", num=1, also_minimise=["epoch_seconds"])
    resumed.suggest("x")
    resumed.on_trial_result("x", epoch(2, 0.25))  # from a checkpoint after epoch 1
    assert resumed.study.trials[0].user_attrs["curve"] == [[1, 0.1, 1.0], [2, 0.25, 2.0]]
