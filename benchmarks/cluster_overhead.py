"""What does one more trial cost as the cluster grows? fmasearch's scheduling on 1, 3 and 50 simulated workers.

The nodes are Ray's own simulation (`ray.cluster_utils.Cluster`): real raylets and worker processes, all on this
machine. Workers answer at once and train nothing, so that all there is to measure is scheduling: searcher, scheduler,
journal and Optuna study as in any study. The driver's CPU time is what no further machine would take off it; the clock
is this machine's, which runs all workers. Both are taken from the end of as many trials as there are workers, when all
have started, to the end of the last.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.cluster_utils import Cluster

from fmasearch.cli import environment
from fmasearch.config import SearchConfig
from fmasearch.records import EpochResult, Objective, TrialRecord
from fmasearch.searcher import EPOCH_KEY, OBJECTIVE_KEY, RESULT_KEY
from fmasearch.space import Space
from fmasearch.study import StudyFolder, StudyPlan, run, run_search, study_runtime
from fmasearch.tracking import CompositeTracker, JsonlTracker, MemoryTracker
from trial_turnover import SPACE, write_tiny_data

CPUS_PER_NODE = 5
EPOCH = EpochResult(1, {"val_macro_f1": 0.5}, 1e-3, 0.0, 0.5, 0.5, 1, finished=True)
RESULT = {EPOCH_KEY: 1, OBJECTIVE_KEY: 0.5, "finished": True, RESULT_KEY: EPOCH.to_json()}
PACKAGES = ("ray", "optuna", "torch")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 3, 50])
    parser.add_argument("--trials", type=int, default=200)
    arguments = parser.parse_args()
    facts = environment.describe()
    print(f"{facts['device']}, {facts['cores']} cores; " + ", ".join(f"{p} {facts[p]}" for p in PACKAGES))
    print(f"{arguments.trials} trials each, {CPUS_PER_NODE} workers a node at most")
    print(f"{'workers':>7} {'nodes':>5} {'driver CPU':>14} {'clock':>14}   a trial")
    for workers in arguments.workers:
        with tempfile.TemporaryDirectory() as folder:
            _measure(Path(folder), workers, arguments.trials)


def _measure(root: Path, workers: int, trials: int) -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    sizes = [min(CPUS_PER_NODE, workers - start) for start in range(0, workers, CPUS_PER_NODE)]
    for size in sizes:
        cluster.add_node(num_cpus=size)
    os.environ["RAY_ADDRESS"] = cluster.address
    try:
        cpu, clock = _study(root, workers, trials)
    finally:
        del os.environ["RAY_ADDRESS"]
        ray.shutdown()
        cluster.shutdown()
    print(f"{workers:7} {len(sizes):5} {1000 * cpu:11.0f} ms {1000 * clock:11.0f} ms", flush=True)


def _study(root: Path, workers: int, trials: int) -> tuple[float, float]:
    """Seconds of the driver's CPU and of the clock a trial."""
    plan = StudyPlan(
        name="bench",
        folder=StudyFolder(root / "study"),
        space=Space.parse(SPACE, name="bench"),
        search_name="bench",
        search=SearchConfig.model_validate(
            {
                "num_trials": trials,
                "max_epochs": 1,
                "scheduler": {"name": "none"},
                "sampler": {"name": "random"},
                "patience": None,
            }
        ),
        data=write_tiny_data(root),
        command="",
    )
    plan.folder.root.mkdir()
    clocks = _Clocks()
    tracker = CompositeTracker([JsonlTracker(plan.folder.journal), clocks])
    run.TrialActor = AnswersAtOnce  # type: ignore[misc, assignment]
    with study_runtime(plan) as runtime:
        result = run_search(plan, Objective("val_macro_f1"), runtime, tracker)
    assert len(result.trials) == trials, result
    (cpu_before, before), (cpu_after, after) = clocks.ends[workers - 1], clocks.ends[-1]
    return (cpu_after - cpu_before) / (trials - workers), (after - before) / (trials - workers)


class AnswersAtOnce(tune.Trainable):
    """A trial of one epoch that takes no time. It imports no torch: 50 processes with torch take over 20 GB."""

    def setup(self, config: dict[str, Any]) -> None:
        """Nothing to set up."""

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        return True

    def step(self) -> dict[str, Any]:
        return {**RESULT, "done": True}


class _Clocks(MemoryTracker):
    """Notes the driver's CPU time and the clock when trials end."""

    def __init__(self) -> None:
        super().__init__()
        self.ends: list[tuple[float, float]] = []

    def finish_trial(self, record: TrialRecord) -> None:
        super().finish_trial(record)
        self.ends.append((time.process_time(), time.perf_counter()))


if __name__ == "__main__":
    main()
