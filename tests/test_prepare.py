"""Preparing: what lands in the file and in the manifest, and that an interrupted run ends as if it had not been."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import ray
from ray import cloudpickle
from ray.cluster_utils import Cluster

import prepare_helpers
from fmasearch.data import read_info
from fmasearch.errors import DataError
from fmasearch.prepare import Progress, blocks, by_reason, manifest_path, parts_path, prepare_corpus, read_manifest, run
from fmasearch.prepare.parts import Parts, make_plan, open_parts
from fmasearch.prepare.workers import _ray_for
from fmasearch.tracks import Exclusion
from prepare_helpers import FakeReader, NodeReader, contents, make_corpus

PLANTED = {3: "short.wav", 4: "odd.wav", 7: "nan.wav", 8: "wide.wav"}
REASONS = {
    "900": "missing: no such file",  # by the corpus, before anything was read
    "3": "too short: 1.6 s of 30 s",
    "4": "unexpected: RuntimeError: nobody thought of this",
    "7": "not finite: mel has NaN or infinity in it",
    "8": "unexpected: ValueError: mel: expected 1 to 10 frames of 4 bins, got (10, 5)",
}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of four tracks, so that a few tracks are several blocks and the last is not full."""
    for module in (blocks, run, sys.modules["fmasearch.prepare.parts"]):
        monkeypatch.setattr(module, "BLOCK_SIZE", 4)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "fake.h5"


def test_rows_are_the_tracks_that_could_be_read_in_corpus_order(out: Path) -> None:
    prepared = prepare_corpus(make_corpus(10, PLANTED), FakeReader(), out, workers=0)
    with h5py.File(out) as file:
        assert list(file["track_id"].asstr()) == ["0", "1", "2", "5", "6", "9"]
        assert list(file["split"]) == [0, 1, 2, 1, 2, 1]  # number modulo 4
        assert list(file["artist_id"]) == [0, 0, -1, 1, 2, 3]  # number // 3, numbered as they come; 2 is unknown
        assert list(file["source"].asstr()) == ["0.wav", "1.wav", "2.wav", "5.wav", "6.wav", "9.wav"]
        assert list(file["licence"].asstr()) == ["", "CC BY", "", "CC BY", "", "CC BY"]
        # rock, jazz, folk in turn, and no label for 1: jazz keeps no track (4 and 7 are planted) and has no code
        assert list(file["labels/genre"].attrs["names"]) == ["folk", "rock"]
        assert list(file["labels/genre"]) == [1, -1, 0, 0, 1, 1]
        np.testing.assert_array_equal(file["labels/valence"][:], np.float32([np.nan, 0.01, np.nan, 0.05, np.nan, 0.09]))
        assert file.attrs["source"] == "made by a test"
        assert file["features/mel"].chunks is None
        assert file["features/mel"].compression is None
    assert (prepared.num_tracks, prepared.num_read) == (6, 10)
    assert read_info(out).split_counts == {"train": 1, "val": 3, "test": 2}


def test_levels_are_within_half_a_step_of_the_values_and_padding_is_zero(out: Path) -> None:
    corpus = make_corpus(10)
    prepare_corpus(corpus, FakeReader(), out, workers=0)
    info = read_info(out)
    assert info.feature("mel").shape == (10, 10, 4)
    assert info.feature("mel_beat").shape == (10, 3, 4)  # beats: the longest of 1 to 3 that was found
    assert info.feature("mel").settings == {"unit": "dB", "frame_rate": 43.07}
    scale = info.feature("mel").scale
    assert scale == pytest.approx(80 / 255)
    with h5py.File(out) as file:
        for row, track in enumerate(corpus.tracks):
            values = FakeReader().read(track)["mel"]
            levels, length = file["features/mel"][row], file["lengths/mel"][row]
            assert length == len(values)
            assert np.abs(levels[:length] * scale - 80 - values).max() <= scale / 2 + 1e-5
            assert not levels[length:].any()


def test_half_floats_are_kept_as_they_are(out: Path) -> None:
    corpus = make_corpus(5)
    prepare_corpus(corpus, FakeReader(), out, dtype="float16", workers=0)
    values = FakeReader().read(corpus.tracks[4])["mel"]
    with h5py.File(out) as file:
        assert file["features/mel"].dtype == np.float16
        np.testing.assert_array_equal(file["features/mel"][4, : len(values)], values.astype(np.float16))
    assert (read_info(out).feature("mel").scale, read_info(out).feature("mel").offset) == (1.0, 0.0)


