"""`submit` and `fetch` as a person types them, on a head that is a folder."""

import json
from pathlib import Path

import pytest

from conftest import make_feature_file, run_cli
from fmasearch.cli.tune_arguments import read_arguments
from fmasearch.errors import UserError
from fmasearch.launcher import HeadState, collect
from launcher_helpers import FakeCluster, make_cluster, make_project, make_study, needs_rsync

TUNE = ("tune", "spaces/tiny.yaml", "--data", "small.h5")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = make_project(tmp_path / "project")
    make_feature_file(folder / "small.h5")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    return make_cluster(tmp_path / "cluster", monkeypatch)


@needs_rsync
def test_a_study_is_submitted_followed_and_its_data_sent_once(
    cluster: FakeCluster, project: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    words = (*TUNE, "--set", "scheduler/grace_period=3", "--set=seed=1", "--trials", "4", "--gpu=0.25")
    assert run_cli(monkeypatch, "submit", cluster.file, "--", *words) == 0
    printed = capfd.readouterr().out
    for line in ("sending 1 files", "small.h5: sending", "submitted: tune-tiny-20", "2026-11-21-tiny-default: models"):
        assert line in printed
    assert f"fetch {cluster.file} 2026-11-21-tiny-default brings the record" in printed
    assert "chatter" not in printed
    assert cluster.count("rsync-up") == 2

    job = cluster.submitted
    (data,) = (cluster.home / "fmasearch" / "data").iterdir()
    assert data.name.endswith("-small.h5")
    assert job[job.index("--") + 1 :] == [
        *("python", "-m", "fmasearch", "tune", "spaces/tiny.yaml", f"--data={data}", "--set=scheduler/grace_period=3"),
        *("--set=seed=1", "--trials=4", "--gpu=0.25", f"--runs={cluster.home}/fmasearch/runs"),
        f"--results={cluster.home}/fmasearch/results",
    ]

    assert run_cli(monkeypatch, "submit", cluster.file, "--", *TUNE, "--trials", "5") == 0
    assert "small.h5: is on the head already, nothing is sent" in capfd.readouterr().out
    assert cluster.count("rsync-up") == 2


@needs_rsync
def test_a_folder_with_the_package_brings_its_code_to_every_worker(
    cluster: FakeCluster, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def runtime_env() -> dict[str, object]:
        assert run_cli(monkeypatch, "submit", cluster.file, "--", *TUNE, "--mlflow", "postgresql://u:p@h/db") == 0
        job = cluster.submitted
        assert "postgresql" not in " ".join(job[job.index("--") :])  # commands are recorded, and it holds a password
        env: dict[str, object] = json.loads(job[job.index("--runtime-env-json") + 1])
        return env

    env = runtime_env()
    assert env.keys() == {"env_vars"}
    assert env["env_vars"] == {
        "MLFLOW_TRACKING_URI": "postgresql://u:p@h/db",
        "RAY_JOB_STOP_SIGNAL": "SIGINT",
        "RAY_JOB_STOP_WAIT_TIME_S": "60",
    }
    (project / "src" / "fmasearch").mkdir(parents=True)
    (project / "src" / "fmasearch" / "__init__.py").touch()
    digest = collect(project).digest
    assert runtime_env()["py_modules"] == [f"{cluster.home}/fmasearch/submit/{digest}/src/fmasearch"]


@needs_rsync
@pytest.mark.parametrize(
    ("job", "exit_code", "words"),
    [
        ({"status": "FAILED", "exit_code": 1}, 1, "tune --resume 2026-11-21-tiny-default goes on where it ended"),
        (
            {"status": "FAILED", "exit_code": 2, "log": "error: spaces/tiny.yaml: no\n"},
            2,
            "error: spaces/tiny.yaml: no",
        ),
        ({"status": "RUNNING", "exit_code": None}, 0, "stop    "),
    ],
)
def test_the_exit_code_of_a_job_is_ours(
    cluster: FakeCluster,
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    job: dict[str, object],
    exit_code: int,
    words: str,
) -> None:
    cluster.plan_job(**job)
    assert run_cli(monkeypatch, "submit", cluster.file, "--", *TUNE) == exit_code
    assert words in capfd.readouterr().out


@needs_rsync
def test_a_detached_study_is_left_once_it_has_a_name(
    cluster: FakeCluster, project: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    cluster.plan_job(status="RUNNING", exit_code=None, seconds=100)
    assert run_cli(monkeypatch, "submit", "--detach", cluster.file, "--", *TUNE) == 0
    printed = capfd.readouterr().out
    for verb in ("watch", "status", "stop"):
        assert f"submit {cluster.file} -- {verb} 2026-11-21-tiny-default\n" in printed
    assert f"fetch {cluster.file} 2026-11-21-tiny-default\n" in printed
    assert f"ray attach -p 5000 {cluster.file}" in printed


@needs_rsync
def test_a_job_that_is_not_taken_is_an_error(
    cluster: FakeCluster, project: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    cluster.plan_job(submit=1)
    assert run_cli(monkeypatch, "submit", cluster.file, "--", *TUNE) == 2
    assert "Ray's job server did not take the job (exit code 1)" in capfd.readouterr().err


@needs_rsync
def test_an_interrupted_study_is_resumed_on_the_head(
    cluster: FakeCluster, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.plan_job(log="search tiny: 2 trials\n")
    assert run_cli(monkeypatch, "submit", cluster.file, "--", "tune", "--resume", "a study") == 0
    job = cluster.submitted
    assert job[job.index("--") + 1 :][:5] == ["python", "-m", "fmasearch", "tune", "--resume=a study"]
    assert cluster.count("rsync-up") == 1


def test_any_other_command_runs_on_the_head_with_its_exit_code(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    there = cluster.home / "fmasearch"
    make_project(there)
    (there / "it's $HOME.yaml").write_text("method: random\n")
    assert run_cli(monkeypatch, "submit", cluster.file, "--", "spaces", "show", "spaces/tiny.yaml") == 0
    assert "model/hidden_dim" in capfd.readouterr().out
    assert run_cli(monkeypatch, "submit", cluster.file, "--", "fmasearch", "spaces", "show", "it's $HOME.yaml") == 2
    assert "it's $HOME.yaml" in capfd.readouterr().out
    assert not (cluster.home / "submitted.json").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["tune", "spaces/tiny.yaml"], ["expected a space and a feature file"]),
        ([*TUNE, "--runs", "elsewhere"], ["--runs", "~/fmasearch/runs on the head"]),
        ([*TUNE, "--results=x"], ["--results", "~/fmasearch/results on the head"]),
        ([*TUNE, "--storage", "ckpt"], ["--storage", "absolute path on the cluster", "'ckpt'"]),
        (["tune", "spaces/none.yaml", "--data", "small.h5"], ["spaces/none.yaml", "no such file"]),
        (["tune", "../outside.yaml", "--data", "small.h5"], ["../outside.yaml", "inside", "copy it there"]),
        (["tune", "runs/a.yaml", "--data", "small.h5"], ["runs/a.yaml", "does not travel", "runs/"]),
        ([*TUNE, "--search", "runs/a.yaml"], ["runs/a.yaml", "does not travel"]),
        (["tune", "spaces/tiny.yaml", "--data", "no.h5"], ["no.h5", "no such feature file"]),
        (["tune", "spaces/tiny.yaml", "--data", "spaces/tiny.yaml"], ["tiny.yaml", "not an HDF5 file"]),
        ([*TUNE, "--init-from", "no.pt"], ["--init-from", "head:PATH", "no.pt"]),
        ([*TUNE, "extra"], ["unexpected argument 'extra'"]),
        (["fetch", "a"], ["submit: expected a command for the cluster after `--`", "got fetch a"]),
    ],
)
def test_what_cannot_be_submitted_is_refused_before_anything_is_sent(
    cluster: FakeCluster,
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    words: list[str],
    expected: list[str],
) -> None:
    (project / "runs").mkdir()
    for name in ("../outside.yaml", "runs/a.yaml"):
        (project / name).write_text("a: 1\n")
    assert run_cli(monkeypatch, "submit", cluster.file, "--", *words) == 2
    error = capfd.readouterr().err
    assert all(word in error for word in expected), error
    assert cluster.calls == []


def test_an_option_that_tune_does_not_have_is_refused_here(
    cluster: FakeCluster, project: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_cli(monkeypatch, "submit", cluster.file, "--", *TUNE, "--trails", "3") == 2
    assert "--trails" in capfd.readouterr().err
    assert cluster.calls == []


@pytest.mark.parametrize(
    ("given", "there"),
    [
        ("s3://bucket/a.h5", "s3://bucket/a.h5"),
        ("gs://bucket/a b.h5", "gs://bucket/a b.h5"),
        ("head:/mnt/a.h5", "/mnt/a.h5"),
        ("head:~/a.h5", "/home/u/a.h5"),
        ("head:data/a.h5", "/home/u/fmasearch/data/a.h5"),
    ],
)
def test_data_that_is_elsewhere_is_not_sent(project: Path, given: str, there: str) -> None:
    arguments = read_arguments(["spaces/tiny.yaml", "-d", given], collect(project))
    assert arguments.uploads == {}
    assert f"--data={there}" in arguments.words(HeadState("/home/u", {}))


def test_a_model_to_start_from_travels_like_data(project: Path) -> None:
    (project / "model.pt").write_bytes(b"weights")
    words = ["--init-from=model.pt", "--data", "small.h5", str(project / "spaces" / "tiny.yaml")]
    arguments = read_arguments(words, collect(project))
    digest = arguments.uploads["init_from"].sha256[:16]
    there = arguments.words(HeadState("/home/u", {}))
    assert there[0] == "spaces/tiny.yaml"
    assert f"--init-from=/home/u/fmasearch/data/{digest}-model.pt" in there


def test_a_cluster_that_is_down_says_how_to_start_it(
    cluster: FakeCluster, project: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    cluster.file.write_text("cluster_name: down\nprovider: {type: local}\n")
    for words in (
        ["submit", cluster.file, "--", *TUNE],
        ["submit", cluster.file, "--", "version"],
        ["fetch", cluster.file],
    ):
        assert run_cli(monkeypatch, *words) == 2
        assert f"the cluster is not up; `ray up {cluster.file}` starts it" in capfd.readouterr().err


@needs_rsync
def test_studies_are_listed_and_fetched(
    cluster: FakeCluster, project: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_cli(monkeypatch, "fetch", cluster.file) == 0
    assert "no study yet" in capfd.readouterr().out
    make_study(cluster.home / "fmasearch", "first")
    make_study(cluster.home / "fmasearch", "second", finished=False)
    assert run_cli(monkeypatch, "fetch", cluster.file) == 0
    printed = capfd.readouterr().out
    assert "first  finished\nsecond  not finished\n" in printed
    assert f"fetch {cluster.file} first" in printed
    assert run_cli(monkeypatch, "fetch", cluster.file, "results/first", "--out", "found") == 0
    assert (project / "found" / "first" / "README.md").exists()
    assert (project / "runs" / "first" / "model.pt").exists()
    assert "first: the record is in found/first" in capfd.readouterr().out
    assert run_cli(monkeypatch, "fetch", cluster.file, "second") == 0
    assert "second: has not finished; its journals are in runs/second" in capfd.readouterr().out


def test_a_file_that_git_ignores_does_not_travel(project: Path) -> None:
    folder = collect(project)
    (project / "late.yaml").write_text("a: 1\n")
    with pytest.raises(UserError, match=r"late\.yaml: does not travel to the cluster: \.gitignore names it"):
        read_arguments(["late.yaml", "--data", "small.h5"], folder)
