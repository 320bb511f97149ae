"""The Conformer: shapes, parameter count, masks, rotary positions."""

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor

from fmasearch.errors import ConfigError
from fmasearch.models import build_model, count_parameters
from fmasearch.models.conformer import conformer, rotary_angles, rotate

SMALL = {"hidden_dim": 16, "num_layers": 2, "num_heads": 2, "kernel_size": 7, "conv_channels": 4, "expansion": 2}


def model_of(**hyperparameters: Any) -> Any:
    values = {"input_dim": 10, "num_frames": 40, "output_dim": 3, **SMALL, **hyperparameters}
    torch.manual_seed(0)
    return build_model("conformer", **values)


def clips(lengths: list[int], num_frames: int) -> tuple[Tensor, Tensor]:
    """Random clips, 0 at and after their lengths."""
    x_BTF = torch.randn(len(lengths), num_frames, 10, generator=torch.Generator().manual_seed(1))
    for clip, length in zip(x_BTF, lengths, strict=True):
        clip[length:] = 0
    return x_BTF, torch.tensor(lengths)


def test_parameters_written_out() -> None:
    h, c, kernel = 144, 32, 15
    subsampling = (9 * c + c) + (9 * c * c + c) + (32 * c * h + h)  # 128 bins are halved twice: 32 are left
    feed_forward = 2 * h + (4 * h * h + 4 * h) + (4 * h * h + h)
    attention = 2 * h + (3 * h * h + 3 * h) + (h * h + h)
    convolution = 2 * h + (2 * h * h + 2 * h) + (kernel * h + h) + 2 * h + (h * h + h)
    block = 2 * feed_forward + attention + convolution + 2 * h
    head = 2 * h * 16 + 16  # mean and maximum
    expected = subsampling + 4 * block + head
    assert count_parameters("conformer", input_dim=128, num_frames=1292, output_dim=16) == expected == 2_095_424


@pytest.mark.parametrize(
    ("num_conv_layers", "num_frames", "steps"),
    [(1, 128, 64), (2, 128, 32), (3, 128, 16), (2, 1292, 323), (2, 1293, 324), (3, 1, 1)],  # halved upwards
)
def test_each_convolution_halves_time(num_conv_layers: int, num_frames: int, steps: int) -> None:
    subsampling = model_of(num_conv_layers=num_conv_layers).backbone.subsampling
    states_BTH, lengths = subsampling(torch.zeros(2, num_frames, 10), torch.tensor([num_frames, 1]))
    assert states_BTH.shape == (2, steps, 16)
    assert lengths is None if steps == 1 else lengths.tolist() == [steps, 1]


@pytest.mark.parametrize("pooling", ["last", "mean", "max", "mean_max", "attention"])
@pytest.mark.parametrize("num_conv_layers", [1, 3])
def test_padding_does_not_change_the_prediction(pooling: str, num_conv_layers: int) -> None:
    model = model_of(pooling=pooling, num_conv_layers=num_conv_layers).eval()
    lengths = [9, 40, 2, 17, 39, 1]
    x_BTF, lengths_B = clips(lengths, 43)
    together = model(x_BTF, lengths_B)
    for row, length in enumerate(lengths):
        alone = model(x_BTF[row : row + 1, :length], torch.tensor([length]))
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=1e-5)


def test_padding_takes_no_part_in_training_either() -> None:
    # Layer norm, not batch norm: without dropout there is no difference between training and evaluation.
    model = model_of(dropout=0.0, head_dropout=0.0).train()
    x_BTF, lengths_B = clips([40, 11], 40)
    alone = model(x_BTF[1:, :11], lengths_B[1:])
    torch.testing.assert_close(model(x_BTF, lengths_B)[1:], alone, atol=1e-5, rtol=1e-5)


def test_clips_with_as_many_steps_are_not_masked() -> None:
    subsampling = model_of().backbone.subsampling
    x_BTF, _ = clips([40, 40, 40], 40)
    assert subsampling(x_BTF, torch.tensor([39, 40, 39]))[1] is None  # 20 steps each after the first halving
    assert subsampling(x_BTF, torch.tensor([36, 40, 39]))[1].tolist() == [9, 10, 10]


