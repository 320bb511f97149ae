"""Which parameters an optimiser moves, at which rate, with which decay; and one step of each by hand."""

from collections.abc import Sequence

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from fmasearch.config import OptimizerConfig
from fmasearch.errors import ConfigError
from fmasearch.optim import build_optimizer


def small_blocks() -> nn.Sequential:
    """A convolution with its norm, a hidden layer, and a head.

    No bias goes before the norm: its gradient would be rounding alone, which Adam makes steps of full size.
    """
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Sequential(nn.Conv1d(2, 3, 3, bias=False), nn.BatchNorm1d(3), nn.Flatten()), nn.Linear(6, 4), nn.Linear(4, 2)
    )


def optimizer_of(blocks: Sequence[nn.Module] | nn.Sequential, *, fused: bool = False, **settings: object) -> Optimizer:
    return build_optimizer(list(blocks), OptimizerConfig.model_validate(settings), fused=fused)


def train_step(model: nn.Module, optimizer: Optimizer) -> None:
    optimizer.zero_grad()
    x = torch.randn(4, 2, 4, generator=torch.Generator().manual_seed(5))
    model(x).square().sum().backward()
    optimizer.step()


def steps_of_a_weight(gradients: list[float], **settings: object) -> float:
    """Where the weight 2 is after a step for each gradient."""
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, 2.0)
    optimizer = optimizer_of([layer], **settings)
    for gradient in gradients:
        layer.weight.grad = torch.full((1, 1), gradient)
        optimizer.step()
    return layer.weight.item()


@pytest.mark.parametrize(("name", "kind"), [("adam", Adam), ("sgd", SGD)])
def test_adam_and_sgd_penalise_everything_in_one_group(name: str, kind: type[Optimizer]) -> None:
    model = small_blocks()
    optimizer = optimizer_of(model, name=name, weight_decay=1e-4, learning_rate=0.2)
    assert type(optimizer) is kind
    (group,) = optimizer.param_groups
    assert all(mine is theirs for mine, theirs in zip(group["params"], model.parameters(), strict=True))
    assert (group["weight_decay"], group["lr"]) == (1e-4, 0.2)


def test_adam_adds_the_penalty_to_the_gradient() -> None:
    # Adam divides the gradient 0.5 * 2 by its own size: one step is one learning rate.
    after = steps_of_a_weight([0.0], name="adam", learning_rate=0.1, weight_decay=0.5)
    assert after == pytest.approx(2.0 - 0.1)


def test_adamw_decays_matrices_and_nothing_else() -> None:
    optimizer = optimizer_of(small_blocks(), name="adamw", weight_decay=0.01)
    assert type(optimizer) is AdamW
    matrices, vectors = optimizer.param_groups
    assert [tuple(p.shape) for p in matrices["params"]] == [(3, 2, 3), (4, 6), (2, 4)]
    # Scale and shift of the norm, biases of the linear layers.
    assert [tuple(p.shape) for p in vectors["params"]] == [(3,), (3,), (4,), (2,)]
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.01, 0.0)


def test_decoupled_decay_does_not_pass_through_the_gradient() -> None:
    layer = nn.Linear(1, 1)
    nn.init.constant_(layer.weight, 2.0)
    nn.init.constant_(layer.bias, 2.0)
    optimizer = optimizer_of([layer], name="adamw", learning_rate=0.1, weight_decay=0.5)
    layer.weight.grad, layer.bias.grad = torch.zeros(1, 1), torch.zeros(1)
    optimizer.step()
    assert layer.weight.item() == pytest.approx(2.0 * (1 - 0.1 * 0.5))
    assert layer.bias.item() == 2.0


def test_sgd_has_momentum_and_looks_ahead() -> None:
    # Gradients 1 and 1 at momentum 0.5: velocities 1 and 1.5, steps of 0.1 times those.
    heavy = steps_of_a_weight([1.0, 1.0], name="sgd", learning_rate=0.1, momentum=0.5, nesterov=False)
    assert heavy == pytest.approx(2.0 - 0.1 * (1 + 1.5))
    # Looking ahead adds half of each velocity to the gradient: 1.5 and 1.75.
    ahead = steps_of_a_weight([1.0, 1.0], name="sgd", learning_rate=0.1, momentum=0.5, nesterov=True)
    assert ahead == pytest.approx(2.0 - 0.1 * (1.5 + 1.75))


def test_sgd_without_momentum_is_plain_whatever_nesterov_says() -> None:
    # The penalty adds 0.5 * 2 to the gradient 1.
    after = steps_of_a_weight([1.0], name="sgd", learning_rate=0.1, momentum=0.0, nesterov=True, weight_decay=0.5)
    assert after == pytest.approx(2.0 - 0.1 * (1 + 1))


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("layer_decay", [1.0, 0.5])
def test_frozen_parameters_are_left_out(name: str, layer_decay: float) -> None:
    model = small_blocks()
    model[0].requires_grad_(False)
    model[2].bias.requires_grad_(False)
    optimizer = optimizer_of(model, name=name, layer_decay=layer_decay)
    moved = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(tuple(parameter.shape) for parameter in moved) == [(2, 4), (4,), (4, 6)]


def test_a_model_without_vectors_has_one_group() -> None:
    assert len(optimizer_of([nn.Linear(2, 2, bias=False)], name="adamw").param_groups) == 1


def test_a_model_that_is_frozen_through_and_through_is_an_error() -> None:
    with pytest.raises(ConfigError, match="expected at least one trainable parameter"):
        optimizer_of(small_blocks().requires_grad_(False))


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_under_layer_decay_every_block_has_its_rate(name: str) -> None:
    optimizer = optimizer_of(small_blocks(), name=name, learning_rate=0.8, layer_decay=0.5)
    # The head learns at 0.8, each block below it at half the rate of the one above.
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.2, 0.4, 0.8])
    assert [len(group["params"]) for group in optimizer.param_groups] == [3, 2, 2]


def test_under_layer_decay_adamw_splits_every_block() -> None:
    optimizer = optimizer_of(small_blocks(), name="adamw", learning_rate=0.8, layer_decay=0.5, weight_decay=0.01)
    rates = [(group["lr"], group["weight_decay"], len(group["params"])) for group in optimizer.param_groups]
    assert rates == [(0.2, 0.01, 1), (0.2, 0, 2), (0.4, 0.01, 1), (0.4, 0, 1), (0.8, 0.01, 1), (0.8, 0, 1)]


def test_frozen_blocks_count_for_the_rates_of_the_others() -> None:
    model = small_blocks()
    model[1].requires_grad_(False)
    optimizer = optimizer_of(model, name="adam", learning_rate=0.8, layer_decay=0.5)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.2, 0.8])


@pytest.mark.parametrize(
    "settings",
    [{"name": "adam"}, {"name": "adamw"}, {"name": "sgd"}, {"name": "sgd", "momentum": 0.0}],
    ids=["adam", "adamw", "sgd", "plain_sgd"],
)
@pytest.mark.parametrize("layer_decay", [1.0, 0.5])
def test_the_fused_optimiser_takes_the_same_steps(settings: dict[str, object], layer_decay: float) -> None:
    models = small_blocks(), small_blocks()
    for model, fused in zip(models, (False, True), strict=True):
        optimizer = optimizer_of(
            model, fused=fused, layer_decay=layer_decay, weight_decay=0.01, learning_rate=0.01, **settings
        )
        for _ in range(5):
            train_step(model, optimizer)
    for plain, fast in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(plain, fast)
    assert not torch.equal(next(models[1].parameters()), next(small_blocks().parameters()))
