"""The files that start clusters, read by what reads them: Ray's launcher, bash, Google's API, Slurm."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config, with_envs
from ray.scripts.symmetric_run import curate_and_validate_ray_start_args

ROOT = Path(__file__).parents[1]
AWS, ONPREM, GCP = ROOT / "cluster.yaml", ROOT / "cluster.onprem.yaml", ROOT / "docs/cluster/gcp.yaml"
KUBERAY, SLURM = ROOT / "docs/cluster/kuberay-rayjob.yaml", ROOT / "docs/cluster/slurm.sbatch"
LAUNCHER_FILES = [AWS, ONPREM, GCP]
ALL_FILES = [*LAUNCHER_FILES, KUBERAY, SLURM]

launcher_file = pytest.mark.parametrize("path", LAUNCHER_FILES, ids=lambda path: path.name)


def read(path: Path) -> dict[str, Any]:
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert isinstance(values, dict)
    return values


def locked(package: str) -> str:
    found = re.search(rf"^{package}==(\S+)$", (ROOT / "requirements.lock").read_text(encoding="utf-8"), re.MULTILINE)
    assert found, package
    return found[1]


# What all launcher files have in common.


@launcher_file
def test_the_launcher_finds_the_file_valid(path: Path) -> None:
    validate_config(prepare_config(read(path)))


@launcher_file
def test_every_machine_gets_the_token_and_every_ray_asks_for_it(path: Path) -> None:
    config = read(path)
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    starts = [line for line in _commands(config) if "ray start" in line]
    assert len(starts) == 2  # the head's and the workers'
    assert all("export RAY_AUTH_MODE=token" in line for line in starts)


@launcher_file
def test_nothing_listens_on_all_addresses_by_our_doing(path: Path) -> None:
    assert "0.0.0.0" not in path.read_text(encoding="utf-8")
    assert any("--dashboard-host=127.0.0.1" in line for line in read(path)["head_start_ray_commands"])


@launcher_file
def test_what_is_mounted_is_small_and_there(path: Path) -> None:
    # Ray reads every byte below a mounted folder, whatever rsync_exclude says: not the checkout with .git and .venv.
    mounted = {ROOT / local for remote, local in read(path)["file_mounts"].items() if "auth_token" not in remote}
    assert ROOT not in mounted
    assert all(local.exists() for local in mounted)
    sizes = [file.stat().st_size for local in mounted for file in (local.rglob("*") if local.is_dir() else [local])]
    assert sum(sizes) < 20e6


@launcher_file
def test_feature_files_and_results_pass_the_launchers_rsync(path: Path) -> None:
    # rsync_exclude also holds for `ray rsync-up` and `ray rsync-down`, and rsync leaves out without a word.
    travels = ["0123456789abcdef-fma.h5", "runs", "results", "data", "submit", "model.pt", "mlflow.db", "spaces", "src"]
    assert not [name for name in travels for pattern in read(path)["rsync_exclude"] if fnmatch.fnmatch(name, pattern)]


@launcher_file
def test_packages_come_from_the_lock_file_alone(path: Path) -> None:
    installs = [line for line in _commands(read(path)) if "pip install" in line]
    assert any("-r ~/fmasearch/code/requirements.lock" in line for line in installs)
    held = ("-r ~/fmasearch/code/requirements.lock", "--constraint ~/fmasearch/code/requirements.lock", "--no-deps")
    assert all(any(option in line for option in held) for line in installs)
    # The launcher's own defaults install a nightly build of Ray.
    assert not [line for line in _commands(prepare_config(read(path))) if "whl" in line or "==" in line]


@pytest.mark.parametrize("path", ALL_FILES, ids=lambda path: path.name)
def test_no_file_names_a_package_index_or_a_secret(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not re.search(
        r"index-url|find-links|trusted-host|pypi|AKIA|BEGIN .*KEY|password\s*[:=]", text, re.IGNORECASE
    )
    assert set(re.findall(r"https?://[^/\s\]]+", text)) <= {"https://www.googleapis.com"}


@pytest.mark.parametrize("path", ALL_FILES, ids=lambda path: path.name)
def test_the_lines_to_edit_are_marked(path: Path) -> None:
    assert path.read_text(encoding="utf-8").count("EDIT") >= 4


# The commands, run by bash in an empty home folder, with stand-ins for what they install and start.


@dataclass(frozen=True)
class Machine:
    """A machine's home folder, and what its stand-ins for programs were called with."""

    home: Path

    def run(self, commands: Sequence[str], **environment: str) -> None:
        """Run commands as the launcher does: each in a shell of its own that has read ~/.bashrc."""
        path = f"{self.home}/bin:{os.environ['PATH']}"
        known = {"HOME": str(self.home), "PATH": path, "PYTHON": str(self.home / "bin/python3"), **environment}
        for command in commands:
            wrapped = f"source ~/.bashrc; export OMP_NUM_THREADS=1 && ({command})"
            subprocess.run(
                ["bash", "-c", wrapped], env=known, cwd=self.home, check=True, capture_output=True, timeout=20
            )

    def calls(self) -> list[str]:
        log = self.home / "calls"
        return log.read_text(encoding="utf-8").splitlines() if log.exists() else []


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    home = tmp_path / "home"
    (home / "bin").mkdir(parents=True)
    (home / "fmasearch/code").mkdir(parents=True)
    (home / ".bashrc").touch()
    (home / "fmasearch/code/requirements.lock").write_text("ray==1\n", encoding="utf-8")
    # `pip show fmasearch` succeeds once fmasearch was installed.
    pip = 'if [ "$1" = show ]; then [ -e ~/installed ]; exit; fi; echo pip "$@" >> ~/calls; '
    pip += 'case "$*" in *--editable*) touch ~/installed;; esac'
    make_venv = f"mkdir -p \"$3/bin\"; printf '%s\\n' '#!/bin/bash' '{pip}' > \"$3/bin/pip\"; chmod +x \"$3/bin/pip\""
    _program(home / "bin/python3", f'if [ "$1 $2" = "-m venv" ]; then {make_venv}; else exec {sys.executable} "$@"; fi')
    _program(home / "bin/ray", 'echo "$RAY_AUTH_MODE $RAY_enable_autoscaler_v2 ray $*" >> ~/calls')
    return Machine(home)


