"""What the tests of scores share: random answers, and scikit-learn's scores of them."""

import warnings
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score

Classes: TypeAlias = npt.NDArray[np.int64]

SCORES = ["accuracy", "balanced_accuracy", "macro_f1", "weighted_f1", "micro_f1"]


def scores_of_sklearn(targets: object, predictions: object, num_classes: int) -> dict[str, float]:
    labels = range(num_classes)
    f1 = {
        f"{name}_f1": f1_score(targets, predictions, average=name, labels=labels, zero_division=0)
        for name in ("macro", "weighted", "micro")
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="y_pred contains classes not in y_true")
        warnings.filterwarnings("ignore", message="A single label was found")
        balanced = balanced_accuracy_score(targets, predictions)
    return {"accuracy": accuracy_score(targets, predictions), "balanced_accuracy": balanced, **f1}


def answers(seed: int, num_tracks: int, num_classes: int) -> tuple[Classes, Classes]:
    """Targets of uneven classes and predictions that are right six times in ten."""
    generator = np.random.default_rng(seed)
    shares = np.arange(1, num_classes + 1) / np.arange(1, num_classes + 1).sum()
    targets = generator.choice(num_classes, num_tracks, p=shares)
    noise = generator.integers(num_classes, size=num_tracks)
    return targets, np.where(generator.random(num_tracks) < 0.6, targets, noise)
