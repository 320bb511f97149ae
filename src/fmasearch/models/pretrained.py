"""Weights of a distilled vision transformer, read and made to fit a spectrogram: files, the hub, kernels, positions.

Axes: D embedding, N tokens, I rows of patches (frequency), J columns of patches (time).
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from fmasearch.errors import ConfigError

STEM = {"patch_embed.proj.weight": 4, "patch_embed.proj.bias": 1, "cls_token": 3, "dist_token": 3, "pos_embed": 3}
"""What stands before the blocks, in DeiT's and timm's names, with the number of axes of each."""

HUB_FILE = "model.safetensors"


def read_weights(path: str | Path) -> dict[str, Any]:
    """Tensors by name from a .safetensors file or one written by torch; nothing in it is executed.

    Raises:
        ConfigError: naming the file, if it is absent or damaged.
    """
    if not Path(path).is_file():
        raise ConfigError(f"model.pretrained: {path}: no such file")
    try:
        with warnings.catch_warnings(action="ignore"):  # torch remarks on foreign pickles before it fails on them
            if Path(path).suffix == ".safetensors":
                return load_file(path)
            weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # both readers raise whatever a foreign byte leads them to
        raise ConfigError(f"model.pretrained: {path}: is damaged, or not a file of weights") from None
    # DeiT's own files keep the weights under `model`, those of trainings often under `state_dict`.
    for key in ("model", "state_dict"):
        if isinstance(weights, dict) and isinstance(weights.get(key), dict):
            weights = weights[key]
    if not isinstance(weights, dict):
        raise ConfigError(f"model.pretrained: {path}: expected tensors by name, got {type(weights).__name__}")
    return weights


def read_hub(repository: str) -> dict[str, Tensor]:
    """Tensors by name from the hub's cache on this machine, or else from the hub.

    Raises:
        Exception: whatever the hub's client raises where it cannot be reached, in seconds.
    """
    # Not at the top: one architecture asks for it, and rarely.
    import huggingface_hub

    with _silence("huggingface_hub"):
        path = huggingface_hub.try_to_load_from_cache(repository, HUB_FILE)
        if not isinstance(path, str):
            # One request of at most five seconds: without it a download asks six times, and longer each time.
            huggingface_hub.get_hf_file_metadata(huggingface_hub.hf_hub_url(repository, HUB_FILE), timeout=5)
            path = huggingface_hub.hf_hub_download(repository, HUB_FILE)
    return load_file(path)


@contextmanager
def _silence(name: str) -> Iterator[None]:
    """Keep a library's warnings and remarks to itself; what fails is told in our own words."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logger.setLevel(level)


def backbone_weights(
    weights: Mapping[str, Any], own: Mapping[str, Tensor], *, source: str
) -> tuple[dict[str, Tensor], str]:
    """Turn a DeiT checkpoint into a state of `AstBackbone`, and say what was done.

    Args:
        weights: a checkpoint in timm's names; its classification heads are left out.
        own: the backbone's state: the shapes to fit.
        source: names the checkpoint in errors.

    Raises:
        ConfigError: if it is no distilled vision transformer, or of another width or depth.
    """
    _check_stem(weights, source)
    _check_size(weights, own, source)
    grid_DIJ, rows_columns = _grid(weights["pos_embed"][0, 2:], source), own["patches.positions_DIJ"].shape[1:]
    converted = {
        # The published code sums the kernel over red, green and blue; the mean is a third of that. The input is
        # standardised either way, and the norm in the first block takes up a factor that all patches share.
        "patches.project.weight": weights["patch_embed.proj.weight"].mean(1, keepdim=True),
        "patches.project.bias": weights["patch_embed.proj.bias"],
        "patches.prefix_2D": torch.cat([weights["cls_token"][0], weights["dist_token"][0]]),
        "patches.prefix_positions_2D": weights["pos_embed"][0, :2],
        "patches.positions_DIJ": resize_positions(grid_DIJ, *rows_columns),
    }
    for name, tensor in weights.items():
        if name.startswith("blocks."):
            converted[name.replace("blocks.", "layers.", 1)] = tensor
        elif name.startswith("norm."):
            converted[name] = tensor
    _check_shapes(converted, own, source)
    before, after = grid_DIJ.shape[1:], rows_columns
    depth = _depth(own, "layers.")
    remark = f"{depth} of {depth} blocks, positions {before[0]}x{before[1]} -> {after[0]}x{after[1]}"
    return converted, remark


def resize_positions(grid_DIJ: Tensor, rows: int, columns: int) -> Tensor:
    """Fit a grid of positions as AST does: cut from the middle where it is too large, else interpolate bilinearly.

    Time first, then frequency (Gong et al., 2021, §2.2 and the published code). Returns (D, rows, columns).
    """
    grid_1DIJ = grid_DIJ[None].float()
    for axis, size in ((3, columns), (2, rows)):
        available = grid_1DIJ.shape[axis]
        if size <= available:
            grid_1DIJ = grid_1DIJ.narrow(axis, available // 2 - size // 2, size)
        else:
            new_shape = (grid_1DIJ.shape[2], size) if axis == 3 else (size, grid_1DIJ.shape[3])
            grid_1DIJ = F.interpolate(grid_1DIJ, new_shape, mode="bilinear")
    return grid_1DIJ[0]


def _grid(positions_ND: Tensor, source: str) -> Tensor:
    """The positions of an image's patches, row by row, as a square (D, I, J)."""
    side = math.isqrt(len(positions_ND))
    if side * side != len(positions_ND):
        message = f"expected positions of a square image, got {len(positions_ND)} of them"
        raise ConfigError(f"model.pretrained: {source}: {message}")
    return positions_ND.T.reshape(-1, side, side)


def _check_stem(weights: Mapping[str, Any], source: str) -> None:
    for name, num_axes in STEM.items():
        tensor = weights.get(name)
        if not isinstance(tensor, Tensor) or tensor.ndim != num_axes:
            got = f"a shape of {tuple(tensor.shape)}" if isinstance(tensor, Tensor) else "none"
            expected = f"expected a distilled vision transformer, whose {name} has {num_axes} axes"
            raise ConfigError(f"model.pretrained: {source}: {expected}, got {got}")


def _check_size(weights: Mapping[str, Any], own: Mapping[str, Tensor], source: str) -> None:
    expected = f"{_depth(own, 'layers.')} blocks of width {len(own['norm.weight'])}"
    got = f"{_depth(weights, 'blocks.')} blocks of width {weights['cls_token'].shape[-1]}"
    if got != expected:
        raise ConfigError(f"model.pretrained: {source}: expected {expected}, got {got}")


def _depth(names: Mapping[str, Any], prefix: str) -> int:
    return len({name.split(".")[1] for name in names if name.startswith(prefix)})


def _check_shapes(converted: Mapping[str, Tensor], own: Mapping[str, Tensor], source: str) -> None:
    """Every tensor is there, and none besides."""
    for name in sorted(converted.keys() | own.keys()):
        got, expected = (tuple(state[name].shape) if name in state else None for state in (converted, own))
        if got != expected:
            raise ConfigError(
                f"model.pretrained: {source}: {name}: expected {expected or 'no such tensor'}, got {got or 'none'}"
            )
