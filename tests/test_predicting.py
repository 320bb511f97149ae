"""Predicting: equal to the trainer's on a feature file, equal to the file's on audio, and nothing stops a folder."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from conftest import make_config, make_feature_file
from corpora_helpers import make_fma
from fmasearch.config import TrainConfig
from fmasearch.corpora.fma import read_fma
from fmasearch.data import DataSpec, FeatureArray, open_dataset, open_split, read_info, write_feature_file
from fmasearch.errors import DataError, ModelError
from fmasearch.features.audio import decode, duration
from fmasearch.features.audio_reader import AudioReader, AudioSettings
from fmasearch.features.mel import MelSettings
from fmasearch.model_file import SavedModel
from fmasearch.predicting import Prediction, Predictor, Unusable, find_inputs, window_starts
from fmasearch.prepare import prepare_corpus
from fmasearch.tasks.reading import read_outputs
from fmasearch.trainer import Trainer, predict

RATE = 22050
MULTITASK = {"multitask": {"genre": "genre", "emotion": ["valence"]}}


def model_of(file: Path, config: TrainConfig) -> SavedModel:
    """Trained for one epoch."""
    label, targets = config.task.label, config.task.targets
    dataset = open_dataset(DataSpec.of(file, features=config.features, label=label, targets=targets))
    trainer = Trainer(config, dataset)
    next(trainer.epochs())
    info = read_info(file)
    return SavedModel(
        config=config,
        weights=trainer.model.state_dict(),
        class_names=dataset.class_names,
        normalisers=dataset.normalisers,
        input_dim=dataset.input_dim,
        num_frames=trainer.num_frames,
        feature_settings={name: info.feature(name).settings for name in config.features},
        data={},
        versions={},
        targets=dataset.targets,
    )


@dataclass(frozen=True)
class Heard:
    """Rendered music, the feature file that `data prepare` made of it, and a model of that."""

    audio: Path
    file: Path
    model: SavedModel

    def song(self, number: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
        """Two seconds of FMA's track `number`."""
        path = next(self.audio.rglob(f"{number:06d}.*"))
        sound: np.ndarray[tuple[int], np.dtype[np.float32]] = soundfile.read(path, dtype="float32")[0]
        return sound


