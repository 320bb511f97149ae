"""Typed YAML: the configuration of one training (`TrainConfig`) and of a search (`SearchConfig`).

Pydantic parses here, once; past this door code takes plain typed values. Frozen, unknown keys rejected.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from fmasearch.errors import ConfigError
from fmasearch.records import Scalar

PositiveInt = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
S = TypeVar("S", bound="Section")


class Section(BaseModel):
    """A frozen block of settings; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class TaskConfig(Section):
    """What is predicted."""

    classification: str
    """Name of the label set in the feature file, e.g. `genre`."""
    objective: Literal["macro_f1", "accuracy", "balanced_accuracy"] = "macro_f1"
    """Validation metric that the search maximises."""


class LossConfig(Section):
    """How a prediction's error is weighed in training; validation loss stays the plain one, equal for every trial."""

    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of a target that is spread evenly over all classes (Szegedy et al., 2016)."""
    class_weights: Literal["none", "balanced", "sqrt", "effective"] = "none"
    """Weight of a class with n training tracks: 1, 1/n, 1/sqrt(n), or 1/effective number of tracks; mean 1 a track."""
    effective_beta: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """effective: beta of (1 - beta**n) / (1 - beta) (Cui et al., CVPR 2019)."""


class OptimizerConfig(Section):
    name: Literal["adam", "adamw", "sgd"] = "adamw"
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.0
    """L2 penalty for adam and sgd, decoupled decay for adamw; biases and norms are exempt under adamw only."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """sgd."""
    nesterov: bool = True
    """sgd: look ahead; needs a momentum above 0."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Each block below the head learns at so much of the rate of the block above it (Howard & Ruder, 2018)."""


class SchedulerConfig(Section):
    """The learning-rate schedule, stepped once an epoch but for one_cycle. It ignores the keys that are not its own."""

    name: Literal["constant", "plateau", "step", "cosine", "one_cycle", "step_plateau"] = "constant"
    """`step_plateau` multiplies the factors of both, as the reference report trained."""
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """plateau: multiplies the learning rate when validation loss stops falling."""
    patience: Annotated[int, Field(ge=0)] = 3
    """plateau: epochs without improvement that are tolerated."""
    threshold: Annotated[float, Field(ge=0)] = 1e-4
    threshold_mode: Literal["rel", "abs"] = "rel"
    cooldown: Annotated[int, Field(ge=0)] = 0
    """plateau: epochs after a reduction in which none is counted."""
    step_size: PositiveInt = 10
    """step: epochs between two multiplications by `gamma`."""
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.7
    warmup_epochs: Annotated[int, Field(ge=0)] = 0
    """cosine: epochs of linear warm-up."""
    warmup_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """one_cycle: share of all steps on which the rate rises, from 1/25 of `learning_rate` to all of it."""


class CropConfig(Section):
    """Short random crops in training, several crops a track in evaluation (Won et al., 2020)."""

    frames: PositiveInt | None = None
    """Frames of a crop; None trains on whole clips."""
    num_eval: Annotated[int, Field(ge=1, le=64)] = 4
    """Crops of a track in evaluation, evenly spaced; a track's prediction is the mean over them."""


class AugmentConfig(Section):
    """What happens to training batches: shift, gain, SpecAugment, mixup, in this order."""

    probability: Fraction = 1.0
    """Chance of each clip to be shifted, amplified and masked at all."""
    num_freq_masks: Annotated[int, Field(ge=0, le=8)] = 0
    freq_mask_bins: Annotated[int, Field(ge=0)] = 10
    """Frequency masks are narrower than this many feature bins; masked cells take the training mean."""
    num_time_masks: Annotated[int, Field(ge=0, le=8)] = 0
    time_mask_frames: Annotated[int, Field(ge=0)] = 20
    """Time masks are shorter than this many frames."""
    shift_fraction: Fraction = 0.0
    """A clip is rolled by up to this share of its own length, either way."""
    gain_db: Annotated[float, Field(ge=0, le=24)] = 0.0
    """A clip is made louder or softer by up to this many dB; feature sets that are not in dB stay as they are."""
    mixup_alpha: Annotated[float, Field(ge=0, le=8)] = 0.0
    """Clips are blended in pairs by shares from Beta(alpha, alpha) (Zhang et al., ICLR 2018); 0 blends none."""


class TrainerConfig(Section):
    batch_size: PositiveInt = 32
    accumulation_steps: PositiveInt = 1
    """Batches whose gradients are averaged into one step of the optimiser."""
    max_epochs: PositiveInt = 30
    patience: PositiveInt | None = None
    """Epochs without a better objective before training ends; None never ends early, nor does one_cycle."""
    grad_clip_norm: Annotated[float, Field(gt=0)] | None = None
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Judge and keep an exponential moving average of the weights: so much stays at each step, less at first."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`auto` is bf16 autocast on a GPU and fp32 elsewhere."""


class TransferConfig(Section):
    """Start from a trained model, and how much of it to keep as it is."""

    init_from: str | None = None
    """A model file whose matching tensors are loaded; None starts from fresh weights."""
    freeze: Annotated[str, Field(pattern=r"^(none|backbone|all_but_last\([1-9][0-9]*\))$")] = "none"
    """`backbone` trains the head alone, `all_but_last(2)` the head and the last two blocks below it."""


