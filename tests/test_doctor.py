"""The doctor: what it says of made-up nodes, of this machine, and of the nodes of a real Ray."""

from __future__ import annotations

import json
import logging
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import pytest
import ray
from moto.server import ThreadedMotoServer
from ray.cluster_utils import Cluster

from conftest import run_cli
from fmasearch.data.cache import default_cache_dir
from fmasearch.doctor.checks import check_nodes
from fmasearch.doctor.cluster import Questions, ask_cluster, ask_here, joined_cluster, reason
from fmasearch.doctor.facts import (
    Cuda,
    Gpu,
    NodeFacts,
    Token,
    cache_folder,
    cpu_quota,
    find_token,
    gather,
    off_lock,
    read_lock,
    version_of,
)
from fmasearch.doctor.lines import Check
from fmasearch.doctor.reports import Clock, NodeReport, Tried
from fmasearch.doctor.storage import sees_probe, within, write_probe
from fmasearch.doctor.surroundings import check_data, check_mlflow, check_runs
from fmasearch.tracking import default_uri

GIB = 2**30
T4 = Gpu("Tesla T4", 15 * GIB, "550.54")
PACKAGES = {"fmasearch": "0.1.0", "torch": "2.11.0", "ray": "2.60.0", "numpy": "2.1.0"}
FACTS = NodeFacts(
    python="3.11.7",
    packages=PACKAGES,
    code="0123456789ab",
    off_lock=(),
    gpus=(),
    cuda=Cuda(),
    memory=32 * GIB,
    free_memory=30 * GIB,
    shared_memory=16 * GIB,
    cache="/home/me/.cache/fmasearch",
    free_cache=100 * GIB,
    threads=8,
    quota=None,
    token=Token("/home/me/.ray/auth_token", "d1", 0o600, "token"),
)
HEAD = NodeReport("10.0.0.1", is_head=True, on_cluster=True, facts=FACTS, object_store=9 * GIB, clock=Clock(0.0, 0.001))
WORKER = NodeReport(
    "10.0.0.2", on_cluster=True, facts=FACTS, ray_cpus=8, object_store=9 * GIB, clock=Clock(0.02, 0.001)
)


def worker(address: str = "10.0.0.2", *, facts: dict[str, Any] | None = None, **report: Any) -> NodeReport:
    """A worker that differs from the others in this."""
    return replace(WORKER, address=address, facts=replace(FACTS, **(facts or {})), **report)


def on_gpu(**cuda: Any) -> dict[str, Any]:
    """Facts of a node with a GPU that torch can use, except for this."""
    good = {"torch_cuda": "12.8", "driver_cuda": "12.8", "num_devices": 1}
    return {"gpus": (T4,), "cuda": Cuda(**{**good, **cuda})}


def bad(*reports: NodeReport, **options: Any) -> list[Check]:
    return [check for check in check_nodes((HEAD, *reports), **options) if check.status != "ok"]


# --- made-up nodes ---------------------------------------------------------------------------------------------------


def test_nodes_that_agree_are_fit() -> None:
    checks = check_nodes((HEAD, WORKER, worker("10.0.0.3", ray_gpus=1, facts=on_gpu())))
    assert {check.status for check in checks} == {"ok"}
    assert {check.mend for check in checks} == {""}
    found = {check.name: check.found for check in checks}
    assert found["versions"] == "python 3.11.7, fmasearch 0.1.0, torch 2.11.0, ray 2.60.0, numpy 2.1.0, on 3 nodes"
    assert found["GPU"] == "1 Tesla T4 (15.0 GiB, driver 550.54); torch uses them with CUDA 12.8, on 3 nodes"
    assert found["clock"] == "within 0.020 s of this machine's, on 3 nodes"
    assert found["token"] == "RAY_AUTH_MODE=token, the same token, on 3 nodes"


