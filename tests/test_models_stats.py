"""Statistics of a clip and the MLP on them."""

import torch
from torch import nn

from fmasearch.models import build_model, count_parameters
from fmasearch.models.stats import clip_statistics


def test_statistics_are_mean_spread_and_movement() -> None:
    x_BTF = torch.tensor([[[1.0, 2.0], [3.0, 2.0], [8.0, 2.0]]])
    # Bin 0: mean 4, variance (9 + 1 + 16) / 3, deltas 2 and 5; bin 1 never moves.
    expected = torch.tensor([[4.0, 2.0, (26 / 3) ** 0.5, 0.0, 3.5, 0.0]])
    torch.testing.assert_close(clip_statistics(x_BTF, torch.tensor([3])), expected)


def test_statistics_are_over_a_clips_own_frames() -> None:
    x_BTF = torch.tensor([[[1.0], [3.0], [0.0], [0.0]], [[1.0], [3.0], [5.0], [7.0]]])
    # 1, 3: mean 2, spread 1, one delta of 2; the step from 3 to the padding is none. 1, 3, 5, 7: spread sqrt(20 / 4).
    expected = torch.tensor([[2.0, 1.0, 2.0], [4.0, 5**0.5, 2.0]])
    torch.testing.assert_close(clip_statistics(x_BTF, torch.tensor([2, 4])), expected)


def test_a_single_frame_has_no_spread_and_no_movement() -> None:
    statistics = clip_statistics(torch.tensor([[[3.0], [0.0]]]), torch.tensor([1]))
    assert statistics.tolist() == [[3.0, 0.0, 0.0]]


def test_no_layers_are_a_linear_probe() -> None:
    model = build_model("stats", input_dim=128, num_frames=10, output_dim=16, num_layers=0)
    assert [name for name, _ in model.named_parameters()] == ["head.output.weight", "head.output.bias"]
    assert model.blocks() == (model.head,)
    assert sum(parameter.numel() for parameter in model.parameters()) == 3 * 128 * 16 + 16


def test_layers_are_counted_by_hand() -> None:
    parameters = (3 * 12 * 20 + 20) + (20 * 20 + 20) + (20 * 5 + 5)
    size = {"hidden_dim": 20, "num_layers": 2}
    assert count_parameters("stats", input_dim=12, num_frames=10, output_dim=5, **size) == parameters


def test_dropout_follows_every_hidden_layer() -> None:
    model = build_model("stats", input_dim=4, num_frames=10, output_dim=5, num_layers=3, dropout=0.25)
    assert [module.p for module in model.modules() if isinstance(module, nn.Dropout)] == [0.25] * 3
