"""Merged, dropped and small classes: counted by hand, at load time, the same in the model and on any split."""

from __future__ import annotations

import json
import pickle
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import make_config, make_feature_file, spec_of
from fmasearch.config import GenresConfig, SearchConfig, TrainConfig
from fmasearch.data import (
    DataSpec,
    FeatureArray,
    GenreMap,
    Normaliser,
    class_names,
    genre_map,
    model_shape,
    open_dataset,
    open_split,
    read_info,
    write_feature_file,
)
from fmasearch.data.cache import study_columns
from fmasearch.data.genres import resolve
from fmasearch.errors import ConfigError, DataError, SpaceError
from fmasearch.evaluate import baseline_scores, judge, majority_class
from fmasearch.finalize import train_final
from fmasearch.model_file import SavedModel, load_model, save_model
from fmasearch.preflight import check_study
from fmasearch.records import ConfirmRecord, EpochResult, TrialRecord, TrialStart, TrialState
from fmasearch.space import Space
from fmasearch.study import StudyFolder, load_plan, save_plan
from fmasearch.study.actor import TrialActor
from fmasearch.tasks import Classification
from fmasearch.tracking.mlflow_values import flatten
from fmasearch.trainer import Trainer
from study_helpers import make_job, make_plan, steps

NAMES = ("Rock", "Soundtrack", "Psych-Rock", "Blues", "Folk", "Psych-Folk", "dub")
TRAIN_COUNTS = {"Rock": 5, "Soundtrack": 9, "Psych-Rock": 2, "Blues": 1, "Folk": 2, "Psych-Folk": 2, "dub": 3}
MERGE = {"Rock": ["Rock", "Psych-Rock"], "All Folk": ["Psych-Folk", "Folk"]}


def genres(**values: Any) -> GenresConfig:
    return GenresConfig.model_validate(values)


def refusal(**values: Any) -> str:
    with pytest.raises(ConfigError) as error:
        resolve(NAMES, TRAIN_COUNTS, genres(**values), labels="labels/genre of a.h5")
    return str(error.value)


# --- the rule ----------------------------------------------------------------------------------------------------


def test_classes_are_merged_dropped_and_counted_in_this_order() -> None:
    resolved = resolve(NAMES, TRAIN_COUNTS, genres(merge=MERGE, drop=["Soundtrack"], min_tracks=3))
    # Folk and Psych-Folk have 2 tracks each and 4 together; Blues has 1; dub has just enough.
    assert resolved.names == ("All Folk", "dub", "Rock")  # d after A and before R, whatever the case
    assert resolved.codes == (2, -1, 2, -1, 0, 0, 1)
    assert resolved.dropped == (("Soundtrack", "by the study"), ("Blues", "1 training track < 3"))
    assert resolved.merged == {"All Folk": ("Folk", "Psych-Folk"), "Rock": ("Rock", "Psych-Rock")}
    assert resolved.describe() == (
        "7 -> 3 classes; merged All Folk (Folk, Psych-Folk), Rock (Rock, Psych-Rock); "
        "dropped Soundtrack (by the study), Blues (1 training track < 3)"
    )


def test_labels_follow_their_classes_and_tracks_without_one_stay_without() -> None:
    resolved = resolve(NAMES, TRAIN_COUNTS, genres(merge=MERGE, drop=["Soundtrack"], min_tracks=3))
    labels = np.array([0, 2, -1, 1, 3, 4, 5, 6])  # Rock, Psych-Rock, none, Soundtrack, Blues, Folk, Psych-Folk, dub
    assert resolved.apply(labels).tolist() == [2, 2, -1, -1, -1, 0, 0, 1]


