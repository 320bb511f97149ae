"""A study as MLflow runs: a parent for the study, a child for every trial, states that tell the truth.

One `log_batch` per trial, never asynchronous: 30 ms a trial (30 epochs x 6 metrics, 12 params, sqlite, quiet
disk), where one call per value takes 367 ms and MLflow's asynchronous queue 1049 ms.
"""

from __future__ import annotations

import getpass
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, Param, Run, RunTag

from fmasearch.records import (
    ConfirmRecord,
    EpochResult,
    FinalRecord,
    Objective,
    TrialRecord,
    TrialStart,
    TrialState,
)
from fmasearch.tracking.base import CloseStatus
from fmasearch.tracking.mlflow_store import init_store, open_experiment
from fmasearch.tracking.mlflow_values import (
    TAG_LENGTH,
    cut,
    epoch_metrics,
    final_values,
    flatten,
    metric,
    trial_metrics,
)

# MLflow's own limits are 1000 metrics and 100 params or tags a batch, and 1000 of all together.
METRICS_PER_BATCH = 900
PARAMS_PER_BATCH = 100

RUN_STATUS = {
    TrialState.COMPLETED: "FINISHED",
    TrialState.PRUNED: "KILLED",
    TrialState.FAILED: "FAILED",
}
CLOSE_STATUS = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
INHERITED_TAGS = ("mlflow.user", "mlflow.source.name", "mlflow.source.type", "mlflow.source.git.commit")


@dataclass
class _Child:
    """The run of one trial. `state` is the trial's, or "interrupted"; `logged` the last epoch MLflow has."""

    run_id: str
    stage: str
    state: str = TrialState.RUNNING
    best: float = math.nan
    num_epochs: int = 0
    logged: int = 0
    pending: list[Metric] = field(default_factory=list)
    flushed_at: float = field(default_factory=time.monotonic)


