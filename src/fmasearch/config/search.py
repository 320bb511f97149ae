"""The configuration of a search: how hard to look, and the seeds that follow from its own."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from fmasearch.config.sections import PositiveInt, Section, parse_section
from fmasearch.config.yaml_files import load_yaml


class SamplerConfig(Section):
    name: Literal["tpe", "gp", "cmaes", "qmc", "nsga2", "random", "grid"] = "tpe"
    num_startup_trials: PositiveInt | None = None
    """tpe, gp, cmaes: random trials before it models; None is max(10, twice the concurrency)."""


class TrialSchedulerConfig(Section):
    """How weak trials are stopped: asynchronous successive halving (Li et al., MLSys 2020), or not at all."""

    name: Literal["asha", "hyperband", "median", "none"] = "asha"
    grace_period: PositiveInt = 2
    """Epochs that every trial gets."""
    reduction_factor: Annotated[float, Field(gt=1)] = 3
    """One in so many goes on at each rung."""
    brackets: PositiveInt = 1


class ResourcesConfig(Section):
    """What one trial may use; it gets as many torch threads as whole CPUs."""

    cpu: Annotated[float, Field(gt=0)] = 1
    gpu: Annotated[float, Field(ge=0)] | None = None
    """A share below 1 packs several trials on one GPU, 0 trains on the CPU; None is 1 where there is a GPU."""


class ConfirmConfig(Section):
    """The best `top_k` configurations are retrained over `seeds` seeds; the best mean wins."""

    top_k: Annotated[int, Field(ge=1)] = 3
    seeds: Annotated[int, Field(ge=1)] = 3


class FinalConfig(Section):
    train_on: Literal["train", "train+val"] = "train"
    """What the winner is retrained on before its one test."""


class SearchConfig(Section):
    """How hard to look. Read from `search/*.yaml`; `search/default.yaml` equals these defaults."""

    sampler: SamplerConfig = SamplerConfig()
    scheduler: TrialSchedulerConfig = TrialSchedulerConfig()
    num_trials: PositiveInt = 60
    max_epochs: PositiveInt = 27
    max_total_epochs: PositiveInt | None = None
    """Budget over all trials: no trial starts once so many epochs have been trained."""
    time_budget_seconds: Annotated[float, Field(gt=0)] | None = None
    """No trial starts, and running ones are stopped, after this long. Accepts `90m`, `6h`, `2d`."""
    max_concurrent: PositiveInt | None = None
    """Trials at once; None is as many as the resources hold."""
    resources: ResourcesConfig = ResourcesConfig()
    seed: Annotated[int, Field(ge=0)] = 0
    patience: PositiveInt | None = 8
    """Early stopping inside a trial: epochs without a better objective."""
    checkpoint_seconds: Annotated[float, Field(ge=0)] = 30
    """Least time between two checkpoints of a trial: what a killed study has to train again."""
    confirm: ConfirmConfig = ConfirmConfig()
    final: FinalConfig = FinalConfig()

    @field_validator("time_budget_seconds", mode="before")
    @classmethod
    def _durations_have_units(cls, value: object) -> object:
        if isinstance(value, str):
            match = re.fullmatch(r"\s*([0-9.]+)\s*([smhd])\s*", value)
            if not match:
                raise ValueError("expected seconds, or a duration like 90m, 6h, 2d")
            return float(match[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]]
        return value

    @model_validator(mode="after")
    def _grace_period_fits(self) -> SearchConfig:
        if self.scheduler.name == "asha" and self.scheduler.grace_period > self.max_epochs:
            raise ValueError(
                f"scheduler.grace_period <= max_epochs must hold, got "
                f"grace_period={self.scheduler.grace_period}, max_epochs={self.max_epochs}"
            )
        return self


def load_search(path: str | Path) -> SearchConfig:
    """Read a search file.

    Raises:
        ConfigError: naming the file and the key.
    """
    return parse_section(SearchConfig, load_yaml(path), source=str(path))


def derive_seed(study_seed: int, *parts: str | int) -> int:
    """A seed that depends only on the study's seed and on what it is for: 0 <= seed < 2**31, equal everywhere."""
    text = "/".join(str(part) for part in (study_seed, *parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1
