"""How the machines of a cluster are shared out to trials."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fmasearch.config import SearchConfig
from fmasearch.errors import StudyError
from fmasearch.study import Runtime, runtime

WORKER, HEAD = (8.0, 1.0), (4.0, 0.0)


def share_out(
    machines: list[tuple[float, float]], promised: list[tuple[float, float]] | None = None, **search: Any
) -> Runtime:
    config = SearchConfig.model_validate(search)
    return runtime._share_out(config, machines, promised or [], on_cluster=True)


def test_a_trial_runs_on_one_machine() -> None:
    shared = share_out([(3.0, 0.0)] * 4, resources={"cpu": 2})
    assert shared.concurrency == 4  # not 12 // 2
    with pytest.raises(StudyError, match="one trial wants cpu=2, gpu=0, but there are cpu=1, gpu=0 on one machine"):
        share_out([(1.0, 0.0)] * 4, resources={"cpu": 2})


def test_a_gpu_share_packs_trials_and_the_head_without_one_gets_none() -> None:
    shared = share_out([HEAD, WORKER, WORKER], resources={"gpu": 0.25})
    assert (shared.trial_gpus, shared.concurrency) == (0.25, 8)


def test_a_cluster_that_nobody_bounds_is_used_as_it_grows() -> None:
    assert share_out([WORKER]).limit is None
    assert share_out([WORKER], max_concurrent=3).limit == 3


def test_machines_that_are_yet_to_be_started_count() -> None:
    shared = share_out([HEAD], [HEAD, WORKER, WORKER, WORKER])
    assert (shared.trial_gpus, shared.concurrency, shared.limit) == (1.0, 3, 3)  # so many wait, and make it grow


def test_the_launchers_file_says_what_may_be_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "ray_bootstrap_config.yaml"
    monkeypatch.setattr(runtime, "AUTOSCALING_FILE", file)
    assert runtime._promised() == []
    file.write_text(
        "max_workers: 9\n"
        "head_node_type: head\n"
        "available_node_types:\n"
        "  head: {resources: {CPU: 4}, max_workers: 0}\n"
        "  gpu: {resources: {CPU: 8, GPU: 1}, max_workers: 2}\n"
        "  unknown: {resources: {}}\n"
    )
    assert runtime._promised() == [(4, 0), (8, 1), (8, 1)]


def test_there_is_room_for_what_fits_now_and_one_more(monkeypatch: pytest.MonkeyPatch) -> None:
    machines = [WORKER, WORKER]
    monkeypatch.setattr(runtime, "_machines", lambda: list(machines))
    shared = share_out(machines, resources={"cpu": 1, "gpu": 0.5})
    assert (shared.limit, shared.room()) == (None, 5)
    machines.append(WORKER)  # joins while a study runs
    assert shared.room() == 7
