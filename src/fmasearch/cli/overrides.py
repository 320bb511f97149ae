"""`--set section/key=value`: YAML values laid over a nested configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fmasearch.config import parse_yaml
from fmasearch.errors import ConfigError


def override(values: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy of `values` with every `path=value` put in; unknown keys are left for validation to name.

    Raises:
        ConfigError: if an override has no `=`, or leads through something that is no section.
    """
    result = dict(values)
    for text in overrides:
        path, equals, value = text.partition("=")
        if not equals or not path:
            raise ConfigError(f"--set {text}: expected section/key=value")
        section = result
        *sections, key = path.split("/")
        for name in sections:
            inner = section.get(name, {})
            if not isinstance(inner, Mapping):
                raise ConfigError(f"--set {text}: {name} is a value, not a section")
            section[name] = dict(inner)
            section = section[name]
        section[key] = parse_yaml(f"value: {value}", source=f"--set {text}")["value"]
    return result
