"""What a study record says when asked: the winner, what varied, what was spared, which rungs there were."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fmasearch.errors import SpaceError
from fmasearch.pruning import geometric_rungs
from fmasearch.records import StudyRecord, TrialState
from fmasearch.space import Space


def winner(record: StudyRecord) -> str | None:
    """The name of the trial that was tested; else of the best confirmed one; else of the best found."""
    if record.final:
        return record.final.trial
    if record.confirmed:
        return record.confirmed[0].trial
    ranked = record.ranked()
    return ranked[0].name if ranked else None


def best_config(record: StudyRecord) -> Mapping[str, Any] | None:
    """The winner's configuration, as it was last trained."""
    if record.final:
        return record.final.config
    if record.confirmed:
        return record.confirmed[0].config
    ranked = record.ranked()
    return ranked[0].start.config if ranked else None


def varied(record: StudyRecord, in_order: Iterable[str] = ()) -> list[str]:
    """Sampled keys that differ between trials, keys of `in_order` first; a key that some lack differs."""
    absent = object()
    keys = dict.fromkeys([*in_order, *(key for trial in record.trials for key in trial.start.params)])
    return [key for key in keys if len({repr(t.start.params.get(key, absent)) for t in record.trials}) > 1]


def space_of(record: StudyRecord) -> Space | None:
    """The space, read again; None if this version cannot, so that a report is written all the same."""
    try:
        return Space.parse(record.space_text, source=record.space_name, name=record.space_name)
    except SpaceError:
        return None


def rungs(record: StudyRecord) -> list[int]:
    """Epochs at which successive halving judged trials; none for another scheduler or several brackets."""
    scheduler, max_epochs = record.search.get("scheduler", {}), record.search.get("max_epochs", 0)
    if scheduler.get("name") != "asha" or scheduler.get("brackets", 1) != 1:
        return []
    found = geometric_rungs(scheduler["grace_period"], max_epochs, scheduler["reduction_factor"] or 3)
    return [rung for rung in found if rung < max_epochs]


def epochs_spared(record: StudyRecord) -> int | None:
    """Epochs up to `max_epochs` that pruned trials did not train; None if the search did not record it."""
    max_epochs = record.search.get("max_epochs")
    if max_epochs is None:
        return None
    return sum(int(max_epochs) - len(t.epochs) for t in record.trials if t.state is TrialState.PRUNED)
