"""Every committed YAML in spaces/ and search/ loads, samples and says what it claims."""

import re
from pathlib import Path

import optuna
import pytest

from conftest import make_feature_file
from fmasearch.config import SearchConfig, load_search, load_yaml
from fmasearch.data import model_shape, read_info
from fmasearch.preflight import check_study
from fmasearch.space import Space

optuna.logging.set_verbosity(optuna.logging.ERROR)

ROOT = Path(__file__).parents[1]
SPACES = sorted((ROOT / "spaces").glob("*.yaml"))
SEARCHES = sorted((ROOT / "search").glob("*.yaml"))

each_space = pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)


@each_space
def test_space_samples_fifty_times_and_every_sample_is_a_training(path: Path) -> None:
    space = Space.load(path)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for number in range(50):
        params = space.sample(study.ask())
        config = space.train_config(params, max_epochs=27, patience=8, seed=number)
        assert path.stem.startswith(("mixed", config.architecture))  # cnn_bilstm_small is a cnn_bilstm


@each_space
def test_every_key_of_a_space_is_active_in_some_sample(path: Path) -> None:
    space = Space.load(path)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    seen = {key for _ in range(100) for key in space.sample(study.ask())}
    assert seen == set(space.distributions)


@each_space
def test_known_good_points_are_whole_and_replay(path: Path) -> None:
    space = Space.load(path)
    assert space.known_good
    for point in space.known_good.values():
        assert space.sample(optuna.trial.FixedTrial(dict(point))) == point


@each_space
def test_space_files_are_described_and_fit_a_screen_or_so(path: Path) -> None:
    space = Space.load(path)
    assert space.description
    assert len(space.text.splitlines()) <= 80
    assert max(map(len, space.text.splitlines())) <= 120


@pytest.mark.parametrize(
    ("name", "targets", "num_outputs"),
    [("emotion", ("valence", "arousal"), 2), ("multitask", ("valence", "arousal"), 6)],
)
def test_spaces_of_numbers_build_on_a_file_that_has_them(
    tmp_path: Path, name: str, targets: tuple[str, ...], num_outputs: int
) -> None:
    space = Space.load(ROOT / f"spaces/cnn_lstm_{name}.yaml")
    path = make_feature_file(tmp_path / "a.h5", num_frames=150, num_bins=128, targets=["arousal"])
    config = space.train_config(space.known_good["start"], max_epochs=1, patience=None, seed=0)
    assert config.task.targets == targets
    assert model_shape(read_info(path), config)["output_dim"] == num_outputs  # two numbers, and four genres
    assert check_study(space, SearchConfig(), read_info(path), num_samples=20).max_parameters < 1_000_000


def test_a_space_of_transfer_is_the_one_from_fresh_weights_but_for_its_transfer() -> None:
    transferred, fresh = (load_yaml(ROOT / f"spaces/cnn_bilstm_{name}.yaml") for name in ("transfer", "emotion"))
    assert transferred.pop("transfer") == {"freeze": "all_but_last(2)"}
    del transferred["description"], fresh["description"]
    assert transferred == fresh
    # The model whose weights are loaded.
    best = load_yaml(ROOT / "results/2026-11-21-cnn_bilstm_small-default/best.yaml")["model"]
    assert best.items() - {("dropout", best["dropout"])} <= {**transferred["model"], "dropout": None}.items()


def test_c7_is_the_configuration_of_the_reference_report() -> None:
    space = Space.load(ROOT / "spaces/cnn_bilstm.yaml")
    config = space.train_config(space.known_good["C7"], max_epochs=30, patience=6, seed=0)
    # "bs32 dropout .4 h256 lr5e-4 L2 RLROP f.7, StepLR(10,.7)"; patience 2, threshold 1e-4 abs, decay 1e-4
    assert (config.trainer.batch_size, config.optimizer.name) == (32, "adam")
    assert (config.optimizer.learning_rate, config.optimizer.weight_decay) == (5e-4, 1e-4)
    assert config.hyperparameters.items() >= {"hidden_dim": 256, "dropout": 0.4, "num_layers": 2}.items()
    schedule = config.scheduler
    assert (schedule.name, schedule.step_size, schedule.gamma) == ("step_plateau", 10, 0.7)
    assert (schedule.factor, schedule.patience) == (0.7, 2)
    assert (schedule.threshold, schedule.threshold_mode) == (1e-4, "abs")


def test_c1_has_no_decay_and_no_schedule_and_c3_is_c2_with_augmentation() -> None:
    points = Space.load(ROOT / "spaces/cnn_gru.yaml").known_good
    assert (points["C1"]["optimizer/weight_decay"], points["C1"]["scheduler/name"]) == (0.0, "constant")
    changed = {key for key in points["C3"] if points["C3"][key] != points["C2"].get(key)}
    assert all(key.startswith("augment/") for key in changed)
    assert points["C3"]["augment/num_time_masks"] == 2


@pytest.mark.parametrize("path", SEARCHES, ids=lambda path: path.stem)
def test_search_file_loads(path: Path) -> None:
    assert load_search(path).sampler.name in ("trees", "tpe", "random", "grid")


def test_default_search_spells_out_every_default() -> None:
    path = ROOT / "search/default.yaml"
    assert load_yaml(path) == SearchConfig().model_dump(mode="json")
    for line in path.read_text().splitlines():
        if re.match(r"\s*\w+: \S", line):
            assert "#" in line, f"a key without a comment: {line}"


def test_random_search_is_a_plain_baseline_with_the_epochs_of_the_default() -> None:
    search, default = load_search(ROOT / "search/random.yaml"), SearchConfig()
    assert (search.sampler.name, search.scheduler.name) == ("random", "none")
    assert (search.max_epochs, search.confirm) == (default.max_epochs, default.confirm)


def test_smoke_search_is_over_in_eight_epochs_at_most() -> None:
    search = load_search(ROOT / "search/smoke.yaml")
    assert search.num_trials * search.max_epochs == 8
    assert (search.confirm.top_k, search.confirm.seeds) == (1, 2)
