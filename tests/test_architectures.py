"""The contract of every architecture: shapes, padding, order, gradients, blocks, its own space, and 16 clips by heart.

A new architecture joins `ARCHITECTURES`, gets a line in `SMALL` and a file in spaces/, and is held to all of it.
"""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import torch
from torch import Tensor, nn

from conftest import make_dataset
from fmasearch.config import TrainConfig
from fmasearch.data import Dataset
from fmasearch.models import ARCHITECTURES, build_model, count_parameters
from fmasearch.records import Params, Scalar
from fmasearch.space import Choice, Distribution, Space
from fmasearch.trainer import overfit_batch

SMALL: dict[str, dict[str, Any]] = {
    "cnn_gru": {"hidden_dim": 12, "rnn_dim": 12},
    "cnn_lstm": {"hidden_dim": 12, "rnn_dim": 32},
    "cnn_bilstm": {"hidden_dim": 12, "rnn_dim": 12},
    "lstm": {"hidden_dim": 16, "projection_dim": 13, "frame_stride": 3},
    "cnn2d": {"base_channels": 8, "num_blocks": 3, "feature_size": 32},
    "resnet": {"base_channels": 8, "num_blocks": 4, "se_ratio": 2},
    "cnn2d_gru": {"base_channels": 8, "rnn_dim": 16},
    "cnn2d_lstm": {"base_channels": 8, "rnn_dim": 16},
    "stats": {"hidden_dim": 32},
    "ast": {"size": "micro"},
    "conformer": {"hidden_dim": 16, "num_layers": 2, "conv_channels": 4},
}
LEARNING_RATES = {"ast": 2e-3, "conformer": 5e-3}
"""At which the small model learns 16 clips by heart; 0.01 elsewhere."""

SPACES = Path(__file__).parents[1] / "spaces"
LENGTHS = [9, 24, 2, 17, 23, 1, 5]  # sorting them is no swap of pairs, so undoing it is not doing it again
TOO_LARGE_TO_RUN = 20_000_000

every_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)


def poolings() -> list[tuple[str, str]]:
    """Every architecture with each of its poolings, or with `none` if it has no choice."""
    hints = {name: get_type_hints(model, include_extras=True) for name, model in ARCHITECTURES.items()}
    choices = {name: get_args(hint.get("pooling")) or ("none",) for name, hint in hints.items()}
    return [(name, pooling) for name in choices for pooling in choices[name]]


every_pooling = pytest.mark.parametrize(("architecture", "pooling"), poolings())


def small_model(architecture: str, *, num_frames: int = 24, bins: int = 8, **hyperparameters: Any) -> Any:
    """A model of 3 outputs in eval mode whose batch norms have seen data, so that they do not map 0 to 0."""
    torch.manual_seed(0)
    if hyperparameters.get("pooling") == "none":
        del hyperparameters["pooling"]
    hyperparameters = {**SMALL[architecture], **hyperparameters}
    model = build_model(architecture, input_dim=bins, num_frames=num_frames, output_dim=3, **hyperparameters)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.momentum = None  # a plain average of what was seen
    if num_frames > 1:
        with torch.no_grad():
            for _ in range(3):
                model(torch.randn(8, num_frames, bins) * 3 + 1, torch.full((8,), num_frames))
    return model.eval()


def clips(lengths: list[int], num_frames: int, bins: int = 8) -> tuple[Tensor, Tensor]:
    """Random clips, each louder or softer than the last, 0 at and after their lengths."""
    generator = torch.Generator().manual_seed(1)
    x_BTF = torch.randn(len(lengths), num_frames, bins, generator=generator)
    x_BTF += 3 * torch.randn(len(lengths), 1, bins, generator=generator)
    for clip, length in zip(x_BTF, lengths, strict=True):
        clip[length:] = 0
    return x_BTF, torch.tensor(lengths)


def assert_padding_changes_nothing(model: Any, lengths: list[int], bins: int = 8) -> None:
    x_BTF, lengths_B = clips(lengths, max(lengths), bins)
    together = model(x_BTF, lengths_B)
    assert together.std(0).max() > 1e-3  # else every clip would get the same answer, padded or not
    for row, length in enumerate(lengths):
        alone = model(x_BTF[row : row + 1, :length], torch.tensor([length]))
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=1e-5)


