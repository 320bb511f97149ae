"""Scores of a regressor: an accumulator on the device, and plain functions on targets and predictions.

Axes: B batch, N rows, R targets (valence, energy, ...), D draws (resamples). Everything is in the labels' own
unit and in float64. A target of NaN has no label and contributes nothing, whatever was predicted there.

Spearman and Pearson equal scipy.stats.spearmanr and pearsonr (equal values share their mean rank), R2, MSE and
MAE scikit-learn's. CCC is Lin's concordance correlation (Biometrics 45, 1989, equation 1) with population
moments: 2 cov(t, v) / (var t + var v + (mean t - mean v)^2), 1 only where predictions equal targets.

Where a score is undefined:
- Correlations, R2 and CCC are NaN where the labels of a target are constant or fewer than two: that says something
  of the data and nothing of the model.
- The correlations of a constant prediction are 0, not NaN as scipy has it: a model that collapsed to one answer
  orders nothing, and must lose a search with a number that can be compared and averaged.
- MSE, MAE and RMSE are NaN without a label.
- All scores of a target are NaN where a prediction beside a label is not finite: the model diverged.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fmasearch.metrics.arrays import Counts, Floats, midranks, ratio

LABELS_NEEDED = {"spearman": 2, "pearson": 2, "r2": 2, "ccc": 2, "mse": 1, "mae": 1, "rmse": 1}
"""How many distinct labels a target needs for a score to be defined."""

REGRESSION_SCORES = tuple(LABELS_NEEDED)


class RegressionMetrics:
    """Predictions beside their targets, kept on the device: a rank needs the whole split.

    Args:
        names: of the R targets, in the order of the columns.
        std_R: standard deviation of each target's labels in train, above 0, in the label's unit.
        device: where the batches are.
    """

    def __init__(self, names: Sequence[str], std_R: Sequence[float], device: torch.device | str = "cpu") -> None:
        self.names, self.std_R = tuple(names), tuple(std_R)
        assert len(self.names) == len(self.std_R)
        assert all(std > 0 for std in self.std_R), self.std_R
        self._batches_2BR = [torch.zeros(2, 0, len(self.names), dtype=torch.float64, device=device)]

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Add predictions (B, R) and targets (B, R) of any float type, in the labels' own unit; NaN = no label."""
        assert outputs.shape == targets.shape
        self._batches_2BR.append(torch.stack([outputs.detach().double(), targets.double()]))

    def compute(self) -> dict[str, float]:
        """`regression_scores`, and `loss`: the targets' mean of MSE / std**2, so that all targets weigh alike."""
        values_NR, targets_NR = torch.cat(self._batches_2BR, dim=1).cpu().numpy()
        scores = regression_scores(targets_NR, values_NR, self.names)
        labelled_R = (~np.isnan(targets_NR)).any(0)
        losses = [
            scores[f"{name}_mse"] / std**2
            for name, std, labelled in zip(self.names, self.std_R, labelled_R, strict=True)
            if labelled
        ]
        return scores | {"loss": sum(losses) / len(losses) if losses else float("nan")}


def regression_scores(targets_NR: Floats, values_NR: Floats, names: Sequence[str]) -> dict[str, float]:
    """`<name>_<score>` of every target, and each score's plain mean over the targets under its bare name.

    The mean is over the targets whose labels define the score, NaN if there is none. A target whose predictions
    are not finite is not left out: its NaN is the mean's, or a model could gain by diverging on what it is bad at.

    Args:
        targets_NR: labels, NaN = none.
        values_NR: predictions.
        names: of the R targets.
    """
    scores = scores_of_draws(np.ones((1, len(targets_NR))), targets_NR, values_NR, names)
    return {name: float(value_D[0]) for name, value_D in scores.items()}


def scores_of_draws(
    counts_DN: Counts, targets_NR: Floats, values_NR: Floats, names: Sequence[str]
) -> dict[str, Floats]:
    """`regression_scores` of D draws of the rows at once, each (D,); `counts[d, n]`: how often row n was drawn.

    Which targets a mean is over is decided by all rows, drawn or not, so that all draws estimate the same: a draw
    in which one of them is undefined has no mean.
    """
    targets_NR, values_NR = np.asarray(targets_NR, np.float64), np.asarray(values_NR, np.float64)
    assert targets_NR.shape == values_NR.shape == (counts_DN.shape[1], len(names))
    columns = [_target_scores(counts_DN, *pair) for pair in zip(targets_NR.T, values_NR.T, strict=True)]
    num_labels = [len(np.unique(target_N[~np.isnan(target_N)])) for target_N in targets_NR.T]
    scores = {
        f"{name}_{score}": column[score]
        for name, column in zip(names, columns, strict=True)
        for score in REGRESSION_SCORES
    }
    for score, needed in LABELS_NEEDED.items():
        defined = [column[score] for column, found in zip(columns, num_labels, strict=True) if found >= needed]
        scores[score] = np.mean(defined, axis=0) if defined else np.full(len(counts_DN), np.nan)
    return scores


def _target_scores(counts_DN: Counts, target_N: Floats, value_N: Floats) -> dict[str, Floats]:
    """All scores of one target, each (D,)."""
    labelled_N = ~np.isnan(target_N)
    counts, target, value = counts_DN[:, labelled_N], target_N[labelled_N], value_N[labelled_N]
    if not np.isfinite(value).all():
        return dict.fromkeys(REGRESSION_SCORES, np.full(len(counts_DN), np.nan))
    total = counts.sum(1)
    target_ranks, num_targets = midranks(counts, target)
    value_ranks, num_values = midranks(counts, value)
    means, variances, covariance = _moments(counts, target, value)
    pearson = _correlation(variances, covariance)
    spearman = _correlation(*_moments(counts, target_ranks, value_ranks)[1:])
    mse = ratio(counts @ (value - target) ** 2, total)
    scores = {
        "spearman": spearman,
        # Whether values differ is counted: the variance of 0.1, 0.1, 0.1 is not 0 but a rounding error. Ranks are
        # halves, so theirs is exact.
        "pearson": np.where(num_values < 2, 0.0, pearson),
        "r2": 1 - ratio(mse, variances[0]),
        "ccc": ratio(2 * covariance, variances.sum(0) + (means[0] - means[1]) ** 2),
        "mse": mse,
        "mae": ratio(counts @ np.abs(value - target), total),
        "rmse": np.sqrt(mse),
    }
    return {name: np.where(num_targets >= LABELS_NEEDED[name], score, np.nan) for name, score in scores.items()}


def _moments(counts_DN: Counts, x: Floats, y: Floats) -> tuple[Floats, Floats, Floats]:
    """Population means (2, D), variances (2, D) and covariance (D,) of x and y, each (N,) or (D, N).

    Deviations from each draw's own mean, not a difference of sums: that would lose what float64 gains.
    """
    total = counts_DN.sum(1)
    means = np.stack([ratio((counts_DN * values).sum(1), total) for values in (x, y)])
    dx_DN, dy_DN = x - means[0][:, None], y - means[1][:, None]
    weighted_DN = counts_DN * dx_DN
    variances = np.stack([(weighted_DN * dx_DN).sum(1), (counts_DN * dy_DN * dy_DN).sum(1)])
    return means, ratio(variances, np.stack([total, total])), ratio((weighted_DN * dy_DN).sum(1), total)


def _correlation(variances: Floats, covariance: Floats) -> Floats:
    """Covariance over the product of the deviations, rounding errors beyond 1 cut off."""
    return ratio(covariance, np.sqrt(variances[0]) * np.sqrt(variances[1])).clip(-1, 1)
