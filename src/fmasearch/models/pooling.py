"""Pooling over time: one vector per clip from the states of its own frames. Padding takes no part.

Axes: T frames, B batch, H state.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from fmasearch.models.clip_model import padding_mask

Pooling: TypeAlias = Literal["last", "mean", "max", "mean_max", "attention"]


class TimePooling(nn.Module):
    """The pooling choice that all sequence families share.

    last       the state of a clip's last frame
    mean, max  over a clip's own frames
    mean_max   both, concatenated
    attention  weighted mean; a small network scores the frames (Yang et al., NAACL 2016, eq. 5-7)
    """

    def __init__(self, pooling: Pooling, state_dim: int) -> None:
        super().__init__()
        self.pooling = pooling
        self.output_dim = 2 * state_dim if pooling == "mean_max" else state_dim
        self.score = _frame_score(state_dim) if pooling == "attention" else None

    def forward(self, states_TBH: Tensor, lengths_B: Tensor | None, last_BH: Tensor | None = None) -> Tensor:
        """Returns (B, D).

        Args:
            states_TBH: frames at and after a clip's length may hold anything finite.
            lengths_B: on the states' device; None if every clip has T frames.
            last_BH: the final state, where it is more than the last frame's (a bidirectional RNN); for `last`.
        """
        if self.pooling == "last":
            return last_of(states_TBH, lengths_B) if last_BH is None else last_BH
        if self.score is not None:
            return attention_over_time(states_TBH, self.score(states_TBH)[:, :, 0], lengths_B)
        if self.pooling == "mean":
            return mean_over_time(states_TBH, lengths_B)
        if self.pooling == "max":
            return max_over_time(states_TBH, lengths_B)
        return torch.cat([mean_over_time(states_TBH, lengths_B), max_over_time(states_TBH, lengths_B)], dim=1)


def _frame_score(state_dim: int) -> nn.Sequential:
    # Softmax is blind to a constant added to every score, so the last layer needs no bias.
    return nn.Sequential(nn.Linear(state_dim, state_dim), nn.Tanh(), nn.Linear(state_dim, 1, bias=False))


def last_of(states_TBH: Tensor, lengths_B: Tensor | None) -> Tensor:
    """The state of each clip's last frame. Returns (B, H)."""
    if lengths_B is None:
        return states_TBH[-1]
    return states_TBH[lengths_B - 1, torch.arange(lengths_B.shape[0], device=lengths_B.device)]


def mean_over_time(states_TBH: Tensor, lengths_B: Tensor | None) -> Tensor:
    """Average each clip over its own frames. Returns (B, H)."""
    if lengths_B is None:
        return states_TBH.mean(0)
    return states_TBH.masked_fill(_padding(states_TBH, lengths_B), 0).sum(0) / lengths_B[:, None]


def max_over_time(states_TBH: Tensor, lengths_B: Tensor | None) -> Tensor:
    """Largest state of each clip over its own frames. Returns (B, H)."""
    if lengths_B is None:
        return states_TBH.amax(0)
    return states_TBH.masked_fill(_padding(states_TBH, lengths_B), -torch.inf).amax(0)


def attention_over_time(states_TBH: Tensor, scores_TB: Tensor, lengths_B: Tensor | None) -> Tensor:
    """Mean of each clip's own frames, weighted by the softmax of their scores. Returns (B, H)."""
    if lengths_B is not None:
        padding_TB1 = _padding(states_TBH, lengths_B)
        scores_TB = scores_TB.masked_fill(padding_TB1[:, :, 0], -torch.inf)
        states_TBH = states_TBH.masked_fill(padding_TB1, 0)
    return torch.einsum("tb,tbh->bh", scores_TB.softmax(0), states_TBH)


def _padding(states_TBH: Tensor, lengths_B: Tensor) -> Tensor:
    # Not len(), which would make the number of frames a constant of an exported program.
    return padding_mask(lengths_B, states_TBH.shape[0], states_TBH.device).T[:, :, None]
