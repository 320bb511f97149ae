"""The LSTM on frames: the report's parameters, and frames averaged into steps."""

from typing import Any

import pytest
import torch

from fmasearch.models import build_model, count_parameters
from fmasearch.models.lstm import mean_of_frames

CLIPS = {"input_dim": 128, "num_frames": 1292, "output_dim": 10}


def test_eight_layers_of_256_are_the_model_of_report_g() -> None:
    # 4 gates x 256 x (128 inputs + 256 states + 2 biases) x 2 directions, then 7 layers that read 512:
    states = 2 * 1024 * 386 + 7 * 2 * 1024 * 770
    assert states == 11_829_248  # 11.83 M
    head = 10 * 512 + 10
    assert count_parameters("lstm", hidden_dim=256, num_layers=8, pooling="last", **CLIPS) == states + head


def test_two_layers_of_64_have_a_fifth_of_a_million() -> None:
    states = 2 * 256 * (128 + 64 + 2) + 2 * 256 * (128 + 64 + 2)  # the second layer reads 2 x 64
    assert states == 198_656  # 0.199 M
    assert count_parameters("lstm", hidden_dim=64, num_layers=2, pooling="last", **CLIPS) == states + 10 * 128 + 10


def test_one_direction_and_a_projection_are_counted_by_hand() -> None:
    one_way = {"hidden_dim": 16, "num_layers": 1, "bidirectional": False, "projection_dim": 8, "pooling": "last"}
    parameters = (128 * 8 + 8) + 4 * 16 * (8 + 16 + 2) + (10 * 16 + 10)
    assert count_parameters("lstm", **one_way, **CLIPS) == parameters


def test_frames_are_averaged_into_steps() -> None:
    x_BTF = torch.tensor([[[1.0], [2.0], [6.0], [4.0], [8.0]]])
    steps_BSF, lengths = mean_of_frames(x_BTF, None, 3)
    assert steps_BSF[:, :, 0].tolist() == [[3.0, 6.0]]  # (1 + 2 + 6) / 3, and (4 + 8) / 2 of what is left
    assert lengths is None


def test_a_step_averages_a_clips_own_frames_alone() -> None:
    x_BTF = torch.tensor([[[1.0], [3.0], [5.0], [7.0], [9.0]], [[4.0], [2.0], [6.0], [0.0], [0.0]]])
    steps_BSF, lengths = mean_of_frames(x_BTF, torch.tensor([5, 3]), 2)
    assert steps_BSF[:, :, 0].tolist() == [[2.0, 6.0, 9.0], [3.0, 6.0, 0.0]]  # 6 alone, not (6 + 0) / 2
    assert lengths is not None
    assert lengths.tolist() == [3, 2]


def test_a_stride_of_one_leaves_the_frames_as_they_are() -> None:
    x_BTF, lengths_B = torch.randn(2, 5, 3), torch.tensor([5, 2])
    assert mean_of_frames(x_BTF, lengths_B, 1) == (x_BTF, lengths_B)


@pytest.mark.parametrize(("stride", "steps"), [(1, 129), (4, 33), (16, 9)])  # 129 frames, the last step partial
def test_the_recurrence_takes_one_step_for_each_stride(stride: int, steps: int) -> None:
    model: Any = build_model("lstm", input_dim=4, num_frames=129, output_dim=2, hidden_dim=3, frame_stride=stride)
    seen: list[torch.Tensor] = []
    model.backbone.rnn.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model(torch.randn(2, 129, 4), torch.tensor([129, 129]))
    assert seen[0].shape == (2, 4, steps)
