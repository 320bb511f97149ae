"""Judging a model: numbers are scikit-learn's, intervals resample artists, and the same model gets the same report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sklearn.metrics as sk
import torch
from torch import Tensor, nn

from conftest import CLASSES, make_dataset, make_feature_file, spec_of
from fmasearch.data import Dataset, Split, open_dataset
from fmasearch.errors import DataError
from fmasearch.evaluate import BOOTSTRAP_SEED, baseline_scores, judge, majority_class, require_classes
from fmasearch.metrics import bootstrap_intervals, bootstrap_regression, regression_scores
from fmasearch.records import TargetStats, TestReport
from fmasearch.tasks import Classification, Multitask, Part, Regression


class Answers(nn.Module):
    """Gives the answers it was made with, in order, whatever it hears; 2 is how sure it is."""

    def __init__(self, answers: list[int], num_classes: int = 4) -> None:
        super().__init__()
        self.logits_NK = 2.0 * nn.functional.one_hot(torch.tensor(answers), num_classes).float()
        self.place = 0

    def forward(self, x_BTF: Tensor, lengths_B: Tensor) -> Tensor:
        self.place += len(x_BTF)
        return self.logits_NK[self.place - len(x_BTF) : self.place]


@pytest.fixture
def train(tmp_path: Path) -> Split:
    """24 tracks, genres 0 1 2 3 0 1 2 3 ..., two tracks an artist."""
    return make_dataset(tmp_path / "a.h5").train


ANSWERS = [0, 1, 2, 2, 0, 0, 2, 1, 0, 1, 1, 0] * 2
"""Of 24 tracks; class 3 is never the answer."""


TASK = Classification(CLASSES)


def report_on(split: Split, answers: list[int] = ANSWERS) -> TestReport:
    baseline = baseline_scores(TASK, split, majority_class=0)
    return judge(Answers(answers), split, TASK, baseline=baseline, num_resamples=300)


def test_per_class_rows_are_scikit_learns_classification_report(train: Split) -> None:
    report = report_on(train)
    expected = sk.classification_report(
        train.targets_N, ANSWERS, target_names=CLASSES, output_dict=True, zero_division=0
    )
    for row in report.classes:
        assert (row.precision, row.recall, row.f1, row.support) == pytest.approx(
            tuple(expected[row.name][key] for key in ("precision", "recall", "f1-score", "support"))
        )
    assert [row.name for row in report.classes] == list(CLASSES)
    assert report.metrics["accuracy"] == pytest.approx(expected["accuracy"])
    assert report.metrics["macro_f1"] == pytest.approx(expected["macro avg"]["f1-score"])
    assert report.metrics["weighted_f1"] == pytest.approx(expected["weighted avg"]["f1-score"])
    assert report.metrics["balanced_accuracy"] == pytest.approx(expected["macro avg"]["recall"])


def test_the_confusion_matrix_is_scikit_learns(train: Split) -> None:
    report = report_on(train)
    assert np.array_equal(report.confusion, sk.confusion_matrix(train.targets_N, ANSWERS))
    assert (report.split, report.num_tracks) == ("train", 24)


def test_log_loss_is_scikit_learns(train: Split) -> None:
    probabilities = Answers(ANSWERS).logits_NK.double().softmax(1)
    assert report_on(train).metrics["log_loss"] == pytest.approx(sk.log_loss(train.targets_N, probabilities), rel=1e-6)


def test_a_class_that_is_never_predicted_scores_zero_and_says_so(train: Split) -> None:
    row = report_on(train).classes[3]
    assert (row.name, row.precision, row.recall, row.f1) == ("dub", 0.0, 0.0, 0.0)
    assert (row.support, row.predicted) == (6, 0)  # a quarter of 24 tracks


def test_a_class_that_the_split_lacks_counts_in_macro_f1(train: Split) -> None:
    three = replace(train, targets_N=train.targets_N.clamp(max=2))
    perfect = report_on(three, three.targets_N.tolist())
    assert perfect.metrics["accuracy"] == 1.0
    assert perfect.metrics["macro_f1"] == pytest.approx(3 / 4)
    assert perfect.classes[3].support == 0


def test_the_majority_baseline_always_answers_the_training_splits_largest_class(tmp_path: Path, train: Split) -> None:
    dataset = open_dataset(spec_of(make_feature_file(tmp_path / "b.h5")))
    skewed = replace(dataset.train, targets_N=torch.tensor([2] * 15 + [1] * 9))
    assert majority_class(replace(dataset, train=skewed)) == 2
    baseline = baseline_scores(TASK, train, majority_class=2)
    judged = judge(Answers(ANSWERS), train, TASK, baseline=baseline, num_resamples=10)
    # A class of four is right for 6 of 24 tracks; whole classes are right for one class of four.
    assert judged.baseline["accuracy"] == 6 / 24
    assert judged.baseline["balanced_accuracy"] == 1 / 4
    always_two = report_on(train, [2] * 24)
    assert judged.baseline == {name: always_two.metrics[name] for name in ("accuracy", "balanced_accuracy")}


def test_without_a_class_to_answer_always_there_is_no_baseline(train: Split) -> None:
    assert baseline_scores(TASK, train, majority_class=None) == {}


def test_intervals_hold_the_scores_and_are_wider_than_nothing(train: Split) -> None:
    report = report_on(train)
    of_probabilities = {"log_loss", "top_3_accuracy", "roc_auc", "ece", "brier"}
    assert set(report.intervals) == set(report.metrics) - of_probabilities
    for name, interval in report.intervals.items():
        assert interval.value == pytest.approx(report.metrics[name])
        assert 0 <= interval.low < interval.value < interval.high <= 1


def test_the_same_predictions_get_the_same_report(train: Split) -> None:
    torch.manual_seed(1)
    first = report_on(train)
    torch.manual_seed(2)
    assert report_on(train) == first


def test_whole_artists_are_resampled_where_all_are_known(train: Split) -> None:
    by_artist = report_on(train)
    assert by_artist.resampled_by == "artist"
    one_unknown = replace(train, artist_ids=np.array([-1, *train.artist_ids[1:]]))
    by_track = report_on(one_unknown)
    assert by_track.resampled_by == "track"
    assert by_track.metrics == by_artist.metrics
    assert by_track.intervals != by_artist.intervals


def test_tracks_of_one_artist_that_fail_together_widen_the_interval(train: Split) -> None:
    # Six artists of four tracks; three artists wholly right, three wholly wrong.
    artists = np.arange(24) // 4
    targets = train.targets_N.tolist()
    answers = [target if artist % 2 else (target + 1) % 4 for target, artist in zip(targets, artists, strict=True)]
    by_artist = report_on(replace(train, artist_ids=artists), answers).intervals["accuracy"]
    by_track = report_on(replace(train, artist_ids=np.full(24, -1)), answers).intervals["accuracy"]
    assert by_artist.value == by_track.value == 0.5
    # Deviations of a mean of 6 and of 24 fair coins: 0.5 / sqrt(6) = 0.20, 0.5 / sqrt(24) = 0.10.
    assert by_artist.high - by_artist.low == pytest.approx(4 * 0.20, abs=0.15)
    assert by_track.high - by_track.low == pytest.approx(4 * 0.10, abs=0.1)


def test_one_artist_alone_is_an_interval_without_width(train: Split) -> None:
    interval = report_on(replace(train, artist_ids=np.zeros(24, np.int64))).intervals["accuracy"]
    assert interval.low == interval.value == interval.high


# --- several parts ---------------------------------------------------------------------------------------------------

MOOD = Regression((TargetStats("valence", 0.0, 1.0), TargetStats("tempo", 100.0, 20.0)))
BOTH = Multitask((Part("genre", TASK, slice(0, 4), slice(0, 1)), Part("mood", MOOD, slice(4, 6), slice(1, 3))))


class Says(nn.Module):
    """Gives these outputs, in order."""

    def __init__(self, outputs_NK: Tensor) -> None:
        super().__init__()
        self.outputs_NK = outputs_NK

    def forward(self, x_BTF: Tensor, lengths_B: Tensor) -> Tensor:
        return self.outputs_NK[: len(x_BTF)]


def both_parts(train: Split) -> tuple[Split, Tensor]:
    """The tracks with numbers beside their genre, and what a model says of both."""
    generator = torch.Generator().manual_seed(0)
    numbers, noise = torch.randn(2, 24, 2, generator=generator)
    targets = torch.cat([train.targets_N[:, None].float(), numbers * torch.tensor([1.0, 20.0]) + 50], dim=1)
    return replace(train, targets_N=targets), torch.cat([Answers(ANSWERS).logits_NK, numbers + noise], dim=1)


def test_the_mean_of_a_multitask_has_an_interval_over_common_draws(train: Split) -> None:
    split, outputs = both_parts(train)
    report = judge(Says(outputs), split, BOTH, baseline={}, num_resamples=50)
    targets, values = split.targets_N[:, 1:].double().numpy(), MOOD.values(outputs[:, 4:]).double().numpy()
    generator, draws = np.random.default_rng(BOOTSTRAP_SEED), []
    for _ in range(50):
        drawn = generator.integers(12, size=12)  # two tracks of each of twelve artists
        rows = np.concatenate([[2 * artist, 2 * artist + 1] for artist in drawn])
        genres = train.targets_N.numpy()[rows]
        # What is drawn without a class is scored on the others: the macro F1 is over the classes that occur.
        f1 = sk.f1_score(genres, np.array(ANSWERS)[rows], average="macro", labels=np.unique(genres), zero_division=0)
        draws.append((f1 + regression_scores(targets[rows], values[rows], ["valence", "tempo"])["spearman"]) / 2)
    interval = report.intervals["mean"]
    assert (interval.low, interval.high) == pytest.approx(tuple(np.quantile(draws, [0.025, 0.975])))
    assert interval.value == pytest.approx(report.metrics["mean"])
    assert interval.low < interval.value < interval.high


def test_intervals_of_a_part_are_those_of_the_task_alone(train: Split) -> None:
    split, outputs = both_parts(train)
    report = judge(Says(outputs), split, BOTH, baseline={}, num_resamples=50)
    options = {"num_resamples": 50, "seed": BOOTSTRAP_SEED}
    answers, artists = np.array(ANSWERS), split.artist_ids
    classes = bootstrap_intervals(train.targets_N.numpy(), answers, artists, num_classes=4, **options)
    assert {name: report.intervals[f"genre_{name}"] for name in classes} == classes
    targets, values = split.targets_N[:, 1:].double().numpy(), MOOD.values(outputs[:, 4:]).double().numpy()
    numbers = bootstrap_regression(targets, values, artists, ["valence", "tempo"], **options)
    assert report.intervals["tempo_r2"] == numbers["tempo_r2"]
    assert report.intervals["mood_spearman"] == numbers["spearman"]


def test_a_part_without_labels_leaves_the_mean_without_an_interval(train: Split) -> None:
    split, outputs = both_parts(train)
    targets = split.targets_N.clone()
    targets[:, 0] = torch.nan
    report = judge(Says(outputs), replace(split, targets_N=targets), BOTH, baseline={}, num_resamples=20)
    assert np.isnan([report.metrics["mean"], report.intervals["mean"].low, report.intervals["mean"].high]).all()
    assert np.isfinite(report.intervals["mood_spearman"].low)


def test_a_report_survives_json(train: Split) -> None:
    report = report_on(train)
    assert TestReport.from_json(report.to_json()) == report


def test_class_names_must_be_the_models_in_its_order(dataset: Dataset) -> None:
    require_classes("a.h5", dataset.class_names, CLASSES)
    with pytest.raises(DataError, match=r"a\.h5: class names: expected the model's rock, jazz, folk, dub; got jazz"):
        require_classes("a.h5", ("jazz", "rock", "folk", "dub"), CLASSES)
