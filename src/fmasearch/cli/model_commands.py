"""The commands that use a trained model, and their options; what they do is imported when they run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fmasearch.cli.options import AnySplitChoice, Data, Device, FormatChoice, SplitChoice, Threads

models_app = typer.Typer()


@models_app.command("test")
def judge_model(
    model: Annotated[Path, typer.Argument(help="A model file written by tune or train.")],
    data: Data,
    split: Annotated[SplitChoice, typer.Option(help="Split to judge it on.")] = SplitChoice.test,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="New folder for report.json and pictures.", show_default=False),
    ] = None,
) -> None:
    """Judge a saved model on a split, with 95 % bootstrap intervals."""
    from fmasearch.cli import training

    training.test(model, data, split.value, as_json=json, out=out)


@models_app.command("compare")
def compare_models(
    first: Annotated[Path, typer.Argument(help="Model A, written by tune or train.", metavar="A")],
    second: Annotated[Path, typer.Argument(help="Model B.", metavar="B")],
    data: Data,
    split: Annotated[SplitChoice, typer.Option(help="Split to judge both on.")] = SplitChoice.test,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare two saved models on the same tracks: paired bootstrap and McNemar's test."""
    from fmasearch.cli import comparing

    comparing.compare(first, second, data, split.value, as_json=json)


@models_app.command("predict")
def predict_tracks(
    model: Annotated[Path, typer.Argument(help="A model file written by tune or train.")],
    inputs: Annotated[list[Path], typer.Argument(help="Audio files, folders of audio, or feature files (.h5).")],
    split: Annotated[AnySplitChoice, typer.Option(help="Of feature files.")] = AnySplitChoice.all,
    json: Annotated[bool, typer.Option("--json", help="Give JSON.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="Give CSV.")] = False,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="File to write.", show_default=False)] = None,
    device: Device = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Clips that the model looks at together.")] = 64,
    top: Annotated[int, typer.Option(min=1, help="Classes that the table shows.")] = 3,
) -> None:
    """Say what a saved model makes of songs. Exit code 1 if some could not be used, 2 if none could."""
    from fmasearch.cli import predicting

    predicting.predict(
        model,
        inputs,
        split=split.value,
        as_json=json,
        as_csv=csv,
        out=out,
        device=device,
        batch_size=batch_size,
        top=top,
    )


@models_app.command("embed")
def embed_tracks(
    model: Annotated[Path, typer.Argument(help="A model file written by tune or train.")],
    data: Data,
    split: Annotated[AnySplitChoice, typer.Option(help="Split whose tracks are shown.")] = AnySplitChoice.test,
    methods: Annotated[
        str | None,
        typer.Option(help="pca, tsne, umap, spectral, mds, isomap, with commas (default: all).", show_default=False),
    ] = None,
    dimensions: Annotated[str, typer.Option(help="2, 3, or both.")] = "2,3",
    color: Annotated[
        str | None,
        typer.Option(
            help="class, predicted, error, split, artist, or a label of the file (default: class or first target).",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder to write (default: MODEL-embedding).", show_default=False)
    ] = None,
    max_tracks: Annotated[int, typer.Option(min=5, help="Tracks shown; more are drawn from at random.")] = 3000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the drawing and of every method.")] = 0,
    device: Device = None,
    threads: Threads = None,
) -> None:
    """Show how a model sees its tracks: the vectors before its last layer in 2-D and 3-D, as a page and pictures."""
    from fmasearch.cli import embedding

    options = embedding.EmbedOptions(split.value, methods, dimensions, color, max_tracks, seed)
    embedding.embed(model, data, options, out, device, threads)


@models_app.command()
def export(
    model: Annotated[Path, typer.Argument(help="A model file written by tune or train.")],
    format: Annotated[FormatChoice, typer.Option("--format", "-f", help="What to write.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File to write (default: beside MODEL).", show_default=False)
    ] = None,
    opset: Annotated[
        int | None, typer.Option(help="Version of ONNX's operators, 18 to 22 (default: 18).", show_default=False)
    ] = None,
) -> None:
    """Write a model for use without fmasearch, and check it against the original. Exit code 1 if they differ."""
    from fmasearch.cli import exporting_command

    exporting_command.export(model, format.value, out, opset)
