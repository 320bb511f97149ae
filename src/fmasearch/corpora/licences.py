"""The licence filter: which tracks a person may use, by their Creative Commons terms or by the licence's words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase

from fmasearch.errors import DataError

CODES = ("by", "by-sa", "by-nc", "by-nd", "by-nc-sa", "by-nc-nd", "cc0", "public-domain")
"""Licence terms in Creative Commons' short form. `cc0` and `public-domain` both give up all rights."""

_CODE_IN_URL = re.compile(r"licenses/(by(?:-nc)?(?:-nd|-sa)?)/")
_CODE_AS_WORD = re.compile(r"\bcc[ -](by(?:-nc)?(?:-nd|-sa)?)\b")


def licence_code(text: str) -> str | None:
    """The terms in short form, from a licence's name or address; None if it is no Creative Commons licence.

    `Attribution-NonCommercial-ShareAlike 3.0 International` and `.../licenses/by-nc-sa/3.0/` are `by-nc-sa`,
    whatever the version and the country; FMA spells the same licence in several ways.
    """
    words = text.lower()
    code = _CODE_IN_URL.search(words) or _CODE_AS_WORD.search(words)
    if code:
        return code.group(1)
    if "publicdomain/zero" in words or "cc0" in words:
        return "cc0"
    if "publicdomain/" in words or "public domain" in words:
        return "public-domain"
    letters = re.sub(r"[^a-z]", "", words)
    if "attribution" not in letters:
        return None
    noncommercial = "-nc" if "noncommercial" in letters else ""
    derivatives = "-nd" if "noderiv" in letters else "-sa" if "sharealike" in letters else ""
    return f"by{noncommercial}{derivatives}"


def is_allowed(licence: str, patterns: Sequence[str]) -> bool:
    """Whether a licence's name or address matches at least one pattern; case does not matter.

    A pattern that is one of `CODES` means exactly those terms: `by` admits neither `by-sa` nor `by-nc`. One with
    `*`, `?` or `[` must match the whole text; any other must be part of it. No licence matches nothing.
    """
    code, words = licence_code(licence), licence.strip().lower()
    return bool(words) and any(_matches(pattern.strip().lower(), words, code) for pattern in patterns)


def check_patterns(patterns: Sequence[str]) -> None:
    """Refuse an empty filter, and short forms that do not exist (`by-com`), before they exclude every track.

    Raises:
        DataError: naming the pattern and the short forms there are.
    """
    known = ", ".join(CODES)
    if not patterns:
        raise DataError(f"licence filter: expected at least one pattern: words of the licence, or one of {known}")
    for pattern in patterns:
        word = pattern.strip().lower()
        if not word or (re.fullmatch(r"(cc-)?by(-[a-z]+)*", word) and word not in CODES):
            raise DataError(f"licence filter: {pattern!r}: expected words of the licence, or one of {known}")


def _matches(pattern: str, words: str, code: str | None) -> bool:
    if pattern in CODES:
        return pattern == code
    if any(sign in pattern for sign in "*?["):
        return fnmatchcase(words, pattern)
    return pattern in words
