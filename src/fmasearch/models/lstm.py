"""LSTM: a stack of recurrent layers on the frames themselves, pooling over time, one linear layer.

The family of the Greek reference report (NTUA PatRec lab 2, 2024; written anew). It stacks 8 layers of 256 on 1,291
frames and reads the last state; shallower stacks on fewer steps, with all states pooled, learn better and faster.

Axes: B batch, T frames, F feature bins, S steps of the recurrence, D pooled.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmasearch.models.clip_model import ClipModel, Head, trim
from fmasearch.models.hyperparameters import Count, Depth, DropoutRate
from fmasearch.models.pooling import Pooling
from fmasearch.models.recurrent import PooledRnn


def lstm(
    *,
    input_dim: Count,
    num_frames: Count,
    output_dim: Count,
    hidden_dim: Count = 128,
    num_layers: Depth = 2,
    bidirectional: bool = True,
    projection_dim: Count | None = None,
    frame_stride: Count = 4,
    dropout: DropoutRate = 0.3,
    rnn_dropout: DropoutRate = 0.0,
    pooling: Pooling = "mean_max",
) -> ClipModel:
    """`frame_stride` frames are averaged into one step; `hidden_dim` is per direction.

    30 s at 43 frames a second are 1,292 steps, more than a recurrence remembers or is quick over: 4 suits them, 1
    (every frame is a step) suits beat-synchronous features. `projection_dim` puts a linear layer and a ReLU before
    the recurrence.
    """
    project = None if projection_dim is None else nn.Sequential(nn.Linear(input_dim, projection_dim), nn.ReLU())
    step_dim = input_dim if projection_dim is None else projection_dim
    rnn = PooledRnn(nn.LSTM, step_dim, hidden_dim, num_layers, rnn_dropout, pooling, bidirectional=bidirectional)
    return ClipModel(Lstm(project, rnn, frame_stride), Head(nn.Dropout(dropout), rnn.output_dim, output_dim))


class Lstm(nn.Module):
    """Backbone: frames averaged into steps, a projection if there is one, and a pooled RNN."""

    def __init__(self, project: nn.Module | None, rnn: PooledRnn, frame_stride: int) -> None:
        super().__init__()
        self.project = project
        self.rnn = rnn
        self.frame_stride = frame_stride

    def forward(self, x_BTF: Tensor, lengths_B: Tensor) -> Tensor:
        """Returns (B, D)."""
        x_BTF, lengths = trim(x_BTF, lengths_B)
        x_BSF, steps = mean_of_frames(x_BTF, lengths, self.frame_stride)
        if self.project is not None:
            x_BSF = self.project(x_BSF)
        pooled_BD: Tensor = self.rnn(x_BSF.transpose(1, 2), steps)
        return pooled_BD

    def blocks(self) -> tuple[nn.Module, ...]:
        return (self.rnn,) if self.project is None else (self.project, self.rnn)


def mean_of_frames(x_BTF: Tensor, lengths_B: Tensor | None, stride: int) -> tuple[Tensor, Tensor | None]:
    """Average `stride` frames into one; a clip's last average is over the frames that it has left.

    Returns x_BSF and the clips' lengths in steps, None if all clips fill x_BSF.
    """
    if stride == 1:
        return x_BTF, lengths_B
    num_frames = x_BTF.shape[1]
    num_steps = -(-num_frames // stride)
    sums_BSF = F.pad(x_BTF, (0, 0, 0, num_steps * stride - num_frames)).unflatten(1, (num_steps, stride)).sum(2)
    ends_B1 = torch.tensor([[num_frames]]) if lengths_B is None else lengths_B[:, None]
    # Counted on the CPU, where the lengths are. A step of padding alone would divide 0 by 0.
    frames_BS = (ends_B1 - stride * torch.arange(num_steps, device="cpu")).clamp(1, stride)
    means_BSF = sums_BSF / frames_BS.to(x_BTF.device, non_blocking=True)[:, :, None]
    return means_BSF, None if lengths_B is None else (lengths_B + stride - 1) // stride
