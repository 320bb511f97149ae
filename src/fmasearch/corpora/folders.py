"""Folders of genres: one folder each, as in GTZAN; split by artists, by lists, or by chance."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from fmasearch.corpora.audio_files import AUDIO_SUFFIXES, UNREADABLE_SUFFIXES, find_files
from fmasearch.corpora.splitting import FRACTIONS, LEAK, SPLIT_NAMES, leaking_artists, resplit
from fmasearch.errors import DataError
from fmasearch.tracks import Corpus, Exclusion, Split, Track


@dataclass(frozen=True, slots=True)
class _Names:
    """Ways to name a track, as other people's files do it."""

    by_name: Mapping[str, tuple[str, ...]]
    """Track ids by relative path, by the path without its suffix, by file name and by stem."""

    @classmethod
    def of(cls, track_ids: Sequence[str]) -> _Names:
        by_name: dict[str, list[str]] = {}
        for track_id in track_ids:
            path = PurePosixPath(track_id)
            for name in {track_id, str(path.with_suffix("")), path.name, path.stem}:
                by_name.setdefault(name, []).append(track_id)
        return cls({name: tuple(ids) for name, ids in by_name.items()})

    def find(self, text: str, *, place: str) -> str | None:
        """The track that a line means: `blues/blues.00029.wav`, another suffix of it, `blues.00029`.

        Raises:
            DataError: if several tracks have that name.
        """
        path = PurePosixPath(text.strip().replace("\\", "/"))
        without_suffix = path.with_suffix("") if path.suffix.lower() in AUDIO_SUFFIXES else path
        for name in (str(path), str(without_suffix), path.name, without_suffix.name):
            found = self.by_name.get(name, ())
            if len(found) > 1:
                raise DataError(
                    f"{place}: {text}: expected one track, got {', '.join(found[:3])}; write its folder, too"
                )
            if found:
                return found[0]
        return None


def read_folders(
    audio_dir: str | Path,
    *,
    groups: str | Path | None = None,
    lists: Mapping[Split, Path | None] | None = None,
    seed: int = 0,
    fractions: Sequence[float] = FRACTIONS,
) -> Corpus:
    """A corpus whose genres are the folders of `audio_dir`; folders inside a genre are searched, too.

    Args:
        groups: CSV with a track and its artist (or album, or recording) on each line, with or without a header.
            Whole artists go to one split. A track is named by path, file name or stem.
        lists: a file of track names, one a line, for each of train, val and test; a track on no list is left out.
            Together with `groups`, the lists decide and the artists are checked.
        fractions: of train, val and test, where there are no lists.

    Returns:
        Tracks whose ids are their paths within `audio_dir`, with the class `genre`.

    Raises:
        DataError: if there is no audio, or the lists and groups do not fit it or each other.
    """
    audio_dir = Path(audio_dir).absolute()
    tracks, excluded = _scan(audio_dir)
    names = _Names.of([track.track_id for track in tracks])
    notes: list[str] = []
    if groups is not None:
        tracks, note = _with_artists(tracks, _read_groups(Path(groups), names), Path(groups))
        notes += note
    given = {split: Path(path) for split, path in (lists or {}).items() if path is not None}
    if given:
        tracks, left_out, note = _by_lists(tracks, given, names)
        excluded += left_out
        notes += [*note, *_leaks(tracks, known=groups is not None)]
    else:
        tracks = list(resplit(tracks, label="genre", by_artist=groups is not None, fractions=fractions, seed=seed))
        notes += [] if groups is not None else [f"{LEAK}; name the artists with --groups"]
    notes += _missing_genres(tracks)
    how = "lists" if given else "artist" if groups is not None else "random"
    return Corpus(
        name=audio_dir.name,
        tracks=tuple(tracks),
        excluded=tuple(excluded),
        notes=tuple(notes),
        source=f"folders of genres: {audio_dir.name}; split: {how}",
    )


def _scan(audio_dir: Path) -> tuple[list[Track], list[Exclusion]]:
    """Every audio file in a genre's folder; what is audio but cannot be used has a reason."""
    if not audio_dir.is_dir():
        raise DataError(f"{audio_dir}: no such folder; expected one folder of audio files per genre")
    tracks, excluded = [], []
    for path in find_files(audio_dir):
        relative, suffix = path.relative_to(audio_dir), path.suffix.lower()
        if suffix in UNREADABLE_SUFFIXES:
            excluded.append(Exclusion(relative.as_posix(), str(path), f"format {suffix}: convert it to .wav or .flac"))
        elif suffix not in AUDIO_SUFFIXES:
            continue
        elif len(relative.parts) == 1:
            excluded.append(Exclusion(relative.as_posix(), str(path), "in no genre's folder"))
        else:
            tracks.append(Track(relative.as_posix(), str(path), "train", {"genre": relative.parts[0]}))
    if not tracks:
        kinds = ", ".join(AUDIO_SUFFIXES)
        raise DataError(f"{audio_dir}: expected one folder of audio files ({kinds}) per genre, got no such file")
    return tracks, excluded


