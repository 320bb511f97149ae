"""`export`: a saved model as a file that runs without fmasearch."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from fmasearch.errors import UserError
from fmasearch.exporting import FORMATS, TOLERANCE, export_model
from fmasearch.model_file import load_model


def export(model_file: Path, format: str, out: Path | None, opset: int | None) -> None:
    """Write, check, and say what the file takes and gives."""
    path = out or model_file.with_suffix(FORMATS[format].suffix)
    if path.resolve() == model_file.resolve():
        raise UserError(f"--out {path}: is the model itself; write to another file")
    console = Console()
    with console.status(f"exporting {model_file}"):
        exported = export_model(load_model(model_file), path, format, opset=opset)
    metadata, checked = exported.metadata, exported.checked
    size = path.stat().st_size / 1e6
    lines = [f"{path}: {metadata['architecture']} as {FORMATS[format].title}, {size:.1f} MB"]
    lines += [f"input {name}: {text}" for name, text in metadata["inputs"].items()]
    for name, columns in metadata["outputs"].items():
        lines.append(f"output {name}: float32 (batch, {len(columns)}): {', '.join(columns)}")
    if metadata["max_frames"] is not None:
        lines.append(f"clips of more than {metadata['max_frames']} frames get NaN: the model has no positions for them")
    lines.append(
        f"checked against the model: {checked.num_batches} batches, clips of "
        f"{', '.join(f'{length:,}' for length in checked.lengths)} frames: largest difference "
        f"{checked.difference:.1e} (allowed: less than {TOLERANCE:g})"
    )
    console.print("\n".join(lines), highlight=False, soft_wrap=True, markup=False)
