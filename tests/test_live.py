"""The live view: what a person reads while a study runs."""

import io

from rich.console import Console

from fmasearch.cli.live import LiveView, rung_epochs
from fmasearch.config import SearchConfig
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
    assert rung_epochs(SearchConfig()) == (2, 6, 18, 27)
    assert rung_epochs(SearchConfig.model_validate({"scheduler": {"name": "none"}})) == ()
