"""Exported files: they say what the model says for any clip, they say what they are, and a wrong one is not kept."""

from __future__ import annotations

import copy
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fmasearch
from conftest import CLASSES, SMALL, make_config, make_dataset, run_cli, spec_of
from fmasearch import exporting
from fmasearch.data import Normaliser, open_dataset
from fmasearch.errors import UserError
from fmasearch.exporting import FORMATS, Program, Readout, capture, check_program, open_program, write_program
from fmasearch.exporting.formats import read_metadata
from fmasearch.model_file import SavedModel, save_model
from fmasearch.models import ARCHITECTURES, ClipModel, build_model
from fmasearch.tasks import Classification
from fmasearch.trainer import predict

NUM_FRAMES, BINS = 24, (8, 4)
NORMALISERS = (
    Normaliser(torch.linspace(-50, -30, 8), torch.linspace(4, 12, 8), "dB"),
    Normaliser(torch.linspace(0.2, 0.6, 4), torch.linspace(0.1, 0.3, 4)),
)
GENRES = Readout(CLASSES)
EMOTION = Readout((), {"valence": (5.0, 1.5), "tempo": (120.0, 30.0)})
BOTH = Readout(CLASSES, dict(EMOTION.targets))
IN_EVERY_FORMAT = ("cnn_bilstm", "cnn2d")
"""Architectures whose every format is part of the default run: recurrent and not. A conversion takes 3 to 10 s."""


def small_model(architecture: str, readout: Readout = GENRES, **hyperparameters: Any) -> ClipModel:
    """A model in eval mode whose batch norms do something."""
    torch.manual_seed(0)
    num_outputs = len(readout.class_names) + len(readout.targets)
    values = {**SMALL[architecture], **hyperparameters}
    model = build_model(architecture, input_dim=sum(BINS), num_frames=NUM_FRAMES, output_dim=num_outputs, **values)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.normal_(module.bias)
    return model.eval()


@cache
def captured(architecture: str) -> tuple[ClipModel, Program]:
    """A model and its program, recorded once for all tests."""
    model = small_model(architecture)
    return model, capture(model, NORMALISERS, GENRES, num_frames=NUM_FRAMES)


@pytest.fixture
def saved() -> SavedModel:
    return SavedModel(
        config=make_config("cnn_gru", features=["mel", "chroma"]),
        weights=small_model("cnn_gru").state_dict(),
        class_names=CLASSES,
        normalisers=NORMALISERS,
        input_dim=sum(BINS),
        num_frames=NUM_FRAMES,
        feature_settings={"mel": {"sample_rate": 16_000, "unit": "dB"}, "chroma": {"sample_rate": 16_000}},
        data={"path": "/somewhere/small.h5", "sha256": "0123"},
        versions={"torch": torch.__version__},
    )


@pytest.fixture
def model_file(saved: SavedModel, tmp_path: Path) -> Path:
    save_model(tmp_path / "model.pt", saved)
    return tmp_path / "model.pt"


def written(program: Program, folder: Path, format: str) -> Path:
    path = folder / f"model{FORMATS[format].suffix}"
    write_program(program, path, format, {"title": "a test"})
    return path


def clips(*lengths: int, num_frames: int | None = None) -> tuple[Tensor, Tensor]:
    """Noise in the features' own units."""
    mean_F, std_F = (torch.cat([getattr(each, name) for each in NORMALISERS]) for name in ("mean_F", "std_F"))
    generator = torch.Generator().manual_seed(1)
    x_BTF = torch.randn(len(lengths), num_frames or max(lengths), sum(BINS), generator=generator)
    return mean_F + std_F * x_BTF, torch.tensor(lengths)


def pairs() -> list[Any]:
    """Every architecture in every format; the compilers' slow ones are slow tests."""
    quick = {(architecture, "torchscript") for architecture in ARCHITECTURES}
    quick |= {(architecture, format) for architecture in IN_EVERY_FORMAT for format in FORMATS}
    return [
        pytest.param(architecture, format, marks=[] if (architecture, format) in quick else pytest.mark.slow)
        for architecture in ARCHITECTURES
        for format in FORMATS
    ]


