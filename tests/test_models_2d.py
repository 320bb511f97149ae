"""The 2-D convolutional architectures: shapes and parameters of the reports and the paper, pools, strides."""

from typing import Any

import pytest
import torch
from torch import nn

from fmasearch.errors import ConfigError
from fmasearch.models import build_model, count_parameters

CLIPS = {"input_dim": 128, "num_frames": 1292}


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def residual_block(i: int, o: int) -> int:
    """Two convolutions 3 x 3, a third in the shortcut, a bias for each, and three batch norms of 2 o."""
    return (9 * i * o + o) + (9 * o * o + o) + (9 * i * o + o) + 6 * o


def conv_blocks(h: int) -> int:
    """Kernels 5, 3, 3 on h, 2h, 4h channels, a bias each, and their batch norms (2h, 4h, 8h)."""
    return (25 * h + h) + (9 * h * 2 * h + 2 * h) + (9 * 2 * h * 4 * h + 4 * h) + 14 * h


def rnn(gates: int, i: int, h: int) -> int:
    """Two bidirectional layers: gates of input, state and two biases; the second reads both directions."""
    return 2 * gates * h * (i + h + 2) + 2 * gates * h * (2 * h + h + 2)


def test_cnn2d_has_the_convolutions_of_report_g() -> None:
    model: Any = build_model("cnn2d", output_dim=10, **CLIPS)
    assert [block.conv.kernel_size for block in model.backbone.convs.blocks] == [(5, 5), (5, 5), (3, 3), (3, 3)]
    assert [block.conv.out_channels for block in model.backbone.convs.blocks] == [32, 64, 128, 256]
    # 5*5*1*32+32 = 832, 5*5*32*64+64 = 51,264, 3*3*64*128+128 = 73,856, 3*3*128*256+256 = 295,168;
    # batch norms 2 * 480 = 960. The report: 0.422 M, and 41.9 M in a layer that is 0.52 M here: 2*256*4*256 + 256.
    assert count(model.backbone) == 832 + 51_264 + 73_856 + 295_168 + 960 == 422_080
    assert count(model.head) == 2048 * 256 + 256 + 256 * 10 + 10


@pytest.mark.parametrize(
    ("num_blocks", "kernels"), [(1, [7]), (2, [7, 3]), (3, [7, 3, 3]), (5, [7, 7, 3, 3, 3]), (6, [7, 7, 7, 3, 3, 3])]
)
def test_the_first_half_of_the_blocks_has_the_first_kernel(num_blocks: int, kernels: list[int]) -> None:
    hyperparameters = {"base_channels": 2, "num_blocks": num_blocks, "first_kernel_size": 7}
    model: Any = build_model("cnn2d", output_dim=2, **CLIPS, **hyperparameters)
    assert [block.conv.kernel_size[0] for block in model.backbone.convs.blocks] == kernels


@pytest.mark.parametrize(
    ("bins", "num_bins"),
    [(128, 4), (64, 4), (40, 2), (12, 1)],  # 128 / 16 = 8, 64 / 16 = 4, 40 -> 20 10 5 2, 12 -> 6 3 1 1
)
def test_bins_are_averaged_to_pool_bins_or_stay_if_fewer(bins: int, num_bins: int) -> None:
    model: Any = build_model("cnn2d", input_dim=bins, num_frames=33, output_dim=2, base_channels=2)
    x_BDT, lengths = model.backbone.convs(torch.randn(2, 33, bins), torch.tensor([33, 17]))
    assert x_BDT.shape == (2, 16 * num_bins, 2)  # channels 2, 4, 8, 16; 33 -> 16 8 4 2 frames
    assert lengths.tolist() == [2, 1]


def test_thirty_seconds_are_323_steps_of_32_bins_as_in_report_c() -> None:
    model: Any = build_model("cnn2d_gru", output_dim=12, base_channels=2, pool_bins=32, **CLIPS)
    x_BDT, lengths = model.backbone.convs(torch.zeros(1, 1292, 128), torch.tensor([1292]))
    assert x_BDT.shape == (1, 4 * 2 * 32, 323)  # 4h channels of 32 bins; 1292 -> 646 -> 323 frames
    assert lengths is None


