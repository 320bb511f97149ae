"""The samplers by name: what proposes the next configuration."""

from __future__ import annotations

import warnings

import numpy as np
import optuna

from fmasearch.config import SearchConfig
from fmasearch.space import Space


def build_sampler(
    search: SearchConfig, space: Space, *, concurrency: int, num_existing: int = 0
) -> optuna.samplers.BaseSampler:
    """The sampler by name. Its seed moves on with `num_existing`, so that a resumed study does not repeat itself."""
    seed = int(np.random.SeedSequence([search.seed, num_existing]).generate_state(1)[0])
    if search.sampler.name in ("random", "grid"):  # every grid point is enqueued
        return optuna.samplers.RandomSampler(seed=seed)
    # One concurrent wave of trials is sampled blindly anyway: twice that many random trials cover the space first.
    startup = search.sampler.num_startup_trials or max(10, 2 * concurrency)
    with warnings.catch_warnings():
        # `group` samples every branch of a conditional space jointly; without it only the keys that all trials
        # share are.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(
            n_startup_trials=startup, multivariate=True, group=True, constant_liar=True, seed=seed
        )


def num_trials(search: SearchConfig, space: Space) -> int:
    """How many trials a search will run: a grid has no more than its points."""
    return min(search.num_trials, len(space.grid())) if search.sampler.name == "grid" else search.num_trials
