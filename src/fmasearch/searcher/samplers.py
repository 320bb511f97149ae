"""The samplers by name: what proposes the next configuration."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import optuna
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler

from fmasearch.config import SearchConfig
from fmasearch.errors import ConfigError
from fmasearch.searcher.reach import (
    ExpectingGPSampler,
    FixedCmaEsSampler,
    FixedQmcSampler,
    all_keys,
    constant_keys,
    constant_numbers,
)
from fmasearch.searcher.trees import TreesSampler
from fmasearch.space import Space


@dataclass(frozen=True, slots=True)
class _Setting:
    """What samplers are built from."""

    space: Space
    num_startup_trials: int
    seed: int
    """Moves on when a study is resumed, so that it does not repeat itself."""
    study_seed: int
    """Stays: for a sampler that counts in the study how far it came."""


def build_sampler(search: SearchConfig, space: Space, *, concurrency: int, num_existing: int = 0) -> BaseSampler:
    """The sampler by name, for a study that has `num_existing` trials.

    Raises:
        ConfigError: if there is no key in the space that the sampler could propose.
    """
    sampler_notes(search, space)
    # One concurrent wave of trials is sampled blindly anyway: twice that many random trials cover the space first.
    startup = search.sampler.num_startup_trials or max(10, 2 * concurrency)
    setting = _Setting(space, startup, seed=_seed(search.seed, num_existing), study_seed=_seed(search.seed))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return _SAMPLERS[search.sampler.name](setting)


def sampler_notes(search: SearchConfig, space: Space) -> tuple[str, ...]:
    """What a user should know of the chosen sampler in this space, in sentences; nothing where it reaches all of it.

    Raises:
        ConfigError: if there is no key in the space that the sampler could propose.
    """
    name = search.sampler.name
    notes = []
    if name in _REACH:
        what, reach = _REACH[name]
        keys = reach(space)
        if not keys:
            raise ConfigError(
                f"sampler.name: {name} needs {what} that every trial has, and {space.name} has none; take tpe"
            )
        if beyond := [path for path in all_keys(space) if path not in keys]:
            notes.append(f"{name} models {_listed(keys)}; tpe chooses the others, one by one: {_listed(beyond)}")
    if name == "nsga2" and (conditional := [path for path in all_keys(space) if path in space.conditions]):
        notes.append(f"nsga2 draws keys with conditions at random: {_listed(conditional)}; tpe models them")
    if name == "nsga2" and search.scheduler.name != "none":
        notes.append(
            f"nsga2 learns from trials alone that were trained to their end, and {search.scheduler.name} leaves few: "
            f"set scheduler.name to none, or take tpe"
        )
    return tuple(notes)


def num_trials(search: SearchConfig, space: Space) -> int:
    """How many trials a search will run: a grid has no more than its points."""
    return min(search.num_trials, len(space.grid())) if search.sampler.name == "grid" else search.num_trials


def _trees(setting: _Setting) -> BaseSampler:
    return TreesSampler(setting.space, num_startup_trials=setting.num_startup_trials, seed=setting.seed)


def _tpe(setting: _Setting) -> BaseSampler:
    """`group` samples every branch of a conditional space jointly; without it only keys that all trials share are."""
    return TPESampler(
        n_startup_trials=setting.num_startup_trials,
        multivariate=True,
        group=True,
        constant_liar=True,
        seed=setting.seed,
    )


def _gp(setting: _Setting) -> BaseSampler:
    return ExpectingGPSampler(
        constant_keys(setting.space),
        n_startup_trials=setting.num_startup_trials,
        independent_sampler=_one_by_one(setting),
        warn_independent_sampling=False,  # `sampler_notes` says it once
        seed=setting.seed,
    )


def _cmaes(setting: _Setting) -> BaseSampler:
    """Stopped trials rank by their last value: an evolution strategy asks for an order alone, and most stopped trials
    are below the finished ones in it."""
    return FixedCmaEsSampler(
        constant_numbers(setting.space),
        n_startup_trials=setting.num_startup_trials,
        independent_sampler=_one_by_one(setting),
        warn_independent_sampling=False,
        consider_pruned_trials=True,
        seed=setting.seed,
    )


def _qmc(setting: _Setting) -> BaseSampler:
    """The study counts its points under the seed: with another one, a resumed study would begin a new sequence."""
    return FixedQmcSampler(all_keys(setting.space), qmc_type="sobol", scramble=True, seed=setting.study_seed)


def _nsga2(setting: _Setting) -> BaseSampler:
    """Its random phase is the first generation: Optuna's own size, 50, is nearly all of a study of 60 trials."""
    return NSGAIISampler(population_size=max(2, setting.num_startup_trials), seed=setting.seed)


def _random(setting: _Setting) -> BaseSampler:
    return RandomSampler(seed=setting.seed)


_SAMPLERS: dict[str, Callable[[_Setting], BaseSampler]] = {
    "trees": _trees,
    "tpe": _tpe,
    "gp": _gp,
    "cmaes": _cmaes,
    "qmc": _qmc,
    "nsga2": _nsga2,
    "random": _random,
    "grid": _random,  # every point of it is enqueued
}

_REACH = {"gp": ("a key", constant_keys), "cmaes": ("a number", constant_numbers)}
"""Samplers that need keys which every trial has: what kind, and which those are."""


def _one_by_one(setting: _Setting) -> BaseSampler:
    """For keys beyond a sampler's reach: TPE, which is random for as long as the sampler itself is."""
    return TPESampler(n_startup_trials=setting.num_startup_trials, seed=setting.seed)


def _seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def _listed(paths: Iterable[str]) -> str:
    return ", ".join(path.replace("/", ".", 1) for path in paths)
