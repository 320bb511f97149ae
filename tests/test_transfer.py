"""Transfer: which tensors of a file are loaded, and what frozen blocks keep."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from conftest import make_config, make_feature_file, spec_of
from fmasearch.data import open_dataset
from fmasearch.errors import ConfigError
from fmasearch.model_file import SavedModel, save_model
from fmasearch.models import ClipModel, build_model
from fmasearch.models.clip_model import mlp_head
from fmasearch.models.transfer import Mismatch, freeze, load_matching
from fmasearch.trainer import Trainer

# cnn_lstm of 2 channels on 3 bins: two blocks of convolution (weight, bias) and batch norm (weight, bias, mean,
# variance, count), an LSTM of one layer (4 tensors), two linear layers (4 tensors): 7 + 7 + 4 + 4 tensors.
NUM_TENSORS = 22


def model_of(seed: int = 0, *, input_dim: int = 3, output_dim: int = 4, **hyperparameters: Any) -> ClipModel:
    torch.manual_seed(seed)
    values = {"hidden_dim": 2, "num_conv_layers": 2, "rnn_dim": 4, "num_layers": 1, **hyperparameters}
    return build_model("cnn_lstm", input_dim=input_dim, num_frames=8, output_dim=output_dim, **values)


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def clips(num_clips: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(num_clips, 8, 3, generator=generator), torch.full((num_clips,), 8)


def train_a_step(model: ClipModel) -> dict[str, Tensor]:
    """Weights after one step of SGD on what may be trained."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.train()
    model(*clips()).square().sum().backward()
    torch.optim.SGD(trainable, lr=0.1).step()
    return weights_of(model)


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    """Names of the changed tensors up to their block, such as `backbone.convs.blocks.0`."""
    names = [name for name in before if not torch.equal(before[name], after[name])]
    return {".".join(name.split(".")[: 4 if "blocks" in name else 2]) for name in names}


class ParameterFree(nn.Module):
    """A backbone without anything to load."""

    def forward(self, x_BTF: Tensor, lengths_B: Tensor) -> Tensor:
        return x_BTF.mean(1)

    def blocks(self) -> tuple[nn.Module, ...]:
        return ()


# --- loading ---------------------------------------------------------------------------------------------------------


def test_every_tensor_of_an_equal_model_is_loaded() -> None:
    source, model = model_of(seed=1), model_of(seed=2)
    result = load_matching(model, weights_of(source))
    assert (len(result.matched), result.share) == (NUM_TENSORS, 1.0)
    assert str(result) == "22 of 22 tensors, 100 % of the backbone"
    assert not changed(weights_of(source), weights_of(model))


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "backbone."])
def test_a_prefix_in_the_file_is_looked_through(prefix: str) -> None:
    source, model = model_of(seed=1), model_of(seed=2)
    result = load_matching(model, {f"{prefix}{name}": tensor for name, tensor in weights_of(source).items()})
    assert (len(result.matched), result.unexpected) == (NUM_TENSORS, ())
    assert not changed(weights_of(source), weights_of(model))


def test_a_block_that_was_compiled_is_found() -> None:
    weights = {name.replace("convs.", "convs._orig_mod."): tensor for name, tensor in weights_of(model_of(1)).items()}
    assert any("_orig_mod" in name for name in weights)
    assert len(load_matching(model_of(), weights).matched) == NUM_TENSORS


def test_the_weights_of_a_bare_backbone_leave_the_head_fresh() -> None:
    source, model, fresh = model_of(seed=1), model_of(seed=2), weights_of(model_of(seed=2))
    result = load_matching(model, source.get_submodule("backbone").state_dict())
    assert result.share == 1.0
    assert result.missing == ("head.hidden.0.weight", "head.hidden.0.bias", "head.output.weight", "head.output.bias")
    assert str(result) == (
        "18 of 22 tensors, 100 % of the backbone; "
        "not in the file: head.hidden.0.weight, head.hidden.0.bias, head.output.weight, and 1 more"
    )
    assert changed(fresh, weights_of(model)) == {
        "backbone.convs.blocks.0", "backbone.convs.blocks.1", "backbone.rnn",
    }  # fmt: skip


def test_the_head_of_another_task_stays_fresh_and_is_reported() -> None:
    source, model, fresh = model_of(seed=1, output_dim=8), model_of(seed=2), weights_of(model_of(seed=2))
    result = load_matching(model, weights_of(source))
    # the head is half as wide as the LSTM
    assert result.mismatched == (
        Mismatch("head.output.weight", (8, 2), (4, 2)), Mismatch("head.output.bias", (8,), (4,)),
    )  # fmt: skip
    assert str(result) == (
        "20 of 22 tensors, 100 % of the backbone; "
        "head.output.weight: (8, 2) in the file, (4, 2) here; head.output.bias: (8,) in the file, (4,) here"
    )
    assert torch.equal(model.head.output.weight, fresh["head.output.weight"])