@every_architecture
def test_outputs_are_clips_by_classes(architecture: str) -> None:
    assert small_model(architecture)(*clips([24, 24, 17], 24)).shape == (3, 3)


@every_pooling
def test_padding_does_not_change_the_prediction(architecture: str, pooling: str) -> None:
    assert_padding_changes_nothing(small_model(architecture, pooling=pooling), LENGTHS)


@every_architecture
@pytest.mark.parametrize("bins", [1, 12, 140])  # of one value, chroma, and mel with chroma
def test_padding_changes_nothing_whatever_the_bins(architecture: str, bins: int) -> None:
    assert_padding_changes_nothing(small_model(architecture, bins=bins), LENGTHS, bins)


@every_architecture
def test_padding_every_clip_further_changes_nothing(architecture: str) -> None:
    model = small_model(architecture, num_frames=31)
    x_BTF, lengths_B = clips([20, 13], 20)
    padded_BTF = nn.functional.pad(x_BTF, (0, 0, 0, 11))
    torch.testing.assert_close(model(x_BTF, lengths_B), model(padded_BTF, lengths_B), atol=1e-5, rtol=1e-5)


@every_architecture
def test_the_order_of_a_batch_does_not_matter(architecture: str) -> None:
    model = small_model(architecture)
    x_BTF, lengths_B = clips([24, 7, 15, 7], 24)
    order = torch.tensor([2, 0, 3, 1])
    shuffled = model(x_BTF[order], lengths_B[order])
    torch.testing.assert_close(shuffled, model(x_BTF, lengths_B)[order], atol=1e-5, rtol=1e-5)


@every_architecture
def test_a_single_frame_is_enough(architecture: str) -> None:
    assert small_model(architecture, num_frames=1)(*clips([1, 1], 1)).isfinite().all()


