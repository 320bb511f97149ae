"""`train` and `test`: one configuration, or one saved model, on this machine."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table

from fmasearch.cli import environment
from fmasearch.cli.genres import print_genres
from fmasearch.cli.health import memorise, prepared_device, spec_of
from fmasearch.cli.json_text import json_text
from fmasearch.cli.looks import note_look
from fmasearch.cli.overrides import override
from fmasearch.cli.starting import check_config, print_start, start_config
from fmasearch.cli.test_folder import require_new_folder, write_report
from fmasearch.config import TrainConfig, load_yaml, parse_section
from fmasearch.data import open_dataset, open_split, read_info
from fmasearch.data.cache import study_columns
from fmasearch.data.feature_file import SplitName
from fmasearch.errors import ConfigError
from fmasearch.evaluate import baseline_scores, judge, judged_spec
from fmasearch.model_file import SavedModel, load_model, save_model
from fmasearch.records import TestReport
from fmasearch.tasks.reading import read_outputs
from fmasearch.trainer import Trainer, predict


def train(
    config_file: Path,
    data: Path,
    overrides: Sequence[str],
    out: Path,
    device: str | None,
    threads: int | None,
    *,
    init_from: Path | None = None,
    overfit_batch: bool = False,
) -> None:
    """Train and save the weights of the best validation epoch."""
    values = override(load_yaml(config_file), overrides)
    config = start_config(parse_section(TrainConfig, values, source=str(config_file)), init_from)
    spec = spec_of(config, data, source=str(config_file))
    place = prepared_device(device, threads)
    console = Console()
    print_genres(console, spec.genres)
    if overfit_batch:
        memorise(config, open_dataset(spec, device=place), place, console)
        return
    if config.transfer.init_from and out.resolve() == Path(config.transfer.init_from):
        raise ConfigError(f"--out {out}: is the model that training starts from; write to another file")
    print_start(console, check_config(config, read_info(data)))
    dataset = open_dataset(spec, device=place)
    trainer = Trainer(config, dataset, device=place)
    if trainer.origin and not config.transfer.init_from:
        console.print(trainer.origin, highlight=False, soft_wrap=True, markup=False)
    objective = trainer.task.objective.metric
    for result in trainer.epochs():
        console.print(
            f"epoch {result.epoch:3d}  train_loss {result.metrics['train_loss']:.4f}  val_loss "
            f"{result.metrics['val_loss']:.4f}  {objective} {result.objective:.4f}  learning_rate "
            f"{result.learning_rate:.2e}  {result.epoch_seconds:.1f} s",
            highlight=False,
        )
    saved = SavedModel(
        config=config,
        weights=trainer.best_weights,
        class_names=dataset.class_names,
        normalisers=dataset.normalisers,
        input_dim=dataset.input_dim,
        num_frames=trainer.num_frames,
        feature_settings={f: dict(read_info(data).feature(f).settings) for f in spec.features},
        data={"path": spec.path, "sha256": spec.sha256},
        versions=environment.describe(),
        genres=spec.genres,
        targets=dataset.targets,
    )
    save_model(out, saved)
    console.print(f"best {objective} {trainer.best_objective:.4f} at epoch {trainer.best_epoch}; saved to {out}")
    console.print(f"next: [bold]{environment.program()} test {out} --data {data}[/]", highlight=False, soft_wrap=True)


def test(model_file: Path, data: Path, split: str, *, as_json: bool, out: Path | None) -> None:
    """Print how a saved model does on a split; with `out`, write that new folder of report and pictures, too."""
    if out is not None:
        require_new_folder(out)
    saved = load_model(model_file)
    config, task = saved.config, saved.task
    spec = judged_spec(saved, data)
    majority = None
    if spec.label is not None:
        labels = [int(label) for label in study_columns(spec, "train").labels if label >= 0]
        majority = statistics.mode(labels) if labels else None  # a multitask's file may have none
    name: SplitName = split  # type: ignore[assignment]
    judged = open_split(spec, name, saved.normalisers)
    baseline = baseline_scores(task, judged, majority_class=majority)
    model = saved.build()
    report = judge(model, judged, task, baseline=baseline, crop=config.crop)
    note_look("test", {model_file: saved}, Path(spec.path), split)
    if out is not None:
        write_report(report, out, read_outputs(task, predict(model, judged, task, config.crop)), judged, task)
    if as_json:
        typer.echo(json_text(report.to_json()), nl=False)
    else:
        print_report(Console(), report)


def print_report(console: Console, report: TestReport) -> None:
    """Scores with intervals, then one row per class."""
    console.print(
        f"{report.split} split: {report.num_tracks} tracks; 95 % bootstrap intervals over {report.resampled_by}s",
        highlight=False,
    )
    scores = Table(box=None)
    for heading in ("metric", "value", "95 % interval", "baseline"):
        scores.add_column(heading, justify="left" if heading == "metric" else "right")
    for name, value in report.metrics.items():
        interval = report.intervals.get(name)
        between = f"{interval.low:.3f} – {interval.high:.3f}" if interval else ""
        baseline = f"{report.baseline[name]:.4f}" if name in report.baseline else ""
        scores.add_row(name, f"{value:.4f}", between, baseline)
    console.print(scores)
    console.print(f"baseline: always answering {_baseline(report)} of the training split", highlight=False)
    if not report.classes:
        return
    classes = Table(box=None)
    for heading in ("class", "precision", "recall", "f1", "support"):
        classes.add_column(heading, justify="left" if heading == "class" else "right")
    for row in report.classes:
        precision = f"{row.precision:.3f}" if row.predicted else "never predicted"
        classes.add_row(row.name, precision, f"{row.recall:.3f}", f"{row.f1:.3f}", str(row.support))
    console.print(classes)


def _baseline(report: TestReport) -> str:
    """What the baseline answers, in words."""
    of_classes = [name for name in report.baseline if name.endswith("accuracy")]
    has_targets = len(of_classes) < len(report.baseline)
    answers = ["the largest class"] * bool(of_classes) + ["the mean of every target"] * has_targets
    return " and ".join(answers)
