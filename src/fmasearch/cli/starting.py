"""`--init-from`: a trained model to start from, checked and reported before anything is trained."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.markup import escape

from fmasearch.config import TrainConfig
from fmasearch.costs import limited_costs
from fmasearch.data import FileInfo, class_names, model_shape
from fmasearch.errors import ConfigError, ModelError, SpaceError
from fmasearch.model_file import SavedModel, load_model
from fmasearch.models import ClipModel, build_model, load_pretrained
from fmasearch.models.transfer import Transferred, freeze, load_matching
from fmasearch.records import Scalar
from fmasearch.space import Space
from fmasearch.space.editing import with_setting
from fmasearch.space.points import some_points

NUM_SAMPLES = 10
"""Random points of a space that must take the weights, besides the known-good ones."""


@dataclass(frozen=True, slots=True)
class Start:
    """A training that starts from a model, and what it takes from it."""

    config: TrainConfig
    saved: SavedModel
    info: FileInfo
    transferred: Transferred


def start_config(config: TrainConfig, init_from: Path | None) -> TrainConfig:
    """The configuration with `transfer.init_from` as an absolute path: the option's, else its own, if any."""
    path = init_from or config.transfer.init_from
    if path is None:
        return config
    transfer = config.transfer.model_copy(update={"init_from": str(Path(path).resolve())})
    return config.model_copy(update={"transfer": transfer})


def start_space(space: Space, init_from: Path | None) -> Space:
    """The same for a space, in its `text`, too: a resumed study reads it back, and the record shows it.

    Raises:
        SpaceError: if the space's text cannot say it.
    """
    own = model_file_of(space)
    path = init_from or own
    if path is None or str(Path(path).resolve()) == own:
        return space
    wanted = str(Path(path).resolve())
    text = with_setting(
        space.text,
        "transfer",
        "init_from",
        json.dumps(wanted, ensure_ascii=False),  # JSON's strings are YAML's, too
        remark="fmasearch tune --init-from",
    )
    started = Space.parse(text, source=f"{space.name} --init-from", name=space.name)
    if model_file_of(started) != wanted:
        raise SpaceError(f"{space.name}: --init-from: write `transfer: {{init_from: ...}}` into the space itself")
    return started


def check_config(config: TrainConfig, info: FileInfo) -> Start | None:
    """What a training will take from the model it starts from, without memory for its own; None if it has none.

    Raises:
        ModelError: if that model is missing, not ours, or was trained on other features.
        ConfigError: if it does not fit, naming the hyperparameters that differ, or if nothing would be frozen.
    """
    if (path := config.transfer.init_from) is None:
        return None
    return _start(config, open_model(path, config.features), info)


def check_space(space: Space, info: FileInfo, *, seed: int) -> Start | None:
    """The same for the first point of a space; the other known-good points and some random ones must fit, too.

    Raises:
        ModelError: as `check_config`.
        SpaceError: naming the space and the point that does not fit.
    """
    if (path := model_file_of(space)) is None:
        return None
    saved = open_model(path, space.inputs()[0])
    starts = []
    for name, params in some_points(space, num_random=NUM_SAMPLES, seed=seed):
        config = space.train_config(params, max_epochs=1, patience=None, seed=0)
        try:
            if not space.violation(limited_costs(config, info, space.constraints)):  # or it would not be trained
                starts.append(_start(config, saved, info))
        except ConfigError as error:
            raise SpaceError(f"{space.name}: {name}: {path}: {error}") from None
    return starts[0] if starts else None


