"""The configuration of one training."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from fmasearch.config.sections import Fraction, PositiveInt, Section, parse_section
from fmasearch.config.yaml_files import load_yaml
from fmasearch.records import Scalar

CLASS_METRICS = ("macro_f1", "accuracy", "balanced_accuracy")
TARGET_METRICS = ("spearman", "pearson", "r2", "ccc", "mse", "mae", "rmse")
ERRORS = ("mse", "mae", "rmse")
"""Metrics of which less is better."""
_TAKEN = ("mean", "clip")
"""`val_mean` is the mean over parts, `clip_<metric>` is of single crops."""


class TaskConfig(Section):
    """What is predicted: one of `classification`, `regression` and `multitask`."""

    classification: str | None = None
    """Name of the label set in the feature file, e.g. `genre`."""
    regression: tuple[str, ...] = ()
    """Names of numeric labels in the feature file, as in `[valence, energy, danceability]`."""
    multitask: dict[str, str | tuple[str, ...]] = Field(default={})
    """Parts by names of your own, predicted from one backbone, as in `{genre: genre, emotion: [valence, energy]}`:
    a label set is named, and numeric labels are listed, be it one; at most one part is a label set."""
    objective: str | None = None
    """Validation metric that the search optimises. Classification: macro_f1 (the default), accuracy or
    balanced_accuracy. Regression: spearman (the default), pearson, r2, ccc, mse, mae or rmse, the mean over the
    targets or that of one, as in `valence_spearman`. Multitask: mean (the default), of the parts' macro_f1 and
    spearman, or the name of one part."""

    @field_validator("regression", mode="before")
    @classmethod
    def _one_target_is_a_list(cls, value: object) -> object:
        return _listed(value)

    @field_validator("multitask", mode="before")
    @classmethod
    def _parts_are_names_and_lists(cls, value: object) -> object:
        # Pydantic would report a wrong part twice, as neither a text nor a list.
        for name, labels in value.items() if isinstance(value, Mapping) else ():
            if not labels or not isinstance(labels, str | list | tuple) or not all(isinstance(x, str) for x in labels):
                raise ValueError(f"{name}: expected a label set, or a list of numeric labels, got {labels!r}")
        return value

    @field_validator("multitask")
    @classmethod
    def _parts_go_together(cls, value: dict[str, str | tuple[str, ...]]) -> dict[str, str | tuple[str, ...]]:
        if value and (len(value) < 2 or sum(isinstance(labels, str) for labels in value.values()) > 1):
            raise ValueError(
                f"expected two parts or more, at most one of them a label set (its name) and the others lists of "
                f"numeric labels, got {_shown(value)}"
            )
        if taken := [name for name in value if _is_taken(name)]:
            raise ValueError(f"{taken[0]}: this word is taken by metrics; call the part something else")
        return value

    @field_validator("objective")
    @classmethod
    def _objective_is_measured(cls, value: str | None, info: ValidationInfo) -> str | None:
        task = {key: found for key, found in info.data.items() if found}
        if value is None or len(task) != 1:  # what is wrong then is said elsewhere
            return value
        known: tuple[str, ...]
        if "classification" in task:
            known, others = CLASS_METRICS, ""
        elif "multitask" in task:
            known, others = ("mean", *task["multitask"]), ""
        else:
            of_one = [f"{target}_{metric}" for target in task["regression"] for metric in TARGET_METRICS]
            known, others = (*TARGET_METRICS, *of_one), f", of all targets or of one, as in {of_one[0]}"
        if value not in known:
            raise ValueError(f"expected one of {', '.join(known[: len(TARGET_METRICS)] if others else known)}{others}")
        return value

    @model_validator(mode="after")
    def _exactly_one_kind(self) -> TaskConfig:
        given = [name for name in ("classification", "regression", "multitask") if getattr(self, name)]
        if len(given) != 1:
            found = " and ".join(given) or "none of them"
            raise ValueError(f"expected one of classification, regression and multitask, got {found}")
        return self

    @model_validator(mode="after")
    def _parts_can_be_told_apart(self) -> TaskConfig:
        if len(set(self.targets)) < len(self.targets) or self.label in self.targets:
            raise ValueError(
                f"expected every label once, got {', '.join([*filter(None, [self.label]), *self.targets])}"
            )
        if taken := set(self.multitask) & set(self.targets):
            raise ValueError(f"multitask: a part may not be called like a numeric label, got {', '.join(taken)}")
        if named := [target for target in self.targets if _is_taken(target)]:
            raise ValueError(
                f"a numeric label may not be called {named[0]}: {named[0]}_spearman would read as another metric; "
                f"make the feature file with another name for it"
            )
        return self

    @property
    def label(self) -> str | None:
        """The label set that is classified, if any is."""
        return self.classification or next((part for part in self.multitask.values() if isinstance(part, str)), None)

    @property
    def targets(self) -> tuple[str, ...]:
        """The numeric labels that are predicted, in the order of the outputs."""
        return self.regression or tuple(
            target for part in self.multitask.values() if not isinstance(part, str) for target in part
        )

    @property
    def parts(self) -> dict[str, str | tuple[str, ...]]:
        """Parts by name, the classification first, as the outputs are; a single task is one part."""
        if not self.multitask:
            return {self.classification: self.classification} if self.classification else {"targets": self.regression}
        classes_first = sorted(self.multitask.items(), key=lambda item: not isinstance(item[1], str))
        return dict(classes_first)

    @property
    def objective_metric(self) -> str:
        """`objective`, or the default of this kind of task."""
        if self.objective is not None:
            return self.objective
        return "macro_f1" if self.classification else "spearman" if self.regression else "mean"

    @property
    def objective_mode(self) -> Literal["max", "min"]:
        return "min" if self.regression and self.objective_metric.endswith(ERRORS) else "max"


class GenresConfig(Section):
    """Which classes a study tells apart, of the label set that the task classifies, whatever it is called.

    Merging comes first, then dropping; the classes that are left are in alphabetical order. Without any of it the
    file's classes stay as they are.
    """

    merge: dict[str, tuple[str, ...]] = Field(default={})
    """New name: the classes of the label set that it is made of, as in `{Rock: [Rock, Post-Rock]}`; classes
    that are not named stay."""
    drop: tuple[str, ...] = ()
    """Classes whose tracks lose this label, and are left out as unlabelled tracks are."""
    min_tracks: Annotated[int, Field(ge=0)] = 0
    """Classes with fewer tracks in the training split are dropped, after merging; other splits decide nothing."""

    @field_validator("merge", mode="before")
    @classmethod
    def _one_source_is_a_list(cls, value: object) -> object:
        return {name: _listed(sources) for name, sources in value.items()} if isinstance(value, Mapping) else value

    @field_validator("drop", mode="before")
    @classmethod
    def _one_class_is_a_list(cls, value: object) -> object:
        return _listed(value)

    @field_validator("merge")
    @classmethod
    def _a_class_goes_to_one_place(cls, value: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        into: dict[str, str] = {}
        for name, sources in value.items():
            if not sources:
                raise ValueError(f"expected the classes that {name} is made of, got none")
            for source in sources:
                if source in into:
                    twice = f"twice into {name}" if into[source] == name else f"into {into[source]} and into {name}"
                    raise ValueError(f"a class may be named once, but {source} is merged {twice}")
                into[source] = name
        return value

    @model_validator(mode="after")
    def _nothing_is_both_merged_and_dropped(self) -> GenresConfig:
        for name, sources in self.merge.items():
            if both := [each for each in (*sources, name) if each in self.drop]:
                raise ValueError(f"a class is either merged or dropped, but {both[0]} is in merge.{name} and in drop")
        return self


class LossConfig(Section):
    """How a prediction's error is weighed in training; validation loss stays the plain one.

    It is equal for every trial but for `regression_weight`, by which parts of a multitask are summed there, too.
    """

    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of a target that is spread evenly over all classes (Szegedy et al., 2016)."""
    class_weights: Literal["none", "balanced", "sqrt", "effective"] = "none"
    """Weight of a class with n training tracks: 1, 1/n, 1/sqrt(n), or 1/effective number of tracks; mean 1 a track."""
    effective_beta: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """effective: beta of (1 - beta**n) / (1 - beta) (Cui et al., CVPR 2019)."""
    regression: Literal["mse", "mae", "huber", "ccc"] = "mse"
    """Error of numeric targets, which are standardised by their training tracks; ccc is 1 - Lin's concordance."""
    huber_delta: Annotated[float, Field(gt=0)] = 1.0
    """huber: beyond so many standard deviations an error counts linearly."""
    weighting: Literal["fixed", "uncertainty"] = "fixed"
    """multitask: how parts are weighed: by `regression_weight`, or by variances that are learned with the model
    (Kendall et al., CVPR 2018)."""
    regression_weight: Annotated[float, Field(ge=0)] = 1.0
    """multitask, fixed: weight of every part with numeric targets; classification weighs 1."""


