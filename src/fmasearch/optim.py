"""Optimisation: parameter groups, the optimiser, and the learning-rate schedule."""

from __future__ import annotations

import math
import warnings
from typing import Any

from torch import nn
from torch.optim import Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau, StepLR

from fmasearch.config import OptimizerConfig, SchedulerConfig


def build_optimizer(model: nn.Module, config: OptimizerConfig, *, fused: bool) -> Optimizer:
    """Adam with an L2 penalty on everything, or AdamW (Loshchilov & Hutter, 2019) that decays matrices only.

    Biases and the scales of norms are shifts and gains: pulling them to 0 limits no complexity. Frozen
    parameters are left out. `fused` runs one kernel for all parameters, on CUDA and on the CPU.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if config.name == "adam":
        return Adam(parameters, lr=config.learning_rate, weight_decay=config.weight_decay, fused=fused)
    matrices = [parameter for parameter in parameters if parameter.ndim >= 2]
    vectors = [parameter for parameter in parameters if parameter.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return AdamW([group for group in groups if group["params"]], lr=config.learning_rate, fused=fused)


class Schedule:
    """The learning rate over epochs: torch's schedulers, none to two on one optimiser; factors multiply."""

    def __init__(self, optimizer: Optimizer, schedulers: tuple[LRScheduler, ...]) -> None:
        self._optimizer = optimizer
        self._schedulers = schedulers

    @property
    def learning_rate(self) -> float:
        """The rate that the next batch is trained with; all parameter groups share it."""
        return float(self._optimizer.param_groups[0]["lr"])

    def step(self, val_loss: float) -> None:
        """End an epoch. A NaN loss counts as no improvement."""
        with warnings.catch_warnings():
            # An epoch may end without one optimiser step, e.g. where no clip had a label.
            warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step", UserWarning)
            for scheduler in self._schedulers:
                if isinstance(scheduler, ReduceLROnPlateau):
                    scheduler.step(val_loss)
                else:
                    scheduler.step()

    def state_dict(self) -> dict[str, Any]:
        return {
            "learning_rate": self.learning_rate,
            "schedulers": [scheduler.state_dict() for scheduler in self._schedulers],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue a curve; before or after the optimiser's own state is loaded."""
        for scheduler, values in zip(self._schedulers, state["schedulers"], strict=True):
            scheduler.load_state_dict(values)
        for group in self._optimizer.param_groups:
            group["lr"] = state["learning_rate"]


def build_schedule(optimizer: Optimizer, config: SchedulerConfig, *, max_epochs: int) -> Schedule:
    """The schedule that a configuration names.

    constant      the learning rate of the optimiser
    plateau       times `factor` when validation loss has not improved for more than `patience` epochs
    step          times `gamma` every `step_size` epochs
    step_plateau  both, as the reference report trained
    cosine        linear warm-up over `warmup_epochs`, then half a cosine to 0 at `max_epochs`
    """
    if config.name == "constant":
        return Schedule(optimizer, ())
    if config.name == "plateau":
        return Schedule(optimizer, (_plateau(optimizer, config),))
    if config.name == "step":
        return Schedule(optimizer, (_steps(optimizer, config),))
    if config.name == "step_plateau":
        return Schedule(optimizer, (_steps(optimizer, config), _plateau(optimizer, config)))
    return Schedule(optimizer, (_cosine(optimizer, config.warmup_epochs, max_epochs),))


def _plateau(optimizer: Optimizer, config: SchedulerConfig) -> ReduceLROnPlateau:
    return ReduceLROnPlateau(
        optimizer,
        mode="min",
        factor=config.factor,
        patience=config.patience,
        threshold=config.threshold,
        threshold_mode=config.threshold_mode,
    )


def _steps(optimizer: Optimizer, config: SchedulerConfig) -> StepLR:
    return StepLR(optimizer, step_size=config.step_size, gamma=config.gamma)


def _cosine(optimizer: Optimizer, warmup_epochs: int, max_epochs: int) -> LambdaLR:
    """Warm-up over e = 0, 1, ... takes (e + 1) / (warmup_epochs + 1): the first epoch after it has 1."""

    def factor(epoch: int) -> float:
        if epoch < warmup_epochs:
            return (epoch + 1) / (warmup_epochs + 1)
        # A warm-up as long as the training leaves no cosine.
        progress = (epoch - warmup_epochs) / max(1, max_epochs - warmup_epochs)
        return (1 + math.cos(math.pi * min(1.0, progress))) / 2

    return LambdaLR(optimizer, factor)
