"""The health of an architecture: can it learn 16 tracks by heart? `overfit`, and `train --overfit-batch`."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fmasearch.cli.overrides import override
from fmasearch.cli.sweeps import read_space
from fmasearch.config import TrainConfig, load_yaml, parse_section
from fmasearch.data import Dataset, DataSpec, open_dataset
from fmasearch.errors import DivergedError, FmasearchError
from fmasearch.models import count_parameters
from fmasearch.space.points import first_points
from fmasearch.trainer import overfit_batch

NUM_TRACKS = 16
MEMORISED = 0.05
"""Loss at which the tracks are known by heart: each has about 95 % of its prediction, or of a target's variance."""

OnStep: TypeAlias = Callable[[int, float], None]
"""Hears of every step, counted from 1, and its loss."""


@dataclass(frozen=True, slots=True)
class Health:
    """How a model took to a batch. `losses` are those before each step's update; a diverged one has no last loss."""

    num_tracks: int
    chance: float
    """Loss of a model that knows nothing: ln C for C classes, 1 for standardised targets; of parts, their sum."""
    num_steps: int
    learning_rate: float
    losses: tuple[float, ...]
    healthy: bool
    diverged: bool
    seconds: float

    @property
    def first_loss(self) -> float:
        return self.losses[0] if self.losses else math.nan

    @property
    def loss(self) -> float:
        """The loss that was reached."""
        return math.nan if self.diverged or not self.losses else self.losses[-1]

    @property
    def starts_high(self) -> bool:
        """Confidently wrong before it has learnt anything."""
        return self.first_loss > 2 * self.chance

    def causes(self) -> list[str]:
        """What is likely to be wrong, the likeliest first; nothing where the model is healthy and starts well."""
        rate = f"{self.learning_rate:g}"
        causes = []
        if self.starts_high:
            causes.append(
                f"the first loss is {self.first_loss:.2f}, more than twice {self.chance:.2f}, which is chance: "
                f"inputs that are not standardised, a norm that is missing, or a last layer that starts too large"
            )
        if self.healthy:
            return causes
        if self.diverged:
            causes.append(f"the loss became infinite or NaN: a learning rate too high ({rate}), no gradient clipping")
        elif min(self.losses) > 0.9 * self.losses[0]:
            causes.append(
                f"the loss hardly moves: a learning rate of the wrong order ({rate}), a branch without gradient, or "
                f"recurrent layers too deep"
            )
        elif self.loss > 2 * min(self.losses):
            causes.append(f"the loss jumps, and was {min(self.losses):.3f} before: a learning rate too high ({rate})")
        else:
            causes.append(
                f"the loss still falls: more steps, or a learning rate of the wrong order ({rate}); if it stays, a "
                f"model too small, recurrent layers too deep, or equal clips with different labels"
            )
        return causes


def overfit(
    files: Sequence[Path], data: Path, overrides: Sequence[str], steps: int, device: str | None, threads: int | None
) -> None:
    """Check a configuration of each file and architecture, in a table; ends the program with 1 if one is ill."""
    device = prepared_device(device, threads)
    configs = [(file, config) for file in files for config in read_configs(file, overrides)]
    counts = Counter(file for file, _ in configs)
    datasets: dict[DataSpec, Dataset] = {}
    specs = [spec_of(config, data, source=str(file)) for file, config in configs]
    for spec in specs:
        datasets[spec] = datasets.get(spec) or open_dataset(spec, device=device)
    sizes = [_num_parameters(config, datasets[spec]) for (_, config), spec in zip(configs, specs, strict=True)]
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, 110)  # nothing to fit the table to
    checked = []
    for (file, config), spec, size in zip(configs, specs, sizes, strict=True):
        with _progress(console, f"{_name(file, config, counts)} ({size:,} parameters)", every=50) as on_step:
            health = check(config, datasets[spec], num_steps=steps, device=device, on_step=on_step)
        checked.append((file, config, size, health))
        console.print(
            f"{_name(file, config, counts)}: {_verdict(health)}, step {len(health.losses)}, train_loss {_loss(health)}",
            highlight=False,
        )
    console.print(_table(checked))
    for file, config, _, health in checked:
        for cause in health.causes():
            console.print(
                f"[bold]{escape(_name(file, config, counts))}[/]: {escape(cause)}", highlight=False, soft_wrap=True
            )
    if not all(health.healthy for *_, health in checked):
        raise typer.Exit(1)


def memorise(config: TrainConfig, dataset: Dataset, device: str, console: Console) -> None:
    """The check of one configuration.

    Raises:
        FmasearchError: if the model is not healthy, with likely causes.
    """
    with _progress(console, "overfitting", every=20) as on_step:
        health = check(config, dataset, num_steps=200, device=device, on_step=on_step)
    losses = f"loss {health.first_loss:.3f} to {health.loss:.3f}, chance is {health.chance:.3f}"
    causes = "; ".join(health.causes())
    if not health.healthy:
        raise FmasearchError(
            f"the model could not memorise {health.num_tracks} tracks in {health.num_steps} steps ({losses}); likely "
            f"causes: {causes}"
        )
    console.print(
        f"[green]healthy[/]: {health.num_tracks} tracks memorised in {len(health.losses)} steps ({losses})",
        highlight=False,
    )
    if causes:
        console.print(f"[yellow]but[/] {escape(causes)}", highlight=False, soft_wrap=True)


