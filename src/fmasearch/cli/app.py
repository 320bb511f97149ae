"""The commands and their options. Imports that cost time happen inside the commands, so `--help` is instant."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from fmasearch.cli.data_commands import data_app
from fmasearch.cli.spaces_commands import spaces_app

app = typer.Typer(
    name="fmasearch",
    help="Search architectures and hyperparameters for music models, and report how good the best one is.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.add_typer(spaces_app, name="spaces")
app.add_typer(data_app, name="data")


class FormatChoice(StrEnum):
    onnx = "onnx"
    torchscript = "torchscript"
    pt2 = "pt2"


class SplitChoice(StrEnum):
    train = "train"
    val = "val"
    test = "test"


class AnySplitChoice(StrEnum):
    train = "train"
    val = "val"
    test = "test"
    all = "all"


Data = Annotated[Path, typer.Option("--data", "-d", help="Feature file (HDF5).", show_default=False)]
Runs = Annotated[Path, typer.Option(help="Working folder of studies and of the MLflow store.")]
Results = Annotated[Path, typer.Option(help="Where finished studies leave their record.")]
Mlflow = Annotated[
    str | None,
    typer.Option(
        "--mlflow",
        envvar=["MLFLOW_TRACKING_URI", "MLFLOW_BACKEND_STORE_URI"],
        help="MLflow store: http://HOST:PORT, postgresql://USER:PASSWORD@HOST/DB (default: sqlite in RUNS).",
    ),
]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION/KEY=VALUE", help="Override a setting; may be repeated.", show_default=False),
]
InitFrom = Annotated[
    Path | None,
    typer.Option(help="Start from the weights of this model file, as far as they match.", show_default=False),
]
Device = Annotated[str | None, typer.Option(help="cpu or cuda (default: cuda where there is one).")]
Threads = Annotated[int | None, typer.Option(help="Torch threads on the CPU.", show_default=False)]


@app.command()
def tune(
    space: Annotated[
        Path | None, typer.Argument(help="Search space, e.g. spaces/cnn_gru.yaml, or a W&B sweep.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option("--data", "-d", help="Feature file (HDF5), or its s3:// or gs:// URI.", show_default=False),
    ] = None,
    search: Annotated[
        Path | None,
        typer.Option("--search", "-s", help="How hard to look (default: search/default.yaml).", show_default=False),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a search setting, e.g. scheduler/grace_period=3."),
    ] = None,
    trials: Annotated[int | None, typer.Option(help="Number of trials.", show_default=False)] = None,
    max_epochs: Annotated[int | None, typer.Option(help="Most epochs of a trial.", show_default=False)] = None,
    time: Annotated[str | None, typer.Option(help="Time budget of the search: 90m, 6h.", show_default=False)] = None,
    concurrent: Annotated[int | None, typer.Option(help="Trials at once.", show_default=False)] = None,
    cpu: Annotated[float | None, typer.Option(help="CPUs of a trial.", show_default=False)] = None,
    gpu: Annotated[
        float | None, typer.Option(help="GPU share of a trial; 0.25 packs four.", show_default=False)
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the whole study.", show_default=False)] = None,
    resume: Annotated[
        str | None,
        typer.Option(help="Go on with the study of this name, as it was started.", show_default=False),
    ] = None,
    init_from: InitFrom = None,
    max_parameters: Annotated[
        str | None,
        typer.Option(help="Reject larger models before they are trained: 5e6, 5M.", show_default=False),
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(help="Folder or s3:// or gs:// URI for checkpoints that all nodes see.", show_default=False),
    ] = None,
    runs: Runs = Path("runs"),
    results: Results = Path("results"),
    mlflow: Mlflow = None,
) -> None:
    """Search a space, confirm the best few over seeds, retrain the winner, test it once, write a report."""
    from fmasearch.cli import studies

    folders = studies.Folders(runs, results, mlflow)
    if resume is not None:
        studies.resume(resume, folders)
        return
    shortcuts = {
        "num_trials": trials,
        "max_epochs": max_epochs,
        "time_budget_seconds": time,
        "max_concurrent": concurrent,
        "resources/cpu": cpu,
        "resources/gpu": gpu,
        "seed": seed,
    }
    overrides = [*_given(shortcuts), *(set_ or [])]
    studies.tune(
        space,
        data,
        search,
        overrides,
        folders,
        init_from=init_from,
        max_parameters=max_parameters,
        storage=storage,
    )


@app.command()
def status(
    study: Annotated[str | None, typer.Argument(help="Name of a study (default: a table of all).")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    runs: Runs = Path("runs"),
    results: Results = Path("results"),
) -> None:
    """Show what a study is doing: its stage, trials, best so far, nodes, and what to do next."""
    from fmasearch.cli import studies, study_status

    study_status.status(study, studies.Folders(runs, results), as_json=json)


@app.command()
def watch(
    study: Annotated[str, typer.Argument(help="Name of a study.")],
    runs: Runs = Path("runs"),
    results: Results = Path("results"),
) -> None:
    """Watch a study that runs elsewhere until it ends. Ctrl-C ends the watching, not the study."""
    from fmasearch.cli import studies, watching

    watching.watch(study, studies.Folders(runs, results))


@app.command()
def stop(
    study: Annotated[str, typer.Argument(help="Name of a study.")],
    trials: Annotated[
        list[str] | None,
        typer.Argument(help="Trials to end, e.g. t0003 t0007; the others go on.", show_default=False),
    ] = None,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for the study's answer.")] = 60,
    runs: Runs = Path("runs"),
    results: Results = Path("results"),
) -> None:
    """Stop a study that runs elsewhere, as Ctrl-C would: it can be resumed. Or stop some of its trials alone."""
    from fmasearch.cli import stopping, studies

    stopping.stop(study, trials or [], studies.Folders(runs, results), wait=wait)


@app.command("train")
def train_one(
    config: Annotated[Path, typer.Argument(help="One configuration, e.g. results/<study>/best.yaml.")],
    data: Data,
    set_: Sets = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Model file to write.")] = Path("model.pt"),
    init_from: InitFrom = None,
    device: Device = None,
    threads: Threads = None,
    overfit_batch: Annotated[
        bool, typer.Option("--overfit-batch", help="Check that the model can memorise 16 tracks, then stop.")
    ] = False,
) -> None:
    """Train one configuration here, keep its best epoch."""
    from fmasearch.cli import training

    training.train(config, data, set_ or [], out, device, threads, init_from=init_from, overfit_batch=overfit_batch)


@app.command("overfit")
def check_health(
    files: Annotated[list[Path], typer.Argument(help="Spaces (their first known-good point) or configurations.")],
    data: Data,
    set_: Sets = None,
    steps: Annotated[int, typer.Option(min=1, help="Most steps of a model.")] = 300,
    device: Device = None,
    threads: Threads = None,
) -> None:
    """Check that each architecture can memorise 16 tracks: one that cannot has a defect. Exit code 1 if any cannot."""
    from fmasearch.cli import health

    health.overfit(files, data, set_ or [], steps, device, threads)


@app.command("test")
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


@app.command("compare")
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


@app.command("predict")
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


@app.command("embed")
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


@app.command()
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


@app.command()
def demo(
    runs: Runs = Path("runs"),
    results: Results = Path("results"),
    mlflow: Mlflow = None,
    trials: Annotated[int | None, typer.Option(help="Number of trials.", show_default=False)] = None,
    small: Annotated[bool, typer.Option("--small", help="240 short tracks: seconds instead of minutes.")] = False,
) -> None:
    """Render synthetic demo music and run a whole study on it."""
    from fmasearch.cli import demo as demo_command
    from fmasearch.cli import studies

    demo_command.run(studies.Folders(runs, results, mlflow), trials=trials, small=small)


@app.command()
def ui(
    runs: Runs = Path("runs"),
    mlflow: Mlflow = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on this machine.")] = 5000,
    serve: Annotated[
        bool, typer.Option("--serve", help="Run unattended, as on a cluster's head; makes the store if need be.")
    ] = False,
) -> None:
    """Open MLflow's page on this machine only: every trial side by side."""
    from fmasearch.cli import studies

    studies.ui(studies.Folders(runs, Path("results"), mlflow), port, unattended=serve)


