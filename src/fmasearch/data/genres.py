"""The genre map: which class each class of a feature file becomes in a study. N tracks of a split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmasearch.config import GenresConfig, did_you_mean
from fmasearch.data.feature_file import FileInfo
from fmasearch.errors import ConfigError

BY_THE_STUDY = "by the study"


@dataclass(frozen=True, slots=True)
class GenreMap:
    """Merges and drops as they came out on one file. Plain values, so that it travels, hashes and is kept in models."""

    sources: tuple[str, ...]
    """Class names of the feature file, by its codes."""
    names: tuple[str, ...]
    """Classes of the study, in alphabetical order."""
    codes: tuple[int, ...]
    """By code of the file: the place in `names`, or -1 if it was dropped."""
    dropped: tuple[tuple[str, str], ...] = ()
    """Classes that were dropped, after merging, and why: `110 training tracks < 200`."""

    @property
    def merged(self) -> dict[str, tuple[str, ...]]:
        """Classes of the study that are not one of the file under its own name, and what they are made of."""
        made_of = {
            name: tuple(source for source, its_code in zip(self.sources, self.codes, strict=True) if its_code == code)
            for code, name in enumerate(self.names)
        }
        return {name: sources for name, sources in made_of.items() if sources != (name,)}

    def apply(self, labels_N: NDArray[np.int64]) -> NDArray[np.int64]:
        """Codes of the file (-1 = none) as codes of the study; a track whose class was dropped has none."""
        return np.array([*self.codes, -1], np.int64)[labels_N]  # -1 finds the last one

    def describe(self) -> str:
        """`20 -> 10 classes; merged Rock (Rock, Post-Rock); dropped Blues (110 training tracks < 200)`."""
        merged = [f"{name} ({', '.join(sources)})" for name, sources in self.merged.items()]
        parts = [f"{len(self.sources)} -> {len(self.names)} classes"]
        parts += [f"merged {', '.join(merged)}"] if merged else []
        parts += [f"dropped {_with_reasons(self.dropped)}"] if self.dropped else []
        return "; ".join(parts)

    def to_json(self) -> dict[str, Any]:
        values = {name: list(value) for name, value in asdict(self).items()}
        return values | {"dropped": [list(pair) for pair in self.dropped]}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> GenreMap:
        """What `to_json` or `asdict` gave, lists or tuples."""
        return cls(
            sources=tuple(values["sources"]),
            names=tuple(values["names"]),
            codes=tuple(values["codes"]),
            dropped=tuple((name, reason) for name, reason in values["dropped"]),
        )


def class_names(info: FileInfo, label: str | None, genres: GenresConfig) -> tuple[str, ...]:
    """The classes that a study tells apart on a file; none without a label set. Raises as `genre_map`."""
    if label is None:
        return ()
    resolved = genre_map(info, label, genres)
    return info.classes(label) if resolved is None else resolved.names


def genre_map(info: FileInfo, label: str | None, genres: GenresConfig, *, source: str = "") -> GenreMap | None:
    """What `genres` come to on a file; None if they ask for nothing, and the file's classes stay as they are.

    Args:
        source: the file that says `genres`, named in errors.

    Raises:
        DataError: if the file has no such label set.
        ConfigError: as `resolve`.
    """
    if label is None:
        if genres != GenresConfig():
            raise ConfigError(f"{source}{': ' if source else ''}genres: the task has no classes to merge or drop")
        return None
    names = info.classes(label)
    if genres == GenresConfig():
        return None
    try:
        return resolve(names, info.labels[label].train_counts, genres, labels=f"labels/{label} of {info.path}")
    except ConfigError as error:
        prefix = f"{source}: " if source else ""
        raise ConfigError("\n".join(f"{prefix}{line}" for line in str(error).splitlines())) from None


def resolve(
    names: Sequence[str], train_counts: Mapping[str, int], genres: GenresConfig, *, labels: str = "the labels"
) -> GenreMap:
    """Merge, drop, then drop what is too small.

    Args:
        names: the file's classes, by code.
        train_counts: tracks of the training split by class; no other split decides anything.
        labels: where the classes are, in words, for errors.

    Raises:
        ConfigError: for a class that is not in `names`, a new name that is taken, or fewer than two classes left.
    """
    if problems := list(_problems(names, genres, labels)):
        raise ConfigError("\n".join(problems))
    new_names = {source: name for name, sources in genres.merge.items() for source in sources}
    kept = {name: new_names.get(name, name) for name in names if name not in genres.drop}
    counts: Counter[str] = Counter()
    for source, name in kept.items():
        counts[name] += train_counts[source]
    in_order = sorted(counts, key=lambda name: (name.casefold(), name))
    left = tuple(name for name in in_order if counts[name] >= genres.min_tracks)
    dropped = [(name, BY_THE_STUDY) for name in names if name in genres.drop]
    dropped += [(name, _too_few(counts[name], genres.min_tracks)) for name in in_order if name not in left]
    codes = {name: code for code, name in enumerate(left)}
    resolved = GenreMap(
        sources=tuple(names),
        names=left,
        codes=tuple(codes.get(kept[name], -1) if name in kept else -1 for name in names),
        dropped=tuple(dropped),
    )
    if len(left) < 2:
        raise ConfigError(f"genres: expected at least two classes to be left of {labels}, got {resolved.describe()}")
    return resolved


def _problems(names: Sequence[str], genres: GenresConfig, labels: str) -> Iterator[str]:
    sources = {source for merged in genres.merge.values() for source in merged}
    for key, asked in (("drop", genres.drop), *((f"merge.{name}", them) for name, them in genres.merge.items())):
        for name in asked:
            if name not in names:
                yield f"genres.{key}: no class {name!r} in {labels}{did_you_mean(name, sorted(names))}"
    for name in genres.merge:
        if name in names and name not in sources:
            yield (
                f"genres.merge.{name}: {labels} has a class {name!r} of its own: list it among what is merged, or "
                f"give another name"
            )


def _too_few(count: int, min_tracks: int) -> str:
    return f"{count} training {'track' if count == 1 else 'tracks'} < {min_tracks}"


def _with_reasons(dropped: Sequence[tuple[str, str]]) -> str:
    return ", ".join(f"{name} ({reason})" for name, reason in dropped)