def check_pretrained(space: Space, info: FileInfo) -> list[str]:
    """Load the pretrained weights that the first point, known-good points or some random ones name, each once.

    Returns:
        A sentence for each on what was loaded, or why the model starts untrained.

    Raises:
        SpaceError: naming the space and the point whose file of weights is absent or does not fit.
    """
    sentences: dict[tuple[Scalar, ...], str] = {}
    for name, params in some_points(space, num_random=NUM_SAMPLES, seed=0):
        config = space.train_config(params, max_epochs=1, patience=None, seed=0)
        source = tuple(config.hyperparameters.get(key) for key in ("pretrained", "size"))
        if not source[0] or source in sentences:
            continue
        try:
            model = build_model(config.architecture, **model_shape(info, config), **config.hyperparameters)
            sentences[source] = load_pretrained(model) or ""
        except ConfigError as error:
            raise SpaceError(f"{space.name}: {name}: {error}") from None
    return [sentence for sentence in sentences.values() if sentence]


def open_model(path: str, features: tuple[str, ...]) -> SavedModel:
    """Read the model to start from. Raises ModelError if it cannot be read, or was trained on other features."""
    saved = load_model(path)
    if saved.config.features != features:
        raise ModelError(
            f"{path}: was trained on features {', '.join(saved.config.features)}; these trainings use "
            f"{', '.join(features)}: start from another model, or train on its features"
        )
    return saved


def model_file_of(space: Space) -> str | None:
    """The model file that every trial of a space starts from."""
    path = space.constants.get("transfer", {}).get("init_from")
    return None if path is None else str(path)


def print_start(console: Console, start: Start | None) -> None:
    """What is loaded and what is frozen, and what else to know about it."""
    if start is None:
        return
    transfer = start.config.transfer
    frozen = "" if transfer.freeze == "none" else f"; frozen: {transfer.freeze}"
    line = f"starts from {transfer.init_from}: {start.transferred}{frozen}"
    console.print(escape(line), highlight=False, soft_wrap=True)
    for note in _notes(start):
        console.print(f"[yellow]note[/]: {escape(note)}", highlight=False, soft_wrap=True)


def _start(config: TrainConfig, saved: SavedModel, info: FileInfo) -> Start:
    model = _model_without_memory(config, info)
    try:
        transferred = load_matching(model, saved.weights)
    except ConfigError as error:
        raise ConfigError(f"{error}{_differences(config, saved.config)}") from None
    freeze(model, config.transfer.freeze)
    return Start(config, saved, info, transferred)


def _model_without_memory(config: TrainConfig, info: FileInfo) -> ClipModel:
    with torch.device("meta"):
        return build_model(config.architecture, **model_shape(info, config), **config.hyperparameters)


def _notes(start: Start) -> Iterator[str]:
    config, saved = start.config, start.saved
    outputs = (*class_names(start.info, config.task.label, config.genres), *config.task.targets)
    known = (*saved.class_names, *(target.name for target in saved.targets))
    if "head.output.weight" in start.transferred.matched and outputs != known:
        what = "outputs" if saved.targets or config.task.targets else "classes"
        yield (
            f"as many {what}, but others: the last layer knows {', '.join(known)}, and starts from there on "
            f"{', '.join(outputs)}"
        )
    for feature in config.features:
        there, here = saved.feature_settings.get(feature, {}), start.info.feature(feature).settings
        differing = [key for key in there if key in here and here[key] != there[key]]
        if differing:
            values = ", ".join(f"{key} {there[key]} there, {here[key]} here" for key in differing)
            yield f"{feature} was made in another way for the model: {values}"


def _differences(here: TrainConfig, there: TrainConfig) -> str:
    """Which hyperparameters to change, in words."""
    if here.architecture != there.architecture:
        return f"; the file holds a {there.architecture}, this is a {here.architecture}"
    names = sorted(here.hyperparameters.keys() | there.hyperparameters.keys())
    values = [(name, *(_shown(config.hyperparameters, name) for config in (there, here))) for name in names]
    differing = [f"{name} {file} there, {own} here" for name, file, own in values if file != own]
    return (
        f"; they differ in {', '.join(differing)}" if differing else "; hyperparameters are the same, the input is not"
    )


def _shown(hyperparameters: Mapping[str, object], name: str) -> str:
    return str(hyperparameters[name]) if name in hyperparameters else "its default"
