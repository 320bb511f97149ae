"""JSON as every reader takes it: what was not measured is null, for which Python would write NaN."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any


def json_text(values: Any) -> str:
    """Indented by one space, a line feed at the end."""
    return json.dumps(_plain(values), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _plain(values: Any) -> Any:
    if isinstance(values, float):
        return values if math.isfinite(values) else None
    if isinstance(values, Mapping):
        return {key: _plain(each) for key, each in values.items()}
    if isinstance(values, list | tuple):
        return [_plain(each) for each in values]
    return values
