"""The command about new images: predict."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .. import analysis, data, figures, training
from .. import run as run_folder
from ..errors import InvalidInput, require
from ..storage import writing
from . import printing
from .drawing import follow
from .options import Checkpoint, RunFolder, TrustCode, argument, option

if TYPE_CHECKING:
    from torch import Tensor

    from ..analysis.inspection import Answer
    from ..data import Images
    from ..network import CustomNetwork, Network

ARRAYS = (".npy", ".npz")
PICTURES = (".svg", ".png", ".pdf")


def predict(
    folder: RunFolder,
    files: Annotated[
        list[Path], argument("IMAGE...", "Image files, or .npz or .npy files with images.")
    ],
    out: Annotated[
        Path | None,
        option("FILE", "Draw the spikes behind the answer for one image: .svg, .png or .pdf."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the answers as JSON, with all scores.")
    ] = False,
    checkpoint: Checkpoint = None,
    trust_code: TrustCode = False,
) -> None:
    """Classify your own images with a trained network.

    The network is that of a run, or a pretrained one.

    \b
    Examples:
      tsslbp predict mnist seven.png --out seven.svg
      tsslbp predict runs/first mine/*.png --json

    An image must have the size of the images that the network was trained on. Colour images are
    converted to grey if the network takes grey images. The table shows the class, its score (the
    output summed over time), the margin over the second-best class, and the spikes of the class's
    output neuron.
    """  # noqa: D301 (\b is the character after which lines stay as they are)
    if out is not None and out.suffix not in PICTURES:
        raise InvalidInput(f"--out must end in {', '.join(PICTURES)}, got {out}")
    if out in files:
        raise InvalidInput(f"--out {out} would replace the image: give another name")
    run = run_folder.Run.open(folder, trust_code)
    net = training.load(folder, checkpoint, trust_code=trust_code)
    named = {name: image for file in files for name, image in _read(file, net, run.experiment.data)}
    if out is not None:
        require("figures need", "figures", "matplotlib")
        if len(named) > 1:
            raise InvalidInput(f"--out draws the spikes of one image, got {len(named)}")
    normalised = partial(data.normalise, mean=run.experiment.mean, std=run.experiment.std)
    with printing.working("classifying"):
        found = {
            name: answer
            for name, image in named.items()
            for answer in analysis.inspection.answers(net, normalised(image))
        }
    # The run has the names of the user's own classes, wherever their data are now.
    classes = run.class_names() or data.class_names(run.experiment.data)
    names = classes if len(classes) == net.classes else tuple(map(str, range(net.classes)))
    if as_json:
        rows = [
            {"image": name, "name": names[one.predicted], "score": one.score, **asdict(one)}
            for name, one in found.items()
        ]
        printing.say(run_folder.to_json({"images": rows}, indent=1))
    else:
        _print(found, names)
    if out is not None:
        ((name, image),) = named.items()
        figure = follow(net, image, normalised(image), None, names)
        figures.svg.annotate(figure, f"{name}, {folder}")
        with writing(out):
            out.parent.mkdir(parents=True, exist_ok=True)
        figures.svg.save(figure, out, "spikes")
        if not as_json:
            printing.say(f"\npicture saved in {out}")


def _read(
    file: Path, net: Network | CustomNetwork, trained_on: str
) -> Iterator[tuple[str, Images]]:
    """The images in a file, each as a batch of one, with their names in the table."""
    if file.suffix in ARRAYS:
        images = data.npz.load_images(file)
    else:
        images = data.folder.read_file(file, net.input_shape[0])[None]
    is_frames = isinstance(images, data.Frames)
    expected = (net.time_steps, *net.input_shape) if is_frames else net.input_shape
    if tuple(images.shape[1:]) != tuple(expected):
        kind = "recordings of" if is_frames else "images of"
        raise InvalidInput(
            f"{file} contains {kind} {_size(images.shape[1:])}, but the network takes "
            f"{_size(expected)}, as in {Path(trained_on).name}: scale or crop them first"
        )
    if not isinstance(images, data.Frames) and trained_on in data.catalogue.entries():
        _check_range(file, images)
    for number in range(len(images)):
        name = f"{file}[{number}]" if file.suffix in ARRAYS else str(file)
        yield name, images[number : number + 1]


def _check_range(file: Path, images: Tensor) -> None:
    """Print a caution if floating-point pixels are not fractions of white, as they should be."""
    if images.is_floating_point() and (most := float(images.max())) > 1:
        printing.complain(
            "caution",
            f"{file} has pixel values up to {most:g}, but floating-point pixels must be from 0 to "
            "1: store them as uint8, or divide them by 255",
        )


def _size(shape: Sequence[int]) -> str:
    """Such as ``"28 x 28 pixels, grey"``."""
    *frames, channels, height, width = shape
    kind = {1: "grey", 3: "in colour"}.get(channels, f"{channels} channels")
    return f"{height} x {width} pixels, {kind}" + "".join(f", {one} frames" for one in frames)


def _print(found: Mapping[str, Answer], names: Sequence[str]) -> None:
    rows: list[Sequence[object]] = [
        ("image", "class", "score", "margin", "spikes", "first at step")
    ]
    for name, one in found.items():
        spikes = "-" if one.spikes is None else one.spikes
        numbers = f"{one.score:.3f}", f"{one.margin:.3f}"
        rows.append((name, names[one.predicted], *numbers, spikes, one.first_spike or "-"))
    printing.print_table(rows, text=(0, 1))
