"""Trial states: our words for Optuna's."""

from __future__ import annotations

from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState

from fmasearch.records import TrialState

OPTUNA_STATES = {
    TrialState.COMPLETED: OptunaState.COMPLETE,
    TrialState.PRUNED: OptunaState.PRUNED,
    TrialState.FAILED: OptunaState.FAIL,
}


def state_of(trial: FrozenTrial) -> TrialState:
    """Our word for an Optuna state."""
    words = {optuna_state: ours for ours, optuna_state in OPTUNA_STATES.items()}
    return words.get(trial.state, TrialState.RUNNING)
