"""The Audio Spectrogram Transformer: published counts, equality with DeiT, patchout, and pretrained weights."""

import socket
import time
from itertools import chain
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from fmasearch.errors import ConfigError
from fmasearch.models import build_model, count_parameters, load_pretrained
from fmasearch.models.pretrained import resize_positions

DEIT = "deit_tiny_distilled_patch16_224"
BLOCKS = {"tiny": (192, 12), "small": (384, 12), "base": (768, 12)}  # width, depth


def model_of(**hyperparameters: Any) -> Any:
    values = {"input_dim": 40, "num_frames": 64, "output_dim": 3, "size": "micro", **hyperparameters}
    torch.manual_seed(0)
    return build_model("ast", **values)


def fill(number: int, num_frames: int, bins: int = 40) -> tuple[Tensor, Tensor]:
    x_BTF = torch.randn(number, num_frames, bins, generator=torch.Generator().manual_seed(1))
    return x_BTF, torch.full((number,), num_frames)


@pytest.fixture(scope="module")
def deit() -> nn.Module:
    """timm's untrained DeiT of ImageNet shape: 3 colours, 224 x 224, 14 x 14 patches."""
    torch.manual_seed(2)
    return timm.create_model(DEIT).eval()


@pytest.fixture(scope="module")
def deit_file(deit: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("deit") / "deit.pth"
    torch.save({"model": deit.state_dict()}, path)  # as DeiT's own files are
    return path


@pytest.mark.parametrize(
    ("num_frames", "rows", "columns"),
    [
        (1024, 12, 101),  # (128 - 16) // 10 + 1 = 12; (1024 - 16) // 10 + 1 = 101: 1,212 patches
        (1293, 12, 128),  # (1293 - 16) // 10 + 1 = 128: 1,536 patches
    ],
)
@pytest.mark.parametrize("size", BLOCKS)
def test_tokens_and_parameters_are_those_of_the_published_model(
    size: str, num_frames: int, rows: int, columns: int
) -> None:
    d, depth = BLOCKS[size]
    with torch.device("meta"):
        model: Any = build_model("ast", input_dim=128, num_frames=num_frames, output_dim=527, size=size)
    x_BTF = torch.empty(2, num_frames, 128, device="meta")
    tokens_BND, _ = model.backbone.patches(x_BTF, torch.tensor([num_frames] * 2))
    assert tokens_BND.shape == (2, 2 + rows * columns, d)  # CLS, distillation, patches
    kernel = 16 * 16 * d + d
    prefix_and_positions = 2 * d + (2 + rows * columns) * d
    block = (3 * d * d + 3 * d) + (d * d + d) + 2 * (4 * d * d) + 5 * d + 4 * d  # qkv, projection, MLP, two norms
    head = 2 * d + d * 527 + 527  # layer norm and one linear layer, AudioSet's 527 classes
    expected = kernel + prefix_and_positions + depth * block + 2 * d + head
    assert sum(parameter.numel() for parameter in model.parameters()) == expected


def test_parameters_written_out() -> None:
    # tiny, 12 x 101 patches, 10 classes: 49,344 + 384 + 233,088 + 12 * 444,864 + 384 + 2,314
    assert count_parameters("ast", input_dim=128, num_frames=1024, output_dim=10) == 5_623_882
    # base, 12 x 128 patches: 197,376 + 1,536 + 1,181,184 + 12 * 7,087,872 + 1,536 + 9,226
    assert count_parameters("ast", input_dim=128, num_frames=1293, output_dim=10, size="base") == 86_445_322


def test_a_square_grey_image_gives_what_deit_gives(deit: Any, deit_file: Path) -> None:
    square = {"input_dim": 224, "num_frames": 224, "frequency_stride": 16, "time_stride": 16}
    model = model_of(size="tiny", pretrained=str(deit_file), **square).eval()
    load_pretrained(model)
    x_BTF, lengths_B = fill(2, 224, 224)
    # The mean of the colours' kernels on x is the sum of the kernels on x / 3 in each colour.
    images = x_BTF.transpose(1, 2)[:, None].expand(-1, 3, -1, -1) / 3
    expected = deit.forward_features(images)[:, :2].mean(1)
    torch.testing.assert_close(model.backbone(x_BTF, lengths_B), expected, atol=1e-4, rtol=1e-4)


def test_all_twelve_blocks_and_the_stem_are_transferred(deit: nn.Module, deit_file: Path) -> None:
    model = model_of(size="tiny", pretrained=str(deit_file))
    # 40 bins: (40 - 16) // 10 + 1 = 3 rows; 64 frames: (64 - 16) // 10 + 1 = 5 columns
    assert load_pretrained(model) == f"weights of {deit_file}: 12 of 12 blocks, positions 14x14 -> 3x5"
    weights, own = deit.state_dict(), model.backbone.state_dict()
    in_blocks = [name for name in weights if name.startswith("blocks.")]
    assert len(in_blocks) == 12 * 12  # a weight and a bias each for two norms, qkv, projection and two MLP layers
    assert all(torch.equal(own[f"layers.{name.removeprefix('blocks.')}"], weights[name]) for name in in_blocks)
    assert torch.equal(own["norm.weight"], weights["norm.weight"])
    kernel = weights["patch_embed.proj.weight"]
    mean = (kernel[:, 0] + kernel[:, 1] + kernel[:, 2]) / 3
    torch.testing.assert_close(own["patches.project.weight"][:, 0], mean)
    assert torch.equal(own["patches.prefix_2D"][1], weights["dist_token"][0, 0])
    assert torch.equal(own["patches.prefix_positions_2D"], weights["pos_embed"][0, :2])


def test_positions_are_cut_in_frequency_and_interpolated_in_time(deit: nn.Module, deit_file: Path) -> None:
    # 128 bins, stride 10: 12 rows, the middle of 14: rows 7 - 6 = 1 to 12. 28 columns: (286 - 16) // 10 + 1.
    model = model_of(size="tiny", input_dim=128, num_frames=286, pretrained=str(deit_file))
    load_pretrained(model)
    positions_DIJ = model.backbone.patches.positions_DIJ.detach()
    grid_IJD = deit.state_dict()["pos_embed"][0, 2:].reshape(14, 14, 192)
    assert positions_DIJ.shape == (192, 12, 28)
    # Twice as many columns: column j lies at (j + 1/2) / 2 - 1/2 of the old ones, at the rim at the first or last.
    torch.testing.assert_close(positions_DIJ[:, 0, 0], grid_IJD[1, 0])
    torch.testing.assert_close(positions_DIJ[:, 0, 1], 0.75 * grid_IJD[1, 0] + 0.25 * grid_IJD[1, 1])
    torch.testing.assert_close(positions_DIJ[:, 11, 26], 0.25 * grid_IJD[12, 12] + 0.75 * grid_IJD[12, 13])
    torch.testing.assert_close(positions_DIJ[:, 11, 27], grid_IJD[12, 13])


def test_positions_by_hand() -> None:
    grid_1IJ = torch.tensor([[[0.0, 4.0], [8.0, 12.0]]])
    wider = [[0.0, 1.0, 3.0, 4.0], [8.0, 9.0, 11.0, 12.0]]  # at -1/4 (the rim), 1/4, 3/4, 5/4 (the rim)
    assert resize_positions(grid_1IJ, 2, 4).tolist() == [wider]
    assert resize_positions(grid_1IJ, 4, 1).tolist() == [[[4.0], [6.0], [10.0], [12.0]]]  # 1 of 2: from 1 - 0 on
    grid_1IJ = torch.arange(25.0).reshape(1, 5, 5)
    assert resize_positions(grid_1IJ, 1, 3).tolist() == [[[11.0, 12.0, 13.0]]]  # row 2 - 0, columns 2 - 1 to 3
    assert resize_positions(grid_1IJ, 1, 2).tolist() == [[[11.0, 12.0]]]  # columns 2 - 1 and 2


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_come_from_torch_and_safetensors_files(deit: nn.Module, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    save_file(deit.state_dict(), path) if suffix == ".safetensors" else torch.save(deit.state_dict(), path)
    model = model_of(size="tiny", pretrained=str(path))
    assert "12 of 12 blocks" in str(load_pretrained(model))
    assert torch.equal(model.backbone.layers[11].mlp.fc2.weight, deit.state_dict()["blocks.11.mlp.fc2.weight"])


@pytest.mark.parametrize(
    ("size", "changes", "message"),
    [
        ("small", {}, "expected 12 blocks of width 384, got 12 blocks of width 192"),
        ("micro", {}, "expected 4 blocks of width 96, got 12 blocks of width 192"),
        ("tiny", {"dist_token": None}, "a distilled vision transformer, whose dist_token has 3 axes, got none"),
        ("tiny", {"pos_embed": torch.zeros(1, 9, 192)}, "expected positions of a square image, got 7 of them"),
        ("tiny", {"norm.bias": None}, r"norm\.bias: expected \(192,\), got none"),
        (
            "tiny",
            {"blocks.3.attn.qkv.bias": torch.zeros(7)},
            r"layers\.3\.attn\.qkv\.bias: expected \(576,\), got \(7,\)",
        ),
    ],
)
def test_weights_of_another_shape_are_told_and_change_nothing(
    deit: nn.Module, tmp_path: Path, size: str, changes: dict[str, Any], message: str
) -> None:
    weights = {name: tensor for name, tensor in {**deit.state_dict(), **changes}.items() if tensor is not None}
    torch.save(weights, tmp_path / "other.pth")
    model = model_of(size=size, pretrained=str(tmp_path / "other.pth"))
    before = model.backbone.patches.project.weight.clone()
    with pytest.raises(ConfigError, match=rf"^model\.pretrained: .*other\.pth: .*{message}"):
        load_pretrained(model)
    assert torch.equal(model.backbone.patches.project.weight, before)


@pytest.mark.parametrize("name", ["damaged.pth", "damaged.safetensors"])
def test_a_damaged_file_is_told(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x80no weights at all")
    with pytest.raises(ConfigError, match=rf"{name}: is damaged, or not a file of weights"):
        load_pretrained(model_of(pretrained=str(tmp_path / name)))


def test_building_reads_no_file_and_loading_misses_it(tmp_path: Path) -> None:
    model = model_of(pretrained=str(tmp_path / "absent.pth"))
    with pytest.raises(ConfigError, match=r"absent\.pth: no such file"):
        load_pretrained(model)


def test_there_is_nothing_to_load_unless_asked_for() -> None:
    assert load_pretrained(model_of()) is None
    assert load_pretrained(build_model("stats", input_dim=4, num_frames=9, output_dim=3)) is None


def test_micro_has_no_imagenet_weights() -> None:
    with pytest.raises(ConfigError, match=r"model\.pretrained: true needs model\.size tiny, small or base"):
        model_of(pretrained=True)


def test_without_a_network_the_model_stays_untrained_and_says_so_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown_host(*_: Any, **__: Any) -> Any:
        raise socket.gaierror("no such host")

    monkeypatch.setattr(socket, "getaddrinfo", unknown_host)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    model = model_of(size="tiny", pretrained=True)
    before, start = model.backbone.patches.project.weight.clone(), time.monotonic()
    sentence = str(load_pretrained(model))
    assert time.monotonic() - start < 10  # timm's own call asks twelve times and takes 46 s
    assert sentence.startswith(f"the model starts untrained: no ImageNet weights of {DEIT} from the hub (")
    assert torch.equal(model.backbone.patches.project.weight, before)


def test_imagenet_weights_come_from_the_hubs_cache(
    deit: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / f"models--timm--{DEIT}.fb_in1k"
    (repository / "snapshots/1").mkdir(parents=True)
    save_file(deit.state_dict(), repository / "snapshots/1/model.safetensors")
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text("1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    model = model_of(size="tiny", pretrained=True)
    assert load_pretrained(model) == f"ImageNet weights of {DEIT}: 12 of 12 blocks, positions 14x14 -> 3x5"
    assert torch.equal(model.backbone.norm.bias, deit.state_dict()["norm.bias"])


@pytest.mark.parametrize("pooling", ["cls_dist", "mean"])
def test_clips_with_as_many_patches_are_not_masked(pooling: str) -> None:
    model = model_of(pooling=pooling)
    x_BTF, _ = fill(3, 64)
    # (63 - 16) // 10 + 1 = 5 columns as for 56 and 64 frames; (55 - 16) // 10 + 1 = 4
    assert model.backbone.patches(x_BTF, torch.tensor([63, 56, 64]))[1] is None
    own_BN = model.backbone.patches(x_BTF, torch.tensor([63, 55, 64]))[1]
    assert own_BN.sum(1).tolist() == [17, 14, 17]  # 2 + 3 rows x 5, 4 and 5 columns


@pytest.mark.parametrize("pooling", ["cls_dist", "mean"])
@pytest.mark.parametrize("stride", [7, 16])
def test_padding_does_not_change_the_prediction(pooling: str, stride: int) -> None:
    model = model_of(pooling=pooling, frequency_stride=stride, time_stride=stride).eval()
    x_BTF, _ = fill(5, 64)
    lengths = [64, 1, 16, 33, 50]
    for clip, length in zip(x_BTF, lengths, strict=True):
        clip[length:] = 0
    together = model(x_BTF, torch.tensor(lengths))
    for row, length in enumerate(lengths):
        alone = model(x_BTF[row : row + 1, :length], torch.tensor([length]))
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=1e-5)


def test_a_short_clip_takes_the_first_positions() -> None:
    model = model_of().eval()
    x_BTF, lengths_B = fill(2, 36)  # (36 - 16) // 10 + 1 = 3 of 5 columns
    expected = model(x_BTF, lengths_B)
    with torch.no_grad():
        model.backbone.patches.positions_DIJ[:, :, 3:] += 1
    assert torch.equal(model(x_BTF, lengths_B), expected)
    with torch.no_grad():
        model.backbone.patches.positions_DIJ[:, :, 2] += 1
    assert not torch.equal(model(x_BTF, lengths_B), expected)


def test_patchout_drops_rows_and_columns_in_training_only() -> None:
    model = model_of(patchout_frequency=0.5, patchout_time=0.4)
    batch = fill(2, 64)
    # 3 rows - int(1.5) = 2, 5 columns - int(2.0) = 3: 2 + 6 of 2 + 15 tokens
    assert model.train().backbone.patches(*batch)[0].shape[1] == 8
    assert model.eval().backbone.patches(*batch)[0].shape[1] == 17


def test_patchout_is_drawn_from_torchs_generator() -> None:
    model = model_of(patchout_time=0.4).train()
    batch = fill(2, 64)
    outputs = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        outputs.append(model(*batch))
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])


def test_a_short_clip_keeps_a_patch_under_patchout() -> None:
    model = model_of(patchout_time=0.9, pooling="mean").train()
    x_BTF, _ = fill(2, 64)
    lengths_B = torch.tensor([64, 1])
    for _ in range(5):
        own_BN = model.backbone.patches(x_BTF, lengths_B)[1]
        assert own_BN[1].sum() == 2 + 3  # its one column of 3 rows
        assert model(x_BTF, lengths_B).isfinite().all()


def test_patches_that_patchout_keeps_carry_their_own_positions() -> None:
    model = model_of(patchout_time=0.4).train()
    patches = model.backbone.patches
    with torch.no_grad():
        patches.project.weight.zero_()
        patches.project.bias.zero_()
        patches.positions_DIJ.copy_(torch.arange(5.0).expand(96, 3, 5))  # a column's position is its number
    tokens_BND, own_BN = patches(fill(2, 64)[0], torch.tensor([64, 35]))  # (35 - 16) // 10 + 1 = 2 columns
    columns_N = tokens_BND[1, 2:, 0]
    assert torch.equal(own_BN[1, 2:], columns_N < 2)


def test_the_chance_to_skip_a_block_rises_to_drop_path() -> None:
    layers = model_of(drop_path=0.3).backbone.layers
    chances = [getattr(layer.drop_path1, "drop_prob", 0.0) for layer in layers]
    assert chances == pytest.approx([0.0, 0.1, 0.2, 0.3])


def test_blocks_are_patches_then_layers_then_norm_with_the_last() -> None:
    model = model_of()
    blocks = model.blocks()
    assert len(blocks) == 1 + 4 + 1  # patches, layers, head
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    owned = [[names[id(parameter)] for parameter in block.parameters()] for block in blocks]
    assert sorted(chain.from_iterable(owned)) == sorted(names.values())
    assert all(name.startswith("backbone.patches.") for name in owned[0])
    assert {"backbone.layers.3.norm1.weight", "backbone.norm.weight"} <= set(owned[4])


def test_wrong_values_are_told() -> None:
    with pytest.raises(ConfigError, match=r"(?s)model\.size: .*model\.time_stride: .*1 to 16.*model\.pretrained: "):
        model_of(size="huge", time_stride=17, pretrained=1)