class OptimizerConfig(Section):
    """Which rule moves the weights."""

    name: Literal["adam", "adamw", "sgd"] = "adamw"
    """Adam, Adam with decoupled weight decay, or stochastic gradient descent with momentum."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1e-3
    """Of the head at the start, or, under one_cycle, at the peak."""
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.0
    """L2 penalty for adam and sgd, decoupled decay for adamw; biases and norms are exempt under adamw only."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """sgd: share of the last step that goes on; one_cycle sets its own."""
    nesterov: bool = True
    """sgd: look ahead; needs a momentum above 0."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Each block below the head learns at so much of the rate of the block above it (Howard & Ruder, 2018)."""


class SchedulerConfig(Section):
    """The learning-rate schedule, stepped once an epoch but for one_cycle. It ignores the keys that are not its own."""

    name: Literal["constant", "plateau", "step", "cosine", "one_cycle", "step_plateau"] = "constant"
    """`step_plateau` multiplies the factors of both, as the reference report trained; `one_cycle` also moves momentum,
    or Adam's first beta, from 0.95 to 0.85 and back."""
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """plateau: multiplies the learning rate when validation loss stops falling."""
    patience: Annotated[int, Field(ge=0)] = 3
    """plateau: epochs without improvement that are tolerated."""
    threshold: Annotated[float, Field(ge=0)] = 1e-4
    """plateau: a smaller fall of the validation loss is no improvement."""
    threshold_mode: Literal["rel", "abs"] = "rel"
    """plateau: whether `threshold` is a share of the best loss, or a difference from it."""
    cooldown: Annotated[int, Field(ge=0)] = 0
    """plateau: epochs after a reduction in which none is counted."""
    step_size: PositiveInt = 10
    """step: epochs between two multiplications by `gamma`."""
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.7
    """step: what the learning rate is multiplied by."""
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

    def input_frames(self, num_frames: int) -> int:
        """Most frames that a model gets to see of tracks of `num_frames`."""
        return num_frames if self.frames is None else min(self.frames, num_frames)


