"""The shape of a model's input and output, as a feature file and a configuration decide it."""

from __future__ import annotations

from typing import TypedDict

from fmasearch.config import TrainConfig
from fmasearch.data.feature_file import FileInfo
from fmasearch.data.genres import class_names


class ModelShape(TypedDict):
    """Keywords of `build_model`."""

    input_dim: int
    num_frames: int
    output_dim: int


def model_shape(info: FileInfo, config: TrainConfig) -> ModelShape:
    """What a model of this configuration takes in and gives out.

    Raises:
        DataError: if the file lacks a feature set or the labels.
        ConfigError: if the configuration's genres are not the file's.
    """
    task = config.task
    for target in task.targets:
        info.require_target(target)
    features = [info.feature(name) for name in config.features]
    return {
        "input_dim": sum(feature.shape[2] for feature in features),
        "num_frames": config.crop.input_frames(features[0].shape[1]),
        "output_dim": len(class_names(info, task.label, config.genres)) + len(task.targets),
    }
