"""The average of weights against hand-written means; buffers; resuming; and that no step waits for it."""

import copy
import io
import math

import pytest
import torch
from torch import Tensor, nn

from fmasearch.config import OptimizerConfig
from fmasearch.optim import WeightAverage, build_optimizer


def weight(value: float) -> nn.Linear:
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, value)
    return layer


def means(average: WeightAverage, model: nn.Linear, values: list[float]) -> list[float]:
    """The average after the model's weight took each of these values."""
    result = []
    for value in values:
        nn.init.constant_(model.weight, value)
        average.update(model)
        result.append(next(average.model.parameters()).item())
    return result


def small_model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))


def train(model: nn.Module, average: WeightAverage, num_steps: int, *, first: int = 0) -> None:
    trainable = OptimizerConfig(name="adam", learning_rate=0.01)
    optimizer = build_optimizer([model], trainable, fused=True)
    for step in range(first, first + num_steps):
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()
        average.update(model)


def test_early_updates_keep_less() -> None:
    model = weight(0.0)
    # Kept: 1/10, then 2/11, then 3/12 of the average; the rest comes from the model.
    first, second = 0.9 * 1, 2 / 11 * 0.9 + 9 / 11 * 2
    expected = [first, second, 0.25 * second + 0.75 * 4]
    assert means(WeightAverage(model, 0.999), model, [1.0, 2.0, 4.0]) == pytest.approx(expected)


def test_the_decay_is_never_above_its_own() -> None:
    model = weight(0.0)
    # 1/10 and 2/11 are below 0.2; from then on a fifth is kept.
    last = [1 / 10, 2 / 110, 2 / 550, 2 / 2750]
    kept = [1 - mean for mean in means(WeightAverage(model, 0.2), model, [1.0] * 4)]
    assert kept == pytest.approx(last, abs=1e-6)


def test_ten_steps_forget_the_initial_weights() -> None:
    # 1/10 * 2/11 * ... * 10/19 = 1 / 92378 of them is left; a constant 0.999 would keep 99 %.
    model = weight(1.0)
    assert means(WeightAverage(model, 0.999), model, [0.0] * 10)[-1] == pytest.approx(1 / 92378, rel=1e-4)


def test_the_model_itself_is_not_touched() -> None:
    model = weight(1.0)
    average = WeightAverage(model, 0.9)
    nn.init.constant_(model.weight, 3.0)
    average.update(model)
    assert model.weight.item() == 3.0
    assert model.weight.requires_grad
    assert model.training
    assert not any(parameter.requires_grad for parameter in average.model.parameters())


def test_running_statistics_are_averaged_and_counters_copied() -> None:
    model = nn.BatchNorm1d(1, momentum=1.0)  # keeps the last batch's mean and no other
    average = WeightAverage(model, 0.999)
    for mean in (1.0, 2.0):
        model(torch.tensor([[mean - 1], [mean + 1]]))
        average.update(model)
    statistics = average.model.state_dict()
    assert statistics["running_mean"].item() == pytest.approx(2 / 11 * 0.9 + 9 / 11 * 2)
    assert statistics["num_batches_tracked"].item() == 2


def test_frozen_parameters_stay_bit_for_bit() -> None:
    model = small_model()
    model[0].requires_grad_(False)
    before = model[0].weight.clone()
    average = WeightAverage(model, 0.99)
    train(model, average, 20)
    assert torch.equal(average.model.state_dict()["0.weight"], before)
    assert not torch.equal(average.model.state_dict()["3.weight"], model[3].weight)


def test_a_mask_of_infinities_that_is_not_saved_stays() -> None:
    model = weight(1.0)
    model.register_buffer("mask", torch.full((2,), -math.inf), persistent=False)
    average = WeightAverage(model, 0.9)
    average.update(model)
    assert torch.equal(dict(average.model.named_buffers())["mask"], torch.full((2,), -math.inf))


def test_an_average_resumes_bit_for_bit() -> None:
    model = small_model()
    average = WeightAverage(model, 0.9)
    train(model, average, 5)
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "average": average.state_dict()}, file)
    resumed_model = copy.deepcopy(model)
    train(model, average, 5, first=5)

    file.seek(0)
    saved = torch.load(file, weights_only=True)
    resumed = WeightAverage(small_model(), 0.9)
    resumed.load_state_dict(saved["average"])
    train(resumed_model, resumed, 5, first=5)
    assert_equal(resumed.model.state_dict(), average.model.state_dict())
    assert resumed.state_dict()["num_updates"] == 10


def test_an_average_is_evaluated_like_a_model() -> None:
    model = small_model()
    average = WeightAverage(model, 0.9)
    train(model, average, 5)
    with torch.inference_mode():
        assert average.model(torch.randn(1, 3)).shape == (1, 2)  # batch norm of one clip: it is in eval mode
    train(model, average, 1)


def test_a_recurrent_average_runs_on_its_averaged_weights() -> None:
    # A recurrent layer keeps a second list of its weights; a copy must not run on those of the original.
    model, fresh = nn.GRU(3, 4, 2, bidirectional=True), nn.GRU(3, 4, 2, bidirectional=True)
    average = WeightAverage(model, 0.5)
    nn.init.zeros_(model.weight_hh_l0)
    average.update(model)
    fresh.load_state_dict(average.model.state_dict())
    x = torch.randn(6, 2, 3)
    assert torch.equal(average.model(x)[0], fresh(x)[0])
    assert not torch.equal(average.model(x)[0], model(x)[0])


@pytest.mark.gpu
def test_an_update_on_the_gpu_does_not_wait_for_it() -> None:
    model = small_model().cuda()
    average = WeightAverage(model, 0.9)
    torch.cuda.set_sync_debug_mode("error")
    try:
        average.update(model)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def assert_equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name