def test_every_planted_defect_is_in_the_manifest_with_its_reason(out: Path) -> None:
    prepared = prepare_corpus(make_corpus(10, PLANTED), FakeReader(), out, workers=0)
    found = read_manifest(manifest_path(out))
    assert {exclusion.track_id: exclusion.reason for exclusion in found} == REASONS
    assert [exclusion.source for exclusion in found] == ["900.wav", *PLANTED.values()]
    assert found == prepared.excluded
    assert by_reason(found) == {"unexpected": 2, "missing": 1, "too short": 1, "not finite": 1}


def test_nothing_is_left_but_the_file_and_its_manifest(out: Path) -> None:
    prepare_corpus(make_corpus(), FakeReader(), out, workers=0)
    assert {path.name for path in out.parent.iterdir() if path.is_file()} == {"fake.h5", "fake.h5.manifest.csv"}
    assert not parts_path(out).exists()


def test_the_file_names_sources_from_the_corpus_folder_on(out: Path, tmp_path: Path) -> None:
    sources = {number: str(tmp_path / "music" / f"{number}.wav") for number in range(5)}
    corpus = make_corpus(6, sources, excluded=(Exclusion("9", str(tmp_path / "music" / "9.mp3"), "no such file"),))
    prepare_corpus(corpus, FakeReader(), out, workers=0, root=tmp_path / "music")
    with h5py.File(out) as file:
        assert list(file["source"].asstr()) == ["0.wav", "1.wav", "2.wav", "3.wav", "4.wav", "5.wav"]
    assert read_manifest(manifest_path(out))[0].source == "9.mp3"


@pytest.mark.ray
def test_ray_and_this_process_write_the_same_file_whoever_dies_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    prepare_corpus(make_corpus(20, {**PLANTED, 5: "odd.wav"}), FakeReader(), tmp_path / "here.h5", workers=0)
    deadly = make_corpus(20, {**PLANTED, 5: "deadly.wav"})  # its block has three others, of which two are good
    cloudpickle.register_pickle_by_value(prepare_helpers)
    elsewhere = tmp_path / "on another machine"
    try:
        with _ray_for(FakeReader(), "uint8", workers=2):
            prepared = prepare_corpus(deadly, FakeReader(), tmp_path / "ray.h5", workers=2)
            with pytest.raises(DataError, match=f"^{elsewhere}: the machine .* does not see it"):
                prepare_corpus(deadly, FakeReader(), tmp_path / "unseen.h5", workers=1, root=elsewhere)
    finally:
        cloudpickle.unregister_pickle_by_value(prepare_helpers)
    assert contents(tmp_path / "ray.h5") == contents(tmp_path / "here.h5")
    reasons = {exclusion.track_id: exclusion.reason for exclusion in prepared.excluded}
    assert reasons == {**REASONS, "5": "unexpected: the process that read it died"}
    assert not ray.is_initialized()  # it was started for this


@pytest.mark.ray
@pytest.mark.slow
def test_the_nodes_of_a_cluster_share_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = tmp_path / "journal"
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    cluster.add_node(num_cpus=1)
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    cloudpickle.register_pickle_by_value(prepare_helpers)
    try:
        prepare_corpus(make_corpus(200), NodeReader(str(journal)), tmp_path / "nodes.h5")
    finally:
        cloudpickle.unregister_pickle_by_value(prepare_helpers)
        cluster.shutdown()
    monkeypatch.delenv("RAY_ADDRESS")
    prepare_corpus(make_corpus(200), FakeReader(), tmp_path / "here.h5", workers=0)
    assert contents(tmp_path / "nodes.h5") == contents(tmp_path / "here.h5")
    assert len(set(journal.read_text().split())) == 2


def test_a_killed_run_goes_on_and_ends_as_if_it_had_not_been_killed(tmp_path: Path, out: Path) -> None:
    corpus, journal = make_corpus(30, PLANTED), tmp_path / "reads"
    prepare_corpus(corpus, FakeReader(), tmp_path / "whole.h5", workers=0)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path\n"
        "from fmasearch.prepare import parts, prepare_corpus, run\n"
        "from prepare_helpers import FakeReader, make_corpus\n"
        "parts.BLOCK_SIZE = run.BLOCK_SIZE = 4\n"
        "corpus = make_corpus(30, {3: 'short.wav', 4: 'odd.wav', 7: 'nan.wav', 8: 'wide.wav'})\n"
        "prepare_corpus(corpus, FakeReader(sys.argv[2], kill_after=18), Path(sys.argv[3]), workers=0)\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(Path(__file__).parent), str(journal), str(out)])
    assert killed.returncode == -9
    assert not out.exists()
    states: list[Progress] = []
    prepared = prepare_corpus(corpus, FakeReader(str(journal)), out, workers=0, on_progress=states.append)
    # 18 reads are four blocks of four and half of a fifth: 16 are kept, the two of the block in flight come again
    assert prepared.num_read == 14
    assert states[0] == Progress(num_done=16, num_tracks=30, num_excluded=4, num_earlier=16)
    assert journal.read_text().split() == [str(n) for n in [*range(18), *range(16, 30)]]
    assert contents(out) == contents(tmp_path / "whole.h5")
    assert manifest_path(out).read_text() == manifest_path(tmp_path / "whole.h5").read_text()


