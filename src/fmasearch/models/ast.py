"""The Audio Spectrogram Transformer: a vision transformer on 16 x 16 patches of a spectrogram.

Gong, Chung & Glass, "AST: Audio Spectrogram Transformer", Interspeech 2021, with the structured patchout of
Koutini et al., "Efficient Training of Audio Transformers with Patchout", Interspeech 2022. Written anew on timm's
transformer blocks; token and parameter counts are the published ones. This is timm's only door.

Axes: B batch, T frames, F feature bins, I rows of patches (frequency), J columns of patches (time), D embedding,
N tokens: CLS, distillation, then patches row by row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmasearch.errors import ConfigError
from fmasearch.models.clip_model import ClipModel, Head, padding_mask
from fmasearch.models.hyperparameters import Count, DropoutRate, Range
from fmasearch.models.pretrained import backbone_weights, read_hub, read_weights

PATCH = 16
"""Frames and bins of a patch."""

Size: TypeAlias = Literal["micro", "tiny", "small", "base"]
TokenPooling: TypeAlias = Literal["cls_dist", "mean"]
Stride: TypeAlias = Annotated[int, Range(1, PATCH)]
DroppedShare: TypeAlias = Annotated[float, Range(0, 0.9)]


@dataclass(frozen=True)
class Shape:
    width: int
    depth: int
    num_heads: int


SHAPES: dict[str, Shape] = {
    "micro": Shape(96, 4, 3),  # ours: for thousands of clips, not millions; nobody has pretrained it
    "tiny": Shape(192, 12, 3),
    "small": Shape(384, 12, 6),
    "base": Shape(768, 12, 12),
}


def ast(
    *,
    input_dim: Count,
    num_frames: Count,
    output_dim: Count,
    size: Size = "tiny",
    frequency_stride: Stride = 10,
    time_stride: Stride = 10,
    pooling: TokenPooling = "cls_dist",
    dropout: DropoutRate = 0.0,
    attention_dropout: DropoutRate = 0.0,
    drop_path: DropoutRate = 0.0,
    patchout_frequency: DroppedShare = 0.0,
    patchout_time: DroppedShare = 0.0,
    pretrained: bool | str = False,
) -> ClipModel:
    """The published model, untrained; `load_pretrained` then fetches what `pretrained` names.

    Args:
        input_dim, num_frames, output_dim: F, T and K.
        size: DeiT's tiny, small and base, or micro: 96 wide, 4 blocks, 3 heads.
        frequency_stride, time_stride: bins and frames between patches; 10 overlap (published), 16 do not.
        pooling: cls_dist is the mean of the CLS and the distillation token (published), mean that of a clip's patches.
        dropout: before the last linear layer.
        drop_path: chance that a training clip skips the last block; it rises to that from 0 (Huang et al., 2016).
        patchout_frequency, patchout_time: share of rows and columns of patches that a training batch leaves out.
        pretrained: false, true for timm's ImageNet weights, or a file of such weights (.pth, .safetensors).

    Raises:
        ConfigError: if ImageNet weights are asked for a size that has none.
    """
    if pretrained is True and size == "micro":
        raise ConfigError("model.pretrained: true needs model.size tiny, small or base; none were trained for micro")
    shape = SHAPES[size]
    patches = PatchTokens(shape.width, input_dim, num_frames, (frequency_stride, time_stride))
    patches.patchout_frequency, patches.patchout_time = patchout_frequency, patchout_time
    layers = _transformer_blocks(shape, attention_dropout, drop_path)
    hidden = nn.Sequential(nn.LayerNorm(shape.width), nn.Dropout(dropout))
    source = f"deit_{size}_distilled_patch16_224" if pretrained is True else pretrained or None
    backbone = AstBackbone(patches, layers, pooling, source, from_hub=pretrained is True)
    return ClipModel(backbone, Head(hidden, shape.width, output_dim))


def _transformer_blocks(shape: Shape, attention_dropout: float, drop_path: float) -> nn.ModuleList:
    """timm's pre-norm blocks with fused attention, initialised as a ViT is."""
    # Not at the top: timm and torchvision take a second to import, and no other architecture needs them.
    from timm.models.vision_transformer import Block

    last = max(1, shape.depth - 1)
    blocks = nn.ModuleList(
        Block(
            shape.width,
            shape.num_heads,
            qkv_bias=True,
            attn_drop=attention_dropout,
            drop_path=drop_path * index / last,
        )
        for index in range(shape.depth)
    )
    for module in blocks.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
    return blocks


