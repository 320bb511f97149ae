"""Parts of a model in a form that torch.export can record for any number of clips and frames.

Each gives what the part it stands for gives in eval mode, on every frame that is a clip's own. Lengths are always a
tensor here.

Axes: B batch, T frames, C channels, H hidden, F feature bins, D embedding, I rows and J columns of patches, N tokens.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmasearch.exporting.operators import GRU, LSTM
from fmasearch.models import ClipModel
from fmasearch.models.ast import PATCH, PatchTokens
from fmasearch.models.clip_model import padding_mask
from fmasearch.models.cnn_rnn import ConvBlock
from fmasearch.models.pooling import last_of
from fmasearch.models.recurrent import PooledRnn


def exportable(model: ClipModel) -> ClipModel:
    """A copy of a model, in eval mode, with its parts exchanged; the parameters are shared."""
    memo = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    copied: ClipModel = copy.deepcopy(model, memo).eval()
    _exchange(copied)
    return copied


def _exchange(module: nn.Module) -> None:
    for name, child in list(module.named_children()):
        if isinstance(child, PooledRnn):
            setattr(module, name, UnpackedRnn(child))
        elif isinstance(child, PatchTokens):
            setattr(module, name, AllPatches(child))
        elif isinstance(child, ConvBlock):
            module._modules[name] = PlainConvBlock(child)
        else:
            _exchange(child)


def max_frames(model: nn.Module) -> int | None:
    """Longest clip that a model has positions for; None if any length will do."""
    for module in model.modules():
        if isinstance(module, PatchTokens):
            return int(module.positions_DIJ.shape[2]) * module.time_stride + PATCH - 1
    return None


class UnpackedRnn(nn.Module):
    """A `PooledRnn` without packing: the backward direction reads each clip turned round within its own length.

    Padding follows a clip in both directions, and so reaches none of its states.
    """

    def __init__(self, pooled: PooledRnn) -> None:
        super().__init__()
        rnn = pooled.rnn
        layers = range(rnn.num_layers)
        self.forwards = nn.ModuleList(OneDirection(rnn, f"_l{layer}") for layer in layers)
        self.backwards = nn.ModuleList(
            OneDirection(rnn, f"_l{layer}_reverse") for layer in layers if pooled.num_directions == 2
        )
        self.pool = pooled.pool

    def forward(self, x_BCT: Tensor, lengths_B: Tensor) -> Tensor:
        """Returns (B, D)."""
        states_TBH = x_BCT.permute(2, 0, 1)
        frames_T1 = torch.arange(states_TBH.shape[0], device=lengths_B.device)[:, None]
        turned_TB = torch.where(frames_T1 < lengths_B, lengths_B - 1 - frames_T1, frames_T1)
        for forward, backward in zip(self.forwards, self.backwards or [None] * len(self.forwards), strict=True):
            states = [forward(states_TBH)]
            if backward is not None:
                states.append(_reorder(backward(_reorder(states_TBH, turned_TB)), turned_TB))
            states_TBH = torch.cat(states, dim=2)
        # The backward direction ends at a clip's first frame.
        last_BH = torch.cat([last_of(states[0], lengths_B), *(each[0] for each in states[1:])], dim=1)
        pooled_BD: Tensor = self.pool(states_TBH, lengths_B, last_BH)
        return pooled_BD


def _reorder(x_TBC: Tensor, frames_TB: Tensor) -> Tensor:
    return x_TBC.gather(0, frames_TB[:, :, None].expand(-1, -1, x_TBC.shape[2]))


class OneDirection(nn.Module):
    """One layer and direction of a GRU or LSTM, as an operator whose shapes are known for any number of frames."""

    def __init__(self, rnn: nn.GRU | nn.LSTM, suffix: str) -> None:
        super().__init__()
        self.is_lstm = isinstance(rnn, nn.LSTM)
        self.weights = nn.ParameterList(
            getattr(rnn, f"{name}{suffix}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )

    def forward(self, x_TBC: Tensor) -> Tensor:
        """Returns states_TBH."""
        weights = list(self.weights)
        zeros_1BH = x_TBC.new_zeros(1, x_TBC.shape[1], weights[1].shape[1])
        operator, start = (LSTM, [zeros_1BH, zeros_1BH]) if self.is_lstm else (GRU, zeros_1BH)
        # has_biases, num_layers, dropout, train, bidirectional, batch_first
        states_TBH: Tensor = operator(x_TBC, start, weights, True, 1, 0.0, False, False, False)[0]
        return states_TBH


class PlainConvBlock(nn.Module):
    """A `ConvBlock` with its pool over an image of height 1; torch.export makes max_pool1d's length a constant."""

    def __init__(self, block: ConvBlock) -> None:
        super().__init__()
        self.block = block

    def forward(self, x_BCT: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        size = self.block.pool_size
        x_BCT = F.relu(self.block.norm(self.block.conv(x_BCT)))
        whole_B = torch.where(lengths_B < size, lengths_B, lengths_B // size * size)
        x_BCT = x_BCT.masked_fill(padding_mask(whole_B, x_BCT.shape[2], x_BCT.device)[:, None], 0)
        if size == 1:
            return x_BCT, lengths_B
        return F.max_pool2d(x_BCT[:, :, None], (1, size))[:, :, 0], (lengths_B // size).clamp(min=1)


class AllPatches(nn.Module):
    """`PatchTokens` with every place of the position table, for any clip: those of padding are marked, not left out."""

    def __init__(self, tokens: PatchTokens) -> None:
        super().__init__()
        self.tokens = tokens

    def forward(self, x_BTF: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """Returns tokens_BND and own_BN."""
        tokens, stride = self.tokens, self.tokens.time_stride
        rows, columns = tokens.positions_DIJ.shape[1:]
        num_frames = (columns - 1) * stride + PATCH
        x_BTF = F.pad(x_BTF, (0, max(0, PATCH - x_BTF.shape[2]), 0, num_frames))[:, :num_frames]
        patches_BDIJ = tokens.project(x_BTF.transpose(1, 2)[:, None]) + tokens.positions_DIJ
        columns_B = ((lengths_B - PATCH) // stride + 1).clamp(1, columns)
        own_BJ = ~padding_mask(columns_B, columns, x_BTF.device)
        prefix_B2D = (tokens.prefix_2D + tokens.prefix_positions_2D).expand(x_BTF.shape[0], -1, -1)
        tokens_BND = torch.cat([prefix_B2D, patches_BDIJ.flatten(2).transpose(1, 2)], dim=1)
        own_BN = own_BJ[:, None].expand(-1, rows, -1).flatten(1)
        return tokens_BND, F.pad(own_BN, (2, 0), value=True)
