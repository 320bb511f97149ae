"""The optimiser: which parameters it moves, at which rate, with which decay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from fmasearch.config import OptimizerConfig
from fmasearch.errors import ConfigError


def build_optimizer(blocks: Sequence[nn.Module], config: OptimizerConfig, *, fused: bool) -> Optimizer:
    """The optimiser that a configuration names, over the trainable parameters of `blocks`.

    adam   with an L2 penalty on everything (Kingma & Ba, 2015)
    adamw  decays matrices only (Loshchilov & Hutter, 2019): biases and the scales of norms are shifts and gains,
           and pulling them to 0 limits no complexity
    sgd    with an L2 penalty on everything; Nesterov's look-ahead is one of momentum, so there is none without it

    Under `layer_decay` d < 1 block i of n learns at `learning_rate` * d**(n - 1 - i), frozen blocks counted.

    Args:
        blocks: from input to output, such as `ClipModel.blocks()`; the last one, the head, learns at `learning_rate`.
        config: the optimiser and its settings.
        fused: one kernel for all parameters of a group, on CUDA and on the CPU.

    Raises:
        ConfigError: if no parameter is trainable.
    """
    layers = _layers(blocks, config)
    if not layers:
        raise ConfigError("transfer.freeze: expected at least one trainable parameter, got none")
    if config.name == "adam":
        groups = [{"params": layer.parameters, "lr": layer.learning_rate} for layer in layers]
        return Adam(groups, lr=config.learning_rate, weight_decay=config.weight_decay, fused=fused)
    if config.name == "sgd":
        return SGD(
            [{"params": layer.parameters, "lr": layer.learning_rate} for layer in layers],
            lr=config.learning_rate,
            momentum=config.momentum,
            nesterov=config.nesterov and config.momentum > 0,
            weight_decay=config.weight_decay,
            fused=fused,
        )
    groups = [group for layer in layers for group in _decayed_and_not(layer, config.weight_decay)]
    return AdamW(groups, lr=config.learning_rate, fused=fused)


@dataclass(frozen=True, slots=True)
class _Layer:
    """Trainable parameters that share a learning rate."""

    parameters: list[nn.Parameter]
    learning_rate: float


def _layers(blocks: Sequence[nn.Module], config: OptimizerConfig) -> list[_Layer]:
    if config.layer_decay == 1:
        return _layer([p for block in blocks for p in block.parameters()], config.learning_rate)
    rates = [config.learning_rate * config.layer_decay**depth for depth in reversed(range(len(blocks)))]
    return [
        layer for block, rate in zip(blocks, rates, strict=True) for layer in _layer(list(block.parameters()), rate)
    ]


def _layer(parameters: Sequence[nn.Parameter], learning_rate: float) -> list[_Layer]:
    """One layer, or none if all of it is frozen."""
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    return [_Layer(trainable, learning_rate)] if trainable else []


def _decayed_and_not(layer: _Layer, weight_decay: float) -> list[dict[str, object]]:
    matrices = [parameter for parameter in layer.parameters if parameter.ndim >= 2]
    vectors = [parameter for parameter in layer.parameters if parameter.ndim < 2]
    groups: list[dict[str, object]] = [
        {"params": matrices, "lr": layer.learning_rate, "weight_decay": weight_decay},
        {"params": vectors, "lr": layer.learning_rate, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
