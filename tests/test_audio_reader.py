"""The reader of audio files, on clips that are rendered and written here."""

import pickle
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray

from fmasearch.corpora.demo import PROFILES, plan_tracks, render_block
from fmasearch.errors import ConfigError, TrackError, UserError
from fmasearch.features import audio_reader
from fmasearch.features.audio_reader import FEATURES, AudioReader, AudioSettings
from fmasearch.features.beats import beat_medians, find_beats
from fmasearch.features.chroma import Chroma
from fmasearch.features.mel import LogMel, MelSettings
from fmasearch.tracks import Reader, Track

SECONDS = 3.0
RATE = 22050
TRACK = Track("1", "a/song.flac", "train")


def music(seconds: float = SECONDS) -> NDArray[np.float32]:
    profile = PROFILES["tiny"]
    clip = render_block(plan_tracks(profile, 0)[:1], profile)[0]
    return np.resize(clip, round(seconds * RATE)).astype(np.float32)  # played at another rate; music all the same


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "a").mkdir()
    soundfile.write(tmp_path / TRACK.source, music(), RATE)
    return tmp_path


def reader_of(root: Path, **settings: Any) -> AudioReader:
    return AudioReader(AudioSettings(**{"features": FEATURES, "seconds": SECONDS, **settings}), str(root))


def test_reads_what_the_features_compute_one_by_one(root: Path) -> None:
    found = reader_of(root).read(TRACK)
    samples, _ = soundfile.read(root / TRACK.source, dtype="float32")
    audio_1N = torch.from_numpy(samples)[None]
    np.testing.assert_allclose(found["mel"], LogMel(MelSettings())(audio_1N)[0].numpy(), atol=1e-4)
    np.testing.assert_allclose(found["chroma"], Chroma()(audio_1N)[0].numpy(), atol=1e-5)
    beats = find_beats(found["mel"], sample_rate=RATE, hop_length=512, n_fft=2048)
    np.testing.assert_array_equal(found["chroma_beat"], beat_medians(found["chroma"], beats))
    assert len(found["mel_beat"]) == len(found["chroma_beat"]) == len(beats) + (beats[0] > 0)


def test_beats_are_taken_in_power_and_then_to_decibels(root: Path) -> None:
    found = reader_of(root).read(TRACK)
    samples, _ = soundfile.read(root / TRACK.source, dtype="float32")
    log_mel = LogMel(MelSettings())
    power_TF = log_mel.mel_spectrogram(torch.from_numpy(samples)).T.numpy()
    beats = find_beats(found["mel"], sample_rate=RATE, hop_length=512, n_fft=2048)
    power = beat_medians(power_TF, beats)
    by_hand = np.maximum(10 * np.log10(np.maximum(power, 1e-10) / power.max()), -80)
    np.testing.assert_allclose(found["mel_beat"], by_hand, atol=1e-3)
    assert found["mel_beat"].max() == 0.0


def test_what_is_read_is_what_was_announced(root: Path) -> None:
    reader: Reader = reader_of(root)
    found = reader.read(TRACK)
    assert tuple(found) == tuple(spec.name for spec in reader.features) == FEATURES
    for spec in reader.features:
        values = found[spec.name]
        assert values.dtype == np.float32
        assert values.flags.c_contiguous
        assert values.shape == (spec.max_frames or len(values), spec.num_bins)
        assert spec.low <= values.min()
        assert values.max() <= spec.high
    assert [spec.max_frames for spec in reader.features] == [130, 130, None, None]  # 3 * 22050 // 512 + 1


@pytest.mark.parametrize("name", FEATURES)
def test_a_feature_alone_is_the_same_as_among_others(root: Path, name: str) -> None:
    alone = reader_of(root, features=(name,)).read(TRACK)
    assert list(alone) == [name]
    np.testing.assert_array_equal(alone[name], reader_of(root).read(TRACK)[name])