@launcher_file
def test_a_machine_is_set_up_once(path: Path, machine: Machine) -> None:
    commands = read(path)["setup_commands"]
    machine.run(commands)
    lock, project = machine.calls()
    assert lock.endswith(f"-r {machine.home}/fmasearch/code/requirements.lock")
    assert project.endswith(f"--no-deps --no-build-isolation --editable {machine.home}/fmasearch/code")
    machine.run(commands)
    assert machine.calls() == [lock, project]
    assert (machine.home / ".bashrc").read_text(encoding="utf-8").count("env.sh") == 1


@launcher_file
def test_a_new_lock_file_is_installed(path: Path, machine: Machine) -> None:
    commands = read(path)["setup_commands"]
    machine.run(commands)
    (machine.home / "fmasearch/code/requirements.lock").write_text("ray==2\n", encoding="utf-8")
    machine.run(commands)
    assert [call.split()[-2] for call in machine.calls()] == ["-r", "--editable", "-r"]


@launcher_file
def test_shells_know_the_environment_the_token_and_a_local_cache(path: Path, machine: Machine) -> None:
    machine.run(read(path)["setup_commands"])
    machine.run(['echo "$PATH" "$RAY_AUTH_MODE" "$FMASEARCH_CACHE" > ~/told'])
    search_path, auth_mode, cache = (machine.home / "told").read_text(encoding="utf-8").split()
    assert search_path.split(":")[0] == f"{machine.home}/fmasearch/venv/bin"
    assert auth_mode == "token"
    assert Path(cache).is_absolute()


