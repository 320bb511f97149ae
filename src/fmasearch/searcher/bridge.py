"""The bridge between Ray Tune and Optuna: asks Optuna for trials, and tells it the truth about how they ended.

Ray's own `OptunaSearch` tells Optuna COMPLETE for a trial that ASHA stopped, leaves a diverged trial RUNNING for
ever, and keeps its study in a pickle. Here the study lives in Optuna's storage, written by the driver alone:
stopped trials are PRUNED with their learning curve, diverged ones FAIL, and an interrupted study can be resumed
from the storage.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial, Trial
from optuna.trial import TrialState as OptunaState
from ray.tune.search import Searcher

from fmasearch.errors import SpaceError
from fmasearch.records import Params, TrialState
from fmasearch.searcher.duplicates import MAX_RESAMPLES, EarlierTrials
from fmasearch.searcher.ending import Ending
from fmasearch.searcher.objectives import MEASURED_KEY, REJECTED_KEY, final_values, report_epoch
from fmasearch.searcher.states import OPTUNA_STATES
from fmasearch.searcher.storage import own_trials
from fmasearch.searcher.warm_start import EARLIER_KEY
from fmasearch.space import Space, Violation
from fmasearch.space.constraints import MAX_FILLS, MAX_REJECTIONS

# What Ray Tune schedules by, and what every result of a trial carries.
EPOCH_KEY, OBJECTIVE_KEY, RESULT_KEY = "epoch", "best_objective", "result"
_SECONDS_KEY = f"{RESULT_KEY}/epoch_seconds"


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
        min_distance: samples as near to an earlier trial are sampled again (see `SamplerConfig`); None takes all.
        measure: what is known of a configuration before it is trained, such as its `parameters`: kept with its trial,
            and among its values where the study has several objectives.
        ending: asked after every trial whether to start no more; None never ends a search early.
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
        min_distance: float | None = None,
        measure: Callable[[Params], Mapping[str, float]] | None = None,
        ending: Ending | None = None,
    ) -> None:
        # Trials are stopped, and ranked, by the first objective alone, however many the sampler has.
        super().__init__(metric=OBJECTIVE_KEY, mode="max" if study.directions[0].name == "MAXIMIZE" else "min")
        self.study = study
        self.space = space
        self.num_trials = num_trials
        self.num_epochs = num_epochs
        self._max_total_epochs = max_total_epochs
        self._make_config = make_config
        self._reject = reject
        self._room = room
        self._measure = measure
        self._ending = ending
        self._trials: dict[str, Trial] = {}
        self._last_epoch: dict[str, int] = {}
        known = study.get_trials(deepcopy=False)
        self._interrupted = [t for t in known if t.state is OptunaState.RUNNING]
        self._num_started = sum(_uses_up_a_trial(t) for t in known)
        self._taken_before = {t.number for t in self._interrupted}
        self._earlier = None if min_distance is None else _earlier_trials(known, space, min_distance)
        self._look()

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
        num_repeats = 0
        while (trial := self._next_trial()) is not None:
            params = self.space.sample(trial)
            repeated = self._repeated(trial, params) if num_repeats < MAX_RESAMPLES else None
            if repeated is not None:
                self._turn_down(trial, params, f"nearly equal to trial {repeated}")
                num_repeats += 1
                continue
            violation = self._reject(params) if self._reject else None
            if violation is None:
                return self._taken(trial_id, trial, params)
            self._turn_down(trial, params, str(violation))
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
        values = final_values(trial, result[OBJECTIVE_KEY]) if result and state is TrialState.COMPLETED else None
        self.study.tell(trial, values, state=OPTUNA_STATES[state])
        self._look()

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the study is in Optuna's storage."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore: see `open_study`."""

    def _next_trial(self) -> Trial | None:
        if self._interrupted:
            # A handle to the very trial: its stored parameters come back from `suggest_*`, not new ones.
            return Trial(self.study, self._interrupted.pop(0)._trial_id)
        used_up = self._max_total_epochs is not None and self.num_epochs >= self._max_total_epochs
        ended = self._ending is not None and self._ending.reason is not None
        if ended or used_up or self._num_started >= self.num_trials:
            return None
        self._num_started += 1
        return self.study.ask()

    def _look(self) -> None:
        if self._ending is not None:
            trained = [trial for trial in own_trials(self.study) if REJECTED_KEY not in trial.user_attrs]
            self._ending.look(trained, self.study.directions[0])

    def _repeated(self, trial: Trial, params: Params) -> int | None:
        """The earlier trial that a sample all but repeats; a point that somebody asked for may repeat any."""
        asked_for = _is_listed(trial) or "label" in trial.user_attrs or trial.number in self._taken_before
        return None if self._earlier is None or asked_for else self._earlier.nearest(params)

    def _taken(self, trial_id: str, trial: Trial, params: Params) -> dict[str, Any]:
        """The configuration of a trial that is going to be trained."""
        self._trials[trial_id] = trial
        if self._earlier is not None:
            self._earlier.add(trial.number, params)
        if measured := self._measure(params) if self._measure else {}:
            trial.set_user_attr(MEASURED_KEY, dict(measured))
        return self._make_config(trial.number, params, trial.user_attrs.get("label"))

    def _turn_down(self, trial: Trial, params: Params, reason: str) -> None:
        """A failed trial to Optuna, of which its samplers take no notice; for us, none at all."""
        trial.set_user_attr(REJECTED_KEY, reason)
        self.study.tell(trial, state=OptunaState.FAIL)
        if not _is_listed(trial):
            self._num_started -= 1
        label, fills = trial.user_attrs.get("label"), trial.user_attrs.get("fills", 1)
        point = self.space.known_good.get(label, params)
        if len(point) < len(params) and fills < MAX_FILLS:  # what the point leaves open may yet fit
            self.study.enqueue_trial(dict(point), user_attrs={"label": label, "fills": fills + 1})

    def _report(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """The best objective so far, at its epoch: what trials are stopped by is what the sampler learns from."""
        epoch = int(result[EPOCH_KEY])
        if epoch > self._last_epoch.get(trial_id, 0):
            self._last_epoch[trial_id] = epoch
            self.num_epochs += 1
            report_epoch(self._trials[trial_id], epoch, float(result[OBJECTIVE_KEY]), result.get(_SECONDS_KEY))


def _earlier_trials(trials: Sequence[FrozenTrial], space: Space, min_distance: float) -> EarlierTrials:
    """All that was trained in a study, or that it remembers of earlier ones."""
    earlier = EarlierTrials(space, min_distance)
    for trial in trials:
        if REJECTED_KEY not in trial.user_attrs:
            earlier.add(trial.number, trial.params)
    return earlier


def _is_listed(trial: Trial | FrozenTrial) -> bool:
    """Whether it is one of a fixed list of points, so that nothing takes its place if it is rejected."""
    return bool(trial.user_attrs.get("listed"))


def _uses_up_a_trial(trial: FrozenTrial) -> bool:
    if EARLIER_KEY in trial.user_attrs:
        return False
    if REJECTED_KEY in trial.user_attrs:
        return _is_listed(trial)
    return trial.state is not OptunaState.WAITING


def _too_narrow(space: Space, rejections: Sequence[Violation]) -> str:
    """Names the constraint that turned down most, since numbers of parameters and of FLOPs do not compare."""
    (worst, count), *_ = Counter(violation.constraint for violation in rejections).most_common()
    smallest = min(violation.value for violation in rejections if violation.constraint == worst)
    return (
        f"{space.name}: constraints: {worst} must hold, but {count:,} of {len(rejections):,} samples in a row broke "
        f"it; the smallest had {smallest:,.15g}. Raise the ceiling, or narrow the space"
    )
