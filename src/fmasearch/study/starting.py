"""Actors that are starting: they are let come up, however many trials end meanwhile on others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray.tune.execution.tune_controller import TuneController


@contextmanager
def starting_actors_kept() -> Iterator[None]:
    """While it lasts, an actor that becomes free goes to a trial that has none, not to one whose own is on its way.

    Ray Tune gives a free actor to the first trial that waits, and kills the process that is starting for it. Where
    trials are shorter than the start of a process, a node that joins never gets to train, and cores are spent on
    processes that are killed before their first epoch.
    """
    reuse = TuneController._maybe_reuse_cached_actor

    def reuse_unless_starting(controller: Any, trial: Any) -> bool:
        return not _is_starting(controller, trial) and bool(reuse(controller, trial))

    TuneController._maybe_reuse_cached_actor = reuse_unless_starting
    try:
        yield
    finally:
        TuneController._maybe_reuse_cached_actor = reuse


def _is_starting(controller: Any, trial: Any) -> bool:
    """Whether the trial's actor has its place on a node; one that only waits for a place may as well be replaced."""
    actor = controller._trial_to_actor.get(trial)
    return actor in controller._actor_manager._live_actors_to_ray_actors_resources
