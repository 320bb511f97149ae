"""Train any architecture on any task: a generator of `EpochResult`.

Ray Tune, the confirmation stage, `fmasearch train` and the tests are loops over `Trainer.epochs()`; stopping is
the caller's `break`. B batch, C crops of a track, T frames, F bins, K outputs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from fmasearch.augment import augment, mixup
from fmasearch.config import AugmentConfig, CropConfig, LossConfig, SchedulerConfig, TrainConfig, TransferConfig
from fmasearch.data import Batch, Dataset, Split
from fmasearch.errors import ConfigError, DivergedError
from fmasearch.model_file import load_model
from fmasearch.models import ClipModel, build_model, hyperparameters, load_pretrained
from fmasearch.models.transfer import freeze, load_matching
from fmasearch.optim import WeightAverage, build_optimizer, build_schedule
from fmasearch.records import EpochResult
from fmasearch.tasks import Task, build_task

Autocast: TypeAlias = Callable[[], AbstractContextManager[Any]]

EVAL_BATCH_SIZE = 64
WHOLE = CropConfig()
REGULARISERS = ("dropout", "drop_path", "patchout_time", "patchout_frequency")
"""How the names of hyperparameters end that only regularise, and are off at 0."""


class Trainer:
    """One training. Reads only the dataset's train and val; every random number is a function of `config.seed`.

    Args:
        config: architecture, loss, optimiser, schedule, crops, augmentation, transfer and epochs.
        dataset: train and, unless everything is trained on, val; already on `device`.
        device: where the model lives.

    Raises:
        ConfigError: for a model that cannot be built, or weights to start from that do not fit it.
        ModelError: if `config.transfer.init_from` is no model file.
    """

    def __init__(self, config: TrainConfig, dataset: Dataset, *, device: torch.device | str = "cpu") -> None:
        self.config = config
        self.dataset = dataset
        self.device = torch.device(device)
        self.task = build_task(
            config.task,
            dataset.class_names,
            dataset.targets,
            loss=config.loss,
            class_counts=_class_counts(config, dataset),
        )
        self.epoch = 0
        self.best_epoch = 0
        self.best_objective = math.nan
        self.best_weights: dict[str, Tensor] = {}
        self._shuffle = torch.Generator().manual_seed(config.seed)
        self.num_frames = config.crop.input_frames(dataset.num_frames)
        with torch.random.fork_rng(devices=self._cuda_devices()):
            torch.manual_seed(config.seed)
            model = build_model(
                config.architecture,
                input_dim=dataset.input_dim,
                num_frames=self.num_frames,
                output_dim=self.task.output_dim,
                **config.hyperparameters,
            )
            model.learn_weights(self.task.num_learned_weights)
            self._rng = self._rng_state()
        self.origin = initialise(model, config)
        self.model = model.to(self.device)
        self._prepare_steps()
        if self.device.type == "cuda":
            torch.backends.cudnn.benchmark = True  # batches of one shape: the search for a kernel pays once
            torch.set_float32_matmul_precision("high")

    def _prepare_steps(self) -> None:
        trainer = self.config.trainer
        self._num_batches = self.dataset.train.num_batches(trainer.batch_size)
        self.optimizer = build_optimizer(self.model.blocks(), self.config.optimizer, fused=True)
        self.schedule = build_schedule(
            self.optimizer,
            self.config.scheduler,
            max_epochs=trainer.max_epochs,
            steps_per_epoch=max(1, math.ceil(self._num_batches / trainer.accumulation_steps)),
        )
        self._trainable = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self._average = None if trainer.ema_decay is None else WeightAverage(self.model, trainer.ema_decay)
        self._per_decibel_F = self.dataset.per_decibel_F

    @property
    def judged(self) -> nn.Module:
        """The model that is validated and kept: the average of the weights where one is taken."""
        return self.model if self._average is None else self._average.model

    @property
    def finished(self) -> bool:
        """Whether `max_epochs` or the patience is used up. One-cycle is at its best at its end: it has no patience."""
        patience = None if self.config.scheduler.name == "one_cycle" else self.config.trainer.patience
        out_of_patience = patience is not None and self.epoch - self.best_epoch >= patience
        return self.epoch >= self.config.trainer.max_epochs or (self.dataset.val is not None and out_of_patience)

    def epochs(self) -> Iterator[EpochResult]:
        """Train epoch after epoch.

        Raises:
            DivergedError: in the epoch in which a loss stops being finite.
        """
        while not self.finished:
            yield self._run_epoch()

    def best_outputs(self) -> Tensor | None:
        """Outputs for the validation tracks as in the best epoch, (N, K) float32 on the CPU; None if none was best.

        For when training is over: the judged model keeps that epoch's weights.
        """
        if not self.best_weights or self.dataset.val is None:
            return None
        self.judged.load_state_dict(self.best_weights)
        return predict(self.judged, self.dataset.val, self.task, self.config.crop, autocast=self._autocast)

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
            "average": None if self._average is None else self._average.state_dict(),
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
        if self._average is not None:
            self._average.load_state_dict(state["average"])
        self._shuffle.set_state(state["shuffle"].cpu())  # a checkpoint is loaded onto the model's device
        self._rng = [rng.cpu() for rng in state["rng"]]

    def _run_epoch(self) -> EpochResult:
        started = time.perf_counter()
        learning_rate = self.schedule.learning_rate
        with self._own_rng():
            metrics = {f"train_{k}": v for k, v in self._train().items()}
        if self.dataset.val is not None:
            val = evaluate(self.judged, self.dataset.val, self.task, self.config.crop, autocast=self._autocast)
            metrics |= {f"val_{k}": v for k, v in val.items()}
        self.epoch += 1
        monitored = metrics.get("val_loss", metrics["train_loss"])
        if not (math.isfinite(metrics["train_loss"]) and math.isfinite(monitored)):
            raise DivergedError(
                f"epoch {self.epoch}: train_loss={metrics['train_loss']:g}, val_loss={monitored:g} at "
                f"learning_rate={learning_rate:g}"
            )
        self.schedule.after_epoch(monitored)
        objective = metrics.get(self.task.objective.metric, math.nan)
        if self.task.objective.better(objective, self.best_objective):
            self.best_objective, self.best_epoch = objective, self.epoch
            self.best_weights = {k: v.detach().clone() for k, v in self.judged.state_dict().items()}
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
        trainer, split = self.config.trainer, self.dataset.train
        batches = split.shuffled(trainer.batch_size, self._shuffle, crop_frames=self.config.crop.frames)
        for index, batch in enumerate(batches):
            place = index % trainer.accumulation_steps
            if place == 0:
                self.optimizer.zero_grad(set_to_none=True)
            loss, outputs_BK = self._loss(batch)
            # The batches of a step weigh alike, also those of the last step, which may be fewer.
            num_batches = min(trainer.accumulation_steps, self._num_batches - (index - place))
            (loss / num_batches).backward()  # type: ignore[no-untyped-call]
            if place == num_batches - 1:
                self._step()
            metrics.update(outputs_BK, batch.targets_B)
        return metrics.compute()

    def _loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The augmented batch's loss, and its outputs, for the metrics."""
        config = self.config.augment
        x_BTF, lengths_B = augment(batch.x_BTF, batch.lengths_B, self._per_decibel_F, config), batch.lengths_B
        if config.mixup_alpha == 0:
            outputs_BK = self._outputs(x_BTF, lengths_B)
            return self.task.loss(outputs_BK, batch.targets_B), outputs_BK.detach()
        mixed = mixup(x_BTF, lengths_B, config.mixup_alpha)
        outputs_BK = self._outputs(mixed.x_BTF, mixed.lengths_B)
        partners_B = batch.targets_B[mixed.partner_B.to(self.device, non_blocking=True)]
        own, partners = (self.task.loss(outputs_BK, targets_B) for targets_B in (batch.targets_B, partners_B))
        return mixed.share * own + (1 - mixed.share) * partners, outputs_BK.detach()

    def _outputs(self, x_BTF: Tensor, lengths_B: Tensor) -> Tensor:
        with self._autocast():
            outputs_BK: Tensor = self.model(x_BTF, lengths_B)
        return outputs_BK.float()

    def _step(self) -> None:
        if self.config.trainer.grad_clip_norm is not None:
            nn.utils.clip_grad_norm_(self._trainable, self.config.trainer.grad_clip_norm, foreach=True)
        self.optimizer.step()
        self.schedule.after_step()
        if self._average is not None:
            self._average.update(self.model)

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


