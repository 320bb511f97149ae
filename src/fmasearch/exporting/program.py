"""The program of a model: features and lengths in, probabilities and values out, for any batch and any clip.

Axes: B batch, T frames, F feature bins, K outputs, R regression targets.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from fmasearch.data import Normaliser
from fmasearch.exporting.operators import use_torchs_names
from fmasearch.exporting.rewrite import exportable, max_frames
from fmasearch.models import ClipModel
from fmasearch.models.conformer import Subsampling
from fmasearch.models.resnet import ResidualBlock

INPUTS = ("features", "lengths")
_EXAMPLE_FRAMES = 50


@dataclass(frozen=True)
class Readout:
    """What a model's outputs are: first a logit for each class, then standardised values of the targets."""

    class_names: tuple[str, ...]
    targets: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """By name: mean and standard deviation, in the label's own unit."""

    def outputs(self) -> dict[str, tuple[str, ...]]:
        """By the program's output: what its columns are called."""
        names = {"probabilities": self.class_names, "values": tuple(self.targets)}
        return {output: columns for output, columns in names.items() if columns}


@dataclass(frozen=True)
class Program:
    """A recorded model; made of torch's own operators alone."""

    exported: ExportedProgram
    readout: Readout
    num_frames: int
    """Frames of the longest clip that the model was trained on."""
    max_frames: int | None
    """Longest clip that gets an answer; None has no limit."""


def capture(model: nn.Module, normalisers: Sequence[Normaliser], readout: Readout, *, num_frames: int) -> Program:
    """Record a model for any number of clips and frames.

    Args:
        model: in eval mode, on the CPU; is left as it is.
        normalisers: of its feature sets, in its order.
        readout: has as many classes and targets as the model has outputs.
        num_frames: frames of the longest clip that it was trained on.
    """
    assert isinstance(model, ClipModel)
    assert model.head.output.out_features == len(readout.class_names) + len(readout.targets)
    whole = WholeModel(model, normalisers, readout)
    num_bins = len(whole.mean_F)
    batch, frames = Dim("batch", min=1), Dim("frames", min=1)
    example = torch.zeros(3, _EXAMPLE_FRAMES, num_bins), torch.tensor([_EXAMPLE_FRAMES, 20, 7])
    with warnings.catch_warnings(action="ignore"), torch.no_grad():
        exported = torch.export.export(
            whole,
            example,
            dynamic_shapes={"features": {0: batch, 1: frames}, "lengths": {0: batch}},
            # Relations between frames before and after pools that are true, but that it cannot prove.
            prefer_deferred_runtime_asserts_over_guards=True,
        )
    use_torchs_names(exported)
    for node in exported.graph.nodes:
        node.meta.pop("stack_trace", None)  # names the folders of the machine that exports
    return Program(exported, readout, num_frames, whole.max_frames)


class WholeModel(nn.Module):
    """A model with what comes before it (its normalisation, zeros for padding) and after (probabilities, units)."""

    mean_F: Tensor
    std_F: Tensor
    label_mean_R: Tensor
    label_std_R: Tensor
    no_answer: Tensor

    def __init__(self, model: ClipModel, normalisers: Sequence[Normaliser], readout: Readout) -> None:
        super().__init__()
        self.max_frames = max_frames(model)
        self.step = _step(model)
        self.num_classes = len(readout.class_names)
        self.model = exportable(model)
        stats = list(readout.targets.values())
        self.register_buffer("mean_F", torch.cat([each.mean_F for each in normalisers]).float())
        self.register_buffer("std_F", torch.cat([each.std_F for each in normalisers]).float())
        self.num_targets = len(stats)
        if stats:
            self.register_buffer("label_mean_R", torch.tensor([mean for mean, _ in stats]))
            self.register_buffer("label_std_R", torch.tensor([std for _, std in stats]))
        self.register_buffer("no_answer", torch.tensor(torch.nan))  # TorchScript reads no `nan` in code
        self.eval()

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Returns the probabilities, the values, or both; NaN for a clip whose length cannot be."""
        num_frames = features.shape[1]
        refused_B = (lengths < 1) | (lengths > num_frames)
        if self.max_frames is not None:
            refused_B = refused_B | (lengths > self.max_frames)
        lengths_B = lengths.clamp(1, num_frames)
        own_BT1 = (torch.arange(num_frames, device=features.device) < lengths_B[:, None])[:, :, None]
        x_BTF = torch.where(own_BT1, (features - self.mean_F) / self.std_F, 0.0)
        # Padded to whole pools, and one more, so that the number of frames is never 1, which torch treats apart.
        whole_frames = ((num_frames + self.step - 1) // self.step + 1) * self.step
        outputs_BK = self.model(F.pad(x_BTF, (0, 0, 0, whole_frames - num_frames)), lengths_B)
        outputs_BK = torch.where(refused_B[:, None], self.no_answer, outputs_BK)
        parts = self._read(outputs_BK)
        return parts[0] if len(parts) == 1 else parts

    def _read(self, outputs_BK: Tensor) -> tuple[Tensor, ...]:
        parts = []
        if self.num_classes:
            parts.append(outputs_BK[:, : self.num_classes].softmax(dim=1))
        if self.num_targets:
            parts.append(outputs_BK[:, self.num_classes :] * self.label_std_R + self.label_mean_R)
        return tuple(parts)


def _step(model: nn.Module) -> int:
    """Frames that become one: the product of what pools, strides and averages leave out."""
    step = 1
    for module in model.modules():
        if isinstance(module, ResidualBlock):
            step *= 2
        elif isinstance(module, Subsampling):
            step *= 2 ** len(module.convs)
        else:
            step *= getattr(module, "pool_size", 1) * getattr(module, "frame_stride", 1)
    return step
