"""The commands of `fmasearch data` and their options; what they do is imported when they run."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from fmasearch.cli.prepare_commands import prepare_app

data_app = typer.Typer(help="Look at feature files and rework them.", no_args_is_help=True)
data_app.add_typer(prepare_app, name="prepare")


class SplitByChoice(StrEnum):
    artist = "artist"
    track = "track"
    none = "none"


@data_app.command("info")
def data_info(
    file: Annotated[Path, typer.Argument(help="Feature file.")],
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what a feature file holds."""
    from fmasearch.cli import inspecting

    inspecting.data_info(file, as_json=json)


@data_app.command("check")
def data_check(
    file: Annotated[Path, typer.Argument(help="Feature file.")],
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Look for damage, silence, duplicates and artists in several splits. Exit code 1 if there are errors."""
    from fmasearch.cli import checking

    checking.check(file, as_json=json)


@data_app.command("show")
def data_show(
    file: Annotated[Path, typer.Argument(help="Feature file.")],
    track: Annotated[str, typer.Argument(help="Track id.")],
    feature: Annotated[str | None, typer.Option(help="Feature set (default: mel).", show_default=False)] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Draw it into this PNG, SVG or PDF.", show_default=False)
    ] = None,
) -> None:
    """Show one track: what is known of it, and its spectrogram."""
    from fmasearch.cli import checking

    checking.show(file, track, feature=feature, out=out)


@data_app.command("merge")
def data_merge(
    files: Annotated[list[Path], typer.Argument(help="Feature files with equal feature settings.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Feature file to write.", show_default=False)],
    same_artists: Annotated[
        bool, typer.Option("--same-artists", help="Artist ids mean the same artist in every file.")
    ] = False,
) -> None:
    """Put several feature files into one."""
    from fmasearch.cli import reworking

    reworking.merge(files, out, same_artists=same_artists)


@data_app.command("resplit")
def data_resplit(
    file: Annotated[Path, typer.Argument(help="Feature file.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Feature file to write.", show_default=False)],
    by: Annotated[
        SplitByChoice, typer.Option(help="Keep whole artists on one side, deal single tracks, or keep the splits.")
    ] = SplitByChoice.artist,
    fractions: Annotated[str, typer.Option(help="Shares of train, val and test.")] = "0.8,0.1,0.1",
    seed: Annotated[int, typer.Option(help="Seed of the split.")] = 0,
    stratify: Annotated[
        str | None, typer.Option(help="Label set to balance (default: genre).", show_default=False)
    ] = None,
    drop_duplicates: Annotated[
        bool, typer.Option("--drop-duplicates", help="Leave all but one of equal tracks unused.")
    ] = False,
) -> None:
    """Copy a feature file with new splits."""
    from fmasearch.cli import reworking

    reworking.resplit(
        file,
        out,
        by=by.value,
        fractions=fractions,
        seed=seed,
        stratify=stratify,
        drop_duplicates=drop_duplicates,
    )
