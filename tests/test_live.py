"""The live view: what a person reads while a study runs."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from fmasearch.cli.live import LiveView, rung_epochs
from fmasearch.config import SearchConfig
from fmasearch.ray_session import Node
from fmasearch.records import EpochResult, Objective, TrialRecord, TrialStart, TrialState


def epoch(number: int, objective: float, best: float, *, finished: bool = False) -> EpochResult:
    return EpochResult(number, {"val_macro_f1": objective}, 1e-3, 1.5, objective, best, number, finished)


def start(number: int) -> TrialStart:
    return TrialStart(number, f"t{number:04d}", {"optimizer/learning_rate": 0.00123}, {}, 0)


def text_of(view: LiveView) -> str:
    console = Console(file=io.StringIO(), width=160)
    console.print(view.render())
    return console.file.getvalue()  # type: ignore[attr-defined]


def view_on(console: Console) -> LiveView:
    return LiveView(console, "search", Objective("val_macro_f1"), total=4, rungs=(1, 3))


def test_the_table_counts_states_and_shows_the_best_the_rungs_and_who_runs() -> None:
    view = view_on(Console(file=io.StringIO()))
    for number in range(3):
        view.start_trial(start(number))
    view.log_epoch("t0000", epoch(1, 0.5, 0.5))
    view.log_epoch("t0001", epoch(1, 0.7, 0.7))
    view.finish_trial(TrialRecord(start(1), TrialState.PRUNED, (epoch(1, 0.7, 0.7),), 1.0))
    view.finish_trial(TrialRecord(start(2), TrialState.FAILED, (), 1.0, "DivergedError: nan"))
    text = text_of(view)
    assert "2/4 trials ended" in text
    assert "1 running" in text
    assert "1 pruned" in text
    assert "1 failed" in text
    assert "best 0.7000 val_macro_f1  t0001  learning_rate=0.00123" in text
    assert [line.split() for line in text.splitlines() if line.strip().startswith("1 ")] == [
        ["1", "2", "0.7000", "0.6000"]  # two trials reached epoch 1: 0.5 and 0.7
    ]
    assert "t0000" in text


def test_without_a_terminal_every_ended_trial_is_one_line() -> None:
    console = Console(file=io.StringIO(), width=60)
    view = view_on(console)
    with view.showing():
        view.start_trial(start(0))
        view.log_epoch("t0000", epoch(1, 0.5, 0.5))
        view.finish_trial(TrialRecord(start(0), TrialState.COMPLETED, (epoch(1, 0.5, 0.5, finished=True),), 1.0))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert lines[0] == "search: 4 trials, highest val_macro_f1 wins"
    assert lines[1] == "[1/4] t0000 completed after 1 epochs, val_macro_f1 0.5000, best so far 0.5000 (t0000)"
    assert len(lines) == 2


def test_rungs_are_ashas_milestones() -> None:
    # grace period 2, reduction factor 3: 2, 6, 18, and the end at 27.
    for name in ("asha", "hyperband"):
        assert rung_epochs(SearchConfig.model_validate({"scheduler": {"name": name}})) == (2, 6, 18, 27)
    for name in ("standing", "median", "none"):  # which have no rungs
        assert rung_epochs(SearchConfig.model_validate({"scheduler": {"name": name}})) == ()


def node(address: str, *, alive: bool = True, cpus: float = 16, gpus: float = 1) -> Node:
    return Node(address, address, alive, cpus, gpus, is_head=False)


def trained_on(address: str) -> EpochResult:
    return replace(epoch(1, 0.5, 0.5), node=address)


def rows_of(view: LiveView) -> list[list[str]]:
    return [line.split() for line in text_of(view).splitlines()]


def test_machines_are_shown_with_what_they_do() -> None:
    nodes = (
        node("10.0.0.2", cpus=2, gpus=0),
        node("10.0.0.3"),
        node("10.0.0.4", alive=False),
        node("10.0.0.9", alive=False),
    )
    view = LiveView(Console(file=io.StringIO()), "search", Objective("val_macro_f1"), total=4, nodes=lambda: nodes)
    for number, address in enumerate(("10.0.0.3", "10.0.0.3", "10.0.0.4")):
        view.start_trial(start(number))
        view.log_epoch(f"t{number:04d}", trained_on(address))
    view.finish_trial(TrialRecord(start(0), TrialState.PRUNED, (trained_on("10.0.0.3"),), 1.0))
    assert "2 nodes, 1 lost" in text_of(view)
    rows = rows_of(view)
    assert ["10.0.0.2", "alive", "2", "0", "0", "0"] in rows
    assert ["10.0.0.3", "alive", "16", "1", "1", "2"] in rows  # one of its two trials ended
    assert ["10.0.0.4", "lost", "–", "–", "1", "1"] in rows
    assert not [row for row in rows if row[0] == "10.0.0.9"]  # came and went without training anything
    assert ["t0002", "1", "0.5000", "1.5", "10.0.0.4"] in rows


def test_a_cluster_without_machines_for_trials_says_that_it_waits() -> None:
    view = LiveView(
        Console(file=io.StringIO()), "search", Objective("val_macro_f1"), total=4, nodes=lambda: (node("10.0.0.2"),)
    )
    assert "waiting for machines: no trial has started on 1 node" in text_of(view)
    view.start_trial(start(0))
    assert "waiting" not in text_of(view)


def test_one_machine_is_not_shown_as_a_cluster() -> None:
    view = view_on(Console(file=io.StringIO()))
    view.start_trial(start(0))
    view.log_epoch("t0000", epoch(1, 0.5, 0.5))
    assert "node" not in text_of(view)


def test_without_a_terminal_machines_that_come_and_go_are_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fmasearch.cli.live_nodes._LOOK_SECONDS", 0.0)
    console = Console(file=io.StringIO(), width=60)
    nodes = [node("10.0.0.2")]
    view = LiveView(console, "search", Objective("val_macro_f1"), total=4, nodes=lambda: nodes)
    with view.showing():
        nodes.append(node("10.0.0.3"))
        view.start_trial(start(0))
        nodes[1] = node("10.0.0.3", alive=False)
        view.log_epoch("t0000", epoch(1, 0.5, 0.5))
    assert console.file.getvalue().splitlines()[1:] == [  # type: ignore[attr-defined]
        "1 node",
        "node 10.0.0.3 joined (2 nodes now)",
        "node 10.0.0.3 is lost (1 node now)",
    ]


def test_a_cluster_that_does_not_answer_ends_no_study() -> None:
    def ask() -> tuple[Node, ...]:
        raise ConnectionError("the head does not answer")

    view = LiveView(Console(file=io.StringIO()), "search", Objective("val_macro_f1"), total=4, nodes=ask)
    assert "0/4 trials ended" in text_of(view)


def test_epochs_of_an_attempt_that_was_given_up_count_no_more() -> None:
    view = view_on(Console(file=io.StringIO()))
    view.start_trial(start(0))
    for number in (1, 2, 3, 2):  # its node was lost after three, and its checkpoint was of the first
        view.log_epoch("t0000", epoch(number, 0.1 * number, 0.1 * number))
    assert [row for row in rows_of(view) if row[0] == "3"] == [["3", "0", "–", "–"]]  # the rung at epoch 3


def test_a_terminal_shows_the_table_while_the_study_runs() -> None:
    console = Console(file=io.StringIO(), width=100, force_terminal=True, color_system=None)
    view = view_on(console)
    with view.showing():
        view.start_trial(start(0))
        view.finish_trial(TrialRecord(start(0), TrialState.COMPLETED, (epoch(1, 0.5, 0.5),), 1.0))
    last = console.file.getvalue().rpartition("search  ")[2]  # type: ignore[attr-defined]
    assert last.startswith("1/4 trials ended  0 running  1 completed")
    assert "[1/4]" not in last  # lines are for those without one


def test_no_part_of_the_headline_is_broken_in_two() -> None:
    console = Console(file=io.StringIO(), width=40)
    console.print(view_on(console).render())
    lines = [line.strip() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]
    assert lines[:2] == ["search  0/4 trials ended  0 running", "0 completed  0 pruned  0 failed  0m00s"]
