"""Scores: accumulators on the device, plain functions on arrays, their intervals, and two models side by side."""

from fmasearch.metrics.arrays import Counts, Floats, Integers
from fmasearch.metrics.classification import (
    CLASSIFICATION_SCORES,
    ClassificationMetrics,
    PerClass,
    per_class,
    summary,
)
from fmasearch.metrics.intervals import (
    DrawnScores,
    bootstrap,
    bootstrap_intervals,
    bootstrap_regression,
    class_draws,
    target_draws,
)
from fmasearch.metrics.paired import (
    McNemar,
    PairedDifference,
    mcnemar,
    paired_bootstrap,
    paired_classification,
    paired_regression,
)
from fmasearch.metrics.probabilities import (
    ReliabilityBin,
    brier,
    ece,
    probability_scores,
    reliability_bins,
    roc_auc,
    roc_auc_per_class,
    softmax,
    top_k_accuracy,
)
from fmasearch.metrics.protocol import Metrics
from fmasearch.metrics.regression import REGRESSION_SCORES, RegressionMetrics, regression_scores

__all__ = [
    "CLASSIFICATION_SCORES",
    "REGRESSION_SCORES",
    "ClassificationMetrics",
    "Counts",
    "DrawnScores",
    "Floats",
    "Integers",
    "McNemar",
    "Metrics",
    "PairedDifference",
    "PerClass",
    "RegressionMetrics",
    "ReliabilityBin",
    "bootstrap",
    "bootstrap_intervals",
    "bootstrap_regression",
    "brier",
    "class_draws",
    "ece",
    "mcnemar",
    "paired_bootstrap",
    "paired_classification",
    "paired_regression",
    "per_class",
    "probability_scores",
    "regression_scores",
    "reliability_bins",
    "roc_auc",
    "roc_auc_per_class",
    "softmax",
    "summary",
    "target_draws",
    "top_k_accuracy",
]
