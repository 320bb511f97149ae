"""`compare`: two saved models on the same tracks."""

from __future__ import annotations

import math
from pathlib import Path

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fmasearch.cli.json_text import json_text
from fmasearch.cli.looks import note_look
from fmasearch.comparing import Comparison, compare_models
from fmasearch.data.feature_file import SplitName
from fmasearch.metrics import McNemar
from fmasearch.model_file import load_model


def compare(first: Path, second: Path, data: Path, split: SplitName, *, as_json: bool) -> None:
    """Print how A and B differ, with intervals, and what follows from it."""
    models = {file: load_model(file) for file in (first, second)}
    comparison = compare_models(models[first], models[second], data, split)
    note_look("compare", models, data, split)
    if as_json:
        typer.echo(json_text({"a": str(first), "b": str(second), **comparison.to_json()}), nl=False)
    else:
        print_comparison(Console(), comparison, str(first), str(second))


def print_comparison(console: Console, comparison: Comparison, first: str, second: str) -> None:
    """Which is which, a row per metric, McNemar's test, the conclusion."""
    lines = [
        f"A: {escape(first)}",
        f"B: {escape(second)}",
        f"{comparison.split} split: {comparison.num_tracks:,} tracks; 95 % paired bootstrap intervals over "
        f"{comparison.resampled_by}s",
    ]
    for name, only in (("A", comparison.only_a), ("B", comparison.only_b)):
        lines += [f"only {name} predicts {escape(', '.join(only))}; not compared"] * bool(only)
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)
    console.print(_table(comparison))
    if comparison.mcnemar is not None:
        console.print(_mcnemar(comparison.mcnemar), highlight=False, soft_wrap=True)
    for sentence in comparison.conclusions:
        console.print(f"[bold]{sentence}[/]", highlight=False, soft_wrap=True)
    if comparison.split == "test":
        console.print(
            "[dim]Choosing by the test split, again and again, is a selection too: what wins will look better than it "
            "is. Choose on val (--split val), and look here once.[/]",
            highlight=False,
            soft_wrap=True,
        )


def _table(comparison: Comparison) -> Table:
    table = Table(box=None)
    for heading in ("metric", "A", "B", "A − B", "95 % interval", "p"):
        table.add_column(heading, justify="left" if heading == "metric" else "right")
    for row in comparison.rows:
        of = row.difference
        between = f"{_signed(of.low)} to {_signed(of.high)}"
        table.add_row(
            escape(row.metric), _score(row.a), _score(row.b), _signed(of.difference), between, _p_value(of.p_value)
        )
    return table


def _mcnemar(test: McNemar) -> str:
    return (
        f"right in A alone: {test.only_a:,} tracks; in B alone: {test.only_b:,}; p = {_p_value(test.p_value)} "
        f"(McNemar's test, which takes tracks for independent)"
    )


def _score(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else "–"


def _signed(value: float) -> str:
    return f"{value:+.4f}".replace("-", "−") if math.isfinite(value) else "–"


def _p_value(value: float) -> str:
    if not math.isfinite(value):
        return "–"
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"