def test_tensors_that_only_the_file_has_are_reported() -> None:
    weights = {**weights_of(model_of(1)), "n_averaged": torch.tensor(3)}
    result = load_matching(model_of(), weights)
    assert result.unexpected == ("n_averaged",)
    assert str(result).endswith("100 % of the backbone; only in the file: n_averaged")


def test_less_than_all_of_the_backbone_is_not_rounded_up() -> None:
    # Backbone: 3*5*2+2+4 = 36, 2*3*4+4+8 = 36, LSTM 4*4*(4+4)+2*16 = 160; without the 2 gains of one batch norm.
    weights = weights_of(model_of())
    del weights["backbone.convs.blocks.0.norm.weight"]
    result = load_matching(model_of(), weights)
    assert result.share == pytest.approx(230 / 232)
    assert "99.1 % of the backbone" in str(result)


def test_a_wider_model_is_refused_and_left_as_it_was() -> None:
    model, fresh = model_of(seed=2, hidden_dim=4), weights_of(model_of(seed=2, hidden_dim=4))
    with pytest.raises(ConfigError) as caught:
        load_matching(model, weights_of(model_of(seed=1)))
    text = str(caught.value)
    assert "backbone.convs.blocks.0.conv.weight: (2, 3, 5) in the file, (4, 3, 5) here" in text
    assert "and 10 more" in text  # two convolutions and norms (6 tensors each) and the LSTM's input weights, less 3
    assert "give the `model` section the architecture and hyperparameters of the file" in text
    assert not changed(fresh, weights_of(model))


def test_other_bins_are_refused_if_they_are_much_of_the_backbone() -> None:
    other = model_of(input_dim=40)
    with pytest.raises(ConfigError, match=r"\(2, 40, 5\) in the file, \(2, 3, 5\) here"):
        load_matching(model_of(), weights_of(other))


@pytest.mark.parametrize("names", [(), ("weight", "v.blocks.0.bias")])
def test_a_file_of_which_nothing_matches_is_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(
        ConfigError, match=r"^transfer: 0 of 22 tensors, 0 % of the backbone; not in the file: backbone"
    ):
        load_matching(model_of(), {name: torch.zeros(3) for name in names})


def test_a_model_without_memory_reports_the_same() -> None:
    weights = weights_of(model_of(1, output_dim=8))
    with torch.device("meta"):
        dry = model_of()
    assert load_matching(dry, weights) == load_matching(model_of(), weights)


def test_a_backbone_without_parameters_needs_something_of_the_head() -> None:
    source, model = (ClipModel(ParameterFree(), mlp_head(3, 2, 4, 0.0)) for _ in range(2))
    assert load_matching(model, weights_of(source)).share == 1.0
    with pytest.raises(ConfigError, match="0 of 4 tensors"):
        load_matching(model, {"other": torch.zeros(1)})


def test_half_precision_weights_become_the_models_own() -> None:
    model = model_of()
    load_matching(model, {name: tensor.half() for name, tensor in weights_of(model_of(1)).items()})
    assert {p.dtype for p in model.parameters()} == {torch.float32}


# --- freezing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "trained"),
    [
        ("none", {"backbone.convs.blocks.0", "backbone.convs.blocks.1", "backbone.rnn", "head.hidden", "head.output"}),
        ("all_but_last(2)", {"backbone.convs.blocks.1", "backbone.rnn", "head.hidden", "head.output"}),
        ("all_but_last(1)", {"backbone.rnn", "head.hidden", "head.output"}),
        ("backbone", {"head.hidden", "head.output"}),
    ],
)
def test_a_step_changes_what_is_not_frozen_batch_norm_included(policy: str, trained: set[str]) -> None:
    model = model_of()
    before = weights_of(model)
    freeze(model, policy)
    assert changed(before, train_a_step(model)) == trained


def test_frozen_blocks_stay_in_eval_mode_through_train_and_eval() -> None:
    model = model_of()
    freeze(model, "all_but_last(1)")
    for _ in range(2):
        model.eval()
        assert not any(module.training for module in model.modules())
        model.train()
        first, second, rnn, head = model.blocks()
        assert [b.training for b in (first, second, rnn, head)] == [False, False, True, True]
        assert not any(module.training for module in first.modules())


def test_a_frozen_backbone_drops_nothing_out() -> None:
    model = model_of(dropout=0.9)
    freeze(model, "backbone")
    model.train()
    assert torch.equal(model.backbone(*clips()), model.backbone(*clips()))
    assert any(module.training for module in model.head.modules())


