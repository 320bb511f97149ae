"""Plain frozen values that travel between floors: objective, epoch, trial and study records.

Nothing here imports torch, ray, mlflow or optuna, so that a record can be read anywhere.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Literal, TypeAlias

Scalar: TypeAlias = str | int | float | bool | None
Params: TypeAlias = Mapping[str, Scalar]

COSTS = ("parameters", "flops", "epoch_seconds")
"""What a search may minimise besides its task's objective; of `epoch_seconds` the median over a trial's epochs."""


@dataclass(frozen=True, slots=True)
class Objective:
    """A metric and its direction, which never travel apart."""

    metric: str
    mode: Literal["max", "min"] = "max"

    def better(self, candidate: float, incumbent: float) -> bool:
        """Whether `candidate` beats `incumbent`; NaN never does, and anything finite beats NaN."""
        if math.isnan(candidate):
            return False
        if math.isnan(incumbent):
            return True
        return candidate > incumbent if self.mode == "max" else candidate < incumbent

    @property
    def worst(self) -> float:
        return -math.inf if self.mode == "max" else math.inf


class TrialState(StrEnum):
    """The state of a trial; Optuna, MLflow and the record agree on it."""

    RUNNING = "running"
    COMPLETED = "completed"  # ran to max_epochs, or ended by its own patience
    PRUNED = "pruned"  # stopped early by the scheduler
    FAILED = "failed"  # diverged, or raised


@dataclass(frozen=True, slots=True)
class EpochResult:
    """What one epoch of training gave. `epoch` counts from 1; `best_*` look back over all epochs so far."""

    epoch: int
    metrics: Mapping[str, float]
    learning_rate: float
    epoch_seconds: float
    objective: float
    best_objective: float
    best_epoch: int
    finished: bool = False
    node: str = ""
    """Address of the node that trained it; empty on a single machine."""

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "metrics": dict(self.metrics)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> EpochResult:
        return cls(**values)


@dataclass(frozen=True, slots=True)
class TargetStats:
    """A numeric label, and its mean and standard deviation over the training tracks, in its own unit."""

    name: str
    mean: float
    std: float


@dataclass(frozen=True, slots=True)
class TrialStart:
    """A trial about to run. `params` are the sampled values by path, `config` the whole nested configuration."""

    number: int
    name: str
    params: Params
    config: Mapping[str, Any]
    seed: int
    label: str | None = None  # the name of a known-good point, if it is one
    costs: Mapping[str, float] = field(default_factory=dict)
    """What was counted of its model, where a search minimises it: `parameters`, `flops`."""


@dataclass(frozen=True, slots=True)
class TrialRecord:
    """A trial that ended, with its whole learning curve."""

    start: TrialStart
    state: TrialState
    epochs: tuple[EpochResult, ...]
    seconds: float
    error: str | None = None

    @property
    def name(self) -> str:
        return self.start.name

    @property
    def best(self) -> EpochResult | None:
        """The epoch with the best objective (the first of equals); None if no epoch ended."""
        if not self.epochs:
            return None
        best_epoch = self.epochs[-1].best_epoch
        return next((e for e in self.epochs if e.epoch == best_epoch), self.epochs[-1])

    def value(self, objective: Objective) -> float | None:
        """Its best value of the study's own objective, or what it cost; None if that is not known."""
        if objective.metric == "epoch_seconds":
            return statistics.median(e.epoch_seconds for e in self.epochs) if self.epochs else None
        if objective.metric in COSTS:
            return self.start.costs.get(objective.metric)
        return self.best.objective if self.best else None

    def to_json(self) -> dict[str, Any]:
        start = asdict(self.start)
        return {
            **start,
            "params": dict(self.start.params),
            "costs": dict(self.start.costs),
            "config": dict(self.start.config),
            "state": str(self.state),
            "seconds": self.seconds,
            "error": self.error,
            "epochs": [epoch.to_json() for epoch in self.epochs],
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> TrialRecord:
        rest = dict(values)
        epochs = tuple(EpochResult.from_json(e) for e in rest.pop("epochs"))
        state = TrialState(rest.pop("state"))
        seconds, error = rest.pop("seconds"), rest.pop("error")
        return cls(TrialStart(**rest), state, epochs, seconds, error)


@dataclass(frozen=True, slots=True)
class ConfirmRecord:
    """One configuration retrained over several seeds; `curves` holds one trial record per seed."""

    trial: str  # the name of the search trial it came from
    params: Params
    config: Mapping[str, Any]
    curves: tuple[TrialRecord, ...]

    @property
    def objectives(self) -> tuple[float, ...]:
        """Best validation objective of every seed that did not fail."""
        return tuple(c.best.objective for c in self.curves if c.best and c.state is not TrialState.FAILED)

    @property
    def mean(self) -> float:
        values = self.objectives
        return sum(values) / len(values) if values else math.nan

    @property
    def std(self) -> float:
        """Sample standard deviation over seeds; 0 for one seed, NaN for none."""
        values = self.objectives
        if len(values) < 2:
            return 0.0 if values else math.nan
        return math.sqrt(sum((v - self.mean) ** 2 for v in values) / (len(values) - 1))

    @property
    def best_epochs(self) -> tuple[int, ...]:
        return tuple(c.best.epoch for c in self.curves if c.best and c.state is not TrialState.FAILED)


@dataclass(frozen=True, slots=True)
class Interval:
    """A point estimate with its bootstrap confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Lead:
    """How far the best confirmed configuration is ahead of another one on the validation tracks."""

    trial: str
    other: str
    difference: Interval | None
    """Mean objective of `trial` over its seeds minus that of `other`; None if it could not be computed."""
    num_tracks: int = 0
    resampled_by: Literal["artist", "track"] = "track"
    num_seeds: tuple[int, int] = (0, 0)
    reason: str = ""
    """Why there is no difference."""

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.difference is not None and not self.difference.low <= 0 <= self.difference.high


@dataclass(frozen=True, slots=True)
class Look:
    """A look at a study's test split through one of its models, other than the study's own test."""

    time: str  # ISO 8601, UTC
    by: str  # the command's name
    command: str  # the whole of it, without passwords
    split: str  # "test", or "all", which holds it
    data_sha256: str


@dataclass(frozen=True, slots=True)
class ClassScore:
    """One row of the per-class report."""

    name: str
    precision: float
    recall: float
    f1: float
    support: int
    predicted: int  # how often the class was predicted; 0 is shown as "never predicted"


@dataclass(frozen=True, slots=True)
class TestReport:
    """A model judged on a split it did not see. `confusion[i][j]`: true class i, predicted class j.

    Metrics are of tracks; `clip_<metric>` are of the single crops that were combined to a track's prediction.
    """

    __test__ = False  # not a pytest class

    split: str
    num_tracks: int
    metrics: Mapping[str, float]  # accuracy, macro_f1, ... of classes; spearman, valence_rmse, ... of targets
    intervals: Mapping[str, Interval]  # the same names, 95 % bootstrap
    resampled_by: Literal["artist", "track"]
    classes: tuple[ClassScore, ...] = ()
    confusion: tuple[tuple[int, ...], ...] = ()
    baseline: Mapping[str, float] = field(default_factory=dict)
    """What the same metrics give who always answers the training split's largest class, or its mean."""

    def headline(self, objective: Objective) -> str:
        """The one metric to name first: accuracy, which everybody knows, or what the study searched for."""
        return "accuracy" if "accuracy" in self.metrics else objective.metric.removeprefix("val_")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> TestReport:
        rest = dict(values)
        rest["intervals"] = {name: Interval(**interval) for name, interval in rest["intervals"].items()}
        rest["classes"] = tuple(ClassScore(**row) for row in rest["classes"])
        rest["confusion"] = tuple(tuple(row) for row in rest["confusion"])
        if "majority_accuracy" in rest:  # of before there were tasks without classes
            rest["baseline"] = {"accuracy": rest.pop("majority_accuracy")}
        return cls(**rest)


@dataclass(frozen=True, slots=True)
class FinalRecord:
    """The winner, retrained and tested once."""

    trial: str
    config: Mapping[str, Any]
    trained_on: str  # "train" or "train+val"
    epochs: int  # the confirmed number of epochs
    curve: tuple[EpochResult, ...]
    validation: Mapping[str, float]  # empty when trained on train+val
    test: TestReport
    num_parameters: int
    model_file: str
    seconds: float
    origin: str | None = None  # the weights that training started from, in words; None if all were fresh
    earlier_tests: tuple[str, ...] = ()  # who had opened this test split before, of the same runs folder

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "curve": [epoch.to_json() for epoch in self.curve]}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> FinalRecord:
        rest = dict(values)
        rest["curve"] = tuple(EpochResult.from_json(epoch) for epoch in rest["curve"])
        rest["test"] = TestReport.from_json(rest["test"])
        rest["earlier_tests"] = tuple(rest.get("earlier_tests", ()))
        return cls(**rest)