@launcher_file
def test_an_old_python_is_refused_by_name(path: Path, machine: Machine) -> None:
    (check,) = (line for line in read(path)["setup_commands"] if "version_info" in line)
    _program(machine.home / "bin/python3", f'exec {sys.executable} -c "import sys; sys.version_info = (3, 10); $2"')
    with pytest.raises(subprocess.CalledProcessError) as failed:
        machine.run([check])
    assert b"needs Python 3.11" in failed.value.stderr


@pytest.mark.parametrize(("path", "autoscaler"), [(AWS, "1"), (ONPREM, "0"), (GCP, "1")], ids=["aws", "onprem", "gcp"])
def test_ray_starts_with_the_token_and_the_right_autoscaler(path: Path, autoscaler: str, machine: Machine) -> None:
    # `ray up` itself puts RAY_enable_autoscaler_v2=1 in front; with hosts of one's own that one stops at one worker.
    (start,) = (line for line in read(path)["head_start_ray_commands"] if "ray start" in line)
    machine.run(with_envs([start], {"RAY_enable_autoscaler_v2": "1"}))
    (call,) = machine.calls()
    assert call.startswith(f"token {autoscaler} ray start --head --port=6379 --dashboard-host=127.0.0.1")
    assert call.endswith("--autoscaling-config=~/ray_bootstrap_config.yaml")  # Ray knows what ~ is


@launcher_file
def test_workers_join_the_head_with_the_token(path: Path, machine: Machine) -> None:
    machine.run(read(path)["worker_start_ray_commands"], RAY_HEAD_IP="10.0.0.7")
    assert machine.calls()[-1].startswith("token  ray start --address=10.0.0.7:6379")


@launcher_file
def test_mlflow_is_left_running_on_the_head(path: Path, machine: Machine) -> None:
    # The line before it ends an older one; it is not run here, where others' servers may run.
    end, start = read(path)["head_start_ray_commands"][-2:]
    assert "[f]masearch ui --serve" in end
    assert "fmasearch ui --serve" not in end.replace("[f]masearch", "")
    _program(machine.home / "bin/python", 'echo "python $*" >> ~/calls')
    machine.run([start, "for try in 1 2 3 4 5 6 7 8 9; do [ -s ~/calls ] && break; sleep 0.2; done"])
    assert machine.calls() == [f"python -m fmasearch ui --serve --runs {machine.home}/fmasearch/runs"]


# Hosts of one's own.


def test_all_hosts_of_a_lab_are_wanted_all_the_time() -> None:
    config = prepare_config(read(ONPREM))
    num_workers = len(config["provider"]["worker_ips"])
    (node_type,) = config["available_node_types"].values()
    assert (node_type["min_workers"], node_type["max_workers"]) == (num_workers, num_workers)
    assert num_workers == 2  # so that the file shows how a second one is written


# Google: what Ray's provider makes of the file, and whether its request is one that Google's API has.


@pytest.fixture
def google(monkeypatch: pytest.MonkeyPatch) -> Any:
    pytest.importorskip("googleapiclient", reason="google-api-python-client is not installed")
    from googleapiclient import discovery_cache
    from ray.autoscaler._private.gcp import config as gcp_config

    monkeypatch.setattr(gcp_config, "construct_clients_from_provider_config", lambda provider: (None, None, None, None))
    for step in ("_configure_project", "_configure_iam_role", "_configure_key_pair", "_configure_subnet"):
        monkeypatch.setattr(gcp_config, step, lambda config, *clients: config)  # they only ask Google
    bootstrapped = gcp_config.bootstrap_gcp(prepare_config(read(GCP)))
    document = json.loads(discovery_cache.get_static_doc("compute", "v1"))
    return types.SimpleNamespace(config=bootstrapped, schemas=document["schemas"])