def _read_groups(path: Path, names: _Names) -> dict[str, str]:
    """Artist by track id."""
    artists: dict[str, str] = {}
    for number, row in enumerate(csv.reader(_lines(path)), start=1):
        if not any(cell.strip() for cell in row):
            continue
        if len(row) < 2 or not row[1].strip():
            raise DataError(f"{path}: line {number}: expected a track and its artist, got {','.join(row)!r}")
        track_id, artist = names.find(row[0], place=f"{path}: line {number}"), row[1].strip()
        if track_id is not None and artists.setdefault(track_id, artist) != artist:
            raise DataError(
                f"{path}: line {number}: {track_id}: expected one artist, got {artists[track_id]!r} and {artist!r}"
            )
    if not artists:
        example = next(iter(names.by_name))
        raise DataError(f"{path}: expected lines like `{example},artist`, got none that names a track of the corpus")
    return artists


def _with_artists(tracks: Sequence[Track], artists: Mapping[str, str], path: Path) -> tuple[list[Track], list[str]]:
    unknown = [track.track_id for track in tracks if track.track_id not in artists]
    note = f"warning: {path.name} has no artist for {len(unknown)} tracks ({_some(unknown)}): each counts as its own"
    known = [replace(track, artist=artists.get(track.track_id)) for track in tracks]
    return known, [note] if unknown else []


def _by_lists(
    tracks: Sequence[Track], lists: Mapping[Split, Path], names: _Names
) -> tuple[list[Track], list[Exclusion], list[str]]:
    """Tracks on the lists, what is left out, and notes."""
    for split in ("train", "val"):
        if split not in lists:
            raise DataError(f"split lists: expected one for train, val and test, got none for {split}")
    splits, absent = _read_lists(lists, names)
    kept = [replace(track, split=splits[track.track_id]) for track in tracks if track.track_id in splits]
    excluded = [
        Exclusion(track.track_id, track.source, "on none of the split lists")
        for track in tracks
        if track.track_id not in splits
    ]
    notes = [f"split by lists: {', '.join(path.name for path in lists.values())}"]
    if "test" not in lists:
        notes.append("no test list: no track is tested on")
    return kept, excluded + absent, notes


def _read_lists(lists: Mapping[Split, Path], names: _Names) -> tuple[dict[str, Split], list[Exclusion]]:
    """Split by track id, and what the lists name but nobody has."""
    splits: dict[str, Split] = {}
    absent: dict[str, Exclusion] = {}
    for split, path in lists.items():
        before = len(splits)
        for number, line in enumerate(_lines(path), start=1):
            text = line.strip()
            track_id = names.find(text, place=f"{path}: line {number}") if text else None
            if track_id is not None and splits.setdefault(track_id, split) != split:
                raise DataError(
                    f"{path}: line {number}: {track_id}: expected in one split, got {splits[track_id]} and {split}"
                )
            if text and track_id is None:
                absent[text] = Exclusion(text, text, f"no such file (named in {path.name})")
        if len(splits) == before:
            raise DataError(f"{path}: expected one track of the corpus a line, as blues/blues.00029.wav, got none")
    return splits, list(absent.values())


def _leaks(tracks: Sequence[Track], *, known: bool) -> Iterator[str]:
    """What the artists say of a split that somebody else made."""
    leaking = leaking_artists(tracks)
    if leaking:
        yield (
            f"warning: the lists are not artist-disjoint: {len(leaking)} artists are in several splits "
            f"({_some(leaking)}); scores come out too good"
        )
    elif known:
        yield "verified: no artist is in two splits"


def _missing_genres(tracks: Sequence[Track]) -> Iterator[str]:
    """Genres that a split has nothing of: it cannot be trained or judged there."""
    counts = Counter((track.classes["genre"], track.split) for track in tracks)
    genres, splits = sorted({genre for genre, _ in counts}), {split for _, split in counts}
    for split in SPLIT_NAMES:
        lacking = [genre for genre in genres if not counts[genre, split]]
        if lacking and split in splits:
            yield f"warning: {split} has no track of {_some(lacking)}"


def _lines(path: Path) -> list[str]:
    """Lines of a small text file of somebody else's; a byte order mark is passed over."""
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: expected a text file in UTF-8") from None


def _some(words: Sequence[str]) -> str:
    return ", ".join(words[:5]) + (", ..." if len(words) > 5 else "")