@dataclass(frozen=True, slots=True)
class StudyRecord:
    """Everything a report needs: what was searched, on what, at which cost, and what was found."""

    name: str
    space_name: str
    search_name: str
    objective: Objective
    command: str
    space_text: str  # the space file as it was read
    search: Mapping[str, Any]  # every setting of the search, defaults filled in
    data: Mapping[str, Any]  # path, sha256, corpus, tracks per split, class names, features
    environment: Mapping[str, str]  # versions, device, commit, cores
    trials: tuple[TrialRecord, ...]
    confirmed: tuple[ConfirmRecord, ...] = ()  # best first
    final: FinalRecord | None = None
    search_seconds: float = 0.0
    tags: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    """What happened to the study: it was extended, started warm, or ended before its trials were used up."""
    leads: tuple[Lead, ...] = ()
    """Of the best confirmed configuration over each other one."""
    looks: tuple[Look, ...] = ()
    """At the test split, beside the study's own."""

    def count(self, state: TrialState) -> int:
        return sum(trial.state is state for trial in self.trials)

    @property
    def num_epochs(self) -> int:
        """Epochs trained in the search, over all trials."""
        return sum(len(trial.epochs) for trial in self.trials)

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """The study's own objective, then what its sampler kept small besides (`also_minimise` of the search)."""
        return (self.objective, *(Objective(name, "min") for name in self.search.get("also_minimise", ())))

    def ranked(self) -> tuple[TrialRecord, ...]:
        """Trials that did not fail, best objective first."""
        scored = [t for t in self.trials if t.best is not None and t.state is not TrialState.FAILED]
        sign = -1.0 if self.objective.mode == "max" else 1.0
        return tuple(sorted(scored, key=lambda t: (sign * _objective_of(t), t.start.number)))