def test_freezing_keeps_the_mode_and_the_names() -> None:
    model = model_of().eval()
    names = list(model.state_dict())
    freeze(model, "backbone")
    assert not model.training
    assert list(model.state_dict()) == names
    assert model_of().load_state_dict(model.state_dict())
    assert isinstance(model, ClipModel)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_of_a_frozen_model_stay_frozen(copied: Any) -> None:
    model = model_of()
    freeze(model, "all_but_last(1)")
    twin = copied(model).train()
    before = weights_of(twin)
    assert twin.num_frozen == 2
    assert changed(before, train_a_step(twin)) == {"backbone.rnn", "head.hidden", "head.output"}
    assert model.blocks()[0] is not twin.blocks()[0]


def test_a_frozen_model_forwards_as_the_model_it_was() -> None:
    model = model_of().eval()
    before = model(*clips())
    freeze(model, "backbone")
    assert torch.equal(model(*clips()), before)


@pytest.mark.parametrize("policy", ["all_but_last(3)", "all_but_last(12)"])
def test_freezing_nothing_by_a_large_number_is_an_error(policy: str) -> None:
    with pytest.raises(ConfigError, match=r"would freeze nothing: the backbone has 3 blocks; use none, or fewer"):
        freeze(model_of(), policy)


@pytest.mark.parametrize("policy", ["all", "all_but_last", "all_but_last(0)", "all_but_last(1) "])
def test_an_unknown_policy_is_an_error(policy: str) -> None:
    with pytest.raises(ConfigError, match="expected none, backbone or all_but_last"):
        freeze(model_of(), policy)


# --- onto another task -----------------------------------------------------------------------------------------------


@pytest.fixture
def genre_model(tmp_path: Path) -> Path:
    """A genre model of one epoch, in a file."""
    dataset = open_dataset(spec_of(make_feature_file(tmp_path / "genres.h5")))
    trainer = Trainer(make_config("cnn_bilstm"), dataset)
    next(trainer.epochs())
    saved = SavedModel(
        config=trainer.config,
        weights=trainer.judged.state_dict(),
        class_names=dataset.class_names,
        normalisers=dataset.normalisers,
        input_dim=dataset.input_dim,
        num_frames=trainer.num_frames,
        feature_settings={},
        data={},
        versions={},
    )
    save_model(tmp_path / "genre.pt", saved)
    return tmp_path / "genre.pt"


@pytest.mark.parametrize(
    ("task", "num_outputs"),
    [
        ({"regression": ["valence", "energy"]}, 2),
        ({"multitask": {"kind": "genre", "mood": ["valence", "energy"]}}, 6),  # four classes and two numbers
    ],
    ids=["regression", "multitask"],
)
@pytest.mark.parametrize("ema_decay", [None, 0.5])
def test_a_genre_model_goes_on_to_numbers_with_its_first_blocks_as_they_were(
    genre_model: Path, tmp_path: Path, task: dict[str, Any], num_outputs: int, ema_decay: float | None
) -> None:
    path = make_feature_file(tmp_path / "moods.h5", targets=["energy"], seed=7)
    dataset = open_dataset(spec_of(path, label="genre" if "multitask" in task else None, targets=["valence", "energy"]))
    transfer = {"init_from": str(genre_model), "freeze": "all_but_last(2)"}
    options: dict[str, Any] = {"seed": 1, "task": task, "trainer": {"max_epochs": 2, "ema_decay": ema_decay}}
    trainer = Trainer(make_config("cnn_bilstm", **options, transfer=transfer), dataset)
    fresh = weights_of(Trainer(make_config("cnn_bilstm", **options), dataset).model)
    before, in_file = weights_of(trainer.model), torch.load(genre_model, weights_only=True)["weights"]
    assert all(torch.equal(before[name], in_file[name]) for name in before if name.startswith("backbone."))
    assert before["head.output.weight"].shape[0] == num_outputs
    assert torch.equal(before["head.output.weight"], fresh["head.output.weight"])

    assert [result.epoch for result in trainer.epochs()] == [1, 2]
    first, second, third, rnn, head = trainer.model.blocks()
    frozen = [*first.parameters(), *second.parameters()]
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in frozen)
    moved = {"backbone.convs.blocks.2", "backbone.rnn", "head.hidden", "head.output"}
    assert changed(before, weights_of(trainer.model)) == moved  # statistics of batch norm are among the tensors
    assert changed(before, weights_of(trainer.judged)) == moved
    for block in (third, rnn, head):
        assert all(parameter.grad is not None for parameter in block.parameters())
