"""The honest finish: confirm the best few over seeds, retrain the winner, test it once."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fmasearch.config import SearchConfig, TrainConfig, derive_seed
from fmasearch.data import Dataset, DataSpec, merge_splits, open_dataset, open_split, read_info
from fmasearch.errors import DivergedError, StudyError
from fmasearch.evaluate import judge, majority_class
from fmasearch.files import replacing
from fmasearch.model_file import SavedModel, save_model
from fmasearch.records import (
    ConfirmRecord,
    EpochResult,
    FinalRecord,
    Objective,
    TrialRecord,
    TrialStart,
)
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
) -> FinalRecord:
    """Retrain the winner for the confirmed number of epochs, save it, and open the test split, once.

    A study that has its `final_file` was tested: the record is read back, and the test split stays closed.
    """
    if final_file.exists():
        return FinalRecord.from_json(json.loads(final_file.read_text(encoding="utf-8")))
    started = time.monotonic()
    epochs = max(1, round(statistics.median(winner.best_epochs)))
    train_on = search.final.train_on
    dataset = open_dataset(spec, device=device)
    trained = _train(winner, dataset, epochs, search, train_on, device, on_epoch)
    saved = SavedModel(
        config=trained.trainer.config,
        weights={name: tensor.detach().cpu() for name, tensor in trained.trainer.judged.state_dict().items()},
        class_names=dataset.class_names,
        normalisers=dataset.normalisers,
        input_dim=dataset.input_dim,
        num_frames=trained.trainer.num_frames,
        feature_settings={f: dict(read_info(spec.path).feature(f).settings) for f in spec.features},
        data={"path": spec.path, "sha256": spec.sha256},
        versions=versions or {},
        genres=spec.genres,
    )
    save_model(model_file, saved)
    test = open_split(spec, "test", dataset.normalisers, device=device)
    record = FinalRecord(
        trial=winner.trial,
        config=trained.trainer.config.model_dump(mode="json"),
        trained_on=train_on,
        epochs=epochs,
        curve=trained.curve,
        validation={k: v for k, v in trained.curve[-1].metrics.items() if k.startswith("val_")},
        test=judge(
            trained.trainer.judged,
            test,
            dataset.class_names,
            majority_class=majority_class(dataset.train),
            crop=trained.trainer.config.crop,
        ),
        num_parameters=sum(p.numel() for p in trained.trainer.model.parameters()),
        origin=trained.trainer.origin,
        model_file=str(model_file),
        seconds=time.monotonic() - started,
    )
    _write(final_file, record.to_json())
    return record


@dataclass(frozen=True)
class _Trained:
    trainer: Trainer
    curve: tuple[EpochResult, ...]


def _train(
    winner: ConfirmRecord,
    dataset: Dataset,
    epochs: int,
    search: SearchConfig,
    train_on: str,
    device: str,
    on_epoch: Callable[[EpochResult], None],
) -> _Trained:
    """Train for `epochs` under the schedule of the search: its horizon stays, only the end comes earlier."""
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
        dataset = Dataset(merged, None, dataset.class_names, dataset.normalisers)
    trainer = Trainer(config, dataset, device=device)
    curve: list[EpochResult] = []
    try:
        for result in trainer.epochs():
            curve.append(result)
            on_epoch(result)
            if result.epoch >= epochs:
                break
    except DivergedError as error:
        raise StudyError(f"final training of {winner.trial}: {error}; `tune --resume` with another seed") from None
    return _Trained(trainer, tuple(curve))


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
