"""Edits of a space file's text that leave the rest as it is, comments included."""

from __future__ import annotations

from typing import Any

import yaml


def with_setting(text: str, section: str, key: str, value: str, *, remark: str = "") -> str:
    """The YAML of a space with `section/key` set, in place of whatever value it had.

    Args:
        value: as it stands in YAML.
        remark: a comment for the line of a section that has to be added.
    """
    entry = f"{key}: {value}"
    root = _mapping(text)
    node = _value(root, section)
    if node is None:
        return with_section(text, section, f"{{{entry}}}", remark=remark)
    if isinstance(node, yaml.ScalarNode):  # `section:` and nothing
        return f"{text[: node.start_mark.index]} {{{entry}}}{text[node.end_mark.index :]}"
    if (old := _value(node, key)) is not None:
        return f"{text[: old.start_mark.index]}{value}{text[old.end_mark.index :]}"
    start = node.start_mark
    if node.flow_style:
        return _inserted(text, start.index + 1, f"{entry}, " if node.value else entry)
    return _inserted(text, start.index, f"{entry}\n{' ' * start.column}")


def with_section(text: str, section: str, content: str, *, remark: str = "") -> str:
    """The YAML of a space with a whole section replaced, or added at the end, by `content` on one line."""
    line = f"{section}: {content}"
    root = _mapping(text)
    for key, value in root.value:
        if key.value == section:
            return text[: key.start_mark.index] + line + text[_content_end(value) :]
    if root.flow_style:
        return _inserted(text, root.start_mark.index + 1, f"{line}, ")
    end = root.end_mark.index
    newline = "\n" if text[:end].endswith("\n") else "\n\n"
    comment = f"  # {remark}" if remark else ""
    return _inserted(text, end, f"{newline}{line}{comment}\n")


def _mapping(text: str) -> Any:
    """The file's node; a space that was read is a mapping."""
    return yaml.compose(text, Loader=yaml.SafeLoader)


def _value(mapping: Any, key: str) -> Any:
    """The node of a key's value, None if there is no such key."""
    return next((value for name, value in mapping.value if name.value == key), None)


def _content_end(node: Any) -> int:
    """Where a node's own text ends; a block ends only where the next one begins, comments included."""
    if isinstance(node, yaml.MappingNode) and not node.flow_style and node.value:
        return _content_end(node.value[-1][1])
    end: int = node.end_mark.index
    return end


def _inserted(text: str, place: int, words: str) -> str:
    return f"{text[:place]}{words}{text[place:]}"
