"""The launcher: what travels, how commands are quoted, and what is understood of what `ray` says."""

import datetime
import itertools
import json
import os
import shlex
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fmasearch.errors import ConfigError, StudyError, UserError
from fmasearch.launcher import (
    GOES_ON,
    Upload,
    collect,
    fetch_study,
    follow_command,
    head_path,
    list_studies,
    new_submission_id,
    open_cluster,
    probe,
    send_folder,
    send_upload,
    study_in,
    working_folder,
)
from fmasearch.launcher.envelope import Envelope, enveloped
from launcher_helpers import FakeCluster, make_cluster, make_project, make_study, needs_rsync

BEGIN, END = b"\x1efmasearch:begin\x1e", b"\x1efmasearch:end:7\x1e"


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    return make_cluster(tmp_path / "cluster", monkeypatch)


def test_a_walk_leaves_out_what_is_not_code(tmp_path: Path) -> None:
    left_out = {"runs__a": 1, "results__b": 1, "data__c": 1, "fma_DOT_h5": 1, "a__model_DOT_pt": 1, "x__y_DOT_npy": 1}
    caches = {"__pycache__": 1, "_DOT_git__HEAD": 1, "_DOT_venv__bin__python": 1, "_DOT_mypy_cache__x": 1}
    project = make_project(tmp_path / "p", **left_out, **caches, src__fmasearch__data__cache_DOT_py=5, Makefile=1)
    (project / "__pycache__").mkdir(exist_ok=True)
    (project / "__pycache__" / "x.txt").touch()
    folder = collect(project)
    assert sorted(folder.sizes) == ["Makefile", "spaces/tiny.yaml", "src/fmasearch/data/cache.py"]
    assert folder.sizes["src/fmasearch/data/cache.py"] == 5


def test_a_checkout_sends_what_git_tracks_or_would_track(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p", secret=1, new_DOT_py=1, gone_DOT_py=1, runs__a=1)
    (project / ".gitignore").write_text("secret\n")
    subprocess.run(["git", "init", "-q", "."], cwd=project, check=True)
    subprocess.run(["git", "add", "gone.py", "spaces"], cwd=project, check=True)
    (project / "gone.py").unlink()
    assert sorted(collect(project).sizes) == [".gitignore", "new.py", "spaces/tiny.yaml"]


def test_a_folder_is_named_by_what_is_in_it(tmp_path: Path) -> None:
    first = collect(make_project(tmp_path / "a", note=3))
    assert collect(make_project(tmp_path / "b", note=3)).digest == first.digest
    assert collect(make_project(tmp_path / "c", note=4)).digest != first.digest
    assert collect(make_project(tmp_path / "d", notes=3)).digest != first.digest
    assert not first.has_package


def test_a_folder_that_is_too_large_is_refused_with_its_largest_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(working_folder, "LIMIT_BYTES", 2**20)
    project = make_project(tmp_path / "p", small=10, media__large=2**20, a__larger=2 * 2**20)
    with pytest.raises(StudyError, match=r"at most 1\.0 MiB.* got 3\.0 MiB.* a/larger \(2\.0 MiB\), media/large"):
        collect(project)


def test_only_collected_files_are_staged_and_links_become_files(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p", run_DOT_sh=3, runs__a=1)
    (project / "run.sh").chmod(0o755)
    (project / "link.txt").symlink_to(project / "run.sh")
    with collect(project).staged() as staged:
        files = sorted(str(p.relative_to(staged)) for p in staged.rglob("*") if p.is_file())
        assert files == ["link.txt", "run.sh", "spaces/tiny.yaml"]
        assert not (staged / "link.txt").is_symlink()
        assert (staged / "run.sh").stat().st_mode & 0o100


@settings(deadline=None, max_examples=60)
@given(st.binary(max_size=60), st.lists(st.integers(0, 120), max_size=6))
def test_an_envelope_is_opened_however_it_is_cut(output: bytes, cuts: list[int]) -> None:
    assume(b"\x1efmasearch:" not in output)
    stream = b"chatter" + BEGIN + output + END + b"closed"
    places = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    envelope = Envelope()
    found = b"".join(envelope.feed(stream[a:b]) for a, b in itertools.pairwise(places)) + envelope.finish()
    assert (found, envelope.exit_code, bytes(envelope.chatter)) == (output, 7, b"chatterclosed")


def test_an_echo_of_the_command_is_no_envelope() -> None:
    envelope = Envelope()
    assert envelope.feed(enveloped("true", on_terminal=False).encode()) == b""
    assert not envelope.begun
    assert envelope.finish() == b""


@pytest.mark.parametrize("on_terminal", [False, True])
def test_words_reach_the_head_as_they_are(cluster: FakeCluster, on_terminal: bool) -> None:
    words = ["a b", "it's", '"q"', "$HOME", "`x`", "!y", "~", "*", "a\nb", "ü", "{c.red}", "%s", "\\n", "#", "(", ""]
    code = "import json, sys; print(json.dumps(sys.argv[1:])); sys.exit(3)"
    pieces: list[bytes] = []
    exit_code = cluster.head.stream(f"python -c {shlex.quote(code)} {shlex.join(words)}", pieces.append)
    assert json.loads(b"".join(pieces)) == words
    assert exit_code == 3


@settings(deadline=None, max_examples=60)
@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12), max_size=4))
def test_any_words_survive_the_launchers_quoting(words: list[str]) -> None:
    command = enveloped(f"printf '%s\\0' {shlex.join(['-', *words])}", on_terminal=False)
    # As ray 2.60 wraps it, without the interactive bash, which takes a second to start.
    line = "bash -c " + shlex.quote(f"export OMP_NUM_THREADS=1 && ({command})")
    done = subprocess.run(["sh", "-c", line], capture_output=True, stdin=subprocess.DEVNULL, check=True)
    envelope = Envelope()
    found = envelope.feed(done.stdout) + envelope.finish()
    assert found.decode().split("\0")[:-1] == ["-", *words]


