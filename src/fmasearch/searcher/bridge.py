"""The bridge between Ray Tune and Optuna: asks Optuna for trials, and tells it the truth about how they ended.

Ray's own `OptunaSearch` tells Optuna COMPLETE for a trial that ASHA stopped, leaves a diverged trial RUNNING for
ever, and keeps its study in a pickle. Here the study lives in Optuna's storage, written by the driver alone:
stopped trials are PRUNED with their learning curve, diverged ones FAIL, and an interrupted study can be resumed
from the storage.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial, Trial
from optuna.trial import TrialState as OptunaState
from ray.tune.search import Searcher

from fmasearch.errors import SpaceError
from fmasearch.records import Params, TrialState
from fmasearch.searcher.storage import OPTUNA_STATES
from fmasearch.space import Space, Violation
from fmasearch.space.constraints import MAX_FILLS, MAX_REJECTIONS

# What Ray Tune schedules by, and what every result of a trial carries.
EPOCH_KEY, OBJECTIVE_KEY, RESULT_KEY = "epoch", "best_objective", "result"

REJECTED_KEY = "rejected"
"""Attribute of an Optuna trial that was never trained: the constraint that it did not keep."""


def outcome(result: Mapping[str, Any] | None, *, error: bool = False) -> TrialState:
    """The state of a trial that ended with `result`, Ray's last report of it (nested or flattened).

    A trial that ends before its trainer says `finished` was stopped from outside: pruned. One without any epoch
    has nothing to be judged by: failed.
    """
    if error or not result or EPOCH_KEY not in result:
        return TrialState.FAILED
    return TrialState.COMPLETED if result.get("finished") else TrialState.PRUNED


class OptunaSearcher(Searcher):
    """Suggests configurations to Ray Tune.

    Args:
        study: from `open_study`; trials that it holds as RUNNING were interrupted and are suggested again first.
        space: what is sampled.
        num_trials: trials in all, over every session of the study.
        max_total_epochs: no new trial once so many epochs are trained; None is no limit.
        num_epochs: epochs that earlier sessions trained.
        make_config: number, parameters and known-good label of a trial -> the configuration Ray hands its actor.
        reject: what a sample's parameters break, if anything; it is then neither trained nor counted as a trial.
        room: trials that may be under way at this moment; None leaves that to Ray Tune.
    """

    def __init__(
        self,
        study: optuna.Study,
        space: Space,
        *,
        num_trials: int,
        make_config: Callable[[int, Params, str | None], dict[str, Any]],
        max_total_epochs: int | None = None,
        num_epochs: int = 0,
        reject: Callable[[Params], Violation | None] | None = None,
        room: Callable[[], int] | None = None,
    ) -> None:
        super().__init__(metric=OBJECTIVE_KEY, mode="max" if study.direction.name == "MAXIMIZE" else "min")
        self.study = study
        self.space = space
        self.num_trials = num_trials
        self.num_epochs = num_epochs
        self._max_total_epochs = max_total_epochs
        self._make_config = make_config
        self._reject = reject
        self._room = room
        self._trials: dict[str, Trial] = {}
        self._last_epoch: dict[str, int] = {}
        known = study.get_trials(deepcopy=False)
        self._interrupted = [t for t in known if t.state is OptunaState.RUNNING]
        self._num_started = sum(_uses_up_a_trial(t) for t in known)

    def __getstate__(self) -> dict[str, Any]:
        """Ray pickles its searcher for a restore that we do not use: the study is in Optuna's storage."""
        return {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next trial's configuration, FINISHED, or None if there is no room for one now.

        Raises:
            SpaceError: if 1,000 samples in a row break a constraint of the space.
        """
        if self._room is not None and len(self._trials) >= self._room():
            return None
        rejections: list[Violation] = []
        while (trial := self._next_trial()) is not None:
            params = self.space.sample(trial)
            violation = self._reject(params) if self._reject else None
            if violation is None:
                self._trials[trial_id] = trial
                return self._make_config(trial.number, params, trial.user_attrs.get("label"))
            self._turn_down(trial, params, violation)
            rejections.append(violation)
            if len(rejections) >= MAX_REJECTIONS and not _is_listed(trial):
                raise SpaceError(_too_narrow(self.space, rejections))
        finished: str = Searcher.FINISHED
        return finished

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        self._report(trial_id, result)

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        if trial_id not in self._trials:
            return
        state = outcome(result, error=error)
        if result and state is not TrialState.FAILED:
            self._report(trial_id, result)  # Ray keeps the result that stops a trial from on_trial_result
        trial = self._trials.pop(trial_id)
        value = result[OBJECTIVE_KEY] if result and state is TrialState.COMPLETED else None
        self.study.tell(trial, value, state=OPTUNA_STATES[state])

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the study is in Optuna's storage."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore: see `open_study`."""

    def _next_trial(self) -> Trial | None:
        if self._interrupted:
            # A handle to the very trial: its stored parameters come back from `suggest_*`, not new ones.
            return Trial(self.study, self._interrupted.pop(0)._trial_id)
        used_up = self._max_total_epochs is not None and self.num_epochs >= self._max_total_epochs
        if used_up or self._num_started >= self.num_trials:
            return None
        self._num_started += 1
        return self.study.ask()

    def _turn_down(self, trial: Trial, params: Params, violation: Violation) -> None:
        """A failed trial to Optuna, of which its samplers take no notice; for us, none at all."""
        trial.set_user_attr(REJECTED_KEY, str(violation))
        self.study.tell(trial, state=OptunaState.FAIL)
        if not _is_listed(trial):
            self._num_started -= 1
        label, fills = trial.user_attrs.get("label"), trial.user_attrs.get("fills", 1)
        point = self.space.known_good.get(label, params)
        if len(point) < len(params) and fills < MAX_FILLS:  # what the point leaves open may yet fit
            self.study.enqueue_trial(dict(point), user_attrs={"label": label, "fills": fills + 1})

    def _report(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """The best objective so far, at its epoch: what ASHA compares is what the sampler learns from."""
        epoch = int(result[EPOCH_KEY])
        if epoch > self._last_epoch.get(trial_id, 0):
            self._last_epoch[trial_id] = epoch
            self.num_epochs += 1
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # a resumed trial may report an epoch again
                self._trials[trial_id].report(float(result[OBJECTIVE_KEY]), epoch)


def _is_listed(trial: Trial | FrozenTrial) -> bool:
    """Whether it is one of a fixed list of points, so that nothing takes its place if it is rejected."""
    return bool(trial.user_attrs.get("listed"))


def _uses_up_a_trial(trial: FrozenTrial) -> bool:
    if REJECTED_KEY in trial.user_attrs:
        return _is_listed(trial)
    return trial.state is not OptunaState.WAITING


def _too_narrow(space: Space, rejections: Sequence[Violation]) -> str:
    smallest = min(rejections, key=lambda violation: violation.value)
    return (
        f"{space.name}: constraints: {smallest.constraint} must hold, but none of {len(rejections):,} samples in a row "
        f"kept it; the smallest had {smallest.value:,.15g}. Raise the ceiling, or narrow the space"
    )
