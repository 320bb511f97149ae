"""`model.pt`: weights and everything needed to use them, readable with `weights_only=True`."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fmasearch import __version__
from fmasearch.config import LossConfig, TrainConfig, parse_section
from fmasearch.data import GenreMap, Normaliser
from fmasearch.errors import ModelError
from fmasearch.files import replacing
from fmasearch.models import build_model
from fmasearch.records import TargetStats
from fmasearch.tasks import Task, build_task

FORMAT, FORMAT_VERSION = "fmasearch-model", 1


@dataclass(frozen=True)
class SavedModel:
    """A trained model with what it was trained on. `weights` are on the CPU."""

    config: TrainConfig
    weights: Mapping[str, Tensor]
    class_names: tuple[str, ...]
    normalisers: tuple[Normaliser, ...]
    input_dim: int
    num_frames: int
    feature_settings: Mapping[str, Mapping[str, Any]]  # by feature: sample_rate, hop_length, ...
    data: Mapping[str, Any]  # path, sha256
    versions: Mapping[str, str]
    genres: GenreMap | None = None
    """How the classes of a feature file become the model's; None if they are the same."""
    targets: tuple[TargetStats, ...] = ()
    """Numeric labels that it predicts, in the order of its outputs, with the statistics that undo their scale."""
    study: str | None = None
    """The study that chose, trained and tested it; None if no study did."""

    @property
    def task(self) -> Task:
        """What its outputs mean."""
        return build_task(self.config.task, self.class_names, self.targets, loss=_without_class_weights(self.config))

    @property
    def file_classes(self) -> tuple[str, ...]:
        """The classes that a feature file must have for this model to judge it."""
        return self.class_names if self.genres is None else self.genres.sources

    def build(self) -> nn.Module:
        """The model with its weights, on the CPU, in evaluation mode.

        Raises:
            ModelError: if the weights are of another model than this version builds.
        """
        model = build_model(
            self.config.architecture,
            input_dim=self.input_dim,
            num_frames=self.num_frames,
            output_dim=self.task.output_dim,
            **self.config.hyperparameters,
        )
        model.learn_weights(self.task.num_learned_weights)
        try:
            model.load_state_dict(dict(self.weights))
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise ModelError(f"the saved weights do not fit {self.config.architecture}: {reason}") from None
        return model.eval()


def save_model(path: str | Path, model: SavedModel) -> None:
    """Write a model file, whole or not at all."""
    with replacing(Path(path)) as temporary:
        torch.save(
            {
                "format": FORMAT,
                "format_version": FORMAT_VERSION,
                "config": model.config.model_dump(mode="json"),
                "weights": {name: tensor.cpu() for name, tensor in model.weights.items()},
                "class_names": list(model.class_names),
                "label_stats": [asdict(target) for target in model.targets],
                "genres": None if model.genres is None else model.genres.to_json(),
                "normalisers": [{"mean": n.mean_F.cpu(), "std": n.std_F.cpu()} for n in model.normalisers],
                "input_dim": model.input_dim,
                "num_frames": model.num_frames,
                "feature_settings": {name: dict(values) for name, values in model.feature_settings.items()},
                "data": dict(model.data),
                "study": model.study,
                # torch.__version__ is more than a str, and such a file would never load again
                "versions": {"fmasearch": __version__, **{name: str(v) for name, v in model.versions.items()}},
            },
            temporary,
        )


def load_model(path: str | Path) -> SavedModel:
    """Read a model file; nothing in it is executed.

    Raises:
        ModelError: if it is missing, damaged, or not one of ours.
    """
    if not Path(path).is_file():
        raise ModelError(f"{path}: no such model file")
    try:
        with warnings.catch_warnings(action="ignore"):  # torch remarks on foreign pickles before it fails on them
            values = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # torch's reader raises whatever a foreign byte leads it to, IndexError included
        raise ModelError(f"{path}: is damaged, or not a model written by fmasearch") from None
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise ModelError(f"{path}: expected a model written by fmasearch, got another file of tensors")
    version = values.get("format_version")
    if version != FORMAT_VERSION:
        raise ModelError(f"{path}: format_version: expected {FORMAT_VERSION}, got {version}")
    genres = values.get("genres")  # absent in models of before
    return SavedModel(
        config=parse_section(TrainConfig, values["config"], source=str(path)),
        weights=values["weights"],
        class_names=tuple(values["class_names"]),
        normalisers=tuple(Normaliser(n["mean"], n["std"]) for n in values["normalisers"]),
        input_dim=values["input_dim"],
        num_frames=values["num_frames"],
        feature_settings=values["feature_settings"],
        data=values["data"],
        versions=values["versions"],
        genres=None if genres is None else GenreMap.from_json(genres),
        targets=tuple(TargetStats(**target) for target in values.get("label_stats", ())),
        study=values.get("study"),
    )


def _without_class_weights(config: TrainConfig) -> LossConfig:
    """Of the loss, what still matters once a model is trained: class weights would need the training split."""
    return config.loss.model_copy(update={"class_weights": "none"})
