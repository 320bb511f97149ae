"""MLflow's server: where it keeps what, whom it answers, how it starts and ends, and URIs without passwords."""

from __future__ import annotations

import http.server
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from conftest import run_cli
from fmasearch.errors import StudyError
from fmasearch.records import Objective
from fmasearch.tracking import artifact_folder, default_uri, locations, ui_command
from fmasearch.tracking.locations import redacted, redacted_command, ui_environment, with_driver
from fmasearch.tracking.mlflow_server import is_taken, listener, require_free, serves
from fmasearch.tracking.mlflow_store import describe_store, init_store
from fmasearch.tracking.mlflow_tracker import MlflowTracker
from test_tracking import COMPLETED, tell

DATABASE = "postgresql://fma:geheim@db.lab/mlflow"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def page(port: int, path: str) -> str:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(f"http://127.0.0.1:{port}/{path}", timeout=20) as answer:
        return str(answer.read().decode())


@contextmanager
def serving(*arguments: object, seconds: float = 90) -> Iterator[tuple[int, subprocess.Popen[bytes], Path]]:
    """`fmasearch ui --serve` in a process of its own, once it says that it serves; its port, itself and its words."""
    port = free_port()
    runs = next(Path(str(after)) for word, after in pairwise(arguments) if word == "--runs")
    log = runs.parent / "server.log"
    command = [sys.executable, "-m", "fmasearch", "ui", "--serve", "--port", str(port), *map(str, arguments)]
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env={**os.environ, "COLUMNS": "300"})
    try:
        deadline = time.monotonic() + seconds
        while "is served on" not in log.read_text() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        assert "is served on" in log.read_text(), log.read_text()
        yield port, process, log
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0, log.read_text()


@pytest.fixture
def other_server() -> Iterator[int]:
    """Somebody else's web server, which answers everything with 404."""

    class Quiet(http.server.BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = http.server.HTTPServer(("127.0.0.1", 0), Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


# --- URIs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        (DATABASE, "postgresql://fma:***@db.lab/mlflow"),
        ("postgresql+psycopg2://fma:a/b@c@db.lab:5432/mlflow", "postgresql+psycopg2://fma:***@db.lab:5432/mlflow"),
        (
            "postgresql://db.lab/mlflow?user=fma&password=geheim&x=1",
            "postgresql://db.lab/mlflow?user=fma&password=***&x=1",
        ),
        ("http://me:geheim@127.0.0.1:5000", "http://me:***@127.0.0.1:5000"),
        ("s3://KEY:se/cret@bucket/runs", "s3://KEY:***@bucket/runs"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("postgresql://fma@db.lab/mlflow", "postgresql://fma@db.lab/mlflow"),
        ("sqlite:////home/me/runs/mlflow.db", "sqlite:////home/me/runs/mlflow.db"),
        ("spaces/cnn_gru.yaml", "spaces/cnn_gru.yaml"),
    ],
)
def test_a_uri_is_shown_without_its_password(uri: str, shown: str) -> None:
    assert redacted(uri) == shown


def test_a_command_line_is_kept_without_passwords_and_stays_quoted() -> None:
    words = ["fmasearch", "tune", "my space.yaml", "--mlflow", DATABASE, f"--mlflow={DATABASE}"]
    shown = "'postgresql://fma:***@db.lab/mlflow'"
    assert redacted_command(words) == f"fmasearch tune 'my space.yaml' --mlflow {shown} '--mlflow={shown[1:]}"


def test_a_postgresql_uri_names_the_driver_that_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locations.importlib.util, "find_spec", lambda name: name == "psycopg" or None)
    assert with_driver("postgresql://h/db") == with_driver("postgres://h/db") == "postgresql+psycopg://h/db"
    assert with_driver("sqlite:///x.db") == "sqlite:///x.db"
    with pytest.raises(StudyError, match=r"pip install 'fmasearch\[postgres\]'"):
        with_driver("postgresql+psycopg2://h/db")


def test_a_missing_driver_is_said_without_the_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locations.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(StudyError, match=r"fma:\*\*\*@db.lab.*pip install 'fmasearch\[postgres\]'"):
        init_store(DATABASE)


def test_a_databases_uri_is_not_on_the_servers_command_line(tmp_path: Path) -> None:
    command = ui_command(DATABASE, 5001, tmp_path)
    assert not [word for word in command if "geheim" in word]
    assert "geheim" in ui_environment(DATABASE)["MLFLOW_BACKEND_STORE_URI"]
    assert (tmp_path / "mlartifacts").as_uri() in command
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert "MLFLOW_BACKEND_STORE_URI" not in ui_environment(default_uri(tmp_path))


