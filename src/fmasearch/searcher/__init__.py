"""The searcher: Optuna's samplers behind Ray Tune's search interface, over a study that outlives the driver."""

from fmasearch.searcher.bridge import (
    EPOCH_KEY,
    OBJECTIVE_KEY,
    REJECTED_KEY,
    RESULT_KEY,
    OptunaSearcher,
    outcome,
)
from fmasearch.searcher.samplers import build_sampler, num_trials
from fmasearch.searcher.storage import close_trial, open_study, state_of

__all__ = [
    "EPOCH_KEY",
    "OBJECTIVE_KEY",
    "REJECTED_KEY",
    "RESULT_KEY",
    "OptunaSearcher",
    "build_sampler",
    "close_trial",
    "num_trials",
    "open_study",
    "outcome",
    "state_of",
]
