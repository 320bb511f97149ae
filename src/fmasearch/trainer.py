"""Train any architecture on any task: a generator of `EpochResult`.

Ray Tune, the confirmation stage, `fmasearch train` and the tests are loops over `Trainer.epochs()`; stopping is
the caller's `break`. B batch, T frames, F bins, K outputs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fmasearch.augment import spec_augment
from fmasearch.config import TrainConfig
from fmasearch.data import Batch, Dataset, Split
from fmasearch.errors import DivergedError
from fmasearch.models import build_model
from fmasearch.optim import build_optimizer, build_schedule
from fmasearch.records import EpochResult
from fmasearch.tasks import build_task

EVAL_BATCH_SIZE = 64


class Trainer:
    """One training. Reads only the dataset's train and val; every random number is a function of `config.seed`.

    Args:
        config: architecture, optimiser, schedule, augmentation and epochs.
        dataset: train and, unless everything is trained on, val; already on `device`.
        device: where the model lives.
    """

    def __init__(self, config: TrainConfig, dataset: Dataset, *, device: torch.device | str = "cpu") -> None:
        self.config = config
        self.dataset = dataset
        self.device = torch.device(device)
        self.task = build_task(config.task, dataset.class_names)
        self.epoch = 0
        self.best_epoch = 0
        self.best_objective = math.nan
        self.best_weights: dict[str, Tensor] = {}
        self._shuffle = torch.Generator().manual_seed(config.seed)
        with torch.random.fork_rng(devices=self._cuda_devices()):
            torch.manual_seed(config.seed)
            self.model = build_model(
                config.architecture,
                input_dim=dataset.input_dim,
                num_frames=dataset.num_frames,
                output_dim=self.task.output_dim,
                **config.hyperparameters,
            ).to(self.device)
            self._rng = self._rng_state()
        self.optimizer = build_optimizer(self.model, config.optimizer, fused=True)
        self.schedule = build_schedule(self.optimizer, config.scheduler, max_epochs=config.trainer.max_epochs)
        if self.device.type == "cuda":
            torch.backends.cudnn.benchmark = True  # batches of one shape: the search for a kernel pays once
            torch.set_float32_matmul_precision("high")

    @property
    def finished(self) -> bool:
        """Whether `max_epochs` or the patience is used up."""
        patience = self.config.trainer.patience
        out_of_patience = patience is not None and self.epoch - self.best_epoch >= patience
        return self.epoch >= self.config.trainer.max_epochs or (self.dataset.val is not None and out_of_patience)

    def epochs(self) -> Iterator[EpochResult]:
        """Train epoch after epoch.

        Raises:
            DivergedError: in the epoch in which a loss stops being finite.
        """
        while not self.finished:
            yield self._run_epoch()

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next epoch depends on, every random generator included; plain values and tensors."""
        return {
            "epoch": self.epoch,
            "best_epoch": self.best_epoch,
            "best_objective": self.best_objective,
            "best_weights": self.best_weights,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "shuffle": self._shuffle.get_state(),
            "rng": self._rng,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was taken: on the CPU, bit for bit as if never interrupted."""
        self.epoch = state["epoch"]
        self.best_epoch = state["best_epoch"]
        self.best_objective = state["best_objective"]
        self.best_weights = dict(state["best_weights"])
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self._shuffle.set_state(state["shuffle"].cpu())  # a checkpoint is loaded onto the model's device
        self._rng = [rng.cpu() for rng in state["rng"]]

    def _run_epoch(self) -> EpochResult:
        started = time.perf_counter()
        learning_rate = self.schedule.learning_rate
        with self._own_rng():
            metrics = {f"train_{k}": v for k, v in self._train().items()}
        if self.dataset.val is not None:
            val = evaluate(self.model, self.dataset.val, self.task.metrics(self.device), self._autocast)
            metrics |= {f"val_{k}": v for k, v in val.items()}
        self.epoch += 1
        monitored = metrics.get("val_loss", metrics["train_loss"])
        if not (math.isfinite(metrics["train_loss"]) and math.isfinite(monitored)):
            raise DivergedError(
                f"epoch {self.epoch}: train_loss={metrics['train_loss']:g}, val_loss={monitored:g} at "
                f"learning_rate={learning_rate:g}"
            )
        self.schedule.step(monitored)
        objective = metrics.get(self.task.objective.metric, math.nan)
        if self.task.objective.better(objective, self.best_objective):
            self.best_objective, self.best_epoch = objective, self.epoch
            self.best_weights = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
        return EpochResult(
            epoch=self.epoch,
            metrics=metrics,
            learning_rate=learning_rate,
            epoch_seconds=time.perf_counter() - started,
            objective=objective,
            best_objective=self.best_objective,
            best_epoch=self.best_epoch,
            finished=self.finished,
        )

    def _train(self) -> dict[str, float]:
        """One pass over the training split; nothing is read from the device until its end."""
        self.model.train()
        metrics = self.task.metrics(self.device)
        for batch in self.dataset.train.shuffled(self.config.trainer.batch_size, self._shuffle):
            x_BTF = spec_augment(batch.x_BTF, self.config.augment)
            outputs_BK = self._step(Batch(x_BTF, batch.lengths_B, batch.targets_B))
            metrics.update(outputs_BK, batch.targets_B)
        return metrics.compute()

    def _step(self, batch: Batch) -> Tensor:
        """One step; returns the outputs, for the metrics."""
        self.optimizer.zero_grad(set_to_none=True)
        with self._autocast():
            outputs_BK: Tensor = self.model(batch.x_BTF, batch.lengths_B).float()
        self.task.loss(outputs_BK, batch.targets_B).backward()  # type: ignore[no-untyped-call]
        if self.config.trainer.grad_clip_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.trainer.grad_clip_norm, foreach=True)
        self.optimizer.step()
        return outputs_BK.detach()

    def _autocast(self) -> AbstractContextManager[Any]:
        precision = self.config.trainer.precision
        enabled = precision == "bf16" or (precision == "auto" and self.device.type == "cuda")
        context: AbstractContextManager[Any] = torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=enabled)
        return context

    @contextmanager
    def _own_rng(self) -> Iterator[None]:
        """Dropout and SpecAugment draw from torch's global generators: lend them our state, then give them back."""
        with torch.random.fork_rng(devices=self._cuda_devices()):
            torch.set_rng_state(self._rng[0])
            if self.device.type == "cuda":
                torch.cuda.set_rng_state(self._rng[1], self.device)
            yield
            self._rng = self._rng_state()

    def _rng_state(self) -> list[Tensor]:
        states = [torch.get_rng_state()]
        if self.device.type == "cuda":
            states.append(torch.cuda.get_rng_state(self.device))
        return states

    def _cuda_devices(self) -> list[torch.device]:
        return [self.device] if self.device.type == "cuda" else []


@torch.inference_mode()
def evaluate(model: nn.Module, split: Split, metrics: Any, autocast: Any) -> dict[str, float]:
    """Judge `model` on a split: `metrics` is updated batch by batch and read once."""
    model.eval()
    for batch in split.ordered(EVAL_BATCH_SIZE):
        with autocast():
            outputs_BK = model(batch.x_BTF, batch.lengths_B)
        metrics.update(outputs_BK.float(), batch.targets_B)
    result: dict[str, float] = metrics.compute()
    return result


@torch.inference_mode()
def predict(model: nn.Module, split: Split) -> Tensor:
    """Outputs for every track of the split in file order, (N, K) float32 on the CPU, computed in fp32."""
    model.eval()
    outputs = [model(batch.x_BTF, batch.lengths_B).float() for batch in split.ordered(EVAL_BATCH_SIZE)]
    return torch.cat(outputs).cpu()


def overfit_batch(
    config: TrainConfig, dataset: Dataset, *, num_tracks: int = 16, num_steps: int = 200, device: str = "cpu"
) -> Iterator[EpochResult]:
    """Train on one small batch without regularisation, one step an epoch: the loss of a healthy model goes to 0.

    A model that cannot memorise 16 clips has a defect that no search will find: a wrong loss, a dead branch, a
    learning rate of the wrong order.
    """
    head = dataset.train.head(num_tracks)
    plain = {k: 0.0 if k.endswith("dropout") else v for k, v in config.model.items()}
    debugged = config.model_copy(
        update={
            "model": {**plain, "dropout": 0.0},
            "augment": config.augment.model_copy(update={"num_freq_masks": 0, "num_time_masks": 0}),
            "optimizer": config.optimizer.model_copy(update={"weight_decay": 0.0}),
            "scheduler": config.scheduler.model_copy(update={"name": "constant"}),
            "trainer": config.trainer.model_copy(
                update={"max_epochs": num_steps, "patience": None, "batch_size": num_tracks}
            ),
        }
    )
    yield from Trainer(debugged, Dataset(head, None, dataset.class_names, dataset.normalisers), device=device).epochs()
