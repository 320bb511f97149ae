"""The contract of every architecture, the reference shapes, and how hyperparameters are checked."""

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fmasearch.errors import ConfigError
from fmasearch.models import ARCHITECTURES, build_model

SMALL = {"hidden_dim": 6, "rnn_dim": 5, "num_layers": 2}
POOLINGS = ["last", "mean", "max", "mean_max"]

FAMILY = ("cnn_gru", "cnn_lstm", "cnn_bilstm")

every_architecture = pytest.mark.parametrize("architecture", FAMILY)


def small_model(architecture: str, *, num_frames: int = 24, **hyperparameters: Any) -> Any:
    """A model of 4 bins and 3 outputs whose batch norms have seen data, so that they do not map 0 to 0."""
    torch.manual_seed(0)
    model = build_model(architecture, input_dim=4, num_frames=num_frames, output_dim=3, **{**SMALL, **hyperparameters})
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(8, 24, 4) * 3 + 1, torch.full((8,), 24))
    return model.eval()


def clips(lengths: list[int], num_frames: int) -> tuple[Tensor, Tensor]:
    """Standardised random clips, 0 at and after their lengths."""
    x_BTF = torch.randn(len(lengths), num_frames, 4, generator=torch.Generator().manual_seed(1))
    for clip, length in zip(x_BTF, lengths, strict=True):
        clip[length:] = 0
    return x_BTF, torch.tensor(lengths)


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def conv_stack(bins: int, h: int) -> int:
    """Three convolutions (5 F h + h, 3 h 2h + 2h, 3 2h 4h + 4h) and their batch norms (2h, 4h, 8h)."""
    return 5 * bins * h + 3 * h + 6 * h * h + 6 * h + 24 * h * h + 12 * h


def rnn(gates: int, i: int, h: int, layers: int, directions: int) -> int:
    """Per layer and direction: gates of input, state and two biases; later layers read all directions."""
    first = gates * h * (i + h) + 2 * gates * h
    later = gates * h * (directions * h + h) + 2 * gates * h
    return directions * first + (layers - 1) * directions * later


@pytest.mark.parametrize(
    ("h", "layers", "millions"),
    [(64, 1, 0.479), (64, 2, 0.775), (128, 1, 1.826), (128, 2, 3.009), (256, 1, 7.13), (256, 2, 11.85)],
)
def test_cnn_gru_has_the_parameters_of_the_reference(h: int, layers: int, millions: float) -> None:
    with torch.device("meta"):
        model = build_model("cnn_gru", input_dim=128, num_frames=1292, output_dim=12, hidden_dim=h, num_layers=layers)
    head = 4 * h * h + h + 12 * h + 12  # 4h -> h -> 12
    assert count(model) == conv_stack(128, h) + rnn(3, 4 * h, 2 * h, layers, 2) + head
    assert count(model) / 1e6 == pytest.approx(millions, rel=1e-3)


@pytest.mark.parametrize(("h", "millions"), [(64, 1.023), (128, 1.696), (256, 3.779)])
def test_cnn_bilstm_has_the_parameters_of_the_reference(h: int, millions: float) -> None:
    with torch.device("meta"):
        model = build_model("cnn_bilstm", input_dim=128, num_frames=1292, output_dim=12, hidden_dim=h)
    head = 512 * 128 + 128 + 128 * 12 + 12  # average and maximum of 2 x 128 states -> 128 -> 12
    assert count(model) == conv_stack(128, h) + rnn(4, 4 * h, 128, 2, 2) + head
    assert count(model) / 1e6 == pytest.approx(millions, rel=1e-3)


def test_cnn_lstm_has_the_parameters_of_the_reference() -> None:
    with torch.device("meta"):
        model = build_model("cnn_lstm", input_dim=128, num_frames=1292, output_dim=12)
    # Convolutions 573,440 + 2,688 biases and norms; LSTM 328,704 + 132,096; head 128 -> 64 -> 12.
    assert count(model) == conv_stack(128, 128) + rnn(4, 512, 128, 2, 1) + 128 * 64 + 64 + 64 * 12 + 12
    assert count(model) == 576_128 + 460_800 + 9_036


def test_thirty_seconds_become_323_recurrent_steps() -> None:
    model: Any = build_model("cnn_gru", input_dim=4, num_frames=1292, output_dim=3, hidden_dim=2)
    x_BCT, lengths = model.backbone.convs(torch.zeros(2, 1292, 4), torch.tensor([1292, 1292]))
    assert x_BCT.shape == (2, 8, 323)  # 1292 -> 646 -> 323 frames, 4 * hidden_dim channels
    assert lengths is None


