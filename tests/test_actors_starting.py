"""Actors that take longer to start than trials take to train."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from ray import cloudpickle

import test_actors_starting
from fmasearch.study import run_search, save_plan, study_runtime
from fmasearch.study.actor import TrialActor, TrialJob
from fmasearch.tracking import MemoryTracker
from study_helpers import OBJECTIVE, make_plan

NOTES = "FMASEARCH_TEST_NOTES"


def start_slowly_but_once() -> None:
    """Run in every worker: all actors but the first take 2 s to come up; each notes that it trains."""
    start = TrialActor._start

    def noting(self: TrialActor, job: TrialJob) -> None:
        folder = Path(os.environ[NOTES])
        try:
            (folder / "first").touch(exist_ok=False)
        except FileExistsError:
            if not (folder / f"pid-{os.getpid()}").exists():
                time.sleep(2)
        (folder / f"pid-{os.getpid()}").touch()
        start(self, job)

    TrialActor._start = noting  # type: ignore[method-assign]


@pytest.fixture
def slow_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    notes = tmp_path / "notes"
    notes.mkdir()
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    cloudpickle.register_pickle_by_value(test_actors_starting)
    ray.init(
        "local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=100 * 2**20,
        runtime_env={"worker_process_setup_hook": start_slowly_but_once, "env_vars": {NOTES: str(notes)}},
    )
    yield notes
    ray.shutdown()
    cloudpickle.unregister_pickle_by_value(test_actors_starting)


@pytest.mark.ray
def test_an_actor_that_starts_slowly_comes_up_however_many_trials_end_meanwhile(
    slow_starts: Path, tmp_path: Path
) -> None:
    plan = make_plan(tmp_path, num_trials=150, max_epochs=1, sampler={"name": "random"}, scheduler={"name": "none"})
    save_plan(plan)
    tracker = MemoryTracker()
    with study_runtime(plan) as runtime:
        run_search(plan, OBJECTIVE, runtime, tracker)
    assert len(tracker.records) == 150
    assert len(list(slow_starts.glob("pid-*"))) == 2  # or more: killed while they started, and started again
