"""A forecast of a search: how many epochs, how many hours, from an earlier study, a probe, or curves made up."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from fmasearch.cli import environment
from fmasearch.cli.earlier_studies import EarlierStudy, find_earlier
from fmasearch.cli.folders import Folders
from fmasearch.config import SearchConfig
from fmasearch.data import DataSpec
from fmasearch.planning import (
    FASTEST,
    SLOWEST,
    Expectation,
    Range,
    drawn_from_records,
    drawn_from_samples,
    expect,
    recorded_curves,
    synthetic_curves,
)
from fmasearch.ray_session import num_local_cpus
from fmasearch.space import Space

_PACES = (0.8, 0.9, 1.0, 1.1, 1.2)
"""Of trials of which no seconds are known: they overtake each other all the same."""

_MOST_TRIALS_OF_A_LINE = 300


@dataclass(frozen=True, slots=True)
class Place:
    """Where trials would run on this machine."""

    device: str
    name: str
    gpu_share: float
    """Of one trial."""
    num_threads: int
    concurrency: int
    cpus: int
    gpus: int

    @property
    def unit(self) -> str:
        """What its hours are counted in."""
        return "core" if self.device == "cpu" else "GPU"

    @property
    def is_elsewhere(self) -> bool:
        """Whether the search asks for a GPU, and there is none here."""
        return self.gpu_share > 0 and self.device == "cpu"


@dataclass(frozen=True, slots=True)
class Epochs:
    """Seconds of an epoch as a probe gives them: of samples, of the points that start first, and how sure that is."""

    samples: tuple[float, ...]
    first: tuple[float, ...]
    ratios: tuple[float, ...]
    """Measured over predicted, of each probe."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """What is expected, and what it rests on."""

    expectation: Expectation
    search: SearchConfig
    place: Place
    num_trials: int
    earlier: EarlierStudy | None
    probed: bool
    """Whether seconds of an epoch come from a probe."""

    @property
    def recorded(self) -> bool:
        """Whether they come from an earlier study."""
        return self.earlier is not None and self.earlier.tells_seconds

    @property
    def earlier_name(self) -> str:
        return "" if self.earlier is None else self.earlier.record.name

    @property
    def recorded_seconds(self) -> float:
        """The median over an earlier study's trials of the median of an epoch; NaN if there is no such study."""
        trials = [] if self.earlier is None else [trial.epochs for trial in self.earlier.record.trials if trial.epochs]
        medians = [statistics.median(epoch.epoch_seconds for epoch in epochs) for epochs in trials]
        return statistics.median(medians) if medians else math.nan

    @property
    def knows_seconds(self) -> bool:
        return self.recorded or self.probed

    @property
    def stops(self) -> bool:
        return self.search.scheduler.name != "none"

    def epochs(self, *, stopped: bool) -> Range:
        return self.expectation.epochs(stopped=stopped)

    def device_hours(self, *, stopped: bool) -> Range:
        """Hours of cores on a CPU, of GPUs on a GPU. See `_device_hours`."""
        of_trial = self.search.resources.cpu if self.place.device == "cpu" else max(1.0, self.place.gpu_share)
        most = self._budget_hours * self.place.concurrency * of_trial
        return self._device_hours(self.expectation.trial_seconds(stopped=stopped)).capped(most)

    def finish_hours(self) -> Range:
        """The same of confirmation and final training, at most."""
        return self._device_hours(self.expectation.finish_seconds())

    def wall_hours(self, *, stopped: bool) -> Range:
        return self._hours(self.expectation.wall_seconds(stopped=stopped)).capped(self._budget_hours)

    @property
    def _budget_hours(self) -> float:
        """By the clock, of the search."""
        return (self.search.time_budget_seconds or math.inf) / 3600

    def finish_wall_hours(self) -> Range:
        return self._hours(self.expectation.finish_wall_seconds())

    def _device_hours(self, seconds: Range) -> Range:
        """A trial on a share of a GPU takes that share if the others beside it do not slow it down, and all of it if
        they take turns: the range spans both."""
        hours = self._hours(seconds)
        if self.place.device == "cpu":
            return hours.times(self.search.resources.cpu)
        return hours.widened(min(1.0, self.place.gpu_share), max(1.0, self.place.gpu_share))

    def _hours(self, seconds: Range) -> Range:
        in_hours = seconds.times(1 / 3600)
        return in_hours if self.recorded else in_hours.widened(FASTEST, SLOWEST)