class AugmentConfig(Section):
    """What happens to training batches: shift, gain, SpecAugment, mixup, in this order."""

    probability: Fraction = 1.0
    """Chance of each clip to be shifted, amplified and masked at all."""
    num_freq_masks: Annotated[int, Field(ge=0, le=8)] = 0
    """SpecAugment: bands of feature bins that are blanked."""
    freq_mask_bins: Annotated[int, Field(ge=0)] = 10
    """Frequency masks are narrower than this many feature bins; masked cells take the training mean."""
    num_time_masks: Annotated[int, Field(ge=0, le=8)] = 0
    """SpecAugment: stretches of frames that are blanked."""
    time_mask_frames: Annotated[int, Field(ge=0)] = 20
    """Time masks are shorter than this many frames."""
    shift_fraction: Fraction = 0.0
    """A clip is rolled by up to this share of its own length, either way."""
    gain_db: Annotated[float, Field(ge=0, le=24)] = 0.0
    """A clip is made louder or softer by up to this many dB; feature sets that are not in dB stay as they are."""
    mixup_alpha: Annotated[float, Field(ge=0, le=8)] = 0.0
    """Clips are blended in pairs by shares from Beta(alpha, alpha) (Zhang et al., ICLR 2018); 0 blends none."""


class TrainerConfig(Section):
    """The loop over epochs and batches."""

    batch_size: PositiveInt = 32
    """Tracks of a batch."""
    accumulation_steps: PositiveInt = 1
    """Batches whose gradients are averaged into one step of the optimiser."""
    max_epochs: PositiveInt = 30
    """Length of the training, and of cosine and one_cycle."""
    patience: PositiveInt | None = None
    """Epochs without a better objective before training ends; None never ends early, nor does one_cycle."""
    grad_clip_norm: Annotated[float, Field(gt=0)] | None = None
    """Longest gradient over all parameters; longer ones are scaled down to it."""
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Judge and keep an exponential moving average of the weights: so much stays at each step, less at first."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`auto` is bf16 autocast on a GPU and fp32 elsewhere."""


class TransferConfig(Section):
    """Start from a trained model, and how much of it to keep as it is."""

    init_from: str | None = None
    """A model file whose matching tensors are loaded; None starts from fresh weights."""
    freeze: str = "none"
    """`backbone` trains the head alone, `all_but_last(2)` the head and the last two blocks below it."""

    @field_validator("freeze")
    @classmethod
    def _freeze_is_a_policy(cls, value: str) -> str:
        if not re.fullmatch(r"none|backbone|all_but_last\([1-9][0-9]*\)", value):
            raise ValueError("expected none, backbone, or all_but_last(n) with a number n of blocks")
        return value


class TrainConfig(Section):
    """Everything that decides one training, but for the data."""

    features: tuple[str, ...] = ("mel",)
    """Feature sets of the file, joined along bins in this order."""
    task: TaskConfig
    genres: GenresConfig = GenresConfig()
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
        return _listed(value)

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


def _listed(value: object) -> object:
    """One name may stand where a list of names does."""
    return (value,) if isinstance(value, str) else value


def _is_taken(name: str) -> bool:
    """Whether the metrics of a part or label of this name could be taken for others."""
    return name in _TAKEN or name.startswith("clip_")


def _shown(parts: Mapping[str, str | tuple[str, ...]]) -> str:
    """As it stands in YAML."""
    shown = [
        f"{name}: {part}" if isinstance(part, str) else f"{name}: [{', '.join(part)}]" for name, part in parts.items()
    ]
    return f"{{{', '.join(shown)}}}"


def load_train_config(path: str | Path) -> TrainConfig:
    """Read one training configuration, such as a study's `best.yaml`."""
    return parse_section(TrainConfig, load_yaml(path), source=str(path))
