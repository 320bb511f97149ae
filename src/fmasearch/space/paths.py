"""Paths of a space's keys: `section/key`, or `section/architecture/key` for a key that one architecture has alone."""

from __future__ import annotations

ARCHITECTURE = "model/architecture"
"""The key that decides which architecture's keys take part."""


def config_key(path: str) -> tuple[str, str]:
    """Where a path's value goes in a configuration: `model/cnn_gru/hidden_dim` is `hidden_dim` of `model`."""
    section, _, rest = path.partition("/")
    return section, rest.rpartition("/")[2]


def owner_of(path: str) -> str | None:
    """The architecture in whose block a key stands; None for one that all share."""
    names = path.split("/")
    return names[1] if len(names) == 3 else None


def own_path(path: str, architecture: str) -> str:
    """`model/hidden_dim` as the key that one architecture has alone."""
    section, key = config_key(path)
    return f"{section}/{architecture}/{key}"


def dotted(path: str) -> str:
    """A path as errors show it: `optimizer/learning_rate` is `optimizer.learning_rate`, as in a config."""
    return path.replace("/", ".")