@every_architecture
@pytest.mark.parametrize(("depth", "pool_size"), [(1, 2), (2, 3), (4, 4)])
def test_padding_changes_nothing_at_any_depth(architecture: str, depth: int, pool_size: int) -> None:
    kernels = {"first_kernel_size": 7, "kernel_size": 5}
    model = small_model(architecture, num_conv_layers=depth, pool_size=pool_size, **kernels)
    x_BTF, lengths_B = clips([24, 10, 3], 24)
    together = model(x_BTF, lengths_B)
    for row, length in enumerate(lengths_B.tolist()):
        alone = model(x_BTF[row : row + 1, :length], torch.tensor([length]))
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-6, rtol=1e-5)


@every_architecture
def test_clips_of_full_length_are_neither_masked_nor_packed(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model(architecture)
    monkeypatch.setattr("fmasearch.models.recurrent.pack_padded_sequence", None)
    monkeypatch.setattr("fmasearch.models.cnn_rnn.ConvBlock._padding", None)
    assert model(*clips([24, 24], 24)).shape == (2, 3)
    assert model(*clips([19, 19], 24)).shape == (2, 3)  # equal lengths are cut, then full


@every_architecture
def test_a_single_frame_is_enough(architecture: str) -> None:
    model = small_model(architecture, num_frames=1, num_conv_layers=4, pool_size=4)
    assert model(*clips([1, 1], 1)).isfinite().all()


def test_default_poolings_are_those_of_the_reference() -> None:
    signatures = {name: inspect.signature(ARCHITECTURES[name]) for name in FAMILY}
    poolings = {name: signature.parameters["pooling"].default for name, signature in signatures.items()}
    assert poolings == {"cnn_gru": "mean", "cnn_lstm": "last", "cnn_bilstm": "mean_max"}


def test_one_recurrent_layer_ignores_dropout_between_layers() -> None:
    assert small_model("cnn_gru", num_layers=1, rnn_dropout=0.5).backbone.rnn.rnn.dropout == 0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"hiden_dim": 8}, "model.hiden_dim: unknown hyperparameter of cnn_gru; did you mean 'hidden_dim'?"),
        ({"width": 8}, "model.width: unknown hyperparameter of cnn_gru; known here: dropout, first_kernel"),
        ({"hidden_dim": 0}, "model.hidden_dim: expected an integer >= 1, got 0"),
        ({"hidden_dim": 8.0}, "model.hidden_dim: expected an integer >= 1, got 8.0"),
        ({"hidden_dim": True}, "model.hidden_dim: expected an integer >= 1, got True"),
        ({"hidden_dim": None}, "model.hidden_dim: expected an integer >= 1, got None"),
        ({"rnn_dim": "wide"}, "model.rnn_dim: expected an integer >= 1 or null, got 'wide'"),
        ({"kernel_size": 4}, "model.kernel_size: expected an odd integer >= 1, got 4"),
        ({"num_layers": 9}, "model.num_layers: expected an integer from 1 to 8, got 9"),
        ({"dropout": 1.0}, "model.dropout: expected a number from 0 to 0.95, got 1.0"),
        ({"dropout": float("nan")}, "model.dropout: expected a number from 0 to 0.95, got nan"),
        ({"pooling": "avg"}, "model.pooling: expected one of last, mean, max, mean_max, attention, got 'avg'"),
    ],
)
def test_wrong_hyperparameters_are_named(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        build_model("cnn_gru", input_dim=4, num_frames=24, output_dim=3, **wrong)
    assert str(error.value).startswith(message)


def test_all_wrong_values_are_told_at_once() -> None:
    with pytest.raises(ConfigError, match=r"(?s)model\.dropout: .*model\.num_layers: "):
        build_model("cnn_lstm", input_dim=4, num_frames=24, output_dim=3, dropout=-1, num_layers=0)


def test_data_of_no_size_is_told() -> None:
    with pytest.raises(ConfigError, match=r"^num_frames: expected an integer >= 1, got 0$"):
        build_model("cnn_lstm", input_dim=4, num_frames=0, output_dim=3)


def test_an_unknown_architecture_is_told_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"architecture: unknown .* 'cnn_gur'; did you mean 'cnn_gru'"):
        build_model("cnn_gur", input_dim=4, num_frames=24, output_dim=3)