def find_place(search: SearchConfig) -> Place:
    """What this machine gives a trial, and how many run at once; Ray is not asked, as it is not started."""
    cpus, gpus = num_local_cpus(), torch.cuda.device_count() if torch.cuda.is_available() else 0
    resources = search.resources
    share = (1.0 if gpus else 0.0) if resources.gpu is None else resources.gpu
    fitting = int(cpus / resources.cpu)
    if share and gpus:
        fitting = min(fitting, int(gpus / share))
    fitting = max(1, fitting)
    return Place(
        device="cuda" if share and gpus else "cpu",
        name=environment.describe()["device"],
        gpu_share=share,
        num_threads=max(1, int(resources.cpu)),
        concurrency=min(fitting, search.max_concurrent or fitting),
        cpus=cpus,
        gpus=gpus,
    )


def count_trials(space: Space, search: SearchConfig) -> int:
    """Trials of the search; a grid may have fewer points than that."""
    size = space.size() if search.sampler.name == "grid" else None
    return min(search.num_trials, size or search.num_trials)


def forecast(
    space: Space,
    search: SearchConfig,
    spec: DataSpec,
    folders: Folders,
    *,
    epochs: Epochs | None = None,
    num_studies: int = 40,
    max_seconds: float = 5.0,
) -> Forecast:
    """Simulate studies with what is known best: an earlier study of the space, else the probe, else nothing."""
    place = find_place(search)
    earlier = find_earlier(space, search, spec.sha256, place.name, folders)
    num_trials = count_trials(space, search)
    curves = synthetic_curves(search.max_epochs)
    trials = () if earlier is None else earlier.record.trials
    if earlier is not None:
        objective, patience = earlier.record.objective, search.patience
        curves = recorded_curves(trials, objective, max_epochs=search.max_epochs, patience=patience) or curves
    if earlier is not None and earlier.tells_seconds:
        draw = drawn_from_records(curves, trials, num_trials)
    elif epochs is not None:
        draw = drawn_from_samples(curves, epochs.samples, epochs.ratios, num_trials, first=epochs.first)
    else:
        draw = drawn_from_samples(curves, (1.0,), _PACES, num_trials)
        search = search.model_copy(update={"time_budget_seconds": None})  # nobody knows when it would be over
    found = expect(search, draw, concurrency=place.concurrency, num_studies=num_studies, max_seconds=max_seconds)
    return Forecast(found, search, place, num_trials, earlier, probed=epochs is not None)


def one_line(space: Space, search: SearchConfig, spec: DataSpec, folders: Folders) -> str:
    """What `tune` adds to sizes and most epochs, from what is known without a probe; within about a second.

    Empty where nothing is stopped early and no seconds are known, as the most epochs are said already; and for very
    many trials, whose simulation takes longer.
    """
    if count_trials(space, search) > _MOST_TRIALS_OF_A_LINE:
        return ""
    found = forecast(space, search, spec, folders, num_studies=20, max_seconds=0.5)
    if not found.knows_seconds:
        return (
            f"; with {search.scheduler.name} {span(found.epochs(stopped=True))} to be expected" if found.stops else ""
        )
    hours = amount(found.device_hours(stopped=True), found.place)
    without = f", {amount(found.device_hours(stopped=False), found.place)} without" if found.stops else ""
    with_ = f" with {search.scheduler.name}{without}" if found.stops else ""
    return f"; {hours}{with_}, as {found.earlier_name} took it"


def amount(hours: Range, place: Place) -> str:
    """`2 to 4 core-hours`, `10 to 20 GPU-minutes`."""
    return time_span(hours, place.unit)


def time_span(hours: Range, of: str = "") -> str:
    """A range of hours in the unit that suits its upper end: `20 to 35 core-minutes`, `2 to 4 h` without `of`."""
    unit, short, factor = next(
        (each for each in (("seconds", "s", 3600.0), ("minutes", "min", 60.0)) if hours.high * each[2] < 120),
        ("hours", "h", 1.0),
    )
    return f"{span(hours.times(factor))} {f'{of}-{unit}' if of else short}"


def span(values: Range, digits: int = 2) -> str:
    """`190 to 260`, or `about 27` where both ends are equal to so many digits."""
    low, high = (_rounded(value, digits) for value in (values.low, values.high))
    return f"about {low}" if low == high else f"{low} to {high}"


def _rounded(value: float, digits: int) -> str:
    if value == 0:
        return "0"
    text = float(f"{value:.{digits}g}")
    return f"{text:,.0f}" if text >= 10 ** (digits - 1) else f"{text:g}"


def quantile(values: Sequence[float], share: float) -> float:
    """The value of which so large a share of values is no larger; values need not be sorted."""
    return sorted(values)[round(share * (len(values) - 1))]
