"""`predict`: songs or tracks in, what a model says of them out: a table, JSON or CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fmasearch.cli.health import prepared_device
from fmasearch.cli.json_text import json_text
from fmasearch.cli.looks import note_look
from fmasearch.errors import DataError, UserError
from fmasearch.files import replacing
from fmasearch.model_file import SavedModel, load_model
from fmasearch.predicting import Inputs, Prediction, Predictor, SplitChoice, Unusable, find_inputs

FORMATS = {".json": "json", ".csv": "csv"}


def predict(
    model_file: Path,
    paths: Sequence[Path],
    *,
    split: SplitChoice,
    as_json: bool,
    as_csv: bool,
    out: Path | None,
    device: str | None,
    batch_size: int,
    top: int,
) -> None:
    """Print or write predictions, then what could not be used. Exit code 1 if anything could not."""
    kind = _format(as_json=as_json, as_csv=as_csv, out=out)
    saved = load_model(model_file)
    predictor = Predictor(saved, source=str(model_file), device=prepared_device(device, None), batch_size=batch_size)
    messages = Console(stderr=True)
    inputs = find_inputs(paths)
    predictions: list[Prediction] = []
    unusable = list(inputs.unusable)
    with messages.status("") as status:
        for found in _all(predictor, inputs, split):
            status.update(f"{len(predictions) + len(unusable) + 1:,}: {escape(found.track)}")
            if isinstance(found, Prediction):
                predictions.append(found)
            else:
                unusable.append(found)
    for file in inputs.feature_files:
        note_look("predict", {model_file: saved}, file, split)
    if predictions:
        _give(kind, out, saved, str(model_file), predictions, unusable, top)
    _list_unusable(messages, unusable)
    if not predictions:
        raise DataError(f"nothing to predict: none of {len(unusable):,} inputs could be used")
    if unusable:
        raise typer.Exit(1)


def _format(*, as_json: bool, as_csv: bool, out: Path | None) -> str:
    if as_json and as_csv:
        raise UserError("--json and --csv: expected one of them, got both")
    if as_json or as_csv:
        return "json" if as_json else "csv"
    if out is None:
        return "table"
    if out.suffix.lower() not in FORMATS:
        raise UserError(f"--out {out}: expected a name ending in .json or .csv, or one of --json and --csv")
    return FORMATS[out.suffix.lower()]


def _all(predictor: Predictor, inputs: Inputs, split: SplitChoice) -> Iterator[Prediction | Unusable]:
    # Every refusal of a whole input comes before the first prediction is made.
    streams = [predictor.of_feature_file(file, split) for file in inputs.feature_files]
    if inputs.audio:
        streams.append(predictor.of_audio(inputs.audio))
    for stream in streams:
        yield from stream


def _give(
    kind: str,
    out: Path | None,
    saved: SavedModel,
    model_file: str,
    predictions: Sequence[Prediction],
    unusable: Sequence[Unusable],
    top: int,
) -> None:
    if kind == "table":
        Console().print(_table(saved, predictions, top))
        return
    if kind == "json":
        text = json_text(
            {
                "model": model_file,
                "predictions": [asdict(each) for each in predictions],
                "unusable": [asdict(each) for each in unusable],
            }
        )
    else:
        text = _csv(saved, predictions)
    if out is None:
        typer.echo(text, nl=False)
        return
    try:
        with replacing(out) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise DataError(f"{out}: cannot be written: {error.strerror}") from None
    tracks = f"{len(predictions):,} track{'' if len(predictions) == 1 else 's'}"
    Console(stderr=True).print(f"{escape(str(out))}: {tracks}", highlight=False, soft_wrap=True)


def _table(saved: SavedModel, predictions: Sequence[Prediction], top: int) -> Table:
    """The most likely classes with their probabilities, and targets to three digits."""
    targets = [target.name for target in saved.targets]
    windows = any(each.num_windows + len(each.left_out) > 1 for each in predictions)
    table = Table(box=None)
    table.add_column("track", overflow="fold")
    for place in range(min(top, len(saved.class_names))):
        table.add_column(_ORDINALS.get(place, f"{place + 1}th"))
    for name in [*targets, *["windows"] * windows]:
        table.add_column(name, justify="right")
    for each in predictions:
        classes = list(each.probabilities.items())[:top]
        cells = [f"{escape(name)} {probability:.2f}" for name, probability in classes]
        cells += [f"{each.values[name]:.3f}" for name in targets]
        of = f" of {each.num_windows + len(each.left_out)}" if each.left_out else ""
        cells += [f"{each.num_windows}{of}"] * windows
        table.add_row(escape(each.track), *cells)
    return table


_ORDINALS = {0: "most likely", 1: "2nd", 2: "3rd"}


def _csv(saved: SavedModel, predictions: Sequence[Prediction]) -> str:
    """A line a track: its most likely class, every probability, every target, and the windows listened to."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    classes, targets = saved.class_names, [target.name for target in saved.targets]
    chosen = ["class"] * bool(classes)
    writer.writerow(["file", "track", *chosen, *(f"p({name})" for name in classes), *targets, "windows"])
    for each in predictions:
        most_likely = list(each.probabilities)[:1]
        probabilities = [f"{each.probabilities[name]:.6f}" for name in classes]
        values = [f"{each.values[name]:.6g}" for name in targets]
        writer.writerow([each.file, each.track, *most_likely, *probabilities, *values, each.num_windows])
    return text.getvalue()


def _list_unusable(messages: Console, unusable: Sequence[Unusable]) -> None:
    if not unusable:
        return
    messages.print(f"could not be used: {len(unusable):,}", style="yellow", highlight=False)
    for each in unusable:
        where = each.track if each.track == each.file else f"{each.file}, track {each.track}"
        messages.print(f"  {escape(where)}: {escape(each.reason)}", highlight=False, soft_wrap=True)