def initialise(model: ClipModel, config: TrainConfig) -> str | None:
    """Give a fresh model the weights that its configuration asks for, and freeze what it freezes.

    Returns:
        What was loaded, in words; None if the weights are all fresh.

    Raises:
        ConfigError: if they do not fit the model, or if fresh weights would be frozen.
    """
    origin = load_pretrained(model)
    if config.transfer.init_from is not None:
        transferred = load_matching(model, load_model(config.transfer.init_from).weights)
        origin = f"{config.transfer.init_from}: {transferred}"
    if origin is None and config.transfer.freeze != "none":
        raise ConfigError(
            f"transfer.freeze: {config.transfer.freeze} would freeze random weights: give transfer.init_from "
            f"(--init-from model.pt) or pretrained weights to start from, or freeze: none"
        )
    freeze(model, config.transfer.freeze)
    return origin


@torch.inference_mode()
def evaluate(
    model: nn.Module, split: Split, task: Task, crop: CropConfig = WHOLE, *, autocast: Autocast = nullcontext
) -> dict[str, float]:
    """Scores of a split's tracks: accumulated batch by batch, read from the device once."""
    metrics = task.metrics(split.device)
    for outputs_BK, targets_B in _track_outputs(model, split, task, crop, autocast):
        metrics.update(outputs_BK, targets_B)
    return metrics.compute()


