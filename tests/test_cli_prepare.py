"""`data prepare` as a person sees it: what it says first, meanwhile and at the end, and how it goes on."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
from rich.console import Console

from conftest import run_cli
from corpora_helpers import DEFECTS, make_fma
from fmasearch.cli import preparing
from fmasearch.cli.preparing import Output, ProgressView, prepare, split_lists
from fmasearch.data import check_feature_file, read_info
from fmasearch.errors import ConfigError
from fmasearch.prepare import Progress, manifest_path, parts_path, read_manifest
from prepare_helpers import FakeReader, make_corpus

SPACE = """
features: [mel]
task: {classification: genre}
model: {architecture: stats, hidden_dim: {choice: [4, 8]}}
optimizer: {learning_rate: 1e-2}
trainer: {batch_size: 8}
"""


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The exit code of `fmasearch data prepare ARGUMENTS`, in this process."""
    return run_cli(monkeypatch, "data", "prepare", *arguments)


@pytest.fixture
def console() -> Console:
    """Not a terminal, and wide."""
    return Console(file=io.StringIO(), width=200)


def written(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_it_says_what_the_corpus_says_then_what_came_of_it(tmp_path: Path, console: Console) -> None:
    corpus = make_corpus(10, {3: "short.wav"}, notes=("warning: artists leak", "split by lists"))
    prepare(corpus, FakeReader(), Output(tmp_path / "fake.h5", "uint8", 0), console=console)
    lines = written(console).splitlines()
    assert lines[:3] == ["warning: artists leak", "split by lists", "fake: 0/10 tracks  0 excluded"]
    assert lines[3].startswith("fake: 10/10 tracks  1 excluded  ")
    assert lines[3].endswith("clips/s  0:00:00 left  writing the file")
    assert lines[4].startswith(f"{tmp_path}/fake.h5: 9 tracks, 0.0 MB (0:00:0")
    manifest = tmp_path / "fake.h5.manifest.csv"
    assert lines[5] == f"left out: 2 tracks (1 missing, 1 too short); {manifest} tells which"
    assert lines[6].endswith(f"data info {tmp_path}/fake.h5")


def test_warnings_of_the_corpus_are_yellow(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=200, force_terminal=True, color_system="standard")
    corpus = make_corpus(4, notes=("warning: artists leak",))
    prepare(corpus, FakeReader(), Output(tmp_path / "fake.h5", "uint8", 0), console=console)
    assert "\x1b[33mwarning: artists leak" in written(console)


def test_interrupted_it_ends_with_130_and_names_the_command_that_goes_on(
    tmp_path: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["fmasearch", "data", "prepare", "fma", "--audio", "my music"])
    monkeypatch.setattr(preparing, "program", lambda: "fmasearch")
    out = tmp_path / "fake.h5"
    with pytest.raises(typer.Exit) as ended:
        prepare(make_corpus(50), FakeReader(interrupt_at="40"), Output(out, "uint8", 0), console=console)
    assert ended.value.exit_code == 130
    # 40 is in the second block of 32
    assert f"interrupted; 32 of 50 tracks are kept in {parts_path(out)}." in written(console)
    assert "next: fmasearch data prepare fma --audio 'my music' goes on" in written(console)
    prepare(make_corpus(50), FakeReader(), Output(out, "uint8", 0), console=console)
    assert "fake: 32/50 tracks  0 excluded  by an earlier run" in written(console)


def test_without_a_terminal_a_line_comes_every_ten_seconds(console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(preparing.time, "monotonic", lambda: now)
    view = ProgressView(console, "fma")
    view.update(Progress(num_done=40, num_tracks=1000, num_excluded=0, num_earlier=40))
    for seconds, done in ((4.0, 60), (6.0, 80), (2.0, 90)):
        now += seconds
        view.update(Progress(done, 1000, 3, 40))
    # 40 clips in 10 s: 4 a second; 920 that are left take 230 s
    assert written(console).splitlines() == [
        "fma: 40/1,000 tracks  0 excluded  by an earlier run",
        "fma: 80/1,000 tracks  3 excluded  4.0 clips/s  0:03:50 left",
    ]


def test_arrays_of_somebody_else_become_a_feature_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    np.savez(tmp_path / "a.npz", x=generator.random((12, 20, 8)), y=np.arange(12) % 3, v=generator.random(12))
    options = ["--features", "x", "--labels", "y", "--target", "valence=v", "--fractions", "0.5,0.25,0.25"]
    out = str(tmp_path / "a.h5")
    assert run(monkeypatch, "arrays", str(tmp_path / "a.npz"), *options, "--out", out, "--workers", "0") == 0
    info = read_info(out)
    assert info.feature("mel").shape == (12, 20, 8)
    assert info.classes("genre") == ("0", "1", "2")
    assert info.labels["valence"].counts == {"labelled": 12}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["arrays", "FILE", "--out", "FILE"], ["exists already", "another --out"]),
        (["arrays", "FILE", "--out", "NEW", "--fractions", "a,b"], ["--fractions", "expected numbers", "'a,b'"]),
        (["arrays", "FILE", "--out", "NEW", "--features", "x", "--target", "v"], ["--target", "NAME=KEY, got 'v'"]),
        (["arrays", "NO", "--out", "NEW"], ["no such file"]),
        (["folders", "--audio", "NO", "--out", "NEW", "--lists", "NO"], ["--lists", "train.txt, val.txt and test.txt"]),
        (["folders", "--audio", "NO", "--out", "NEW"], ["no such folder"]),
        (["fma", "--audio", "NO", "--metadata", "NO", "--out", "NEW"], ["no such file", "fma_metadata.zip"]),
        (["patrec", "--root", "NO", "--out", "NEW"], ["expected"]),
    ],
)
def test_bad_input_ends_with_2_and_says_what_to_mend(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: list[str],
) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((3, 4, 5)))
    places = {"FILE": str(tmp_path / "a.npz"), "NEW": str(tmp_path / "new.h5"), "NO": str(tmp_path / "no")}
    assert run(monkeypatch, *[places.get(argument, argument) for argument in arguments]) == 2
    message = capsys.readouterr().err
    for word in words:
        assert word in message


