"""The commands about data sets: data list, data fetch, data check, data show."""

from __future__ import annotations

import os
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from .. import data, figures
from ..errors import DataError, InvalidInput, require
from ..storage import writing
from . import printing, progress
from .options import DataDir, argument, completing, option

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.animation import Animation
    from matplotlib.figure import Figure

    from ..data import DataSet, Events, EventSet
    from ..data.catalogue import Entry

FRAMES = 16  # of a recording in its picture
# What a picture shows: pixels, class, caveat of the data, and lines about frames, if it is those.
_Sample: TypeAlias = "tuple[np.ndarray[Any, Any], str, str, tuple[str, ...]]"
SUFFIXES = (".png", ".svg", ".gif")
WITHOUT_DOWNLOAD = {"package": "comes with tsslbp", "generated": "made by tsslbp"}

app = typer.Typer(rich_markup_mode=None, help="List, download, check and view data sets.")

_complete = completing(lambda: data.catalogue.entries())
Name = Annotated[str, argument("NAME", "Name of a data set.", autocompletion=_complete)]


@app.callback(invoke_without_command=True)
def group(context: typer.Context) -> None:
    """List, download, check and view data sets."""
    if context.invoked_subcommand is None:
        printing.say(context.get_help())


@app.command("list")
def list_sets(data_dir: DataDir = None) -> None:
    """List the data sets, with the paths of local copies."""
    entries = data.catalogue.entries().values()
    printing.print_data_sets([(entry, _where(entry, data_dir)) for entry in entries])
    printing.say("\ntsslbp data fetch NAME downloads one, or explains how to get it.")


@app.command()
def fetch(name: Name, data_dir: DataDir = None) -> None:
    """Download a data set, or explain how to get it.

    It goes to DIR/NAME/, or to the cache folder without --data-dir and TSSLBP_DATA. Checksums are
    verified, and damaged files are replaced.
    """
    entry = data.catalogue.find(name)
    printing.print_data_set(entry)
    if entry.origin in WITHOUT_DOWNLOAD:
        printing.say(f"\nnothing to download: {WITHOUT_DOWNLOAD[entry.origin]}")
    elif entry.origin == "download":
        _download(entry, data_dir)
    else:
        printing.say(f"\n{entry.layout}")
        local = data.files.locate(entry, data_dir)
        if local is None:
            printing.say(
                f"\n{name} must be downloaded manually: put it into a folder DIR as shown above, "
                f"and set --data-dir or {data.files.VARIABLE} to DIR"
            )
            return
        printing.say(f"\na copy is in {local}: tsslbp data check {name} reads it")


@app.command()
def check(
    what: Annotated[
        str,
        argument("NAME|FOLDER", "Name of a data set, or its folder.", autocompletion=_complete),
    ],
    data_dir: DataDir = None,
) -> None:
    """Check a local copy of a data set.

    Image files are compared with the official checksums. Event recordings are read, and the
    recordings and events counted.
    """
    if what not in data.catalogue.entries() and os.path.isdir(what):
        folder = Path(what).resolve()
        what, data_dir = data.catalogue.of_folder(folder.name), folder.parent
    entry = data.catalogue.find(what)
    if entry.origin == "package":
        printing.say(f"{what}: {WITHOUT_DOWNLOAD[entry.origin]}")
        return
    if entry.kind == "events":
        findings = data.files.check_recordings(entry, data.recordings(what, data_dir))
    else:
        findings = data.files.check_files(entry, data_dir)
    problems = 0
    for part, problem in findings:
        printing.say(f"{part}: ok" if problem is None else f"{part} {problem}")
        problems += problem is not None
    if problems:
        action = "downloads it again" if entry.origin == "download" else "explains how to get it"
        raise DataError(
            f"the copy of {what} is damaged or incomplete (problems: {problems}); "
            f"tsslbp data fetch {what} {action}"
        )


@app.command()
def show(
    name: Annotated[
        str,
        argument(
            "NAME", "Name of a data set, a .npz file, or a folder/.", autocompletion=_complete
        ),
    ],
    index: Annotated[int, argument("INDEX", "Number of the sample, from 0.", min=0)],
    test: Annotated[bool, typer.Option("--test", help="Draw a test sample.")] = False,
    data_dir: DataDir = None,
    out: Annotated[
        Path | None,
        option(
            "FILE",
            "A .png or .svg file for the picture, or a .gif file for only the animation.",
            "--out",
            "-o",
        ),
    ] = None,
) -> None:
    """Draw a sample: an image, or the frames of a recording.

    The picture is NAME-INDEX.png in the current folder, unless --out names another file. For a
    recording, an animation is written next to it as a .gif file; if --out ends in .gif, only the
    animation is written. Pixels that became brighter are orange, those that became darker blue.
    """
    part = "test" if test else "training"
    path = out or Path(f"{Path(name).stem}-{'test-' if test else ''}{index}.png")
    if path.suffix not in SUFFIXES:
        raise InvalidInput(f"--out must end in {', '.join(SUFFIXES)}, got {path}")
    require("a picture needs", "figures", "matplotlib")
    if data.holds_events(name):
        found = _recording(data.recordings(name, data_dir), index, part)
    else:
        found = _loaded(data.load(name, data_dir), index, part)
    pixels, label, note, facts = found
    if path.suffix == ".gif" and not facts:
        raise InvalidInput(f"an image has no animation: --out must end in .png or .svg, got {path}")
    title = f"{Path(name).name}, {part} sample {index}, class {label}"
    printing.say(title)
    printing.print_note(note)
    for line in facts:
        printing.say(line)
    if facts:
        _save(
            path,
            figures.sample.frames_figure(pixels, title),
            figures.sample.animation(pixels, title),
        )
    else:
        _save(path, figures.sample.image_figure(pixels, title))