def test_a_class_may_take_the_name_that_another_one_gives_up() -> None:
    resolved = resolve(NAMES, TRAIN_COUNTS, genres(merge={"Rock": "Psych-Rock", "Classic": ["Rock"]}))
    assert resolved.names == ("Blues", "Classic", "dub", "Folk", "Psych-Folk", "Rock", "Soundtrack")
    assert resolved.merged == {"Classic": ("Rock",), "Rock": ("Psych-Rock",)}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"drop": ["Sondtrack"]},
            "genres.drop: no class 'Sondtrack' in labels/genre of a.h5; did you mean 'Soundtrack'?",
        ),
        (
            {"merge": {"Rock": ["Rock", "Psyche-Rock"]}},
            "genres.merge.Rock: no class 'Psyche-Rock' in labels/genre of a.h5; did you mean 'Psych-Rock'?",
        ),
        (
            {"merge": {"Folk": ["Psych-Folk"]}},
            "genres.merge.Folk: labels/genre of a.h5 has a class 'Folk' of its own: list it among what is merged, or "
            "give another name",
        ),
        (
            {"drop": ["Soundtrack", "dub"], "min_tracks": 5},
            "genres: expected at least two classes to be left of labels/genre of a.h5, got 7 -> 1 classes; dropped "
            "Soundtrack (by the study), dub (by the study), Blues (1 training track < 5), Folk (2 training tracks < "
            "5), Psych-Folk (2 training tracks < 5), Psych-Rock (2 training tracks < 5)",
        ),
    ],
)
def test_what_cannot_be_done_is_said_with_key_and_reason(values: dict[str, Any], message: str) -> None:
    assert refusal(**values) == message


def test_every_unknown_class_is_a_line() -> None:
    assert [line.split(":")[0] for line in refusal(drop=["x", "y"], merge={"Z": ["z"]}).splitlines()] == [
        "genres.drop",
        "genres.drop",
        "genres.merge.Z",
    ]


# --- on a feature file: rock, jazz, folk and dub take turns in each split, 24 + 8 + 8 tracks -----------------------

LOUD = {"merge": {"loud": ["rock", "dub"]}, "drop": ["jazz"]}


def spec_with(path: Path, **values: Any) -> DataSpec:
    return DataSpec.of(path, features=("mel",), label="genre", genres=genres(**values), source="spaces/x.yaml")


def test_merged_tracks_share_a_class_and_dropped_ones_are_left_out(feature_file: Path) -> None:
    plain, dataset = open_dataset(spec_of(feature_file)), open_dataset(spec_with(feature_file, **LOUD))
    assert dataset.class_names == ("folk", "loud")
    # rock 0, jazz 1, folk 2, dub 3 in turns: without jazz it is loud, folk, loud
    assert dataset.train.targets_N.tolist() == [1, 0, 1] * 6
    kept = [track for track, code in zip(plain.train.track_ids, plain.train.targets_N, strict=True) if code != 1]
    assert list(dataset.train.track_ids) == kept
    rows = [plain.train.track_ids.index(track) for track in kept]
    picked = dataset.train.batch(torch.arange(len(kept))).x_BTF
    assert torch.equal(picked, plain.train.batch(torch.tensor(rows)).x_BTF)  # standardised as without genres


def test_no_genres_leave_the_file_as_it_is(feature_file: Path) -> None:
    assert spec_with(feature_file) == spec_of(feature_file)
    assert class_names(read_info(feature_file), "genre", genres()) == ("rock", "jazz", "folk", "dub")


def test_the_cache_is_shared_by_studies_of_other_genres(feature_file: Path, cache_dir: Path) -> None:
    open_dataset(spec_of(feature_file))
    written = {path: path.stat().st_mtime_ns for path in cache_dir.rglob("*.np?")}
    open_dataset(spec_with(feature_file, **LOUD))
    assert {path: path.stat().st_mtime_ns for path in cache_dir.rglob("*.np?")} == written


def test_only_training_tracks_are_counted(tmp_path: Path) -> None:
    # a: 3 in train; b: 1 in train and 5 elsewhere; c: 3 in train and none elsewhere
    write_labels(tmp_path / "a.h5", train="aaabccc", val="bb", test="bbba")
    info = read_info(tmp_path / "a.h5")
    assert info.labels["genre"].counts == {"a": 4, "b": 6, "c": 3}
    resolved = genre_map(info, "genre", genres(min_tracks=2))
    assert resolved is not None
    assert resolved.names == ("a", "c")
    assert resolved.dropped == (("b", "1 training track < 2"),)


def test_a_split_without_a_track_that_is_kept_is_an_error(tmp_path: Path) -> None:
    spec = spec_with(write_labels(tmp_path / "a.h5", train="aaabccc", val="bb", test="ba"), drop=["b"])
    message = r"a\.h5: labels/genre: no track of the val split is of a class that the study keeps: a, c"
    with pytest.raises(DataError, match=message):
        open_dataset(spec)


