"""Ray itself: start it on this machine, or join the cluster we are in; and what it has to give."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from fmasearch.config import SearchConfig, load_yaml
from fmasearch.errors import StudyError
from fmasearch.ray_session import cluster_nodes, ray_session
from fmasearch.study.checkpoints import checkpoint_folder
from fmasearch.study.folder import StudyPlan
from fmasearch.study.node_data import DataSource, data_source

# Read by Ray when it is imported or started. Tune's own loggers write five files a trial that nobody reads, its
# experiment snapshots grow with the study, and our own journal is what a study is resumed from; measured: 13-23 ms
# a trial with these and reused actors, against 28-38 ms without (2 cores, ray 2.60, n=200).
_ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",
    # Waiting OpenMP threads must sleep, not spin, when trials share cores.
    "OMP_WAIT_POLICY": "PASSIVE",
}
_OBJECT_STORE_BYTES = 100 * 2**20  # data goes through memory-mapped files, so the store stays nearly empty


AUTOSCALING_FILE = Path("~/ray_bootstrap_config.yaml")
"""Where Ray's cluster launcher leaves, on the head, what machines it may start."""


@dataclass(frozen=True, slots=True)
class Runtime:
    """What one trial gets, and how many trials run at once."""

    trial_cpus: float
    trial_gpus: float
    concurrency: int
    """Trials that fit now, or that will fit once an autoscaling cluster has grown."""
    on_cluster: bool
    limit: int | None = None
    """Most trials at once; None is as many as the cluster holds at any time, as nodes join and leave."""
    source: DataSource | None = None
    """On a cluster, where nodes get the study's data from."""

    def room(self) -> int:
        """Trials that the nodes hold at this moment, and one more, which starts as soon as another one fits."""
        return _fitting(_machines(), self.trial_cpus, self.trial_gpus) + 1


@contextmanager
def start_runtime(search: SearchConfig) -> Iterator[Runtime]:
    """A Ray session, as `ray_session` gives it, shared out to trials.

    Raises:
        StudyError: if not even one trial fits.
    """
    with ray_session(object_store_bytes=_OBJECT_STORE_BYTES, environment=_ENVIRONMENT):
        on_cluster = "RAY_ADDRESS" in os.environ
        yield _share_out(search, _machines(), _promised() if on_cluster else [], on_cluster=on_cluster)


@contextmanager
def study_runtime(plan: StudyPlan) -> Iterator[Runtime]:
    """A runtime for a study: its checkpoints' folder is ready, and on a cluster its data is served to the nodes.

    Raises:
        StudyError: as `start_runtime`, or if the checkpoints' folder cannot be written.
    """
    with checkpoint_folder(plan.checkpoints), start_runtime(plan.search) as runtime:
        if not runtime.on_cluster:
            yield runtime
            return
        with data_source(plan.data, plan.folder.nodes) as source:
            yield replace(runtime, source=source)


def _machines() -> list[tuple[float, float]]:
    """CPUs and GPUs of every machine that is there."""
    return [(node.cpus, node.gpus) for node in cluster_nodes() if node.alive]


def _share_out(
    search: SearchConfig,
    machines: Sequence[tuple[float, float]],
    promised: Sequence[tuple[float, float]],
    *,
    on_cluster: bool,
) -> Runtime:
    """Share out `machines` (CPUs and GPUs of each), or what an autoscaler has `promised`, if that is more."""
    trial_cpus, wanted_gpus = search.resources.cpu, search.resources.gpu
    some_gpu = any(gpus >= 1 for _, gpus in [*machines, *promised])
    trial_gpus = (1.0 if some_gpu else 0.0) if wanted_gpus is None else wanted_gpus
    fitting = max(_fitting(each, trial_cpus, trial_gpus) for each in (machines, promised))
    if fitting < 1:
        there_are = " or ".join(sorted({f"cpu={cpus:g}, gpu={gpus:g}" for cpus, gpus in [*machines, *promised]}))
        raise StudyError(
            f"resources: one trial wants cpu={trial_cpus:g}, gpu={trial_gpus:g}, but there are {there_are} on one "
            f"machine; ask for less with --cpu and --gpu"
        )
    concurrency = min(fitting, search.max_concurrent or fitting)
    grows_freely = on_cluster and not promised
    return Runtime(
        trial_cpus, trial_gpus, concurrency, on_cluster, limit=search.max_concurrent if grows_freely else concurrency
    )


def _fitting(machines: Sequence[tuple[float, float]], trial_cpus: float, trial_gpus: float) -> int:
    """Trials that fit, each on one machine."""
    return sum(
        min(int(cpus / trial_cpus), int(gpus / trial_gpus)) if trial_gpus else int(cpus / trial_cpus)
        for cpus, gpus in machines
    )


def _promised() -> list[tuple[float, float]]:
    """CPUs and GPUs of every machine that the cluster may grow to; empty unless the launcher says how large."""
    file = AUTOSCALING_FILE.expanduser()
    if not file.exists():
        return []
    launched = load_yaml(file)
    machines: list[tuple[float, float]] = []
    for name, kind in launched.get("available_node_types", {}).items():
        is_head = name == launched.get("head_node_type")
        resources = kind.get("resources") or {}
        machines += [(resources.get("CPU", 0), resources.get("GPU", 0))] * (
            1 if is_head else kind.get("max_workers", launched.get("max_workers", 0))
        )
    return [machine for machine in machines if machine != (0, 0)]