@torch.inference_mode()
def predict(
    model: nn.Module, split: Split, task: Task, crop: CropConfig = WHOLE, *, autocast: Autocast = nullcontext
) -> Tensor:
    """Outputs for every track of the split in file order, (N, K) float32 on the CPU, computed in fp32 by default."""
    return torch.cat([outputs_BK for outputs_BK, _ in _track_outputs(model, split, task, crop, autocast)]).cpu()


@torch.inference_mode()
def predict_crops(
    model: nn.Module, split: Split, crop: CropConfig = WHOLE, *, batch_size: int = EVAL_BATCH_SIZE
) -> Tensor:
    """The same for every crop of every track, (N, C, K); one crop is the whole track where it is not cropped."""
    batches = _crop_outputs(model, split, crop, nullcontext, batch_size)
    return torch.cat([outputs_BCK for outputs_BCK, _ in batches]).cpu()


def _track_outputs(
    model: nn.Module, split: Split, task: Task, crop: CropConfig, autocast: Autocast
) -> Iterator[tuple[Tensor, Tensor]]:
    """Outputs (B, K) and targets of whole tracks: what a model says of a track's crops is combined."""
    for outputs_BCK, targets_B in _crop_outputs(model, split, crop, autocast):
        yield outputs_BCK[:, 0] if outputs_BCK.shape[1] == 1 else task.combine(outputs_BCK), targets_B


def _crop_outputs(
    model: nn.Module, split: Split, crop: CropConfig, autocast: Autocast, batch_size: int = EVAL_BATCH_SIZE
) -> Iterator[tuple[Tensor, Tensor]]:
    model.eval()
    num_crops = crop.num_eval if split.is_cropped(crop.frames) else 1
    num_tracks = max(1, batch_size // num_crops)
    for batch in split.ordered(num_tracks, crop_frames=crop.frames, num_crops=num_crops):
        with autocast():
            outputs_BK = model(batch.x_BTF, batch.lengths_B)
        yield outputs_BK.float().unflatten(0, (-1, num_crops)), batch.targets_B


def overfit_batch(
    config: TrainConfig, dataset: Dataset, *, num_tracks: int = 16, num_steps: int = 200, device: str = "cpu"
) -> Iterator[EpochResult]:
    """Train on one small batch without regularisation, one step an epoch: the loss of a healthy model goes to 0.

    A model that cannot memorise 16 clips has a defect that no search will find: a wrong loss, a dead branch, a
    learning rate of the wrong order.
    """
    head = dataset.train.head(num_tracks)
    few = replace(dataset, train=head, val=None)
    yield from Trainer(_unregularised(config, num_tracks, num_steps), few, device=device).epochs()


def _unregularised(config: TrainConfig, num_tracks: int, num_steps: int) -> TrainConfig:
    regularisers = [name for name in hyperparameters(config.architecture) if name.endswith(REGULARISERS)]
    return config.model_copy(
        update={
            "model": {**config.model, **dict.fromkeys(regularisers, 0.0)},
            "loss": LossConfig(),
            "augment": AugmentConfig(),
            "crop": CropConfig(),
            "transfer": TransferConfig(),
            "optimizer": config.optimizer.model_copy(update={"weight_decay": 0.0, "layer_decay": 1.0}),
            "scheduler": SchedulerConfig(),
            "trainer": config.trainer.model_copy(
                update={
                    "max_epochs": num_steps,
                    "patience": None,
                    "batch_size": num_tracks,
                    "accumulation_steps": 1,
                    "ema_decay": None,
                }
            ),
        }
    )


def _class_counts(config: TrainConfig, dataset: Dataset) -> list[int] | None:
    """Training tracks of each class, where the loss weighs classes by them."""
    if config.loss.class_weights == "none" or not dataset.class_names:
        return None
    counts: list[int] = torch.bincount(dataset.train_classes(), minlength=len(dataset.class_names)).tolist()
    return counts