class MlflowTracker:
    """Writes a study to the MLflow store at `uri`, which is created if need be.

    Args:
        experiment: MLflow's name for a group of studies, e.g. the space's name.
        study_name: names the parent run; `resume` continues the newest run of that name, and its children.
        tags: of the parent run, such as `mlflow.source.git.commit` and `fmasearch.space_hash`.
        params: of the parent run, nested or flat: the settings of the search.
        flush_seconds: a trial's epochs reach MLflow when it ends, and at least this often before.
        runs: the studies' folder, where artifacts lie if the store is a database.

    Raises:
        StudyError: if the store or the experiment cannot be opened.
    """

    def __init__(
        self,
        uri: str,
        experiment: str,
        study_name: str,
        *,
        objective: Objective,
        tags: Mapping[str, str] | None = None,
        params: Mapping[str, Any] | None = None,
        resume: bool = False,
        flush_seconds: float = 60.0,
        runs: Path | None = None,
    ) -> None:
        self._objective = objective
        self._study_name = study_name
        self._flush_seconds = flush_seconds
        self._client = init_store(uri)
        self._experiment_id = open_experiment(self._client, experiment, runs=runs)
        self._tags = {"mlflow.user": _user(), "mlflow.source.type": "LOCAL", **(tags or {})}
        parent = self._find_parent() if resume else None
        self.parent_run_id = self._reopen_parent(parent) if parent else self._create_parent()
        self._children = self._find_children() if parent else {}
        # Params are written once; of a resumed study that was given other settings, the first stand.
        known = parent.data.params if parent else {}
        self._log_params(self.parent_run_id, _absent(flatten(params or {}), known))

    def start_trial(self, start: TrialStart) -> None:
        """Open the trial's run, or open it again; sampled params come first, then the rest of the config."""
        child = self._children.get(start.name)
        if child is None:
            self._children[start.name] = self._create_child(start, "search", start.name)
            return
        child.state, child.logged = TrialState.RUNNING, self._last_epoch(child.run_id)
        child.pending = []  # of the attempt before; the trial's record will carry every epoch
        self._client.update_run(child.run_id, status="RUNNING")
        self._client.set_tag(child.run_id, "fmasearch.state", TrialState.RUNNING)

    def log_epoch(self, name: str, result: EpochResult) -> None:
        child = self._children[name]
        if result.epoch != child.logged + 1:
            # A trial that was cut off and started again: MLflow keeps what it has, and a gap, epochs that were
            # pending when the driver was killed, is filled from the trial's record when it ends.
            return
        child.pending += epoch_metrics(result)
        child.logged = result.epoch
        if time.monotonic() - child.flushed_at >= self._flush_seconds:
            self._flush(child)

    def finish_trial(self, record: TrialRecord) -> None:
        """End the trial's run truthfully; a trial that already ended in that state stays as it is."""
        child = self._children.get(record.name)
        if child is not None and child.state == record.state:
            return
        if child is None:
            child = self._children[record.name] = self._create_child(record.start, "search", record.name)
        self._finish(child, record)
        self._log_progress()

    def log_confirmation(self, records: Sequence[ConfirmRecord]) -> None:
        """One run per configuration and seed, `confirm-<trial>-seed<k>`; the parent gets the winner's mean.

        Args:
            records: best first.
        """
        for record in records:
            for index, curve in enumerate(record.curves):
                name = f"confirm-{record.trial}-seed{index}"
                if name not in self._children:
                    self._children[name] = self._create_child(curve.start, "confirm", name)
                if self._children[name].state != curve.state:
                    self._finish(self._children[name], curve)
        if records:
            name = f"confirmed_{self._objective.metric}"
            self._log_values(self.parent_run_id, {f"{name}_mean": records[0].mean, f"{name}_std": records[0].std})

    def log_final(self, final: FinalRecord, artifacts: Sequence[Path] = ()) -> None:
        """The winner's curve, test metrics and intervals, and `artifacts` (files, folders), on the parent."""
        metrics = [value for result in final.curve for value in epoch_metrics(result)]
        self._log_metrics(self.parent_run_id, metrics, tags={"fmasearch.winner": final.trial})
        self._log_values(self.parent_run_id, dict(final_values(final)))
        for path in artifacts:
            if path.is_dir():
                self._client.log_artifacts(self.parent_run_id, str(path), artifact_path=path.name)
            else:
                self._client.log_artifact(self.parent_run_id, str(path))

    def describe(self, markdown: str) -> None:
        """Show `markdown` as the description on the parent run's page."""
        self._client.set_tag(self.parent_run_id, "mlflow.note.content", markdown[:TAG_LENGTH])

    def close(self, status: CloseStatus) -> None:
        """End the parent run; trials that still ran were interrupted, and are marked as such."""
        for child in self._children.values():
            if child.state == TrialState.RUNNING:
                child.state = "interrupted"
                self._flush(child, {"fmasearch.state": child.state})
                self._client.set_terminated(child.run_id, "KILLED")
        self._client.set_tag(self.parent_run_id, "fmasearch.state", status)
        self._client.set_terminated(self.parent_run_id, CLOSE_STATUS[status])

    def _finish(self, child: _Child, record: TrialRecord) -> None:
        unlogged = [result for result in record.epochs if result.epoch > child.logged]
        child.pending += [value for result in unlogged for value in epoch_metrics(result)]
        child.pending += trial_metrics(record, self._objective.metric)
        child.state, child.num_epochs = record.state, len(record.epochs)
        child.best = record.best.objective if record.best else math.nan
        error = {"fmasearch.error": record.error} if record.error else {}
        self._flush(child, {"fmasearch.state": str(record.state), **error})
        self._client.set_terminated(child.run_id, RUN_STATUS[record.state])

    def _flush(self, child: _Child, tags: Mapping[str, str] | None = None) -> None:
        self._log_metrics(child.run_id, child.pending, tags)
        child.pending, child.flushed_at = [], time.monotonic()

    def _log_progress(self) -> None:
        """The parent's curves over the number of trials that ended: best so far, epochs spent, states."""
        ended = [c for c in self._children.values() if c.stage == "search" and c.state in RUN_STATUS]
        values = {f"num_{state}": float(sum(c.state == state for c in ended)) for state in RUN_STATUS}
        values["num_epochs"] = float(sum(c.num_epochs for c in ended))
        scores = [c.best for c in ended if c.state != TrialState.FAILED and not math.isnan(c.best)]
        if scores:
            best = max(scores) if self._objective.mode == "max" else min(scores)
            values[f"best_{self._objective.metric}"] = best
        self._log_values(self.parent_run_id, values, step=len(ended))

    def _create_parent(self) -> str:
        tags = {**self._tags, "fmasearch.stage": "study", "fmasearch.study": self._study_name}
        run = self._client.create_run(self._experiment_id, tags=cut(tags), run_name=self._study_name)
        return str(run.info.run_id)

    def _reopen_parent(self, run: Run) -> str:
        run_id = str(run.info.run_id)
        self._client.update_run(run_id, status="RUNNING")
        self._log_metrics(run_id, [], tags={**self._tags, "fmasearch.state": "running"})
        return run_id

    def _create_child(self, start: TrialStart, stage: str, name: str) -> _Child:
        tags = {key: self._tags[key] for key in INHERITED_TAGS if key in self._tags} | {
            "mlflow.parentRunId": self.parent_run_id,
            "fmasearch.study": self._study_name,
            "fmasearch.stage": stage,
            "fmasearch.trial": name,
            "fmasearch.number": str(start.number),
            "fmasearch.seed": str(start.seed),
            "fmasearch.state": str(TrialState.RUNNING),
        }
        if start.label:
            tags["fmasearch.label"] = start.label
        run_id = self._client.create_run(self._experiment_id, tags=cut(tags), run_name=name).info.run_id
        sampled = flatten(start.params)
        self._log_params(run_id, sampled | _absent(flatten(start.config), sampled))
        return _Child(str(run_id), stage)

    def _find_parent(self) -> Run | None:
        """The newest parent run of this study."""
        studies = self._search("tags.`fmasearch.stage` = 'study'")
        return next((run for run in studies if run.data.tags["fmasearch.study"] == self._study_name), None)

    def _find_children(self) -> dict[str, _Child]:
        best = f"best_{self._objective.metric}"
        children = {}
        for run in self._search(f"tags.`mlflow.parentRunId` = '{self.parent_run_id}'"):
            tags, metrics = run.data.tags, run.data.metrics
            ended = tags["fmasearch.state"] in RUN_STATUS
            children[tags["fmasearch.trial"]] = _Child(
                str(run.info.run_id),
                stage=tags["fmasearch.stage"],
                state=tags["fmasearch.state"],
                best=metrics.get(best, math.nan),
                num_epochs=int(metrics.get("num_epochs", 0)),
                logged=0 if ended else self._last_epoch(str(run.info.run_id)),
            )
        return children

    def _search(self, condition: str) -> Iterator[Run]:
        """Runs of the experiment, newest first."""
        token: str | None = None
        while True:
            runs = self._client.search_runs([self._experiment_id], condition, page_token=token)
            yield from runs
            token = runs.token
            if not token:
                return

    def _last_epoch(self, run_id: str) -> int:
        history = self._client.get_metric_history(run_id, "epoch_seconds")
        return max((value.step for value in history), default=0)

    def _log_values(self, run_id: str, values: Mapping[str, float], step: int = 0) -> None:
        self._log_metrics(run_id, [metric(name, value, step) for name, value in values.items()])

    def _log_metrics(self, run_id: str, metrics: Sequence[Metric], tags: Mapping[str, str] | None = None) -> None:
        run_tags = [RunTag(key, value) for key, value in cut(tags or {}).items()]
        for first in range(0, max(len(metrics), 1), METRICS_PER_BATCH):
            batch = metrics[first : first + METRICS_PER_BATCH]
            self._client.log_batch(run_id, metrics=batch, tags=run_tags, synchronous=True)
            run_tags = []

    def _log_params(self, run_id: str, params: Mapping[str, str]) -> None:
        values = [Param(key, value) for key, value in params.items()]
        for first in range(0, len(values), PARAMS_PER_BATCH):
            self._client.log_batch(run_id, params=values[first : first + PARAMS_PER_BATCH], synchronous=True)


def _absent(values: Mapping[str, str], known: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in values.items() if key not in known}


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without a passwd entry
        return "unknown"
