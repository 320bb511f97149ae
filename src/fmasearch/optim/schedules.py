"""The learning-rate schedule: torch's schedulers behind one pair of steps."""

from __future__ import annotations

import math
import warnings
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR, ReduceLROnPlateau, StepLR

from fmasearch.config import SchedulerConfig


class Schedule:
    """The learning rate over epochs, or over steps: torch's schedulers on one optimiser; factors multiply.

    Args:
        optimizer: its groups may learn at different rates; a schedule multiplies all of them alike.
        by_epoch: none to two, stepped after every epoch.
        by_step: stepped after every step of the optimiser.
    """

    def __init__(
        self, optimizer: Optimizer, by_epoch: tuple[LRScheduler, ...] = (), by_step: OneCycleLR | None = None
    ) -> None:
        self._optimizer = optimizer
        self._by_epoch = by_epoch
        self._by_step = by_step

    @property
    def learning_rate(self) -> float:
        """The rate that the next batch trains the head with; under layer decay all others are lower."""
        return max(float(group["lr"]) for group in self._optimizer.param_groups)

    def after_step(self) -> None:
        """End a step of the optimiser. A cycle that is over stays at its last rate, however many steps follow."""
        if self._by_step is not None and self._by_step.last_epoch < self._by_step.total_steps - 1:
            self._by_step.step()

    def after_epoch(self, val_loss: float) -> None:
        """End an epoch. A NaN loss counts as no improvement."""
        with warnings.catch_warnings():
            # An epoch may end without one optimiser step, e.g. where no clip had a label.
            warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step", UserWarning)
            for scheduler in self._by_epoch:
                if isinstance(scheduler, ReduceLROnPlateau):
                    scheduler.step(val_loss)
                else:
                    scheduler.step()

    def state_dict(self) -> dict[str, Any]:
        """Plain values, fit for JSON."""
        return {
            "groups": [{key: group[key] for key in _VARYING if key in group} for group in self._optimizer.param_groups],
            "schedulers": [scheduler.state_dict() for scheduler in self._schedulers()],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue a curve; before or after the optimiser's own state is loaded."""
        for scheduler, values in zip(self._schedulers(), state["schedulers"], strict=True):
            scheduler.load_state_dict(values)
        for group, values in zip(self._optimizer.param_groups, state["groups"], strict=True):
            for key, value in values.items():
                group[key] = tuple(value) if isinstance(value, list) else value  # JSON has no tuples

    def _schedulers(self) -> tuple[LRScheduler, ...]:
        return self._by_epoch if self._by_step is None else (*self._by_epoch, self._by_step)


_VARYING = ("lr", "momentum", "betas")  # what schedulers change in a parameter group


def build_schedule(optimizer: Optimizer, config: SchedulerConfig, *, max_epochs: int, steps_per_epoch: int) -> Schedule:
    """The schedule that a configuration names.

    constant      the learning rate of the optimiser
    plateau       times `factor` when validation loss has not improved for more than `patience` epochs, of which
                  the `cooldown` after a reduction do not count
    step          times `gamma` every `step_size` epochs
    step_plateau  both, as the reference report trained
    cosine        linear warm-up over `warmup_epochs`, then half a cosine to 0 at `max_epochs`
    one_cycle     over all steps of the training: half a cosine up from 1/25 of the rate over `warmup_fraction` of
                  them, then another down to 1/250,000; momentum, or Adam's first beta, goes from 0.95 to 0.85 and
                  back (Smith & Topin, 2018)

    Args:
        optimizer: as `build_optimizer` made it; one_cycle changes its rates and momenta at once.
        config: which schedule, and its settings.
        max_epochs: planned length of the training; cosine and one_cycle end there.
        steps_per_epoch: planned steps of the optimiser in an epoch; for one_cycle.
    """
    if config.name == "constant":
        return Schedule(optimizer)
    if config.name == "plateau":
        return Schedule(optimizer, (_plateau(optimizer, config),))
    if config.name == "step":
        return Schedule(optimizer, (_steps(optimizer, config),))
    if config.name == "step_plateau":
        return Schedule(optimizer, (_steps(optimizer, config), _plateau(optimizer, config)))
    if config.name == "one_cycle":
        cycle = _one_cycle(optimizer, config.warmup_fraction, max_epochs * steps_per_epoch)
        return Schedule(optimizer, by_step=cycle)
    return Schedule(optimizer, (_cosine(optimizer, config.warmup_epochs, max_epochs),))


def _plateau(optimizer: Optimizer, config: SchedulerConfig) -> ReduceLROnPlateau:
    return ReduceLROnPlateau(
        optimizer,
        mode="min",
        factor=config.factor,
        patience=config.patience,
        threshold=config.threshold,
        threshold_mode=config.threshold_mode,
        cooldown=config.cooldown,
        eps=0.0,  # torch's 1e-8 would leave the slowest blocks of a layer decay out
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


def _one_cycle(optimizer: Optimizer, warmup_fraction: float, num_steps: int) -> OneCycleLR:
    # torch divides by the length of the way up, total_steps * pct_start - 1, and by that of the way down: each
    # gets a step. Steps are planned with a minimum of 3 for that.
    total_steps = max(3, num_steps)
    has_momentum = any(group.get("momentum", 1) > 0 for group in optimizer.param_groups)  # Adam always has
    return OneCycleLR(
        optimizer,
        max_lr=[group["lr"] for group in optimizer.param_groups],
        total_steps=total_steps,
        pct_start=max(warmup_fraction, 2 / total_steps),
        cycle_momentum=has_momentum,  # plain SGD stays plain
    )
