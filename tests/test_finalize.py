"""The honest finish: seeds of its own, the best mean wins, the confirmed epochs are trained, the test opens once."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import CLASSES, make_config, make_feature_file, spec_of
from fmasearch import finalize
from fmasearch.config import SearchConfig, derive_seed
from fmasearch.data import DataSpec, open_dataset, open_split
from fmasearch.errors import DataError, StudyError
from fmasearch.evaluate import baseline_scores, judge
from fmasearch.finalize import confirm_starts, confirmed, leads, source_trial, train_final
from fmasearch.model_file import load_model
from fmasearch.records import (
    ConfirmRecord,
    EpochResult,
    FinalRecord,
    Objective,
    TrialRecord,
    TrialStart,
    TrialState,
)
from fmasearch.tasks.kept import KeptOutputs
from fmasearch.trainer import Trainer

OBJECTIVE = Objective("val_macro_f1", "max")
SEARCH = SearchConfig.model_validate({"confirm": {"top_k": 2, "seeds": 3}, "seed": 5})


def trial(number: int, name: str | None = None) -> TrialRecord:
    config = make_config(optimizer={"learning_rate": 1e-3 * (number + 1)}, seed=derive_seed(5, "trial", number))
    start = TrialStart(number, name or f"trial-{number:04d}", {}, config.model_dump(mode="json"), config.seed)
    return TrialRecord(start, TrialState.COMPLETED, (epoch(1, 0.5),), seconds=1.0)


def epoch(number: int, objective: float) -> EpochResult:
    """An epoch that is the best so far."""
    return EpochResult(number, {"val_macro_f1": objective}, 1e-3, 0.1, objective, objective, number)


def finished(start: TrialStart, objective: float | None, best_epoch: int = 1) -> TrialRecord:
    """A confirmation training with its best objective; None failed."""
    if objective is None:
        return TrialRecord(start, TrialState.FAILED, (), 1.0, error=f"{start.name} diverged")
    curve = tuple(epoch(number, objective * number / best_epoch) for number in range(1, best_epoch + 1))
    return TrialRecord(start, TrialState.COMPLETED, curve, 1.0)


def confirm(
    objectives: dict[str, Sequence[float | None]], objective: Objective = OBJECTIVE
) -> tuple[ConfirmRecord, ...]:
    """`confirmed` for trials with these objectives, one a seed, best trial of the search first."""
    search = SearchConfig.model_validate({"confirm": {"top_k": len(objectives), "seeds": 3}})
    starts = confirm_starts([trial(n, name) for n, name in enumerate(objectives)], search)
    flat = [value for values in objectives.values() for value in values]
    records = {start.name: finished(start, value) for start, value in zip(starts, flat, strict=True)}
    return confirmed(starts, records, objective)


def winner_of(*best_epochs: int, **config: Any) -> ConfirmRecord:
    """A winner whose seeds were best in these epochs."""
    values = make_config(**config).model_dump(mode="json")
    starts = [TrialStart(n, f"confirm-trial-0007-seed{n}", {}, values, n) for n in range(len(best_epochs))]
    curves = tuple(finished(start, 0.9, best) for start, best in zip(starts, best_epochs, strict=True))
    return ConfirmRecord("trial-0007", {}, values, curves)


def finish(spec: DataSpec, folder: Path, winner: ConfirmRecord, train_on: str = "train", **options: Any) -> FinalRecord:
    search = SearchConfig.model_validate({"seed": 5, "final": {"train_on": train_on}})
    return train_final(winner, spec, search, folder / "model.pt", folder / "final.json", **options)


# --- confirmation ------------------------------------------------------------------------------------------------


def test_the_best_configurations_are_confirmed_over_the_same_seeds() -> None:
    starts = confirm_starts([trial(4), trial(2), trial(9)], SEARCH)
    assert [source_trial(start) for start in starts] == ["trial-0004"] * 3 + ["trial-0002"] * 3
    assert [start.seed for start in starts[:3]] == [start.seed for start in starts[3:]]
    assert len({start.seed for start in starts}) == 3
    assert len({start.name for start in starts}) == 6


def test_a_confirmation_changes_the_seed_and_nothing_else() -> None:
    best = trial(4)
    for start in confirm_starts([best], SEARCH):
        assert start.config == {**best.start.config, "seed": start.seed}
        assert start.seed != best.start.seed


def test_no_confirmation_seed_was_used_in_the_search() -> None:
    searched = {derive_seed(5, "trial", number) for number in range(1000)}
    assert searched.isdisjoint(start.seed for start in confirm_starts([trial(0)], SEARCH))


def test_fewer_trials_than_top_k_are_all_confirmed() -> None:
    assert len(confirm_starts([trial(0)], SEARCH)) == 3
    assert confirm_starts([], SEARCH) == ()


@pytest.mark.parametrize("name", ["trial-0004", "C1", "confirm-seed-seed2", "a-seed0-b"])
def test_a_confirmation_names_the_trial_it_repeats(name: str) -> None:
    starts = confirm_starts([trial(0, name)], SEARCH)
    assert {source_trial(start) for start in starts} == {name}


def test_the_best_mean_wins_and_not_the_luckiest_seed() -> None:
    ranked = confirm({"lucky": [0.9, 0.3, 0.3], "steady": [0.6, 0.6, 0.6], "weak": [0.2, 0.2, 0.2]})
    assert [record.trial for record in ranked] == ["steady", "lucky", "weak"]
    assert [record.mean for record in ranked] == pytest.approx([0.6, 0.5, 0.2])
    # Deviations from 0.5 are 0.4, -0.2, -0.2: sqrt(0.24 / 2)
    assert [record.std for record in ranked] == pytest.approx([0.0, math.sqrt(0.12), 0.0])


def test_the_lowest_mean_wins_where_lower_is_better() -> None:
    ranked = confirm({"a": [0.9] * 3, "b": [0.1] * 3}, Objective("val_loss", "min"))
    assert [record.trial for record in ranked] == ["b", "a"]


def test_a_configuration_that_failed_under_a_seed_comes_after_all_that_did_not() -> None:
    ranked = confirm({"brittle": [0.9, None, 0.9], "dead": [None, None, None], "solid": [0.4, 0.4, 0.4]})
    assert [record.trial for record in ranked] == ["solid", "brittle"]  # nothing is left of the dead one
    assert ranked[1].objectives == (0.9, 0.9)


def test_a_confirmation_in_which_everything_failed_is_an_error() -> None:
    with pytest.raises(StudyError, match=r"every retraining failed: .*confirm-a-seed\d diverged"):
        confirm({"a": [None, None, None]})


# --- who is ahead ------------------------------------------------------------------------------------------------


def keep(folder: Path, name: str, num_right: int, *, artists: bool = False, num_tracks: int = 400) -> None:
    """Outputs of a training that has its first `num_right` tracks right; four classes take turns."""
    classes_N = torch.arange(num_tracks) % 4
    said_N = torch.where(torch.arange(num_tracks) < num_right, classes_N, (classes_N + 1) % 4)
    artist_ids_N = np.arange(num_tracks) // 2 if artists else np.full(num_tracks, -1)
    kept = KeptOutputs(torch.nn.functional.one_hot(said_N, 4).float(), classes_N, artist_ids_N, CLASSES)
    (folder / f"{name}.npz").write_bytes(kept.to_bytes())


def kept_confirmation(folder: Path, num_right: dict[str, Sequence[int]], **options: Any) -> tuple[ConfirmRecord, ...]:
    """A confirmation whose trainings have so many of 400 tracks right, one number a seed."""
    confirmation = confirm({name: [right / 400 for right in each] for name, each in num_right.items()})
    for record in confirmation:
        for curve, right in zip(record.curves, num_right[record.trial], strict=True):
            keep(folder, curve.name, right, **options)
    return confirmation


def test_a_lead_that_tracks_or_seeds_may_have_made_is_not_clear(tmp_path: Path) -> None:
    (close,) = leads(kept_confirmation(tmp_path, {"a": [240, 241, 245], "b": [238, 244, 239]}), tmp_path)
    assert (close.trial, close.other, close.num_tracks, close.num_seeds) == ("a", "b", 400, (3, 3))
    assert not close.is_clear
    assert close.difference is not None
    assert close.difference.value == pytest.approx(5 / 3 / 400, abs=1e-3)  # F1 of such even classes is accuracy


def test_a_lead_that_outlasts_both_is_clear(tmp_path: Path) -> None:
    (far,) = leads(kept_confirmation(tmp_path, {"a": [300, 305, 303], "b": [200, 203, 198]}), tmp_path)
    assert far.is_clear
    assert far.difference is not None
    assert far.difference.low == pytest.approx(0.2, abs=0.02)  # 102 of 400 tracks, give or take two deviations of 9
    assert far.difference.high == pytest.approx(0.3, abs=0.02)


def test_seeds_that_disagree_take_a_lead_away(tmp_path: Path) -> None:
    """The same mean lead as above, from one lucky seed of three."""
    (lucky,) = leads(kept_confirmation(tmp_path, {"a": [400, 210, 298], "b": [200, 203, 198]}), tmp_path)
    assert lucky.difference is not None
    assert lucky.difference.high - lucky.difference.low > 0.15
    assert lucky.difference.low < 0.1


def test_the_best_is_compared_with_every_other_and_artists_are_drawn_where_known(tmp_path: Path) -> None:
    numbers = {"a": [300, 300, 300], "b": [250, 250, 250], "c": [200, 200, 200]}
    found = leads(kept_confirmation(tmp_path, numbers, artists=True), tmp_path)
    assert [(lead.trial, lead.other, lead.resampled_by) for lead in found] == [
        ("a", "b", "artist"),
        ("a", "c", "artist"),
    ]


def test_one_configuration_alone_has_no_lead(tmp_path: Path) -> None:
    assert leads(kept_confirmation(tmp_path, {"a": [1, 1, 1]}), tmp_path) == ()


def test_outputs_that_were_not_kept_cost_the_comparison_alone(tmp_path: Path) -> None:
    """As of a study that an earlier version confirmed."""
    confirmation = kept_confirmation(tmp_path, {"a": [3, 3, 3], "b": [2, 2, 2], "c": [1, 1, 1]})
    (tmp_path / "confirm-b-seed1.npz").unlink()
    first, second = leads(confirmation, tmp_path)
    assert first.difference is None
    assert first.reason == "what confirm-b-seed1 said of the validation tracks was not kept"
    assert second.difference is not None
    (tmp_path / "confirm-a-seed0.npz").write_bytes(b"cut off")
    assert [lead.difference for lead in leads(confirmation, tmp_path)] == [None, None]


def test_a_failed_seed_is_left_out(tmp_path: Path) -> None:
    confirmation = confirm({"a": [0.6, 0.6, 0.6], "b": [0.5, None, 0.5]})
    for name in (f"confirm-{trial}-seed{seed}" for trial in "ab" for seed in range(3)):
        keep(tmp_path, name, 100)
    (tmp_path / "confirm-b-seed1.npz").unlink()
    assert leads(confirmation, tmp_path)[0].num_seeds == (3, 2)


def test_other_validation_tracks_are_not_compared(tmp_path: Path) -> None:
    confirmation = kept_confirmation(tmp_path, {"a": [3, 3, 3], "b": [2, 2, 2]})
    for seed in range(3):
        keep(tmp_path, f"confirm-b-seed{seed}", 2, num_tracks=300)
    assert leads(confirmation, tmp_path)[0].reason == "they were validated on different tracks"


# --- final training ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("best_epochs", "epochs"), [((3,), 3), ((1, 2, 4), 2), ((2, 3), 2), ((3, 4), 4), ((1, 1), 1)])
def test_the_winner_is_trained_for_the_median_of_its_best_epochs(
    feature_file: Path, tmp_path: Path, best_epochs: tuple[int, ...], epochs: int
) -> None:
    heard: list[int] = []
    winner = winner_of(*best_epochs, trainer={"max_epochs": 9})
    record = finish(spec_of(feature_file), tmp_path, winner, on_epoch=lambda result: heard.append(result.epoch))
    assert record.epochs == epochs
    assert [result.epoch for result in record.curve] == heard == list(range(1, epochs + 1))


def test_patience_does_not_shorten_the_final_training(feature_file: Path, tmp_path: Path) -> None:
    # A rate of 1e-12 learns nothing, so that a patience of one would end it after an epoch or two.
    winner = winner_of(8, optimizer={"learning_rate": 1e-12}, trainer={"max_epochs": 9, "patience": 1})
    assert len(finish(spec_of(feature_file), tmp_path, winner).curve) == 8


def test_the_schedule_keeps_the_horizon_of_the_search(feature_file: Path, tmp_path: Path) -> None:
    winner = winner_of(2, scheduler={"name": "cosine"}, trainer={"max_epochs": 4})
    rates = [result.learning_rate / 5e-3 for result in finish(spec_of(feature_file), tmp_path, winner).curve]
    assert rates == pytest.approx([1.0, (1 + math.sqrt(0.5)) / 2])  # cosine over 4 epochs; over 2 it would be 1, 1/2


@pytest.mark.parametrize(("train_on", "num_tracks"), [("train", 24), ("train+val", 24 + 8)])
def test_the_winner_is_trained_on_what_was_asked_for(
    feature_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, train_on: str, num_tracks: int
) -> None:
    trainers: list[Trainer] = []

    def spy(*args: Any, **options: Any) -> Trainer:
        trainers.append(Trainer(*args, **options))
        return trainers[-1]

    monkeypatch.setattr(finalize, "Trainer", spy)
    record = finish(spec_of(feature_file), tmp_path, winner_of(2), train_on)
    assert [len(trainer.dataset.train) for trainer in trainers] == [num_tracks]
    assert record.trained_on == train_on
    assert set(record.validation) == ({f"val_{name}" for name in SCORES} if train_on == "train" else set())


SCORES = ("loss", "accuracy", "balanced_accuracy", "macro_f1", "weighted_f1", "micro_f1")


def test_the_final_training_has_a_seed_of_its_own(feature_file: Path, tmp_path: Path) -> None:
    record = finish(spec_of(feature_file), tmp_path, winner_of(1))
    others = {start.seed for start in confirm_starts([trial(0)], SEARCH)} | {trial(n).start.seed for n in range(1000)}
    assert record.config["seed"] == derive_seed(5, "final")
    assert record.config["seed"] not in others


def test_a_final_training_can_be_repeated(feature_file: Path, tmp_path: Path) -> None:
    records = []
    for name, seed in (("first", 1), ("second", 2)):
        torch.manual_seed(seed)  # must not matter
        records.append(finish(spec_of(feature_file), tmp_path / name, winner_of(2)))
    assert records[0].test == records[1].test
    assert records[0].curve[-1].metrics == records[1].curve[-1].metrics


def test_the_global_random_state_is_left_as_it_was(feature_file: Path, tmp_path: Path) -> None:
    torch.manual_seed(1234)  # and not the seed that a test before this one may have left
    before = torch.get_rng_state()
    finish(spec_of(feature_file), tmp_path, winner_of(1))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_test_split_opens_once_and_after_the_model_is_saved(
    feature_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[tuple[str, bool]] = []

    def spy(spec: DataSpec, split: Any, *args: Any, **options: Any) -> Any:
        opened.append((split, (tmp_path / "model.pt").exists()))
        return open_split(spec, split, *args, **options)

    monkeypatch.setattr(finalize, "open_split", spy)
    finish(spec_of(feature_file), tmp_path, winner_of(2))
    assert opened == [("test", True)]


def test_a_tested_study_is_not_tested_again(feature_file: Path, tmp_path: Path) -> None:
    spec = spec_of(feature_file)
    first = finish(spec, tmp_path, winner_of(2))
    feature_file.unlink()  # nothing can be opened any more
    model = (tmp_path / "model.pt").read_bytes()
    assert finish(spec, tmp_path, winner_of(3)) == first
    assert (tmp_path / "model.pt").read_bytes() == model


def test_an_interrupted_test_is_taken_up_again(tmp_path: Path) -> None:
    spec = spec_of(make_feature_file(tmp_path / "a.h5", tracks=(24, 8, 0)))
    with pytest.raises(DataError, match=r"\(test\), got none"):
        finish(spec, tmp_path, winner_of(1))
    assert not (tmp_path / "final.json").exists()
    assert finish(spec_of(make_feature_file(tmp_path / "b.h5")), tmp_path, winner_of(1)).test.num_tracks == 8


@pytest.mark.parametrize("train_on", ["train", "train+val"])
def test_the_saved_model_reproduces_the_test(tmp_path: Path, train_on: str) -> None:
    path = make_feature_file(tmp_path / "a.h5", contrast=3.0, varying_lengths=True, dtype="uint8", chroma=True)
    spec = spec_of(path, "mel", "chroma")
    winner = winner_of(3, features=["mel", "chroma"])
    record = finish(spec, tmp_path, winner, train_on, versions={"torch": torch.__version__})
    saved = load_model(record.model_file)
    test = open_split(spec, "test", saved.normalisers)
    baseline = baseline_scores(saved.task, test, majority_class=0)
    assert judge(saved.build(), test, saved.task, baseline=baseline) == record.test
    assert saved.class_names == CLASSES
    assert saved.data == {"path": str(path), "sha256": spec.sha256}
    assert saved.feature_settings["mel"] == {"sample_rate": 16_000, "hop_length": 512, "unit": "dB"}


def test_crops_and_averaged_weights_are_tested_as_they_are_saved(tmp_path: Path) -> None:
    spec = spec_of(make_feature_file(tmp_path / "a.h5", contrast=3.0, varying_lengths=True))
    recipe = {"crop": {"frames": 10, "num_eval": 3}, "trainer": {"ema_decay": 0.9}}
    record = finish(spec, tmp_path, winner_of(3, **recipe))
    saved = load_model(record.model_file)
    test = open_split(spec, "test", saved.normalisers)
    assert saved.num_frames == 10
    baseline = baseline_scores(saved.task, test, majority_class=0)
    again = judge(saved.build(), test, saved.task, baseline=baseline, crop=saved.config.crop)
    assert again == record.test
    whole = judge(saved.build(), test, saved.task, baseline=baseline)
    assert whole.metrics["log_loss"] != pytest.approx(record.test.metrics["log_loss"])


def test_a_start_from_another_model_is_recorded(feature_file: Path, tmp_path: Path) -> None:
    spec = spec_of(feature_file)
    donor = finish(spec, tmp_path, winner_of(1))
    assert donor.origin is None
    (tmp_path / "heir").mkdir()
    record = finish(spec, tmp_path / "heir", winner_of(1, transfer={"init_from": donor.model_file}))
    assert record.origin is not None
    assert "100 % of the backbone" in record.origin
    assert FinalRecord.from_json(record.to_json()).origin == record.origin


def test_the_record_says_what_was_trained_and_tested(feature_file: Path, tmp_path: Path) -> None:
    record = finish(spec_of(feature_file), tmp_path, winner_of(2))
    assert (record.trial, record.test.split, record.test.num_tracks) == ("trial-0007", "test", 8)
    assert record.test.baseline["accuracy"] == 0.25  # four classes of equal size
    assert record.validation["val_macro_f1"] == record.curve[-1].objective
    weights = load_model(record.model_file).build().parameters()
    assert record.num_parameters == sum(parameter.numel() for parameter in weights)
    written = json.loads((tmp_path / "final.json").read_text(encoding="utf-8"))
    assert FinalRecord.from_json(written) == record
    del written["earlier_tests"]  # as an earlier version wrote it
    assert FinalRecord.from_json(written) == record
    assert {path.suffix for path in tmp_path.iterdir() if path.is_file()} == {".h5", ".pt", ".json"}  # and no .tmp


def test_the_model_names_its_study_and_the_record_the_tests_before_it(feature_file: Path, tmp_path: Path) -> None:
    record = finish(spec_of(feature_file), tmp_path, winner_of(1), study="mine", earlier_tests=["one", "two"])
    assert record.earlier_tests == ("one", "two")
    assert FinalRecord.from_json(json.loads((tmp_path / "final.json").read_text())) == record
    assert load_model(record.model_file).study == "mine"


def test_a_final_training_that_diverges_says_which(
    feature_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fmasearch.trainer.augment", lambda x_BTF, *_: x_BTF * math.nan)
    with pytest.raises(StudyError, match=r"final training of trial-0007: epoch 1: train_loss=nan"):
        finish(spec_of(feature_file), tmp_path, winner_of(2))
    assert not (tmp_path / "final.json").exists()


def test_what_is_standardised_for_training_is_standardised_for_the_test(feature_file: Path, tmp_path: Path) -> None:
    spec = spec_of(feature_file)
    record = finish(spec, tmp_path, winner_of(1), "train+val")
    saved, train = load_model(record.model_file).normalisers[0], open_dataset(spec).normalisers[0]
    assert torch.equal(saved.mean_F, train.mean_F)
    assert torch.equal(saved.std_F, train.std_F)