@pytest.mark.parametrize(("architecture", "format"), pairs())
def test_a_file_says_what_the_model_says(architecture: str, format: str, tmp_path: Path) -> None:
    model, program = captured(architecture)
    run = open_program(written(program, tmp_path, format), format)
    checked = check_program(run, model, NORMALISERS, program)
    assert checked.difference < 1e-5  # float32, probabilities up to 1; the command allows ten times as much
    assert checked.num_batches == 14  # seven kinds of batches, of noise and of what sounds more like music
    # One frame, half of 24 and one fewer, 24, and more: half as much again, or all that an ast has places for:
    # ((24 - 16) // 4 + 1) * 4 + 15.
    assert checked.lengths == (1, 11, 12, 24, 27 if architecture == "ast" else 36)
    spread = run(*clips(24, 24, 24, 24))[0].std(0)
    assert spread.max() > 1e-4  # else every clip would get the same answer, and the check would find nothing


@pytest.mark.slow
@pytest.mark.parametrize("pooling", ["last", "mean", "max", "mean_max", "attention"])
@pytest.mark.parametrize("hyperparameters", [{"bidirectional": True}, {"bidirectional": False, "frame_stride": 1}])
def test_every_pooling_and_a_stack_of_layers_can_be_exported(
    pooling: str, hyperparameters: dict[str, Any], tmp_path: Path
) -> None:
    model = small_model("lstm", pooling=pooling, **{"num_layers": 3, **hyperparameters})
    program = capture(model, NORMALISERS, GENRES, num_frames=NUM_FRAMES)
    run = open_program(written(program, tmp_path, "torchscript"), "torchscript")
    assert check_program(run, model, NORMALISERS, program).difference < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("opset", [20, 22])
@pytest.mark.parametrize("architecture", ["cnn_gru", "resnet", "ast"])
def test_onnx_can_be_had_in_another_opset(architecture: str, opset: int, tmp_path: Path) -> None:
    import onnx

    model, program = captured(architecture)
    path = tmp_path / "model.onnx"
    write_program(program, path, "onnx", {}, opset=opset)
    assert {each.domain: each.version for each in onnx.load(path).opset_import}[""] == opset
    assert check_program(open_program(path, "onnx"), model, NORMALISERS, program).passed


