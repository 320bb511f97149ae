"""Which way to search finds the better model for equal epochs? fmasearch, W&B-style random search, raw Ray Tune.

One real study each on one feature file, over one space, with one trainer; only the search differs:

- `default`: `fmasearch tune` as it comes.
- `random`: random configurations, every one trained to its end, as a W&B random sweep does.
- `raw`: Ray Tune with `OptunaSearch` (its space defined by run) and `ASHAScheduler`, as their documentation writes
  them, with defaults for whatever need not be given. Its best trial is what `get_best_result` says.

Each search may train `--epochs` epochs in all: fmasearch starts no trial after that, and raw Ray Tune is stopped
there. What each found is then confirmed over the same three seeds, retrained, and tested once, by the same code. The
winner of `default` and `random` is the best of three confirmed configurations, which is what `fmasearch tune` does; of
`raw` there is one, since its documentation ends at the best trial.

    python benchmarks/side_by_side.py --only raw --data fma_small.h5
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

from fmasearch.cli import environment
from fmasearch.config import SearchConfig, TrainConfig, load_search
from fmasearch.data import DataSpec, open_dataset, prepare
from fmasearch.finalize import confirm_starts, confirmed, final_training
from fmasearch.records import EpochResult, FinalRecord, Objective, TrialRecord, TrialStart, TrialState
from fmasearch.space import Space
from fmasearch.tasks import study_objective
from fmasearch.trainer import Trainer

METHODS = ("default", "random", "raw")
CONCURRENT = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/fma_small.h5"))
    parser.add_argument("--space", type=Path, default=Path("spaces/cnn_bilstm_small.yaml"))
    parser.add_argument("--epochs", type=int, default=208, help="epochs of each search")
    parser.add_argument("--max-epochs", type=int, default=18, help="epochs of a trial")
    parser.add_argument("--only", choices=METHODS, nargs="+", default=METHODS)
    parser.add_argument(
        "--out", type=Path, default=Path("results/benchmarks/side_by_side"), help="folder of raw's record"
    )
    arguments = parser.parse_args()
    if not arguments.data.exists():
        print(f"skipped: {arguments.data} is not here")
        return
    for method in arguments.only:
        if method == "raw":
            _raw(arguments)
        else:
            _fmasearch(method, arguments)


def _fmasearch(method: str, arguments: argparse.Namespace) -> None:
    """A study as a user starts it; its record is in results/."""
    search = Path("search") / ("default.yaml" if method == "default" else "random.yaml")
    settings = [f"max_total_epochs={arguments.epochs}", "num_trials=10000", f"max_epochs={arguments.max_epochs}"]
    words = [f"--data={arguments.data}", f"--search={search}", f"--concurrent={CONCURRENT}", "--cpu=1", "--seed=0"]
    sets = [word for setting in settings for word in ("--set", setting)]
    command = [sys.executable, "-m", "fmasearch", "tune", str(arguments.space), *words, *sets]
    subprocess.run(command, check=True)


def _raw(arguments: argparse.Namespace) -> None:
    search = load_search("search/default.yaml")
    search = search.model_copy(update={"max_epochs": arguments.max_epochs})
    space = Space.load(arguments.space)
    features, task = space.inputs()
    spec = DataSpec.of(arguments.data, features=features, label=task.label, targets=task.targets)
    prepare(spec)
    objective = study_objective(task)
    with tempfile.TemporaryDirectory() as folder:
        ray.init(num_cpus=CONCURRENT, include_dashboard=False)
        grid = _tune(space, spec, search, objective, arguments.epochs, Path(folder))
        best = grid.get_best_result()
        epochs = sum(int((result.metrics or {}).get("training_iteration", 0)) for result in grid)
        params = _flat(best.config)
        found = float(best.metrics[objective.metric])
        num_trials = len(grid)
    ray.shutdown()
    torch.set_num_threads(CONCURRENT)
    record = _confirm(space, params, spec, search, objective)
    record |= {"num_trials": num_trials, "search_epochs": epochs, "in_the_search": found, "params": params}
    record["environment"] = environment.describe()
    arguments.out.mkdir(parents=True, exist_ok=True)
    file = arguments.out / "side_by_side_raw.json"
    file.write_text(json.dumps(record, indent=1), encoding="utf-8")
    print(f"raw: {num_trials} trials, {epochs} epochs; confirmed {record['mean']:.4f} ± {record['std']:.4f}; {file}")


def _tune(
    space: Space, spec: DataSpec, search: SearchConfig, objective: Objective, epochs: int, folder: Path
) -> tune.ResultGrid:
    """Ray Tune as its documentation has it: a function that reports, a search algorithm, a scheduler."""

    def train(config: dict[str, Any]) -> None:
        torch.set_num_threads(1)
        for result in _training(space, _flat(config), spec, search, seed=0):
            tune.report({objective.metric: result.objective})

    tuner = tune.Tuner(
        tune.with_resources(train, {"cpu": 1}),
        tune_config=tune.TuneConfig(
            metric=objective.metric,
            mode=objective.mode,
            search_alg=OptunaSearch(space=partial(_define_by_run, space), metric=objective.metric, mode=objective.mode),
            scheduler=ASHAScheduler(max_t=search.max_epochs),
            num_samples=10_000,
        ),
        run_config=tune.RunConfig(name="raw", storage_path=str(folder), verbose=0, stop=_EpochBudget(epochs)),
    )
    return tuner.fit()


def _flat(config: dict[str, Any]) -> dict[str, Any]:
    """Ray Tune makes nested dictionaries of names with a slash."""
    return {f"{section}/{key}": value for section, block in config.items() for key, value in block.items()}


def _define_by_run(space: Space, trial: Any) -> None:
    space.sample(trial)


class _EpochBudget(tune.Stopper):
    """Ends everything when so many epochs were trained."""

    def __init__(self, epochs: int) -> None:
        self._left = epochs

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        self._left -= 1
        return False

    def stop_all(self) -> bool:
        return self._left <= 0


def _training(
    space: Space, params: dict[str, Any], spec: DataSpec, search: SearchConfig, *, seed: int
) -> Iterator[EpochResult]:
    config = space.train_config(params, max_epochs=search.max_epochs, patience=search.patience, seed=seed)
    yield from Trainer(config, open_dataset(spec)).epochs()


def _confirm(
    space: Space, params: dict[str, Any], spec: DataSpec, search: SearchConfig, objective: Objective
) -> dict[str, Any]:
    """The finish of fmasearch for one configuration: three seeds, a final training, one test."""
    config = space.train_config(params, max_epochs=search.max_epochs, patience=search.patience, seed=0)
    start = TrialStart(0, "raw", params, config.model_dump(mode="json"), 0)
    one = search.model_copy(update={"confirm": search.confirm.model_copy(update={"top_k": 1})})
    starts = confirm_starts([TrialRecord(start, TrialState.COMPLETED, (), 0.0)], one)
    trained = {}
    for each in starts:
        epochs = tuple(Trainer(TrainConfig.model_validate(each.config), open_dataset(spec)).epochs())
        trained[each.name] = TrialRecord(each, TrialState.COMPLETED, epochs, 0.0)
    (winner,) = confirmed(starts, trained, objective)
    final = next(each for each in final_training(spec, winner, one) if isinstance(each, FinalRecord))
    final = replace(final, curve=())
    return {
        "mean": winner.mean,
        "std": winner.std,
        "every_seed": list(winner.objectives),
        "test": final.test.to_json(),
        "final_epochs": final.epochs,
    }


if __name__ == "__main__":
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    main()
