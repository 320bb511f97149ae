"""torch's recurrent operators under names of our own, for as long as a program is being recorded.

torch.export finds out the shapes of `aten.lstm` by running its loop, and so fixes the number of frames. Our names say
their shapes themselves. A finished program has torch's names, and runs where fmasearch is not installed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.export import ExportedProgram

_OPTIONS = "bool has_biases, int num_layers, float dropout, bool train, bool bidirectional, bool batch_first"


def _lstm(input: Tensor, hx: list[Tensor], params: list[Tensor], *options: bool | float) -> tuple[Tensor, ...]:
    states: tuple[Tensor, ...] = torch.ops.aten.lstm.input(input, hx, params, *options)
    return states


def _gru(input: Tensor, hx: Tensor, params: list[Tensor], *options: bool | float) -> tuple[Tensor, ...]:
    states: tuple[Tensor, ...] = torch.ops.aten.gru.input(input, hx, params, *options)
    return states


def _lstm_shapes(input: Tensor, hx: list[Tensor], params: list[Tensor], *_: bool | float) -> tuple[Tensor, ...]:
    return _states(input, hx[0]), torch.empty_like(hx[0]), torch.empty_like(hx[1])


def _gru_shapes(input: Tensor, hx: Tensor, params: list[Tensor], *_: bool | float) -> tuple[Tensor, ...]:
    return _states(input, hx), torch.empty_like(hx)


def _states(input: Tensor, hidden: Tensor) -> Tensor:
    """All states of one layer and direction."""
    return input.new_empty(input.shape[0], input.shape[1], hidden.shape[2])


torch.library.custom_op(
    "fmasearch::lstm",
    _lstm,
    mutates_args=(),
    schema=f"(Tensor input, Tensor[] hx, Tensor[] params, {_OPTIONS}) -> (Tensor, Tensor, Tensor)",
).register_fake(_lstm_shapes)
torch.library.custom_op(
    "fmasearch::gru",
    _gru,
    mutates_args=(),
    schema=f"(Tensor input, Tensor hx, Tensor[] params, {_OPTIONS}) -> (Tensor, Tensor)",
).register_fake(_gru_shapes)

LSTM = torch.ops.fmasearch.lstm.default
GRU = torch.ops.fmasearch.gru.default
_TORCHS = {LSTM: torch.ops.aten.lstm.input, GRU: torch.ops.aten.gru.input}


def use_torchs_names(program: ExportedProgram) -> None:
    """Name torch's operators in a program that was recorded with ours."""
    _rename(program, _TORCHS)


@contextmanager
def own_names(program: ExportedProgram) -> Iterator[None]:
    """Give a program our names, as a conversion needs that works out shapes again."""
    _rename(program, {torchs: own for own, torchs in _TORCHS.items()})
    try:
        yield
    finally:
        _rename(program, _TORCHS)


def _rename(program: ExportedProgram, names: dict[torch._ops.OpOverload, torch._ops.OpOverload]) -> None:
    for node in program.graph.nodes:
        if node.op == "call_function" and node.target in names:
            node.target = names[node.target]