@pytest.mark.parametrize(
    ("report", "name", "status", "found", "mend"),
    [
        (
            worker(facts={"packages": {**PACKAGES, "torch": "2.10.0"}}),
            *("versions", "failed", "torch: 2.11.0 on 2 nodes, 2.10.0 on 10.0.0.2", "ray up"),
        ),
        (
            worker(facts={"packages": {**PACKAGES, "numpy": "2.0.0"}}),
            *("versions", "warning", "numpy: 2.1.0 on 2 nodes, 2.0.0 on 10.0.0.2", "ray up"),
        ),
        (
            worker(facts={"packages": {**PACKAGES, "torch": "2.11.0+cu126"}}),
            *("versions", "warning", "torch: 2.11.0 on 2 nodes, 2.11.0+cu126 on 10.0.0.2", "round"),
        ),
        (
            worker(facts={"python": "3.12.1"}),
            *("versions", "failed", "python: 3.11.7 on 2 nodes, 3.12.1 on 10.0.0.2", "ray up"),
        ),
        (
            worker(facts={"code": "ba9876543210"}),
            *("code", "failed", "fmasearch's own files differ: 0123456789ab on 2 nodes, ba9876543210 on", "submit"),
        ),
        (
            worker(facts={"off_lock": tuple(f"p{i} 1 (locked 2)" for i in range(5))}),
            *("lock file", "warning", "10.0.0.2: p0 1 (locked 2), p1 1 (locked 2), p2 1 (locked 2) and 2 more", "pip"),
        ),
        (
            worker(ray_gpus=1),
            *("GPU", "failed", "10.0.0.2: Ray offers 1, but the driver lists none", "NVIDIA driver"),
        ),
        (
            worker(facts=on_gpu(torch_cuda="", num_devices=0, problem="not compiled with CUDA")),
            *("GPU", "failed", "10.0.0.2: Tesla T4, but torch cannot use it: not compiled", "--force-reinstall"),
        ),
        (
            worker(ray_gpus=1, facts=on_gpu(driver_cuda="11.4", num_devices=0, problem="too old")),
            *("GPU", "failed", "10.0.0.2: driver 550.54 serves CUDA 11.4, torch wants 12.8", "CUDA 12.8 or newer"),
        ),
        (
            worker(ray_gpus=1, facts=on_gpu(num_devices=0, problem="fell off the bus")),
            *("GPU", "failed", "10.0.0.2: torch cannot use the GPU: fell off the bus", "on 10.0.0.2: nvidia-smi"),
        ),
        (
            worker(facts=on_gpu()),
            *("GPU", "warning", "10.0.0.2: Ray offers 0 of 1", "--num-gpus 1"),
        ),
        (
            worker(facts={"quota": 2.0}),
            *("cores", "warning", "10.0.0.2: Ray offers 8, but the container may use 2", "--num-cpus 2"),
        ),
        (
            worker(facts={"free_memory": GIB}),
            *("memory", "warning", "10.0.0.2: 1.0 GiB free", "--concurrent"),
        ),
        (
            worker(facts={"free_memory": GIB // 4}),
            *("memory", "failed", "10.0.0.2: 0.2 GiB free", "--concurrent"),
        ),
        (
            worker(facts={"shared_memory": GIB // 16}),
            *("/dev/shm", "warning", "10.0.0.2: 0.1 GiB, smaller than Ray's object store (9.0 GiB)", "--shm-size=9g"),
        ),
        (
            worker(facts={"free_cache": 2 * GIB}),
            *("disk", "warning", "10.0.0.2: /home/me/.cache/fmasearch: 2.0 GiB free", "FMASEARCH_CACHE"),
        ),
        (
            worker(clock=Clock(-90.0, 0.01)),
            *("clock", "failed", "10.0.0.2: 90.0 s behind this machine", "on 10.0.0.2: sudo timedatectl set-ntp true"),
        ),
        (
            worker(clock=Clock(1.5, 0.1)),
            *("clock", "warning", "10.0.0.2: 1.5 s ahead of this machine", "timedatectl"),
        ),
        (
            worker(facts={"token": replace(FACTS.token, mode=0o644)}),
            *("token", "warning", "10.0.0.2: /home/me/.ray/auth_token may be read by others", "chmod 600"),
        ),
        (
            worker(facts={"token": Token(auth_mode="token")}),
            *("token", "failed", "no token on 10.0.0.2", "ray get-auth-token --generate"),
        ),
        (
            worker(facts={"token": replace(FACTS.token, digest="d2")}),
            *("token", "failed", "not the same everywhere: one token on 2 nodes, another on 10.0.0.2", "file_mounts"),
        ),
        (
            worker(facts={"token": replace(FACTS.token, auth_mode="")}),
            *("token", "failed", "RAY_AUTH_MODE differs: token on 2 nodes, unset on 10.0.0.2", "export"),
        ),
        (
            worker(data_problem="access denied"),
            *("data", "failed", "10.0.0.2: cannot read it: access denied", "credentials"),
        ),
        (
            replace(WORKER, facts=None, problem="did not answer within 30 s"),
            *("node", "failed", "10.0.0.2: did not answer within 30 s", "ray status"),
        ),
        (
            replace(WORKER, facts=None, problem="ModuleNotFoundError: No module named 'fmasearch'"),
            *("node", "failed", "10.0.0.2: ModuleNotFoundError", "its fmasearch is absent or another one"),
        ),
    ],
)
def test_a_node_at_fault_is_named_with_what_mends_it(
    report: NodeReport, name: str, status: str, found: str, mend: str
) -> None:
    (check,) = bad(report, worker("10.0.0.3"))
    assert (check.name, check.status) == (name, status)
    assert check.found.startswith(found)
    assert mend in check.mend


def test_a_clock_is_not_blamed_for_the_network() -> None:
    assert bad(worker(clock=Clock(1.5, 0.6))) == []  # ahead by 0.9 to 2.1 s: less than a second, perhaps


def test_a_driver_serves_newer_minor_versions_of_its_cuda() -> None:
    assert bad(worker(ray_gpus=1, facts=on_gpu(driver_cuda="12.2"))) == []


def test_a_disk_too_small_for_the_data_fails() -> None:
    (check,) = bad(worker(facts={"free_cache": 20 * GIB}), data_bytes=35 * GIB)
    assert (check.name, check.status) == ("disk", "failed")
    assert "20.0 GiB free, the data and its working copy need 35.0 GiB" in check.found


def test_a_cluster_that_asks_for_no_token_is_open_to_whoever_reaches_it() -> None:
    open_facts = replace(FACTS, token=Token())
    (check,) = bad_of(replace(HEAD, facts=open_facts), replace(WORKER, facts=open_facts))
    assert (check.name, check.status) == ("token", "warning")
    assert "run code on every node" in check.found


def test_one_machine_needs_no_token_and_its_lines_name_no_node() -> None:
    facts = replace(FACTS, token=Token(), quota=2.0)
    (check,) = bad_of(NodeReport("this machine", facts=facts))
    assert check.found == "there are 8, but the container may use 2"
    assert check.mend == "fmasearch tune --concurrent 2"


def bad_of(*reports: NodeReport) -> list[Check]:
    return [check for check in check_nodes(reports) if check.status != "ok"]


def test_a_folder_that_exists_on_every_node_but_is_not_shared_is_told_apart() -> None:
    (check,) = bad(worker(storage=Tried(seen=False)), storage="/data/runs")
    assert check.status == "failed"
    assert check.found == "10.0.0.2: /data/runs is a place of its own: what it writes there is not seen here"
    (check,) = bad(worker(storage=Tried("Permission denied")), storage="s3://KEY:geheim@bucket/runs")
    assert check.found == "10.0.0.2: cannot use s3://KEY:***@bucket/runs: Permission denied"
    assert "credentials" in check.mend


def test_without_a_storage_runs_that_are_not_shared_are_warned_of() -> None:
    head = replace(HEAD, storage=Tried())
    (check,) = bad_of(head, worker(storage=Tried("no such folder")), worker("10.0.0.3", storage=Tried()))
    assert (check.name, check.status) == ("storage", "warning")
    assert "is not shared with 10.0.0.2: trials that move start from the beginning" in check.found
    assert bad_of(head, worker(storage=Tried())) == []
    assert bad_of(head) == []


# --- this machine ----------------------------------------------------------------------------------------------------


def test_facts_travel_as_plain_values() -> None:
    facts = replace(FACTS, **on_gpu(), off_lock=("a 1 (locked 2)",))
    assert NodeFacts.from_json(json.loads(json.dumps(facts.to_json()))) == facts


def test_this_machine_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = gather(["ray", "no-such-package"], {"ray": ray.__version__}, word="w")
    assert facts.packages == {"ray": ray.__version__, "no-such-package": "absent"}
    assert (facts.off_lock, len(facts.code)) == ((), 12)
    assert facts.memory is not None
    assert facts.free_memory is not None
    assert 0 < facts.free_memory < facts.memory
    assert Path(facts.cache) == default_cache_dir()


@pytest.mark.parametrize("variable", ["FMASEARCH_CACHE", "XDG_CACHE_HOME", None])
def test_the_cache_folder_is_the_one_that_studies_use(variable: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FMASEARCH_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if variable:
        monkeypatch.setenv(variable, "/somewhere/else")
    assert cache_folder() == default_cache_dir()


def test_packages_off_the_lock_file_are_listed_and_other_builds_are_not(tmp_path: Path) -> None:
    numpy = version_of("numpy")
    file = tmp_path / "requirements.lock"
    file.write_text(f"# a comment\n-r other.txt\nnumpy=={numpy} ; python_version > '3'\nray==0.1\nabsent-one==1.0\n")
    lock = read_lock(file)
    assert lock == {"numpy": numpy, "ray": "0.1", "absent-one": "1.0"}
    assert off_lock(lock) == (f"ray {ray.__version__} (locked 0.1)", "absent-one absent (locked 1.0)")


def test_other_builds_of_a_locked_version_are_as_locked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fmasearch.doctor.facts.version_of", lambda name: "2.11.0+cu126")
    assert off_lock({"torch": "2.11.0"}) == ()
    assert off_lock({"torch": "2.11.0+cpu"}) == ("torch 2.11.0+cu126 (locked 2.11.0+cpu)",)


def test_the_quota_of_a_container_is_the_least_of_its_groups(tmp_path: Path) -> None:
    own = tmp_path / "cgroup"
    own.write_text("0::/pod/container\n")
    inner = tmp_path / "fs" / "pod" / "container"
    inner.mkdir(parents=True)
    assert cpu_quota(tmp_path / "fs", own) is None
    (inner / "cpu.max").write_text("max 100000\n")
    assert cpu_quota(tmp_path / "fs", own) is None
    (inner.parent / "cpu.max").write_text("250000 100000\n")
    assert cpu_quota(tmp_path / "fs", own) == 2.5


def test_a_token_is_compared_without_being_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "auth_token"
    file.write_text("geheim\n")
    file.chmod(0o640)
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(file))
    found = find_token("one")
    assert (found.source, found.mode) == (str(file), 0o640)
    assert found.digest == find_token("one").digest != find_token("two").digest
    monkeypatch.setenv("RAY_AUTH_TOKEN", "geheim")  # the same token, from elsewhere
    assert (find_token("one").digest, find_token("one").source) == (found.digest, "RAY_AUTH_TOKEN")
    assert "geheim" not in str(found)


def test_a_storage_is_tried_and_left_as_it_was(tmp_path: Path) -> None:
    questions = Questions((), {}, storage=str(tmp_path / "new"))
    assert ask_here(questions).storage == Tried()
    assert list((tmp_path / "new").iterdir()) == []
    assert ask_here(replace(questions, storage="/proc/nowhere")).storage != Tried()
    assert write_probe(str(tmp_path / "none"), "probe", make=False) == "no such folder"
    assert not sees_probe(str(tmp_path / "none"), "probe")


def test_what_hangs_is_left_behind() -> None:
    assert within(5, lambda: 7) == 7
    with pytest.raises(TimeoutError, match=r"no answer within 0\.05 s"):
        within(0.05, time.sleep, 2)
    with pytest.raises(ZeroDivisionError):
        within(5, lambda: 1 / 0)


def test_the_feature_file_is_read_and_its_working_copy_reckoned_with(feature_file: Path, tmp_path: Path) -> None:
    check, needed = check_data(str(feature_file))
    assert check.status == "ok"
    assert "40 tracks" in check.found
    # 40 tracks of 24 frames and 8 bins in two bytes each, beside the file itself
    assert needed == feature_file.stat().st_size + 40 * 24 * 8 * 2
    (tmp_path / "damaged.h5").write_text("no HDF5")
    assert check_data(str(tmp_path / "damaged.h5"))[0].status == "failed"


def test_runs_and_mlflow_are_looked_at_and_not_made(tmp_path: Path) -> None:
    assert check_runs(tmp_path / "a" / "runs").status == "ok"
    assert check_mlflow(default_uri(tmp_path / "a" / "runs")).status == "ok"
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    assert check_runs(tmp_path / "file" / "runs").status == "failed"
    (tmp_path / "mlflow.db").write_text("no database" * 100)
    check = check_mlflow(default_uri(tmp_path))
    assert (check.status, "another version of MLflow" in check.mend) == ("failed", True)


def test_the_command_prints_lines_of_a_hundred_columns_and_its_exit_code(tmp_path, monkeypatch, capsys) -> None:
    assert run_cli(monkeypatch, "doctor", "--runs", tmp_path / "runs", "--data", tmp_path / "none.h5") == 1
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    assert any(line.startswith("ok       versions   python ") for line in lines)
    assert any(line.startswith("failed   data       ") for line in lines)
    assert lines[-1].startswith("1 failed")


def test_the_command_tells_the_same_as_json_and_nothing_of_the_token(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "geheim")
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)  # Ray sets it in a process that has started one
    assert run_cli(monkeypatch, "doctor", "--json", "--runs", tmp_path / "runs", "--storage", tmp_path / "store") == 0
    told = json.loads(capsys.readouterr().out)
    assert {check["name"] for check in told["checks"]} >= {"node", "versions", "token", "storage", "runs", "MLflow"}
    (node,) = told["nodes"]
    assert node["facts"]["token"] == {"source": "RAY_AUTH_TOKEN", "mode": None, "auth_mode": ""}


def test_a_cluster_that_is_not_there_is_one_failed_line(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    assert run_cli(monkeypatch, "doctor", "--cluster", "--runs", tmp_path / "runs") == 1
    out = capsys.readouterr().out
    assert "failed   cluster    Ray at 127.0.0.1:1: nothing answers there" in out
    assert "ray up CLUSTER.yaml" in out


def test_what_an_actor_died_of_is_found_beneath_rays_words() -> None:
    words = (
        "The actor died because of an error raised in its creation task, \x1b[36mray::_Node.__init__()\x1b[39m\n"
        "RuntimeError: The actor with name _Node failed to import on the worker:\n\nTraceback (most recent call):\n"
        "  ...\nModuleNotFoundError: No module named 'fmasearch.doctor'"
    )
    assert reason(RuntimeError(words)) == "ModuleNotFoundError: No module named 'fmasearch.doctor'"
    assert reason(OSError("gone")) == "OSError: gone"


# --- a real Ray ------------------------------------------------------------------------------------------------------

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