def test_what_a_kill_left_half_written_is_ignored_and_removed(out: Path) -> None:
    corpus = make_corpus(10)
    with open_parts(out, make_plan(corpus, FakeReader(), "uint8")) as parts:
        half = parts.folder / ".block-00000.4711.tmp.npz"
        half.write_bytes(b"PK half a block")
    with open_parts(out, make_plan(corpus, FakeReader(), "uint8")) as parts:
        assert parts.missing() == [0, 1, 2]
        assert not half.exists()
    assert prepare_corpus(corpus, FakeReader(), out, workers=0).num_read == 10


def test_a_run_killed_while_it_assembled_reads_nothing_again(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(run, "assemble", die)
        prepare_corpus(make_corpus(10), FakeReader(), out, workers=0)
    assert prepare_corpus(make_corpus(10), FakeReader(), out, workers=0).num_read == 0


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"dtype": "float16"}, ['dtype was "uint8", now "float16"']),
        ({"num_tracks": 11}, ["num_tracks was 10, now 11", "tracks_sha256 was"]),
    ],
)
def test_another_plan_is_refused_and_says_how_to_mend_it(
    out: Path, changed: dict[str, object], words: list[str]
) -> None:
    with open_parts(out, make_plan(make_corpus(10), FakeReader(), "uint8")):
        pass
    corpus = make_corpus(11 if "num_tracks" in changed else 10)
    with pytest.raises(DataError) as refused:
        prepare_corpus(corpus, FakeReader(), out, dtype="float16" if "dtype" in changed else "uint8", workers=0)
    for word in [*words, f"delete {parts_path(out)}", "another --out"]:
        assert word in str(refused.value)


def test_other_settings_of_a_feature_are_another_plan(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = make_plan(make_corpus(), FakeReader(), "uint8")
    with open_parts(out, plan):
        pass
    changed = json.loads(json.dumps(plan))
    changed["features"]["mel"]["settings"]["unit"] = "power"
    with pytest.raises(DataError, match='features/mel/settings/unit was "dB", now "power"'), open_parts(out, changed):
        pass


def test_two_runs_cannot_prepare_one_file_at_once(out: Path) -> None:
    plan = make_plan(make_corpus(), FakeReader(), "uint8")
    with (
        open_parts(out, plan),
        pytest.raises(DataError, match="another process is preparing this file"),
        open_parts(out, plan),
    ):
        pass


def test_an_existing_file_is_not_overwritten(out: Path) -> None:
    out.write_text("eight hours of work")
    with pytest.raises(DataError, match="exists already; delete it to prepare it again, or give another --out"):
        prepare_corpus(make_corpus(), FakeReader(), out, workers=0)
    assert out.read_text() == "eight hours of work"


def test_a_corpus_of_which_nothing_can_be_read_says_why_and_begins_anew(out: Path) -> None:
    corpus = make_corpus(5, dict.fromkeys(range(5), "short.wav"), excluded=())
    with pytest.raises(
        DataError, match=r"none of its 5 tracks can be used: 5 too short; for example short.wav: too sh"
    ):
        prepare_corpus(corpus, FakeReader(), out, workers=0)
    assert len(read_manifest(manifest_path(out))) == 5
    assert not out.exists()
    assert not parts_path(out).exists()


def test_a_full_disk_is_said_and_costs_nothing(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save, corpus = Parts.save, make_corpus(10)

    def save_one(parts: Parts, index: int, block: blocks.Block) -> None:
        if index == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(parts, index, block)

    with monkeypatch.context() as patch, pytest.raises(DataError, match="the disk is full; make room"):
        patch.setattr(Parts, "save", save_one)
        prepare_corpus(corpus, FakeReader(), out, workers=0)
    assert prepare_corpus(corpus, FakeReader(), out, workers=0).num_read == 6  # of ten, but for the first block


def test_a_damaged_block_is_named(out: Path) -> None:
    corpus = make_corpus(10)
    with open_parts(out, make_plan(corpus, FakeReader(), "uint8")) as parts:
        (parts.folder / "block-00001.npz").write_bytes(b"not a block")
    with pytest.raises(DataError, match=r"block-00001.npz: is damaged .*delete it and run the same command again"):
        prepare_corpus(corpus, FakeReader(), out, workers=0)