@app.command()
def doctor(
    cluster: Annotated[bool, typer.Option("--cluster", help="Every node of the Ray cluster that we are in.")] = False,
    storage: Annotated[
        str | None,
        typer.Option(help="Folder or s3:// or gs:// URI for checkpoints to try out.", show_default=False),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option("--data", "-d", help="Feature file (HDF5), or its s3:// or gs:// URI.", show_default=False),
    ] = None,
    runs: Runs = Path("runs"),
    mlflow: Mlflow = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check that this machine, or every node of a cluster, is fit for a study, and say how to mend it.

    Exit code 1 if anything failed.
    """
    from fmasearch.cli import doctor_command

    doctor_command.run(runs, mlflow, cluster=cluster, storage=storage, data=data, as_json=json)


@app.command()
def submit(
    cluster: Annotated[Path, typer.Argument(help="File of Ray's cluster launcher, e.g. cluster.yaml.")],
    command: Annotated[list[str], typer.Argument(help="A command of fmasearch, after `--`.", metavar="-- COMMAND")],
    detach: Annotated[
        bool, typer.Option("--detach", help="Leave a study as soon as it runs, and print how to come back to it.")
    ] = False,
) -> None:
    """Run a command on a cluster: `tune` as a job, with this folder and its data; any other on the head."""
    from fmasearch.cli import submitting

    submitting.submit(cluster, command, detach=detach)


@app.command()
def fetch(
    cluster: Annotated[Path, typer.Argument(help="File of Ray's cluster launcher, e.g. cluster.yaml.")],
    study: Annotated[str | None, typer.Argument(help="Name of a study; without it, list them.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where its record goes.")] = Path("results"),
    runs: Annotated[Path, typer.Option(help="Where its model and journals go.")] = Path("runs"),
    force: Annotated[bool, typer.Option("--force", help="Replace another study of this name.")] = False,
) -> None:
    """Bring a study home from a cluster: its record, its model and its journals."""
    from fmasearch.cli import submitting

    submitting.fetch(cluster, study, results=out, runs=runs, force=force)


@app.command()
def version() -> None:
    """Print the versions that matter in a bug report."""
    from fmasearch.cli import inspecting

    inspecting.version()


def _given(shortcuts: Mapping[str, object]) -> list[str]:
    return [f"{key}={value}" for key, value in shortcuts.items() if value is not None]
