"""Lost nodes: a trial whose machine went away starts again from its checkpoint, and has not failed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from ray.exceptions import ActorUnavailableError, RayActorError
from ray.tune.experiment import Trial

MOST_LOSSES = 20
"""A trial that lost so many nodes fails: more likely it brings them down."""


def node_was_lost(error: RayActorError) -> bool:
    """Whether an actor is gone because its node is, rather than because its own process died there.

    Ray reports a node that vanished as an actor that cannot be reached, until it has noticed the node itself; a
    process that died on a living node is reported by that node within a second.
    """
    return error.preempted or isinstance(error, ActorUnavailableError) or "its node has died" in str(error)


@contextmanager
def losses_forgiven() -> Iterator[None]:
    """While it lasts, Ray Tune restarts trials of lost nodes; every other failure stays final.

    Tune has one count for all failures of a trial, but leaves out those of nodes that announced their end (which
    spot machines and power cuts do not). This counts the same way for nodes that did not.
    """
    count_failure = Trial._handle_ray_actor_error
    losses: Counter[str] = Counter()

    def count_unless_lost(trial: Trial, error: RayActorError) -> None:
        losses[trial.trial_id] += node_was_lost(error)
        if not node_was_lost(error) or losses[trial.trial_id] > MOST_LOSSES:
            trial.run_metadata.num_failures += 1

    Trial._handle_ray_actor_error = count_unless_lost
    try:
        yield
    finally:
        Trial._handle_ray_actor_error = count_failure
