"""The command about conversion: convert."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any

from .. import analysis, training
from .. import run as run_folder
from ..errors import InvalidInput, RunError
from . import options, printing
from .options import RecipeOptions, RunOptions, TrainingOptions, option, with_options
from .trainings import open_run, train_run

if TYPE_CHECKING:
    from ..experiment import Experiment
    from ..run import Run
    from ..training import Training

RECORD = "conversion.json"


@with_options
def convert(
    what: RecipeOptions,
    *,
    time_steps: Annotated[
        str, option("T,T,...", "Numbers of time steps of the converted networks.")
    ] = "1,2,5,10,20",
    which: RunOptions,
    how: TrainingOptions,
) -> None:
    """Train a recipe's network with ReLU and convert it to spikes.

    Prints test accuracy and spikes per image for each number of time steps: with thresholds from a
    percentile of the activations (plain), and with thresholds calibrated for that number of steps.
    Writes the same to conversion.json in the run folder.

    The training is a run like those of train, with activation = "relu" in its configuration. The
    recipe's rule, loss and neuron constants have no effect. --resume continues an interrupted
    training, or converts a finished network again.

    \b
    Examples:
      tsslbp convert digits --time-steps 1,2,4,8,16,32
      tsslbp convert mnist --epochs 30 --resume
    """  # noqa: D301 (\b is the character after which lines stay as they are)
    wanted = what.experiment(seed=which.seed)
    steps = sorted(set(options.numbers("--time-steps", time_steps, int)))
    if steps[0] < 1:
        raise InvalidInput(f"--time-steps must be at least 1, got {time_steps!r}")
    training.configure(how.device, wanted.precision)
    training.trackers.check(how.track or [])
    data_set = options.load_data(wanted, how.data_dir)
    net = analysis.convert.build_relu_network(wanted, data_set)
    folder = what.folder(which.out, f"relu-seed{wanted.seed}")
    ready = training.Training(
        analysis.convert.relu_experiment(wanted),
        data_set,
        net,
        device=how.device,
        resumed=which.resume and run_folder.has_begun(folder),
    )
    if os.path.exists(folder / RECORD) and not which.resume:
        raise RunError(
            f"{folder} holds a conversion already: convert its network again with --resume, or "
            "give another --out"
        )
    with run_folder.claim(folder):
        run = open_run(folder, ready.experiment, which.resume, what.epochs)
        train_run(ready, run, how.track)
        with printing.working("converting"):
            record = _record(wanted, ready, run)
            record |= analysis.convert.by_steps(wanted, data_set, net, steps)
        if data_set.note:
            record["note"] = data_set.note
        run_folder.write_json(folder / RECORD, record)
    printing.print_conversion(record)
    printing.say(f"\nrecord saved in {folder / RECORD}")


def _record(wanted: Experiment, trained: Training, run: Run) -> dict[str, Any]:
    """The training's part of the record."""
    epochs = run_folder.read_epochs(run)
    chosen = "best-validation" if trained.validation else "last"
    return {
        "experiment": wanted.to_table(),
        "environment": run_folder.describe_environment(),
        "images": trained.image_counts,
        "epochs": epochs,
        "relu": {"chosen": chosen, **run_folder.results.measures(epochs)[chosen]},
        "percentile": analysis.convert.PERCENTILE,
        "calibration_images": analysis.convert.CALIBRATION_IMAGES,
    }
