"""Ray itself: start it on this machine, or join the cluster we are in; and what it has to give."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import ray

from fmasearch.config import SearchConfig
from fmasearch.errors import StudyError
from fmasearch.ray_session import ray_session

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


@dataclass(frozen=True, slots=True)
class Runtime:
    """What one trial gets, and how many trials run at once."""

    trial_cpus: float
    trial_gpus: float
    concurrency: int
    on_cluster: bool


@contextmanager
def start_runtime(search: SearchConfig) -> Iterator[Runtime]:
    """A Ray session, as `ray_session` gives it, shared out to trials.

    Raises:
        StudyError: if not even one trial fits.
    """
    with ray_session(object_store_bytes=_OBJECT_STORE_BYTES, environment=_ENVIRONMENT):
        yield _share_out(search, ray.cluster_resources(), on_cluster="RAY_ADDRESS" in os.environ)


def _share_out(search: SearchConfig, there_are: Mapping[str, float], *, on_cluster: bool) -> Runtime:
    cpus, gpus = there_are.get("CPU", 0.0), there_are.get("GPU", 0.0)
    trial_cpus, wanted_gpus = search.resources.cpu, search.resources.gpu
    trial_gpus = (1.0 if gpus >= 1 else 0.0) if wanted_gpus is None else wanted_gpus
    fitting = int(cpus / trial_cpus)
    if trial_gpus:
        fitting = min(fitting, int(gpus / trial_gpus))
    if fitting < 1:
        raise StudyError(
            f"resources: one trial wants cpu={trial_cpus:g}, gpu={trial_gpus:g}, but there are cpu={cpus:g}, "
            f"gpu={gpus:g}; ask for less with --cpu and --gpu"
        )
    return Runtime(trial_cpus, trial_gpus, min(fitting, search.max_concurrent or fitting), on_cluster)
