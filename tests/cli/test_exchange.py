"""Tests of the command export: files for other programs, and what they tell of the run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nir
import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import tsslbp
from tsslbp.export import from_nir
from tsslbp.run import Run

from .conftest import Program, arrays

Refused = Callable[..., str]


@pytest.fixture
def run(folder: Path, program: Program) -> Path:
    assert program("train", "mine.toml", "--out", "run", "--set", "mean=[0.4]")[0] == 0
    return folder / "run"


def test_nir(run: Path, program: Program) -> None:
    code, output, _ = program("export", "run", "--to", "nir", "-o", "net.nir")
    assert code == 0
    epoch = Run.open(run).epochs()[-1]
    net, graph = tsslbp.load(run), nir.read("net.nir")
    assert "net.nir  nir, checkpoint best-validation of run, epoch" in output
    assert "images, normalised as for training, the same at every step" in output
    assert "(mean 0.4, std 1)" in output and told_input(graph) in output
    told = graph.metadata
    assert (told["mean"].tolist(), told["std"].tolist()) == ([0.4], [1.0])
    assert told["data"].endswith("mine.npz") and told["time_steps"] == 3 and told["classes"] == 2
    chosen = next(one for one in Run.open(run).epochs() if one["epoch"] == told["epoch"])
    assert told["test_accuracy"] == chosen["test_accuracy"] and "train" not in told
    assert told["command"] == Run.open(run).environment["command"]
    assert epoch["epoch"] == 2
    x = torch.randn(5, 1, 8, 8)
    assert torch.equal(from_nir("net.nir")(x), net(x))


def test_pooling_stays_where_it_is_asked_for(run: Path, program: Program) -> None:
    for name, options in {"a.nir": (), "b.nir": ("--no-fold-pooling",)}.items():
        arguments = ("--checkpoint", "last", *options)
        assert program("export", "run", "--to", "nir", "-o", name, *arguments)[0] == 0
    kinds = [
        {type(one).__name__ for one in nir.read(name).nodes.values()} for name in ("a.nir", "b.nir")
    ]
    assert kinds[1] - kinds[0] == {"SumPool2d"}
    assert nir.read("a.nir").metadata["checkpoint"] == "last"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["uint8", "float32", "frames"])
def test_onnx(kind: str, folder: Path, program: Program) -> None:
    """The model takes raw pixels as they are stored, and frames, which are not normalised."""
    data, options = arrays(), ["--with-normalisation"]
    settings = ["--set", "mean=[0.4]", "--set", "std=[0.3]"]
    if kind == "float32":
        data["images"] = (data["images"] / 200).astype(np.float32)
    if kind == "frames":
        data["images"] = (data["images"][:, None, None].repeat(3, 1) > 90).astype(np.float32)
        options = settings = []
    np.savez("mine.npz", **data)
    assert program("train", "mine.toml", "--out", "run", "--epochs", "1", *settings)[0] == 0
    code, output, _ = program("export", "run", "--to", "onnx", "-o", "net.onnx", *options)
    expected = {"frames": "frames of recordings", "float32": "raw images [N, C, H, W] of type"}
    assert code == 0 and expected.get(kind, "of type uint8, which the model normalises") in output
    onnx.checker.check_model("net.onnx", full_check=True)
    session = onnxruntime.InferenceSession("net.onnx", providers=["CPUExecutionProvider"])
    test = tsslbp.training.load_data(Run.open(folder / "run").experiment).test_images
    if kind == "frames":
        raw = expected = tsslbp.data.normalise(test, 0.0, 1.0)
    else:
        raw, expected = test, tsslbp.data.normalise(test, 0.4, 0.3)
    (found,) = session.run(None, {"images": raw.numpy()})
    ours = tsslbp.load("run")(expected).detach()
    torch.testing.assert_close(torch.from_numpy(found), ours, rtol=1e-5, atol=1e-5)
    told = session.get_modelmeta().custom_metadata_map
    assert told["data"].endswith("mine.npz") and float(told["test_accuracy"]) >= 0


def told_input(graph: Any) -> str:
    return str(graph.metadata["input"])


@pytest.mark.slow
@pytest.mark.usefixtures("folder")
def test_digits_are_real_numbers(program: Program) -> None:
    """The exported model takes float32 pixels, as the data set stores them."""
    options = ("--to", "onnx", "-o", "net.onnx", "--with-normalisation")
    assert program("export", "digits", *options)[0] == 0
    session = onnxruntime.InferenceSession("net.onnx", providers=["CPUExecutionProvider"])
    images = tsslbp.data.load("digits").test_images[:50]
    (found,) = session.run(None, {"images": images.numpy()})
    wanted = Run.open(Path("digits")).experiment
    expected = tsslbp.load("digits")(tsslbp.data.normalise(images, wanted.mean, wanted.std))
    right = tsslbp.predict(torch.from_numpy(found)) == tsslbp.predict(expected)
    assert right.float().mean() > 0.97
    assert "of type float32" in session.get_modelmeta().custom_metadata_map["input"]


@pytest.mark.slow
def test_a_run_whose_data_have_moved(run: Path, program: Program, refused: Refused) -> None:
    """Only `--with-normalisation` needs the data, to know what raw pixels are."""
    Path("mine.npz").rename("elsewhere.npz")
    arguments = ("export", "run", "--to", "onnx", "-o", "net.onnx")
    assert program(*arguments)[0] == 0
    raw = (*arguments, "--with-normalisation")
    assert "give their path with --set data=PATH" in refused(*raw)
    code, output, _ = program(*raw, "--set", "data=elsewhere.npz")
    assert code == 0 and "of type uint8" in output


def test_recordings_are_not_normalised(folder: Path, program: Program, refused: Refused) -> None:
    data = arrays()
    data["images"] = (data["images"][:, None, None].repeat(3, 1) > 90).astype(np.float32)
    np.savez("mine.npz", **data)
    assert program("train", "mine.toml", "--out", "run", "--epochs", "1")[0] == 0
    options = ("--to", "onnx", "-o", "net.onnx", "--with-normalisation")
    assert "recordings are not normalised: leave out --with-n" in refused("export", "run", *options)


def test_mistakes(run: Path, refused: Refused) -> None:
    assert "--to must be one of nir, onnx, got 'onx' (did you mean 'onnx'?)" in refused(
        "export", "run", "--to", "onx", "-o", "net"
    )
    assert "mean and std are in the file's metadata" in refused(
        "export", "run", "--to", "nir", "-o", "net.nir", "--with-normalisation"
    )
    assert "never fold pooling" in refused(
        "export", "run", "--to", "onnx", "-o", "net.onnx", "--no-fold-pooling"
    )
    assert "cannot write" in refused("export", "run", "--to", "nir", "-o", "nowhere/net.nir")
    for out in ("run/config.toml", "net.onnx", "net", "."):
        message = refused("export", "run", "--to", "nir", "-o", out)
        assert f"--out must end in .nir, .h5, .hdf5, got '{out}'" in message
    assert "must end in .onnx" in refused("export", "run", "--to", "onnx", "-o", "net.nir")
    assert Run.open(run).experiment.network  # still a run
    assert "not a run folder" in refused("export", ".", "--to", "nir", "-o", "net.nir")
    assert "did you mean 'best-test'?" in refused(
        *("export", "run", "--to", "nir", "-o", "net.nir", "--checkpoint", "best-tset")
    )


@pytest.mark.slow
def test_a_network_that_nir_cannot_hold(folder: Path, program: Program, refused: Refused) -> None:
    settings = ("--set", "neunorm=true", "--epochs", "1")
    assert program("train", "mine.toml", "--out", "run", *settings)[0] == 0
    message = refused("export", "run", "--to", "nir", "-o", "net.nir")
    assert "NIR has no node for the neuron normalisation (NeuNorm)" in message
    assert not Path("net.nir").exists()
    assert program("export", "run", "--to", "onnx", "-o", "net.onnx")[0] == 0
