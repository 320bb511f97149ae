"""`plan`: what a study would cost, found out without starting it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import typer
from rich.console import Console

from fmasearch.cli.folders import Folders
from fmasearch.cli.forecast import Epochs, Place, find_place, forecast, quantile
from fmasearch.cli.json_text import json_text
from fmasearch.cli.plan_facts import Plan, epoch_flops
from fmasearch.cli.plan_text import print_plan, to_json
from fmasearch.cli.studies import read_files, study_data
from fmasearch.cli.sweeps import limited
from fmasearch.config import SearchConfig
from fmasearch.data import DataSpec, FileInfo, open_dataset, read_info
from fmasearch.errors import ConfigError
from fmasearch.planning import (
    Packing,
    Probe,
    Sample,
    Sampling,
    SecondsModel,
    choose_probes,
    data_bytes,
    draw_samples,
    fit_seconds,
    measure,
    pack,
)
from fmasearch.preflight import check_study
from fmasearch.space import Space

PROBE_SECONDS = 2.5
"""Of one probe, its warm-up not counted."""
ALL_PROBES_SECONDS = 15.0
"""Of all probes together, where a space has several architectures."""


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """What the command line asks for besides space, data and search."""

    max_parameters: str | None = None
    probe: bool = True
    gpu_memory: str | None = None
    as_json: bool = False
    num_samples: int = 200


def plan(
    space_file: Path,
    data: str,
    search_file: Path | None,
    overrides: Sequence[str],
    folders: Folders,
    options: PlanOptions,
) -> None:
    """Print what a study would cost.

    Raises:
        UserError: where `tune` would not start either; or if `--gpu-memory` is no amount of memory.
    """
    gpu_bytes = None if options.gpu_memory is None else read_bytes(options.gpu_memory)
    console = Console(stderr=options.as_json)  # notes on a sweep's translation are no JSON
    space, search_name, search = read_files(space_file, search_file, overrides, console)
    if options.max_parameters is not None:
        space = limited(space, options.max_parameters)
    spec = study_data(space, data, source=str(space_file))
    info = read_info(spec.path)
    check_study(space, search, info, num_samples=1, may_leave_out=options.max_parameters is not None)
    with console.status("counting models, training some for a moment"):
        made = make_plan(space, search_name, search, spec, info, folders, options, gpu_bytes)
    if options.as_json:
        typer.echo(json_text(to_json(made)), nl=False)
    else:
        print_plan(console, made)


def make_plan(
    space: Space,
    search_name: str,
    search: SearchConfig,
    spec: DataSpec,
    info: FileInfo,
    folders: Folders,
    options: PlanOptions,
    gpu_bytes: int | None,
) -> Plan:
    """Sample, probe, simulate."""
    place = find_place(search)
    sampling = draw_samples(space, info, seed=search.seed, num_samples=options.num_samples)
    can_probe = options.probe and bool(sampling.kept) and not place.is_elsewhere
    probes = run_probes(sampling.kept, spec, info, place) if can_probe else ()
    seconds = _fit(probes, info)
    epochs = None if seconds is None else _epochs(seconds, sampling, info)
    memory = gpu_bytes or _gpu_memory(place)
    return Plan(
        space=space,
        search_name=search_name,
        search=search,
        data=spec,
        info=info,
        sampling=sampling,
        probes=probes,
        seconds=seconds,
        forecast=forecast(space, search, spec, folders, epochs=epochs),
        gpu_bytes=memory,
        packings={} if memory is None else _packings(sampling.kept, spec, info, place, search, memory),
    )


def run_probes(kept: Sequence[Sample], spec: DataSpec, info: FileInfo, place: Place) -> tuple[Probe, ...]:
    """Train some samples for a moment, with the threads of a trial. Train and val are opened, the test split is not."""
    chosen = choose_probes(kept, [epoch_flops(sample, info) for sample in kept])
    each = min(PROBE_SECONDS, ALL_PROBES_SECONDS / len(chosen))
    dataset = open_dataset(spec, device=place.device)
    threads = torch.get_num_threads()
    torch.set_num_threads(place.num_threads)
    try:
        return tuple(measure(sample, size, dataset, device=place.device, seconds=each) for size, sample in chosen)
    finally:
        torch.set_num_threads(threads)


def read_bytes(text: str) -> int:
    """An amount of memory as people write it: 24G, 80GiB, 16000M.

    Raises:
        ConfigError: for anything else.
    """
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([MGT])(?:i?B)?\s*", text, flags=re.IGNORECASE)
    amount = float(match[1]) * 1024 ** {"M": 2, "G": 3, "T": 4}[match[2].upper()] if match else 0.0
    if amount <= 0:
        raise ConfigError(f"--gpu-memory: expected the memory of one GPU, such as 24G, got {text!r}")
    return int(amount)


def _fit(probes: Sequence[Probe], info: FileInfo) -> SecondsModel | None:
    if not probes:
        return None
    return fit_seconds([(p.sample.config.architecture, epoch_flops(p.sample, info), p.epoch_seconds) for p in probes])


def _epochs(seconds: SecondsModel, sampling: Sampling, info: FileInfo) -> Epochs:
    first = [sample for sample in sampling.known_good if not sample.broken]
    of_samples, of_first = (
        tuple(seconds.seconds(sample.config.architecture, epoch_flops(sample, info)) for sample in group)
        for group in (sampling.kept, first)
    )
    return Epochs(of_samples, of_first, seconds.ratios)


def _gpu_memory(place: Place) -> int | None:
    """Of the GPU that is here."""
    return int(torch.cuda.mem_get_info()[1]) if place.device == "cuda" else None


def _packings(
    kept: Sequence[Sample], spec: DataSpec, info: FileInfo, place: Place, search: SearchConfig, memory: int
) -> dict[str, Packing]:
    """The machine's cores are a limit only where its GPUs are here."""
    if not kept:
        return {}
    most = int(place.cpus / place.gpus / search.resources.cpu) if place.gpus else 100
    sizes = [sample.cost.training_memory_bytes for sample in kept]
    copy = data_bytes(info, spec.features)
    shares = {"median": 0.5, "90 %": 0.9}
    return {name: pack(int(quantile(sizes, share)), copy, memory, most=max(1, most)) for name, share in shares.items()}
