"""A saved model as a file that runs without fmasearch: ONNX, TorchScript or torch.export's pt2.

The program takes what the front-end gives, and has the model's own normalisation and the zeroing of padding inside:

    features       float32 (batch, frames, bins), in the features' own unit, joined in the model's order
    lengths        int64 (batch), frames of each clip; what comes after them is padding and may hold anything
    probabilities  float32 (batch, classes), if the model tells classes apart
    values         float32 (batch, targets), in the labels' own units, if the model predicts numbers

Batch and frames are free. A clip whose length is not 1 to the frames given gets NaN; so does one that is longer than
`max_frames` of the metadata, which an `ast` has, since it learnt a position for every place. A file of both kinds of
outputs returns them in this order. The metadata, JSON under the name `fmasearch.json`, says all that.

A program is for one clip as a whole: where training used crops, cutting a track and averaging are left to the caller.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fmasearch.errors import FmasearchError, UserError
from fmasearch.exporting.check import TOLERANCE, Checked, check_program
from fmasearch.exporting.formats import FORMATS, open_program, write_program
from fmasearch.exporting.metadata import describe, readout_of
from fmasearch.exporting.program import Program, Readout, capture
from fmasearch.files import replacing
from fmasearch.model_file import SavedModel

__all__ = [
    "FORMATS",
    "TOLERANCE",
    "Checked",
    "ExportError",
    "Exported",
    "Program",
    "Readout",
    "capture",
    "check_program",
    "export_model",
    "open_program",
    "write_program",
]


class ExportError(FmasearchError):
    """The exported program does not say what the model says; its file was not kept."""


@dataclass(frozen=True)
class Exported:
    """A file that was written and checked."""

    path: Path
    metadata: dict[str, Any]
    checked: Checked


def export_model(saved: SavedModel, path: Path, format: str, *, opset: int | None = None) -> Exported:
    """Write a model's program, run it beside the model, and keep it only if both say the same.

    Args:
        path: file to write; it takes its place only after the check.
        format: a key of `FORMATS`.
        opset: version of ONNX's operators; None is torch's choice. Other formats have none.

    Raises:
        UserError: for an unknown format, a path or an `opset` that it cannot have, or if ONNX's packages are absent.
        ModelError: if the saved weights do not fit.
        ExportError: if an output is off by `TOLERANCE` or more; the file is not kept.
    """
    if format not in FORMATS:
        raise UserError(f"format: expected one of {', '.join(FORMATS)}, got {format!r}")
    FORMATS[format].require(path, opset)
    model, readout = saved.build(), readout_of(saved)
    program = capture(model, saved.normalisers, readout, num_frames=saved.num_frames)
    metadata = describe(saved, readout, max_frames=program.max_frames)
    with replacing(path) as temporary:
        write_program(program, temporary, format, metadata, opset=opset)
        checked = check_program(open_program(temporary, format), model, saved.normalisers, program)
        if not checked.passed:
            raise ExportError(
                f"{path}: not kept: the program and the model differ by {checked.difference:.2g} (allowed: less than "
                f"{TOLERANCE:g}) on clips of {', '.join(map(str, checked.worst_lengths))} frames"
            )
    return Exported(path, metadata, checked)
