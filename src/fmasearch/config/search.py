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
    """What proposes the next configuration. All take spaces with conditions; what they make of them differs."""

    name: Literal["trees", "tpe", "gp", "cmaes", "qmc", "nsga2", "random", "grid"] = "trees"
    """The default, trees: random regression trees over what every trial has shown so far, stopped and running ones
    included; takes every kind of key. `results/benchmarks/search_quality.md` has it beside others.

    tpe: a density model of the best trials, which learns from stopped ones at the epoch they reached.
    gp: a Gaussian process of the keys that every trial has (tpe chooses the others): for few, slow trials, since it
    takes about 1 CPU second a trial up to 200 of them, and 2.5 at 500. A stopped trial counts as what it had reached,
    and what finished ones gained from that epoch.
    cmaes: an evolution strategy of the numbers that every trial has (tpe chooses the others): for many numbers and
    hundreds of trials. A stopped trial ranks by its last value.
    qmc: scrambled Sobol points, spread more evenly than random ones; learns nothing.
    nsga2: a genetic algorithm for several objectives and hundreds of trials. Keys with conditions are drawn at random,
    and it learns from trials alone that were trained to their end: use it with `scheduler: {name: none}`.
    random: independent points, the baseline. grid: every point in turn.
    """
    num_startup_trials: PositiveInt | None = None
    """trees, tpe, gp, cmaes: random trials before it models; nsga2: trials of a generation, the first of them random.

    None is max(10, twice the concurrency): the first wave of trials is sampled blindly anyway.
    """
    min_distance: Annotated[float, Field(ge=0, lt=1)] | None = 0.01
    """A sample that is no further than this from an earlier trial is sampled again, up to five times.

    That is, as a share of the range, in the scale it is sampled in, of every continuous number, where choices and
    whole numbers are equal. 0 leaves out equal ones alone, None nothing. Known-good points and grids stay as they are.
    """


class TrialSchedulerConfig(Section):
    """How weak trials are stopped: by their best objective so far, compared with that of others at the same epoch."""

    name: Literal["standing", "asha", "hyperband", "median", "none"] = "standing"
    """The default, standing: after every epoch a trial is ranked among all of the study (`fmasearch.pruning.standing`).

    asha: asynchronous successive halving (Li et al., MLSys 2020): rungs at growing epochs. hyperband: asha from an
    early first rung for most trials, from later ones for some (Li et al., JMLR 2018): for curves that cross. median: a
    trial that is worse than the median at any epoch stops (Golovin et al., KDD 2017). none: no trial is stopped. What
    a rule does not read may stand, and changes nothing.
    """
    grace_period: PositiveInt = 2
    """Epochs that every trial gets; the first rung."""
    reduction_factor: Annotated[float, Field(gt=1)] | None = None
    """asha, hyperband: one in so many goes on at each rung, and each rung is so many times the one before; None is 3.

    standing: one in so many goes on after the grace period, and fewer after every epoch; None is 2.
    """
    brackets: PositiveInt = 1
    """asha: with more than one, some trials are first judged at the second rung, fewer at the third, and so on."""

    @property
    def one_in(self) -> float:
        """The reduction factor, or the rule's own."""
        return self.reduction_factor or (2.0 if self.name == "standing" else 3.0)


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


class TerminatorConfig(Section):
    """Whether a search ends when no trial is expected to gain more than noise (Makarova et al., AutoML 2022)."""

    name: Literal["none", "regret_bound"] = "none"
    noise: Annotated[float, Field(gt=0)] | None = None
    """What counts as noise, in the objective's unit: the standard deviation over seeds that an earlier study's
    confirmation found is a good value."""
    min_trials: Annotated[int, Field(ge=5)] = 20
    """Trials that must have reached a common epoch before anything is concluded from them."""

    @model_validator(mode="after")
    def _noise_is_known(self) -> TerminatorConfig:
        if self.name != "none" and self.noise is None:
            raise ValueError(
                f"terminator.noise: {self.name} needs it: the standard deviation over seeds of an earlier study, "
                f"such as 0.01"
            )
        return self


class SearchConfig(Section):
    """How hard to look. Read from `search/*.yaml`; `search/default.yaml` equals these defaults."""

    sampler: SamplerConfig = SamplerConfig()
    also_minimise: tuple[Literal["parameters", "flops", "epoch_seconds"], ...] = ()
    """What the sampler should keep small, besides making the task's own objective good: a Pareto front is searched.

    `parameters` of the model, frozen ones included; `flops` of one clip's forward pass; `epoch_seconds`, the median
    over a trial's epochs, which other trials on the same machine lengthen. Trials are stopped, and the winner is
    chosen, by the task's objective alone.
    """
    scheduler: TrialSchedulerConfig = TrialSchedulerConfig()
    num_trials: PositiveInt = 60
    max_epochs: PositiveInt = 27
    max_total_epochs: PositiveInt | None = None
    """Budget over all trials: no trial starts once so many epochs have been trained."""
    time_budget_seconds: Annotated[float, Field(gt=0)] | None = None
    """No trial starts, and running ones are stopped, after this long. Accepts `90m`, `6h`, `2d`."""
    max_failures: PositiveInt | None = 10
    """So many trials in a row that fail end the search; None lets it go on."""
    terminator: TerminatorConfig = TerminatorConfig()
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

    @field_validator("also_minimise")
    @classmethod
    def _named_once(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(names)) < len(names):
            raise ValueError("name each quantity once")
        return names

    @model_validator(mode="after")
    def _sampler_takes_objectives(self) -> SearchConfig:
        if self.also_minimise and self.sampler.name in ("trees", "cmaes"):
            raise ValueError(
                f"sampler.name: {self.sampler.name} has one objective; with also_minimise take tpe, gp, nsga2, qmc, "
                f"random or grid"
            )
        return self

    @model_validator(mode="after")
    def _grace_period_fits(self) -> SearchConfig:
        if self.scheduler.name != "none" and self.scheduler.grace_period > self.max_epochs:
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
