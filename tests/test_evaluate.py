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
from fmasearch.evaluate import baseline_scores, judge, majority_class, require_classes
from fmasearch.records import TestReport
from fmasearch.tasks import Classification


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


def test_a_report_survives_json(train: Split) -> None:
    report = report_on(train)
    assert TestReport.from_json(report.to_json()) == report


def test_class_names_must_be_the_models_in_its_order(dataset: Dataset) -> None:
    require_classes("a.h5", dataset.class_names, CLASSES)
    with pytest.raises(DataError, match=r"a\.h5: class names: expected the model's rock, jazz, folk, dub; got jazz"):
        require_classes("a.h5", ("jazz", "rock", "folk", "dub"), CLASSES)
