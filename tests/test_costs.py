"""What a model costs: FLOPs against counts by hand, memory against a real training step on the CPU."""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from conftest import make_feature_file
from fmasearch.config import TrainConfig
from fmasearch.costs import forward_flops, limited_costs, model_cost
from fmasearch.data import FileInfo, model_shape, read_info
from fmasearch.models import ARCHITECTURES, build_model, count_parameters
from fmasearch.optim import build_optimizer
from fmasearch.space.constraints import read_constraint

FRAMES, BINS, CLASSES = 48, 32, 4


@pytest.fixture
def info(tmp_path: Path) -> FileInfo:
    return read_info(make_feature_file(tmp_path / "a.h5", num_frames=FRAMES, num_bins=BINS, num_classes=CLASSES))


def config_of(architecture: str, *, batch_size: int = 8, sections: Any = None, **model: Any) -> TrainConfig:
    values = {
        "task": {"classification": "genre"},
        "model": {"architecture": architecture, **model},
        "trainer": {"batch_size": batch_size},
    }
    return TrainConfig.model_validate({**values, **(sections or {})})


def flops(architecture: str, **model: Any) -> int:
    return forward_flops(architecture, input_dim=BINS, num_frames=FRAMES, output_dim=CLASSES, **model)


# FLOPs by hand: 2 for each weight that a number is multiplied with, biases not counted


def test_a_recurrence_counts_each_weight_once_a_step() -> None:
    # 12 steps of 4 frames; two directions; 4 gates (LSTM) on 32 inputs and 8 states; the head on mean and maximum.
    one_layer = 12 * 2 * 2 * (4 * 8 * (32 + 8))
    head = 2 * (2 * 2 * 8) * CLASSES
    assert flops("lstm", hidden_dim=8, num_layers=1) == one_layer + head
    second_layer = 12 * 2 * 2 * (4 * 8 * (16 + 8))
    assert flops("lstm", hidden_dim=8, num_layers=2) == one_layer + second_layer + head


def test_a_convolution_counts_its_kernel_at_each_frame_and_a_gru_three_gates() -> None:
    convolution = 2 * FRAMES * (5 * BINS * 8)  # kernel 5 from 32 bins to 8 channels
    gru = FRAMES * 2 * 2 * (3 * 6 * (8 + 6))
    head = 2 * (12 * 8 + 8 * CLASSES)
    assert (
        flops("cnn_gru", hidden_dim=8, num_conv_layers=1, rnn_dim=6, num_layers=1, pooling="mean")
        == convolution + gru + head
    )


def test_attention_counts_the_products_of_queries_keys_and_values() -> None:
    # Patches of 16 x 16 without overlap: 3 columns of 2 rows, and two tokens before them.
    tokens, width, depth = 3 * 2 + 2, 96, 4
    patches = 2 * 6 * 16 * 16 * width
    linear = 2 * tokens * width * (3 * width + width + 4 * width + 4 * width)  # q, k, v; output; two of the MLP
    attention = 2 * tokens * tokens * width * 2
    head = 2 * width * CLASSES
    by_hand = patches + depth * (linear + attention) + head
    assert flops("ast", size="micro", frequency_stride=16, time_stride=16) == by_hand


@pytest.mark.parametrize("architecture", ["cnn_lstm", "cnn2d_gru"])
def test_the_formula_of_a_recurrence_agrees_with_counting_frame_by_frame(architecture: str) -> None:
    shape = {"input_dim": BINS, "num_frames": FRAMES, "output_dim": CLASSES}
    with torch.device("meta"):
        model = build_model(architecture, **shape).eval()
        x_BTF = torch.empty(1, FRAMES, BINS)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(x_BTF, torch.tensor([FRAMES]))
    assert forward_flops(architecture, **shape) == counter.get_total_flops()


# Costs of a configuration


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_every_architecture_has_its_costs(info: FileInfo, architecture: str) -> None:
    config = config_of(architecture)
    cost = model_cost(config, info)
    assert cost.parameters == cost.trainable_parameters == count_parameters(architecture, **model_shape(info, config))
    assert cost.flops > 0
    # AdamW: weights, the best weights, gradients and two states, in float32
    assert cost.training_memory_bytes >= 4 * 5 * cost.parameters + 8 * cost.activation_bytes


