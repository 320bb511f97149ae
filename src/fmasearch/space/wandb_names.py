"""Names in W&B sweeps and what they are called here: parameters, optimisers, schedules and metrics."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from types import UnionType
from typing import Union, get_args, get_origin

from fmasearch.config import TrainConfig
from fmasearch.config.sections import Section

SYNONYMS = {
    "model/architecture": "architecture arch model model_name model_type model_architecture network net",
    "model/hidden_dim": "hidden hidden_size hidden_dims hidden_units hidden_channels n_hidden num_hidden",
    "model/num_layers": "layers n_layers nlayers num_rnn_layers rnn_layers lstm_layers gru_layers",
    "model/num_heads": "heads n_heads nhead nheads attention_heads",
    "model/rnn_dim": "rnn_hidden rnn_size rnn_hidden_size rnn_hidden_dim lstm_hidden lstm_hidden_size gru_hidden",
    "model/dropout": "drop drop_rate dropout_rate dropout_p dropout_prob",
    "model/kernel_size": "kernel",
    "model/pool_size": "pool",
    "optimizer/name": "optimizer optimiser opt optim optimizer_type optimizer_name",
    "optimizer/learning_rate": "lr learningrate init_lr initial_lr base_lr max_lr",
    "optimizer/weight_decay": "wd decay l2 l2_reg weightdecay",
    "scheduler/name": "scheduler lr_scheduler lr_schedule schedule scheduler_type scheduler_name",
    "scheduler/factor": "reduce_lr_factor lr_factor plateau_factor rlrop_factor",
    "scheduler/patience": "reduce_lr_patience lr_patience plateau_patience rlrop_patience scheduler_patience",
    "scheduler/threshold": "reduce_lr_threshold plateau_threshold",
    "scheduler/step_size": "step_lr_step_size lr_step_size lr_step step_lr_size",
    "scheduler/gamma": "step_lr_gamma lr_gamma lr_decay",
    "scheduler/warmup_epochs": "warmup lr_warmup_epochs num_warmup_epochs",
    "loss/label_smoothing": "smoothing ls",
    "loss/class_weights": "class_weight class_weighting",
    "augment/mixup_alpha": "mixup",
    "augment/num_freq_masks": "n_freq_masks freq_masks",
    "augment/num_time_masks": "n_time_masks time_masks",
    "augment/freq_mask_bins": "freq_mask_param freq_mask",
    "augment/time_mask_frames": "time_mask_param time_mask",
    "trainer/batch_size": "bs batch batchsize train_batch_size",
    "trainer/accumulation_steps": "grad_accumulation_steps gradient_accumulation_steps accumulate_grad_batches",
    "trainer/grad_clip_norm": "grad_clip clip gradient_clip gradient_clip_val clip_grad_norm max_grad_norm",
    "trainer/ema_decay": "ema",
    "search/max_epochs": "epochs epoch num_epochs n_epochs max_epoch max_epochs",
    "search/patience": "patience early_stopping early_stopping_patience early_stop_patience es_patience",
    "search/seed": "seed random_seed",
}
"""By our path, what people call it; `search/...` belongs to the search. Our own names need no entry."""

WORDS = {
    "optimizer/name": {"adam": "adam", "adamw": "adamw", "sgd": "sgd"},
    "scheduler/name": {
        "none": "constant", "constant": "constant", "plateau": "plateau", "reduceonplateau": "plateau",
        "reducelronplateau": "plateau", "reducelr": "plateau", "step": "step", "steplr": "step", "cosine": "cosine",
        "cosineannealing": "cosine", "cosineannealinglr": "cosine", "cosinewarmup": "cosine", "onecycle": "one_cycle",
        "onecyclelr": "one_cycle", "stepplateau": "step_plateau",
    },
}  # fmt: skip
"""What values are called, in lower case and without separators."""

_OBJECTIVES = {
    "accuracy": "accuracy acc top1 top_1 top1_accuracy categorical_accuracy",
    "macro_f1": "f1 f1_score macro_f1 f1_macro macro_f1_score f1_score_macro",
    "balanced_accuracy": "balanced_accuracy balanced_acc bal_acc uar macro_recall",
}
_SPLIT_WORDS = {"val", "valid", "validation", "dev", "eval", "test", "train", "best", "final", "epoch", "mean"}
_WHOLE = re.compile(r"num_\w+|\w+_(dim|size|stride|layers|heads)|pool_size")


def words_of(text: str) -> list[str]:
    """`val/F1-score` is [val, f1, score]."""
    return [word for word in re.split(r"[^a-z0-9]+", text.lower()) if word]


def path_of(name: str, hyperparameters: Collection[str]) -> str | None:
    """Our path of a sweep's parameter, nested names joined by dots; None for one that we do not know.

    Args:
        name: such as `lr`, `optimizer.weight_decay`, `hparams.hidden-dim`.
        hyperparameters: of the architectures; what they call the same needs no entry in a table.
    """
    parts = ["_".join(words_of(part)) for part in re.split(r"[./]", name)]
    if "/".join(parts) in _OWN_PATHS or (parts[0] == "model" and len(parts) == 2 and parts[1] in hyperparameters):
        return "/".join(parts)
    for known in ("_".join(parts), parts[-1]):  # the whole name before its last part alone
        if known in hyperparameters:
            return f"model/{known}"
        if known in _PATHS:
            return _PATHS[known]
    return None


def objective_of(metric: str) -> str | None:
    """Our objective by the name of a sweep's metric; None if we have no such objective."""
    name = "_".join(word for word in words_of(metric) if word not in _SPLIT_WORDS)
    return next((ours for ours, theirs in _OBJECTIVES.items() if name in theirs.split()), None)