def test_split_lists_are_found_by_how_their_names_begin(tmp_path: Path) -> None:
    for name in ("train_filtered.txt", "valid_filtered.txt", "test_filtered.txt", "notes.txt"):
        (tmp_path / name).touch()
    names = {split: path.name for split, path in split_lists(tmp_path).items() if path}
    assert names == {"train": "train_filtered.txt", "val": "valid_filtered.txt", "test": "test_filtered.txt"}
    (tmp_path / "train_all.txt").touch()
    with pytest.raises(ConfigError, match=r"expected one train\*.txt, got train_all.txt, train_filtered.txt"):
        split_lists(tmp_path)


@pytest.mark.ray
def test_fma_goes_from_audio_to_a_tested_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fma = make_fma(tmp_path / "fma", tracks=24, broken=(*DEFECTS, "multi_root"))
    out = tmp_path / "fma_small.h5"
    settings = ["--seconds", "2", "--n-mels", "32", "--hop-length", "1024", "--workers", "0"]
    folders = ["--audio", str(fma.audio), "--metadata", str(fma.metadata)]
    assert run(monkeypatch, "fma", *folders, *settings, "--out", str(out)) == 0
    excluded = {exclusion.track_id: exclusion for exclusion in read_manifest(manifest_path(out))}
    assert excluded.keys() == {fma.planted[name] for name in DEFECTS}
    assert excluded[fma.planted["missing"]].reason == "no such file"
    assert not any(str(tmp_path) in exclusion.source for exclusion in excluded.values())
    info = read_info(out)
    assert info.num_tracks == 25  # the track of several genres is kept for the other labels
    assert sum(info.labels["genre"].counts.values()) == 24
    assert info.feature("mel").settings["n_mels"] == 32
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "tiny.yaml").write_text(SPACE)
    smoke = str(Path(__file__).parents[1] / "search" / "smoke.yaml")
    least = ["--trials", "1", "--max-epochs", "1", "--concurrent", "1", "--set", "confirm/seeds=1"]
    assert run_cli(monkeypatch, "tune", "tiny.yaml", "--data", str(out), "--search", smoke, *least) == 0
    assert "test accuracy: " in capsys.readouterr().out
    (model,) = tmp_path.glob("runs/*/model.pt")
    assert run_cli(monkeypatch, "test", str(model), "--data", str(out)) == 0
    assert f"test split: {info.split_counts['test']} tracks" in capsys.readouterr().out


def test_a_planted_leak_and_a_planted_duplicate_are_found_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fma = make_fma(tmp_path / "fma", tracks=24, broken=("duplicate", "artist_leak"))
    out = tmp_path / "fma_small.h5"
    settings = ["--seconds", "2", "--n-mels", "32", "--hop-length", "1024", "--workers", "0"]
    folders = ["--audio", str(fma.audio), "--metadata", str(fma.metadata)]
    assert run(monkeypatch, "fma", *folders, *settings, "--out", str(out)) == 0
    findings = {finding.code: finding for finding in check_feature_file(out).findings}
    assert findings["artist-leak"].severity == "error"
    duplicates = [finding for code, finding in findings.items() if code.startswith("duplicates")]
    assert any(fma.planted["duplicate"] in str(finding) for finding in duplicates)
    assert run_cli(monkeypatch, "data", "check", str(out)) == 1
