"""Options that several commands share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class FormatChoice(StrEnum):
    onnx = "onnx"
    torchscript = "torchscript"
    pt2 = "pt2"


class SplitChoice(StrEnum):
    train = "train"
    val = "val"
    test = "test"


class AnySplitChoice(StrEnum):
    train = "train"
    val = "val"
    test = "test"
    all = "all"


Data = Annotated[Path, typer.Option("--data", "-d", help="Feature file (HDF5).", show_default=False)]
Runs = Annotated[Path, typer.Option(help="Working folder of studies and of the MLflow store.")]
Results = Annotated[Path, typer.Option(help="Where finished studies leave their record.")]
Mlflow = Annotated[
    str | None,
    typer.Option(
        "--mlflow",
        envvar=["MLFLOW_TRACKING_URI", "MLFLOW_BACKEND_STORE_URI"],
        help="MLflow store: http://HOST:PORT, postgresql://USER:PASSWORD@HOST/DB (default: sqlite in RUNS).",
    ),
]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION/KEY=VALUE", help="Override a setting; may be repeated.", show_default=False),
]
InitFrom = Annotated[
    Path | None,
    typer.Option(help="Start from the weights of this model file, as far as they match.", show_default=False),
]
Device = Annotated[str | None, typer.Option(help="cpu or cuda (default: cuda where there is one).")]
Threads = Annotated[int | None, typer.Option(help="Torch threads on the CPU.", show_default=False)]