def _where(entry: Entry, data_dir: Path | None) -> str:
    """Where the local copy of a set is, for the list."""
    if entry.origin in WITHOUT_DOWNLOAD:
        return WITHOUT_DOWNLOAD[entry.origin]
    return str(data.files.locate(entry, data_dir) or "-")


def _download(entry: Entry, data_dir: Path | None) -> None:
    """Download the files of a set that are missing or damaged."""
    if all(problem is None for _, problem in data.files.check_files(entry, data_dir)):
        printing.say(f"\nnothing to download: {data.files.locate(entry, data_dir)} is complete")
        return
    if folder := data.files.find_folder(entry, data_dir, data.files.CIFAR10_FOLDER):
        raise DataError(
            f"{folder} is incomplete, or another edition, and takes precedence over a download: "
            "move it away, or give another --data-dir"
        )
    printing.say()
    for file in entry.md5:
        with progress.Download(file) as bar:
            path = data.files.download(entry, file, data.files.root(data_dir), bar)
        printing.say(f"{path}: ok")


def _recording(source: EventSet, index: int, part: str) -> _Sample:
    """One recording, as frames."""
    import numpy as np

    from ..data.events.binning import bin_events

    items, start = source.test if part == "test" else source.train, index
    expected = data.catalogue.find(source.name)
    if len(items) == (expected.test if part == "test" else expected.train):  # one in an item
        items, start = items[index : index + 1], 0
    recording = next(islice(chain.from_iterable(map(source.read, items)), start, None), None)
    if recording is None:
        raise InvalidInput(f"{source.name} has no {part} sample {index}")
    label, events = recording
    size = source.height, source.width
    active = bin_events(events, *size, FRAMES, data.Binning(values="count"))
    frames = np.zeros((FRAMES, 2, *size))
    step = np.repeat(np.arange(FRAMES), active.counts)
    frames.reshape(FRAMES, -1)[step, active.pixels] = active.values
    counts = ", ".join(f"{count:g}" for count in frames.sum((1, 2, 3)))
    return frames, str(label), source.note, (_describe(events), f"events by frame: {counts}")


def _loaded(data_set: DataSet, index: int, part: str) -> _Sample:
    """An image, or a recording that was given as frames."""
    images = data_set.test_images if part == "test" else data_set.train_images
    labels = data_set.test_labels if part == "test" else data_set.train_labels
    if index >= len(labels):
        raise InvalidInput(f"INDEX must be from 0 to {len(labels) - 1}, got {index}")
    frames = isinstance(images, data.Frames)
    pixels = next(iter(images[index : index + 1])).numpy()
    active = ", ".join(map(str, (pixels != 0).sum((1, 2, 3)))) if frames else ""
    facts = (f"active pixels by frame: {active}",) if frames else ()
    label, names = int(labels[index]), data_set.class_names
    return pixels, names[label] if names else str(label), data_set.note, facts


def _describe(events: Events) -> str:
    """Return the number of events, the number of each polarity, and the duration."""
    count = len(events.t)
    if count == 0:
        return "no events"
    brighter = int((events.p != 0).sum())
    length = (int(events.t[-1]) - int(events.t[0])) / 1000
    return (
        f"{count:,} events, {brighter:,} brighter and {count - brighter:,} darker, "
        f"in {length:,.1f} ms"
    )


def _save(path: Path, figure: Figure, animation: Animation | None = None) -> None:
    """Write the picture, unless only the animation is wanted, and the animation next to it."""
    moving = path.with_suffix(".gif")
    written = [path] if animation is None or path == moving else [path, moving]
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".svg":
            figures.svg.save_svg(figure, path, path.stem)
        elif path.suffix == ".png":
            figures.svg.save_png(figure, path, dpi=150)
        if animation is not None:
            figures.svg.save_gif(animation, moving)
    printing.say(f"picture saved in {' and '.join(map(str, written))}")
