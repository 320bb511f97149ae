"""The commands and their options. Imports that cost time happen inside the commands, so `--help` is instant."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from fmasearch.cli.cluster_commands import cluster_app
from fmasearch.cli.data_commands import data_app
from fmasearch.cli.folders import Folders
from fmasearch.cli.model_commands import models_app
from fmasearch.cli.options import Data, Device, InitFrom, Mlflow, Results, Runs, Sets, Threads
from fmasearch.cli.spaces_commands import spaces_app
from fmasearch.cli.study_commands import study_app
from fmasearch.errors import ConfigError

app = typer.Typer(
    name="fmasearch",
    help="Search architectures and hyperparameters for music models, and report how good the best one is.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.add_typer(study_app)
app.add_typer(models_app)
app.add_typer(cluster_app)
app.add_typer(spaces_app, name="spaces")
app.add_typer(data_app, name="data")


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
    extend: Annotated[
        int | None,
        typer.Option(min=1, help="With --resume: so many more trials for a finished study.", show_default=False),
    ] = None,
    warm_start: Annotated[
        list[str] | None,
        typer.Option(
            "--warm-start",
            metavar="STUDY",
            help="Learn from an earlier study, e.g. results/<study>; may be repeated.",
            show_default=False,
        ),
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

    folders = Folders(runs, results, mlflow)
    if resume is not None and extend is not None:
        from fmasearch.cli import extending

        extending.extend(resume, extend, folders)
        return
    if resume is not None:
        studies.resume(resume, folders)
        return
    if extend is not None:
        raise ConfigError("--extend: goes with --resume, as in `tune --resume <study> --extend 40`")
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
        warm_start=warm_start or [],
    )


@app.command("plan")
def plan_study(
    space: Annotated[Path, typer.Argument(help="Search space, or a W&B sweep.", show_default=False)],
    data: Annotated[
        str,
        typer.Option("--data", "-d", help="Feature file (HDF5), or its s3:// or gs:// URI.", show_default=False),
    ],
    search: Annotated[
        Path | None,
        typer.Option("--search", "-s", help="How hard to look (default: search/default.yaml).", show_default=False),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a search setting, e.g. num_trials=200."),
    ] = None,
    max_parameters: Annotated[
        str | None, typer.Option(help="Reject larger models: 5e6, 5M.", show_default=False)
    ] = None,
    probe: Annotated[bool, typer.Option(help="Train three samples for a moment, to time them.")] = True,
    gpu_memory: Annotated[
        str | None, typer.Option(help="Memory of one GPU that is not here, e.g. 24G.", show_default=False)
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    runs: Runs = Path("runs"),
    results: Results = Path("results"),
) -> None:
    """Say what a study would cost before it is started: sizes, seconds of an epoch, hours with and without stopping."""
    from fmasearch.cli import planning

    options = planning.PlanOptions(max_parameters, probe, gpu_memory, json)
    planning.plan(space, data, search, set_ or [], Folders(runs, results), options)


@app.command()
def status(
    study: Annotated[str | None, typer.Argument(help="Name of a study (default: a table of all).")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    runs: Runs = Path("runs"),
    results: Results = Path("results"),
) -> None:
    """Show what a study is doing: its stage, trials, best so far, nodes, and what to do next."""
    from fmasearch.cli import study_status

    study_status.status(study, Folders(runs, results), as_json=json)


@app.command()
def watch(
    study: Annotated[str, typer.Argument(help="Name of a study.")],
    runs: Runs = Path("runs"),
    results: Results = Path("results"),
) -> None:
    """Watch a study that runs elsewhere until it ends. Ctrl-C ends the watching, not the study."""
    from fmasearch.cli import watching

    watching.watch(study, Folders(runs, results))


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
    from fmasearch.cli import stopping

    stopping.stop(study, trials or [], Folders(runs, results), wait=wait)


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

    demo_command.run(Folders(runs, results, mlflow), trials=trials, small=small)


@app.command()
def ui(
    runs: Runs = Path("runs"),
    mlflow: Mlflow = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on this machine.")] = 5000,
    serve: Annotated[
        bool, typer.Option("--serve", help="Run unattended, as on a cluster's head; makes the store if need be.")
    ] = False,
    optuna: Annotated[
        str | None,
        typer.Option(metavar="STUDY", help="Open optuna-dashboard on this study instead.", show_default=False),
    ] = None,
) -> None:
    """Open MLflow's page on this machine only: every trial side by side."""
    from fmasearch.cli import studies

    if optuna is not None:
        from fmasearch.cli import optuna_page

        optuna_page.serve(optuna, Folders(runs, Path("results"), mlflow), port)
        return
    studies.ui(Folders(runs, Path("results"), mlflow), port, unattended=serve)


@app.command()
def version() -> None:
    """Print the versions that matter in a bug report."""
    from fmasearch.cli import inspecting

    inspecting.version()


def _given(shortcuts: Mapping[str, object]) -> list[str]:
    return [f"{key}={value}" for key, value in shortcuts.items() if value is not None]