class TrainConfig(Section):
    """Everything that decides one training, but for the data."""

    features: tuple[str, ...] = ("mel",)
    """Feature sets of the file, joined along bins in this order."""
    task: TaskConfig
    model: dict[str, Scalar]
    """`architecture`, and hyperparameters named as in that architecture's signature."""
    loss: LossConfig = LossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    scheduler: SchedulerConfig = SchedulerConfig()
    crop: CropConfig = CropConfig()
    augment: AugmentConfig = AugmentConfig()
    trainer: TrainerConfig = TrainerConfig()
    transfer: TransferConfig = TransferConfig()
    seed: Annotated[int, Field(ge=0)] = 0

    @field_validator("features", mode="before")
    @classmethod
    def _one_feature_is_a_list(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @field_validator("features")
    @classmethod
    def _some_features_and_none_twice(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or len(set(value)) != len(value):
            raise ValueError("name at least one feature set, and none twice")
        return value

    @field_validator("model", mode="before")
    @classmethod
    def _hyperparameters_are_single_values(cls, value: object) -> object:
        # Pydantic would report a list four times, as neither a str, an int, a float nor a bool.
        for key, item in value.items() if isinstance(value, Mapping) else ():
            if not (item is None or isinstance(item, str | int | float)):
                raise ValueError(f"{key}: expected a single value, got {item!r}")
        return value

    @field_validator("model")
    @classmethod
    def _model_names_its_architecture(cls, value: dict[str, Scalar]) -> dict[str, Scalar]:
        architecture = value.get("architecture")
        if not (architecture and isinstance(architecture, str)):
            raise ValueError("must name an `architecture`")
        return value

    @property
    def architecture(self) -> str:
        return str(self.model["architecture"])

    @property
    def hyperparameters(self) -> dict[str, Scalar]:
        """The model's keyword arguments: everything in `model` but the architecture's name."""
        return {key: value for key, value in self.model.items() if key != "architecture"}


class SamplerConfig(Section):
    name: Literal["tpe", "random", "grid"] = "tpe"
    num_startup_trials: PositiveInt | None = None
    """tpe: random trials before it models; None is max(10, twice the concurrency)."""


class TrialSchedulerConfig(Section):
    """How weak trials are stopped: asynchronous successive halving (Li et al., MLSys 2020), or not at all."""

    name: Literal["asha", "none"] = "asha"
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


def load_train_config(path: str | Path) -> TrainConfig:
    """Read one training configuration, such as a study's `best.yaml`."""
    return parse_section(TrainConfig, load_yaml(path), source=str(path))


def parse_section(section: type[S], values: Mapping[str, Any], *, source: str) -> S:
    """Validate `values` as a `section`; every problem becomes one line of one `ConfigError`."""
    try:
        return section.model_validate(dict(values))
    except ValidationError as error:
        lines = [f"{source}: {explain(section, problem)}" for problem in error.errors()]
        raise ConfigError("\n".join(lines)) from None


def explain(section: type[BaseModel], problem: Any) -> str:
    """One pydantic problem in words: key, what was expected, what came, and the nearest known key."""
    key = ".".join(str(part) for part in problem["loc"] if not str(part).startswith("function-"))
    if problem["type"] == "extra_forbidden":
        known = sorted(_fields_at(section, problem["loc"][:-1]))
        return f"{key}: unknown key{did_you_mean(str(problem['loc'][-1]), known)}"
    if problem["type"] == "missing":
        return f"{key}: required, but absent"
    message = problem["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    prefix = f"{key}: " if key else ""
    shown = problem.get("input")
    return f"{prefix}{message}" + ("" if isinstance(shown, Mapping | BaseModel) else f", got {shown!r}")


def did_you_mean(word: str, known: list[str]) -> str:
    """`; did you mean 'x'?` when something close is known, else the list of what is."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known here: {', '.join(known)}" if known else ""


def derive_seed(study_seed: int, *parts: str | int) -> int:
    """A seed that depends only on the study's seed and on what it is for: 0 <= seed < 2**31, equal everywhere."""
    text = "/".join(str(part) for part in (study_seed, *parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


def load_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML mapping. `1e-4` is a number, a key given twice is an error.

    Raises:
        ConfigError: if the file is missing, is not YAML, or is not a mapping.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"{path}: cannot be read: {reason}") from None
    return parse_yaml(text, source=str(path))


def parse_yaml(text: str, *, source: str) -> dict[str, Any]:
    """`load_yaml` for text; `source` names it in errors."""
    try:
        values = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{source}: expected a mapping of keys to values, got {type(values).__name__}")
    return values


def _fields_at(section: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """Names of the fields of the section that `loc` leads to."""
    for part in loc:
        field = section.model_fields.get(str(part))
        annotation = field.annotation if field else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        section = annotation
    return list(section.model_fields)


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2 floats and no silent overwriting of repeated keys."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue  # `<<: *other` fills in what is not given here, so it repeats keys on purpose
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise yaml.constructor.ConstructorError(None, None, f"{key!r} cannot be a key", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


# PyYAML follows YAML 1.1, where "1e-4" is a string; YAML 1.2 and everybody else call it a number.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9]+)[eE][-+]?[0-9]+$"),
    list("-+0123456789."),
)
