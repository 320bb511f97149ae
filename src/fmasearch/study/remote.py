"""One long function on a machine of the cluster, with a trial's resources; what it yields comes back as it does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import ray
import torch
from ray.exceptions import RayTaskError

from fmasearch.data import DataSpec
from fmasearch.study.node_data import DataSource, on_this_node
from fmasearch.study.runtime import Runtime

T = TypeVar("T")


def run_elsewhere(
    function: Callable[..., Iterator[T]], runtime: Runtime, spec: DataSpec, *arguments: Any, **options: Any
) -> Iterator[T]:
    """Yield what `function(spec, *arguments, **options)` yields, on whatever node has room for a trial.

    The data is there as for trials. A node that is lost costs a new start on another one: what was yielded before
    is not yielded again.

    Raises:
        Exception: what `function` raises.
    """
    task = ray.remote(_stream).options(
        num_cpus=runtime.trial_cpus, num_gpus=runtime.trial_gpus, max_retries=-1, num_returns="streaming"
    )
    num_threads = max(1, int(runtime.trial_cpus))
    for item in task.remote(function, num_threads, spec, runtime.source, arguments, options):
        try:
            yield ray.get(item)
        except RayTaskError as error:
            raise error.cause from None


def _stream(
    function: Callable[..., Iterator[T]],
    num_threads: int,
    spec: DataSpec,
    source: DataSource | None,
    arguments: tuple[Any, ...],
    options: dict[str, Any],
) -> Iterator[T]:
    torch.set_num_threads(num_threads)
    yield from function(on_this_node(spec, source), *arguments, **options)
