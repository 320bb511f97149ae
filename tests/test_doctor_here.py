"""The doctor on this machine: what it finds out, and what the command prints."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
import ray

from conftest import run_cli
from fmasearch.data.cache import default_cache_dir
from fmasearch.doctor.cluster import Questions, ask_here, reason
from fmasearch.doctor.facts import cache_folder, cpu_quota, find_token, gather, off_lock, read_lock, version_of
from fmasearch.doctor.reports import Tried
from fmasearch.doctor.storage import sees_probe, within, write_probe
from fmasearch.doctor.surroundings import check_data, check_mlflow, check_runs
from fmasearch.tracking import default_uri


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
