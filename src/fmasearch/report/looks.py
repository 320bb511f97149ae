"""Later looks: what a page says when a study's test split was looked at beside the study's own test."""

from __future__ import annotations

import re
from collections.abc import Sequence

from fmasearch.records import Look

_BEGIN, _END = "<!-- later looks -->", "<!-- end of later looks -->"


def with_looks(page: str, looks: Sequence[Look]) -> str:
    """A page of a report with a paragraph on `looks` before its first section, in the place of an older one."""
    page = re.sub(rf"{_BEGIN}.*?{_END}\n\n", "", page, flags=re.DOTALL)
    if not looks:
        return page
    head, mark, rest = page.partition("\n## ")
    return f"{head}\n{_BEGIN}\n\n{looks_paragraph(looks)}\n\n{_END}\n{mark}{rest}"


def looks_paragraph(looks: Sequence[Look]) -> str:
    """How often, when and by which commands; and what that does to the scores."""
    days = sorted({look.time[:10] for look in looks})
    when = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    names = dict.fromkeys(look.by for look in looks)
    commands = ", ".join(f"`{name}` {sum(look.by == name for look in looks)}×" for name in names)
    times = "once more" if len(looks) == 1 else f"{len(looks):,} more times"
    return (
        f"**The test split was looked at {times}** with models of this study ({when}: {commands}). The scores on this "
        f"page are those of the study's own test; whatever is chosen after another look is fitted to the test tracks."
    )
