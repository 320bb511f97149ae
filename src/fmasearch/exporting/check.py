"""The numerical check: an exported program beside the model it came from, on clips of many lengths.

Axes: B batch, T frames, F feature bins, K outputs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fmasearch.data import Normaliser
from fmasearch.exporting.formats import Run
from fmasearch.exporting.program import Program, Readout

TOLERANCE = 1e-4
"""Of a probability; of a value, in standard deviations of its label, so that a tempo may have larger numbers."""

_SEED = 20_170_801  # any fixed number: the same file always gets the same check


@dataclass(frozen=True)
class Checked:
    """What the check found."""

    difference: float
    """Largest absolute difference of any output; infinite if one was not finite."""
    worst_lengths: tuple[int, ...]
    """Lengths of the batch in which it was."""
    num_batches: int
    lengths: tuple[int, ...]
    """All lengths that were tried, rising."""

    @property
    def passed(self) -> bool:
        return self.difference < TOLERANCE


def check_program(run: Run, model: nn.Module, normalisers: Sequence[Normaliser], program: Program) -> Checked:
    """Run both on the same clips: one frame, half of the longest, all of it, and more where the program takes more.

    Alone and mixed in one batch, with noise in place of padding; as noise, and as sound that rises and fades. It
    compares outputs, so it cannot see a wrong weight that none of these clips lets through, as one after a dead ReLU.

    Args:
        run: the program, as it was read back from its file.
        model: in eval mode, on the CPU.
    """
    differences: list[tuple[float, tuple[int, ...]]] = []
    batches = _batches(program)
    for features_BTF, lengths_B in _clips(batches, normalisers):
        expected = _expected(model, features_BTF, lengths_B, normalisers, program.readout)
        difference = _difference(run(features_BTF, lengths_B), expected, program.readout)
        differences.append((difference, tuple(lengths_B.tolist())))
    difference, worst = max(differences)
    lengths = sorted({length for lengths, _ in batches for length in lengths})
    return Checked(difference, worst, len(differences), tuple(lengths))


def _batches(program: Program) -> list[tuple[tuple[int, ...], int]]:
    """Lengths of the clips of a batch, and frames of its tensor."""
    full = program.num_frames
    half = max(1, full // 2)
    longer = full + half if program.max_frames is None else program.max_frames
    return [
        ((1,), 1),
        ((half,), half),
        ((full,), full),
        ((full, 1, half), full),
        ((half, max(1, half - 1), 1), half + 3),
        ((full, full, full), full),
        ((longer, half, full), longer),
    ]


def _clips(
    batches: Sequence[tuple[tuple[int, ...], int]], normalisers: Sequence[Normaliser]
) -> Iterator[tuple[Tensor, Tensor]]:
    mean_F = torch.cat([normaliser.mean_F for normaliser in normalisers])
    std_F = torch.cat([normaliser.std_F for normaliser in normalisers])
    generator = torch.Generator().manual_seed(_SEED)
    for lengths, num_frames in batches:
        noise_BTF = torch.randn(len(lengths), num_frames, len(mean_F), generator=generator)
        # Each clip and bin louder or softer than the average, slowly fading in and out, as music does.
        loudness_B1F = torch.randn(len(lengths), 1, len(mean_F), generator=generator)
        fade_T1 = torch.linspace(0, 2 * math.pi, num_frames).sin()[:, None]
        for x_BTF in (noise_BTF, 0.3 * noise_BTF + loudness_B1F + fade_T1):
            yield mean_F + std_F * x_BTF, torch.tensor(lengths)


@torch.no_grad()
def _expected(
    model: nn.Module, features_BTF: Tensor, lengths_B: Tensor, normalisers: Sequence[Normaliser], readout: Readout
) -> dict[str, Tensor]:
    """What the model says, by the path of training: standardised feature sets, zeros for padding."""
    parts = torch.split(features_BTF, [len(each.mean_F) for each in normalisers], dim=2)
    joined = [(part - each.mean_F) / each.std_F for part, each in zip(parts, normalisers, strict=True)]
    x_BTF = torch.cat(joined, dim=2)
    for clip_TF, length in zip(x_BTF, lengths_B.tolist(), strict=True):
        clip_TF[length:] = 0
    outputs_BK = model(x_BTF, lengths_B)
    num_classes = len(readout.class_names)
    values_BR = outputs_BK[:, num_classes:].clone()
    for column, (mean, std) in enumerate(readout.targets.values()):
        values_BR[:, column] = mean + std * values_BR[:, column]
    return {"probabilities": outputs_BK[:, :num_classes].softmax(1), "values": values_BR}


def _difference(outputs: Sequence[Tensor], expected: dict[str, Tensor], readout: Readout) -> float:
    worst = 0.0
    stds = torch.tensor([std for _, std in readout.targets.values()])
    for name, output in zip(readout.outputs(), outputs, strict=True):
        if output.shape != expected[name].shape:
            return math.inf
        difference = (output - expected[name]).abs()
        largest = float((difference / stds if name == "values" else difference).max())
        worst = max(worst, largest if math.isfinite(largest) else math.inf)
    return worst