@pytest.mark.parametrize(("h", "millions"), [(16, 0.228), (32, 0.908), (64, 3.63)])
def test_cnn2d_gru_has_the_parameters_of_report_c(h: int, millions: float) -> None:
    report = {"base_channels": h, "rnn_dim": h, "num_layers": 2, "pool_bins": 32}
    parameters = count_parameters("cnn2d_gru", output_dim=12, **CLIPS, **report)
    assert parameters == conv_blocks(h) + rnn(3, 4 * h * 32, h) + (2 * h * h + h) + (12 * h + 12)  # mean: 2h -> h -> 12
    assert parameters / 1e6 == pytest.approx(millions, abs=0.005 if h == 64 else 0.0005)  # as many digits as it gives


def test_cnn2d_lstm_has_the_shape_of_report_c() -> None:
    report = {"base_channels": 64, "rnn_dim": 128, "num_layers": 2, "pool_bins": 32}
    parameters = count_parameters("cnn2d_lstm", output_dim=12, **CLIPS, **report)
    head = 512 * 128 + 128 + 128 * 12 + 12  # average and maximum of 2 x 128 states
    assert parameters == conv_blocks(64) + rnn(4, 8192, 128) + head  # 256 channels of 32 bins


@pytest.mark.parametrize(("c", "millions"), [(16, 0.194), (32, 0.765), (64, 3.04), (128, 12.10)])
def test_resnet_has_the_parameters_of_the_short_chunk_cnn(c: int, millions: float) -> None:
    paper = {"base_channels": c, "num_blocks": 7, "pooling": "max"}
    parameters = count_parameters("resnet", output_dim=50, **CLIPS, **paper)
    first = residual_block(1, c) + residual_block(c, c) + residual_block(c, 2 * c)
    blocks = first + 3 * residual_block(2 * c, 2 * c) + residual_block(2 * c, 4 * c)
    head = 16 * c * c + 4 * c + 50 * 4 * c + 50  # 4c -> 4c -> 50 tags
    assert parameters == blocks + head + 2  # scale and shift of the input
    assert parameters / 1e6 == pytest.approx(millions, rel=2e-3)


def test_excitation_adds_two_small_layers_to_each_block() -> None:
    def parameters(se_ratio: int | None) -> int:
        return count_parameters("resnet", output_dim=2, **CLIPS, base_channels=8, num_blocks=4, se_ratio=se_ratio)

    # Blocks of 8, 8, 16 and 32 channels over 2, 2, 4 and 8 hidden units: c*r + r + r*c + c
    gates = 2 * (16 + 2 + 16 + 8) + (64 + 4 + 64 + 16) + (256 + 8 + 256 + 32)
    assert parameters(4) - parameters(None) == gates
    # A ratio beyond the channels leaves one hidden unit: 8 + 1 + 8 + 8 and so on.
    assert parameters(64) - parameters(None) == 2 * 25 + 49 + 97


@pytest.mark.parametrize(("frames", "left"), [(231, 2), (128, 1), (129, 2), (1292, 11), (1, 1)])
def test_seven_strides_leave_a_128th_of_the_frames_rounded_up(frames: int, left: int) -> None:
    model: Any = build_model("resnet", input_dim=12, num_frames=frames, output_dim=2, base_channels=1)
    x_BCTF = torch.zeros(2, 1, frames, 12)
    lengths = torch.tensor([frames, 1])
    for block in model.backbone.residuals:
        x_BCTF, lengths = block(x_BCTF, lengths)
    assert x_BCTF.shape == (2, 4, left, 1)  # 12 -> 6 3 2 1 1 1 1 bins
    assert lengths.tolist() == [left, 1]


def test_clips_of_full_length_are_not_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fmasearch.models.convolution2d.padding_mask", None)
    x_BTF = torch.zeros(2, 24, 8)
    for architecture in ("cnn2d", "cnn2d_gru", "cnn2d_lstm", "resnet"):
        model = build_model(architecture, input_dim=8, num_frames=24, output_dim=3, base_channels=4).eval()
        assert model(x_BTF, torch.tensor([24, 24])).shape == (2, 3)
        assert model(x_BTF, torch.tensor([19, 19])).shape == (2, 3)  # equal lengths are cut, then full


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_blocks": 3}, "model.num_blocks: expected an integer from 4 to 8, got 3"),
        ({"se_ratio": 0}, "model.se_ratio: expected an integer >= 1 or null, got 0"),
        ({"pooling": "last"}, "model.pooling: expected one of mean, max, mean_max, attention, got 'last'"),
    ],
)
def test_a_resnet_that_cannot_be_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        build_model("resnet", output_dim=2, **CLIPS, **wrong)
    assert str(error.value) == message
