"""The feature file on nodes that do not see the driver's disk."""

from __future__ import annotations

import json
import multiprocessing
import os
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import ray
import torch

from conftest import make_feature_file, spec_of
from fmasearch.data import DataSpec, content_hash, open_dataset, stored
from fmasearch.data.stored import store_pieces, stored_file
from fmasearch.errors import DataError
from fmasearch.files import locked
from fmasearch.ray_session import ray_session
from fmasearch.study import node_data
from fmasearch.study.node_data import DataSource, data_source, on_this_node


@pytest.fixture(scope="module")
def some_ray() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        with ray_session(object_store_bytes=100 * 2**20, num_cpus=1):
            yield


@pytest.fixture
def unseen(tmp_path: Path, feature_file: Path) -> Iterator[tuple[DataSpec, DataSource]]:
    """A study's data whose paths mean nothing here, as on a node with disks of its own."""
    spec = spec_of(feature_file)
    with data_source(spec, tmp_path / "nodes.json") as source:
        elsewhere = replace(spec, path=str(tmp_path / "elsewhere" / "small.h5"), cache_dir=str(tmp_path / "elsewhere"))
        yield elsewhere, replace(source, node_id="another")


def received(tmp_path: Path) -> dict[str, int]:
    log = json.loads((tmp_path / "nodes.json").read_text())
    return {address: entry["bytes_received"] for address, entry in log.items()}


@pytest.mark.ray
def test_on_the_drivers_node_nothing_is_sent(some_ray: None, tmp_path: Path, feature_file: Path) -> None:
    spec = spec_of(feature_file)
    with data_source(spec, tmp_path / "nodes.json") as source:
        assert on_this_node(spec, source) is spec
    assert on_this_node(spec, None) is spec
    assert not (tmp_path / "nodes.json").exists()


@pytest.mark.ray
def test_a_node_receives_the_file_once(
    some_ray: None, tmp_path: Path, feature_file: Path, unseen: tuple[DataSpec, DataSource], cache_dir: Path
) -> None:
    spec, source = unseen
    local = on_this_node(spec, source)
    assert Path(local.path) == stored_file(cache_dir, spec.sha256)
    assert content_hash(local.path) == content_hash(feature_file)
    address = ray.util.get_node_ip_address()
    assert received(tmp_path) == {address: feature_file.stat().st_size}
    assert on_this_node(spec, source) == local
    assert received(tmp_path) == {address: feature_file.stat().st_size}


@pytest.mark.ray
def test_the_received_data_is_the_drivers(
    some_ray: None, feature_file: Path, unseen: tuple[DataSpec, DataSource]
) -> None:
    there, here = open_dataset(on_this_node(*unseen)), open_dataset(spec_of(feature_file))
    rows = torch.arange(8)
    assert torch.equal(there.train.batch(rows).x_BTF, here.train.batch(rows).x_BTF)


@pytest.mark.ray
def test_a_file_that_every_node_sees_is_not_sent(
    some_ray: None, tmp_path: Path, feature_file: Path, unseen: tuple[DataSpec, DataSource]
) -> None:
    spec, source = unseen
    local = on_this_node(replace(spec, path=str(feature_file)), source)
    assert local.path == str(feature_file)
    assert list(received(tmp_path).values()) == [0]


@pytest.mark.ray
def test_another_file_of_the_same_path_is_not_taken_for_the_studys(
    some_ray: None, tmp_path: Path, unseen: tuple[DataSpec, DataSource]
) -> None:
    spec, source = unseen
    other = make_feature_file(tmp_path / "other.h5", seed=3)
    local = on_this_node(replace(spec, path=str(other)), source)
    assert local.path != str(other)
    assert content_hash(local.path) == spec.sha256


@pytest.mark.ray
def test_a_file_larger_than_a_piece_arrives_whole(
    some_ray: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, feature_file: Path
) -> None:
    size = feature_file.stat().st_size
    monkeypatch.setattr(node_data, "PIECE_BYTES", size // 3)  # four pieces, the last of them short
    server = node_data.FileServer(str(feature_file), str(tmp_path / "log.json"))
    pieces = [server.piece(index) for index in range(4)]
    assert [len(piece) for piece in pieces] == [size // 3] * 3 + [size % 3]
    assert b"".join(pieces) == feature_file.read_bytes()
    assert server.num_bytes() == size


def test_memory_stays_bounded_whatever_the_size_of_the_file(tmp_path: Path) -> None:
    pieces = (os.urandom(2**20) for _ in range(64))
    tracemalloc.start()
    sha256 = store_pieces(tmp_path, pieces, expected=None, source="a stream")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert stored_file(tmp_path, sha256).stat().st_size == 64 * 2**20
    assert peak < 8 * 2**20  # a few pieces of 1 MiB, not 64


def test_what_is_damaged_on_the_way_is_not_kept(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="damaged on the way"):
        store_pieces(tmp_path, [b"abc"], expected="f" * 64, source="small.h5")
    assert not list((tmp_path / "files").iterdir())


def test_a_node_without_room_says_what_it_needs(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"small.h5 and its working copy need \d+\.\d GiB"):
        stored.require_space(tmp_path, 2**60, "small.h5")


def test_a_lock_keeps_other_processes_out_until_it_is_free(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    with locked(tmp_path / "a.lock"):
        other = context.Process(target=_write_when_free, args=(tmp_path,))
        other.start()
        other.join(1.5)
        assert not (tmp_path / "free").exists()
    other.join(20)
    assert (tmp_path / "free").exists()


def _write_when_free(folder: Path) -> None:
    with locked(folder / "a.lock"):
        (folder / "free").touch()