def test_a_file_predicts_what_training_would_from_stored_levels(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "a.h5", varying_lengths=True, dtype="uint8", chroma=True)
    dataset = open_dataset(spec_of(tmp_path / "a.h5", "mel", "chroma"))
    model = small_model("cnn_gru")
    program = capture(model, dataset.normalisers, GENRES, num_frames=NUM_FRAMES)
    expected = predict(model, dataset.train, Classification(CLASSES)).softmax(1)
    mel, chroma = dataset.train.stores
    # The file's own unit: half a dB a level from -80 dB (conftest), chroma as it is.
    features = torch.cat([mel.levels_NTF * 0.5 - 80.0, chroma.levels_NTF.float()], dim=2)
    run = open_program(written(program, tmp_path, "torchscript"), "torchscript")
    torch.testing.assert_close(run(features, dataset.train.lengths_N)[0], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("readout", [EMOTION, BOTH], ids=["regression", "multitask"])
def test_values_come_in_the_labels_own_unit(readout: Readout, tmp_path: Path) -> None:
    model = small_model("stats", readout)
    nn.init.zeros_(model.head.output.weight)
    model.head.output.bias.data[-2:] = torch.tensor([1.0, -0.5])  # a spread above the mean, and half a one below
    program = capture(model, NORMALISERS, readout, num_frames=NUM_FRAMES)
    run = open_program(written(program, tmp_path, "torchscript"), "torchscript")
    outputs = run(*clips(9))
    assert len(outputs) == len(readout.outputs())
    torch.testing.assert_close(outputs[-1], torch.tensor([[6.5, 105.0]]))  # 5 + 1.5, 120 - 15
    if readout is BOTH:
        torch.testing.assert_close(outputs[0].sum(1), torch.ones(1))
    assert check_program(run, model, NORMALISERS, program).passed


def test_a_clip_whose_length_cannot_be_gets_no_answer_and_spoils_no_other(tmp_path: Path) -> None:
    _, program = captured("ast")
    run = open_program(written(program, tmp_path, "torchscript"), "torchscript")
    features, _ = clips(20, 20, 20, 20, num_frames=40)
    # 27 frames are the most that it has places for; the tensor has 40.
    outputs = run(features, torch.tensor([0, 20, 28, 41]))[0]
    assert outputs.isnan().all(1).tolist() == [True, False, True, True]
    torch.testing.assert_close(outputs[1:2], run(features[1:2, :20], torch.tensor([20]))[0], atol=1e-6, rtol=0)


def test_what_stands_in_the_padding_does_not_matter(tmp_path: Path) -> None:
    _, program = captured("cnn_bilstm")
    run = open_program(written(program, tmp_path, "torchscript"), "torchscript")
    features, lengths = clips(7, 24)
    spoilt = features.clone()
    spoilt[0, 7:] = torch.nan
    assert torch.equal(run(features, lengths)[0], run(spoilt, lengths)[0])


def test_recording_leaves_the_model_as_it_was() -> None:
    model = small_model("cnn_bilstm")
    names, before = list(model.state_dict()), model(*clips(24, 9))
    capture(model, NORMALISERS, GENRES, num_frames=NUM_FRAMES)
    assert list(model.state_dict()) == names
    assert torch.equal(model(*clips(24, 9)), before)


def test_outputs_that_nobody_reads_are_a_mistake_of_ours() -> None:
    with pytest.raises(AssertionError):
        capture(small_model("stats", BOTH), NORMALISERS, GENRES, num_frames=NUM_FRAMES)


@pytest.mark.parametrize("architecture", ["cnn_bilstm", "stats"])
def test_a_file_with_wrong_weights_is_caught(architecture: str, tmp_path: Path) -> None:
    model, _ = captured(architecture)
    program = capture(spoilt(model), NORMALISERS, GENRES, num_frames=NUM_FRAMES)
    run = open_program(written(program, tmp_path, "torchscript"), "torchscript")
    checked = check_program(run, model, NORMALISERS, program)
    assert not checked.passed
    assert checked.worst_lengths  # names the batch


def test_a_file_that_gives_nothing_finite_is_caught() -> None:
    model, program = captured("stats")

    def nothing(features: Tensor, lengths: Tensor) -> list[Tensor]:
        return [torch.full((len(lengths), len(CLASSES)), torch.nan)]

    assert not check_program(nothing, model, NORMALISERS, program).passed


@pytest.mark.parametrize("format", FORMATS)
def test_a_file_says_what_it_is(format: str, tmp_path: Path) -> None:
    _, program = captured("stats")
    path = written(program, tmp_path, format)
    assert read_metadata(path, format) == {"title": "a test"}
    assert str(Path(fmasearch.__file__).parent).encode() not in path.read_bytes()  # nor where it was made


def test_onnx_names_its_inputs_and_outputs_and_leaves_batch_and_frames_free(tmp_path: Path) -> None:
    import onnx

    model = small_model("stats", BOTH)
    program = capture(model, NORMALISERS, BOTH, num_frames=NUM_FRAMES)
    graph = onnx.load(written(program, tmp_path, "onnx")).graph
    shapes = {
        each.name: [axis.dim_param or axis.dim_value for axis in each.type.tensor_type.shape.dim]
        for each in (*graph.input, *graph.output)
    }
    assert shapes == {
        "features": ["batch", "frames", 12],
        "lengths": ["batch"],
        "probabilities": ["batch", 4],
        "values": ["batch", 2],
    }
    run = open_program(tmp_path / "model.onnx", "onnx")
    assert check_program(run, model, NORMALISERS, program).passed


def test_pt2_and_torchscript_run_where_fmasearch_is_not(tmp_path: Path) -> None:
    _, program = captured("cnn_bilstm")
    files = [written(program, tmp_path, format) for format in ("pt2", "torchscript")]
    code = (
        "import sys, torch\n"
        "batch = torch.zeros(2, 30, 12), torch.tensor([30, 4])\n"
        f"first = torch.export.load({str(files[0])!r}).module()(*batch)\n"
        f"second = torch.jit.load({str(files[1])!r})(*batch)\n"
        "assert torch.allclose(first, second) and 'fmasearch' not in sys.modules\n"
        "print(tuple(first.shape))\n"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "(2, 4)\n", done.stderr


def test_the_command_writes_checks_and_describes(
    model_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli(monkeypatch, "export", model_file, "--format", "onnx") == 0
    printed = capsys.readouterr().out
    assert "cnn_gru as ONNX" in printed
    assert "output probabilities: float32 (batch, 4): rock, jazz, folk, dub" in printed
    assert "14 batches, clips of 1, 11, 12, 24, 36 frames: largest difference" in printed
    metadata = read_metadata(model_file.with_suffix(".onnx"), "onnx")
    assert metadata["fmasearch_version"] == fmasearch.__version__
    assert metadata["outputs"] == {"probabilities": list(CLASSES)}
    assert [(each["name"], each["bins"]) for each in metadata["features"]] == [("mel", 8), ("chroma", 4)]
    assert metadata["features"][0]["settings"] == {"sample_rate": 16_000, "unit": "dB"}
    assert (metadata["trained_frames"], metadata["max_frames"]) == (24, None)
    assert "somewhere" not in str(metadata)  # folders of the machine that trained it are nobody's business


def test_a_program_that_differs_ends_with_exit_code_1_and_leaves_no_file(
    model_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(exporting, "capture", lambda model, *args, **options: capture(spoilt(model), *args, **options))
    out = model_file.parent / "out" / "program.pt2"
    assert run_cli(monkeypatch, "export", model_file, "--format", "pt2", "--out", out) == 1
    assert "not kept: the program and the model differ by" in capsys.readouterr().err
    assert list(out.parent.iterdir()) == []


def test_a_file_may_have_another_name(model_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = model_file.parent / "out" / "scripted.pt"
    assert run_cli(monkeypatch, "export", model_file, "--format", "torchscript", "--out", out) == 0
    assert read_metadata(out, "torchscript")["architecture"] == "cnn_gru"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "pt2", "--opset", "20"], "--opset 20: is for ONNX alone"),
        (["--format", "onnx", "--opset", "9"], "--opset: expected 18 to 22, got 9"),
        (["--format", "pt2", "--out", "program.bin"], "--out program.bin: expected a name that ends in .pt2"),
        (["--format", "torchscript", "--out", "model.pt"], "is the model itself"),
        (["--format", "coreml"], "coreml"),
    ],
)
def test_what_cannot_be_written_is_said_at_once(
    arguments: list[str],
    message: str,
    model_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(model_file.parent)
    assert run_cli(monkeypatch, "export", "model.pt", *arguments) == 2
    assert message in capsys.readouterr().err


def test_onnx_without_its_packages_says_what_to_install(saved: SavedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fmasearch.exporting.formats.find_spec", lambda name: None if name == "onnxruntime" else name)
    with pytest.raises(UserError, match=r"absent: onnxruntime: pip install 'fmasearch\[export\]'"):
        exporting.export_model(saved, Path("never.onnx"), "onnx")


def spoilt(model: nn.Module) -> nn.Module:
    """A copy whose first output weighs the embedding otherwise: all of it, since one unit alone may be dead."""
    wrong = copy.deepcopy(model)
    with torch.no_grad():
        wrong.get_parameter("head.output.weight")[0] += 0.1
    return wrong
