"""Run trials on Ray Tune: a search that Optuna leads and a pruning rule cuts short, or a fixed list of trainings."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import optuna
from ray import tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.stopper import CombinedStopper

from fmasearch.config import derive_seed
from fmasearch.costs import known_costs, limited_costs
from fmasearch.data import prepare, read_info
from fmasearch.errors import ConfigError
from fmasearch.records import EpochResult, Objective, Params, TrialRecord, TrialStart, TrialState
from fmasearch.searcher import (
    OBJECTIVE_KEY,
    Ending,
    OptunaSearcher,
    close_trial,
    num_trials,
    open_study,
    state_of,
)
from fmasearch.space import Violation
from fmasearch.space.constraints import known_before_training
from fmasearch.study.actor import TrialActor, TrialJob
from fmasearch.study.callback import TrackerCallback
from fmasearch.study.checkpoints import remove_checkpoints
from fmasearch.study.earlier import load_earlier
from fmasearch.study.folder import StudyPlan
from fmasearch.study.losses import losses_forgiven
from fmasearch.study.runtime import Runtime
from fmasearch.study.scheduler import build_scheduler
from fmasearch.study.starting import starting_actors_kept
from fmasearch.study.stopping import SlowTrials, StopRequests
from fmasearch.tracking import Journal, Tracker, read_journal

_PENDING = "TUNE_MAX_PENDING_TRIALS_PG"


@dataclass(frozen=True, slots=True)
class SearchResult:
    """How a search ended. An interrupted one can be resumed."""

    trials: tuple[TrialRecord, ...]
    interrupted: bool
    seconds: float  # over all sessions; earlier ones by the epochs they trained
    ended_early: str | None = None
    """Why no more trials were started, if not because all were."""


def run_search(plan: StudyPlan, objective: Objective, runtime: Runtime, tracker: Tracker) -> SearchResult:
    """Search, or go on searching, until the trials or the budget are used up. The test split is not opened.

    Args:
        plan: the study; what its folder already holds is kept and continued.
        objective: what trials are compared by.
        runtime: from `start_runtime`.
        tracker: hears of every trial; must write the plan's journal (see `read_journal`).
    """
    started = time.monotonic()
    journal = read_journal(plan.folder.journal)
    spent = sum(e.epoch_seconds for t in journal.trials.values() for e in t.epochs) / runtime.concurrency
    if journal.status == "finished":  # and cut off later, in its confirmation or after
        return SearchResult(journal.finished, False, spent)
    prepare(plan.data)
    study = open_study(
        plan.folder.optuna_file,
        plan.search,
        plan.space,
        objective,
        concurrency=runtime.concurrency,
        earlier=load_earlier(plan.folder),
    )
    _reconcile(study, journal, tracker)

    measure = _measure(plan)

    def make_config(number: int, params: Params, label: str | None) -> dict[str, Any]:
        start = replace(search_start(plan, number, params, label), costs=measure(params))
        return _job(plan, start, runtime).to_config()

    searcher = OptunaSearcher(
        study,
        plan.space,
        num_trials=num_trials(plan.search, plan.space),
        max_total_epochs=plan.search.max_total_epochs,
        num_epochs=journal.num_epochs,
        make_config=make_config,
        reject=_ceiling(plan),
        room=runtime.room if runtime.limit is None else None,
        min_distance=plan.search.sampler.min_distance,
        measure=measure,
        ending=(ending := Ending(plan.search)),
    )
    scheduler = build_scheduler(plan.search, objective, journal)
    earlier = {trial.start.name: trial.epochs for trial in journal.unfinished}
    callback = TrackerCallback(tracker, plan.folder.errors, earlier, constraints=plan.space.constraints)
    slow = SlowTrials(plan.space.constraints, earlier)
    budget = plan.search.time_budget_seconds
    interrupted = False
    if budget is None or budget > spent:
        left = None if budget is None else budget - spent
        interrupted = _fit(searcher, scheduler, callback, plan, runtime, time_budget=left, slow=slow)
    if not interrupted:
        _close_cut_off(study, plan, tracker)
        remove_checkpoints(plan.checkpoints)
    seconds = spent + time.monotonic() - started
    return SearchResult(read_journal(plan.folder.journal).finished, interrupted, seconds, ending.reason)


def run_jobs(
    plan: StudyPlan,
    starts: Sequence[TrialStart],
    runtime: Runtime,
    tracker: Tracker,
    *,
    objective: Objective,
    earlier: Mapping[str, tuple[EpochResult, ...]] | None = None,
) -> None:
    """Train a fixed list of configurations to their end, as many at once as fit, and keep their validation outputs.

    Args:
        earlier: epochs by name that an interrupted session already told; trainings go on from checkpoints.
    """
    configs = [_job(plan, start, runtime, keep_outputs=True).to_config() for start in starts]
    if configs:
        callback = TrackerCallback(tracker, plan.folder.errors, earlier, plan.folder.confirm_outputs)
        _fit(_FixedList(configs, objective), FIFOScheduler(), callback, plan, runtime, time_budget=None)


def search_start(plan: StudyPlan, number: int, params: Params, label: str | None = None) -> TrialStart:
    """The trial that `number` and `params` stand for; its seed follows from the study's seed and the number."""
    seed = derive_seed(plan.search.seed, "trial", number)
    config = plan.space.train_config(
        params, max_epochs=plan.search.max_epochs, patience=plan.search.patience, seed=seed
    )
    return TrialStart(number, f"t{number:04d}", dict(params), config.model_dump(mode="json"), seed, label)