def check(
    config: TrainConfig, dataset: Dataset, *, num_steps: int, device: str, on_step: OnStep = lambda step, loss: None
) -> Health:
    """Train on up to 16 tracks without regularisation, until they are known by heart or the steps are used up."""
    started = time.perf_counter()
    num_tracks = min(NUM_TRACKS, len(dataset.train))
    losses: list[float] = []
    healthy = diverged = False
    try:
        for result in overfit_batch(config, dataset, num_tracks=num_tracks, num_steps=num_steps, device=device):
            losses.append(result.metrics["train_loss"])
            on_step(result.epoch, losses[-1])
            if losses[-1] < MEMORISED:
                healthy = True
                break
    except DivergedError:
        diverged = True
    return Health(
        num_tracks=num_tracks,
        chance=_chance(config, dataset),
        num_steps=num_steps,
        learning_rate=config.optimizer.learning_rate,
        losses=tuple(losses),
        healthy=healthy,
        diverged=diverged,
        seconds=time.perf_counter() - started,
    )


def _chance(config: TrainConfig, dataset: Dataset) -> float:
    num_of_numbers = sum(not isinstance(labels, str) for labels in config.task.parts.values())
    return (math.log(len(dataset.class_names)) if dataset.class_names else 0.0) + num_of_numbers


def read_configs(file: Path, overrides: Sequence[str]) -> list[TrainConfig]:
    """A configuration as it is, or of a space or W&B sweep the first point of each architecture; then the overrides."""
    values = load_yaml(file)
    chosen = [values]
    if _is_space(values):
        space = read_space(file, Console(quiet=True)).space
        chosen = [space.config(params) for _, params in first_points(space)]
    return [parse_section(TrainConfig, override(each, overrides), source=str(file)) for each in chosen]


def spec_of(config: TrainConfig, data: Path, *, source: str) -> DataSpec:
    """What a configuration uses of a feature file; `source`, the configuration's file, is named in errors."""
    task = config.task
    return DataSpec.of(
        data, features=config.features, label=task.label, targets=task.targets, genres=config.genres, source=source
    )


def prepared_device(device: str | None, threads: int | None) -> str:
    """Where to train: CUDA where there is one. Sets torch's threads."""
    if threads:
        torch.set_num_threads(threads)
    return device or ("cuda" if torch.cuda.is_available() else "cpu")


def _name(file: Path, config: TrainConfig, counts: Mapping[Path, int]) -> str:
    """A file's name, with the architecture where the file has several."""
    return file.stem if counts[file] == 1 else f"{file.stem} ({config.architecture})"


def _is_space(values: Mapping[str, Any]) -> bool:
    """A configuration has sections of plain values; a space describes itself, or it or a sweep has distributions."""
    if values.keys() & {"description", "known_good", "constraints"}:
        return True
    # Merged genres and the parts of a multitask are mappings, and never searched.
    searched = [section for name, section in values.items() if name not in ("genres", "task")]
    sections = [section for section in searched if isinstance(section, Mapping)]
    return any(isinstance(leaf, Mapping) for section in sections for leaf in section.values())


def _num_parameters(config: TrainConfig, dataset: Dataset) -> int:
    return count_parameters(
        config.architecture,
        input_dim=dataset.input_dim,
        num_frames=dataset.num_frames,
        output_dim=len(dataset.class_names) + len(dataset.targets),
        **config.hyperparameters,
    )


@contextmanager
def _progress(console: Console, name: str, *, every: int) -> Iterator[OnStep]:
    """A line that changes with every step on a terminal; elsewhere a line now and then."""
    if console.is_terminal:
        with console.status(name) as status:
            yield lambda step, loss: status.update(f"{name}: step {step}, train_loss {loss:.4f}")
        return

    def show(step: int, loss: float) -> None:
        if step == 1 or step % every == 0:
            console.print(f"{name}: step {step:3d}  train_loss {loss:.4f}", highlight=False, soft_wrap=True)

    yield show


def _table(checked: Sequence[tuple[Path, TrainConfig, int, Health]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in (
        "file",
        "architecture",
        "parameters",
        "first loss",
        "chance",
        "loss",
        "steps",
        "seconds",
        "verdict",
    ):
        words = heading in ("file", "architecture", "verdict")
        table.add_column(heading, justify="left" if words else "right", no_wrap=True)
    for file, config, size, health in checked:
        first = f"{health.first_loss:.3f}"
        table.add_row(
            escape(file.stem),
            escape(config.architecture),
            f"{size:,}",
            f"[yellow]{first}[/]" if health.starts_high else first,
            f"{health.chance:.3f}",
            _loss(health),
            str(len(health.losses)),
            f"{health.seconds:.1f}",
            _verdict(health),
        )
    return table


def _loss(health: Health) -> str:
    return "diverged" if health.diverged else f"{health.loss:.3f}"


def _verdict(health: Health) -> str:
    return "[green]healthy[/]" if health.healthy else "[bold red]not healthy[/]"
