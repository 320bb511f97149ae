"""The average of weights: what a model is judged by when single steps are noisy."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class WeightAverage:
    """Exponential moving average of a model's weights (Polyak & Juditsky, 1992), in a copy of the model.

    Update t = 0, 1, ... keeps min(decay, (1 + t) / (10 + t)) of the average and takes the rest from the model: a
    constant decay of 0.999 would still be judged by 37 % of its initial weights after 1,000 steps.

    Floating buffers are averaged with the weights, as torchvision's and timm's trainings do: batch norm's running
    statistics belong to the activations of the weights they were taken with, and the average of both fits better
    than averaged weights with the statistics of the last few batches. Integer buffers are counters; they are copied.

    torch's own AveragedModel copies its counter to the device at every update, which waits for the device
    (torch 2.11); of its module, only the averaging function is used.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Start at the weights of `model`, on its device.

        Args:
            model: stays as it is.
            decay: share of the average that an update keeps, in (0, 1), after the first 9 / (1 - decay) updates.
        """
        self._model = deepcopy(model).requires_grad_(False).eval()
        self._decay = decay
        self._num_updates = 0

    @property
    def model(self) -> nn.Module:
        """The averaged model, to evaluate and to save; its parameters have no gradients."""
        return self._model

    def update(self, model: nn.Module) -> None:
        """Move the average towards `model`, after a step of its optimiser. Never waits for the device."""
        decay = min(self._decay, (1 + self._num_updates) / (10 + self._num_updates))
        # Parameters and persistent buffers; constants that are not saved, such as masks of -inf, stay as copied.
        pairs = list(zip(self._model.state_dict().values(), model.state_dict().values(), strict=True))
        floats = [(mean, live) for mean, live in pairs if mean.is_floating_point()]
        average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        average([mean for mean, _ in floats], [live for _, live in floats], None)
        for mean, live in pairs:
            if not mean.is_floating_point():
                mean.copy_(live)
        self._num_updates += 1

    def state_dict(self) -> dict[str, Any]:
        return {"num_updates": self._num_updates, "model": self._model.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was taken, bit for bit."""
        self._num_updates = state["num_updates"]
        self._model.load_state_dict(state["model"])
