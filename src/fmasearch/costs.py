"""Model costs: parameters, FLOPs and training memory of a configuration, counted without training or memory.

A model runs on torch's meta device, where tensors have shapes and no values. FLOPs are 2 for a multiplication and an
addition: of matrix products, convolutions, recurrences and attention; norms, activations and pooling are not counted.

torch's FlopCounterMode does the counting, but for two things. A recurrence is taken apart on the meta device, frame by
frame: right, and seconds slow (and nothing is counted where one kernel runs it whole). Attention is taken apart, too,
and would seem to keep T x T weights, which fused kernels do not. Both are counted here by formula, and not run.

Axes: B batch, T frames, F feature bins, H hidden, D directions, N heads, E width of a head.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, UntypedStorage
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from fmasearch.config import TrainConfig
from fmasearch.data import FileInfo, model_shape
from fmasearch.models import ClipModel, build_model, count_parameters
from fmasearch.models.transfer import freeze
from fmasearch.records import Scalar
from fmasearch.space import Constraint

FLOAT_BYTES = 4
_MEASURED_CLIPS = 2  # batch norm cannot be trained on one
_OPTIMIZER_STATES = {"adam": 2, "adamw": 2, "sgd": 1}  # tensors as large as the weights; sgd's goes with its momentum
_SAVED_PER_STEP = {"lstm": 18, "gru": 7}
"""Times H values that a layer's direction keeps of a step for its backward pass: 15 to 20 and 7 as measured on a CPU
(torch 2.11, 323 steps, 1 and 2 layers). The gates and states themselves are fewer; cuDNN has not been measured."""


@dataclass(frozen=True, slots=True)
class ModelCost:
    """What one model costs, at the clip length that it is trained on."""

    parameters: int
    """All of them, frozen ones included."""
    trainable_parameters: int
    flops: int
    """Of the forward pass of one clip in evaluation. A training step takes about three times as many a clip."""
    activation_bytes: int
    """What autograd keeps of one training clip between the forward and the backward pass, in float32."""
    training_memory_bytes: int
    """Estimate of the peak of a training: see `model_cost`."""


def model_cost(config: TrainConfig, info: FileInfo) -> ModelCost:
    """Count a configuration's model and estimate its training's memory: 0.4 s for AST-base, then cached.

    `training_memory_bytes` is the weights, gradients, the optimiser's states, the averaged weights under `ema_decay`,
    the kept best weights, and a batch with its augmented copy and its activations, all in float32. The peak of a real
    step on a CPU was 0.96 to 1.3 times that (8 architectures, 4 clips of 1,292 frames, torch 2.11). It is not the data
    set, which lies on the same device, nor what a framework, its kernels' workspaces and its allocator's unused blocks
    take. bf16 autocast keeps less. Attention counts as fused kernels keep it; one that drops weights out is not fused
    on a CPU, and keeps T x T more. Evaluation, of 64 clips at once, keeps no activations.

    Raises:
        ConfigError: if there is no such model.
        DataError: if the file lacks a feature set or the labels.
    """
    shape = model_shape(info, config)
    parameters, trainable, activations = _training_costs(
        config.architecture, config.transfer.freeze, **shape, **config.hyperparameters
    )
    states = 0 if config.optimizer.name == "sgd" and not config.optimizer.momentum else 1
    states *= _OPTIMIZER_STATES[config.optimizer.name]
    copies = 2 + (config.trainer.ema_decay is not None)  # the weights, the best of them, their average
    batch_size = config.trainer.batch_size
    batch = 2 * batch_size * shape["num_frames"] * shape["input_dim"] * FLOAT_BYTES
    weights = (copies * parameters + (1 + states) * trainable) * FLOAT_BYTES
    return ModelCost(
        parameters=parameters,
        trainable_parameters=trainable,
        flops=forward_flops(config.architecture, **shape, **config.hyperparameters),
        activation_bytes=activations,
        training_memory_bytes=weights + batch + batch_size * activations,
    )


def limited_costs(config: TrainConfig, info: FileInfo, constraints: Iterable[Constraint]) -> dict[str, float]:
    """By quantity: `parameters`, and what else of `constraints` can be known before a training.

    Raises:
        ConfigError, DataError: as `model_cost`.
    """
    return known_costs(config, info, {"parameters", *(constraint.quantity for constraint in constraints)})


def known_costs(config: TrainConfig, info: FileInfo, wanted: Collection[str]) -> dict[str, float]:
    """By quantity, what of `wanted` can be known before a training: `parameters`, `flops`.

    Raises:
        ConfigError, DataError: as `model_cost`.
    """
    shape = model_shape(info, config)
    counts: dict[str, Callable[..., int]] = {"parameters": count_parameters, "flops": forward_flops}
    return {
        quantity: count(config.architecture, **shape, **config.hyperparameters)
        for quantity, count in counts.items()
        if quantity in wanted
    }


@lru_cache(maxsize=4096, typed=True)  # a search asks again and again for models that differ in their recipe alone
def forward_flops(
    architecture: str, *, input_dim: int, num_frames: int, output_dim: int, **hyperparameters: Scalar
) -> int:
    """FLOPs of the forward pass of one clip of `num_frames` in evaluation; arguments are those of `build_model`."""
    shape = {"input_dim": input_dim, "num_frames": num_frames, "output_dim": output_dim}
    model = _on_meta(architecture, **shape, **hyperparameters).eval()
    whole = _WholeKernels()
    with torch.no_grad(), FlopCounterMode(display=False) as counter, whole:
        _run(model, 1, num_frames, input_dim)
    return int(counter.get_total_flops()) + whole.flops


@lru_cache(maxsize=4096, typed=True)
def _training_costs(
    architecture: str, policy: str, *, input_dim: int, num_frames: int, output_dim: int, **hyperparameters: Scalar
) -> tuple[int, int, int]:
    """Parameters, trainable ones, and bytes that autograd keeps of one training clip."""
    shape = {"input_dim": input_dim, "num_frames": num_frames, "output_dim": output_dim}
    model = _on_meta(architecture, **shape, **hyperparameters).train()
    freeze(model, policy)
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    saved = _Saved(model.parameters())
    with saved_tensors_hooks(saved.keep, lambda tensor: tensor), _WholeKernels(saved):
        _run(model, _MEASURED_CLIPS, num_frames, input_dim)
    trainable = sum(size for size, is_trained in sizes if is_trained)
    return sum(size for size, _ in sizes), trainable, -(-saved.num_bytes // _MEASURED_CLIPS)


def _on_meta(architecture: str, **arguments: Any) -> ClipModel:
    with torch.device("meta"):
        return build_model(architecture, **arguments)


def _run(model: ClipModel, num_clips: int, num_frames: int, input_dim: int) -> None:
    lengths_B = torch.full((num_clips,), num_frames)
    model(torch.empty(num_clips, num_frames, input_dim, device="meta"), lengths_B)


class _Saved:
    """The memory of tensors that autograd keeps: each block once, and no parameters, which are there anyway."""

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        self._parameters = {_identity(parameter) for parameter in parameters}
        self._blocks: dict[int, UntypedStorage] = {}  # held, so that no other takes its place in memory
        self._other_bytes = 0

    @property
    def num_bytes(self) -> int:
        return sum(block.nbytes() for block in self._blocks.values()) + self._other_bytes

    def keep(self, tensor: Tensor) -> Tensor:
        if _identity(tensor) not in self._parameters:
            self._blocks[_identity(tensor)] = tensor.untyped_storage()
        return tensor

    def keep_bytes(self, num_bytes: int) -> None:
        """What a kernel keeps for itself."""
        self._other_bytes += num_bytes


def _identity(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _needs_grad(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


class _WholeKernels(TorchFunctionMode):
    """Recurrences and fused attention as one kernel each: their FLOPs and kept memory by formula, outputs by shape."""

    def __init__(self, saved: _Saved | None = None) -> None:
        super().__init__()
        self.flops = 0
        self._saved = saved

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        if name in _SAVED_PER_STEP:
            return self._recurrence(name, *args)
        if name == "scaled_dot_product_attention":
            return self._attention(*args[:3])
        return func(*args, **(kwargs or {}))

    def _recurrence(
        self,
        kind: str,
        x_TBF: Tensor,
        initial: Tensor | tuple[Tensor, Tensor],
        weights: Sequence[Tensor],
        has_biases: bool,
        num_layers: int,
        dropout: float,
        training: bool,
        bidirectional: bool,
        batch_first: bool,
    ) -> tuple[Tensor, ...]:
        """`torch.lstm` and `torch.gru` of a padded batch, which is all that a clip of full length ever takes."""
        assert not batch_first
        states = [initial] if isinstance(initial, Tensor) else list(initial)
        num_frames, num_clips = x_TBF.shape[:2]
        num_directions, hidden = 1 + bidirectional, states[0].shape[2]
        matrices = [weight for weight in weights if weight.ndim == 2]
        self.flops += 2 * num_frames * num_clips * sum(weight.numel() for weight in matrices)
        output_TBH = x_TBF.new_empty(num_frames, num_clips, num_directions * hidden)
        finals = [torch.empty_like(state) for state in states]
        needs_grad = _needs_grad(x_TBF, *weights)
        if self._saved and needs_grad:
            self._saved.keep(x_TBF)
            per_layer = output_TBH.numel() * (_SAVED_PER_STEP[kind] + bool(dropout))
            self._saved.keep_bytes(num_layers * per_layer * FLOAT_BYTES)
        return tuple(tensor.requires_grad_(needs_grad) for tensor in (output_TBH, *finals))

    def _attention(self, query_BNTE: Tensor, key_BNSE: Tensor, value_BNSE: Tensor) -> Tensor:
        """Queries times keys, and weights times values; only the weights' logsumexp is kept."""
        num_queries, num_keys = math.prod(query_BNTE.shape[:-1]), key_BNSE.shape[-2]
        self.flops += 2 * num_queries * num_keys * (query_BNTE.shape[-1] + value_BNSE.shape[-1])
        mixed_BNTE = query_BNTE.new_empty(*query_BNTE.shape[:-1], value_BNSE.shape[-1])
        needs_grad = _needs_grad(query_BNTE, key_BNSE, value_BNSE)
        if self._saved and needs_grad:
            for tensor in (query_BNTE, key_BNSE, value_BNSE, mixed_BNTE):
                self._saved.keep(tensor)
            self._saved.keep_bytes(num_queries * FLOAT_BYTES)
        return mixed_BNTE.requires_grad_(needs_grad)