def test_costs_are_those_of_a_crop_and_grow_with_the_batch(info: FileInfo) -> None:
    whole, half = config_of("cnn2d"), config_of("cnn2d", sections={"crop": {"frames": FRAMES // 2}})
    assert model_cost(half, info).flops < 0.6 * model_cost(whole, info).flops
    small, large = (model_cost(config_of("cnn2d", batch_size=size), info) for size in (8, 24))
    batch = 2 * FRAMES * BINS * 4  # two copies of a clip: as it is, and augmented
    assert large.training_memory_bytes - small.training_memory_bytes == 16 * (small.activation_bytes + batch)


def test_frozen_blocks_keep_neither_gradients_nor_activations(info: FileInfo) -> None:
    free = model_cost(config_of("cnn2d"), info)
    frozen = model_cost(config_of("cnn2d", sections={"transfer": {"freeze": "backbone"}}), info)
    assert frozen.parameters == free.parameters > frozen.trainable_parameters
    assert frozen.activation_bytes < 0.01 * free.activation_bytes


def test_the_optimiser_decides_how_often_the_weights_are_there(info: FileInfo) -> None:
    def memory(**sections: Any) -> int:
        return model_cost(config_of("resnet", sections=sections), info).training_memory_bytes

    weights = 4 * model_cost(config_of("resnet"), info).parameters
    adam, momentum = memory(optimizer={"name": "adam"}), memory(optimizer={"name": "sgd"})
    plain = memory(optimizer={"name": "sgd", "momentum": 0.0})
    averaged = memory(trainer={"batch_size": 8, "ema_decay": 0.99})
    assert (adam - momentum, momentum - plain, averaged - adam) == (weights, weights, weights)


def test_only_what_is_limited_is_counted(info: FileInfo) -> None:
    config = config_of("lstm")
    some = [read_constraint("epoch_seconds", "<= 60")]
    assert limited_costs(config, info, some) == {"parameters": model_cost(config, info).parameters}
    both = limited_costs(config, info, [*some, read_constraint("flops", "<= 1G")])
    assert both == {"parameters": model_cost(config, info).parameters, "flops": model_cost(config, info).flops}


def test_the_largest_model_is_counted_without_its_memory_or_its_time() -> None:
    started = time.process_time()
    count = forward_flops("ast", input_dim=128, num_frames=1292, output_dim=8, size="base")
    assert count == pytest.approx(349.1e9, rel=0.001)  # as torch's counter alone has it, attention taken apart
    assert time.process_time() - started < 3  # 0.4 s on a quiet machine


# Memory, against what a training step on the CPU takes


@pytest.mark.parametrize(
    ("architecture", "model"),
    [("resnet", {}), ("cnn_gru", {"hidden_dim": 32}), ("lstm", {}), ("ast", {"size": "micro"})],
)
def test_estimated_memory_is_within_a_quarter_of_a_real_step(
    tmp_path: Path, architecture: str, model: dict[str, Any]
) -> None:
    info = read_info(make_feature_file(tmp_path / "a.h5", num_frames=256, num_bins=64, num_classes=CLASSES))
    config = config_of(architecture, **model)
    cost = model_cost(config, info)
    # The step below keeps no best weights, and does not augment.
    estimate = cost.training_memory_bytes - 4 * cost.parameters - 4 * 8 * 256 * 64
    assert 0.75 < estimate / peak_bytes(config, info) < 1.25


def peak_bytes(config: TrainConfig, info: FileInfo) -> int:
    """Most memory that tensors take at a time in two steps, the model's making included."""
    shape = model_shape(info, config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the profiler's own, about cycles
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            model = build_model(config.architecture, **shape, **config.hyperparameters)
            optimizer = build_optimizer(model.blocks(), config.optimizer, fused=True)
            for _ in range(2):
                optimizer.zero_grad(set_to_none=True)
                x_BTF = torch.randn(config.trainer.batch_size, shape["num_frames"], shape["input_dim"])
                outputs_BK = model(x_BTF, torch.full((len(x_BTF),), shape["num_frames"]))
                loss = nn.functional.cross_entropy(outputs_BK, torch.zeros(len(x_BTF), dtype=torch.int64))
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    total = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        total += event.nbytes()
        peak = max(peak, total)
    return peak
