"""The trees sampler: what it makes of trials, points and predictions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import optuna
from optuna.distributions import FloatDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, create_trial
from optuna.trial import TrialState as OptunaState

from fmasearch.searcher.objectives import REJECTED_KEY
from fmasearch.searcher.trees import TreesSampler, best_candidate, encode, standing
from fmasearch.space import Space
from study_helpers import CONSTANTS

SPACE = Space.parse(f"""
{CONSTANTS}
optimizer:
  learning_rate: {{float: [1e-4, 1e-2], log: true}}
  name: {{choice: [adam, adamw, sgd]}}
  momentum: {{float: [0.5, 0.9], when: {{optimizer/name: sgd}}}}
scheduler: {{name: cosine, warmup_epochs: {{int: [0, 4]}}}}
""")


def told(state: OptunaState, *bests: float, **attributes: Any) -> FrozenTrial:
    return create_trial(
        state=state,
        params={"x": 0.5},
        distributions={"x": FloatDistribution(0, 1)},
        value=bests[-1] if state is OptunaState.COMPLETE else None,
        intermediate_values=dict(enumerate(bests, start=1)),
        user_attrs=attributes,
    )


def test_points_become_rows_in_the_scale_that_they_are_sampled_in() -> None:
    points: list[dict[str, Any]] = [
        {"optimizer/learning_rate": 1e-3, "optimizer/name": "adamw", "scheduler/warmup_epochs": 1},
        {
            "optimizer/learning_rate": 1e-2,
            "optimizer/name": "sgd",
            "optimizer/momentum": 0.7,
            "scheduler/warmup_epochs": 4,
        },
    ]
    expected = [[0.5, 0.5, -1.0, 0.25], [1.0, 1.0, 0.5, 1.0]]  # 1e-3 is half way from 1e-4 to 1e-2; -1: not active
    assert list(SPACE.distributions)[1] == "optimizer/name"
    np.testing.assert_allclose(encode(SPACE, points), expected, atol=1e-6)


def test_every_trial_stands_where_its_best_is_and_a_failed_one_behind_all() -> None:
    trials = [
        told(OptunaState.COMPLETE, 0.2, 0.6),
        told(OptunaState.PRUNED, 0.3),
        told(OptunaState.RUNNING, 0.1, 0.4),
        told(OptunaState.FAIL, 0.9),
        told(OptunaState.FAIL, **{REJECTED_KEY: "too large"}),  # never trained
        told(OptunaState.RUNNING),  # nothing shown yet
        told(OptunaState.PRUNED, math.nan),
    ]
    known, losses = standing(trials, StudyDirection.MAXIMIZE)
    assert losses.tolist() == [-0.6, -0.3, -0.4, math.inf, math.inf]
    assert known == [*trials[:4], trials[6]]
    assert standing(trials[:2], StudyDirection.MINIMIZE)[1].tolist() == [0.6, 0.3]


def test_the_candidate_where_trials_did_best_is_chosen() -> None:
    known = np.linspace(0, 1, 40, dtype=np.float32)[:, None]
    losses = np.abs(known[:, 0] - 0.7).astype(np.float64)
    losses[:5] = math.inf
    candidates = np.array([[0.05], [0.3], [0.7], [0.95]], dtype=np.float32)
    chosen = [best_candidate(known, losses, candidates, np.random.default_rng(seed)) for seed in range(20)]
    assert chosen.count(2) >= 18  # a few trees differ: now and then a neighbour looks better


def test_equal_seeds_propose_equal_points_and_other_seeds_others() -> None:
    def proposal(seed: int) -> dict[str, Any]:
        study = optuna.create_study(sampler=TreesSampler(SPACE, num_startup_trials=3, seed=seed))
        for _ in range(6):
            trial = study.ask()
            loss = abs(math.log10(float(SPACE.sample(trial)["optimizer/learning_rate"] or 0)) + 3)
            trial.report(loss, 1)
            study.tell(trial, loss)
        return SPACE.sample(study.ask())

    assert proposal(0) == proposal(0)
    assert proposal(0) != proposal(1)
