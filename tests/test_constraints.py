"""Ceilings of a space: how they are read, put into its text, what breaks them, and a search that keeps one."""

from dataclasses import replace
from pathlib import Path

import pytest

from fmasearch.costs import forward_flops
from fmasearch.errors import SpaceError
from fmasearch.models import count_parameters
from fmasearch.searcher import bridge
from fmasearch.space import Constraint, Space, Violation
from fmasearch.space.constraints import known_before_training, read_constraint, read_number, too_slow
from fmasearch.study import StudyPlan, run_search, start_runtime
from fmasearch.study.run import _ceiling
from fmasearch.tracking import JsonlTracker, read_journal
from study_helpers import CONSTANTS, NUM_BINS, NUM_CLASSES, NUM_FRAMES, OBJECTIVE, make_plan

SPACE = "task: {classification: genre}\nmodel: {architecture: a, x: {choice: [1, 2]}}\n"
FIVE_MILLION = Constraint("parameters", "<=", 5e6)


@pytest.mark.parametrize(
    ("text", "number"),
    [("5000000", 5e6), ("5_000_000", 5e6), ("5e6", 5e6), ("5M", 5e6), ("2.5k", 2500.0), ("1.5e3", 1500.0), ("1G", 1e9)],
)
def test_large_numbers_are_read_as_people_write_them(text: str, number: float) -> None:
    assert read_number(text) == number


@pytest.mark.parametrize("text", ["", "-5", "5 6", "nan", "inf", "5X", "1e999", "0"])
def test_what_is_no_number_above_zero_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected a number above 0"):
        read_number(text)


def test_a_ceiling_includes_its_bound_only_where_it_says_so() -> None:
    assert read_constraint("parameters", "<= 100").holds(100)
    assert not read_constraint("parameters", "< 100").holds(100)
    assert read_constraint("parameters", "<100").holds(99)


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("1.5m", 90), ("0.5h", 1800)])
def test_the_ceiling_of_an_epoch_is_a_duration(text: str, seconds: float) -> None:
    assert read_constraint("epoch_seconds", f"<= {text}") == Constraint("epoch_seconds", "<=", seconds)


@pytest.mark.parametrize("text", ["<= 0", "<= 5M", "<= 1d"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected seconds above 0, or a duration such as 90s"):
        read_constraint("epoch_seconds", text)
    with pytest.raises(ValueError, match=r"expected a ceiling such as '<= 90' or '< 1\.5m', got 90"):
        read_constraint("epoch_seconds", 90)


def test_a_trial_is_too_slow_by_the_faster_of_its_first_two_epochs() -> None:
    limits = (FIVE_MILLION, Constraint("epoch_seconds", "<=", 10.0))
    assert too_slow(limits, [99.0]) is None  # the first one alone may have waited for data
    assert too_slow(limits, [99.0, 10.0]) is None
    assert str(too_slow(limits, [99.0, 11.5, 3.0])) == "epoch_seconds <= 10 must hold, got 11.5"
    assert too_slow(limits, [9.0, 12.0, 60.0, 60.0]) is None
    assert too_slow((FIVE_MILLION,), [99.0, 99.0]) is None


def test_only_what_a_configuration_tells_is_known_before_a_training() -> None:
    space = Space.parse(SPACE + "constraints: {epoch_seconds: '<= 60', flops: '< 2G', parameters: '<= 5M'}")
    assert [each.quantity for each in known_before_training(space.constraints)] == ["flops", "parameters"]
    assert space.violation({"parameters": 1, "flops": 2e9}) == Violation(Constraint("flops", "<", 2e9), 2e9)
    assert space.violation({"parameters": 1}) is None


def test_a_space_has_its_ceiling_and_names_what_breaks_it() -> None:
    space = Space.parse(SPACE + "constraints: {parameters: '<= 5M'}")
    assert space.constraints == (FIVE_MILLION,)
    assert space.violation({"parameters": 5_000_000}) is None
    violation = space.violation({"parameters": 5_000_001})
    assert violation == Violation(FIVE_MILLION, 5_000_001)
    assert str(violation) == "parameters <= 5,000,000 must hold, got 5,000,001"


def test_a_space_without_constraints_takes_everything() -> None:
    for text in (SPACE, SPACE + "constraints:\n", SPACE + "constraints: {}\n"):
        assert Space.parse(text).constraints == ()
        assert Space.parse(text).violation({"parameters": 10**12}) is None


LAST = "augment: {probability: 0.5}  # the last line\n"
NEW = 'constraints: {parameters: "<= 5_000_000"}'


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (SPACE, f"{SPACE}\n{NEW}\n"),
        (SPACE.rstrip(), f"{SPACE}\n{NEW}\n"),
        (f"{SPACE}constraints: {{parameters: '< 1e3'}}  # small\n{LAST}", f"{SPACE}{NEW}  # small\n{LAST}"),
        (f"{SPACE}constraints:\n  parameters: < 1e3\n\n# about it\n{LAST}", f"{SPACE}{NEW}\n\n# about it\n{LAST}"),
        (f"constraints:\n  # why\n  parameters: '< 3'\n{SPACE}", f"{NEW}\n{SPACE}"),
        (f"---\n{SPACE}...\n", f"---\n{SPACE}\n{NEW}\n...\n"),
        (
            "{task: {classification: genre}, model: {architecture: a},}",
            f"{{{NEW}, task: {{classification: genre}}, model: {{architecture: a}},}}",
        ),
    ],
    ids=["absent", "no newline", "on one line", "as a block", "first", "marked document", "in braces"],
)
def test_a_new_ceiling_goes_into_the_text_and_leaves_the_rest_alone(before: str, after: str) -> None:
    space = Space.parse(before, name="x").constrained(FIVE_MILLION)
    assert space.text == after
    assert Space.parse(after, name="x") == space  # what a resumed study reads back


