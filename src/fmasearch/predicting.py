"""Predicting: what a saved model says of audio files, or of the tracks of a feature file, a batch at a time.

Axes: N tracks or windows, C crops of a window, T frames, F bins, K outputs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from fmasearch.config import CropConfig
from fmasearch.corpora.audio_files import AUDIO_SUFFIXES, UNREADABLE_SUFFIXES, find_files
from fmasearch.data import SPLITS, Columns, FileInfo, Split, read_all_columns, read_info
from fmasearch.data.feature_file import read_feature_blocks
from fmasearch.data.splits import LevelStore
from fmasearch.errors import DataError, ModelError, TrackError
from fmasearch.features.audio import duration
from fmasearch.features.audio_reader import AudioReader
from fmasearch.features.matching import reader_by, require_same
from fmasearch.model_file import SavedModel
from fmasearch.tasks.reading import read_outputs
from fmasearch.tracks import Frames, Track
from fmasearch.trainer import EVAL_BATCH_SIZE, predict_crops

MOST_WINDOWS = 20
"""Windows of a song, however long it is; and so its share of the memory."""
SLACK = 0.05
"""Less than this share of a window at a song's end is no window of its own: FMA's clips of 30 s have 30.02."""
FEATURE_FILE_SUFFIXES = (".h5", ".hdf5")

SplitChoice: TypeAlias = Literal["train", "val", "test", "all"]


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model says of one track."""

    file: str
    track: str
    """Its id in a feature file; the path of an audio file."""
    probabilities: Mapping[str, float]
    """By class, the most likely first; empty where the model tells no classes apart."""
    values: Mapping[str, float]
    """By target, in the label's own unit."""
    num_windows: int = 1
    """Windows of a song that were listened to."""
    left_out: tuple[str, ...] = ()
    """Why windows of a song were passed over, one reason each."""


@dataclass(frozen=True, slots=True)
class Unusable:
    """A track of which nothing can be said, and why."""

    file: str
    track: str
    reason: str


@dataclass(frozen=True, slots=True)
class Inputs:
    """What people named, told apart."""

    feature_files: tuple[Path, ...]
    audio: tuple[Path, ...]
    unusable: tuple[Unusable, ...]


def find_inputs(paths: Sequence[Path]) -> Inputs:
    """Sort files by their suffix, and take the audio out of folders and what is below them."""
    feature_files: list[Path] = []
    audio: list[Path] = []
    unusable: list[Unusable] = []
    for path in paths:
        if path.is_dir():
            found = [file for file in find_files(path) if file.suffix.lower() in AUDIO_SUFFIXES + UNREADABLE_SUFFIXES]
            audio += found
            if not found:
                unusable.append(_unusable(path, f"no audio in it ({', '.join(AUDIO_SUFFIXES)})"))
        elif path.suffix.lower() in FEATURE_FILE_SUFFIXES:
            feature_files.append(path)
        else:
            audio.append(path)
    return Inputs(tuple(feature_files), tuple(audio), tuple(unusable))