class AstBackbone(nn.Module):
    """Patch tokens, transformer blocks, a norm, and one vector per clip from its tokens.

    `source` is a file of weights, or with `from_hub` a model's name there; None starts from fresh weights.
    """

    def __init__(
        self,
        patches: PatchTokens,
        layers: nn.ModuleList,
        pooling: TokenPooling,
        source: str | None,
        *,
        from_hub: bool,
    ) -> None:
        super().__init__()
        self.patches = patches
        self.layers = layers
        self.norm = nn.LayerNorm(patches.width, eps=1e-6)
        self.pooling = pooling
        self.source = source
        self.from_hub = from_hub

    def forward(self, x_BTF: Tensor, lengths_B: Tensor) -> Tensor:
        tokens_BND, own_BN = self.patches(x_BTF, lengths_B)
        # Without a mask attention may take the flash kernel.
        mask = None if own_BN is None else own_BN[:, None, None, :]
        for layer in self.layers:
            tokens_BND = layer(tokens_BND, attn_mask=mask)
        return self._pooled(self.norm(tokens_BND), own_BN)

    def _pooled(self, tokens_BND: Tensor, own_BN: Tensor | None) -> Tensor:
        if self.pooling == "cls_dist":
            return tokens_BND[:, :2].mean(1)
        patches_BND = tokens_BND[:, 2:]
        if own_BN is None:
            return patches_BND.mean(1)
        own_BN1 = own_BN[:, 2:, None]
        return patches_BND.masked_fill(~own_BN1, 0).sum(1) / own_BN1.sum(1)

    def blocks(self) -> tuple[nn.Module, ...]:
        """Patches with their positions, then each transformer block, the last with the norm after it."""
        return (self.patches, *self.layers[:-1], nn.ModuleList([self.layers[-1], self.norm]))

    def load_pretrained(self) -> str | None:
        """Take over the weights that `pretrained` named. One sentence on what was loaded; None if nothing was named.

        Where the hub cannot be reached, the weights stay as they are, and the sentence says so.

        Raises:
            ConfigError: for a file that is absent, damaged, or of another width or depth.
        """
        if self.source is None:
            return None
        if not self.from_hub:
            return f"weights of {self.source}: {self._take(read_weights(self.source))}"
        try:
            weights = read_hub(_repository(self.source))
        except Exception as error:  # the hub's client raises errors of its own, of its HTTP library and of the system
            reason = " ".join(str(error).split())[:120] or type(error).__name__
            return f"the model starts untrained: no ImageNet weights of {self.source} from the hub ({reason})"
        return f"ImageNet weights of {self.source}: {self._take(weights)}"

    def _take(self, weights: Mapping[str, Tensor]) -> str:
        converted, remark = backbone_weights(weights, self.state_dict(), source=str(self.source))
        self.load_state_dict(converted)
        return remark


def _repository(name: str) -> str:
    """Where timm keeps a model's weights on the hub."""
    import timm

    return str(timm.get_pretrained_cfg(name).hf_hub_id)


class PatchTokens(nn.Module):
    """A clip's patches as tokens, after a CLS and a distillation token; each with a learned position.

    A clip of n frames has (n - 16) // time_stride + 1 columns of patches, at least one. Patches of padding are
    marked. In training, `patchout_frequency` and `patchout_time` drop that share of rows and columns.
    """

    patchout_frequency = 0.0
    patchout_time = 0.0

    def __init__(self, width: int, input_dim: int, num_frames: int, stride: tuple[int, int]) -> None:
        super().__init__()
        rows = max(0, input_dim - PATCH) // stride[0] + 1
        columns = max(0, num_frames - PATCH) // stride[1] + 1
        self.width = width
        self.time_stride = stride[1]
        self.project = nn.Conv2d(1, width, PATCH, stride)
        self.prefix_2D = nn.Parameter(torch.empty(2, width))
        self.prefix_positions_2D = nn.Parameter(torch.empty(2, width))
        self.positions_DIJ = nn.Parameter(torch.empty(width, rows, columns))
        for parameter in (self.prefix_2D, self.prefix_positions_2D, self.positions_DIJ):
            nn.init.trunc_normal_(parameter, std=0.02)

    def forward(self, x_BTF: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor | None]:
        """Returns tokens_BND and own_BN, False at patches of padding; None if there is no such patch."""
        columns_B = ((lengths_B - PATCH) // self.time_stride + 1).clamp(min=1)
        fewest, most = (int(columns) for columns in columns_B.aminmax())
        patches_BDIJ = self.project(self._image(x_BTF, most)) + self.positions_DIJ[:, :, :most]
        own_BJ = None if fewest == most else ~padding_mask(columns_B, most, x_BTF.device)
        if self.training:
            patches_BDIJ, own_BJ = self._patchout(patches_BDIJ, own_BJ)
        prefix_B2D = (self.prefix_2D + self.prefix_positions_2D).expand(len(x_BTF), -1, -1)
        tokens_BND = torch.cat([prefix_B2D, patches_BDIJ.flatten(2).transpose(1, 2)], dim=1)
        if own_BJ is None:
            return tokens_BND, None
        own_BN = own_BJ[:, None].expand(-1, patches_BDIJ.shape[2], -1).flatten(1)
        return tokens_BND, F.pad(own_BN, (2, 0), value=True)

    def _image(self, x_BTF: Tensor, columns: int) -> Tensor:
        """The frames that so many columns cover, zeros added up to a whole patch: (B, 1, F, T)."""
        x_BFT = x_BTF[:, : (columns - 1) * self.time_stride + PATCH].transpose(1, 2)
        bins, frames = x_BFT.shape[1:]
        return F.pad(x_BFT, (0, max(0, PATCH - frames), 0, max(0, PATCH - bins)))[:, None]

    def _patchout(self, patches_BDIJ: Tensor, own_BJ: Tensor | None) -> tuple[Tensor, Tensor | None]:
        rows, columns = patches_BDIJ.shape[2:]
        if self.patchout_frequency:
            patches_BDIJ = patches_BDIJ.index_select(2, _kept(rows, self.patchout_frequency, patches_BDIJ.device))
        if self.patchout_time:
            kept = _kept(columns, self.patchout_time, patches_BDIJ.device, keep_first=own_BJ is not None)
            patches_BDIJ = patches_BDIJ.index_select(3, kept)
            own_BJ = None if own_BJ is None else own_BJ.index_select(1, kept)
        return patches_BDIJ, own_BJ


def _kept(number: int, dropped_share: float, device: torch.device, *, keep_first: bool = False) -> Tensor:
    """Random indices that are left of 0 to number - 1; the first is every clip's own, so a short clip keeps one."""
    num_kept = number - int(number * dropped_share)
    if not keep_first:
        return torch.randperm(number, device=device)[:num_kept]
    return F.pad(torch.randperm(number - 1, device=device)[: num_kept - 1] + 1, (1, 0))