def test_output_is_free_of_the_launchers_chatter_and_of_colours(cluster: FakeCluster) -> None:
    done = cluster.head.run('echo out; echo err >&2; [ -t 1 ] && echo terminal; echo "$NO_COLOR"; false')
    assert (done.exit_code, done.output) == (1, "out\nerr\n1\n")


def test_what_the_sink_raises_ends_the_command(cluster: FakeCluster) -> None:
    def stop(piece: bytes) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cluster.head.stream("echo go; sleep 60", stop, own_session=True)  # the test's time limit is below that


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, ["no such file", "cluster.yaml"]),
        ("a: [", ["not valid YAML"]),
        ("features: [mel]\nmodel: {}\n", ["cluster_name and provider.type", "features, model"]),
        ("cluster_name: x\nprovider: local\n", ["provider.type"]),
    ],
)
def test_a_file_that_describes_no_cluster_is_refused(tmp_path: Path, text: str | None, words: list[str]) -> None:
    file = tmp_path / "a.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError) as raised:
        open_cluster(file)
    assert all(word in str(raised.value) for word in ["a.yaml", *words])


def test_a_cluster_that_is_down_is_told_from_a_command_that_fails(cluster: FakeCluster) -> None:
    assert cluster.head.run("exit 9").exit_code == 9
    cluster.file.write_text("cluster_name: down\nprovider: {type: local}\n")
    with pytest.raises(StudyError, match=r"cluster\.yaml: the cluster is not up; `ray up .*cluster\.yaml` starts it"):
        cluster.head.run("true")


def test_a_head_that_is_lost_midway_is_no_failure_of_what_runs_there(cluster: FakeCluster) -> None:
    pieces: list[bytes] = []
    with pytest.raises(StudyError, match=r"connection to the head was lost; what runs there goes on"):
        cluster.head.stream("echo started; sleep 0.2; kill -9 0", pieces.append, own_session=True)
    assert b"".join(pieces) == b"started\n"