def test_artifacts_of_a_database_lie_in_the_studies_folder_and_a_servers_with_the_server(tmp_path: Path) -> None:
    assert artifact_folder(DATABASE, tmp_path) == tmp_path / "mlartifacts"
    assert artifact_folder(DATABASE) == Path("runs/mlartifacts").absolute()
    assert artifact_folder(default_uri(tmp_path), Path("elsewhere")) == tmp_path / "mlartifacts"
    assert artifact_folder("http://127.0.0.1:5000", tmp_path) is None


# --- the port --------------------------------------------------------------------------------------------------------


def test_a_free_port_is_not_taken() -> None:
    port = free_port()
    assert (is_taken(port), listener(port)) == (False, None)
    require_free(port)


def test_a_taken_port_is_refused_and_the_process_behind_it_named(other_server: int, tmp_path: Path) -> None:
    assert listener(other_server).startswith(f"process {os.getpid()} (")
    with pytest.raises(StudyError, match=f"port {other_server} is taken by something: process {os.getpid()} .*--port"):
        require_free(other_server)
    assert not serves(default_uri(tmp_path), other_server)
    assert not (tmp_path / "mlflow.db").exists()  # asking makes no store


def test_ui_refuses_a_taken_port(other_server, tmp_path, monkeypatch, capsys) -> None:
    assert run_cli(monkeypatch, "ui", "--serve", "--runs", tmp_path, "--port", other_server) == 2
    assert "is taken by something" in capsys.readouterr().err


def test_ui_says_where_a_server_is_that_is_elsewhere(monkeypatch, capsys) -> None:
    assert run_cli(monkeypatch, "ui", "--mlflow", "http://me:geheim@head:5000") == 0
    assert "MLflow's server is elsewhere: http://me:***@head:5000" in capsys.readouterr().out


# --- the store as a study sees it ------------------------------------------------------------------------------------


def test_a_server_that_is_not_there_is_an_error_at_once() -> None:
    with pytest.raises(StudyError, match=r"no MLflow server answers there .*fmasearch ui --serve"):
        init_store(f"http://127.0.0.1:{free_port()}")


def test_a_sqlite_store_is_described_and_not_made(tmp_path: Path) -> None:
    assert describe_store(default_uri(tmp_path / "runs")).endswith("none yet; the first study makes it")
    assert list(tmp_path.iterdir()) == []
    init_store(default_uri(tmp_path))
    assert describe_store(default_uri(tmp_path)) == f"{tmp_path / 'mlflow.db'}: 1 experiment"


# --- the server ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_server_takes_runs_and_artifacts_answers_once_and_ends_on_sigterm(tmp_path, monkeypatch, capsys) -> None:
    runs = tmp_path / "runs"
    with serving("--runs", runs) as (port, _, log):
        uri = f"http://127.0.0.1:{port}"
        tracker = MlflowTracker(uri, "cnn_gru", "my-study", objective=Objective("val_macro_f1"))
        tell(tracker, COMPLETED)
        (tmp_path / "model.pt").write_text("weights")
        tracker._client.log_artifact(tracker.parent_run_id, str(tmp_path / "model.pt"))
        tracker.close("finished")
        # What was sent to the server is in its own folder, not in one of this process.
        (kept,) = (runs / "mlartifacts").rglob("model.pt")
        assert kept.read_text() == "weights"
        assert {r.info.run_name for r in init_store(default_uri(runs)).search_runs(["1"])} == {"my-study", "trial-0000"}
        assert describe_store(uri).startswith(f"{uri}: 2 experiments, MLflow ")

        assert serves(default_uri(runs), port)
        assert not serves(default_uri(tmp_path / "other"), port)
        assert run_cli(monkeypatch, "ui", "--serve", "--runs", runs, "--port", port) == 0
        assert "MLflow is served already" in capsys.readouterr().out
        assert run_cli(monkeypatch, "ui", "--serve", "--runs", tmp_path / "other", "--port", port) == 2
        assert "taken by an MLflow server of another store" in capsys.readouterr().err
    assert not is_taken(port)  # its children ended, too
    assert f"ray attach -p {port} cluster.yaml" in log.read_text()


@pytest.mark.slow
def test_an_experiment_whose_artifacts_are_out_of_reach_is_refused(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    client = init_store(default_uri(runs))
    client.create_experiment("cnn_gru", artifact_location="file:///no/such/folder/mlartifacts/cnn_gru")
    with serving("--runs", runs) as (port, *_), pytest.raises(StudyError, match="on the server's machine"):
        MlflowTracker(f"http://127.0.0.1:{port}", "cnn_gru", "my-study", objective=Objective("val_macro_f1"))
