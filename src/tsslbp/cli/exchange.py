"""The command that exports networks to other programs: export."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .. import data, training
from .. import export as exports
from .. import run as run_folder
from ..errors import InvalidInput, nearest
from ..storage import write_file
from . import printing
from .options import (
    Checkpoint,
    DataDir,
    MovedData,
    RunFolder,
    TrustCode,
    option,
    with_options,
)
from .runs import epoch_of

if TYPE_CHECKING:
    from ..network import CustomNetwork, Network
    from ..run import Run

FORMATS = {"nir": (".nir", ".h5", ".hdf5"), "onnx": (".onnx",)}  # and how their files are called


@with_options
def export(
    folder: RunFolder,
    *,
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
    moved: MovedData,
    trust_code: TrustCode = False,
) -> None:
    """Export a run's network to NIR or ONNX.

    nir: the Neuromorphic Intermediate Representation, which Norse, snnTorch, SpikingJelly and
    compilers for neuromorphic chips read. onnx: for onnxruntime and others, with all time steps in
    the graph. The file also says what the input is and how to read the output, and contains mean
    and standard deviation of the input, classes, time steps, accuracy and the command of the run.

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
    if out.suffix.lower() not in FORMATS[to]:
        raise InvalidInput(f"--out must end in {', '.join(FORMATS[to])}, got {str(out)!r}")
    run = run_folder.Run.open(folder, trust_code)
    name = checkpoint or training.default_checkpoint(run)
    net, state = training.read_network(run, name)
    facts = describe(run, name, epoch_of(state))
    with printing.working(f"writing {out}"):
        if to == "nir":
            graph = exports.to_nir(net, fold_pooling=fold_pooling, metadata=facts)
            given = graph.metadata["input"]
            write_file(out, _nir(graph))
        else:
            takes = _input(run, net, moved, data_dir, with_normalisation)
            model = exports.to_onnx(net, **takes, metadata=facts)
            given = next(one.value for one in model.metadata_props if one.key == "input")
            write_file(out, model.SerializeToString())
    mean, std = (", ".join(f"{one:g}" for one in facts[key]) for key in ("mean", "std"))
    printing.say(f"{out}  {to}, checkpoint {name} of {folder}, epoch {facts['epoch']}")
    printing.say(f"input       {given} (mean {mean}, std {std})")
    printing.print_note(facts.get("note", ""))


def describe(run: Run, name: str, epoch: int | str) -> dict[str, Any]:
    """The metadata of a file: the run, checkpoint and epoch that it is made from."""
    wanted = run.experiment
    epochs = run_folder.read_epochs(run)
    records: dict[int | str, Mapping[str, Any]] = {one["epoch"]: one for one in epochs}
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


def _input(
    run: Run, net: Network | CustomNetwork, moved: MovedData, data_dir: Path | None, raw: bool
) -> dict[str, Any]:
    """What a run's network takes, as arguments of `to_onnx`: frames, or images, `raw` or not.

    The data are only loaded if nothing else says what they are.
    """
    import torch

    wanted = run.experiment
    entry = data.catalogue.entries().get(wanted.data)
    frames, pixels = data.holds_events(wanted.data) or getattr(net, "frames", False), torch.uint8
    is_known = entry is not None and entry.origin != "package"  # such images are bytes
    unchanged = not any(wanted.mean) and all(one == 1 for one in wanted.std)  # as frames must be
    ask = (raw and not is_known) or (unchanged and wanted.data.endswith(".npz"))
    if ask and not frames:
        images = moved.load(run, data_dir).test_images
        if isinstance(images, data.Frames):
            frames = True
        else:
            pixels = images.dtype
    if frames and raw:
        raise InvalidInput("recordings are not normalised: leave out --with-normalisation")
    if not raw:
        return {"frames": frames}
    return {"pixels": pixels, "mean": wanted.mean, "std": wanted.std}
