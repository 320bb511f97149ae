"""What Optuna is told of a trial's values: one objective, or several if a search minimises other things, too.

A study of several objectives takes no intermediate values (`Trial.report` refuses), so that learning curves are an
attribute of its trials, and a stopped trial is PRUNED without any value.
"""

from __future__ import annotations

import statistics
import warnings

import optuna
from optuna.trial import FrozenTrial, Trial

from fmasearch.config import SearchConfig
from fmasearch.records import Objective

CURVE_KEY = "curve"
"""Attribute of a trial in a study of several objectives: rows of epoch, best objective so far, seconds."""

REJECTED_KEY = "rejected"
"""Attribute of a trial that was never trained: the constraint that it did not keep, or the trial that it repeats."""

MEASURED_KEY = "measured"
"""Attribute of a trial: what was known of its configuration before it was trained, such as its `parameters`."""


def create_directions(search: SearchConfig, objective: Objective) -> list[str]:
    """Optuna's directions: the task's own objective, then what is minimised besides."""
    return ["maximize" if objective.mode == "max" else "minimize", *("minimize" for _ in search.also_minimise)]


def name_objectives(study: optuna.Study, search: SearchConfig, objective: Objective) -> None:
    """Write the objectives' names into a study of several, where its dashboard and `final_values` find them."""
    if search.also_minimise:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names([objective.metric, *search.also_minimise])


def report_epoch(trial: Trial, epoch: int, best_objective: float, seconds: float | None) -> None:
    """Tell an epoch that has ended. A resumed trial may tell one again, and with it all that follow.

    Args:
        seconds: of the epoch; a study of one objective does not ask for them.
    """
    if len(trial.study.directions) > 1:
        rows = [row for row in trial.user_attrs.get(CURVE_KEY, ()) if row[0] < epoch]
        trial.set_user_attr(CURVE_KEY, [*rows, [epoch, best_objective, seconds]])
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that this epoch was told before
        trial.report(best_objective, epoch)


def final_values(trial: Trial, best_objective: float) -> list[float]:
    """The values of a trial that was trained to its end, one per direction of its study."""
    further = further_values(trial, trial.study)
    assert further is not None, "a finished trial was measured, and has epochs"
    return [best_objective, *further]


def further_values(trial: Trial | FrozenTrial, study: optuna.Study) -> list[float] | None:
    """A trial's values but the first, also where it was stopped; None if one of them is not known."""
    attributes = trial.user_attrs
    known = dict(attributes.get(MEASURED_KEY, {}))
    if seconds := [row[2] for row in attributes.get(CURVE_KEY, ())]:
        known["epoch_seconds"] = statistics.median(seconds)
    names = (study.metric_names or [])[1:]
    return [known[name] for name in names] if all(name in known for name in names) else None


def curve(trial: FrozenTrial) -> dict[int, float]:
    """The best objective so far by epoch, as far as the trial came."""
    rows = trial.user_attrs.get(CURVE_KEY)
    return trial.intermediate_values if rows is None else {row[0]: row[1] for row in rows}
