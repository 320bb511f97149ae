"""Samplers over a table: random order, and Optuna's multivariate TPE with its candidates taken from the table.

A sampler of continuous points has no point of its own in a table of 1,000. Taking the nearest row instead would undo
what it proposes: in 8 dimensions the nearest is far away in the few keys that matter. So TPE's two densities are those
of Optuna, to the last digit (`check_against_optuna`), but its 24 candidates are drawn from the rows that are left, with
probabilities in proportion to the density of good points: what it does in a continuous space, done in this one.
"""

from __future__ import annotations

import math
import warnings

import numpy as np
import optuna
from numpy.typing import NDArray
from scipy.special import ndtr

from search_quality_tables import Array, Table

_TOLD, _FAILED = 1, 2
NUM_CANDIDATES, MOST_GOOD, FLAT = 24, 25, 25  # Optuna's n_ei_candidates, and the constants of its gamma and weights


class RandomOrder:
    """Random search without replacement."""

    def __init__(self, table: Table, seed: int) -> None:
        self._left = np.random.default_rng([seed, 2]).permutation(len(table.points)).tolist()

    def ask(self) -> int | None:
        return int(self._left.pop()) if self._left else None

    def report(self, configuration: int, epoch: int, loss: float) -> None:
        """Nothing to learn."""

    def end(self, configuration: int, state: str) -> None:
        """Nothing to learn."""


