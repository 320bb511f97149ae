"""The reach of a sampler: which keys of a space it can propose by itself, and Optuna's samplers kept to them.

Left alone, Optuna's samplers work out their keys from the trials that have finished. In a space with conditions they
would drop keys as the study goes on (CMA-ES then stays random for ever), begin late where the first trials are all
stopped, or take the keys of whichever trial came first (QMC). A space knows its keys from the beginning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial

from fmasearch.records import Scalar
from fmasearch.searcher.expectations import mirror_of
from fmasearch.space import Choice, Space


def all_keys(space: Space) -> dict[str, BaseDistribution]:
    """Every key that has more than one value, as Optuna distributes it."""
    recorder = _Recorder()
    for path, distribution in space.distributions.items():
        distribution.suggest(recorder, path)
    return {path: each for path, each in recorder.distributions.items() if not each.single()}


def constant_keys(space: Space) -> dict[str, BaseDistribution]:
    """Those of `all_keys` that every trial has."""
    return {path: each for path, each in all_keys(space).items() if path not in space.conditions}


def constant_numbers(space: Space) -> dict[str, BaseDistribution]:
    """Those of `constant_keys` that are numbers."""
    return {
        path: each for path, each in constant_keys(space).items() if not isinstance(space.distributions[path], Choice)
    }


class FixedQmcSampler(optuna.samplers.QMCSampler):
    """Quasi-Monte Carlo over all keys: a coordinate of a key that is not active goes unused."""

    def __init__(self, keys: Mapping[str, BaseDistribution], **settings: Any) -> None:
        super().__init__(**settings)
        self._keys = keys

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return dict(self._keys)


class FixedCmaEsSampler(optuna.samplers.CmaEsSampler):
    """CMA-ES over the given numbers."""

    def __init__(self, keys: Mapping[str, BaseDistribution], **settings: Any) -> None:
        super().__init__(**settings)
        self._keys = keys

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return dict(self._keys)


class ExpectingGPSampler(optuna.samplers.GPSampler):
    """A Gaussian process over the given keys that learns from stopped trials, too (see `mirror_of`).

    Optuna's own takes finished trials alone, of which early stopping leaves a handful.
    """

    def __init__(self, keys: Mapping[str, BaseDistribution], **settings: Any) -> None:
        super().__init__(**settings)
        self._keys = keys

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return dict(self._keys)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        mirror, mirrored = mirror_of(study, trial, search_space)
        sampled: dict[str, Any] = super().sample_relative(mirror, mirrored, search_space)
        return sampled


class _Recorder:
    """A trial that writes down what is asked of it."""

    def __init__(self) -> None:
        self.distributions: dict[str, BaseDistribution] = {}

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        self.distributions[name] = FloatDistribution(low, high, log=log, step=step)
        return low

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        self.distributions[name] = IntDistribution(low, high, log=log, step=step)
        return low

    def suggest_categorical(self, name: str, choices: Sequence[Scalar]) -> Scalar:
        self.distributions[name] = CategoricalDistribution(choices)
        return choices[0]
