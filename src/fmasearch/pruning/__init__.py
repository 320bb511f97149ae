"""The rules that stop weak trials, as plain code: the study and a simulator of studies ask the very same ones."""

from __future__ import annotations

from collections.abc import Callable

from fmasearch.config import SearchConfig
from fmasearch.pruning.asha import Asha
from fmasearch.pruning.base import WORST, Mode, NoPruner, Pruner, merit
from fmasearch.pruning.halving import geometric_rungs
from fmasearch.pruning.hyperband import Hyperband
from fmasearch.pruning.median import MedianRule
from fmasearch.pruning.standing import Standing
from fmasearch.records import Objective

__all__ = [
    "PRUNERS",
    "WORST",
    "Asha",
    "Hyperband",
    "MedianRule",
    "Mode",
    "NoPruner",
    "Pruner",
    "Standing",
    "build_pruner",
    "geometric_rungs",
    "merit",
]

PRUNERS: dict[str, Callable[[SearchConfig, Mode], Pruner]] = {
    "asha": lambda search, mode: Asha(
        mode,
        max_epochs=search.max_epochs,
        grace_period=search.scheduler.grace_period,
        reduction_factor=search.scheduler.one_in,
        brackets=search.scheduler.brackets,
        seed=search.seed,
    ),
    "hyperband": lambda search, mode: Hyperband(
        mode,
        max_epochs=search.max_epochs,
        grace_period=search.scheduler.grace_period,
        reduction_factor=search.scheduler.one_in,
        seed=search.seed,
    ),
    "standing": lambda search, mode: Standing(
        mode,
        max_epochs=search.max_epochs,
        grace_period=search.scheduler.grace_period,
        reduction_factor=search.scheduler.one_in,
    ),
    "median": lambda search, mode: MedianRule(
        mode, max_epochs=search.max_epochs, grace_period=search.scheduler.grace_period
    ),
    "none": lambda search, mode: NoPruner(),
}


def build_pruner(search: SearchConfig, objective: Objective) -> Pruner:
    """The rule that `search.scheduler` names."""
    return PRUNERS[search.scheduler.name](search, objective.mode)
