"""The verb that exports networks to other programs: export."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .. import data, training
from .. import export as exports
from .. import run as run_folder
from ..errors import InvalidInput, nearest
from ..storage import write_file
from . import printing
from .options import Checkpoint, DataDir, RunFolder, TrustCode, option
from .runs import epoch_of

if TYPE_CHECKING:
    from ..network import CustomNetwork, Network
    from ..run import Run

FORMATS = ("nir", "onnx")

Writer = Callable[[Path], object]


def export(
    folder: RunFolder,
    to: Annotated[str, option("nir|onnx", "Format of the file.")],
    out: Annotated[Path, option("FILE", "The file to write.", "-o", "--out")],
    fold_pooling: Annotated[
        bool,
        typer.Option(
            "--fold-pooling/--no-fold-pooling",
            help="NIR: fold pooling into the next connection, or write it as SumPool2d.",
        ),
    ] = True,
    with_normalisation: Annotated[
        bool,
        typer.Option(
            "--with-normalisation", help="ONNX: the model takes raw pixels and normalises them."
        ),
    ] = False,
    checkpoint: Checkpoint = None,
    data_dir: DataDir = None,
    trust_code: TrustCode = False,
) -> None:
    """Export a run's network to NIR or ONNX.

    nir: the Neuromorphic Intermediate Representation, which Norse, snnTorch, SpikingJelly and
    compilers for neuromorphic chips read. onnx: for onnxruntime and others, with all time steps in
    the graph. The file also says how to read the output, and contains mean and standard deviation
    of the input, classes, time steps, accuracy and the command of the run.

    \b
    Examples:
      tsslbp export runs/first --to nir -o net.nir
      tsslbp export runs/first --to onnx -o net.onnx --with-normalisation
    """  # noqa: D301 (\b is the character after which lines stay as they are)
    if to not in FORMATS:
        known = ", ".join(FORMATS)
        raise InvalidInput(f"--to must be one of {known}, got {to!r}{nearest(to, FORMATS)}")
    if with_normalisation and to == "nir":
        raise InvalidInput(
            "NIR has no node for --with-normalisation; mean and std are in the file's metadata"
        )
    if not fold_pooling and to == "onnx":
        raise InvalidInput("--no-fold-pooling is for NIR; ONNX files never fold pooling")
    run = run_folder.Run.open(folder, trust_code)
    name = checkpoint or training.default_checkpoint(run)
    net, state = training.read_network(run, name)
    facts = describe(run, name, epoch_of(state))
    with printing.working(f"writing {out}"):
        if to == "nir":
            graph = exports.to_nir(net, fold_pooling=fold_pooling, metadata=facts)
            write_file(out, _nir(graph))
        else:
            model = _onnx(run, net, facts, with_normalisation, data_dir)
            write_file(out, model.SerializeToString())
    mean, std = (", ".join(f"{one:g}" for one in facts[key]) for key in ("mean", "std"))
    printing.say(f"{out}  {to}, checkpoint {name} of {folder}, epoch {facts['epoch']}")
    inputs = "raw pixels" if with_normalisation else f"normalised images, mean {mean}, std {std}"
    printing.say(f"input       {inputs}")
    printing.print_note(facts.get("note", ""))


def describe(run: Run, name: str, epoch: int | str) -> dict[str, Any]:
    """The metadata of a file: the run, checkpoint and epoch that it is made from."""
    wanted = run.experiment
    records: dict[int | str, Mapping[str, Any]] = {one["epoch"]: one for one in run.epochs()}
    record = records.get(epoch, {})  # an interrupted epoch has none
    shown = ("test_accuracy", "validation_accuracy", "note")
    return {
        "data": Path(wanted.data).name,  # of a user's file not the path
        "mean": wanted.mean,
        "std": wanted.std,
        "checkpoint": name,
        "epoch": epoch,
        **{key: record[key] for key in shown if key in record},
        "command": run.environment.get("command", ""),
    }


def _nir(graph: Any) -> memoryview:
    """The content of a file of NIR, in memory: HDF5 would lock a file that is locked already."""
    import nir

    content = io.BytesIO()
    nir.write(content, graph)
    return content.getbuffer()


def _onnx(
    run: Run,
    net: Network | CustomNetwork,
    facts: Mapping[str, Any],
    normalised: bool,
    data_dir: Path | None,
) -> Any:
    """The ONNX model of a run's network, whose input is what its data are: images or frames."""
    import torch

    wanted, dtype = run.experiment, torch.uint8
    frames = data.holds_events(wanted.data)
    if wanted.data.endswith(".npz"):
        images = training.load_run_data(run, data_dir).test_images
        frames = isinstance(images, data.Frames)
        dtype = torch.uint8 if isinstance(images, data.Frames) else images.dtype
    return exports.to_onnx(
        net,
        frames=frames,
        pixels=dtype if normalised else None,
        mean=wanted.mean,
        std=wanted.std,
        metadata=facts,
    )
