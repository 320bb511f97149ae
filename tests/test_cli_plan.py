"""`plan`, and what `tune` says beforehand: what people and programs read, and what it rests on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import run_cli
from fmasearch.cli import environment
from fmasearch.cli.earlier_studies import find_earlier
from fmasearch.cli.folders import Folders
from fmasearch.cli.forecast import Epochs, Forecast, find_place, forecast, one_line, span, time_span
from fmasearch.cli.plan_text import histogram
from fmasearch.cli.planning import PlanOptions, plan, read_bytes
from fmasearch.config import SearchConfig
from fmasearch.errors import ConfigError
from fmasearch.planning import Range
from fmasearch.records import TrialState
from fmasearch.space import Space
from fmasearch.study import StudyPlan
from recorded_helpers import write_runs
from study_helpers import write_tiny_file

COMPLETED = TrialState.COMPLETED
SPACE = """
task: {classification: genre}
model: {architecture: cnn_gru, num_conv_layers: {int: [1, 3]}, hidden_dim: 8, rnn_dim: 8}
optimizer: {learning_rate: {float: [1e-3, 1e-2], log: true}}
trainer: {batch_size: 8}
known_good: {C1: {model/num_conv_layers: 1}}
"""
FEW = ("--set", "num_trials=6", "--set", "max_epochs=4")


@pytest.fixture
def space_file(tmp_path: Path) -> Path:
    file = tmp_path / "depths.yaml"
    file.write_text(SPACE)
    return file


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders(tmp_path / "runs", tmp_path / "results")


def planned(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, space: Path, data: Path, *arguments: str
) -> dict[str, Any]:
    """What `plan --json` prints."""
    nowhere = str(space.parent / "none")
    options = ("--data", data, *FEW, "--json", "--runs", nowhere, "--results", nowhere, *arguments)
    assert run_cli(monkeypatch, "plan", space, *options) == 0
    printed: dict[str, Any] = json.loads(capsys.readouterr().out)
    return printed


def test_a_plan_fits_eighty_columns_and_says_what_it_rests_on(
    space_file, feature_file, folders, capsys, monkeypatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    options = PlanOptions(gpu_memory="24G", num_samples=20)
    plan(space_file, str(feature_file), None, ["num_trials=6", "max_epochs=4"], folders, options)
    printed = capsys.readouterr().out
    assert max(len(line) for line in printed.splitlines() if not line.startswith("next:")) <= 80
    assert "…" not in printed
    words = " ".join(printed.split())
    assert "depths on small.h5 (24 + 8 tracks of train and val): 2 sampled keys, infinitely many points" in words
    assert "6 trials of at most 4 epochs, sampler trees, scheduler standing" in words
    assert "20 random samples, counted without memory" in words
    assert "known good C1:" in words
    assert "seconds of an epoch: the probes, times 0.75 to 1.6" in words
    assert "made-up curves: a trial's rank persists" in words
    assert "search, none stopped 24 " in words  # 6 trials of 4 epochs
    assert "finish, at most 40 " in words  # 3 configurations, 3 seeds and the winner again: 10 trainings of 4 epochs
    assert "fits 23 times: --gpu 0.04" in words  # of 1 GiB for CUDA and a little of its own


def test_json_counts_what_breaks_a_ceiling_and_times_three_probes(
    space_file, feature_file, capsys, monkeypatch
) -> None:
    free = planned(capsys, monkeypatch, space_file, feature_file, "--no-probe")
    sizes = free["samples"]["parameters"]
    space_file.write_text(f"{SPACE}constraints: {{parameters: '< {sizes['max']}', epoch_seconds: '< 1000h'}}")
    limited = planned(capsys, monkeypatch, space_file, feature_file)
    rejected = limited["samples"]["rejected"]
    assert limited["samples"]["rejected_by"] == {f"parameters < {sizes['max']:,}": rejected}
    assert 40 < rejected < 100  # a third of 200
    assert limited["samples"]["parameters"]["max"] < sizes["max"]
    assert limited["samples"]["predicted_too_slow"] == 0
    assert [probe["size"] for probe in limited["probes"]] == ["smallest", "median", "90 %"]
    assert limited["expected"]["seconds_from"] == "probes"
    hours = limited["expected"]["search"]["device_hours"]
    assert 0 < hours["low"] < hours["middle"] < hours["high"]


def test_without_a_probe_epochs_are_expected_and_hours_are_unknown(
    space_file, feature_file, capsys, monkeypatch
) -> None:
    found = planned(capsys, monkeypatch, space_file, feature_file, "--no-probe", "--set", "max_total_epochs=8")
    assert (found["probes"], found["seconds_per_epoch"], found["gpu"]) == ([], None, None)
    assert found["expected"]["search"]["device_hours"] is None
    # one trial at a time or two: nobody starts after 8 epochs, and those that run have at most 3 left
    assert (
        8 <= found["expected"]["search_without_stopping"]["epochs"]["high"] <= 8 + 4 * find_place(SearchConfig()).cpus
    )


def test_a_plan_reads_no_test_track(tmp_path, space_file, capsys, monkeypatch) -> None:
    file = write_tiny_file(tmp_path / "tiny.h5", test_is_readable=False)
    assert len(planned(capsys, monkeypatch, space_file, file)["probes"]) == 3


def test_a_gpu_that_is_not_here_is_not_probed(space_file, feature_file, capsys, monkeypatch) -> None:
    found = planned(
        capsys, monkeypatch, space_file, feature_file, "--set", "resources/gpu=0.5", "--gpu-memory", "10 GiB"
    )
    if found["place"]["gpus"]:
        pytest.skip("a GPU is here")
    assert (found["probes"], found["expected"]["seconds_from"]) == ([], None)
    assert found["gpu"]["trials"]["median"]["num_trials"] == 9  # 1 GiB each, and a little more


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["no.yaml", "--data", "DATA"], "no.yaml: cannot be read"),
        (["SPACE", "--data", "no.h5"], "no.h5: no such feature file"),
        (["SPACE", "--data", "DATA", "--set", "trails=3"], "trails: unknown key"),
        (["SPACE", "--data", "DATA", "--gpu-memory", "much"], "--gpu-memory: expected the memory of one GPU"),
        (["SPACE", "--data", "DATA", "--max-parameters", "10"], "parameters <= 10 must hold"),
    ],
)
def test_bad_input_ends_with_code_2(arguments, words, space_file, feature_file, capsys, monkeypatch) -> None:
    given = {"SPACE": space_file, "DATA": feature_file}
    assert run_cli(monkeypatch, "plan", *(given.get(each, each) for each in arguments)) == 2
    assert words in capsys.readouterr().err


# What tune says


def ten_trials(folders: Folders) -> StudyPlan:
    """`runs/study`: ten trials of two epochs, half a second each; where it ran is in `results`."""
    made = write_runs(folders.runs, [(COMPLETED, (0.1 * n, 0.1 * n + 0.05)) for n in range(10)], finished=True)
    record = folders.results / "study" / "study.yaml"
    record.parent.mkdir(parents=True)
    record.write_text(yaml.safe_dump({"environment": {"device": environment.describe()["device"]}}))
    return made


def unstopped(made: StudyPlan) -> SearchConfig:
    return made.search.model_copy(update={"scheduler": made.search.scheduler.model_copy(update={"name": "none"})})


def test_an_earlier_study_of_the_same_data_and_place_tells_the_hours(folders: Folders) -> None:
    made = ten_trials(folders)
    line = one_line(made.space, unstopped(made), made.data, folders)
    assert line == "; about 8 core-seconds, as study took it"  # 4 trials of 4 epochs, half a second each
    line = one_line(made.space, made.search, made.data, folders)
    assert line.startswith("; ")
    assert line.endswith(" core-seconds with standing, about 8 core-seconds without, as study took it")


def test_an_earlier_study_elsewhere_tells_curves_alone(folders: Folders) -> None:
    made = ten_trials(folders)
    found = find_earlier(made.space, made.search, "other data", environment.describe()["device"], folders)
    assert found is not None
    assert (found.same_data, found.same_place, found.tells_seconds) == (False, True, False)
    (folders.results / "study" / "study.yaml").unlink()
    known: Forecast = forecast(made.space, made.search, made.data, folders)
    assert known.earlier is not None
    assert not known.knows_seconds
    assert one_line(made.space, made.search, made.data, folders).startswith("; with standing ")


def test_a_study_of_other_keys_or_ceilings_tells_nothing(folders: Folders) -> None:
    made = ten_trials(folders)
    for more in ("constraints: {parameters: '<= 5M'}", "loss: {label_smoothing: 0.1}"):
        other = Space.parse(f"{made.space.text}\n{more}", name=made.space.name)
        assert find_earlier(other, made.search, made.data.sha256, "any", folders) is None


def test_without_an_earlier_study_only_what_is_stopped_is_news(folders: Folders, tmp_path: Path) -> None:
    made = ten_trials(folders)
    nowhere = Folders(tmp_path / "no", tmp_path / "no")
    assert one_line(made.space, unstopped(made), made.data, nowhere) == ""
    assert one_line(made.space, made.search, made.data, nowhere).startswith("; with standing ")
    many = made.search.model_copy(update={"num_trials": 5_000})
    assert one_line(made.space, many, made.data, nowhere) == ""  # a simulation would take longer than it is worth


def test_hours_do_not_exceed_the_time_budget(folders: Folders) -> None:
    made = ten_trials(folders)
    for earlier in (folders, Folders(folders.runs / "no", folders.runs / "no")):
        search = made.search.model_copy(update={"time_budget_seconds": 3.0, "max_concurrent": 1})
        found = forecast(made.space, search, made.data, earlier, epochs=Epochs((2.0,), (), (1.0,)))
        assert found.wall_hours(stopped=False).high == pytest.approx(3 / 3600)
        assert found.device_hours(stopped=False).high < 3.001 / 3600


# Words


def test_ranges_have_two_digits_and_the_unit_that_suits_them() -> None:
    assert span(Range(187, 200, 263)) == "190 to 260"
    assert span(Range(26.8, 27, 27.1)) == "about 27"
    assert span(Range(0.123, 0.2, 0.3)) == "0.12 to 0.3"
    assert time_span(Range(2.04, 3, 3.96), "core") == "2 to 4 core-hours"
    assert time_span(Range(0.5, 1, 1.5)) == "30 to 90 min"
    assert time_span(Range(0.001, 0.01, 0.03), "GPU") == "3.6 to 110 GPU-seconds"


def test_a_histogram_spans_the_values_in_the_logarithm() -> None:
    assert histogram([1, 10, 10, 100]) == "▄     █    ▄"
    assert histogram([5, 5]) == "█"


def test_memory_is_read_as_people_write_it() -> None:
    assert [read_bytes(text) for text in ("24G", "1.5 GiB", "512MB")] == [24 * 2**30, 3 * 2**29, 2**29]
    with pytest.raises(ConfigError, match="such as 24G, got '24'"):
        read_bytes("24")
