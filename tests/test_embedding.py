"""`embed`: vectors of whole tracks and of crops, the page, the pictures, and what the command says and refuses."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from matplotlib.figure import Figure
from plotly.offline import get_plotlyjs

from conftest import CLASSES, make_config, make_feature_file, run_cli
from fmasearch.config import CropConfig
from fmasearch.data import Dataset
from fmasearch.embedding import Outputs, embed_split, embed_tracks, joined
from fmasearch.report.embedding_page import page
from fmasearch.report.embedding_picture import MOST_PANELS, picture, save_picture
from fmasearch.report.embedding_view import PALETTE, Categories, EmbeddingView, Numbers, Projection
from fmasearch.trainer import Trainer, predict

QUALITY = {"silhouette": 0.25, "purity": 0.75, "trustworthiness": 0.875, "probe": float("nan")}
IDS = ("a</script><b>", "b&c", "$x$", "track-3")


class Parsed(HTMLParser):
    """The tags of a page, the addresses they load from, and the text of its scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.scripts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag not in ("meta", "link", "input"):
            self.open.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)


def make_view(**changes: Any) -> EmbeddingView:
    """Four tracks of two classes in one projection of each number of dimensions."""
    points = np.arange(12, dtype=np.float32).reshape(4, 3)
    view = EmbeddingView(
        title="a & b",
        facts="facts",
        track_ids=IDS,
        colourings={
            "class": Categories("genre", ("rock", "<jazz>"), np.array([0, 1, 1, -1])),
            "valence": Numbers("valence", np.array([0.5, np.nan, 0.25, 1.0])),
        },
        colour="class",
        judged_by="genre",
        projections=(Projection("pca", points[:, :2], QUALITY), Projection("pca", points, QUALITY)),
        vectors_quality=QUALITY,
        chance_quality=QUALITY,
        num_dimensions=7,
    )
    return replace(view, **changes)