def test_errors_name_the_file_that_asks(feature_file: Path) -> None:
    with pytest.raises(ConfigError, match=r"^spaces/x\.yaml: genres\.drop: no class 'jaz' .*did you mean 'jazz'"):
        spec_with(feature_file, drop="jaz")
    space = Space.parse("task: {classification: genre}\nmodel: {architecture: cnn_gru}\ngenres: {drop: jaz}", name="x")
    with pytest.raises(SpaceError, match=r"^x: genres\.drop: no class 'jaz'"):
        check_study(space, SearchConfig(), read_info(feature_file))


def test_models_are_built_for_the_classes_that_are_left(feature_file: Path) -> None:
    config = make_config(genres=LOUD)
    assert model_shape(read_info(feature_file), config)["output_dim"] == 2


def test_class_weights_count_the_classes_of_the_study(feature_file: Path) -> None:
    config = make_config(genres=LOUD, loss={"class_weights": "balanced"})
    trainer = Trainer(config, open_dataset(spec_with(feature_file, **LOUD)))
    # 12 loud and 6 folk: weights 1/12 and 1/6 scaled to a mean of 1 a track, 18 / (2 * n)
    assert isinstance(trainer.task, Classification)
    assert trainer.task.class_weights == pytest.approx((18 / (2 * 6), 18 / (2 * 12)))


# --- a spec travels ----------------------------------------------------------------------------------------------


def test_a_spec_travels_and_stays_the_same(feature_file: Path) -> None:
    spec = spec_with(feature_file, **LOUD)
    for copy in (
        pickle.loads(pickle.dumps(spec)),
        DataSpec.from_json(asdict(spec)),
        DataSpec.from_json(json.loads(json.dumps(spec.to_json()))),
    ):
        assert copy == spec
        assert hash(copy) == hash(spec)
    assert spec != spec_of(feature_file)


def test_a_spec_of_before_there_were_genres_has_none(feature_file: Path) -> None:
    values = spec_of(feature_file).to_json()
    del values["genres"]
    assert DataSpec.from_json(values) == spec_of(feature_file)


def test_a_resumed_study_has_the_genres_it_began_with(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)  # rock, jazz and folk in turns
    plan = replace(plan, data=spec_with(Path(plan.data.path), merge={"calm": ["jazz", "folk"]}))
    save_plan(plan)
    again = load_plan(StudyFolder(plan.folder.root).root)
    assert again.data == plan.data
    assert again.hashes == plan.hashes
    plain = replace(plan, data=replace(plan.data, genres=None))
    assert plan.hashes.keys() - plain.hashes.keys() == {"fmasearch.genres_hash"}
    actor = TrialActor(make_job(again, 0, 0.01).to_config())
    assert steps(actor, 1)[0]["epoch"] == 1
    assert actor._trainer.dataset.class_names == ("calm", "rock")


# --- and is kept in the model ------------------------------------------------------------------------------------


def test_a_saved_model_judges_another_file_by_its_own_map(feature_file: Path, tmp_path: Path) -> None:
    config = make_config(genres={**LOUD, "min_tracks": 6})  # folk has just 6
    spec = DataSpec.of(feature_file, features=("mel",), label="genre", genres=config.genres)
    dataset = open_dataset(spec)
    trainer = Trainer(config, dataset)
    list(trainer.epochs())
    save_model(tmp_path / "model.pt", saved_model(trainer, spec))
    saved = load_model(tmp_path / "model.pt")
    assert (saved.class_names, saved.genres, saved.config.genres) == (("folk", "loud"), spec.genres, config.genres)
    assert saved.file_classes == ("rock", "jazz", "folk", "dub")
    other = make_feature_file(tmp_path / "other.h5", tracks=(8, 4, 12), seed=1)  # 2 training tracks of folk
    judged_spec = replace(spec_of(other), genres=saved.genres)
    test = open_split(judged_spec, "test", saved.normalisers)
    baseline = baseline_scores(saved.task, test, majority_class=majority_class(open_dataset(judged_spec)))
    report = judge(saved.build(), test, saved.task, baseline=baseline)
    assert [(row.name, row.support) for row in report.classes] == [("folk", 3), ("loud", 6)]  # 12 without 3 of jazz
    assert report.baseline["accuracy"] == pytest.approx(6 / 9)
    assert report.metrics["accuracy"] > report.baseline["accuracy"]


