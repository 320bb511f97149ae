"""`tune`, `tune --resume` and `ui`: a study from its files to its record."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.markup import escape

from fmasearch.cli.environment import program
from fmasearch.cli.folders import Folders
from fmasearch.cli.genres import print_genres
from fmasearch.cli.overrides import override
from fmasearch.cli.sweeps import as_overrides, limited, print_notes, read_space
from fmasearch.config import SearchConfig, load_search, load_yaml, parse_section
from fmasearch.errors import ConfigError, StudyError
from fmasearch.space import Space
from fmasearch.tracking.locations import is_server, redacted, redacted_command

if TYPE_CHECKING:
    from fmasearch.data import DataSpec
    from fmasearch.study import StudyPlan

DEFAULT_SEARCH = Path("search/default.yaml")


def tune(
    space_file: Path | None,
    data: str | Path | None,
    search_file: Path | None,
    overrides: Sequence[str],
    folders: Folders,
    *,
    init_from: Path | None = None,
    max_parameters: str | None = None,
    storage: str | None = None,
    warm_start: Sequence[str] = (),
    command: str | None = None,
) -> Path:
    """Start a study of a space or a W&B sweep; returns its results folder."""
    if space_file is None or data is None:
        raise ConfigError(
            "tune: expected a space and a feature file, as in `fmasearch tune spaces/cnn_gru.yaml --data fma.h5`"
        )
    console = Console()
    space, search_name, search = read_files(space_file, search_file, overrides, console)

    from fmasearch.cli.forecast import one_line
    from fmasearch.cli.recorded import read_recorded
    from fmasearch.cli.starting import check_pretrained, check_space, print_start, start_space
    from fmasearch.data import read_info
    from fmasearch.preflight import check_study
    from fmasearch.searcher import sampler_notes, warm_start_notes
    from fmasearch.study import StudyFolder, StudyPlan, new_study_name, save_plan
    from fmasearch.study.earlier import earlier_study, save_earlier

    space = start_space(space, init_from)
    if max_parameters is not None:
        space = limited(space, max_parameters)
    spec = study_data(space, data, source=str(space_file))
    info = read_info(spec.path)
    preflight = check_study(space, search, info, may_leave_out=max_parameters is not None)
    start = check_space(space, info, seed=search.seed)
    pretrained = check_pretrained(space, info)
    of_sampler = sampler_notes(search, space)
    name = new_study_name(space.name, search_name, taken_in=(folders.runs, folders.results))
    plan = StudyPlan(
        name=name,
        folder=StudyFolder(folders.runs / name),
        space=space,
        search_name=search_name,
        search=search,
        data=spec,
        command=command or redacted_command(["fmasearch", *sys.argv[1:]]),
        storage=storage,
    )
    earlier = [earlier_study(read_recorded(each, folders).record, plan) for each in warm_start]
    save_plan(plan)
    if earlier:
        save_earlier(plan.folder, earlier)
    console.print(
        f"[bold]{name}[/]: models of {preflight.sizes}, at most {preflight.max_epochs_in_all:,} epochs"
        f"{one_line(space, search, spec, folders)}",
        highlight=False,
        soft_wrap=True,
    )
    print_genres(console, spec.genres)
    print_notes(console, tuple(f"not tried: {line}" for line in preflight.left_out))
    print_start(console, start)
    print_notes(console, tuple(pretrained))
    print_notes(console, of_sampler)
    print_notes(console, warm_start_notes(plan.space, earlier))
    return run_study(plan, folders, console)


def resume(name: str, folders: Folders) -> Path:
    """Go on with a study that was interrupted, at whatever stage."""
    from fmasearch.cli.starting import model_file_of, open_model
    from fmasearch.data import DataSpec
    from fmasearch.study import load_plan

    name = Path(name).name
    plan = load_plan(folders.runs / name)
    if is_finished(plan, folders):
        raise StudyError(
            f"{name}: is finished; its record is in {folders.results / name}. More trials: tune --resume {name} "
            f"--extend 40"
        )
    now = DataSpec.of(plan.data.path, features=plan.data.features, label=plan.data.label)
    if now.sha256 != plan.data.sha256:
        raise StudyError(
            f"{plan.data.path}: has changed since the study began (sha256 {plan.data.sha256[:12]}, now "
            f"{now.sha256[:12]}); restore the file, or start a new study"
        )
    if model_file := model_file_of(plan.space):
        open_model(model_file, plan.data.features)  # every trial that is left starts from it
    return run_study(plan, folders, Console(), resumed=True)


def is_finished(plan: StudyPlan, folders: Folders) -> bool:
    """Whether the study's record is written, and is that of all its trials."""
    record = folders.results / plan.name / "study.yaml"
    if not plan.folder.final_file.exists() or not record.exists():
        return False
    recorded: int = load_yaml(record)["search"]["num_trials"]
    return recorded == plan.search.num_trials


