"""The verb about conversion: convert."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .. import training
from ..analysis.convert import CALIBRATION_IMAGES, PERCENTILE, by_steps, train
from ..errors import InvalidInput, RunError
from ..run import write_json
from ..run.environment import describe_environment
from ..training.device import configure
from . import printing, progress
from .options import (
    DataDir,
    Device,
    Epochs,
    Recipe,
    Settings,
    experiment_of,
    image_counts,
    load_checked,
    numbers,
)

RECORD = "conversion.json"


def convert(
    recipe: Recipe,
    time_steps: Annotated[
        str, typer.Option(metavar="T,T,...", help="Numbers of time steps to convert for.")
    ] = "1,2,5,10,20",
    settings: Settings = None,
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="Seed of weights, order, crops and dropout.")
    ] = None,
    epochs: Epochs = None,
    data_dir: DataDir = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Folder of the record, by default runs/RECIPE-relu-seedN."
        ),
    ] = None,
    device: Device = "cpu",
) -> None:
    """Train a recipe's network with ReLU, then run it with spikes.

    Prints test accuracy and spikes per image for each number of time steps, with thresholds from a
    percentile of the activations (plain) and calibrated for that number, and writes them into
    DIR/conversion.json. The recipe's rule, loss and constants of the neurons do not matter here.

    \b
    Example:
      tsslbp convert digits --time-steps 1,2,4,8,16,32
    """  # noqa: D301 (\b is the character after which lines stay as they are)
    wanted = experiment_of(recipe, settings, {"seed": seed, "epochs": epochs})
    steps = sorted(set(numbers("--time-steps", time_steps, int)))
    if steps[0] < 1:
        raise InvalidInput(f"--time-steps must be at least 1, got {time_steps!r}")
    configure(device, wanted.precision)
    data_set = load_checked(wanted, data_dir)
    folder = out or Path("runs") / f"{Path(recipe).stem}-relu-seed{wanted.seed}"
    path = _empty_place(folder)
    training.keep_freed_memory()
    record: dict[str, Any] = {
        "experiment": wanted.to_table(),
        "environment": describe_environment(),
        "images": image_counts(wanted, data_set),
    }
    with progress.Display(wanted.epochs) as shown:
        trained = train(wanted, data_set, shown, device)
    record["epochs"] = trained.epochs
    record["relu"] = {"chosen": trained.chosen, **trained.record}
    record["percentile"], record["calibration_images"] = PERCENTILE, CALIBRATION_IMAGES
    with printing.console.status("converting"):
        record |= by_steps(wanted, data_set, trained.net, steps)
    if data_set.note:
        record["note"] = data_set.note
    write_json(path, record)
    printing.print_conversion(record)
    printing.say(f"\nrecord in {path}")


def _empty_place(folder: Path) -> Path:
    """Make the folder; return the record's path in it, where there is none yet."""
    path = folder / RECORD
    if path.exists():
        raise RunError(f"{folder} holds a conversion already: give another --out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot make the folder {folder}: {error.strerror or error}") from error
    return path
