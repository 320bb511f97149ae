"""The honest finish: confirm the best few over seeds, retrain the winner, test it once."""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from fmasearch.config import SearchConfig, TaskConfig, TrainConfig, derive_seed
from fmasearch.data import Dataset, DataSpec, merge_splits, open_dataset, open_split, read_info
from fmasearch.errors import DivergedError, StudyError
from fmasearch.evaluate import BOOTSTRAP_SEED, baseline_scores, judge, majority_class
from fmasearch.files import replacing
from fmasearch.metrics import Floats
from fmasearch.metrics.seeds import difference_over_seeds
from fmasearch.model_file import SavedModel, save_model
from fmasearch.records import (
    ConfirmRecord,
    EpochResult,
    FinalRecord,
    Lead,
    Objective,
    TrialRecord,
    TrialStart,
    TrialState,
)
from fmasearch.tasks import build_task
from fmasearch.tasks.kept import KeptOutputs, read_kept
from fmasearch.tasks.resampled import ResampledObjective, resampled_objective
from fmasearch.trainer import Trainer


def confirm_starts(trials: Sequence[TrialRecord], search: SearchConfig) -> tuple[TrialStart, ...]:
    """The trainings of the confirmation: `top_k` configurations (best first in `trials`) by `seeds` seeds.

    Seeds are shared between configurations, and none was used in the search.
    """
    return tuple(
        _with_seed(trial.start, index, derive_seed(search.seed, "confirm", index))
        for trial in trials[: search.confirm.top_k]
        for index in range(search.confirm.seeds)
    )


def confirmed(
    starts: Sequence[TrialStart], records: Mapping[str, TrialRecord], objective: Objective
) -> tuple[ConfirmRecord, ...]:
    """Group finished confirmation trainings by configuration, best mean validation objective first.

    Raises:
        StudyError: if every training failed.
    """
    groups: dict[str, list[TrialRecord]] = {}
    for start in starts:
        groups.setdefault(source_trial(start), []).append(records[start.name])
    grouped = [
        ConfirmRecord(name, curves[0].start.params, curves[0].start.config, tuple(curves))
        for name, curves in groups.items()
    ]
    usable = [record for record in grouped if record.objectives]
    if not usable:
        reasons = {curve.error for record in grouped for curve in record.curves}
        raise StudyError(f"confirmation: every retraining failed: {'; '.join(str(r) for r in reasons)}")
    sign = -1.0 if objective.mode == "max" else 1.0
    # A configuration that failed under some seed comes after all that did not.
    return tuple(sorted(usable, key=lambda r: (len(r.objectives) < len(r.curves), sign * r.mean)))


def source_trial(start: TrialStart) -> str:
    """The search trial that a confirmation training repeats."""
    return start.name.removeprefix("confirm-").rpartition("-seed")[0]


def leads(confirmation: Sequence[ConfirmRecord], outputs: Path) -> tuple[Lead, ...]:
    """How far the best confirmed configuration is ahead of each other one: can they be told apart?

    One objective a seed, from the validation outputs that each training left in the folder `outputs`. The tracks
    are drawn by artist where all artists are known, as for the test; seeds are drawn, too (`difference_over_seeds`).
    2,000 draws of 781 tracks, 3 seeds of 2 configurations: 0.1 s for classes, 2.4 s for 3 numbers, on one core.

    Args:
        confirmation: from `confirmed`, best first.
    """
    first, *others = confirmation
    best = _scored(first, outputs) if others else None
    return tuple(_lead(first, best, other, _scored(other, outputs)) for other in others)


@dataclass(frozen=True)
class _Scored:
    """A configuration's objective on all tracks, one a seed, and on draws of the tracks."""

    value_S: Floats
    draws_DS: Floats
    targets: Tensor
    by_artist: bool


def _scored(record: ConfirmRecord, outputs: Path) -> _Scored | str:
    """The objective of every seed that did not fail, or why there is none."""
    config = TrainConfig.model_validate(record.config)
    names = [curve.name for curve in record.curves if curve.best and curve.state is not TrialState.FAILED]
    kept = {name: read_kept(outputs / f"{name}.npz") for name in names}
    found = [each for each in kept.values() if each is not None]
    if len(found) < len(kept):
        missing = next(name for name, each in kept.items() if each is None)
        return f"what {missing} said of the validation tracks was not kept"
    by_artist = all(bool((each.artist_ids_N >= 0).all()) for each in found)
    scored = [_resampled(config.task, each, by_artist=by_artist) for each in found]
    return _Scored(
        value_S=np.array([each.value for each in scored]),
        draws_DS=np.stack([each.draws_D for each in scored], axis=1),
        targets=found[0].targets,
        by_artist=by_artist,
    )


def _resampled(config: TaskConfig, kept: KeptOutputs, *, by_artist: bool) -> ResampledObjective:
    task = build_task(config, kept.class_names, kept.target_stats)
    groups_N = kept.artist_ids_N if by_artist else np.arange(len(kept.targets))
    return resampled_objective(task, kept.outputs_NK, kept.targets, groups_N, seed=BOOTSTRAP_SEED)


