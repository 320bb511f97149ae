"""The commands of `fmasearch spaces` and their options; what they do is imported when they run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

spaces_app = typer.Typer(help="Look at search spaces.", no_args_is_help=True)


@spaces_app.command("list")
def spaces_list(
    folder: Annotated[Path, typer.Argument(help="Folder with space files.")] = Path("spaces"),
) -> None:
    """List the spaces of a folder."""
    from fmasearch.cli import inspecting

    inspecting.list_spaces(folder)


@spaces_app.command("show")
def spaces_show(space: Annotated[Path, typer.Argument(help="Space file.")]) -> None:
    """Show what a space searches, its constants and its known-good points."""
    from fmasearch.cli import inspecting

    inspecting.show_space(space)


@spaces_app.command("check")
def spaces_check(
    space: Annotated[list[Path], typer.Argument(help="Space files.")],
    data: Annotated[
        Path | None,
        typer.Option("--data", "-d", help="Feature file that models must fit.", show_default=False),
    ] = None,
) -> None:
    """Check space files, and build sampled models (without memory) to see that they exist."""
    from fmasearch.cli import inspecting

    inspecting.check_spaces(space, data)


@spaces_app.command("convert")
def spaces_convert(
    sweep: Annotated[Path, typer.Argument(help="W&B sweep file.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Space file to write.", show_default=False)] = None,
) -> None:
    """Translate a W&B sweep into a space file, and say what could not be."""
    from fmasearch.cli import sweeps

    sweeps.convert(sweep, out)


@spaces_app.command("keys")
def spaces_keys(
    name: Annotated[str | None, typer.Argument(help="A section (optimizer) or an architecture (ast).")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Explain the keys that a space may set: values, default, meaning."""
    from fmasearch.cli import keys

    keys.print_keys(name, as_json=json)
