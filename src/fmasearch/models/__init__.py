"""Architectures by name, and the one way to build them.

Every architecture is a function whose keyword signature is its list of hyperparameters; it makes a `ClipModel`:

    forward(x_BTF, lengths_B) -> outputs_BK    the last linear layer of `embed`
    embed(x_BTF, lengths_B) -> embedding_BE    the vector before the last linear layer
    blocks() -> modules from input to output   together they own every parameter once; the last is the head

`x_BTF` is float, standardised, and 0 at and after a clip's length; `lengths_B` is int64 on the CPU, so that
no forward pass waits for the device.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import lru_cache

import torch

from fmasearch.config import did_you_mean
from fmasearch.errors import ConfigError
from fmasearch.models.ast import ast
from fmasearch.models.clip_model import ClipModel
from fmasearch.models.cnn2d import cnn2d
from fmasearch.models.cnn2d_rnn import cnn2d_gru, cnn2d_lstm
from fmasearch.models.cnn_rnn import cnn_bilstm, cnn_gru, cnn_lstm
from fmasearch.models.conformer import conformer
from fmasearch.models.hyperparameters import Architecture, check_names, check_values, described, names_of
from fmasearch.models.lstm import lstm
from fmasearch.models.resnet import resnet
from fmasearch.models.stats import stats
from fmasearch.records import Scalar

__all__ = [
    "ARCHITECTURES",
    "ClipModel",
    "build_model",
    "check_hyperparameters",
    "count_parameters",
    "describe_hyperparameters",
    "hyperparameters",
    "load_pretrained",
]

ARCHITECTURES: dict[str, Architecture] = {
    "cnn_gru": cnn_gru,
    "cnn_lstm": cnn_lstm,
    "cnn_bilstm": cnn_bilstm,
    "lstm": lstm,
    "cnn2d": cnn2d,
    "resnet": resnet,
    "cnn2d_gru": cnn2d_gru,
    "cnn2d_lstm": cnn2d_lstm,
    "stats": stats,
    "ast": ast,
    "conformer": conformer,
}


def build_model(
    architecture: str, *, input_dim: int, num_frames: int, output_dim: int, **hyperparameters: Scalar
) -> ClipModel:
    """Build an architecture with fresh weights from torch's global generator, on the current device.

    Args:
        architecture: a key of `ARCHITECTURES`.
        input_dim: feature bins of a frame (F), >= 1.
        num_frames: frames of the longest clip (T), >= 1.
        output_dim: outputs per clip (K), >= 1.
        hyperparameters: keywords of the architecture's signature; what is absent takes its default.

    Raises:
        ConfigError: for an unknown architecture or hyperparameter, or a value of wrong type or range.
    """
    model = _find(architecture)
    values = {"input_dim": input_dim, "num_frames": num_frames, "output_dim": output_dim}
    check_names(model, architecture, hyperparameters)
    check_values(model, {**values, **hyperparameters})
    return model(**values, **hyperparameters)


@lru_cache(maxsize=4096, typed=True)  # a search asks again and again for models that differ in their recipe alone
def count_parameters(
    architecture: str, *, input_dim: int, num_frames: int, output_dim: int, **hyperparameters: Scalar
) -> int:
    """Trainable parameters of the model that `build_model` makes of the same arguments; nothing is allocated."""
    with torch.device("meta"):
        model = build_model(
            architecture, input_dim=input_dim, num_frames=num_frames, output_dim=output_dim, **hyperparameters
        )
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def check_hyperparameters(architecture: str, values: Mapping[str, Scalar]) -> list[str]:
    """What an architecture has against some hyperparameters, one line each; none if it could be built with them.

    Only names, types and ranges are looked at, each by itself.
    """
    try:
        model = _find(architecture)
        check_names(model, architecture, values)
        check_values(model, values)
    except ConfigError as error:
        return str(error).splitlines()
    return []


def load_pretrained(model: ClipModel) -> str | None:
    """Take over the weights that the model's `pretrained` names, and say in one sentence what was loaded.

    Apart from `build_model`, which also makes the models that are read from a file or only counted.

    Returns:
        None where there is nothing to load.

    Raises:
        ConfigError: for a file that is absent, damaged, or does not fit.
    """
    load = getattr(model.backbone, "load_pretrained", None)
    sentence: str | None = None if load is None else load()
    return sentence


def hyperparameters(architecture: str) -> list[str]:
    """Names of the hyperparameters of an architecture."""
    return names_of(_find(architecture))


def describe_hyperparameters(architecture: str) -> dict[str, tuple[str, object]]:
    """By name: which values a hyperparameter takes, in words, and its default."""
    return described(_find(architecture))


def describe_architecture(architecture: str) -> str:
    """What an architecture is: its module's first line, and its own docstring."""
    model = _find(architecture)
    about = (inspect.getdoc(inspect.getmodule(model)) or "").partition("\n")[0]
    return f"{about}\n\n{inspect.getdoc(model)}"


def _find(architecture: str) -> Architecture:
    if architecture not in ARCHITECTURES:
        hint = did_you_mean(architecture, sorted(ARCHITECTURES))
        raise ConfigError(f"model.architecture: unknown architecture {architecture!r}{hint}")
    return ARCHITECTURES[architecture]
