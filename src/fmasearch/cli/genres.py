"""What became of the file's classes, for people: the line before a training, the rows of a study's record."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

if TYPE_CHECKING:
    from fmasearch.data import GenreMap


def print_genres(console: Console, genres: GenreMap | None) -> None:
    """One dim line on what was merged and dropped; none where nothing was asked for."""
    if genres is not None:
        console.print(f"[dim]genres: {escape(genres.describe())}[/]", highlight=False, soft_wrap=True)


def genre_facts(genres: GenreMap | None) -> dict[str, Any]:
    """The same for the data section of a record."""
    if genres is None:
        return {}
    merged = {name: list(sources) for name, sources in genres.merged.items()}
    return {"genres": {"classes_of_the_file": len(genres.sources), "merged": merged, "dropped": dict(genres.dropped)}}
