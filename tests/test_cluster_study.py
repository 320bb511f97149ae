"""Studies on several Ray nodes of this machine."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayActorError

from fmasearch.data import content_hash
from fmasearch.errors import StudyError
from fmasearch.finalize import confirm_starts, confirmed, final_training, train_final
from fmasearch.records import TrialState
from fmasearch.study import StudyPlan, cluster_notes, run_elsewhere, run_jobs, run_search, save_plan, study_runtime
from fmasearch.study.losses import node_was_lost
from fmasearch.tracking import JsonlTracker, read_journal
from study_helpers import OBJECTIVE, curve, make_plan, train_alone

RANDOM = {"sampler": {"name": "random"}, "scheduler": {"name": "none"}, "checkpoint_seconds": 0.0}


@dataclass
class Nodes:
    """A head of one CPU with the driver, and workers of one CPU each; `caches` are their own disks, so to say."""

    cluster: Any
    caches: Path

    def add(self) -> Any:
        return self.cluster.add_node(num_cpus=1, env_vars={"FMASEARCH_CACHE": str(self.caches)})

    def kill(self, node: Any) -> None:
        self.cluster.remove_node(node, allow_graceful=False)


@pytest.fixture
def nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Nodes]:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    try:
        yield Nodes(cluster, tmp_path / "caches")
    finally:
        ray.shutdown()
        cluster.shutdown()


def searched(plan: StudyPlan) -> list[Any]:
    save_plan(plan)
    journal = JsonlTracker(plan.folder.journal)
    with study_runtime(plan) as runtime:
        result = run_search(plan, OBJECTIVE, runtime, journal)
    journal.close("finished")
    return list(result.trials)


@pytest.mark.ray
@pytest.mark.slow
def test_a_lost_node_costs_the_epochs_since_the_last_checkpoint_and_no_trial(nodes: Nodes, tmp_path: Path) -> None:
    plan = make_plan(tmp_path, num_trials=4, max_epochs=60, **RANDOM)
    victim, _ = nodes.add(), nodes.add()

    def lose_it_in_the_middle() -> None:
        while sum(len(t.epochs) for t in read_journal(plan.folder.journal).unfinished) < 20:
            time.sleep(0.05)
        nodes.kill(victim)

    saboteur = threading.Thread(target=lose_it_in_the_middle)
    saboteur.start()
    trials = searched(plan)
    saboteur.join()
    assert [(t.state, len(t.epochs)) for t in trials] == [(TrialState.COMPLETED, 60)] * 4
    told = [json.loads(line) for line in plan.folder.journal.read_text().splitlines()]
    again = sum(event["event"] == "epoch" for event in told) - 4 * 60
    assert again <= 2  # an epoch between its checkpoint and the next one, for the trial that was cut off
    for trial in trials:
        assert curve(trial.epochs) == train_alone(trial.start.config, plan.data)


@pytest.mark.ray
@pytest.mark.slow
def test_a_worker_that_dies_on_a_living_node_fails_its_trial_on_a_cluster_too(nodes: Nodes, tmp_path: Path) -> None:
    from ray import cloudpickle

    import study_helpers

    cloudpickle.register_pickle_by_value(study_helpers)
    plan = make_plan(
        tmp_path,
        "features: [mel]\ntask: {classification: genre}\ntrainer: {batch_size: 8}\n"
        "model: {architecture: cnn_gru, hidden_dim: 4, num_conv_layers: 1, num_layers: 1}\n"
        "optimizer: {learning_rate: {choice: [0.95]}}\n",
        num_trials=2,
        **RANDOM,
    )
    ray.init(runtime_env={"worker_process_setup_hook": study_helpers.plant_failures})
    try:
        trials = searched(plan)
    finally:
        cloudpickle.unregister_pickle_by_value(study_helpers)
    assert [(t.state, t.error) for t in trials] == [
        (TrialState.FAILED, "the worker died without a word (out of memory?)")
    ] * 2


@pytest.mark.ray
@pytest.mark.slow
def test_confirmation_and_final_training_on_a_cluster_give_the_same_model(nodes: Nodes, tmp_path: Path) -> None:
    plan = make_plan(tmp_path, num_trials=2, max_epochs=2, confirm={"top_k": 1, "seeds": 2}, **RANDOM)
    trials = searched(plan)
    journal = JsonlTracker(plan.folder.confirm_journal)
    starts = confirm_starts(trials, plan.search)
    with study_runtime(plan) as runtime:
        run_jobs(plan, starts, runtime, journal, objective=OBJECTIVE)
        done = {record.name: record for record in read_journal(plan.folder.confirm_journal).finished}
        winner = confirmed(starts, done, OBJECTIVE)[0]
        there = train_final(
            winner,
            plan.data,
            plan.search,
            plan.folder.model_file,
            plan.folder.final_file,
            run=lambda *arguments, **options: run_elsewhere(final_training, runtime, *arguments, **options),
        )
    here = train_final(winner, plan.data, plan.search, tmp_path / "model.pt", tmp_path / "final.json")
    assert there.test.to_json() == here.test.to_json()
    assert curve(there.curve) == curve(here.curve)
    assert content_hash(plan.folder.model_file) == content_hash(tmp_path / "model.pt")


@pytest.mark.ray
@pytest.mark.slow
def test_a_study_says_at_its_start_where_checkpoints_go(nodes: Nodes, tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    save_plan(plan)
    with study_runtime(plan) as runtime:
        assert "there is no storage that every node sees" in cluster_notes(plan, runtime)[1]  # the head is alone
    ray.shutdown()
    nodes.add()
    with study_runtime(plan) as runtime:
        machines, checkpoints = cluster_notes(plan, runtime)
        assert machines.startswith("cluster: 2 nodes, cpu=2, gpu=0")
        assert "which every node sees" in checkpoints


def test_storage_that_cannot_be_written_is_an_error_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    plan = make_plan(tmp_path)
    object.__setattr__(plan, "storage", str(tmp_path / "file"))
    with pytest.raises(StudyError, match="cannot be written"), study_runtime(plan):
        pass


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (ActorUnavailableError("Socket closed", None), True),
        (RayActorError(error_msg="The actor died because its node has died. Node Id: 12"), True),
        (RayActorError(preempted=True), True),
        (ActorDiedError(), False),
        (RayActorError(error_msg="The actor is dead because its worker process has died."), False),
    ],
)
def test_a_lost_node_is_told_from_a_worker_that_died(error: RayActorError, lost: bool) -> None:
    assert node_was_lost(error) is lost
