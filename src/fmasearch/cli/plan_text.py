"""A plan as people and programs read it; every prediction says what it rests on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fmasearch.cli.environment import program
from fmasearch.cli.forecast import Forecast, quantile, span, time_span
from fmasearch.cli.genres import print_genres
from fmasearch.cli.plan_facts import Plan, epoch_flops
from fmasearch.planning import FASTEST, SLOWEST, Range, data_bytes
from fmasearch.planning.memory import FRAMEWORK_BYTES
from fmasearch.report.text import count, duration

QUANTITIES = {
    "parameters": "parameters",
    "flops": "FLOPs of a clip",
    "training_memory_bytes": "training memory",
}
BUSY = 0.8
"""A single thread that trains gets more of a core than that where nobody else wants it."""
_BARS = " ▁▂▃▄▅▆▇█"
_BINS = 12
_PREFIXES = ("", "k", "M", "G", "T", "P")


def print_plan(console: Console, plan: Plan) -> None:
    """Readable at 80 columns."""
    _print_question(console, plan)
    _print_sizes(console, plan)
    _print_probes(console, plan)
    _print_expected(console, plan)
    _print_gpu(console, plan)
    _say(console, f"\nnext: [bold]{program()} tune[/] with the same space, data and settings")


def to_json(plan: Plan) -> dict[str, Any]:
    """Hours as ranges of 80 %; null is what nobody knows."""
    sampling, found = plan.sampling, plan.forecast
    return {
        "space": {"name": plan.space.name, "sampled_keys": len(plan.space.distributions), "points": plan.space.size()},
        "search": {"name": plan.search_name, **plan.search.model_dump(mode="json")},
        "data": {"file": plan.data.name, "sha256": plan.data.sha256, "tracks": dict(plan.info.split_counts)},
        "place": asdict(found.place),
        "samples": {
            "wanted": sampling.num_wanted,
            "drawn": len(sampling.random),
            "rejected": sampling.num_rejected,
            "rejected_by": {str(constraint): number for constraint, number in sampling.rejected_by.items()},
            "predicted_too_slow": plan.too_slow[1] if plan.too_slow else None,
            **{quantity: _quartet([getattr(each.cost, quantity) for each in sampling.kept]) for quantity in QUANTITIES},
        },
        "known_good": {
            each.name: {**asdict(each.cost), "breaks": [str(constraint) for constraint in each.broken]}
            for each in sampling.known_good
        },
        "probes": [_probe_json(plan, index) for index in range(len(plan.probes))],
        "seconds_per_epoch": None
        if plan.seconds is None
        else {
            "lines": {name: asdict(line) for name, line in plan.seconds.lines.items()},
            **_quartet([plan.predicted(sample) for sample in sampling.kept]),
        },
        "expected": _expected_json(found),
        "gpu": None
        if plan.gpu_bytes is None
        else {
            "memory_bytes": plan.gpu_bytes,
            "data_bytes": data_bytes(plan.info, plan.data.features),
            "trials": {name: {**asdict(each), "share": each.share} for name, each in plan.packings.items()},
        },
    }


def _print_question(console: Console, plan: Plan) -> None:
    """What was asked: the space, the data, the search."""
    space, search, place = plan.space, plan.search, plan.forecast.place
    size = space.size()
    points = f"{size:,} points" if size else "infinitely many points"
    tracks = " + ".join(f"{plan.info.split_counts[split]:,}" for split in ("train", "val"))
    _say(
        console,
        f"[bold]{escape(space.name)}[/] on {escape(plan.data.name)} ({tracks} tracks of train and val): "
        f"{count(len(space.distributions), 'sampled key')}, {points}",
    )
    print_genres(console, plan.data.genres)
    _say(
        console,
        f"{escape(plan.search_name)}: {count(plan.forecast.num_trials, 'trial')} of at most "
        f"{count(search.max_epochs, 'epoch')}, sampler {search.sampler.name}, scheduler {search.scheduler.name}; "
        f"{place.concurrency} at once here",
    )


def _print_sizes(console: Console, plan: Plan) -> None:
    sampling, kept = plan.sampling, plan.sampling.kept
    short = "" if len(sampling.random) == sampling.num_wanted else f" of {sampling.num_wanted} (time was up)"
    counted = " that keep the constraints" if sampling.num_rejected else ""
    _say(console, f"\n[bold]{len(sampling.random)} random samples{short}[/], counted without memory{counted}:")
    table = _table("", "min", "median", "90 %", "max")
    table.add_column("min to max, log", no_wrap=True)
    for quantity, words in QUANTITIES.items():
        values = [float(getattr(each.cost, quantity)) for each in kept]
        found = [_short(value, quantity) for value in _quartet(values).values()]
        table.add_row(words, *found, histogram(values))
    console.print(table)
    for sample in sampling.known_good:
        costs = [f"{_short(float(getattr(sample.cost, key)), key)} {words}" for key, words in QUANTITIES.items()]
        breaks = f" [yellow]breaks {', '.join(map(str, sample.broken))}[/]" if sample.broken else ""
        _say(console, f"[dim]known good {escape(sample.name)}: {', '.join(costs)}[/]{breaks}")
    if not plan.space.constraints:
        return
    rejected = sampling.num_rejected
    _say(
        console, f"infeasible: {rejected} of {len(sampling.random)} samples ({_share(rejected, len(sampling.random))})"
    )
    for constraint, number in sampling.rejected_by.items():
        _say(console, f"  {constraint} rejects {number} ({_share(number, len(sampling.random))})")
    if plan.too_slow is not None:
        ceiling, number = plan.too_slow
        _say(console, f"  {ceiling}: {number} of the other {len(kept)} are predicted to be stopped by it")


def _print_probes(console: Console, plan: Plan) -> None:
    place = plan.forecast.place
    if not plan.probes:
        why = "the search asks for a GPU, and there is none here" if place.is_elsewhere else "--no-probe"
        _say(console, f"\nseconds of an epoch: not measured ({why})")
        return
    assert plan.seconds is not None
    threads = f", {count(place.num_threads, 'thread')}" if place.device == "cpu" else ""
    _say(console, f"\n[bold]seconds of an epoch[/], probed on {escape(place.name)}{threads}, one trial alone:")
    several = len(plan.seconds.lines) > 1
    table = _table("probe", *(["architecture"] if several else []), "FLOPs", "share trained", "measured", "predicted")
    for probe in plan.probes:
        table.add_row(
            probe.size,
            *([probe.sample.config.architecture] if several else []),
            _si(epoch_flops(probe.sample, plan.info)),
            f"{probe.share:.0%}" if probe.share >= 0.01 else f"{probe.share:.1%}",
            duration(probe.epoch_seconds),
            duration(plan.predicted(probe.sample)),
        )
    console.print(table)
    for name, line in plan.seconds.lines.items():
        of = f"{name}: " if several else ""
        _say(console, f"{of}seconds = {line.fixed:.2g} + {line.per_flop * 1e12:.2g} per TFLOP of an epoch")
    low, middle, high, most = _quartet([plan.predicted(sample) for sample in plan.sampling.kept]).values()
    _say(
        console,
        f"so an epoch of the samples takes {duration(low)} to {duration(most)}: median {duration(middle)}, "
        f"90 % at most {duration(high)}",
    )
    share = min(probe.cpu_share for probe in plan.probes)
    if place.device == "cpu" and share < BUSY:
        _say(
            console,
            f"[yellow]note[/]: a probe got {share:.0%} of a core: others use this machine, and epochs take as much "
            f"longer as long as they do",
        )
    found = plan.forecast
    if found.recorded and not 0.5 < middle / found.recorded_seconds < 2:
        _say(
            console,
            f"[yellow]note[/]: {escape(found.earlier_name)} had a median of {duration(found.recorded_seconds)}, not "
            f"{duration(middle)}: this machine is more or less busy than then, or that search preferred other sizes",
        )


def _print_expected(console: Console, plan: Plan) -> None:
    found = plan.forecast
    scheduler = plan.search.scheduler.name
    headings = ("epochs", f"{found.place.unit} time", "by the clock") if found.knows_seconds else ("epochs",)
    table = _table("expected", *headings)
    if found.stops:
        table.add_row(f"search with {scheduler}", *_row(found, stopped=True))
    table.add_row("search, none stopped" if found.stops else "search", *_row(found, stopped=False))
    confirm, most = plan.search.confirm, plan.search.max_epochs
    finish = [f"{(confirm.top_k * confirm.seeds + 1) * most:,}"]
    if found.knows_seconds:
        finish += [time_span(found.finish_hours()), time_span(found.finish_wall_hours())]
    table.add_row("finish, at most", *finish)
    console.print()
    console.print(table)
    for line in _grounds(plan):
        _say(console, f"[dim]{escape(line)}[/]")


def _row(found: Forecast, *, stopped: bool) -> list[str]:
    epochs = found.epochs(stopped=stopped)
    cells = [f"{epochs.low:,.0f}" if epochs.low == epochs.high else span(epochs)]
    if found.knows_seconds:
        cells.append(time_span(found.device_hours(stopped=stopped)))
        cells.append(time_span(found.wall_hours(stopped=stopped)))
    return cells


def _grounds(plan: Plan) -> list[str]:
    """What the forecast rests on."""
    found, search, place = plan.forecast, plan.search, plan.forecast.place
    studies = len(found.expectation.stopped)
    name = found.earlier_name
    if found.earlier is not None:
        data = "" if found.earlier.same_data else ", which were of other data"
        curves = f"curves of {name}{data}; where it stopped one, it goes on as those did that were near it"
    else:
        curves = (
            "made-up curves: a trial's rank persists, and correlates with its end by 0.76 after one epoch; none ends "
            "by its own patience"
        )
    lines = [
        f"ranges: 8 of 10 of {studies} simulated studies, {place.concurrency} trials at once, with the study's own "
        f"rule and {curves}"
    ]
    if found.recorded:
        lines.append(f"seconds of an epoch: as {name} recorded them on {place.name}, with the same data")
    elif found.probed:
        lines.append(
            f"seconds of an epoch: the probes, times {FASTEST:g} to {SLOWEST:g}, as 19 recorded studies took 0.76 to "
            f"1.62 times what the line through three of their trials predicts; trials side by side slow each other"
        )
    if found.knows_seconds and place.device == "cuda" and place.gpu_share < 1:
        lines.append("GPU time: from trials that share a GPU for nothing to trials that take turns on it")
    lines.append(
        f"finish: {search.confirm.top_k} configurations over {search.confirm.seeds} seeds, then the winner again"
    )
    lines.append("trials are taken for random samples; a sampler that learns may come to prefer larger or smaller ones")
    if search.max_total_epochs:
        lines.append(f"no trial starts once {search.max_total_epochs:,} epochs are trained (max_total_epochs)")
    if search.time_budget_seconds:
        held = "" if found.knows_seconds else ", which is left out here, as no seconds are known"
        lines.append(f"the search ends after {duration(search.time_budget_seconds)} (time_budget_seconds){held}")
    return lines


def _print_gpu(console: Console, plan: Plan) -> None:
    if plan.gpu_bytes is None or not plan.packings:
        return
    copy = data_bytes(plan.info, plan.data.features)
    _say(
        console,
        f"\n[bold]trials on a GPU of {_bytes(plan.gpu_bytes)}[/], each with its own copy of the data "
        f"({_bytes(copy)}) and {_bytes(FRAMEWORK_BYTES)} for CUDA:",
    )
    for name, packing in plan.packings.items():
        fit = (
            "fits not even once"
            if packing.share is None
            else (f"fits {packing.num_trials} times: --gpu {packing.share:g}")
        )
        _say(console, f"  the {name} model takes {_bytes(packing.trial_bytes)}, and {fit}")
    _say(console, "[dim]That is memory alone: whether so many are faster than fewer was not measured.[/]")


def _expected_json(found: Forecast) -> dict[str, Any]:
    def of(epochs: Range, hours: Range, wall: Range) -> dict[str, Any]:
        known = found.knows_seconds
        return {
            "epochs": asdict(epochs),
            "device_hours": asdict(hours) if known else None,
            "wall_hours": asdict(wall) if known else None,
        }

    searches = {
        name: of(found.epochs(stopped=stopped), found.device_hours(stopped=stopped), found.wall_hours(stopped=stopped))
        for name, stopped in (("search", True), ("search_without_stopping", False))
    }
    most = (found.search.confirm.top_k * found.search.confirm.seeds + 1) * found.search.max_epochs
    return {
        "device": "core" if found.place.device == "cpu" else "gpu",
        "trials": found.num_trials,
        "simulated_studies": len(found.expectation.stopped),
        "curves_from": found.earlier_name or None,
        "seconds_from": found.earlier_name if found.recorded else "probes" if found.probed else None,
        **searches,
        "finish_at_most": of(Range(most, most, most), found.finish_hours(), found.finish_wall_hours()),
    }


def _probe_json(plan: Plan, index: int) -> dict[str, Any]:
    probe = plan.probes[index]
    return {
        "size": probe.size,
        "architecture": probe.sample.config.architecture,
        "model": dict(probe.sample.config.model),
        "batch_size": probe.sample.config.trainer.batch_size,
        "epoch_flops": epoch_flops(probe.sample, plan.info),
        "share_trained": probe.share,
        "cpu_share": probe.cpu_share,
        "measured_seconds": probe.epoch_seconds,
        "predicted_seconds": plan.predicted(probe.sample),
    }


def _quartet(values: Sequence[float]) -> dict[str, float]:
    if not values:
        return dict.fromkeys(("min", "median", "90 %", "max"), math.nan)
    return {name: quantile(values, share) for name, share in (("min", 0), ("median", 0.5), ("90 %", 0.9), ("max", 1))}


def histogram(values: Sequence[float]) -> str:
    """Twelve bars from the smallest to the largest value, of equal width in the logarithm; no bar is no value."""
    logs = [math.log(max(value, 1.0)) for value in values]
    low, width = min(logs), (max(logs) - min(logs)) / _BINS
    if width < 1e-9:
        return _BARS[-1]
    counts = [0] * _BINS
    for each in logs:
        counts[min(_BINS - 1, int((each - low) / width))] += 1
    return "".join(_BARS[math.ceil(number / max(counts) * (len(_BARS) - 1))] for number in counts)


def _short(value: float, quantity: str) -> str:
    return _bytes(value) if quantity.endswith("bytes") else _si(value)


def _si(value: float) -> str:
    """`26k`, `1.4M`: two or three digits."""
    if not math.isfinite(value):
        return "–"
    power = min(len(_PREFIXES) - 1, int(math.log10(max(1.0, value)) / 3))
    scaled = value / 1000**power
    return f"{scaled:.1f}{_PREFIXES[power]}" if scaled < 9.95 and power else f"{scaled:.0f}{_PREFIXES[power]}"


def _bytes(value: float) -> str:
    if not math.isfinite(value):
        return "–"
    for unit, size in (("GiB", 2**30), ("MiB", 2**20)):
        if value >= size:
            return f"{value / size:.1f} {unit}" if value < 9.95 * size else f"{value / size:.0f} {unit}"
    return f"{value / 2**10:.0f} KiB"


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if whole else "–"


def _table(first: str, *headings: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column(first, no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, soft_wrap=False)