# A study


def size_of(hidden_dim: int) -> int:
    return count_parameters(
        "cnn_gru",
        input_dim=NUM_BINS,
        num_frames=NUM_FRAMES,
        output_dim=NUM_CLASSES,
        hidden_dim=hidden_dim,
        num_conv_layers=1,
        num_layers=1,
    )


def flops_of(hidden_dim: int) -> int:
    return forward_flops(
        "cnn_gru",
        input_dim=NUM_BINS,
        num_frames=NUM_FRAMES,
        output_dim=NUM_CLASSES,
        hidden_dim=hidden_dim,
        num_conv_layers=1,
        num_layers=1,
    )


def plan_with(root: Path, ceiling: str, hidden_dim: str = "{choice: [2, 4, 8, 16]}") -> StudyPlan:
    root.mkdir()
    constants = CONSTANTS.replace("hidden_dim: 4", f"hidden_dim: {hidden_dim}")
    return make_plan(root, f"{constants}\nconstraints: {{parameters: '<= {ceiling}'}}", max_epochs=2, num_trials=3)


def test_a_study_counts_the_parameters_of_the_models_it_would_train(tmp_path: Path) -> None:
    ceiling = _ceiling(plan_with(tmp_path / "study", str(size_of(4))))
    assert ceiling is not None
    assert ceiling({"model/hidden_dim": 4}) is None
    violation = ceiling({"model/hidden_dim": 8})
    assert violation is not None
    assert violation.value == size_of(8) > size_of(4)


def test_a_model_that_cannot_be_built_is_left_to_fail_by_itself(tmp_path: Path) -> None:
    ceiling = _ceiling(plan_with(tmp_path / "study", "1M"))
    assert ceiling is not None
    assert ceiling({"model/hidden_dim": 4, "model/kernel_size": 4}) is None  # kernels are odd


def test_a_study_without_constraints_counts_nothing(tmp_path: Path) -> None:
    assert _ceiling(make_plan(tmp_path)) is None


def test_a_ceiling_of_flops_is_held_before_a_training_and_one_of_seconds_is_not(tmp_path: Path) -> None:
    limits = "constraints: {epoch_seconds: '<= 1', flops: '<= %s'}"
    searched = CONSTANTS.replace("hidden_dim: 4", "hidden_dim: {choice: [4, 8]}")
    plan = make_plan(tmp_path, f"{searched}\n{limits % flops_of(4)}", max_epochs=2, num_trials=3)
    ceiling = _ceiling(plan)
    assert ceiling is not None
    assert ceiling({"model/hidden_dim": 4}) is None
    assert str(ceiling({"model/hidden_dim": 8})) == f"flops <= {flops_of(4):,} must hold, got {flops_of(8):,}"
    slow = Space.parse(f"{CONSTANTS}\nconstraints: {{epoch_seconds: '<= 1'}}")
    assert _ceiling(replace(plan, space=slow)) is None


@pytest.mark.ray
def test_a_search_trains_only_what_keeps_the_ceiling_and_ends_where_nothing_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bridge, "MAX_REJECTIONS", 60)
    some, none = plan_with(tmp_path / "some", str(size_of(4))), plan_with(tmp_path / "none", "1")
    with start_runtime(some.search) as runtime:
        result = run_search(some, OBJECTIVE, runtime, JsonlTracker(some.folder.journal))
        with pytest.raises(SpaceError, match="parameters <= 1 must hold, but 60 of 60 samples in a row"):
            run_search(none, OBJECTIVE, runtime, JsonlTracker(none.folder.journal))
    assert len(result.trials) == 3
    assert all(trial.start.params["model/hidden_dim"] in (2, 4) for trial in result.trials)
    numbers = [trial.start.number for trial in result.trials]
    assert max(numbers) > 2  # of four widths two are too large: the seed's first three samples hold one of them
    assert len(read_journal(some.folder.journal).trials) == 3
    assert not none.folder.journal.exists() or not read_journal(none.folder.journal).trials