@pytest.fixture(scope="module")
def heard(tmp_path_factory: pytest.TempPathFactory) -> Heard:
    folder = tmp_path_factory.mktemp("heard")
    fma = make_fma(folder / "fma", tracks=24)
    mel = MelSettings(sample_rate=RATE, n_fft=1024, hop_length=512, n_mels=32)
    reader = AudioReader(AudioSettings(mel=mel, features=("mel", "chroma"), seconds=2.0), fma.audio)
    corpus = read_fma(fma.audio, fma.metadata, subset="small")
    prepare_corpus(corpus, reader, folder / "fma.h5", dtype="float16", workers=0)
    config = make_config(
        "stats", features=["mel", "chroma"], task=MULTITASK, crop={"frames": 40, "num_eval": 3}, model={"dropout": 0.0}
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FMASEARCH_CACHE", str(folder / "cache"))
        return Heard(fma.audio, folder / "fma.h5", model_of(folder / "fma.h5", config))


def predictions(found: object) -> list[Prediction]:
    assert isinstance(found, list)
    assert all(isinstance(each, Prediction) for each in found), found
    return found


@pytest.mark.parametrize("crop", [{}, {"frames": 10, "num_eval": 3}])
def test_a_track_of_a_feature_file_gets_what_the_trainer_predicts(tmp_path: Path, crop: dict[str, int]) -> None:
    file = make_feature_file(tmp_path / "a.h5", varying_lengths=True, chroma=True, dtype="uint8")
    saved = model_of(file, make_config(features=["mel", "chroma"], task=MULTITASK, crop=crop))
    spec = DataSpec.of(file, features=("mel", "chroma"), label="genre", targets=("valence",))
    split = open_split(spec, "test", saved.normalisers)
    expected = read_outputs(saved.task, predict(saved.build(), split, saved.task, saved.config.crop))
    found = predictions(list(Predictor(saved, batch_size=3).of_feature_file(file, "test")))
    assert [each.track for each in found] == list(split.track_ids)
    for row, each in enumerate(found):
        assert each.probabilities == pytest.approx(expected.probabilities(row), abs=1e-6)
        assert each.values == pytest.approx(expected.values(row), abs=1e-6)
    assert list(found[0].probabilities.values()) == sorted(found[0].probabilities.values(), reverse=True)


def test_tracks_without_labels_are_predicted_too(tmp_path: Path) -> None:
    file = make_feature_file(tmp_path / "a.h5", unlabelled=(0, 5))
    found = list(Predictor(model_of(file, make_config())).of_feature_file(file))
    assert len(found) == 40  # 24 train, 8 val, 8 test


def test_the_audio_of_a_track_gets_what_its_features_get(heard: Heard) -> None:
    predictor = Predictor(heard.model, batch_size=5)
    by_track = {each.track: each for each in predictions(list(predictor.of_feature_file(heard.file)))}
    audio = find_inputs([heard.audio]).audio
    found = predictions(list(predictor.of_audio(audio)))
    assert len(found) == len(by_track) == 24
    for each in found:
        expected = by_track[Path(each.track).stem.lstrip("0")]
        # float16 keeps 80 dB to 0.03, which the model divides by standard deviations of about 15 dB
        assert each.probabilities == pytest.approx(expected.probabilities, abs=2e-3)
        assert each.values == pytest.approx(expected.values, abs=2e-3)
    assert len({round(each.values["valence"], 6) for each in found}) > 6  # and they are not all the same


def test_a_long_song_is_heard_in_windows_that_are_combined(heard: Heard, tmp_path: Path) -> None:
    first, second = heard.song(139)[: 2 * RATE], heard.song(413)[: 2 * RATE]
    songs = {"a": first, "b": second, "both": np.concatenate([first, second])}
    for name, sound in songs.items():
        soundfile.write(tmp_path / f"{name}.wav", sound, RATE, subtype="FLOAT")
    found = predictions(list(Predictor(heard.model).of_audio([tmp_path / f"{name}.wav" for name in songs])))
    assert [each.num_windows for each in found] == [1, 1, 2]
    for name, probability in found[2].probabilities.items():
        mean = (found[0].probabilities[name] + found[1].probabilities[name]) / 2
        assert probability == pytest.approx(mean, abs=1e-5)
    assert found[2].values["valence"] == pytest.approx((found[0].values["valence"] + found[1].values["valence"]) / 2)


def test_windows_cover_a_song_and_are_at_most_twenty() -> None:
    assert window_starts(12.0, 30.0) == [0.0]
    assert window_starts(30.02, 30.0) == [0.0]  # what an MP3 of 30 s decodes to
    assert window_starts(75.0, 30.0) == [0.0, 22.5, 45.0]  # 75 / 30 = 2.5, hence three; the last ends at 75
    hours = window_starts(7200.0, 30.0)
    assert (len(hours), hours[-1]) == (20, 7170.0)


def test_silent_windows_of_a_song_are_passed_over_and_told(heard: Heard, tmp_path: Path) -> None:
    sound = heard.song(139)[: 2 * RATE]
    soundfile.write(tmp_path / "a.wav", np.concatenate([0 * sound, sound]), RATE)
    (found,) = predictions(list(Predictor(heard.model).of_audio([tmp_path / "a.wav"])))
    assert (found.num_windows, found.left_out) == (1, ("silent: nothing above -60 dB of full scale",))


def test_what_cannot_be_read_does_not_stop_a_folder(heard: Heard, tmp_path: Path) -> None:
    sound = heard.song(139)
    soundfile.write(tmp_path / "good.ogg", sound, RATE)
    soundfile.write(tmp_path / "silent.wav", 0 * sound, RATE)
    soundfile.write(tmp_path / "short.flac", sound[:2000], RATE)
    (tmp_path / "text.mp3").write_text("no music")
    (tmp_path / "empty.wav").touch()
    (tmp_path / "phone.m4a").write_bytes(b"0")
    (tmp_path / "notes.txt").write_text("not looked at")
    found = list(Predictor(heard.model).of_audio(find_inputs([tmp_path]).audio))
    reasons = {Path(each.track).name: each.reason for each in found if isinstance(each, Unusable)}
    assert {Path(each.track).name for each in found if isinstance(each, Prediction)} == {"good.ogg"}
    assert reasons["empty.wav"] == "no audio"
    assert reasons["text.mp3"].startswith("cannot be decoded: not audio")
    assert reasons["short.flac"].startswith("too short: 0.1 s")
    assert reasons["silent.wav"].startswith("silent")
    assert "converted" in reasons["phone.m4a"]
    assert len(reasons) == 5


def test_a_track_whose_features_are_not_finite_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    file = make_feature_file(tmp_path / "a.h5")
    saved = model_of(file, make_config())
    info = read_info(file)
    mel = np.zeros((3, 24, 8), np.float16)
    mel[1, 4, 4] = np.nan
    features = {"mel": FeatureArray(mel, info.feature("mel").settings)}
    write_feature_file(
        tmp_path / "b.h5", corpus="b", features=features, split=np.full(3, -1), track_ids=["x", "y", "z"]
    )
    found = list(Predictor(saved).of_feature_file(tmp_path / "b.h5"))
    assert [type(each).__name__ for each in found] == ["Prediction", "Unusable", "Prediction"]


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("sample_rate", 22050, "sample_rate: expected 16000, found 22050"),
        ("hop_length", 256, "hop_length: expected 512, found 256"),
        ("unit", "dB of full scale", "unit: expected dB, found dB of full scale"),
        ("mel_scale", "htk", "mel_scale: expected none, found htk"),
        ("sample_rate", None, "sample_rate: expected 16000, found none"),
    ],
)
def test_a_feature_file_of_other_settings_is_refused(tmp_path: Path, key: str, value: object, words: str) -> None:
    saved = model_of(make_feature_file(tmp_path / "a.h5"), make_config())
    settings = {"sample_rate": 16_000, "hop_length": 512, "unit": "dB", key: value}
    settings = {key: value for key, value in settings.items() if value is not None}
    mel = FeatureArray(np.zeros((2, 24, 8), np.float16), settings)
    write_feature_file(tmp_path / "b.h5", corpus="b", features={"mel": mel}, split=np.zeros(2), track_ids=["x", "y"])
    with pytest.raises(DataError, match=words):
        Predictor(saved).of_feature_file(tmp_path / "b.h5")