class Predictor:
    """A saved model, ready to be asked.

    Args:
        saved: the model.
        source: where it came from, for errors.
        device: where it runs.
        batch_size: windows that it looks at together, >= 1.

    Raises:
        ModelError: if its weights do not fit it.
    """

    def __init__(
        self, saved: SavedModel, *, source: str = "model", device: str = "cpu", batch_size: int = EVAL_BATCH_SIZE
    ) -> None:
        self.saved = saved
        self.source = source
        self.device = device
        self.batch_size = batch_size
        self.model = saved.build().to(device)
        self.task = saved.task

    def of_audio(self, files: Iterable[Path]) -> Iterator[Prediction | Unusable]:
        """Listen to audio files, a batch of windows in memory at a time.

        A song that is longer than the clips of the training is cut into windows of their length, spread evenly from
        its start to its end, and what the model says of them is combined. Files are refused for the reasons that
        `data prepare` has.

        Raises:
            ModelError: at once, if the model's features cannot be computed from audio.
        """
        try:
            reader = reader_by({name: self.saved.feature_settings[name] for name in self.saved.config.features})
        except DataError as error:
            raise ModelError(f"{self.source}: {error}") from None
        return self._of_songs(reader, files)

    def of_feature_file(self, path: Path, split: SplitChoice = "all") -> Iterator[Prediction | Unusable]:
        """Look at the tracks of a feature file in its order, whether they are labelled or not.

        Raises:
            DataError: at once, if the file cannot be used, its features were computed in another way than the model's,
                or it has no track of the split.
        """
        info, columns = read_info(path), read_all_columns(path)
        for place, name in enumerate(self.saved.config.features):
            feature = info.feature(name)
            where = f"{path}: features/{name}"
            require_same(feature.settings, self.saved.feature_settings[name], where=where)
            if (bins := len(self.saved.normalisers[place].mean_F)) != feature.shape[2]:
                raise DataError(f"{where}: expected {bins} bins, got {feature.shape[2]}")
            if feature.shape[1] != info.feature(self.saved.config.features[0]).shape[1]:
                raise DataError(f"{where}: expected as many frames as {self.saved.config.features[0]}, to join them")
        wanted = np.ones(info.num_tracks, bool) if split == "all" else columns.split == SPLITS[split]
        if not wanted.any():
            raise DataError(f"{path}: split: no track of the {split} split")
        return self._of_rows(info, columns, np.flatnonzero(wanted))

    def _of_songs(self, reader: AudioReader, files: Iterable[Path]) -> Iterator[Prediction | Unusable]:
        waiting: list[_Song] = []
        for file in files:
            try:
                waiting.append(_read_song(reader, file))
            except TrackError as error:
                yield _unusable(file, str(error))
            except Exception as error:  # one odd file of a folder must not cost the others
                yield _unusable(file, f"unexpected: {type(error).__name__}: {error}")
            if sum(len(song.windows) for song in waiting) >= self.batch_size:
                yield from self._judge_songs(waiting)
                waiting = []
        if waiting:
            yield from self._judge_songs(waiting)

    def _judge_songs(self, songs: Sequence[_Song]) -> Iterator[Prediction | Unusable]:
        windows = [window for song in songs for window in song.windows]
        names = self.saved.config.features
        lengths_N = torch.tensor([len(window[names[0]]) for window in windows])
        levels = [_stacked([window[name] for window in windows]) for name in names]
        scaled = [(levels_NTF, 1.0, 0.0) for levels_NTF in levels]
        outputs_NCK = self._outputs(scaled, lengths_N)
        start = 0
        for song in songs:
            of_song_CK = outputs_NCK[start : start + len(song.windows)].flatten(0, 1)
            start += len(song.windows)
            (found,) = self._say(of_song_CK[None], song.file, [song.file])
            if isinstance(found, Prediction):
                found = _with_windows(found, song)
            yield found

    def _of_rows(self, info: FileInfo, columns: Columns, rows: Any) -> Iterator[Prediction | Unusable]:
        names = self.saved.config.features
        lengths = columns.lengths[names[0]].clip(1, info.feature(names[0]).shape[1])
        for start in range(0, len(rows), self.batch_size):
            block = rows[start : start + self.batch_size]
            scaled = []
            for name in names:
                feature = info.feature(name)
                levels_NTF = np.concatenate(list(read_feature_blocks(info.path, feature, block)))
                scaled.append((torch.from_numpy(levels_NTF), feature.scale, feature.offset))
            outputs_NCK = self._outputs(scaled, torch.from_numpy(lengths[block].astype(np.int64)))
            yield from self._say(outputs_NCK, info.path, [columns.track_ids[row] for row in block])

    def _outputs(self, scaled: Sequence[tuple[Tensor, float, float]], lengths_N: Tensor) -> Tensor:
        """Outputs (N, C, K) of levels with their scales and offsets, one of each feature set."""
        num_tracks = len(lengths_N)
        stores = tuple(
            LevelStore.build(levels_NTF.to(self.device), scale, offset, normaliser)
            for (levels_NTF, scale, offset), normaliser in zip(scaled, self.saved.normalisers, strict=True)
        )
        nobody = np.full(num_tracks, -1)
        no_labels = torch.full((num_tracks,), -1, device=self.device)
        split = Split("given", stores, lengths_N, no_labels, ("",) * num_tracks, nobody)
        return predict_crops(self.model, split, self._crop(split.num_frames), batch_size=self.batch_size)

    def _crop(self, num_frames: int) -> CropConfig:
        """Crops as in training; tracks that are longer than the model has ever seen are cut to what it has."""
        config, seen = self.saved.config.crop, self.saved.num_frames
        if num_frames <= seen or config.frames == seen:
            return config
        return CropConfig(frames=seen, num_eval=min(MOST_WINDOWS, math.ceil(num_frames / seen)))

    def _say(self, outputs_NCK: Tensor, file: str, tracks: Sequence[str]) -> Iterator[Prediction | Unusable]:
        outputs_NK = self.task.combine(outputs_NCK) if outputs_NCK.shape[1] > 1 else outputs_NCK[:, 0]
        reading = read_outputs(self.task, outputs_NK)
        for row, track in enumerate(tracks):
            if outputs_NK[row].isfinite().all():
                yield Prediction(file, track, reading.probabilities(row), reading.values(row))
            else:
                yield Unusable(file, track, "not finite: NaN or infinity in its features, or in what the model makes")


@dataclass(frozen=True)
class _Song:
    """The windows of an audio file that could be read."""

    file: str
    windows: tuple[Mapping[str, Frames], ...]
    left_out: tuple[str, ...]


def _read_song(reader: AudioReader, file: Path) -> _Song:
    if file.suffix.lower() in UNREADABLE_SUFFIXES:
        raise TrackError(f"cannot be decoded: {file.suffix} has to be converted first, to flac or wav say")
    track = Track(str(file), str(file), "unused")
    windows: list[Mapping[str, Frames]] = []
    left_out: list[str] = []
    for offset in window_starts(duration(file), reader.settings.seconds):
        try:
            windows.append(reader.read(track, offset=offset))
        except TrackError as error:
            left_out.append(str(error))
    if not windows:
        raise TrackError(left_out[0])
    return _Song(str(file), tuple(windows), tuple(left_out))


def window_starts(seconds: float, window: float) -> list[float]:
    """Where windows of a song begin, in seconds: as many as cover it, at most 20, from its start to its end."""
    count = min(MOST_WINDOWS, max(1, math.ceil(seconds / window - SLACK)))
    return [(seconds - window) * place / (count - 1) for place in range(count)] if count > 1 else [0.0]


def _with_windows(found: Prediction, song: _Song) -> Prediction:
    return Prediction(found.file, found.track, found.probabilities, found.values, len(song.windows), song.left_out)


def _stacked(frames: Sequence[Frames]) -> Tensor:
    """(N, T, F) float32, padded with 0 to the longest."""
    return torch.nn.utils.rnn.pad_sequence([torch.from_numpy(frames_TF) for frames_TF in frames], batch_first=True)


def _unusable(path: Path, reason: str) -> Unusable:
    return Unusable(str(path), str(path), reason)