@every_pooling
@pytest.mark.parametrize("lengths", [[24, 24, 24], [24, 16, 8]])
def test_every_parameter_gets_a_gradient(architecture: str, pooling: str, lengths: list[int]) -> None:
    model = small_model(architecture, pooling=pooling).train()
    model(*clips(lengths, 24)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        # A bias in front of a batch norm is subtracted again, so its gradient is rounding noise.
        assert parameter.grad.abs().max() > 0 or name.endswith("conv.bias"), name


@every_pooling
def test_blocks_own_every_parameter_once_and_end_with_the_head(architecture: str, pooling: str) -> None:
    model = small_model(architecture, pooling=pooling)
    owned = [id(parameter) for block in model.blocks() for parameter in block.parameters()]
    assert sorted(owned) == sorted(id(parameter) for parameter in model.parameters())
    assert model.blocks()[-1] is model.head
    for (
        block
    ) in model.blocks():  # else a block of `freeze: all_but_last(n)` or a rung of layer decay counts for nothing
        assert list(block.parameters())


@every_architecture
def test_a_state_dict_carries_the_whole_model(architecture: str) -> None:
    model, other = small_model(architecture), small_model(architecture)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(0.5).add_(0.1)
    batch = clips([24, 11], 24)
    assert not torch.equal(model(*batch), other(*batch))
    other.load_state_dict(model.state_dict())
    assert torch.equal(model(*batch), other(*batch))


@every_architecture
def test_the_embedding_is_what_the_last_linear_layer_gets(architecture: str) -> None:
    model = small_model(architecture)
    batch = clips([24, 11], 24)
    embedding_BE = model.embed(*batch)
    assert embedding_BE.shape == (2, model.head.output.in_features)
    assert torch.equal(model.head.output(embedding_BE), model(*batch))


@every_architecture
def test_counting_on_the_meta_device_counts_the_real_model(architecture: str) -> None:
    counted = count_parameters(architecture, input_dim=8, num_frames=24, output_dim=3, **SMALL[architecture])
    assert counted == sum(parameter.numel() for parameter in small_model(architecture).parameters())


@every_architecture
def test_an_architecture_takes_keywords_only(architecture: str) -> None:
    parameters = inspect.signature(ARCHITECTURES[architecture]).parameters.values()
    assert all(parameter.kind is parameter.KEYWORD_ONLY for parameter in parameters)
    assert [parameter.name for parameter in parameters][:3] == ["input_dim", "num_frames", "output_dim"]


@every_architecture
def test_bf16_autocast_stays_close_to_fp32(architecture: str) -> None:
    model = small_model(architecture)
    batch = clips([24, 24, 9], 24)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model(*batch)
    # bf16 has 8 bits of mantissa: 0.4 % a rounding.
    torch.testing.assert_close(outputs.float(), model(*batch), atol=0.05, rtol=0.05)


@every_architecture
@pytest.mark.parametrize("pick", [min, max], ids=["smallest", "largest"])
def test_the_ends_of_its_space_build_and_train(architecture: str, pick: Callable[..., Scalar]) -> None:
    hyperparameters = end_of(Space.load(SPACES / f"{architecture}.yaml"), pick).hyperparameters
    data = {"input_dim": 128, "num_frames": 40, "output_dim": 16}
    if count_parameters(architecture, **data, **hyperparameters) > TOO_LARGE_TO_RUN:
        return
    model = build_model(architecture, **data, **hyperparameters)
    outputs_BK = model(*clips([40, 25], 40, 128))
    outputs_BK.square().sum().backward()
    assert outputs_BK.shape == (2, 16)
    assert all(parameter.grad is not None for parameter in model.parameters())


def end_of(space: Space, pick: Callable[..., Scalar]) -> TrainConfig:
    """The training at the lowest or highest value of every key that is active there."""
    params: Params = {}
    for path, distribution in space.distributions.items():
        if space.is_active(path, params):
            params = {**params, path: end_value(distribution, pick)}
    return space.train_config(params, max_epochs=2, patience=None, seed=0)


def end_value(distribution: Distribution, pick: Callable[..., Scalar]) -> Scalar:
    """Numbers and booleans by size, null below them; words stand from small to large in the file."""
    corners = distribution.corners()
    if isinstance(distribution, Choice) and any(isinstance(value, str) for value in corners):
        return corners[0] if pick is min else corners[-1]
    return pick(corners, key=lambda value: -1.0 if value is None else value)


def test_ends_follow_conditions_and_order() -> None:
    space = Space.parse(
        "{task: {classification: genre}, model: {architecture: cnn_gru, pooling: {choice: [mean, mean_max]},"
        " rnn_dim: {choice: [64, null, 32]}, num_layers: {int: [1, 2]},"
        " rnn_dropout: {float: [0.1, 0.5], when: {model/num_layers: '>= 2'}}}}"
    )
    small, large = end_of(space, min).hyperparameters, end_of(space, max).hyperparameters
    assert small == {"pooling": "mean", "rnn_dim": None, "num_layers": 1}
    assert large == {"pooling": "mean_max", "rnn_dim": 64, "num_layers": 2, "rnn_dropout": 0.5}


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Clips of varying lengths that tell nothing of their class: they can only be learnt by heart."""
    folder = tmp_path_factory.mktemp("noise")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FMASEARCH_CACHE", str(folder / "cache"))
        return make_dataset(folder / "noise.h5", contrast=0.0, varying_lengths=True)


@every_architecture
def test_sixteen_clips_are_learnt_by_heart(architecture: str, noise: Dataset) -> None:
    config = TrainConfig.model_validate(
        {
            "task": {"classification": "genre"},
            "model": {"architecture": architecture, **SMALL[architecture]},
            "optimizer": {"learning_rate": LEARNING_RATES.get(architecture, 1e-2)},
        }
    )
    losses = [epoch.metrics["train_loss"] for epoch in overfit_batch(config, noise, num_steps=80)]
    assert losses[0] > 1.0  # ln 4 = 1.386 is a guess between four classes
    assert losses[-1] < 0.1


@every_architecture
@pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
def test_a_forward_pass_never_waits_for_the_device(architecture: str, training: bool) -> None:
    with torch.device("meta"):
        model = build_model(architecture, input_dim=8, num_frames=24, output_dim=3, **SMALL[architecture])
    x_BTF = torch.empty(3, 24, 8, device="meta")  # it holds no values: whatever reads one fails
    assert model.train(training)(x_BTF, torch.tensor([24, 9, 16])).shape == (3, 3)
