"""Files under S3 URIs, against a mock of the service on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
import torch
from moto.server import ThreadedMotoServer

from conftest import make_feature_file
from fmasearch.data import DataSpec, content_hash, open_dataset, remote, stored
from fmasearch.data.remote import copy_here, is_uri, join_uri, read_object, require_writable, write_object
from fmasearch.errors import DataError, StudyError
from fmasearch.study.checkpoints import (
    checkpoint_folder,
    read_checkpoint,
    remove_checkpoint,
    remove_checkpoints,
    write_checkpoint,
)


class Bucket:
    """A bucket of the mock service, and how often it was asked for an object's content."""

    def __init__(self, port: int) -> None:
        self.query = f"?endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1"
        self.client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}", region_name="us-east-1")
        self.client.create_bucket(Bucket="music")

    def uri(self, key: str) -> str:
        return f"s3://music/{key}{self.query}"

    def put(self, key: str, file: Path) -> str:
        self.client.upload_file(str(file), "music", key)
        return self.uri(key)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    try:
        yield Bucket(server.get_host_and_port()[1])
    finally:
        server.stop()


def test_a_feature_file_in_a_bucket_is_the_same_data(bucket: Bucket, feature_file: Path, cache_dir: Path) -> None:
    uri = bucket.put("sets/small.h5", feature_file)
    there = DataSpec.of(uri, features=("mel",), label="genre")
    here = DataSpec.of(feature_file, features=("mel",), label="genre")
    assert (there.sha256, there.uri, there.name) == (here.sha256, uri, "small.h5")
    assert Path(there.path) == stored.stored_file(cache_dir, here.sha256)
    rows = torch.arange(4)
    assert torch.equal(open_dataset(there).train.batch(rows).x_BTF, open_dataset(here).train.batch(rows).x_BTF)


def test_a_second_study_copies_nothing(
    bucket: Bucket, feature_file: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = bucket.put("small.h5", feature_file)
    first = copy_here(uri, cache_dir)
    monkeypatch.setattr(remote, "store_pieces", lambda *_, **__: pytest.fail("copied again"))
    assert copy_here(uri, cache_dir) == first


def test_an_object_that_changed_is_copied_again(bucket: Bucket, feature_file: Path, tmp_path: Path) -> None:
    uri = bucket.put("small.h5", feature_file)
    first = copy_here(uri, tmp_path / "cache")
    bucket.put("small.h5", make_feature_file(tmp_path / "other.h5", seed=1, num_frames=20))
    second = copy_here(uri, tmp_path / "cache")
    assert second != first
    assert content_hash(second) == content_hash(tmp_path / "other.h5")


def test_an_object_of_other_content_than_the_study_began_with_is_refused(
    bucket: Bucket, feature_file: Path, cache_dir: Path
) -> None:
    uri = bucket.put("small.h5", feature_file)
    with pytest.raises(DataError, match=r"arrived with sha256 .*, expected 000000000000"):
        copy_here(uri, cache_dir, expected="0" * 64)
    assert not list((cache_dir / "files").iterdir())


def test_an_absent_object_is_one_clear_error(bucket: Bucket, cache_dir: Path) -> None:
    with pytest.raises(DataError, match=r"s3://music/none.h5.*: no such object"):
        copy_here(bucket.uri("none.h5"), cache_dir)


def test_a_file_that_does_not_fit_is_refused_before_it_is_copied(
    bucket: Bucket, feature_file: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = stored.shutil.disk_usage(feature_file)._replace(free=1000)
    monkeypatch.setattr(stored.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DataError, match="set FMASEARCH_CACHE to a larger disk"):
        copy_here(bucket.put("small.h5", feature_file), cache_dir)


def test_a_checkpoint_in_a_bucket_comes_back_and_goes(bucket: Bucket) -> None:
    location = bucket.uri("study/checkpoints/t0001.pt")
    assert read_checkpoint(location, "cpu") is None
    write_checkpoint(location, {"weights": torch.arange(3)})
    state = read_checkpoint(location, "cpu")
    assert state is not None
    assert state["weights"].tolist() == [0, 1, 2]
    remove_checkpoint(location)
    remove_checkpoint(location)
    assert read_checkpoint(location, "cpu") is None


def test_the_checkpoints_of_a_study_go_together_and_others_stay(bucket: Bucket) -> None:
    for key in ("a/checkpoints/t0.pt", "a/checkpoints/t1.pt", "b/checkpoints/t0.pt"):
        write_checkpoint(bucket.uri(key), {})
    remove_checkpoints(bucket.uri("a/checkpoints"))
    remove_checkpoints(bucket.uri("c/checkpoints"))
    assert [read_object(bucket.uri(f"a/checkpoints/t{n}.pt")) for n in (0, 1)] == [None, None]
    assert read_checkpoint(bucket.uri("b/checkpoints/t0.pt"), "cpu") == {}


def test_half_a_checkpoint_is_none(bucket: Bucket) -> None:
    write_object(bucket.uri("t0001.pt"), b"half of a")
    assert read_checkpoint(bucket.uri("t0001.pt"), "cpu") is None


def test_a_bucket_that_cannot_be_written_is_said_at_once(bucket: Bucket) -> None:
    require_writable(bucket.uri("checkpoints"))
    assert read_object(bucket.uri("checkpoints/.fmasearch-probe")) is None
    with (
        pytest.raises(StudyError, match="cannot be written"),
        checkpoint_folder(f"s3://nobodys/checkpoints{bucket.query}"),
    ):
        pass


@pytest.mark.parametrize("path", ["s3://b/k.h5", "gs://b/k.h5", "gcs://b/k.h5"])
def test_uris_are_told_from_paths(path: str) -> None:
    assert is_uri(path)
    assert not is_uri(Path("data") / "s3:" / "k.h5")


def test_names_are_joined_before_the_query() -> None:
    assert join_uri("s3://b/runs?scheme=http", "study", "t.pt") == "s3://b/runs/study/t.pt?scheme=http"
    assert join_uri("s3://b/runs/", "study") == "s3://b/runs/study"