@pytest.fixture
def model_file(feature_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model of one epoch on the four classes of `feature_file`."""
    values = {
        "task": {"classification": "genre"},
        "model": {"architecture": "stats", "hidden_dim": 16},
        "trainer": {"batch_size": 8, "max_epochs": 1},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    model = tmp_path / "model.pt"
    assert run_cli(monkeypatch, "train", tmp_path / "config.yaml", "--data", feature_file, "--out", model) == 0
    return model


def test_vectors_are_those_before_the_last_layer(noisy: Dataset) -> None:
    trainer = Trainer(make_config(), noisy)
    vectors_NE, outputs_NK = embed_tracks(trainer.model, noisy.train, trainer.task)
    assert vectors_NE.shape == (24, trainer.model.head.output.in_features)
    batch = noisy.train.batch(torch.arange(24))
    with torch.no_grad():
        torch.testing.assert_close(vectors_NE, trainer.model.eval().embed(batch.x_BTF, batch.lengths_B))
        torch.testing.assert_close(outputs_NK, predict(trainer.model, noisy.train, trainer.task))


def test_the_vector_of_a_cropped_track_is_the_mean_over_its_crops(noisy: Dataset) -> None:
    crop = CropConfig(frames=8, num_eval=3)
    trainer = Trainer(make_config(crop=crop.model_dump()), noisy)
    vectors_NE, outputs_NK = embed_tracks(trainer.model, noisy.train, trainer.task, crop)
    (crops,) = noisy.train.ordered(64, crop_frames=8, num_crops=3)
    with torch.no_grad():
        each_E = trainer.model.eval().embed(crops.x_BTF[:3], crops.lengths_B[:3])
    torch.testing.assert_close(vectors_NE[0], each_E.mean(0))
    assert not torch.allclose(each_E[0], each_E[2])
    torch.testing.assert_close(outputs_NK, predict(trainer.model, noisy.train, trainer.task, crop))


def test_values_come_back_in_the_labels_own_unit(dataset: Dataset) -> None:
    trainer = Trainer(make_config(), dataset)  # four outputs: two classes and two targets from here on
    targets = torch.tensor([[1.0, 0.5, float("nan")], [float("nan"), 0.25, 4.0]]).repeat(12, 1)
    split = replace(dataset.train, targets_N=targets)
    outputs = Outputs(("rock", "jazz"), ("valence", "tempo"), means_R=(0.5, 100.0), stds_R=(0.1, 20.0))
    found = embed_split(trainer.model, split, trainer.task, outputs)
    _, raw_NK = embed_tracks(trainer.model, split, trainer.task)
    assert found.classes_N[:2].tolist() == [1, -1]
    np.testing.assert_array_equal(found.targets_NR[:2], [[0.5, np.nan], [0.25, 4.0]])
    np.testing.assert_array_equal(found.predicted_classes_N, raw_NK[:, :2].argmax(1))
    np.testing.assert_allclose(found.predicted_targets_NR[:, 1], raw_NK[:, 3] * 20 + 100)


def test_a_model_without_classes_has_none(dataset: Dataset) -> None:
    trainer = Trainer(make_config(), dataset)
    names = ("a", "b", "c", "d")
    split = replace(dataset.train, targets_N=torch.zeros(24, 4))
    found = embed_split(trainer.model, split, trainer.task, Outputs((), names, (0.0,) * 4, (1.0,) * 4))
    assert set(found.classes_N) == set(found.predicted_classes_N) == {-1}
    assert found.predicted_targets_NR.shape == (24, 4)


def test_joined_embeddings_keep_their_order_and_taken_ones_their_rows(dataset: Dataset) -> None:
    trainer, outputs = Trainer(make_config(), dataset), Outputs(CLASSES)
    assert dataset.val is not None
    parts = [embed_split(trainer.model, each, trainer.task, outputs) for each in (dataset.train, dataset.val)]
    both = joined(parts)
    assert both.track_ids == dataset.train.track_ids + dataset.val.track_ids
    last = both.taken(np.array([0, 31]))
    assert last.track_ids == (dataset.train.track_ids[0], dataset.val.track_ids[7])
    assert last.splits == ("train", "val")
    np.testing.assert_array_equal(last.vectors_NE[1], parts[1].vectors_NE[7])


def test_the_page_is_whole_and_loads_nothing_from_elsewhere() -> None:
    parsed = Parsed(page(make_view()))
    assert parsed.open == []
    assert parsed.addresses == ["data:,"]  # the icon, so that no browser asks for one
    view, plotly, own = parsed.scripts
    assert plotly == get_plotlyjs()
    assert "http" not in view + own
    assert json.loads(view)["track_ids"] == list(IDS)
    assert json.loads(view)["colourings"]["valence"]["values"] == [0.5, None, 0.25, 1.0]


def test_a_track_id_stands_on_the_page_once_and_never_as_html() -> None:
    text = page(make_view())
    assert text.count("track-3") == 1
    assert "<b>" not in text.replace('"<b>" + escaped(id)', "").replace(get_plotlyjs(), "")
    assert "<title>a &amp; b</title>" in text


def test_the_table_has_the_vectors_first_and_chance_last() -> None:
    rows = re.findall(r"<tr[^>]*><td>([^<]*)</td>(.*?)</tr>", page(make_view()))
    assert [name for name, _ in rows] == ["the vectors, 7-D", "PCA, 2-D", "PCA, 3-D", "chance"]
    first = '<td class="edge">0.875</td>'  # trustworthiness: what follows is about classes
    assert rows[1][1] == f'{first}<td class="edge">0.250</td><td>0.750</td><td>–</td>'


def test_the_table_tells_of_numbers_what_it_was_given_and_nothing_of_classes_that_are_not_judged() -> None:
    quality = {**QUALITY, "valence_knn_r2": -0.25, "valence_knn_spearman": 0.5, "valence_probe_r2": float("nan")}
    points = np.arange(8, dtype=np.float32).reshape(4, 2)
    view = make_view(
        colour="valence",
        judged_by=None,
        judged_targets=("valence",),
        projections=(Projection("pca", points, quality),),
        vectors_quality=quality,
        chance_quality=quality,
    )
    text = page(view)
    assert re.findall(r'<th class="edge" colspan="(.)">(.*?)</th>', text) == [("1", "neighbourhoods"), ("3", "valence")]
    rows = re.findall(r"<tr[^>]*><td>([^<]*)</td>(.*?)</tr>", text)
    edge = '<td class="edge">'
    assert rows[1] == ("PCA, 2-D", f"{edge}0.875</td>{edge}−0.250</td><td>0.500</td><td>–</td>")
    assert "k-NN R² and the probe say how much of valence the points keep" in text
    assert "Silhouette" not in text.replace(get_plotlyjs(), "")
    figure = picture(view, view.projections[0])
    (title,) = (text.get_text() for text in figure.texts if "PCA" in text.get_text())
    assert title == "PCA, 2-D, by valence\nvalence: k-NN R² −0.25, linear probe R² nan · trustworthiness 0.88"


def test_more_classes_than_looks_leave_the_rare_ones_without_colour() -> None:
    few = Categories("genre", tuple("abcdefgh"), np.arange(8))
    assert [look.symbol for look in few.looks().values()] == ["circle"] * 7 + ["diamond"]
    assert len(set(few.looks().values())) == 8
    many = Categories("artist", tuple(map(str, range(40))), np.repeat(np.arange(40), np.arange(1, 41)))
    assert list(many.looks()) == [39, 38, 37, 36, 35, 34, 33]  # artist n has n + 1 tracks
    assert [look.colour for look in many.looks().values()] == list(PALETTE)


def titles(figure: Figure) -> list[str]:
    return [axes.get_title(loc="left") for axes in figure.axes if axes.get_title(loc="left")]


def test_the_picture_has_a_panel_for_every_class(tmp_path: Path) -> None:
    view = make_view()
    assert titles(picture(view, view.projections[0])) == ["all (4)", "rock (1)", "<jazz> (2)"]
    save_picture(view, view.projections[0], tmp_path / "pca.png")
    assert (tmp_path / "pca.png").read_bytes().startswith(b"\x89PNG")


def test_the_picture_of_numbers_has_a_panel_for_each_of_them() -> None:
    view = make_view(colour="valence")
    assert titles(picture(view, view.projections[0])) == ["valence"]


def test_a_picture_of_too_many_classes_shows_the_largest() -> None:
    codes = np.concatenate([np.arange(20), np.arange(3, 20)])  # classes 0 to 2 have one track, the others two
    genre = Categories("genre", tuple(f"g{code}" for code in range(20)), codes)
    points = np.random.default_rng(0).normal(size=(37, 2)).astype(np.float32)
    view = make_view(colourings={"class": genre}, projections=(Projection("pca", points, QUALITY),))
    shown = titles(picture(view, view.projections[0]))
    assert len(shown) == MOST_PANELS
    assert not {"g0 (1)", "g1 (1)", "g2 (1)"} & set(shown)


def test_embed_writes_vectors_page_pictures_and_numbers(
    model_file: Path,
    feature_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert (
        run_cli(monkeypatch, "embed", model_file, "--data", feature_file, "--methods", "pca,mds", "--dimensions", 2)
        == 0
    )
    folder = tmp_path / "model-embedding"
    files = {path.name for path in folder.iterdir()}
    assert files == {"embeddings.npz", "embedding.html", "pca.png", "mds.png", "quality.json"}
    with np.load(folder / "embeddings.npz") as saved:
        assert saved["vectors"].shape == (8, 16)
        assert saved["vectors"].dtype == np.float32
        assert set(saved["split"]) == {"test"}
        assert tuple(saved["class_names"]) == CLASSES
        assert saved["classes"].tolist() == [0, 1, 2, 3, 0, 1, 2, 3]  # classes take turns in each split
        ids = saved["track_ids"].tolist()
    text = (folder / "embedding.html").read_text(encoding="utf-8")
    assert [text.count(track_id) for track_id in ids] == [1] * 8
    rows = json.loads((folder / "quality.json").read_text(encoding="utf-8"))["rows"]
    assert [row["projection"] for row in rows] == ["the vectors, 16-D", "PCA, 2-D", "MDS, 2-D", "chance"]
    assert rows[0]["trustworthiness"] == 1
    assert rows[-1] == {"projection": "chance", "silhouette": 0, "purity": 0.25, "trustworthiness": 0.5, "probe": 0.25}
    assert "MDS, 2-D" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("task", "judged"),
    [
        ({"regression": ["energy"]}, ["energy"]),
        ({"multitask": {"kind": "genre", "mood": ["energy", "valence"]}}, ["energy", "valence"]),
    ],
    ids=["regression", "multitask"],
)
def test_embed_judges_a_model_of_numbers_by_its_numbers(
    task: dict[str, Any],
    judged: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = make_feature_file(tmp_path / "moods.h5", tracks=(24, 8, 40), contrast=0.0, targets=["energy"])
    values = {
        "task": task,
        "model": {"architecture": "stats", "hidden_dim": 16, "dropout": 0.0},
        "optimizer": {"learning_rate": 1e-2},
        "trainer": {"batch_size": 8, "max_epochs": 2},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    assert run_cli(monkeypatch, "train", tmp_path / "config.yaml", "--data", data, "--out", tmp_path / "m.pt") == 0
    asked = ("--methods", "pca", "--dimensions", 2, "--color", "energy", "--out", tmp_path / "out")
    capsys.readouterr()
    assert run_cli(monkeypatch, "embed", tmp_path / "m.pt", "--data", data, *asked) == 0
    quality = json.loads((tmp_path / "out" / "quality.json").read_text(encoding="utf-8"))
    assert (quality["classes"], quality["targets"]) == ("genre" if "multitask" in task else None, judged)
    vectors, _, chance = quality["rows"]
    # Energy makes one of eight bins louder by up to 12 dB, valence is noise: the vectors hold the one alone.
    assert vectors["energy_probe_r2"] > 0.5
    assert vectors["energy_knn_spearman"] > 0.5
    assert chance["energy_knn_r2"] == chance["energy_probe_r2"] == 0
    printed = capsys.readouterr().out
    assert "k-NN Spearman" in printed
    assert ("k-NN purity" in printed) == ("multitask" in task)


def test_embed_shows_some_tracks_of_all_splits_and_saves_every_one(
    model_file: Path, feature_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ("--split", "all", "--max-tracks", 12, "--methods", "pca", "--dimensions", 3, "--color", "valence")
    assert run_cli(monkeypatch, "embed", model_file, "--data", feature_file, *asked, "--out", tmp_path / "out") == 0
    assert not list((tmp_path / "out").glob("*.png"))  # three dimensions have none
    with np.load(tmp_path / "out" / "embeddings.npz") as saved:
        assert saved["split"].tolist() == ["train"] * 24 + ["val"] * 8 + ["test"] * 8
    text = (tmp_path / "out" / "embedding.html").read_text(encoding="utf-8")
    view = json.loads(Parsed(text).scripts[0])
    assert len(view["track_ids"]) == 12
    assert view["colour"] == "valence"
    assert "12 of 40 tracks are shown, drawn at random" in text
    assert "The model learnt from the tracks of train" in text


def test_hovering_tells_class_prediction_error_split_and_artist(
    model_file: Path, feature_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_cli(monkeypatch, "embed", model_file, "--data", feature_file, "--methods", "pca", "--out", tmp_path / "out")
    view = json.loads(Parsed((tmp_path / "out" / "embedding.html").read_text(encoding="utf-8")).scripts[0])
    assert list(view["colourings"]) == ["class", "predicted", "error", "split", "artist", "valence"]
    artists = view["colourings"]["artist"]
    # Two tracks of an artist in each split, and 200 is the first of test.
    assert [artists["names"][code] for code in artists["codes"]] == [str(200 + place // 2) for place in range(8)]
    right = np.array(view["colourings"]["class"]["codes"]) == np.array(view["colourings"]["predicted"]["codes"])
    assert view["colourings"]["error"]["codes"] == (~right).astype(int).tolist()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (("--color", "genres"), "--color: nothing is called 'genres'"),
        (("--methods", "pca,lda"), "unknown method 'lda'"),
        (("--dimensions", "2,4"), "--dimensions: expected 2, 3 or 2,3, got '2,4'"),
    ],
)
def test_embed_refuses_what_it_does_not_know(
    asked: tuple[str, ...],
    message: str,
    model_file: Path,
    feature_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_cli(monkeypatch, "embed", model_file, "--data", feature_file, *asked) == 2
    assert message in capsys.readouterr().err


def test_embed_refuses_data_of_other_classes_and_too_few_tracks(
    model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = make_feature_file(tmp_path / "other.h5", num_classes=3)
    assert run_cli(monkeypatch, "embed", model_file, "--data", other) == 2
    assert "expected the model's rock, jazz, folk, dub" in capsys.readouterr().err
    few = make_feature_file(tmp_path / "few.h5", tracks=(8, 4, 4))
    assert run_cli(monkeypatch, "embed", model_file, "--data", few, "--methods", "pca") == 2
    assert "at least 5 tracks, got 4" in capsys.readouterr().err
