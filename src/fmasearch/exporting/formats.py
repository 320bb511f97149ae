"""The formats: how a program is written as a file, and how such a file is opened and run."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, fx

from fmasearch.errors import UserError
from fmasearch.exporting.operators import GRU, LSTM, own_names
from fmasearch.exporting.program import INPUTS, Program

Run: TypeAlias = Callable[[Tensor, Tensor], list[Tensor]]
"""Features and lengths in, the outputs in their order out."""

METADATA = "fmasearch.json"
OPSETS = range(18, 23)
"""torch 2.11 writes 18 and converts upwards; 23 has an attention whose masks onnxruntime 1.31 does not take."""


@dataclass(frozen=True)
class Format:
    """One format. `write` gets the program, the path, the metadata as JSON, and ONNX's opset."""

    suffix: str
    title: str
    write: Callable[[Program, Path, str, int | None], None]
    open: Callable[[Path], Run]
    read_metadata: Callable[[Path], str]
    modules: Sequence[str] = ()
    """Of the extra `export`."""
    has_opset: bool = False
    has_one_suffix: bool = False
    """Whether a file of another suffix cannot be opened."""

    def require(self, path: Path, opset: int | None) -> None:
        """Fail early.

        Raises:
            UserError: if packages are absent, or for a path or an opset that cannot be had.
        """
        if self.has_one_suffix and path.suffix != self.suffix:
            raise UserError(
                f"--out {path}: expected a name that ends in {self.suffix}: torch opens no other as {self.title}"
            )
        if absent := [module for module in self.modules if find_spec(module) is None]:
            raise UserError(
                f"format {self.title} needs {', '.join(self.modules)}; absent: {', '.join(absent)}: "
                f"pip install 'fmasearch[export]', or take another format"
            )
        if opset is None:
            return
        if not self.has_opset:
            raise UserError(f"--opset {opset}: is for ONNX alone; {self.title} has none")
        if opset not in OPSETS:
            raise UserError(f"--opset: expected {OPSETS[0]} to {OPSETS[-1]}, got {opset}")


def write_program(
    program: Program, path: Path, format: str, metadata: Mapping[str, Any], *, opset: int | None = None
) -> None:
    """Write a program in one of `FORMATS`."""
    with _quiet():
        FORMATS[format].write(program, path, json.dumps(metadata, indent=1), opset)


def open_program(path: Path, format: str) -> Run:
    """Read a program back, as its users do, ready to run."""
    with _quiet():
        return FORMATS[format].open(path)


def read_metadata(path: Path, format: str) -> dict[str, Any]:
    """What an exported file says of itself."""
    with _quiet():
        values: dict[str, Any] = json.loads(FORMATS[format].read_metadata(path))
    return values


@contextmanager
def _quiet() -> Iterator[None]:
    """torch speaks of its own plans for TorchScript and of what its converters do; none of it is for our users."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logger.setLevel(level)


def _write_onnx(program: Program, path: Path, metadata: str, opset: int | None) -> None:
    import onnx
    from onnxscript.function_libs.torch_lib.ops.core import aten_gru, aten_lstm

    with own_names(program.exported):
        converted = torch.onnx.export(
            program.exported,
            dynamo=True,
            verbose=False,
            opset_version=opset,
            input_names=INPUTS,
            dynamic_shapes={"features": {0: "batch", 1: "frames"}, "lengths": {0: "batch"}},  # names alone
            output_names=tuple(program.readout.outputs()),
            custom_translation_table={LSTM: aten_lstm, GRU: aten_gru},
        )
    assert converted is not None
    for node in converted.model.graph.all_nodes():
        node.metadata_props.clear()  # traces of calls, with the folders of the machine that exports
    converted.model.metadata_props[METADATA] = metadata
    converted.save(path, external_data=False)
    onnx.checker.check_model(path, full_check=True)
    got = {each.domain: each.version for each in onnx.load(path).opset_import}[""]
    if opset not in (None, got):
        raise UserError(f"--opset {opset}: this model can only be had in opset {got}")


def _open_onnx(path: Path) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # fatal; errors are raised
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda features, lengths: [
        torch.from_numpy(output)
        for output in session.run(None, {"features": features.numpy(), "lengths": lengths.numpy()})
    ]


def _onnx_metadata(path: Path) -> str:
    import onnx

    properties = {each.key: each.value for each in onnx.load(path).metadata_props}
    return str(properties[METADATA])


def _write_pt2(program: Program, path: Path, metadata: str, _: int | None) -> None:
    torch.export.save(program.exported, path, extra_files={METADATA: metadata})


def _open_pt2(path: Path) -> Run:
    return _as_list(torch.export.load(path).module())


def _pt2_metadata(path: Path) -> str:
    found = {METADATA: ""}
    torch.export.load(path, extra_files=found)
    return found[METADATA]


def _write_torchscript(program: Program, path: Path, metadata: str, _: int | None) -> None:
    torch.jit.save(torch.jit.script(_scriptable(program)), path, _extra_files={METADATA: metadata})


def _open_torchscript(path: Path) -> Run:
    return _as_list(torch.jit.load(path, map_location="cpu"))


def _torchscript_metadata(path: Path) -> str:
    found: dict[str, Any] = {METADATA: ""}
    torch.jit.load(path, map_location="cpu", _extra_files=found)
    content = found[METADATA]
    return content.decode() if isinstance(content, bytes) else str(content)


def _scriptable(program: Program) -> fx.GraphModule:
    """The recorded program as plain Python code over torch's operators, which TorchScript's compiler can read.

    Tracing the model instead would make constants of the sizes of the clips that it was traced with.
    """
    module = program.exported.module(check_guards=False)
    assert isinstance(module, fx.GraphModule)
    graph = module.graph
    graph.set_codegen(fx.graph.CodeGen())  # inputs and outputs as they are, without torch.export's trees
    for node in list(graph.nodes):
        if node.op == "output" and len(node.args[0]) == 1:
            node.args = (node.args[0][0],)
        if node.op != "call_function":
            continue
        if "_assert" in str(node.target):
            graph.erase_node(node)
        elif node.target is torch.ops.aten.sym_size.int:
            node.op, node.target = "call_method", "size"
        elif isinstance(node.target, torch._ops.OpOverload):
            node.target = node.target.overloadpacket
    graph.eliminate_dead_code()
    return fx.GraphModule(module, graph)


def _as_list(module: Callable[..., Any]) -> Run:
    def run(features: Tensor, lengths: Tensor) -> list[Tensor]:
        with torch.no_grad():
            outputs = module(features, lengths)
        return [outputs] if isinstance(outputs, Tensor) else list(outputs)

    return run


FORMATS = {
    "onnx": Format(
        ".onnx",
        "ONNX",
        _write_onnx,
        _open_onnx,
        _onnx_metadata,
        modules=("onnx", "onnxscript", "onnxruntime"),
        has_opset=True,
    ),
    "torchscript": Format(".torchscript", "TorchScript", _write_torchscript, _open_torchscript, _torchscript_metadata),
    "pt2": Format(".pt2", "pt2 (torch.export)", _write_pt2, _open_pt2, _pt2_metadata, has_one_suffix=True),
}