def run_study(plan: StudyPlan, folders: Folders, console: Console, *, resumed: bool = False) -> Path:
    """Search, confirm, retrain, test, record; ends the program with 130 when interrupted."""
    from fmasearch.cli.pipeline import Interrupted, run
    from fmasearch.study.driver import mark_driver

    try:
        with mark_driver(plan.folder):
            folder = run(plan, folders.results, folders.tracking_uri, console, resumed=resumed)
    except Interrupted:
        command = f"{program()} tune --resume {plan.name}{_non_default(folders)}{folders.results_option}"
        console.print(f"\ninterrupted; nothing is lost.\nnext: [bold]{command}[/]", highlight=False, soft_wrap=True)
        raise typer.Exit(130) from None
    console.print(
        f"\nnext: [bold]{program()} ui{_non_default(folders)}[/] shows every trial; the record is in [bold]{folder}[/]",
        highlight=False,
        soft_wrap=True,
    )
    return folder


def ui(folders: Folders, port: int, *, unattended: bool = False) -> None:
    """Serve MLflow's page on the loopback address until Ctrl-C or SIGTERM; `unattended` makes an absent store."""
    uri = folders.tracking_uri
    console = Console()
    if is_server(uri):
        console.print(f"MLflow's server is elsewhere: [bold]{escape(redacted(uri))}[/]", highlight=False)
        return
    if not unattended and folders.mlflow_uri is None and not (folders.runs / "mlflow.db").exists():
        raise StudyError(
            f"{folders.runs}: no study has been tracked here; run `fmasearch demo` or `fmasearch tune` first"
        )
    from fmasearch.tracking.mlflow_server import is_taken, serve, serves
    from fmasearch.tracking.mlflow_store import newest_page

    if is_taken(port) and serves(uri, port):
        console.print(f"MLflow is served already: [bold]{newest_page(uri, port)}[/]", highlight=False, soft_wrap=True)
        return

    def on_ready() -> None:
        if unattended:
            console.print(
                f"MLflow: {escape(redacted(uri))} is served on http://127.0.0.1:{port}, for this machine only. "
                f"From another: ray attach -p {port} cluster.yaml, and open that address there",
                highlight=False,
                soft_wrap=True,
            )
        else:
            page = newest_page(uri, port)
            console.print(f"MLflow: [bold]{page}[/]  (Ctrl-C ends it)", highlight=False, soft_wrap=True)

    serve(uri, port, runs=folders.runs, on_ready=on_ready)


def study_data(space: Space, data: str | Path, *, source: str) -> DataSpec:
    """The feature file as a study of `space` sees it.

    Raises:
        DataError: if it lacks a feature set or a label, or nothing is labelled.
    """
    from fmasearch.data import DataSpec, check_labels

    features, task = space.inputs()
    spec = DataSpec.of(
        data, features=features, label=task.label, targets=task.targets, genres=space.genres(), source=source
    )
    check_labels(spec)
    return spec


def read_files(
    space_file: Path, search_file: Path | None, overrides: Sequence[str], console: Console
) -> tuple[Space, str, SearchConfig]:
    """Space, name of the search and search. A sweep's own settings of the search give way to a search file."""
    read = read_space(space_file, console)
    if not read.is_sweep:
        return read.space, *read_search(search_file, overrides)
    of_sweep = as_overrides(read.search)
    if search_file is not None:
        print_notes(console, (f"not translated: {', '.join(of_sweep)}: {search_file} says how to search",))
        return read.space, *read_search(search_file, overrides)
    _, search = read_search(None, [*of_sweep, *overrides])
    return read.space, "sweep", search


def read_search(path: Path | None, overrides: Sequence[str]) -> tuple[str, SearchConfig]:
    """A search file with `key=value` overrides laid over it; its name is the file's stem."""
    if path is None and DEFAULT_SEARCH.exists():
        path = DEFAULT_SEARCH
    name = path.stem if path else "default"
    search = load_search(path) if path else SearchConfig()
    if not overrides:
        return name, search
    values = override(search.model_dump(mode="json"), overrides)
    return name, parse_section(SearchConfig, values, source="--set")


def _non_default(folders: Folders) -> str:
    parts = folders.runs_option
    return parts if folders.mlflow_uri is None else f"{parts} --mlflow {shlex.quote(redacted(folders.mlflow_uri))}"