def _ceiling(plan: StudyPlan) -> Callable[[Params], Violation | None] | None:
    """What a sample breaks of the space's constraints, found out without training or memory; None without any."""
    if not known_before_training(plan.space.constraints):
        return None
    info = read_info(plan.data.path)

    def violation(params: Params) -> Violation | None:
        config = plan.space.train_config(params, max_epochs=1, patience=None, seed=0)
        try:
            costs = limited_costs(config, info, plan.space.constraints)
        except ConfigError:  # no such model: the trial fails with this very error, and the study goes on
            return None
        return plan.space.violation(costs)

    return violation


def _measure(plan: StudyPlan) -> Callable[[Params], dict[str, float]]:
    """What can be known of a sample before it is trained, of all that the search minimises."""
    wanted = plan.search.also_minimise
    info = read_info(plan.data.path) if wanted else None

    def costs(params: Params) -> dict[str, float]:
        if info is None:
            return {}
        config = plan.space.train_config(params, max_epochs=1, patience=None, seed=0)
        try:
            return known_costs(config, info, wanted)
        except ConfigError:  # as for a ceiling
            return {}

    return costs


def _fit(
    searcher: Searcher,
    scheduler: TrialScheduler,
    callback: TrackerCallback,
    plan: StudyPlan,
    runtime: Runtime,
    *,
    time_budget: float | None,
    slow: SlowTrials | None = None,
) -> bool:
    """Run until the searcher is finished or the time is up; returns whether Ctrl-C came first."""
    trainable = tune.with_resources(TrialActor, {"cpu": runtime.trial_cpus, "gpu": runtime.trial_gpus})
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=scheduler,
            num_samples=-1,  # the searcher says when it is finished
            max_concurrent_trials=runtime.limit,
            time_budget_s=time_budget,
            reuse_actors=True,
            trial_name_creator=_trial_name,
            trial_dirname_creator=_trial_name,
        ),
        run_config=tune.RunConfig(
            name=f"{time.time_ns()}",
            storage_path=str(plan.folder.ray.resolve()),
            callbacks=[callback],
            stop=CombinedStopper(*filter(None, (StopRequests(plan.folder), slow))),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=0),
            # Actors checkpoint by themselves, by time and not by epoch.
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
        ),
    )
    in_main_thread = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT)
    interrupted = False
    try:
        forgiving = losses_forgiven() if runtime.on_cluster else nullcontext()
        with _quiet(), _many_pending(), starting_actors_kept(), forgiving:
            tuner.fit()
        # Ray catches Ctrl-C while it tunes. It puts the handler back when one came, but not when none did.
        interrupted = signal.getsignal(signal.SIGINT) is handler
    finally:
        if in_main_thread:
            signal.signal(signal.SIGINT, handler)
        shutil.rmtree(plan.folder.ray, ignore_errors=True)
    return interrupted and in_main_thread


