"""The doctor's verdicts on made-up nodes."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from fmasearch.doctor.checks import check_nodes
from fmasearch.doctor.facts import Cuda, Gpu, NodeFacts, Token
from fmasearch.doctor.lines import Check
from fmasearch.doctor.reports import Clock, NodeReport, Tried

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


def test_facts_travel_as_plain_values() -> None:
    facts = replace(FACTS, **on_gpu(), off_lock=("a 1 (locked 2)",))
    assert NodeFacts.from_json(json.loads(json.dumps(facts.to_json()))) == facts
