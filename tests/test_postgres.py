"""MLflow's store in a real PostgreSQL: a study's runs, two that make the schema at once, and passwords kept quiet."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import sqlalchemy

from fmasearch.errors import StudyError
from fmasearch.records import Objective
from fmasearch.tracking.locations import with_driver
from fmasearch.tracking.mlflow_store import describe_store, init_store, open_experiment
from fmasearch.tracking.mlflow_tracker import MlflowTracker
from test_mlflow_server import free_port, page, serving
from test_tracking import COMPLETED, FAILED, PRUNED, tell

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (shutil.which("initdb") and shutil.which("pg_ctl")), reason="PostgreSQL's initdb and pg_ctl are not on PATH"
    ),
    pytest.mark.skipif(
        os.geteuid() == 0 and not shutil.which("setpriv"), reason="PostgreSQL refuses root, and there is no setpriv"
    ),
]
PASSWORD = "s3cret/of@us"
QUOTED = "s3cret%2Fof%40us"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """`user:password@host:port` of a PostgreSQL of our own, on the loopback address."""
    home = Path(tempfile.mkdtemp(prefix="fmasearch-postgres-", dir="/tmp"))  # a path that another user can reach
    port, data = free_port(), home / "data"
    (home / "password").write_text(PASSWORD)
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        for path in (home, home / "password"):
            os.chown(path, nobody.pw_uid, nobody.pw_gid)
    initdb = ["initdb", "-D", str(data), "-U", "fma", "--auth=scram-sha-256", f"--pwfile={home / 'password'}", "-N"]
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={home} -c fsync=off"
    try:
        as_nobody(initdb)
        as_nobody(["pg_ctl", "-D", str(data), "-w", "-l", str(home / "log"), "-o", options, "start"])
        yield f"fma:{QUOTED}@127.0.0.1:{port}"
    finally:
        if (data / "postmaster.pid").exists():
            as_nobody(["pg_ctl", "-D", str(data), "-w", "-m", "immediate", "stop"])
        shutil.rmtree(home)


@pytest.fixture
def database(server: str) -> str:
    """The URI of a database without tables."""
    name = f"fma_{uuid.uuid4().hex[:8]}"
    engine = sqlalchemy.create_engine(with_driver(f"postgresql://{server}/postgres"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return f"postgresql://{server}/{name}"


def as_nobody(command: Sequence[str]) -> None:
    """Run a command as a user whom PostgreSQL accepts."""
    program = [str(shutil.which(command[0])), *command[1:]]
    if os.geteuid() == 0:
        program = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", *program]
    subprocess.run(program, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT, cwd="/tmp", timeout=60)


def track(uri: str) -> MlflowTracker:
    return MlflowTracker(uri, "cnn_gru", "my-study", objective=Objective("val_macro_f1"))


def test_a_study_writes_its_runs_into_the_database_and_they_read_back(database: str) -> None:
    assert describe_store(database).endswith("an empty database; the first study makes the tables")
    tracker = track(database)
    tell(tracker, COMPLETED, PRUNED, FAILED)
    tracker.close("finished")
    found = {run.info.run_name: run for run in init_store(database).search_runs(["1"])}
    states = {name: run.info.status for name, run in found.items()}
    trials = {"trial-0000": "FINISHED", "trial-0001": "KILLED", "trial-0002": "FAILED"}
    assert states == {"my-study": "FINISHED", **trials}
    assert {found[name].data.tags["mlflow.parentRunId"] for name in trials} == {tracker.parent_run_id}
    history = init_store(database).get_metric_history(found["trial-0000"].info.run_id, "val_macro_f1")
    assert [(m.step, m.value) for m in history] == [(1, 0.4), (2, 0.6), (3, 0.7)]
    assert describe_store(database).endswith("2 experiments")  # MLflow's own Default, and cnn_gru


def test_two_studies_that_make_the_schema_at_once_both_succeed(database: str, tmp_path: Path) -> None:
    # MLflow locks a file in the temporary folder: of two machines, or two such folders, all but one would crash.
    program = "import sys; from fmasearch.tracking.mlflow_store import init_store; init_store(sys.argv[1])"
    started = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        environment = {**os.environ, "TMPDIR": str(tmp_path / name)}
        command = [sys.executable, "-c", program, database]
        started.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    errors = [process.communicate(timeout=100)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], errors


def test_artifacts_lie_in_the_studies_folder(database: str, tmp_path: Path) -> None:
    client = init_store(database)
    experiment = client.get_experiment(open_experiment(client, "cnn_gru", runs=tmp_path))
    assert experiment.artifact_location == (tmp_path / "mlartifacts" / "cnn_gru").as_uri()


def test_the_server_shows_what_a_study_wrote_and_its_password_to_nobody(database: str, tmp_path: Path) -> None:
    tell(track(database), COMPLETED)
    with serving("--mlflow", database, "--runs", tmp_path) as (port, process, log):
        commands = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
        assert [line for line in commands.splitlines() if "mlflow server" in line and QUOTED in line] == []
        assert "cnn_gru" in page(port, "ajax-api/2.0/mlflow/experiments/search?max_results=10")
        assert process.poll() is None
    written = log.read_text()
    assert "postgresql://fma:***@127.0.0.1" in written
    assert QUOTED not in written
    assert PASSWORD not in written


def test_a_wrong_password_is_an_error_at_once_and_is_not_repeated(database: str) -> None:
    wrong = database.replace(QUOTED, "geheim")
    with pytest.raises(StudyError, match="password authentication failed") as caught:
        init_store(wrong)
    assert "geheim" not in str(caught.value)


def test_a_database_that_is_not_there_is_an_error_at_once() -> None:
    with socket.socket() as bound:  # bound, and not listening
        bound.bind(("127.0.0.1", 0))
        with pytest.raises(StudyError, match=r"postgresql://me:\*\*\*@127.0.0.1:\d+/db: .*refused"):
            init_store(f"postgresql://me:geheim@127.0.0.1:{bound.getsockname()[1]}/db")