class TableTpe:
    """Optuna 5's TPE: multivariate, constant liar.

    Args:
        num_startup: trials that end before it models.
        pruned_as_completed: tell a stopped trial's last value as its final one, as Ray's `OptunaSearch`. Otherwise it
            is told as pruned, with its curve, and ranks below the finished and those stopped later.
        scott: kernels as wide as Scott's rule has it for so many points and keys (Optuna up to version 4: a fifth of
            `n ** (-1 / (keys + 4))` of the range), instead of Optuna 5's distance to the next point in each key.
        random_share: of the proposals that stay random.
    """

    def __init__(
        self,
        table: Table,
        seed: int,
        *,
        num_startup: int = 16,
        pruned_as_completed: bool = False,
        scott: bool = False,
        random_share: float = 0.0,
    ) -> None:
        self._points = table.points
        self._draw = np.random.default_rng([seed, 2])
        self._free = np.ones(len(table.points), dtype=bool)
        self._num_startup = num_startup
        self._as_completed = pruned_as_completed
        self._scott = scott
        self._random_share = random_share
        self._trials: list[int] = []
        self._states = np.zeros(len(table.points), dtype=np.int8)
        self._ranks = np.zeros(len(table.points))
        """Minus the last epoch of a stopped trial: those that came further are better. Minus infinity: completed."""
        self._losses = np.zeros(len(table.points))
        self._num_told = 0

    def ask(self) -> int | None:
        rows = np.flatnonzero(self._free)
        if len(rows) == 0:
            return None
        if self._num_told < max(self._num_startup, 1) or self._draw.random() < self._random_share:
            configuration = int(self._draw.choice(rows))
        else:
            configuration = self._model(rows)
        self._free[configuration] = False
        self._trials.append(configuration)
        return configuration

    def report(self, configuration: int, epoch: int, loss: float) -> None:
        self._ranks[configuration] = -epoch
        self._losses[configuration] = loss

    def end(self, configuration: int, state: str) -> None:
        self._states[configuration] = _FAILED if state == "failed" else _TOLD
        self._num_told += state != "failed"
        if state == "completed" or self._as_completed:
            self._ranks[configuration] = -np.inf

    def _model(self, rows: NDArray[np.intp]) -> int:
        good, others = self.split()
        better = parzen(self._points[good], scott=self._scott)
        log_density = log_pdf(better, self._points[rows])
        chances = np.exp(log_density - log_density.max())
        drawn = self._draw.choice(len(rows), size=NUM_CANDIDATES, p=chances / chances.sum())
        rest = log_pdf(parzen(self._points[others], scott=self._scott), self._points[rows[drawn]])
        return int(rows[drawn[np.argmax(log_density[drawn] - rest)]])

    def split(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """The trials that count as good, and all others with those that run, both in the order in which they began."""
        trials = np.array(self._trials)
        told = np.flatnonzero(self._states[trials] == _TOLD)
        ranked = told[np.lexsort((self._losses[trials[told]], self._ranks[trials[told]]))]
        good = np.zeros(len(trials), dtype=bool)
        good[ranked[: min(math.ceil(0.1 * len(told)), MOST_GOOD)]] = True
        return trials[good], trials[~good & (self._states[trials] != _FAILED)]


def parzen(points: Array, *, scott: bool = False) -> tuple[Array, Array, Array]:
    """Log weights (kernels), centres and widths (kernels, keys): one kernel a point, and the prior."""
    count, keys = points.shape
    weights = np.append(_weights(count), 1.0)
    if scott:
        widths = np.full((count, keys), max(0.2 * max(count, 1) ** (-1 / (keys + 4)), 1 / min(100.0, 2.0 + count)))
    else:
        widths = np.clip(_gaps(points), 1 / min(100.0, 2.0 + count), 1.0)
    centres = np.concatenate([points, np.full((1, keys), 0.5)])
    return np.log(weights / weights.sum()), centres, np.concatenate([widths, np.ones((1, keys))])


def log_pdf(density: tuple[Array, Array, Array], points: Array) -> Array:
    """Of a mixture of products of normals, each cut to 0..1."""
    log_weights, centres, widths = density
    mass = ndtr((1 - centres) / widths) - ndtr(-centres / widths)
    constants = log_weights - np.sum(np.log(widths * mass), axis=1) - centres.shape[1] * 0.5 * math.log(2 * math.pi)
    inverse = widths**-2.0
    squares = points**2 @ inverse.T - 2 * points @ (centres * inverse).T + np.sum(centres**2 * inverse, axis=1)
    exponents = constants - 0.5 * squares
    highest = exponents.max(axis=1, keepdims=True)
    return np.asarray(highest[:, 0] + np.log(np.exp(exponents - highest).sum(axis=1)), dtype=np.float64)


def _weights(count: int) -> Array:
    if count < FLAT:
        return np.ones(count)
    return np.concatenate([np.linspace(1 / count, 1.0, num=count - FLAT), np.ones(FLAT)])


def _gaps(points: Array) -> Array:
    """The larger distance to a neighbour, in each key by itself; of the outermost points to their only one."""
    order = np.argsort(points, axis=0, kind="stable")
    ranked = np.take_along_axis(points, order, axis=0)
    edges = np.concatenate([np.zeros((1, points.shape[1])), ranked, np.ones((1, points.shape[1]))])
    gaps = np.maximum(edges[1:-1] - edges[:-2], edges[2:] - edges[1:-1])
    if len(edges) >= 4:
        gaps[0], gaps[-1] = edges[2] - edges[1], edges[-2] - edges[-3]
    result: Array = np.empty(gaps.shape)
    np.put_along_axis(result, order, gaps, axis=0)
    return result


def check_against_optuna(table: Table, seed: int = 0, count: int = 60) -> float:
    """The largest difference between our log densities and those of Optuna's own sampler, told the same trials."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        theirs = optuna.samplers.TPESampler(multivariate=True, group=True, constant_liar=True, seed=seed)
    study = optuna.create_study(sampler=theirs)
    ours = TableTpe(table, seed, num_startup=count)
    keys = [f"x{key}" for key in range(table.points.shape[1])]
    space: dict[str, optuna.distributions.BaseDistribution] = {
        key: optuna.distributions.FloatDistribution(0, 1) for key in keys
    }
    for number in range(count):
        configuration = ours.ask()
        assert configuration is not None
        study.enqueue_trial(dict(zip(keys, table.points[configuration].tolist(), strict=True)))
        trial = study.ask(space)
        state = ("completed", "pruned", "pruned", "failed", "running")[number % 5]
        for epoch in range(1, 2 + number % 7):
            loss = float(np.nan_to_num(table.best[configuration, epoch - 1], nan=9.0))
            trial.report(loss, epoch)
            ours.report(configuration, epoch, loss)
        if state != "running":
            ours.end(configuration, state)
            value = loss if state == "completed" else None
            study.tell(trial, value, state=_OPTUNA_STATES[state])
    trials = [trial for trial in study.get_trials(deepcopy=False) if trial.state.name != "FAIL"]
    told = sum(trial.state.is_finished() for trial in trials)
    split = optuna.samplers._tpe.sampler._split_trials(study, trials, math.ceil(0.1 * told))
    worst = 0.0
    at = {key: table.points[:50, column] for column, key in enumerate(keys)}
    for mine, (number, group) in zip(ours.split(), enumerate(split), strict=True):
        density = theirs._build_parzen_estimator(study, space, group, handle_below=number == 0)
        difference = density.log_pdf(at) - log_pdf(parzen(table.points[mine]), table.points[:50])
        worst = max(worst, float(np.abs(difference).max()))
    return worst


_OPTUNA_STATES = {
    "completed": optuna.trial.TrialState.COMPLETE,
    "pruned": optuna.trial.TrialState.PRUNED,
    "failed": optuna.trial.TrialState.FAIL,
}