def test_the_order_of_frames_matters_to_attention_alone() -> None:
    # With kernels of 1 the blocks mix time by attention alone; without positions it is blind to the order of steps.
    model = model_of(kernel_size=1, pooling="mean").eval()
    backbone = model.backbone
    states_BTH = torch.randn(1, 20, 16, generator=torch.Generator().manual_seed(2))
    rotation = rotary_angles(20, backbone.head_dim, torch.device("cpu"))
    block = backbone.layers[0]
    forwards, backwards = block(states_BTH, None, rotation), block(states_BTH.flip(1), None, rotation)
    assert not torch.allclose(forwards.mean(1), backwards.mean(1), atol=1e-4)
    none = tuple(torch.ones_like(part) * (1 - index) for index, part in enumerate(rotation))  # cosine 1, sine 0
    forwards, backwards = block(states_BTH, None, none), block(states_BTH.flip(1), None, none)
    torch.testing.assert_close(forwards.mean(1), backwards.mean(1))


def test_rotation_by_hand() -> None:
    rotation = rotary_angles(2, 4, torch.device("cpu"))
    cosines_TE, sines_TE = rotation
    # Frequencies 10,000 ** -0 = 1 and 10,000 ** -(2 / 4) = 0.01; frame 0 is not turned.
    torch.testing.assert_close(cosines_TE, torch.tensor([[1.0, 1.0], [0.5403023, 0.9999500]]))
    torch.testing.assert_close(sines_TE, torch.tensor([[0.0, 0.0], [0.8414710, 0.0099998]]))
    x_TE = torch.tensor([[1.0, 2.0, 3.0, 4.0], [1.0, 0.0, 0.0, 1.0]])
    turned_TE = rotate(x_TE, rotation)
    assert turned_TE[0].tolist() == [1.0, 2.0, 3.0, 4.0]
    # Pairs (1, 0) by 1 radian and (0, 1) by 0.01 radian.
    torch.testing.assert_close(turned_TE[1], torch.tensor([0.5403023, -0.0099998, 0.8414710, 0.9999500]))


def test_rotated_products_depend_on_distance_alone() -> None:
    rotation = rotary_angles(12, 8, torch.device("cpu"))
    query_E, key_E = torch.randn(2, 8, generator=torch.Generator().manual_seed(3))
    queries_TE, keys_TE = rotate(query_E.expand(12, 8), rotation), rotate(key_E.expand(12, 8), rotation)
    torch.testing.assert_close(queries_TE[7] @ keys_TE[4], queries_TE[11] @ keys_TE[8], atol=1e-5, rtol=1e-5)
    assert (queries_TE[7] @ keys_TE[4] - queries_TE[7] @ keys_TE[5]).abs() > 1e-3


def test_bf16_autocast_stays_close_to_fp32() -> None:
    model = model_of().eval()
    batch = clips([40, 40, 9], 40)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model(*batch)
    # bf16 has 8 bits of mantissa: 0.4 % a rounding.
    torch.testing.assert_close(outputs.float(), model(*batch), atol=0.05, rtol=0.05)


def test_blocks_are_subsampling_then_layers_then_pooling_with_the_last() -> None:
    model = model_of(pooling="attention")
    blocks = model.blocks()
    assert len(blocks) == 1 + 2 + 1  # subsampling, layers, head
    owned = [id(parameter) for block in blocks for parameter in block.parameters()]
    assert sorted(owned) == sorted(id(parameter) for parameter in model.parameters())
    assert {id(p) for p in model.backbone.pool.parameters()} <= {id(p) for p in blocks[2].parameters()}


@pytest.mark.parametrize(("hidden_dim", "num_heads"), [(16, 3), (12, 4)])  # no whole head; a head of odd width 3
def test_heads_must_divide_the_width_evenly(hidden_dim: int, num_heads: int) -> None:
    with pytest.raises(ConfigError, match=rf"^model\.num_heads: .* model\.hidden_dim {hidden_dim}, got {num_heads}$"):
        model_of(hidden_dim=hidden_dim, num_heads=num_heads)


def test_an_even_kernel_is_told() -> None:
    with pytest.raises(ConfigError, match=r"model\.kernel_size: expected an odd integer >= 1, got 8"):
        model_of(kernel_size=8)


def test_it_shares_the_pooling_choice() -> None:
    assert inspect.signature(conformer).parameters["pooling"].default == "mean_max"
    assert model_of(pooling="mean_max").head.output.in_features == 2 * 16
    assert model_of(pooling="attention").head.output.in_features == 16
