"""What does one more trial cost? fmasearch's reused actors against Ray Tune's defaults, in turn, in one run.

The peer starts a process per trial and imports torch in it, as a trainable that trains would; its trials do nothing
else. Ours train a real (tiny) model for an epoch, with journal and study written: the ratio is to our disadvantage.
Both are timed from the end of the fourth trial to the end of the last, so that the start of the first is left out.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import optuna
import ray
from ray import tune
from ray.tune.search.optuna import OptunaSearch

from fmasearch.cli import environment
from fmasearch.config import SearchConfig
from fmasearch.data import DataSpec, FeatureArray, write_feature_file
from fmasearch.records import Objective, TrialRecord
from fmasearch.space import Space
from fmasearch.study import Runtime, StudyFolder, StudyPlan, run_search, start_runtime
from fmasearch.tracking import CompositeTracker, JsonlTracker, MemoryTracker

PACKAGES = ("ray", "optuna", "torch")
SPACE = """
features: [mel]
task: {classification: genre}
model: {architecture: cnn_lstm, hidden_dim: {choice: [2, 4]}, num_layers: 1, rnn_dim: 4}
optimizer: {learning_rate: {float: [1e-4, 1e-2], log: true}, weight_decay: {float: [1e-6, 1e-2], log: true}}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=60, help="trials of each fmasearch run")
    parser.add_argument("--peer-trials", type=int, default=12, help="trials of each run of the peer")
    parser.add_argument("--pairs", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, start_runtime(SearchConfig()) as runtime:
        root = Path(folder)
        spec = write_tiny_data(root)
        ours, peer = [], []
        for pair in range(arguments.pairs):
            ours.append(_fmasearch(root / f"ours-{pair}", spec, runtime, arguments.trials))
            peer.append(_ray_defaults(root / f"peer-{pair}", runtime.concurrency, arguments.peer_trials))
    facts = environment.describe()
    print(f"{facts['device']}, {facts['cores']} cores; " + ", ".join(f"{p} {facts[p]}" for p in PACKAGES))
    print(f"{runtime.concurrency} trials at once; {arguments.pairs} pairs of {arguments.trials} of ours and")
    print(f"{arguments.peer_trials} of the peer's trials")
    for name, values in (("fmasearch", ours), ("Ray Tune defaults", peer)):
        print(f"{name:18} {statistics.median(values) * 1000:8.0f} ms a trial  ({_spread(values)})")
    ratios = [b / a for a, b in zip(ours, peer, strict=True)]
    print(f"ratio              {statistics.median(ratios):8.1f}               ({min(ratios):.1f} to {max(ratios):.1f})")


def _fmasearch(root: Path, spec: DataSpec, runtime: Runtime, trials: int) -> float:
    """Seconds a trial."""
    plan = StudyPlan(
        name="bench",
        folder=StudyFolder(root),
        space=Space.parse(SPACE, name="bench"),
        search_name="bench",
        search=SearchConfig.model_validate(
            {"num_trials": trials, "max_epochs": 1, "scheduler": {"name": "none"}, "patience": None}
        ),
        data=spec,
        command="",
    )
    root.mkdir()
    clock = _ClockTracker()
    tracker = CompositeTracker([JsonlTracker(plan.folder.journal), clock])
    result = run_search(plan, Objective("val_macro_f1"), runtime, tracker)
    assert len(result.trials) == trials, result
    return _pace(clock.ends)


def _ray_defaults(root: Path, concurrency: int, trials: int) -> float:
    """Seconds a trial of a function trainable that imports torch and reports once."""

    def trainable(config: dict[str, float]) -> None:
        import torch

        torch.set_num_threads(1)
        tune.report({"score": config["learning_rate"]})

    space = {
        "learning_rate": optuna.distributions.FloatDistribution(1e-4, 1e-2, log=True),
        "weight_decay": optuna.distributions.FloatDistribution(1e-6, 1e-2, log=True),
    }
    clock = _ClockCallback()
    tuner = tune.Tuner(
        tune.with_resources(trainable, {"cpu": 1}),
        tune_config=tune.TuneConfig(
            search_alg=OptunaSearch(space=space, metric="score", mode="max"),
            num_samples=trials,
            max_concurrent_trials=concurrency,
        ),
        run_config=tune.RunConfig(storage_path=str(root), verbose=0, callbacks=[clock]),
    )
    tuner.fit()
    return _pace(clock.ends)


class _ClockTracker(MemoryTracker):
    """Notes when trials end."""

    def __init__(self) -> None:
        super().__init__()
        self.ends: list[float] = []

    def finish_trial(self, record: TrialRecord) -> None:
        super().finish_trial(record)
        self.ends.append(time.perf_counter())


class _ClockCallback(tune.Callback):
    """Notes when trials end."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_trial_complete(self, iteration: int, trials: list[object], trial: object, **info: object) -> None:
        self.ends.append(time.perf_counter())


def _pace(ends: list[float], skipped: int = 4) -> float:
    return (ends[-1] - ends[skipped - 1]) / (len(ends) - skipped)


def write_tiny_data(root: Path) -> DataSpec:
    """A feature file of 48 tiny tracks in `root`, as a study uses it."""
    generator = np.random.default_rng(0)
    split = np.array([0] * 32 + [1] * 8 + [2] * 8)
    write_feature_file(
        root / "tiny.h5",
        corpus="bench",
        features={"mel": FeatureArray(generator.normal(size=(48, 16, 8)).astype(np.float16))},
        classes={"genre": (["a", "b"], np.arange(48) % 2)},
        split=split,
        track_ids=[str(i) for i in range(48)],
    )
    return DataSpec.of(root / "tiny.h5", features=["mel"], label="genre", cache_dir=root / "cache")


def _spread(values: list[float]) -> str:
    return f"{min(values) * 1000:.0f} to {max(values) * 1000:.0f}"


if __name__ == "__main__":
    main()
    ray.shutdown()