def test_google_knows_every_field_of_its_machines(google: Any) -> None:
    for node_type in google.config["available_node_types"].values():
        assert _unknown(node_type["node_config"], "Instance", google.schemas) == []
    # The check sees what is wrong.
    assert _unknown({"disks": [{"boott": True}]}, "Instance", google.schemas) == ["Instance.disks.boott"]


def test_google_workers_are_spot_machines_with_a_gpu() -> None:
    worker = prepare_config(read(GCP))["available_node_types"]["worker"]
    assert worker["node_config"]["scheduling"]["provisioningModel"] == "SPOT"
    assert worker["resources"] == {"CPU": 4, "GPU": 1}  # g2-standard-4
    assert (worker["min_workers"], worker["max_workers"]) == (0, 4)


# Slurm.


def test_the_batch_script_starts_one_ray_per_node_and_one_study(tmp_path: Path) -> None:
    for name, body in {
        "ray": 'printf "%s\\n" "$@" > "$OUT"',
        "scontrol": "printf 'node1\\nnode2\\n'",
        "srun": 'while [[ "$1" == --* ]]; do shift; done; exec "$@"',
        "hostname": "echo '10.0.0.5 fd00::5 '",
    }.items():
        _program(tmp_path / name, body)
    job = {"SLURM_JOB_ID": "4711", "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_JOB_NUM_NODES": "2"}
    job |= {"SLURM_CPUS_PER_TASK": "8", "SLURM_GPUS_ON_NODE": "1", "SLURM_SUBMIT_DIR": str(tmp_path / "nowhere")}
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "OUT": str(tmp_path / "out"), **job}
    subprocess.run(["bash", str(SLURM)], env=environment, check=True, capture_output=True, timeout=20)
    arguments = (tmp_path / "out").read_text(encoding="utf-8").splitlines()
    assert arguments[:5] == ["symmetric-run", "--address", "10.0.0.5:24711", "--min-nodes", "2"]
    split = arguments.index("--")
    assert arguments[split + 1 : split + 6] == ["env", "RAY_ADDRESS=10.0.0.5:24711", "python", "-m", "fmasearch"]
    started = curate_and_validate_ray_start_args(arguments[1:split])
    assert started == ["--num-cpus=8", "--num-gpus=1", "--temp-dir=/tmp/ray-4711", "--disable-usage-stats"]


def test_slurm_accepts_the_batch_script() -> None:
    if shutil.which("sbatch") is None or subprocess.run(["sinfo"], capture_output=True, check=False).returncode:
        pytest.skip("no Slurm answers here")
    # As far as every Slurm can: one node, no GPU.
    options = ["--test-only", "--nodes=1", "--cpus-per-task=1", "--gpus-per-node=0", "--time=10"]
    subprocess.run(["sbatch", *options, str(SLURM)], check=True, capture_output=True, timeout=20)


def _commands(config: Mapping[str, Any]) -> list[str]:
    return [line for key, lines in config.items() if key.endswith("_commands") for line in lines]


def _program(path: Path, body: str) -> None:
    path.write_text(f"#!/bin/bash\n{body}\n", encoding="utf-8")
    path.chmod(0o755)


def _unknown(value: Any, schema: str, schemas: Mapping[str, Any]) -> list[str]:
    """Paths of the fields that Google's description of `schema` lacks."""
    if isinstance(value, list):
        return [path for item in value for path in _unknown(item, schema, schemas)]
    if not isinstance(value, dict):
        return []
    known, unknown = schemas[schema]["properties"], []
    for name, inner in value.items():
        described = known.get(name)
        if described is None:
            unknown.append(f"{schema}.{name}")
            continue
        described = described.get("items", described)
        if "$ref" in described:
            assert isinstance(inner, list) == ("items" in known[name]), f"{schema}.{name}"
            unknown += [
                path.replace(described["$ref"], f"{schema}.{name}", 1)
                for path in _unknown(inner, described["$ref"], schemas)
            ]
    return unknown
