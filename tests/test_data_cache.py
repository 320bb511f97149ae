"""The cache: one copy a node, built whole or not at all, and no row read of a split that nobody asked for."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from conftest import make_feature_file, spec_of
from fmasearch.data import content_hash, open_dataset, open_split, prepare
from fmasearch.errors import DataError


def test_the_cache_holds_one_file_per_feature_and_split_asked_for(tmp_path: Path, cache_dir: Path) -> None:
    spec = spec_of(make_feature_file(tmp_path / "a.h5", chroma=True), "mel", "chroma")
    prepare(spec)
    folder = cache_dir / spec.sha256[:16]
    names = {"mel-train.npy", "mel-val.npy", "chroma-train.npy", "chroma-val.npy"}
    assert {path.name for path in folder.iterdir()} == names
    open_dataset(spec)
    stats = {"mel-train-stats.npz", "chroma-train-stats.npz"}
    assert {path.name for path in folder.iterdir()} == names | stats


def test_the_cache_is_reused_and_follows_the_content_not_the_path(tmp_path: Path, cache_dir: Path) -> None:
    first = spec_of(make_feature_file(tmp_path / "a.h5"))
    open_dataset(first)
    written = {path: path.stat().st_mtime_ns for path in cache_dir.rglob("*.np?")}
    moved = spec_of(Path(first.path).rename(tmp_path / "moved.h5"))
    open_dataset(moved)
    assert {path: path.stat().st_mtime_ns for path in cache_dir.rglob("*.np?")} == written
    other = spec_of(make_feature_file(tmp_path / "a.h5", seed=1))
    assert other.sha256 != first.sha256
    assert not torch.equal(levels_of(open_dataset(other).train), levels_of(open_dataset(moved).train))


def test_the_temporary_file_of_a_killed_process_is_not_used(feature_file: Path, cache_dir: Path) -> None:
    spec = spec_of(feature_file)
    whole = levels_of(open_dataset(spec).train)
    target = cache_dir / spec.sha256[:16] / "mel-train.npy"
    target.with_name(f".{target.name}.99999.tmp").write_bytes(target.read_bytes()[:200])
    target.unlink()
    assert torch.equal(levels_of(open_dataset(spec).train), whole)


def test_a_file_that_cannot_be_read_leaves_nothing_in_the_cache(feature_file: Path, cache_dir: Path) -> None:
    spec = spec_of(feature_file)
    with h5py.File(feature_file, "a") as file:
        file["features/mel"][0, 0, 0] = np.nan
    with pytest.raises(DataError):
        prepare(spec)
    assert [path for path in cache_dir.rglob("*") if path.is_file() and path.name != "hashes.json"] == []


def test_opening_train_and_val_never_reads_a_test_row(tmp_path: Path) -> None:
    path = one_track_per_chunk(make_feature_file(tmp_path / "a.h5"), tmp_path / "chunked.h5")
    damage_rows(path, split_code=2)
    spec = spec_of(path)
    dataset = open_dataset(spec)
    assert dataset.val is not None
    assert (len(dataset.train), len(dataset.val)) == (24, 8)
    with pytest.raises(DataError, match=r"chunked\.h5: features/mel: rows 2\.\.23 cannot be read .*damaged"):
        open_split(spec, "test", dataset.normalisers)


def test_a_damaged_training_row_is_an_error(tmp_path: Path) -> None:
    path = one_track_per_chunk(make_feature_file(tmp_path / "a.h5"), tmp_path / "chunked.h5")
    damage_rows(path, split_code=0)
    with pytest.raises(DataError, match=r"features/mel: rows 0\.\."):
        open_dataset(spec_of(path))


def test_training_maps_the_cache_and_copies_none_of_it(feature_file: Path) -> None:
    # Pages that nobody writes stay the page cache's, whatever number of processes map them.
    dataset = open_dataset(spec_of(feature_file))
    batches = list(dataset.train.shuffled(8, torch.Generator()))
    assert len(batches) == 3
    mapping = memory_mapping(dataset.train.stores[0].levels_NTF.data_ptr())
    assert "mel-train.npy" in mapping
    assert re.search(r"^Private_Dirty: +0 kB", mapping, re.M)


@pytest.mark.slow
def test_processes_that_open_the_same_file_share_its_memory(tmp_path: Path) -> None:
    path = make_feature_file(tmp_path / "a.h5", tracks=(800, 8, 8), num_frames=400, num_bins=64)  # 41 MB
    prepare(spec_of(path))
    code = (
        "import sys, re, pathlib, fmasearch.data as d\n"
        "train = d.open_dataset(d.DataSpec.of(sys.argv[1], features=['mel'], label='genre')).train\n"
        "train.stores[0].levels_NTF.sum(); print('ready', flush=True); sys.stdin.readline()\n"
        "smaps = pathlib.Path('/proc/self/smaps').read_text()\n"
        "print(re.search(r'mel-train.npy\\n(?:.*\\n)*?Pss: +(\\d+)', smaps)[1], flush=True); sys.stdin.readline()\n"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    proportional_kb = []
    for process in processes:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("measure\n")
        process.stdin.flush()
        proportional_kb.append(int(process.stdout.readline()))
    for process in processes:
        process.communicate("end\n")
    # 800 * 400 * 64 * 2 bytes are 40,000 kB: together the two account for one copy.
    assert sum(proportional_kb) == pytest.approx(40_000, rel=0.02)


def test_the_hash_is_of_the_content_and_is_remembered_until_the_file_changes(tmp_path: Path) -> None:
    path, memo = tmp_path / "a", tmp_path / "hashes.json"
    path.write_bytes(b"abc")
    # SHA-256 of "abc", from FIPS 180-2
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert content_hash(path) == content_hash(path, memo=memo) == known
    memo.write_text(memo.read_text().replace(known, "remembered"))
    assert content_hash(path, memo=memo) == "remembered"
    path.write_bytes(b"abcd")
    assert content_hash(path, memo=memo) not in ("remembered", known)


@pytest.mark.parametrize("text", ["", "{", "[1]", "null"])
def test_a_damaged_memo_of_hashes_is_written_anew(tmp_path: Path, text: str) -> None:
    path, memo = tmp_path / "a", tmp_path / "hashes.json"
    path.write_bytes(b"abc")
    memo.write_text(text)
    assert content_hash(path, memo=memo).startswith("ba7816bf")
    assert "ba7816bf" in memo.read_text()


def one_track_per_chunk(source: Path, target: Path) -> Path:
    """The same file with features gzipped, one track per chunk, as corpora are handed out."""
    target.write_bytes(source.read_bytes())
    with h5py.File(target, "a") as file:
        values, attributes = file["features/mel"][()], dict(file["features/mel"].attrs)
        del file["features/mel"]
        stored = file.create_dataset(
            "features/mel", data=values, chunks=(1, *values.shape[1:]), compression="gzip", shuffle=True
        )
        stored.attrs.update(attributes)
    return target


def damage_rows(path: Path, *, split_code: int) -> None:
    """Overwrite the chunks of one split's rows, so that nobody can read them."""
    with h5py.File(path) as file:
        stored = file["features/mel"].id
        chunks = [stored.get_chunk_info(index) for index in range(stored.get_num_chunks())]
        rows = set(np.flatnonzero(file["split"][()] == split_code).tolist())
    damaged = [chunk for chunk in chunks if chunk.chunk_offset[0] in rows]
    assert len(damaged) == len(rows) > 0
    with path.open("r+b") as raw:
        for chunk in damaged:
            raw.seek(chunk.byte_offset)
            raw.write(b"\xff" * chunk.size)


def memory_mapping(address: int) -> str:
    """The block of /proc/self/smaps that holds an address."""
    smaps = Path("/proc/self/smaps")
    if not smaps.exists():
        pytest.skip("needs Linux's /proc")
    for block in re.split(r"\n(?=[0-9a-f]+-[0-9a-f]+ )", smaps.read_text()):
        low, high = (int(end, 16) for end in block.split(" ", 1)[0].split("-"))
        if low <= address < high:
            return block
    raise AssertionError(f"nothing is mapped at {address:x}")


def levels_of(split: Any) -> torch.Tensor:
    levels_NTF: torch.Tensor = split.stores[0].levels_NTF
    return levels_NTF
