"""`model.pt`: the model that comes back predicts the same, and a foreign file executes nothing."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import CLASSES, make_config, make_dataset
from fmasearch import __version__
from fmasearch.data import Dataset
from fmasearch.errors import ModelError
from fmasearch.model_file import SavedModel, load_model, save_model
from fmasearch.models import ARCHITECTURES
from fmasearch.trainer import Trainer, predict


def trained(dataset: Dataset, architecture: str = "cnn_gru") -> tuple[Trainer, SavedModel]:
    """A model of one epoch, so that batch norm has seen data, and what is saved of it."""
    trainer = Trainer(make_config(architecture), dataset)
    next(trainer.epochs())
    saved = SavedModel(
        config=trainer.config,
        weights=trainer.model.state_dict(),
        class_names=dataset.class_names,
        normalisers=dataset.normalisers,
        input_dim=dataset.input_dim,
        num_frames=dataset.num_frames,
        feature_settings={"mel": {"sample_rate": 16_000, "hop_length": 512}},
        data={"path": "small.h5", "sha256": "0123"},
        versions={"torch": torch.__version__},
    )
    return trainer, saved


@pytest.fixture
def saved(dataset: Dataset) -> SavedModel:
    return trained(dataset)[1]


@pytest.fixture
def model_file(saved: SavedModel, tmp_path: Path) -> Path:
    path = tmp_path / "studies" / "model.pt"  # the folder is made
    save_model(path, saved)
    return path


class Malice:
    """Runs code when it is unpickled."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> Any:
        return (Path.touch, (self.victim,))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_loaded_model_predicts_the_same(tmp_path: Path, architecture: str) -> None:
    dataset = make_dataset(tmp_path / "a.h5", varying_lengths=True)
    trainer, saved = trained(dataset, architecture)
    save_model(tmp_path / "model.pt", saved)
    model = load_model(tmp_path / "model.pt").build()
    assert not model.training
    assert torch.equal(predict(model, dataset.train, trainer.task), predict(trainer.model, dataset.train, trainer.task))


def test_everything_needed_to_use_a_model_comes_back(saved: SavedModel, model_file: Path) -> None:
    loaded = load_model(model_file)
    assert loaded.config == saved.config
    assert loaded.class_names == CLASSES
    assert (loaded.input_dim, loaded.num_frames) == (8, 24)
    assert torch.equal(loaded.normalisers[0].mean_F, saved.normalisers[0].mean_F)
    assert torch.equal(loaded.normalisers[0].std_F, saved.normalisers[0].std_F)
    assert loaded.feature_settings == saved.feature_settings
    assert loaded.data == saved.data
    assert loaded.versions == {"fmasearch": __version__, "torch": torch.__version__}


def test_a_model_file_holds_nothing_but_tensors_and_plain_values(model_file: Path) -> None:
    values = torch.load(model_file, weights_only=True)
    assert (values["format"], values["format_version"]) == ("fmasearch-model", 1)


def test_saving_leaves_one_file(saved: SavedModel, model_file: Path) -> None:
    save_model(model_file, saved)  # once more, over the first
    assert list(model_file.parent.iterdir()) == [model_file]


def test_a_save_that_fails_leaves_the_old_model(
    saved: SavedModel, model_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut_short(_: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError("no space left on device")

    before = model_file.read_bytes()
    monkeypatch.setattr("torch.save", cut_short)
    with pytest.raises(OSError, match="no space left"):
        save_model(model_file, saved)
    assert model_file.read_bytes() == before


def test_a_missing_model_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"nowhere\.pt: no such model file"):
        load_model(tmp_path / "nowhere.pt")


@pytest.mark.parametrize("kept", [0, 1, 100, 0.5, 0.9, 0.999])
def test_a_truncated_model_is_an_error(model_file: Path, kept: float) -> None:
    whole = model_file.read_bytes()
    model_file.write_bytes(whole[: kept if kept >= 1 else int(kept * len(whole))])
    with pytest.raises(ModelError, match=r"model\.pt: is damaged, or not a model written by fmasearch"):
        load_model(model_file)


@pytest.mark.parametrize(
    "content",
    [
        b"PK\x03\x04",
        b"hello",
        b"\x89PNG\r\n\x1a\n",
        b"\x80\x02.",
        b"\x80\x04K",
        b"{}",
        bytes(range(256)),
        b"\x00" * 600,
    ],
)
def test_a_file_of_another_kind_is_an_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.pt: is damaged, or not a model"):
        load_model(path)


@pytest.mark.parametrize("protocol", [2, 4])
def test_code_in_a_pickle_is_not_run(tmp_path: Path, protocol: int) -> None:
    path, victim = tmp_path / "model.pt", tmp_path / "victim"
    path.write_bytes(pickle.dumps({"format": "fmasearch-model", "config": Malice(victim)}, protocol))
    with pytest.raises(ModelError, match="not a model written by fmasearch"):
        load_model(path)
    assert not victim.exists()
    pickle.loads(path.read_bytes())  # which would have run it
    assert victim.exists()


def test_code_in_a_torch_archive_is_not_run(tmp_path: Path) -> None:
    path, victim = tmp_path / "model.pt", tmp_path / "victim"
    torch.save({"format": "fmasearch-model", "format_version": 1, "weights": Malice(victim)}, path)
    with pytest.raises(ModelError, match="not a model written by fmasearch"):
        load_model(path)
    assert not victim.exists()


@pytest.mark.parametrize("values", [{"weight": torch.zeros(2)}, [1, 2], torch.zeros(2), {"format": "other"}])
def test_another_programs_tensors_are_an_error(tmp_path: Path, values: Any) -> None:
    torch.save(values, tmp_path / "model.pt")
    with pytest.raises(ModelError, match=r"model\.pt: expected a model written by fmasearch, got another file"):
        load_model(tmp_path / "model.pt")


@pytest.mark.parametrize(("version", "shown"), [(2, "2"), (None, "None")])
def test_a_model_of_another_version_is_an_error(model_file: Path, version: int | None, shown: str) -> None:
    values = torch.load(model_file, weights_only=True)
    torch.save({**values, "format_version": version}, model_file)
    with pytest.raises(ModelError, match=rf"format_version: expected 1, got {shown}"):
        load_model(model_file)


def test_a_model_without_its_version_is_an_error(tmp_path: Path) -> None:
    torch.save({"format": "fmasearch-model"}, tmp_path / "model.pt")
    with pytest.raises(ModelError, match="format_version: expected 1, got None"):
        load_model(tmp_path / "model.pt")


def test_weights_that_do_not_fit_their_configuration_are_an_error(saved: SavedModel, tmp_path: Path) -> None:
    save_model(tmp_path / "model.pt", replace(saved, input_dim=9))
    with pytest.raises(ModelError, match="weights do not fit cnn_gru"):
        load_model(tmp_path / "model.pt").build()
