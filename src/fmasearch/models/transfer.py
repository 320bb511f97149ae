"""Transfer: the weights of a trained model in a fresh one, and blocks that keep them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fmasearch.errors import ConfigError
from fmasearch.models.clip_model import ClipModel

LEAST_SHARE = 0.9
"""A start from less of the backbone is no transfer: one report froze ten random blocks and never noticed."""

_SHOWN = 3  # names of a kind in one sentence


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A tensor that both have, in different shapes."""

    name: str
    in_file: tuple[int, ...]
    in_model: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.name}: {self.in_file} in the file, {self.in_model} here"


@dataclass(frozen=True, slots=True)
class Transferred:
    """What became of every tensor of a file and of a model. Names are the model's, but for `unexpected`."""

    matched: tuple[str, ...]
    mismatched: tuple[Mismatch, ...]
    missing: tuple[str, ...]
    """In the model, not in the file."""
    unexpected: tuple[str, ...]
    """In the file, not in the model."""
    share: float
    """Of the backbone's parameters, by number of elements: what was loaded, 0 to 1."""

    def __str__(self) -> str:
        num_tensors = len(self.matched) + len(self.mismatched) + len(self.missing)
        loaded = f"{len(self.matched)} of {num_tensors} tensors, {_percent(self.share)} of the backbone"
        return "; ".join([loaded, *_not_loaded(self)])


def load_matching(model: ClipModel, weights: Mapping[str, Tensor]) -> Transferred:
    """Load every tensor whose name and shape match; the others stay fresh, and the result names them.

    The head of another task, with another number of classes, is such an other. Names may differ by a leading
    `module.` and by `_orig_mod.`, which wrappers of torch add, and by one leading `backbone.`, which the weights of
    a bare backbone lack.

    Args:
        model: anywhere; on the meta device nothing is copied, and the result is the same.
        weights: by name, as in a `state_dict`.

    Raises:
        ConfigError: if less than 90 % of the backbone's parameters match; the model is left as it was.
    """
    own = {_bare(name): (name, tensor) for name, tensor in model.state_dict().items()}
    given = _renamed(weights, {name: tensor for name, (_, tensor) in own.items()})
    both = [(own[name], tensor) for name, tensor in given.items() if name in own]
    pairs = [(name, here, tensor) for (name, here), tensor in both if here.shape == tensor.shape]
    result = Transferred(
        matched=tuple(name for name, _, _ in pairs),
        mismatched=tuple(
            Mismatch(name, tuple(tensor.shape), tuple(here.shape))
            for (name, here), tensor in both
            if here.shape != tensor.shape
        ),
        missing=tuple(name for bare, (name, _) in own.items() if bare not in given),
        unexpected=tuple(name for name in given if name not in own),
        share=_share(model, {name for name, _, _ in pairs}),
    )
    if result.share < LEAST_SHARE:
        raise ConfigError(
            f"transfer: {result}; at least {_percent(LEAST_SHARE)} of the backbone must match: give the `model` "
            f"section the architecture and hyperparameters of the file"
        )
    with torch.no_grad():
        for _, here, tensor in pairs:
            here.copy_(tensor)
    return result


def freeze(model: ClipModel, policy: str) -> None:
    """Keep part of the backbone as it is, from the input on; the head always trains.

    Frozen parameters ask for no gradient, and frozen blocks stay in eval mode.

    Args:
        model: is changed in place; names in its `state_dict` stay.
        policy: `none`, `backbone`, or `all_but_last(n)`: the last n blocks of the backbone train, too.

    Raises:
        ConfigError: for another policy, or one that would freeze nothing.
    """
    if policy == "none":
        return
    num_blocks = len(model.blocks()) - 1
    model.num_frozen = num_blocks if policy == "backbone" else num_blocks - _num_trained(policy, num_blocks)
    for module in model.frozen():
        module.requires_grad_(False)
    model.train(model.training)


def _num_trained(policy: str, num_blocks: int) -> int:
    match = re.fullmatch(r"all_but_last\(([1-9][0-9]*)\)", policy)
    if match is None:
        raise ConfigError(f"transfer.freeze: expected none, backbone or all_but_last(n), got {policy}")
    if int(match[1]) >= num_blocks:
        raise ConfigError(
            f"transfer.freeze: {policy} would freeze nothing: the backbone has {num_blocks} "
            f"{'block' if num_blocks == 1 else 'blocks'}; use none, or fewer"
        )
    return int(match[1])


def _renamed(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights under the model's names: of three ways to read a file, the one that loads most."""
    bare = {_bare(name): tensor for name, tensor in weights.items()}
    readings: list[Callable[[str], str]] = [
        lambda name: name,
        lambda name: f"backbone.{name}",
        lambda name: name.removeprefix("backbone."),
    ]
    renamed = [{reading(name): tensor for name, tensor in bare.items()} for reading in readings]
    return max(renamed, key=lambda named: _num_loaded(named, own))  # the first of equals


def _num_loaded(given: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> tuple[int, int]:
    """Elements that would be loaded; after them, names that both have."""
    names = given.keys() & own.keys()
    return sum(given[name].numel() for name in names if given[name].shape == own[name].shape), len(names)


def _bare(name: str) -> str:
    """Without what DataParallel and the averaging of weights (`module.`) and torch.compile (`_orig_mod.`) add."""
    parts = [part for part in name.split(".") if part != "_orig_mod"]
    return ".".join(parts[1:] if parts[0] == "module" else parts)


def _share(model: ClipModel, loaded: set[str]) -> float:
    backbone = model.get_submodule("backbone").named_parameters(prefix="backbone")
    sizes = {name: parameter.numel() for name, parameter in backbone}
    if not sizes:  # such a backbone computes statistics; there is only the head to load
        return float(bool(loaded))
    return sum(size for name, size in sizes.items() if name in loaded) / sum(sizes.values())


def _not_loaded(result: Transferred) -> list[str]:
    parts = [_some(map(str, result.mismatched), "; ")]
    for names, where in ((result.missing, "not in the file"), (result.unexpected, "only in the file")):
        parts.append(f"{where}: {_some(names, ', ')}" if names else "")
    return [part for part in parts if part]


def _some(lines: Iterable[str], between: str) -> str:
    listed = list(lines)
    more = [f"and {len(listed) - _SHOWN} more"] if len(listed) > _SHOWN else []
    return between.join([*listed[:_SHOWN], *more])


def _percent(share: float) -> str:
    """Rounded down: 100 % is all."""
    return f"{math.floor(share * 1000) / 10:g} %"
