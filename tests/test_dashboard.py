"""optuna-dashboard on our storage: it shows our trials and their states, and can change none of them."""

from __future__ import annotations

import _thread
import io
import json
import signal
import threading
import urllib.request
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import optuna
import pytest

from conftest import run_cli
from fmasearch.errors import StudyError
from fmasearch.searcher import dashboard, open_study
from fmasearch.searcher.dashboard import dashboard_app, serve_dashboard
from recorded_helpers import write_runs
from study_helpers import OBJECTIVE, make_plan


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The storage of a search, in a folder that a URI has to quote: one trial completed, one pruned, one running."""
    folder = tmp_path_factory.mktemp("50% a#b")
    plan = make_plan(folder)
    file = folder / "optuna.db"
    study = open_study(file, plan.search, plan.space, OBJECTIVE, concurrency=1)
    for values, state in (((0.2, 0.4), "COMPLETE"), ((0.1,), "PRUNED"), ((), None)):
        trial = study.ask()
        plan.space.sample(trial)
        for epoch, value in enumerate(values, start=1):
            trial.report(value, epoch)
        if state:
            study.tell(trial, max(values) if state == "COMPLETE" else None, state=optuna.trial.TrialState[state])
    return file


def ask(app: Any, path: str, method: str = "GET", body: bytes = b"") -> tuple[str, Any]:
    """Status and JSON of a request."""
    environ: dict[str, Any] = {"PATH_INFO": path, "REQUEST_METHOD": method, "wsgi.input": io.BytesIO(body)}
    environ |= {"CONTENT_LENGTH": str(len(body)), "CONTENT_TYPE": "application/json"}
    setup_testing_defaults(environ)
    statuses: list[str] = []
    answer = b"".join(app(environ, lambda status, headers, error=None: statuses.append(status)))
    return statuses[0], json.loads(answer)


def test_the_dashboard_shows_our_trials_with_states_and_intermediate_values(file) -> None:
    app = dashboard_app(file)
    _, listed = ask(app, "/api/studies")
    assert [study["study_name"] for study in listed["study_summaries"]] == ["fmasearch"]
    status, study = ask(app, f"/api/studies/{listed['study_summaries'][0]['study_id']}")
    assert status == "200 OK"
    assert [trial["state"] for trial in study["trials"]] == ["Complete", "Pruned", "Running"]
    assert study["trials"][0]["intermediate_values"] == [{"step": 1, "value": 0.2}, {"step": 2, "value": 0.4}]
    assert {each["name"] for each in study["union_search_space"]} == {
        "optimizer/learning_rate",
        "optimizer/weight_decay",
    }


def test_the_dashboard_can_change_nothing(file, monkeypatch) -> None:
    before = file.read_bytes()
    note = json.dumps({"body": "x", "version": 1}).encode()
    asked = [
        ("/api/studies/1", "DELETE", b""),
        ("/api/studies/1/note", "PUT", note),
        ("/api/trials/3/tell", "POST", b""),
    ]
    for path, method, body in asked:
        assert ask(dashboard_app(file), path, method, body)[0] == "405 Method Not Allowed"
    monkeypatch.setattr(dashboard, "READING", ("DELETE",))  # if it got through, the file itself would refuse
    assert ask(dashboard_app(file), "/api/studies/1", "DELETE")[0] == "500 Internal Server Error"
    assert file.read_bytes() == before


def test_the_page_is_served_on_this_machine_until_it_is_interrupted(file) -> None:
    pages: list[str] = []

    def look(address: str) -> None:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        pages.extend((address, opener.open(address, timeout=10).read().decode()))
        _thread.interrupt_main()

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # which the processes of `pytest -n` do without
    try:
        serve_dashboard(file, 0, lambda address: threading.Thread(target=look, args=(address,)).start())
    finally:
        signal.signal(signal.SIGINT, before)
    assert pages[0].startswith("http://127.0.0.1:")
    assert "Optuna Dashboard" in pages[1]


def test_what_is_missing_is_named_with_what_to_do(file, tmp_path, monkeypatch, capsys) -> None:
    write_runs(tmp_path / "runs", [])
    assert run_cli(monkeypatch, "ui", "--optuna", "study", "--runs", tmp_path / "runs") == 2
    assert "holds no Optuna storage" in capsys.readouterr().err
    monkeypatch.setattr(dashboard, "find_spec", lambda _: None)
    with pytest.raises(StudyError, match=r"pip install 'fmasearch\[dashboard\]'"):
        dashboard_app(file)
