"""The searcher, driven by hand as Ray Tune drives it: what Optuna is told, and what it is asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import optuna
import pytest
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState
from ray import cloudpickle
from ray.tune.search import Searcher

from fmasearch.config import SearchConfig
from fmasearch.errors import SpaceError
from fmasearch.records import EpochResult, Params, TrialState
from fmasearch.searcher import Ending, OptunaSearcher, close_trial, num_trials, open_study, outcome, state_of
from fmasearch.searcher import bridge as searcher_module
from fmasearch.space import Constraint, Space, Violation
from study_helpers import CONSTANTS, OBJECTIVE, SPACE

Rejection: TypeAlias = Callable[[Params], Violation | None]

KNOWN_GOOD = """
known_good:
  whole: {optimizer/learning_rate: 0.01, optimizer/weight_decay: 1e-3}
  partial: {optimizer/learning_rate: 0.02}
"""
GRID = f"""
{CONSTANTS}
optimizer:
  learning_rate: {{choice: [0.1, 0.01]}}
  weight_decay: {{choice: [0.0, 1e-4, 1e-3]}}
"""


def make_searcher(
    folder: Path,
    text: str = SPACE,
    *,
    reject: Rejection | None = None,
    room: Callable[[], int] | None = None,
    ending: Ending | None = None,
    **search: Any,
) -> OptunaSearcher:
    """A searcher on the study in `folder`; making it again is what a resumed study does."""
    settings = SearchConfig.model_validate({"num_trials": 5, "max_epochs": 9, **search})
    space = Space.parse(text)
    study = open_study(folder / "optuna.db", settings, space, OBJECTIVE, concurrency=1)

    def make_config(number: int, params: Params, label: str | None) -> dict[str, Any]:
        return {"number": number, "params": params, "label": label}

    return OptunaSearcher(
        study,
        space,
        num_trials=num_trials(settings, space),
        max_total_epochs=settings.max_total_epochs,
        make_config=make_config,
        reject=reject,
        room=room,
        min_distance=settings.sampler.min_distance,
        ending=ending,
    )


def result(epoch: int, best: float, *, finished: bool = False) -> dict[str, Any]:
    """What Ray passes on of an epoch: flattened, so that `result/...` holds the rest."""
    return {"epoch": epoch, "best_objective": best, "finished": finished, "result/learning_rate": 0.1}


def train(searcher: OptunaSearcher, trial_id: str, bests: Sequence[float], *, finished: bool = True) -> Any:
    """Suggest a trial and report its epochs; the last result goes only to `on_trial_complete`, as Ray does it."""
    suggestion = searcher.suggest(trial_id)
    for epoch, best in enumerate(bests[:-1], start=1):
        searcher.on_trial_result(trial_id, result(epoch, best))
    searcher.on_trial_complete(trial_id, result(len(bests), bests[-1], finished=finished))
    return suggestion


def only_trial(folder: Path) -> FrozenTrial:
    """Trial 0, read back from the file."""
    return optuna.load_study(study_name="fmasearch", storage=f"sqlite:///{folder / 'optuna.db'}").trials[0]


def test_a_finished_trial_is_complete_with_its_best_objective(tmp_path: Path) -> None:
    train(make_searcher(tmp_path), "a", [0.2, 0.6, 0.6])
    trial = only_trial(tmp_path)
    assert (trial.state, trial.value) == (OptunaState.COMPLETE, 0.6)


def test_a_stopped_trial_is_pruned_with_its_values_at_their_epochs(tmp_path: Path) -> None:
    train(make_searcher(tmp_path), "a", [0.2, 0.3, 0.3], finished=False)
    trial = only_trial(tmp_path)
    assert trial.state is OptunaState.PRUNED
    assert trial.intermediate_values == {1: 0.2, 2: 0.3, 3: 0.3}


def test_a_diverged_trial_has_failed_and_keeps_the_epochs_before(tmp_path: Path) -> None:
    searcher = make_searcher(tmp_path)
    searcher.suggest("a")
    searcher.on_trial_result("a", result(1, 0.4))
    searcher.on_trial_complete("a", error=True)
    trial = only_trial(tmp_path)
    assert (trial.state, trial.value, trial.intermediate_values) == (OptunaState.FAIL, None, {1: 0.4})


@pytest.mark.parametrize(
    ("last_result", "error", "state"),
    [
        (result(9, 0.5, finished=True), False, TrialState.COMPLETED),
        (result(3, 0.5), False, TrialState.PRUNED),
        (result(3, 0.5), True, TrialState.FAILED),
        ({}, False, TrialState.FAILED),  # ended before an epoch did
        (None, False, TrialState.FAILED),
    ],
)
def test_the_last_result_decides_the_state(last_result: Any, error: bool, state: TrialState) -> None:
    assert outcome(last_result, error=error) is state


def test_known_good_points_come_first_in_order_with_their_labels(tmp_path: Path) -> None:
    searcher = make_searcher(tmp_path, SPACE + KNOWN_GOOD)
    suggestions = [searcher.suggest(str(i)) for i in range(3)]
    assert [s["label"] for s in suggestions] == ["whole", "partial", None]
    assert [s["number"] for s in suggestions] == [0, 1, 2]
    assert suggestions[0]["params"] == {"optimizer/learning_rate": 0.01, "optimizer/weight_decay": 1e-3}


def test_the_sampler_completes_a_partial_point(tmp_path: Path) -> None:
    searcher = make_searcher(tmp_path, SPACE + KNOWN_GOOD)
    searcher.suggest("a")
    params = searcher.suggest("b")["params"]
    assert params["optimizer/learning_rate"] == 0.02
    assert params["optimizer/weight_decay"] in (0.0, 1e-3)


def test_points_that_a_killed_driver_did_not_enqueue_are_added_later(tmp_path: Path) -> None:
    whole_alone = SPACE + KNOWN_GOOD.rpartition("  partial")[0]
    make_searcher(tmp_path, whole_alone)
    searcher = make_searcher(tmp_path, SPACE + KNOWN_GOOD)
    assert [searcher.suggest(str(i))["label"] for i in range(3)] == ["whole", "partial", None]


def test_a_grid_takes_every_point_once_and_then_is_finished(tmp_path: Path) -> None:
    searcher = make_searcher(tmp_path, GRID, sampler={"name": "grid"}, num_trials=60)
    points = [tuple(train(searcher, str(i), [0.5])["params"].values()) for i in range(6)]
    assert sorted(points) == [(lr, decay) for lr in (0.01, 0.1) for decay in (0.0, 1e-4, 1e-3)]
    assert searcher.suggest("more") == Searcher.FINISHED


def test_num_trials_cuts_a_grid_short(tmp_path: Path) -> None:
    searcher = make_searcher(tmp_path, GRID, sampler={"name": "grid"}, num_trials=2)
    train(searcher, "a", [0.5])
    train(searcher, "b", [0.5])
    assert searcher.suggest("c") == Searcher.FINISHED


def test_no_trial_starts_once_the_epochs_are_used_up(tmp_path: Path) -> None:
    searcher = make_searcher(tmp_path, max_total_epochs=5)
    train(searcher, "a", [0.1, 0.2, 0.3], finished=False)
    train(searcher, "b", [0.1, 0.2])  # 3 + 2 = 5
    assert searcher.suggest("c") == Searcher.FINISHED


def test_trials_in_flight_count_as_started(tmp_path: Path) -> None:
    searcher = make_searcher(tmp_path, num_trials=2)
    assert [isinstance(searcher.suggest(i), dict) for i in "abc"] == [True, True, False]


def test_interrupted_trials_come_back_first_with_number_parameters_and_label(tmp_path: Path) -> None:
    searcher = make_searcher(tmp_path, SPACE + KNOWN_GOOD)
    before = [searcher.suggest(trial_id) for trial_id in "abc"]
    searcher.on_trial_complete("a", result(9, 0.5, finished=True))
    resumed = make_searcher(tmp_path, SPACE + KNOWN_GOOD)
    after = [resumed.suggest(trial_id) for trial_id in "xyz"]
    assert after[:2] == before[1:]
    assert after[2]["number"] == 3


def test_a_trial_that_is_suggested_again_ends_under_its_own_number(tmp_path: Path) -> None:
    make_searcher(tmp_path).suggest("a")
    train(make_searcher(tmp_path), "x", [0.1, 0.7])
    trial = only_trial(tmp_path)
    assert (trial.number, trial.state, trial.value) == (0, OptunaState.COMPLETE, 0.7)


def test_epochs_that_are_reported_again_count_once(tmp_path: Path) -> None:
    searcher = make_searcher(tmp_path)
    searcher.suggest("a")
    for epoch, best in [(1, 0.1), (2, 0.2), (2, 0.9)]:  # Ray hands the last result to on_trial_complete again
        searcher.on_trial_result("a", result(epoch, best))
    assert searcher.num_epochs == 2
    assert only_trial(tmp_path).intermediate_values == {1: 0.1, 2: 0.2}


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_study_with_one_worker_follows_from_its_seed(tmp_path: Path, sampler: str) -> None:
    def run(folder: str, seed: int) -> list[Any]:
        (tmp_path / folder).mkdir()
        settings = {"sampler": {"name": sampler, "num_startup_trials": 2}, "seed": seed}
        searcher = make_searcher(tmp_path / folder, **settings)
        return [train(searcher, str(i), [0.1 * (i % 3)])["params"] for i in range(4)]

    first = run("first", 1)
    assert run("same", 1) == first
    assert run("other", 2) != first


def test_a_resumed_study_does_not_repeat_what_it_sampled(tmp_path: Path) -> None:
    first = train(make_searcher(tmp_path), "a", [0.5])["params"]
    assert train(make_searcher(tmp_path), "b", [0.5])["params"] != first


def test_the_searcher_pickles_for_ray_without_its_study(tmp_path: Path) -> None:
    restored = cloudpickle.loads(cloudpickle.dumps(make_searcher(tmp_path)))
    assert isinstance(restored, OptunaSearcher)
    assert vars(restored) == {}


def test_a_trial_that_is_closed_later_gets_the_epochs_optuna_missed(tmp_path: Path) -> None:
    searcher = make_searcher(tmp_path)
    searcher.suggest("a")
    searcher.on_trial_result("a", result(1, 0.1))
    epochs = tuple(EpochResult(n, {}, 0.1, 0.0, v, best_objective=v, best_epoch=n) for n, v in [(1, 0.1), (2, 0.3)])
    close_trial(searcher.study, 0, TrialState.PRUNED, epochs)
    trial = only_trial(tmp_path)
    assert (trial.state, trial.intermediate_values) == (OptunaState.PRUNED, {1: 0.1, 2: 0.3})
    assert state_of(trial) is TrialState.PRUNED


# Constraints. In these tests, a model has 1,000 parameters with weight decay and 10 without.

CEILING = Constraint("parameters", "<=", 100)


def with_decay_is_too_large(params: Params) -> Violation | None:
    size = 1_000 if params["optimizer/weight_decay"] else 10
    return None if CEILING.holds(size) else Violation(CEILING, size)


def everything_is_too_large(params: Params) -> Violation:
    rate = params["optimizer/learning_rate"]
    assert isinstance(rate, float)
    return Violation(CEILING, 200 if rate < 1e-3 else 3_000)


def test_a_rejected_sample_is_a_failed_trial_with_its_reason_and_nobody_trains_it(tmp_path: Path) -> None:
    searcher = make_searcher(tmp_path, reject=with_decay_is_too_large, num_trials=8)
    handed_out = [searcher.suggest(str(i)) for i in range(9)]
    assert handed_out.pop() == Searcher.FINISHED  # eight were trained, the rejected ones do not count
    assert all(config["params"]["optimizer/weight_decay"] == 0.0 for config in handed_out)
    trials = searcher.study.trials
    rejected = [trial for trial in trials if "rejected" in trial.user_attrs]
    assert len(trials) == 8 + len(rejected) > 8
    assert {trial.state for trial in rejected} == {OptunaState.FAIL}
    assert rejected[0].user_attrs["rejected"] == "parameters <= 100 must hold, got 1,000"
    assert {config["number"] for config in handed_out}.isdisjoint(trial.number for trial in rejected)


def test_a_resumed_study_neither_counts_nor_repeats_what_was_rejected(tmp_path: Path) -> None:
    first = make_searcher(tmp_path, reject=with_decay_is_too_large, num_trials=6)
    for i in range(4):
        train(first, str(i), [0.5])
    known = len(first.study.trials)
    assert known > 4
    resumed = make_searcher(tmp_path, reject=with_decay_is_too_large, num_trials=6)
    numbers = [train(resumed, str(i), [0.5])["number"] for i in range(2)]
    assert min(numbers) >= known
    assert resumed.suggest("more") == Searcher.FINISHED


def test_a_trial_that_a_kill_left_unrejected_is_rejected_when_it_comes_back(tmp_path: Path) -> None:
    searcher = make_searcher(tmp_path, SPACE + KNOWN_GOOD, num_trials=2)
    assert searcher.suggest("a")["params"]["optimizer/weight_decay"] == 1e-3  # asked for, not yet told
    resumed = make_searcher(tmp_path, SPACE + KNOWN_GOOD, reject=with_decay_is_too_large, num_trials=2)
    handed_out = [resumed.suggest(i) for i in "xyz"]
    assert [config["params"]["optimizer/weight_decay"] for config in handed_out[:2]] == [0.0, 0.0]
    assert handed_out[2] == Searcher.FINISHED
    assert only_trial(tmp_path).state is OptunaState.FAIL


def test_rejected_points_of_a_grid_are_skipped_and_nothing_takes_their_place(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"sampler": {"name": "grid"}, "num_trials": 60, "reject": with_decay_is_too_large}
    searcher = make_searcher(tmp_path, GRID, **settings)
    first = train(searcher, "a", [0.5])
    resumed = make_searcher(tmp_path, GRID, **settings)
    rates = [
        first["params"]["optimizer/learning_rate"],
        train(resumed, "b", [0.5])["params"]["optimizer/learning_rate"],
    ]
    assert rates == [0.1, 0.01]
    assert resumed.suggest("c") == Searcher.FINISHED
    assert len(resumed.study.trials) == 6


def test_a_known_good_point_is_filled_in_again_until_it_fits(tmp_path: Path) -> None:
    def first_fill_is_too_large(params: Params) -> Violation | None:
        seen.append(params)
        return Violation(CEILING, 200) if len(seen) == 1 else None

    seen: list[Params] = []
    partial = "\nknown_good: {partial: {optimizer/learning_rate: 0.02}}"
    searcher = make_searcher(tmp_path, SPACE + partial, reject=first_fill_is_too_large)
    suggestion = searcher.suggest("a")
    assert (suggestion["number"], suggestion["label"]) == (1, "partial")
    assert suggestion["params"]["optimizer/learning_rate"] == 0.02


def test_a_known_good_point_that_is_too_large_is_left_out(tmp_path: Path) -> None:
    searcher = make_searcher(tmp_path, SPACE + KNOWN_GOOD, reject=with_decay_is_too_large)
    assert searcher.suggest("a")["label"] == "partial"
    assert only_trial(tmp_path).user_attrs["rejected"]


def test_a_ceiling_that_nothing_keeps_ends_with_the_smallest_that_was_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(searcher_module, "MAX_REJECTIONS", 20)
    searcher = make_searcher(tmp_path, reject=everything_is_too_large)
    with pytest.raises(SpaceError) as error:
        searcher.suggest("a")
    assert str(error.value) == (
        "space: constraints: parameters <= 100 must hold, but 20 of 20 samples in a row broke it; "
        "the smallest had 200. Raise the ceiling, or narrow the space"
    )
    assert len(searcher.study.trials) == 20


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_looking_for_violations_does_not_change_what_is_sampled(tmp_path: Path, sampler: str) -> None:
    def samples(folder: str, reject: Rejection | None) -> list[Any]:
        (tmp_path / folder).mkdir()
        settings = {"name": sampler, "num_startup_trials": 2}
        searcher = make_searcher(tmp_path / folder, reject=reject, sampler=settings)
        return [train(searcher, str(i), [0.1 * i])["params"] for i in range(4)]

    assert samples("without", None) == samples("with", lambda params: None)


def test_no_trial_starts_without_room_and_one_does_as_soon_as_there_is_some(tmp_path: Path) -> None:
    room = [1]
    searcher = make_searcher(tmp_path, room=lambda: room[0])
    assert isinstance(searcher.suggest("a"), dict)
    assert searcher.suggest("b") is None
    room[0] = 2  # a node joined
    assert isinstance(searcher.suggest("b"), dict)
    assert searcher.suggest("c") is None
    searcher.on_trial_complete("a", result(9, 0.5, finished=True))
    assert isinstance(searcher.suggest("c"), dict)


def test_a_search_of_nothing_but_failures_ends_with_the_reason_also_when_resumed(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"num_trials": 9, "max_failures": 2}
    ending = Ending(SearchConfig.model_validate(settings))
    searcher = make_searcher(tmp_path, ending=ending, **settings)
    for trial_id in "abc":
        searcher.suggest(trial_id)
    searcher.on_trial_complete("a", error=True)
    assert isinstance(searcher.suggest("d"), dict)
    searcher.on_trial_complete("b", error=True)
    assert searcher.suggest("e") == Searcher.FINISHED
    assert ending.reason == "the last 2 trials failed, one after the other (max_failures: 2)"
    searcher.on_trial_complete("c", result(9, 0.5, finished=True))  # those under way are finished all the same
    assert searcher.suggest("e") == Searcher.FINISHED
    again = make_searcher(tmp_path, ending=(ending := Ending(SearchConfig.model_validate(settings))), **settings)
    assert isinstance(again.suggest("f"), dict)  # d was interrupted
    assert ending.reason is None  # c broke the row
