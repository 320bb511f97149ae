"""The trainable: one warm Ray actor that trains trial after trial, each as if it were the first."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune

from fmasearch.config import TrainConfig
from fmasearch.data import Dataset, DataSpec, open_dataset
from fmasearch.data.remote import is_uri
from fmasearch.records import EpochResult, TrialStart
from fmasearch.searcher import EPOCH_KEY, OBJECTIVE_KEY, RESULT_KEY
from fmasearch.study.checkpoints import SHARED_MARK, read_checkpoint, write_checkpoint
from fmasearch.study.node_data import DataSource, on_this_node
from fmasearch.tasks.kept import KeptOutputs
from fmasearch.trainer import Trainer

OUTPUTS_KEY = "outputs"
"""In a last result: the validation outputs of the best epoch, as `KeptOutputs.to_bytes` gives them."""


@dataclass(frozen=True, slots=True)
class TrialJob:
    """All that an actor needs to train one trial; plain values, sent as Ray's config of the trial."""

    start: TrialStart
    data: DataSpec
    checkpoint: str | None
    """Path or URI of the trial's checkpoint; None if nobody would find one again."""
    num_threads: int
    gpu_share: float
    checkpoint_seconds: float
    source: DataSource | None = None
    """On a cluster, where nodes get the data from."""
    keep_outputs: bool = False
    """Whether the last result brings what the model says of the validation tracks."""

    def to_config(self) -> dict[str, Any]:
        return {"job": asdict(self)}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> TrialJob:
        job = dict(config["job"])
        source = job.pop("source")
        return cls(
            start=TrialStart(**job.pop("start")),
            data=DataSpec.from_json(job.pop("data")),
            source=None if source is None else DataSource(**source),
            **job,
        )


class TrialActor(tune.Trainable):
    """Starting a process with torch costs over a second, a small trial a few: actors are reused, data stays mapped.

    Trials share nothing else: the trainer owns every random generator, so a trial gives the same curve whether
    it is the first or the tenth in its actor.
    """

    _dataset: tuple[DataSpec, str, Dataset] | None = None
    _trainer: Trainer | None = None
    _last: EpochResult | None = None

    def setup(self, config: dict[str, Any]) -> None:
        self._start(TrialJob.from_config(config))

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._start(TrialJob.from_config(new_config))
        return True

    def step(self) -> dict[str, Any]:
        """Train one epoch."""
        self._keep()
        result = next(self._epochs, self._last)
        assert result is not None
        result = replace(result, node=self._node)
        self._last = result
        return {
            EPOCH_KEY: result.epoch,
            OBJECTIVE_KEY: result.best_objective,
            "finished": result.finished,
            "done": result.finished,
            RESULT_KEY: result.to_json(),
            **(self._outputs() if result.finished and self._job.keep_outputs else {}),
        }

    def cleanup(self) -> None:
        self._trainer = None

    def _start(self, job: TrialJob) -> None:
        self._trainer: Trainer | None = None  # free the last trial's memory before the next one asks for its own
        torch.set_num_threads(job.num_threads)
        device = _device(job.gpu_share)
        self._job = job
        config = TrainConfig.model_validate(job.start.config)
        trainer = Trainer(config, self._open(job, device), device=device)
        self._trainer = trainer
        self._node = "" if job.source is None else ray.util.get_node_ip_address()
        self._checkpoint = _within_reach(job)
        self._last = _resume(trainer, self._checkpoint)
        self._kept_at = time.monotonic()
        self._epochs: Iterator[EpochResult] = trainer.epochs()

    def _open(self, job: TrialJob, device: str) -> Dataset:
        if self._dataset is None or self._dataset[:2] != (job.data, device):
            self._dataset = (job.data, device, open_dataset(on_this_node(job.data, job.source), device=device))
        return self._dataset[2]

    def _outputs(self) -> dict[str, bytes]:
        assert self._trainer is not None
        dataset, outputs_NK = self._trainer.dataset, self._trainer.best_outputs()
        if outputs_NK is None or dataset.val is None:
            return {}
        val = dataset.val
        kept = KeptOutputs(outputs_NK, val.targets_N.cpu(), val.artist_ids, dataset.class_names, dataset.targets)
        return {OUTPUTS_KEY: kept.to_bytes()}

    def _keep(self) -> None:
        """Checkpoint now and then, so that a killed study loses seconds, and short trials pay nothing.

        Before an epoch and not after it: Ray asks for the next one once the driver has written down the last, so
        the journal is never behind a checkpoint.
        """
        if self._last is None or time.monotonic() - self._kept_at < self._job.checkpoint_seconds:
            return
        assert self._trainer is not None
        if self._checkpoint is not None:
            write_checkpoint(self._checkpoint, {"trainer": self._trainer.state_dict(), "last": self._last.to_json()})
        self._kept_at = time.monotonic()


def _within_reach(job: TrialJob) -> str | None:
    """The checkpoint, unless it lies on a disk of the driver's that this node does not see."""
    if job.checkpoint is None or job.source is None or job.source.is_here or is_uri(job.checkpoint):
        return job.checkpoint
    return job.checkpoint if (Path(job.checkpoint).parent / SHARED_MARK).exists() else None


def _resume(trainer: Trainer, checkpoint: str | None) -> EpochResult | None:
    state = None if checkpoint is None else read_checkpoint(checkpoint, trainer.device)
    if state is None:
        return None
    trainer.load_state_dict(state["trainer"])
    return EpochResult.from_json(state["last"])


def _device(gpu_share: float) -> str:
    if gpu_share <= 0:
        return "cpu"
    if gpu_share < 1:
        # Ray's shares are only bookkeeping; this makes a trial that outgrows its share fail alone.
        torch.cuda.set_per_process_memory_fraction(gpu_share)
    return "cuda"
