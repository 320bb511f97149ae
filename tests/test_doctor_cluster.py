"""The doctor on the nodes of a real Ray."""

from __future__ import annotations

import json
import logging
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
import ray
from moto.server import ThreadedMotoServer
from ray.cluster_utils import Cluster

from conftest import run_cli
from fmasearch.doctor.checks import check_nodes
from fmasearch.doctor.cluster import Questions, ask_cluster, joined_cluster
from fmasearch.doctor.reports import Tried

QUIET = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.ERROR}


@pytest.mark.ray
def test_a_real_node_answers(tmp_path: Path) -> None:
    ray.init(num_cpus=1, object_store_memory=100 * 2**20, **QUIET)
    try:
        with joined_cluster(None):
            (report,) = ask_cluster(Questions(("ray",), {}, storage=str(tmp_path)))
    finally:
        ray.shutdown()
    assert report.facts is not None, report.problem
    assert (report.is_head, report.ray_cpus, report.problem) == (True, 1.0, "")
    assert report.facts.packages == {"ray": ray.__version__}
    assert report.clock is not None
    assert abs(report.clock.ahead) <= report.clock.error + 0.01  # one machine has one clock
    assert report.storage == Tried()
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def two_nodes() -> Iterator[Cluster]:
    """A head with one CPU and a worker with two, on this machine."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 100 * 2**20})
    cluster.add_node(num_cpus=2, object_store_memory=100 * 2**20)
    ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture
def bucket() -> Iterator[str]:
    """The URI of an S3 bucket on this machine."""
    store = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    store.start()
    host, port = store.get_host_and_port()
    keys = {"aws_access_key_id": "key", "aws_secret_access_key": "geheim", "region_name": "us-east-1"}
    boto3.client("s3", endpoint_url=f"http://{host}:{port}", **keys).create_bucket(Bucket="bucket")
    yield f"s3://key:geheim@bucket/folder?scheme=http&endpoint_override={host}:{port}&region=us-east-1"
    store.stop()


@pytest.mark.slow
@pytest.mark.ray
def test_every_node_of_a_cluster_is_asked(two_nodes, feature_file, tmp_path, monkeypatch, capsys) -> None:
    shared = ("--storage", tmp_path / "store", "--data", feature_file, "--runs", tmp_path / "runs")
    assert run_cli(monkeypatch, "doctor", "--cluster", "--json", *shared) == 0
    told = json.loads(capsys.readouterr().out)
    assert [(node["is_head"], node["ray_cpus"]) for node in told["nodes"]] == [(True, 1.0), (False, 2.0)]
    assert len({node["address"] for node in told["nodes"]}) == 2  # told apart, though they share a machine
    found = {check["name"]: check["found"] for check in told["checks"]}
    assert found["storage"] == f"{tmp_path / 'store'}: written, read back and removed, on 2 nodes"
    assert found["code"].endswith("on 2 nodes")
    assert list((tmp_path / "store").iterdir()) == []


@pytest.mark.slow
@pytest.mark.ray
def test_every_node_tries_a_bucket_and_its_secret_is_not_shown(
    two_nodes, bucket, monkeypatch, capsys, tmp_path
) -> None:
    place = ("--storage", bucket, "--data", bucket.replace("folder", "none.h5"), "--runs", tmp_path / "runs")
    assert run_cli(monkeypatch, "doctor", "--cluster", *place) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert "written, read back and removed, on 2 nodes" in out
    assert "none.h5" in out
    assert "no such object" in out
    assert "geheim" not in out


@pytest.mark.slow
@pytest.mark.ray
def test_a_folder_that_a_node_has_for_itself_is_found_out(two_nodes, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)  # the driver's own folder is now another than the workers'
    reports = ask_cluster(Questions((), {}, storage="/proc/self/cwd"))
    assert [report.storage for report in reports] == [Tried(seen=False), Tried(seen=False)]


@pytest.mark.slow
@pytest.mark.ray
def test_a_node_that_hangs_fails_alone(two_nodes: Cluster) -> None:
    hung = two_nodes.add_node(num_cpus=3, object_store_memory=100 * 2**20)
    pid = hung.all_processes["raylet"][0].process.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        started = time.monotonic()
        reports = ask_cluster(Questions((), {}), seconds=10)
        assert time.monotonic() - started < 15
    finally:
        os.kill(pid, signal.SIGCONT)
        two_nodes.remove_node(hung)
    assert {report.ray_cpus: report.problem for report in reports} == {1: "", 2: "", 3: "did not answer within 10 s"}
    (check,) = [check for check in check_nodes(reports) if check.status == "failed"]
    assert check.name == "node"
