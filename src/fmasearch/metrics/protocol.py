"""The accumulator: what a task hands to the trainer, whatever it predicts."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Metrics(Protocol):
    """Scores of one pass over a split, accumulated where the outputs are."""

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Add a batch. Never leaves the device."""

    def compute(self) -> dict[str, float]:
        """Scores of everything added, by name without a split's prefix. The one transfer of a pass."""
