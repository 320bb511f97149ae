"""Warm starts: what earlier studies found, as a new sampler's memory and as the first trials to try."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.trial import FixedTrial, FrozenTrial, create_trial

from fmasearch.errors import SpaceError
from fmasearch.records import Objective, Params, Scalar, TrialRecord, TrialState
from fmasearch.searcher.states import OPTUNA_STATES
from fmasearch.space import Space
from fmasearch.space.paths import config_key

EARLIER_KEY = "warm_start"
"""Attribute of an Optuna trial that comes from an earlier study: `<study>/<trial>`. It was not trained in this one."""

NUM_POINTS = 5
"""So many of the best earlier configurations are tried first."""

_SECTIONS = ("model", "loss", "optimizer", "scheduler", "crop", "augment", "trainer", "transfer")
"""Of a configuration: all but the data and the seed."""


@dataclass(frozen=True, slots=True)
class EarlierStudy:
    """A study that a new one learns from."""

    name: str
    trials: tuple[TrialRecord, ...]
    """Those that did not fail."""
    comparable: bool
    """Same data, objective and horizon: its values mean the same in the new study."""

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "comparable": self.comparable, "trials": [t.to_json() for t in self.trials]}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> EarlierStudy:
        trials = tuple(TrialRecord.from_json(trial) for trial in values["trials"])
        return cls(values["name"], trials, values["comparable"])


def sampler_memory(space: Space, studies: Sequence[EarlierStudy]) -> list[FrozenTrial]:
    """Trials of comparable studies, as Optuna would have them if they had been trained in this one.

    Of a study on other data or under another horizon there are none: a macro-F1 of 0.9 on easy data would draw the
    sampler for ever to what was good there. A trial whose constants differ from the space's is left out as well.
    """
    return [
        _told(space, params, trial, f"{study.name}/{trial.name}")
        for study in studies
        if study.comparable
        for trial in study.trials
        if (params := point_of(space, trial.start.config)) and _same_training(space, params, trial.start.config)
    ]


def first_points(
    space: Space, studies: Sequence[EarlierStudy], objective: Objective, *, limit: int = NUM_POINTS
) -> list[tuple[str, Params]]:
    """The best configurations of the earlier studies that lie in the space, with their names, best first.

    Studies take turns, since values of different data do not compare. What differs in constants alone counts once.
    """
    ranked = [_ranked(space, study, objective) for study in studies]
    points: list[tuple[str, Params]] = []
    for place in range(max((len(each) for each in ranked), default=0)):
        for each in ranked:
            if place < len(each) and each[place][1] not in [params for _, params in points]:
                points.append(each[place])
    return points[:limit]


def point_of(space: Space, config: Mapping[str, Any]) -> dict[str, Scalar] | None:
    """The sampled keys of a configuration in the terms of `space`; None if the space does not hold it."""
    params: dict[str, Scalar] = {}
    for path, distribution in space.distributions.items():
        if not space.is_active(path, params):
            continue
        section, key = config_key(path)
        block = config.get(section, {})
        if key not in block or not distribution.contains(block[key]):
            return None
        params[path] = distribution.canonical(block[key])
    same = space.config(params)["model"]["architecture"] == config["model"]["architecture"]
    return params if same else None


def warm_start_notes(space: Space, studies: Sequence[EarlierStudy]) -> tuple[str, ...]:
    """What a study learns from each earlier one, in a sentence."""
    return tuple(
        f"warm start: {study.name}: its best {NUM_POINTS} that lie in this space are tried first"
        + (
            f"; the sampler knows {len(memory)} of its {len(study.trials)} trials"
            if (memory := sampler_memory(space, [study]))
            else "; its values do not compare with this study's, so the sampler learns from no other"
        )
        for study in studies
    )


def require_some(space: Space, study: EarlierStudy) -> None:
    """Refuse a warm start that would do nothing.

    Raises:
        SpaceError: if no trial of the study lies in the space.
    """
    if not any(point_of(space, trial.start.config) for trial in study.trials):
        raise SpaceError(
            f"--warm-start {study.name}: none of its {len(study.trials)} trials lies in {space.name}: another "
            f"architecture, or other ranges; start without it, or widen the space"
        )


def _ranked(space: Space, study: EarlierStudy, objective: Objective) -> list[tuple[str, Params]]:
    sign = -1.0 if objective.mode == "max" else 1.0
    scored = sorted((sign * t.best.objective, t.start.number, t) for t in study.trials if t.best is not None)
    points = [(f"{study.name}/{t.name}", point_of(space, t.start.config)) for _, _, t in scored]
    return [(name, params) for name, params in points if params]


def _same_training(space: Space, params: Params, config: Mapping[str, Any]) -> bool:
    """Whether a point would be trained as it was there: what the space holds constant was the same."""
    here = space.config(params)
    return all(
        key in config.get(section, {}) and config[section][key] == value
        for section in _SECTIONS
        for key, value in here.get(section, {}).items()
    )


def _told(space: Space, params: Params, trial: TrialRecord, name: str) -> FrozenTrial:
    """A trial as the searcher would have told it: pruned with its curve, or completed with its best value."""
    asked = FixedTrial(dict(params))
    space.sample(asked)
    done = trial.state is TrialState.COMPLETED
    return create_trial(
        state=OPTUNA_STATES[trial.state],
        value=trial.epochs[-1].best_objective if done else None,
        params=asked.params,
        distributions=asked.distributions,
        intermediate_values={epoch.epoch: epoch.best_objective for epoch in trial.epochs},
        user_attrs={EARLIER_KEY: name},
    )