def test_long_files_are_cut_and_shorter_ones_keep_their_length(root: Path) -> None:
    soundfile.write(root / "short.flac", music(3.0), 44100)  # 1.5 s at that rate
    reader = reader_of(root, features=("mel", "chroma"), seconds=2.0)
    assert {len(values) for values in reader.read(TRACK).values()} == {87}  # 2 * 22050 // 512 + 1
    assert {len(values) for values in reader.read(Track("2", "short.flac", "val")).values()} == {
        65
    }  # 1.5 * 22050 // 512 + 1


def test_a_file_is_opened_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Any] = []
    original = soundfile.SoundFile
    monkeypatch.setattr(soundfile, "SoundFile", lambda path: opened.append(path) or original(path))
    reader_of(root).read(TRACK)
    assert opened == [root / TRACK.source]


def test_a_third_of_the_length_is_the_least_unless_told(root: Path) -> None:
    with pytest.raises(TrackError, match=r"^too short: 3\.0 s of 10 s$"):
        reader_of(root, seconds=10.0).read(TRACK)  # 3.3 s are a third
    assert len(reader_of(root, seconds=10.0, min_seconds=2.0, features=("mel",)).read(TRACK)["mel"]) == 130
    assert AudioSettings().shortest == 10.0  # FMA: 0 to 6.6 s go, 27.4 s stay


def test_silence_and_clipping_are_settings(root: Path) -> None:
    with pytest.raises(TrackError, match=r"^silent"):
        reader_of(root, silence_db=0.0).read(TRACK)
    soundfile.write(root / "loud.flac", np.sign(music()), RATE)
    loud = Track("2", "loud.flac", "train")
    with pytest.raises(TrackError, match=r"^clipped: "):
        reader_of(root).read(loud)
    assert reader_of(root, max_clipped=1.0, features=("mel",)).read(loud)["mel"].max() == 0.0


def test_it_pickles_small_and_reads_the_same_afterwards(root: Path) -> None:
    reader = reader_of(root, features=("mel", "chroma"))
    before = reader.read(TRACK)
    pickled = pickle.dumps(reader)
    assert len(pickled) < 1000  # settings, no filters
    after = pickle.loads(pickled).read(TRACK)
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_settings_fit_into_the_attributes_of_a_file(root: Path, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "attrs.h5", "w") as file:
        for spec in reader_of(root).features:
            file.create_group(spec.name).attrs.update(dict(spec.settings))
        assert file["mel"].attrs["seconds"] == SECONDS
        assert file["chroma"].attrs["frame_rate"] == pytest.approx(43.066, abs=1e-3)  # 22050 / 512
        assert "frame_rate" not in file["mel_beat"].attrs  # frames last as long as their beat
        assert file["chroma_beat"].attrs["per_frame"] == "median of a beat"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"features": ()}, "features: expected some of mel, chroma.*got none"),
        ({"features": ("mel", "mfcc")}, "features: .*got mel, mfcc"),
        ({"features": ("mel", "mel")}, "each once"),
        ({"seconds": 0.0}, "seconds: expected more than 0"),
        ({"min_seconds": 31.0}, r"min_seconds: expected 0 to seconds \(30\), got 31"),
        ({"silence_db": 3.0}, "silence_db: expected 0 or less"),
        ({"max_clipped": 12.0}, "max_clipped: expected a share"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AudioSettings(**settings)


def test_beats_without_librosa_fail_before_anything_is_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> None:
        raise UserError("pip install")

    monkeypatch.setattr(audio_reader, "require_beat_tracker", absent)
    with pytest.raises(UserError, match="pip install"):
        reader_of(root, features=("mel_beat",))
    assert "mel" in reader_of(root, features=("mel",)).read(TRACK)  # who wants no beats needs none


@pytest.mark.gpu
def test_the_gpu_gives_the_same_features(root: Path) -> None:
    settings = AudioSettings(features=("mel", "chroma"), seconds=SECONDS)
    on_gpu = AudioReader(settings, root, device="cuda").read(TRACK)
    for name, values in AudioReader(settings, root).read(TRACK).items():
        np.testing.assert_allclose(on_gpu[name], values, atol=2e-3)
