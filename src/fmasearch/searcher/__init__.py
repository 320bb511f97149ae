"""The searcher: Optuna's samplers behind Ray Tune's search interface, over a study that outlives the driver."""

from fmasearch.searcher.bridge import (
    EPOCH_KEY,
    OBJECTIVE_KEY,
    RESULT_KEY,
    OptunaSearcher,
    outcome,
)
from fmasearch.searcher.ending import Ending
from fmasearch.searcher.importance import Importance, KeyImportance, importance
from fmasearch.searcher.objectives import REJECTED_KEY
from fmasearch.searcher.samplers import build_sampler, num_trials, sampler_notes
from fmasearch.searcher.states import state_of
from fmasearch.searcher.storage import close_trial, open_study, own_trials
from fmasearch.searcher.warm_start import EarlierStudy, require_some, warm_start_notes

__all__ = [
    "EPOCH_KEY",
    "OBJECTIVE_KEY",
    "REJECTED_KEY",
    "RESULT_KEY",
    "EarlierStudy",
    "Ending",
    "Importance",
    "KeyImportance",
    "OptunaSearcher",
    "build_sampler",
    "close_trial",
    "importance",
    "num_trials",
    "open_study",
    "outcome",
    "own_trials",
    "require_some",
    "sampler_notes",
    "state_of",
    "warm_start_notes",
]