def test_a_model_of_before_there_were_genres_loads(feature_file: Path, tmp_path: Path) -> None:
    spec = spec_of(feature_file)
    trainer = Trainer(make_config(), open_dataset(spec))
    next(trainer.epochs())
    save_model(tmp_path / "model.pt", saved_model(trainer, spec))
    values = torch.load(tmp_path / "model.pt", weights_only=True)
    del values["genres"], values["config"]["genres"]
    torch.save(values, tmp_path / "old.pt")
    saved = load_model(tmp_path / "old.pt")
    assert saved.genres is None
    assert saved.config == trainer.config
    assert saved.file_classes == saved.class_names == ("rock", "jazz", "folk", "dub")


@pytest.mark.parametrize("train_on", ["train", "train+val"])
def test_the_final_test_is_of_the_classes_that_were_searched(feature_file: Path, tmp_path: Path, train_on: str) -> None:
    config = make_config(genres=LOUD)
    spec = DataSpec.of(feature_file, features=("mel",), label="genre", genres=config.genres)
    search = SearchConfig.model_validate({"final": {"train_on": train_on}})
    record = train_final(winner(config), spec, search, tmp_path / "model.pt", tmp_path / "final.json")
    assert [(row.name, row.support) for row in record.test.classes] == [("folk", 2), ("loud", 4)]  # 8 without 2 of jazz
    assert record.test.baseline["accuracy"] == pytest.approx(4 / 6)
    assert TrainConfig.model_validate(record.config).genres == config.genres
    saved = load_model(record.model_file)
    assert saved.genres == spec.genres
    again = open_split(replace(spec_of(feature_file), genres=saved.genres), "test", saved.normalisers)
    baseline = baseline_scores(saved.task, again, majority_class=1)
    assert judge(saved.build(), again, saved.task, baseline=baseline) == record.test


def test_columns_keep_a_row_for_every_track(feature_file: Path) -> None:
    columns = study_columns(spec_with(feature_file, **LOUD), "val")
    assert columns.labels.tolist() == [1, -1, 0, 1] * 2
    assert len(columns.rows) == len(columns.lengths) == 8  # the cached levels are of all of them


def test_mlflow_gets_the_merges_as_one_value() -> None:
    # MLflow refuses params that are named with an ampersand or a slash at the wrong place.
    assert flatten({"genres": {"merge": {"R&B / Soul": ["Soul"]}}}) == {"genres/merge": '{"R&B / Soul": ["Soul"]}'}


def test_a_map_that_names_nothing_merged_or_dropped_says_only_how_many() -> None:
    same = GenreMap(sources=("b", "a"), names=("a", "b"), codes=(1, 0))
    assert same.describe() == "2 -> 2 classes"


def write_labels(path: Path, *, train: str, val: str, test: str) -> Path:
    """A feature file of classes a, b and c, one letter a track."""
    labels = train + val + test
    split = np.repeat([0, 1, 2], [len(train), len(val), len(test)])
    write_feature_file(
        path,
        corpus="letters",
        features={"mel": FeatureArray(np.zeros((len(labels), 4, 2), np.float16))},
        classes={"genre": ("abc", np.array(["abc".index(letter) for letter in labels]))},
        split=split,
        track_ids=[f"track-{row}" for row in range(len(labels))],
    )
    return path


def saved_model(trainer: Trainer, spec: DataSpec) -> SavedModel:
    dataset = trainer.dataset
    normalisers: tuple[Normaliser, ...] = dataset.normalisers
    return SavedModel(
        config=trainer.config,
        weights=trainer.best_weights,
        class_names=dataset.class_names,
        normalisers=normalisers,
        input_dim=dataset.input_dim,
        num_frames=dataset.num_frames,
        feature_settings={},
        data={"path": spec.path, "sha256": spec.sha256},
        versions={},
        genres=spec.genres,
    )


def winner(config: TrainConfig) -> ConfirmRecord:
    """A winner that was best in its second epoch."""
    values = config.model_dump(mode="json")
    epochs = tuple(EpochResult(n, {"val_macro_f1": n / 10}, 1e-3, 0.1, n / 10, n / 10, n) for n in (1, 2))
    curve = TrialRecord(TrialStart(0, "confirm-t0000-seed0", {}, values, 0), TrialState.COMPLETED, epochs, 1.0)
    return ConfirmRecord("t0000", {}, values, (curve,))