@needs_rsync
def test_a_folder_is_sent_once(cluster: FakeCluster, tmp_path: Path) -> None:
    folder = collect(make_project(tmp_path / "p", **{"a name__with spaces": 3}))
    assert not probe(cluster.head, folder, []).has_folder(folder)
    send_folder(cluster.head, folder)
    there = cluster.home / "fmasearch" / "submit" / folder.digest
    assert (there / "a name" / "with spaces").read_bytes() == b"xxx"
    state = probe(cluster.head, folder, [])
    assert state.has_folder(folder)
    assert state.home == str(cluster.home)


def test_working_folders_out_of_use_are_removed_with_their_marks(cluster: FakeCluster, tmp_path: Path) -> None:
    folder = collect(make_project(tmp_path / "p"))
    submitted = cluster.home / "fmasearch" / "submit"
    for name, days in (("recent", 29), ("forgotten", 31), (folder.digest, 31)):
        (submitted / name / "src").mkdir(parents=True)
        (submitted / f"{name}.complete").touch()
        then = time.time() - 86_400 * days - 3600
        os.utime(submitted / name, (then, then))
    assert probe(cluster.head, folder, []).has_folder(folder)  # is in use again, however old
    assert {path.name.removesuffix(".complete") for path in submitted.iterdir()} == {"recent", folder.digest}
    assert len(list(submitted.iterdir())) == 4
    assert time.time() - (submitted / folder.digest).stat().st_mtime < 60