def pareto_front(trials: Iterable[TrialRecord], objectives: Sequence[Objective]) -> tuple[TrialRecord, ...]:
    """Trials that no other one beats: none is at least as good in every objective, and better in one.

    A trial that was stopped early takes part with what it had reached (it is a model that one can have); one that
    failed, or of which a value is not known or NaN, does not.

    Returns:
        Best first by the first objective; equal ones in the order of their numbers.
    """
    points = {
        trial.name: (trial, values)
        for trial in trials
        if trial.state is not TrialState.FAILED and (values := _losses(trial, objectives)) is not None
    }
    front = [
        (values, trial.start.number, trial)
        for trial, values in points.values()
        if not any(_dominates(other, values) for _, other in points.values())
    ]
    return tuple(trial for _, _, trial in sorted(front, key=lambda entry: entry[:2]))


def _losses(trial: TrialRecord, objectives: Sequence[Objective]) -> tuple[float, ...] | None:
    """The trial's values, turned so that less is better."""
    values = [trial.value(objective) for objective in objectives]
    known = [value for value in values if value is not None and not math.isnan(value)]
    if len(known) < len(objectives):
        return None
    return tuple(value if each.mode == "min" else -value for each, value in zip(objectives, known, strict=True))


def _dominates(left: tuple[float, ...], right: tuple[float, ...]) -> bool:
    return left != right and all(one <= other for one, other in zip(left, right, strict=True))


def _objective_of(trial: TrialRecord) -> float:
    assert trial.best is not None
    return trial.best.objective
