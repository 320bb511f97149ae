"""What the tests of the commands that read a study share: a study written down without Ray, as far as one likes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from fmasearch.records import EpochResult, Params, TrialRecord, TrialStart, TrialState
from fmasearch.study import StudyPlan, save_plan
from fmasearch.study.run import search_start
from fmasearch.tracking import JsonlTracker
from study_helpers import make_plan


def write_runs(
    root: Path,
    trials: Iterable[tuple[TrialState, tuple[float, ...]]],
    *,
    confirmed: Iterable[tuple[str, float]] = (),
    finished: bool = False,
) -> StudyPlan:
    """`root/study`: trial k has learning rate 0.001 (k + 1) and the objectives given; running ones are unfinished.

    Args:
        confirmed: names like `confirm-t0001-seed0` and their objective.
        finished: the search and, if there is any, the confirmation ended in good order.
    """
    plan = make_plan(root)
    save_plan(plan)
    journal = JsonlTracker(plan.folder.journal)
    for number, (state, objectives) in enumerate(trials):
        params: Params = {"optimizer/learning_rate": 0.001 * (number + 1), "optimizer/weight_decay": 0.0}
        write_trial(journal, record_of(search_start(plan, number, params), state, objectives))
    if finished:
        journal.close("finished")
    journal = JsonlTracker(plan.folder.confirm_journal)
    for name, objective in confirmed:
        number = int(name.removeprefix("confirm-t")[:4])
        params = {"optimizer/learning_rate": 0.001 * (number + 1), "optimizer/weight_decay": 0.0}
        start = search_start(plan, number, params)
        again = TrialStart(number, name, start.params, start.config, seed=1)
        write_trial(journal, record_of(again, TrialState.COMPLETED, (objective,)))
    if finished and confirmed:
        journal.close("finished")
    return plan


def record_of(start: TrialStart, state: TrialState, objectives: tuple[float, ...]) -> TrialRecord:
    """A trial with one epoch for each objective."""
    epochs = []
    for epoch, objective in enumerate(objectives, start=1):
        best = max(objectives[:epoch])
        metrics = {"val_macro_f1": objective, "val_loss": 1 / 3}
        epochs.append(EpochResult(epoch, metrics, 0.001, 0.5, objective, best, objectives.index(best) + 1))
    error = "DivergedError: train_loss=nan" if state is TrialState.FAILED else None
    return TrialRecord(start, state, tuple(epochs), seconds=2.0 * len(epochs), error=error)


def write_trial(journal: JsonlTracker, record: TrialRecord) -> None:
    """Its start, its epochs and, unless it is running, its end."""
    journal.start_trial(record.start)
    for epoch in record.epochs:
        journal.log_epoch(record.name, epoch)
    if record.state is not TrialState.RUNNING:
        journal.finish_trial(record)