@needs_rsync
def test_files_that_the_cluster_file_holds_back_are_missed(
    cluster: FakeCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = collect(make_project(tmp_path / "p", notes=5))
    data = make_project(tmp_path / "d", notes=5) / "notes"
    probe(cluster.head, folder, [])
    monkeypatch.setenv("FAKE_EXCLUDE", "*notes*")
    num_bytes = folder.num_bytes - 5
    with pytest.raises(UserError, match=rf"expected 2 files and .* got 1 {num_bytes}; rsync_exclude and rsync_filter"):
        send_folder(cluster.head, folder)
    with pytest.raises(UserError, match=r"expected 5 bytes at ~/fmasearch/data/0123456789abcdef-notes .*rsync_exclude"):
        send_upload(cluster.head, Upload(data, "0123456789abcdef" * 4), lambda num_bytes: None)


@needs_rsync
def test_an_upload_is_named_by_its_content_and_known_the_next_time(cluster: FakeCluster, tmp_path: Path) -> None:
    folder = collect(make_project(tmp_path / "p"))
    file = make_project(tmp_path / "d", **{"my data (2)": 9}) / "my data (2)"
    upload = Upload(file, "ab" * 32)
    assert upload.target == "fmasearch/data/abababababababab-my_data_2_"
    assert not probe(cluster.head, folder, [upload]).has(upload)
    send_upload(cluster.head, upload, lambda num_bytes: None)
    assert probe(cluster.head, folder, [upload]).has(upload)
    (cluster.home / upload.target).write_bytes(b"cut")
    assert not probe(cluster.head, folder, [upload]).has(upload)


@pytest.mark.parametrize(
    ("job", "exit_code"),
    [
        ({}, 0),
        ({"status": "STOPPED"}, 130),
        ({"status": "FAILED", "exit_code": 2}, 2),
        ({"status": "FAILED", "exit_code": None, "message": "no such runtime_env"}, 1),
        ({"status": "FAILED", "exit_code": -9}, 1),
        ({"status": "RUNNING", "exit_code": None}, GOES_ON),
        ({"status": "RUNNING", "exit_code": None, "seconds": 60}, GOES_ON),
    ],
)
def test_following_a_job_ends_as_the_job_did(cluster: FakeCluster, job: dict[str, object], exit_code: int) -> None:
    cluster.plan_job(log="a line\n", **job)
    done = cluster.head.run(follow_command("a-job", seconds=1))
    assert done.exit_code == exit_code
    assert done.output == "a line\n" + (f"{job['message']}\n" if "message" in job else "")


def test_a_study_is_known_by_the_first_line_of_its_output() -> None:
    log = "Running entrypoint for job tune-x: python -m fmasearch tune a.yaml\nnote\n"
    assert study_in(log) is None
    assert study_in(f"{log}2026-11-21-cnn_lstm-default-2: models of 1 to 2 parameters") == (
        "2026-11-21-cnn_lstm-default-2"
    )


def test_paths_on_the_head_are_absolute() -> None:
    assert head_path("head:/mnt/a.h5", "/home/u") == "/mnt/a.h5"
    assert head_path("head:~/a.h5", "/home/u") == "/home/u/a.h5"
    assert head_path("head:data/a.h5", "/home/u") == "/home/u/fmasearch/data/a.h5"


def test_a_submission_can_be_read() -> None:
    now = datetime.datetime(2026, 11, 21, 6, 5, 12)
    assert new_submission_id(["tune", "cnn_lstm"], now) == "tune-cnn_lstm-20261121-060512"
    assert new_submission_id(["tune", "my space!"], now) == "tune-my_space_-20261121-060512"


@needs_rsync
def test_a_study_comes_home_without_its_checkpoints(cluster: FakeCluster, tmp_path: Path) -> None:
    make_study(cluster.home / "fmasearch", "one study")
    fetched = fetch_study(cluster.head, "one study", results=tmp_path / "results", runs=tmp_path / "runs")
    names = sorted(path.name for path in fetched.runs.iterdir())
    assert names == ["journal.jsonl", "model.pt", "study.yaml"]
    assert (tmp_path / "results" / "one study" / "README.md").read_text() == "record of a plan"
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["one study"]
    assert not list((cluster.home / "fmasearch" / ".fetch").iterdir())


@needs_rsync
def test_a_study_that_goes_on_can_be_fetched_again(cluster: FakeCluster, tmp_path: Path) -> None:
    there, here = cluster.home / "fmasearch", {"results": tmp_path / "results", "runs": tmp_path / "runs"}
    make_study(there, "s", finished=False)
    assert fetch_study(cluster.head, "s", **here).results is None
    (there / "runs" / "s" / "journal.jsonl").write_text("{}\n{}\n")
    (there / "results" / "s").mkdir(parents=True)
    fetched = fetch_study(cluster.head, "s", **here)
    assert fetched.results == tmp_path / "results" / "s"
    assert (fetched.runs / "journal.jsonl").read_text() == "{}\n{}\n"


@needs_rsync
def test_another_study_of_the_name_is_replaced_only_by_force(cluster: FakeCluster, tmp_path: Path) -> None:
    here = {"results": tmp_path / "results", "runs": tmp_path / "runs"}
    make_study(cluster.home / "fmasearch", "s")
    make_study(tmp_path, "s", plan="of this machine")
    with pytest.raises(StudyError, match=r"results/s: another study of this name is here already.*--force"):
        fetch_study(cluster.head, "s", **here)
    assert (tmp_path / "runs" / "s" / "study.yaml").read_text() == "of this machine"
    fetch_study(cluster.head, "s", **here, force=True)
    assert (tmp_path / "results" / "s" / "README.md").read_text() == "record of a plan"
    assert not (tmp_path / "runs" / "s" / "checkpoints").exists()


def test_studies_on_the_head_are_listed_and_an_unknown_one_names_them(cluster: FakeCluster, tmp_path: Path) -> None:
    assert list_studies(cluster.head) == ()
    make_study(cluster.home / "fmasearch", "b")
    make_study(cluster.home / "fmasearch", "a b", finished=False)
    assert [(s.name, s.finished) for s in list_studies(cluster.head)] == [("a b", False), ("b", True)]
    with pytest.raises(StudyError, match=r"c: .*cluster\.yaml has no such study; studies there: a b, b"):
        fetch_study(cluster.head, "c", results=tmp_path, runs=tmp_path)
    with pytest.raises(StudyError, match=r"expected the name of a study"):
        fetch_study(cluster.head, "../runs", results=tmp_path, runs=tmp_path)
