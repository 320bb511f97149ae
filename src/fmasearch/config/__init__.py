"""Typed YAML: the configuration of one training (`TrainConfig`) and of a search (`SearchConfig`)."""

from fmasearch.config.search import (
    ConfirmConfig,
    FinalConfig,
    ResourcesConfig,
    SamplerConfig,
    SearchConfig,
    TerminatorConfig,
    TrialSchedulerConfig,
    derive_seed,
    load_search,
)
from fmasearch.config.sections import Section, did_you_mean, explain, parse_section
from fmasearch.config.training import (
    ERRORS,
    AugmentConfig,
    CropConfig,
    GenresConfig,
    LossConfig,
    OptimizerConfig,
    SchedulerConfig,
    TaskConfig,
    TrainConfig,
    TrainerConfig,
    TransferConfig,
    load_train_config,
)
from fmasearch.config.yaml_files import load_yaml, parse_yaml

__all__ = [
    "ERRORS",
    "AugmentConfig",
    "ConfirmConfig",
    "CropConfig",
    "FinalConfig",
    "GenresConfig",
    "LossConfig",
    "OptimizerConfig",
    "ResourcesConfig",
    "SamplerConfig",
    "SchedulerConfig",
    "SearchConfig",
    "Section",
    "TaskConfig",
    "TerminatorConfig",
    "TrainConfig",
    "TrainerConfig",
    "TransferConfig",
    "TrialSchedulerConfig",
    "derive_seed",
    "did_you_mean",
    "explain",
    "load_search",
    "load_train_config",
    "load_yaml",
    "parse_section",
    "parse_yaml",
]