def _trial_name(trial: Any) -> str:
    return str(trial.config["job"]["start"]["name"])


def _job(plan: StudyPlan, start: TrialStart, runtime: Runtime, *, keep_outputs: bool = False) -> TrialJob:
    return TrialJob(
        start=start,
        data=plan.data,
        checkpoint=plan.checkpoint_of(start.name),
        num_threads=max(1, int(runtime.trial_cpus)),
        gpu_share=runtime.trial_gpus,
        checkpoint_seconds=plan.search.checkpoint_seconds,
        source=runtime.source,
        keep_outputs=keep_outputs,
    )


def _reconcile(study: optuna.Study, journal: Journal, tracker: Tracker) -> None:
    """Make journal and Optuna agree where a kill fell between telling one and telling the other."""
    for frozen in study.get_trials(deepcopy=False):
        trial = journal.trials.get(f"t{frozen.number:04d}")
        if trial is None:
            continue
        state = state_of(frozen)
        if trial.record is not None and state is TrialState.RUNNING:
            close_trial(study, frozen.number, trial.record.state, trial.record.epochs)
        elif trial.record is None and state is not TrialState.RUNNING:
            error = "the driver was killed before it noted why" if state is TrialState.FAILED else None
            seconds = sum(epoch.epoch_seconds for epoch in trial.epochs)
            tracker.finish_trial(TrialRecord(trial.start, state, trial.epochs, seconds, error))


def _close_cut_off(study: optuna.Study, plan: StudyPlan, tracker: Tracker) -> None:
    """End the trials that Ray dropped when the time was up; it tells nobody about them."""
    for frozen in study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.RUNNING]):
        label = frozen.user_attrs.get("label")
        start = search_start(plan, frozen.number, frozen.params, label)
        if start.name not in read_journal(plan.folder.journal).trials:  # the time was up before its actor was
            tracker.start_trial(start)
    for trial in read_journal(plan.folder.journal).unfinished:
        state = TrialState.PRUNED if trial.epochs else TrialState.FAILED
        error = None if trial.epochs else "the time budget ended before its first epoch"
        seconds = sum(epoch.epoch_seconds for epoch in trial.epochs)
        close_trial(study, trial.start.number, state, trial.epochs)
        tracker.finish_trial(TrialRecord(trial.start, state, trial.epochs, seconds, error))


@contextmanager
def _many_pending() -> Iterator[None]:
    """Let trials wait for their actors side by side: without a limit of its own Ray Tune starts them one by one.

    How many are under way is the searcher's to say (see `Runtime.room`).
    """
    before = os.environ.get(_PENDING)
    os.environ[_PENDING] = before or "1000"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_PENDING]


@contextmanager
def _quiet() -> Iterator[None]:
    """Ray Tune logs what our own view and journal already say, and every diverged trial's traceback."""
    loggers = [logging.getLogger(name) for name in ("ray.tune", "ray", "ray.air")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


class _FixedList(Searcher):
    """Hands out given configurations in order."""

    def __init__(self, configs: Sequence[Mapping[str, Any]], objective: Objective) -> None:
        super().__init__(metric=OBJECTIVE_KEY, mode=objective.mode)
        self._configs = list(configs)

    def suggest(self, trial_id: str) -> Any:
        return dict(self._configs.pop(0)) if self._configs else Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """Nothing to learn."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""