def test_which_tracks_were_taken_is_no_reason_to_refuse_a_file(heard: Heard, tmp_path: Path) -> None:
    settings = heard.model.feature_settings
    taken = {name: {**of, "min_seconds": 0.1, "silence_db": -40.0, "seconds": 3.0} for name, of in settings.items()}
    found = list(Predictor(replace(heard.model, feature_settings=taken)).of_feature_file(heard.file, "test"))
    assert len(predictions(found)) == read_info(heard.file).split_counts["test"]


def test_a_model_of_imported_features_says_what_it_would_need_to_hear_audio(tmp_path: Path) -> None:
    saved = model_of(make_feature_file(tmp_path / "a.h5"), make_config())  # knows sample_rate, hop_length and unit
    with pytest.raises(ModelError, match=r"m\.pt: features/mel: cannot be computed .* n_fft, n_mels, f_min, f_max"):
        Predictor(saved, source="m.pt").of_audio([])


def test_a_model_of_another_front_end_does_not_hear_audio(heard: Heard) -> None:
    settings = {**heard.model.feature_settings}
    settings["mel"] = {**settings["mel"], "resampler": "another"}
    with pytest.raises(ModelError, match="resampler: expected another, found torchaudio"):
        Predictor(replace(heard.model, feature_settings=settings)).of_audio([])


def test_tracks_longer_than_a_model_has_seen_are_cut_to_what_it_has(tmp_path: Path) -> None:
    saved = model_of(make_feature_file(tmp_path / "a.h5"), make_config("ast"))  # has places for 24 frames
    file = make_feature_file(tmp_path / "long.h5", num_frames=60)
    found = predictions(list(Predictor(saved).of_feature_file(file, "test")))
    assert len(found) == 8


def test_a_split_without_tracks_is_refused(tmp_path: Path) -> None:
    file = make_feature_file(tmp_path / "a.h5")
    saved = model_of(file, make_config())
    shutil.copy(file, tmp_path / "b.h5")
    mel = FeatureArray(np.zeros((1, 24, 8), np.float16), saved.feature_settings["mel"])
    write_feature_file(tmp_path / "b.h5", corpus="b", features={"mel": mel}, split=np.zeros(1), track_ids=["x"])
    with pytest.raises(DataError, match="no track of the test split"):
        Predictor(saved).of_feature_file(tmp_path / "b.h5", "test")


def test_batches_of_any_size_give_the_same(heard: Heard) -> None:
    alone, together = (
        predictions(list(Predictor(heard.model, batch_size=size).of_feature_file(heard.file))) for size in (1, 64)
    )
    for one, other in zip(alone, together, strict=True):
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-5)
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_a_window_is_the_same_stretch_of_the_song_in_every_format(heard: Heard, tmp_path: Path, suffix: str) -> None:
    sound = np.tile(heard.song(139), 3)
    soundfile.write(tmp_path / f"a.{suffix}", sound, RATE)
    whole, window = (decode(tmp_path / f"a.{suffix}", offset=offset).samples[0] for offset in (0.0, 2.5))
    start = round(2.5 * RATE)
    assert np.allclose(whole[start : start + 1000], window[:1000], atol=1e-4)
    assert not np.allclose(whole[start + 1 : start + 1001], window[:1000], atol=1e-4)
    assert duration(tmp_path / f"a.{suffix}") == pytest.approx(len(whole) / RATE)
