"""Writing a feature file in blocks: the same file as from memory, whole or not there."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from fmasearch.data import (
    Columns,
    FeatureArray,
    FeatureLayout,
    read_info,
    write_feature_file,
    writing_feature_file,
)
from prepare_helpers import contents

LEVELS = np.arange(5 * 6 * 3, dtype=np.uint8).reshape(5, 6, 3)
LENGTHS = np.array([6, 2, 6, 3, 1])
LEVELS[np.arange(6) >= LENGTHS[:, None]] = 0
SETTINGS = {"unit": "dB", "sample_rate": 22050}
COLUMNS = Columns(
    split=np.array([0, 0, 1, 2, -1]),
    track_ids=["a", "b", "c", "d", "é"],
    lengths={"mel": LENGTHS},
    classes={"genre": (["folk", "rock"], np.array([1, 0, -1, 0, 1]))},
    targets={"valence": np.array([0.5, np.nan, 0.1, 0.2, 0.3])},
    artist_ids=np.array([0, 0, 1, -1, 2]),
)
LAYOUT = FeatureLayout(6, 3, "uint8", SETTINGS, scale=0.5, offset=-80.0)


def test_blocks_make_the_same_file_as_one_array(tmp_path: Path) -> None:
    write_feature_file(
        tmp_path / "whole.h5",
        corpus="tiny",
        features={"mel": FeatureArray(LEVELS, SETTINGS, scale=0.5, offset=-80.0)},
        lengths=COLUMNS.lengths,
        classes=COLUMNS.classes,
        targets=COLUMNS.targets,
        split=COLUMNS.split,
        track_ids=COLUMNS.track_ids,
        artist_ids=COLUMNS.artist_ids,
        source="nowhere",
    )
    with writing_feature_file(
        tmp_path / "blocks.h5", corpus="tiny", features={"mel": LAYOUT}, columns=COLUMNS, source="nowhere"
    ) as file:
        for rows in (slice(0, 2), slice(2, 2), slice(2, 3)):
            file.append({"mel": LEVELS[rows]})
        file.append({"mel": LEVELS[3:, :3]})  # the last two have 3 and 1 frames: a shorter block is padded
    assert contents(tmp_path / "blocks.h5") == contents(tmp_path / "whole.h5")


def test_sources_and_licences_are_columns_that_do_not_trouble_a_reader(tmp_path: Path) -> None:
    columns = Columns(split=np.zeros(5), track_ids=list("abcde"), sources=list("vwxyz"), licences=["CC BY"] * 5)
    with writing_feature_file(tmp_path / "f.h5", corpus="tiny", features={"mel": LAYOUT}, columns=columns) as file:
        file.append({"mel": LEVELS})
    with h5py.File(tmp_path / "f.h5") as written:
        assert list(written["source"].asstr()) == list("vwxyz")
        assert list(written["licence"].asstr()) == ["CC BY"] * 5
        assert list(written["lengths/mel"]) == [6] * 5  # nobody said otherwise: every clip is full
    assert read_info(tmp_path / "f.h5").num_tracks == 5


def test_a_file_that_was_not_finished_is_not_there(tmp_path: Path) -> None:
    def write_some() -> None:
        with writing_feature_file(tmp_path / "f.h5", corpus="tiny", features={"mel": LAYOUT}, columns=COLUMNS) as file:
            file.append({"mel": LEVELS[:2]})

    with pytest.raises(AssertionError, match="2 of 5 tracks were appended"):
        write_some()
    assert list(tmp_path.iterdir()) == []