def names_another_split(metric: str) -> bool:
    return bool({"test", "train"} & set(words_of(metric)))


def is_whole(path: str) -> bool:
    """Whether the values of a path are whole numbers; of a model's keys, its name says so."""
    section, _, key = path.partition("/")
    if section == "model":
        return _WHOLE.fullmatch(key) is not None
    field = _section_of(section).model_fields.get(key) if section in _SECTIONS else None
    if field is None:
        return False
    kinds = get_args(field.annotation) if get_origin(field.annotation) in (UnionType, Union) else (field.annotation,)
    return any(_plain(kind) is int for kind in kinds)


def find_names(text: str, known: Iterable[str]) -> list[str]:
    """Which of `known`, such as cnn_gru, occur in a text as whole words; none that is part of a longer one."""
    joined = f"_{'_'.join(words_of(text))}_"
    found = [name for name in known if f"_{name}_" in joined]
    return [name for name in found if not any(name != other and f"_{name}_" in f"_{other}_" for other in found)]


def _section_of(name: str) -> type[Section]:
    section: type[Section] = type(TrainConfig.model_fields[name].default)
    return section


def _plain(kind: object) -> object:
    """The type below an `Annotated`."""
    return get_args(kind)[0] if hasattr(kind, "__metadata__") else kind


def _build_paths() -> dict[str, str]:
    """Path by name: our own keys that only one section has, then the synonyms."""
    keys = [path.partition("/")[2] for path in _OWN_PATHS]
    own = {path.partition("/")[2]: path for path in _OWN_PATHS if keys.count(path.partition("/")[2]) == 1}
    return own | {name: path for path, names in SYNONYMS.items() for name in names.split()}


_SECTIONS = [
    name
    for name, field in TrainConfig.model_fields.items()
    if isinstance(field.default, Section) and name != "genres"  # a sweep's `drop` is no list of classes
]
_OWN_PATHS = [
    path
    for section in _SECTIONS
    for key in _section_of(section).model_fields
    if (path := f"{section}/{key}") not in ("trainer/max_epochs", "trainer/patience")  # those are the search's
]
_PATHS = _build_paths()
