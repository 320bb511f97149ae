"""The demo music: splits, targets, determinism, and that it sounds like what was planned."""

import dataclasses
import pickle
from collections import Counter

import numpy as np
import pytest

from fmasearch.corpora.demo import GENRES, PROFILES, DemoProfile, DemoTrack, plan_tracks, render, render_block
from fmasearch.corpora.demo.instruments import INSTRUMENTS, Samples, note
from fmasearch.corpora.demo.plan import split_of
from fmasearch.corpora.demo.styles import BASS_LINES, CHORDS, COMPS, MAJORNESS

TINY = PROFILES["tiny"]


@pytest.fixture(scope="module")
def tracks() -> list[DemoTrack]:
    return plan_tracks(TINY, seed=0)


def test_the_tiny_profile_has_240_tracks_and_the_demo_2400(tracks: list[DemoTrack]) -> None:
    assert len(tracks) == 240  # 10 genres x 6 artists x 4 tracks
    demo = PROFILES["demo"]
    assert len(GENRES) * demo.num_artists * demo.tracks_per_artist == 2400
    assert demo.num_samples == 66_150  # 6 s at 11,025 Hz


def test_no_artist_is_in_two_splits(tracks: list[DemoTrack]) -> None:
    assert len({t.artist_id for t in tracks}) == 60
    assert len({(t.artist_id, t.split) for t in tracks}) == 60


def test_every_genre_is_in_every_split(tracks: list[DemoTrack]) -> None:
    assert {(t.genre, t.split) for t in tracks} == {(g, s) for g in range(10) for s in (0, 1, 2)}


@pytest.mark.parametrize(("num_artists", "expected"), [(24, (14, 5, 5)), (6, (4, 1, 1)), (3, (1, 1, 1))])
def test_artists_are_split_60_20_20(num_artists: int, expected: tuple[int, int, int]) -> None:
    counts = Counter(split_of(artist, num_artists) for artist in range(num_artists))
    assert (counts[0], counts[1], counts[2]) == expected


def test_track_names_are_unique_and_do_not_give_the_label_away(tracks: list[DemoTrack]) -> None:
    assert len({t.track_id for t in tracks}) == 240
    assert not any(genre.name.lower() in t.track_id for t in tracks for genre in GENRES)


def test_targets_spread_over_zero_to_one(tracks: list[DemoTrack]) -> None:
    for name in ("valence", "energy", "danceability"):
        values = np.array([getattr(t, name) for t in tracks])
        assert 0 <= values.min() < 0.2 < 0.8 < values.max() <= 1
        assert 0.2 < values.std() < 0.35


def test_fast_and_driven_music_is_energetic(tracks: list[DemoTrack]) -> None:
    metal = np.mean([t.energy for t in tracks if t.genre == 6])
    trip_hop = np.mean([t.energy for t in tracks if t.genre == 9])
    assert metal > 0.7 > 0.4 > trip_hop


def test_label_noise_changes_labels_and_nothing_else(tracks: list[DemoTrack]) -> None:
    noisy = plan_tracks(dataclasses.replace(TINY, label_noise=1.0), seed=0)
    changed = sum(a.genre != b.genre for a, b in zip(tracks, noisy, strict=True))
    assert changed > 180  # nine in ten random labels differ: 216 expected
    assert [t.song for t in tracks] == [t.song for t in noisy]


def test_a_track_sounds_the_same_alone_and_in_a_block(tracks: list[DemoTrack]) -> None:
    block = render_block(tracks[5:8], TINY)
    assert block.dtype == np.float32
    assert np.array_equal(block[2], render(tracks[7], TINY))


def test_a_track_does_not_depend_on_how_many_others_are_planned(tracks: list[DemoTrack]) -> None:
    more = plan_tracks(dataclasses.replace(TINY, tracks_per_artist=5), seed=0)
    songs = {t.track_id: t.song for t in more}
    assert all(songs[t.track_id] == t.song for t in tracks)


def test_another_seed_gives_other_music(tracks: list[DemoTrack]) -> None:
    other = plan_tracks(TINY, seed=1)[0]
    assert not np.array_equal(render(other, TINY), render(tracks[0], TINY))


def test_tracks_of_an_artist_share_its_fingerprint_and_nothing_else(tracks: list[DemoTrack]) -> None:
    first, second, stranger = tracks[0], tracks[1], tracks[4]
    assert first.artist == second.artist != stranger.artist
    assert first.song != second.song


def test_tracks_and_the_renderer_pickle(tracks: list[DemoTrack]) -> None:
    function, arguments = pickle.loads(pickle.dumps((render_block, (tracks[:1], TINY))))
    assert function(*arguments).shape == (1, TINY.num_samples)


def test_no_track_is_silent_clips_or_has_an_offset(tracks: list[DemoTrack]) -> None:
    audio = render_block(tracks[::12], TINY)
    assert np.isfinite(audio).all()
    assert np.abs(audio).max() < 1
    assert np.sqrt((audio**2).mean(axis=1)).min() > 0.01
    assert np.abs(audio.mean(axis=1)).max() < 1e-3
    # Every half second of every track has something in it: at least -50 dB below the track's peak.
    halves = np.abs(audio[:, : 6 * 5512].reshape(len(audio), 6, -1)).max(axis=2)
    assert (halves / np.abs(audio).max(axis=1, keepdims=True)).min() > 0.003


def test_four_on_the_floor_is_heard_at_its_tempo() -> None:
    profile = dataclasses.replace(TINY, cross=0.0, instrument_swap=0.0, pattern_noise=0.0, seconds=8.0)
    electronic = [t for t in plan_tracks(profile, seed=0) if t.track_id.startswith("02")]
    track = max(electronic, key=lambda t: t.artist.levels[2])  # the loudest drums
    onset_period = _loudness_period(render(track, profile), profile)
    beat = 60 / track.song.tempo
    assert min(abs(onset_period - beat * ratio) for ratio in (0.5, 1.0, 2.0)) < 0.03


def test_a_note_has_its_pitch_and_its_length() -> None:
    sound = note("saw", 69, 1.0, 11025)
    assert len(sound) == 11025
    assert np.argmax(np.abs(np.fft.rfft(sound))) == 440  # A4; one second makes one bin a hertz
    assert sound[-1] == 0.0


def test_every_style_names_things_that_exist() -> None:
    for genre in GENRES:
        assert {genre.sound.comp, genre.sound.lead, genre.sound.bass} <= INSTRUMENTS.keys()
        assert genre.harmony.comp in COMPS
        assert genre.harmony.bass in BASS_LINES
        chords = {c.split(":")[1] for progression in genre.harmony.progressions for c in progression.split()}
        assert chords <= CHORDS.keys() == MAJORNESS.keys()
        assert {len(p) for p in (genre.rhythm.kick, genre.rhythm.snare, genre.rhythm.hat)} == {16}


def _loudness_period(audio: Samples, profile: DemoProfile) -> float:
    """Seconds between onsets: the strongest lag in 0.2 to 1.2 s of the autocorrelated rise of loudness."""
    hop = 110  # 10 ms
    energy = np.log(1e-4 + (audio[: len(audio) // hop * hop].reshape(-1, hop) ** 2).mean(axis=1))
    rise = np.maximum(np.diff(energy), 0)
    rise -= rise.mean()
    correlation = np.correlate(rise, rise, "full")[len(rise) - 1 :]
    return float((20 + np.argmax(correlation[20:120])) * hop / profile.sample_rate)