def _lead(first: ConfirmRecord, best: _Scored | str | None, other: ConfirmRecord, scored: _Scored | str) -> Lead:
    if not isinstance(best, _Scored) or not isinstance(scored, _Scored):
        reason = best if isinstance(best, str) else scored
        return Lead(first.trial, other.trial, None, reason=str(reason))
    if not _same(best.targets, scored.targets):
        return Lead(first.trial, other.trial, None, reason="they were validated on different tracks")
    difference = difference_over_seeds(
        best.value_S, best.draws_DS, scored.value_S, scored.draws_DS, seed=BOOTSTRAP_SEED
    )
    if not all(map(math.isfinite, (difference.value, difference.low, difference.high))):
        return Lead(first.trial, other.trial, None, reason="the objective is undefined on the validation tracks")
    return Lead(
        trial=first.trial,
        other=other.trial,
        difference=difference,
        num_tracks=len(best.targets),
        resampled_by="artist" if best.by_artist else "track",
        num_seeds=(len(best.value_S), len(scored.value_S)),
    )


def _same(first: Tensor, second: Tensor) -> bool:
    return torch.equal(torch.nan_to_num(first, nan=-1e9), torch.nan_to_num(second, nan=-1e9))


FinalTraining: TypeAlias = Iterator[EpochResult | SavedModel | FinalRecord]
"""Epochs as they end, then the model, then what its one test gave. The record names no model file yet: where the
training runs need not be where the model is kept."""


def train_final(
    winner: ConfirmRecord,
    spec: DataSpec,
    search: SearchConfig,
    model_file: Path,
    final_file: Path,
    *,
    device: str = "cpu",
    versions: Mapping[str, str] | None = None,
    on_epoch: Callable[[EpochResult], None] = lambda _: None,
    run: Callable[..., FinalTraining] | None = None,
    study: str | None = None,
    earlier_tests: Sequence[str] = (),
) -> FinalRecord:
    """Retrain the winner, test it, save the model and the record.

    A study that has its `final_file` was tested: the record is read back, and the test split stays closed.

    Args:
        run: what calls `final_training`, on another machine perhaps; None calls it here.
        study: whose model it is; the model file says so.
        earlier_tests: who had opened this test split before, in words.
    """
    if final_file.exists():
        return FinalRecord.from_json(json.loads(final_file.read_text(encoding="utf-8")))
    for item in (run or final_training)(spec, winner, search, device=device, versions=versions):
        match item:
            case EpochResult():
                on_epoch(item)
            case SavedModel():  # by this machine's name of the data, wherever it was read
                save_model(model_file, replace(item, data={"path": spec.path, "sha256": spec.sha256}, study=study))
            case FinalRecord():
                record = replace(item, model_file=str(model_file), earlier_tests=tuple(earlier_tests))
    _write(final_file, record.to_json())
    return record


def final_training(
    spec: DataSpec,
    winner: ConfirmRecord,
    search: SearchConfig,
    *,
    device: str = "cpu",
    versions: Mapping[str, str] | None = None,
) -> FinalTraining:
    """Retrain the winner for the confirmed number of epochs, and open the test split, once."""
    started = time.monotonic()
    epochs = max(1, round(statistics.median(winner.best_epochs)))
    train_on = search.final.train_on
    dataset = open_dataset(spec, device=device)
    trainer = _trainer(winner, dataset, search, train_on, device)
    curve: list[EpochResult] = []
    try:
        for result in islice(trainer.epochs(), epochs):
            curve.append(result)
            yield result
    except DivergedError as error:
        raise StudyError(f"final training of {winner.trial}: {error}; `tune --resume` with another seed") from None
    yield SavedModel(
        config=trainer.config,
        weights={name: tensor.detach().cpu() for name, tensor in trainer.judged.state_dict().items()},
        class_names=dataset.class_names,
        normalisers=dataset.normalisers,
        input_dim=dataset.input_dim,
        num_frames=trainer.num_frames,
        feature_settings={f: dict(read_info(spec.path).feature(f).settings) for f in spec.features},
        data={"path": spec.path, "sha256": spec.sha256},
        versions=versions or {},
        genres=spec.genres,
        targets=dataset.targets,
    )
    test = open_split(spec, "test", dataset.normalisers, device=device)
    yield FinalRecord(
        trial=winner.trial,
        config=trainer.config.model_dump(mode="json"),
        trained_on=train_on,
        epochs=epochs,
        curve=tuple(curve),
        validation={k: v for k, v in curve[-1].metrics.items() if k.startswith("val_")},
        test=judge(
            trainer.judged,
            test,
            trainer.task,
            baseline=baseline_scores(trainer.task, test, majority_class=majority_class(dataset)),
            crop=trainer.config.crop,
        ),
        num_parameters=sum(p.numel() for p in trainer.model.parameters()),
        origin=trainer.origin,
        model_file="",
        seconds=time.monotonic() - started,
    )


def _trainer(winner: ConfirmRecord, dataset: Dataset, search: SearchConfig, train_on: str, device: str) -> Trainer:
    """The winner's trainer. The schedule's horizon stays that of the search; only the end comes earlier."""
    config = TrainConfig.model_validate(winner.config)
    config = config.model_copy(
        update={
            "seed": derive_seed(search.seed, "final"),
            "trainer": config.trainer.model_copy(update={"patience": None}),
        }
    )
    if train_on == "train+val":
        assert dataset.val is not None
        merged = merge_splits("train+val", (dataset.train, dataset.val))
        dataset = replace(dataset, train=merged, val=None)
    return Trainer(config, dataset, device=device)


def _with_seed(start: TrialStart, index: int, seed: int) -> TrialStart:
    return TrialStart(
        number=index,
        name=f"confirm-{start.name}-seed{index}",
        params=start.params,
        config={**start.config, "seed": seed},
        seed=seed,
        label=start.label,
    )


def _write(path: Path, values: Mapping[str, Any]) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(values), encoding="utf-8")
