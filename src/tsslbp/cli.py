"""The program: one function a verb. Errors are one line; `--traceback` shows where they come from.

What it prints, and how, is `tsslbp.display`'s.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from . import __version__, data, display, experiment, figures, parallel, training
from .data import DataSet
from .description import plan
from .device import configure
from .errors import Diverged, Error, InvalidInput, RunError, nearest
from .experiment import Experiment
from .losses import predict
from .parallel import Processes
from .results import flat, measures
from .run import CHECKPOINTS, Run

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)

# The base of the errors in the command line; typer does not export it itself.
UsageError: Any = typer.BadParameter.__base__

DataDir = Annotated[
    Path | None,
    typer.Option(
        envvar="TSSLBP_DATA",
        metavar="DIR",
        help="Folder of the data sets (DIR/mnist/...); without it they are downloaded once.",
    ),
]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code: 2 for what the user can correct, in one line.

    Args:
        arguments: of the command line, by default those of this process.
    """
    given = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    arguments = [argument for argument in given if argument != "--traceback"]
    with warnings.catch_warnings():
        warnings.showwarning = display.show_warning
        try:
            command = typer.main.get_command(app)
            return command.main(arguments, "tsslbp", standalone_mode=False) or 0
        except UsageError as error:
            where = error.ctx.command_path if error.ctx else "tsslbp"
            display.complain("error", f"{error.format_message().rstrip('.')}; see {where} --help")
        except Error as error:
            if arguments != given:
                raise
            display.complain("error", str(error))
        except (KeyboardInterrupt, typer.Abort):
            return 130
    return 2


@app.callback(invoke_without_command=True)
def options(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Train deep spiking neural networks in few time steps with TSSL-BP.

    Start with: tsslbp train digits

    Add --traceback to a command to see where an error comes from.
    """
    if version:
        print(f"tsslbp {__version__}")
        raise typer.Exit


@app.command()
def train(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="A shipped recipe's name, or a .toml file.")
    ],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the recipe; repeatable."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="Seed of weights, order, crops and dropout.")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(metavar="N", help="Passes over the training images.")
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            metavar="published|validated",
            help="Train on all training images, or hold some out to choose the epoch on.",
        ),
    ] = None,
    data_dir: DataDir = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The run's folder, by default runs/RECIPE-seedN."),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue the run in its folder, or start it if none is."),
    ] = False,
    device: Annotated[
        str, typer.Option(metavar="cpu|cuda", help="Where to train; cuda is an NVIDIA GPU.")
    ] = "cpu",
    precision: Annotated[
        str | None,
        typer.Option(
            metavar="float32|tf32|bf16", help="Of matrix products; the last two need a GPU."
        ),
    ] = None,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="On a GPU: the same bits in every run, slower.")
    ] = False,
) -> None:
    """Train a network by a recipe, into a run's folder.

    \b
    Examples:
      tsslbp train digits
      tsslbp train mnist --epochs 5 --seed 1 --resume
      tsslbp train mnist --set learning_rate=0.001 --set rule.warm_up=always
      tsslbp train mine.toml --out runs/first
      torchrun --standalone --nproc-per-node 2 -m tsslbp train mnist --device cuda

    `tsslbp info RECIPE` shows the keys of a recipe, and their values.
    """  # noqa: D301 (\b is the character after which lines stay as they are)
    changes = {"seed": seed, "epochs": epochs, "protocol": protocol, "precision": precision}
    with parallel.join() as processes:
        wanted = _changed(
            experiment.with_settings(experiment.load_recipe(recipe), settings or []), changes
        )
        device = processes.device(device)
        configure(device, wanted.precision, deterministic)
        with processes.first_of_machine_first():
            data_set = data.load(wanted.data, data_dir)
        # Before the folder is made: what the user corrects now should not stand in the way then.
        training.check_data(wanted, data_set)
        plan(wanted.network, data_set.train_images.shape[1:], data_set.classes, wanted.padding)
        training.keep_freed_memory()
        if processes.is_first:
            folder = out or Path("runs") / f"{Path(recipe).stem}-seed{wanted.seed}"
            run = _open_run(folder, wanted, resume, epochs)
            _fit_and_report(run, data_set, device, processes)
        else:
            training.fit(None, data_set, device=device, processes=processes)


@app.command()
def evaluate(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")],
    data_dir: DataDir = None,
) -> None:
    """Measure the accuracies of a run again.

    All three from the weights in the run's checkpoints: the accuracy of the last epoch, of the
    epoch chosen on validation images, and of the best test epoch.
    """
    run = Run.open(folder)
    if not any(run.has_checkpoint(name) for name in CHECKPOINTS):
        raise RunError(f"{folder} holds no checkpoint yet: train it with --resume")
    data_set = data.load(run.experiment.data, data_dir)
    rows = {}
    with display.console.status("measuring"):
        for name in (name for name in CHECKPOINTS if run.has_checkpoint(name)):
            rows[name] = _measure(run, name, data_set)
    display.print_accuracies(rows)


@app.command()
def recipes() -> None:
    """List the shipped recipes and what each promises."""
    for name in experiment.recipe_names():
        one = experiment.load_recipe(name)
        display.say(display.folded(f"{name}  {one.network}, T = {one.time_steps}"), "bold")
        for line in one.description.strip().splitlines():
            display.say(display.folded(line, "  "))
        display.say()
    display.say("tsslbp info RECIPE shows all settings of a recipe.")


@app.command()
def info(
    network: Annotated[
        str,
        typer.Argument(metavar="NETWORK", help="Such as 15C5-P2-40C5-P2-300, or a recipe's name."),
    ],
    input_shape: Annotated[
        str | None,
        typer.Option(
            metavar="CxHxW",
            help="Channels, height and width of the images, by default 1x28x28 or the recipe's.",
        ),
    ] = None,
    classes: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Neurons of the output layer, by default 10 or the data's."
        ),
    ] = None,
    time_steps: Annotated[int | None, typer.Option(metavar="T", help="Time steps.")] = None,
    padding: Annotated[
        str | None,
        typer.Option(metavar="P", help="Of the convolutions, such as 1, or 1,0 for each."),
    ] = None,
) -> None:
    """Print a network's layers, shapes and parameters.

    A network's description joins its layers with "-": 15C5 is a convolution of 15 channels and a
    5 x 5 kernel, P2 sum pooling of 2 x 2, 300 a linear layer of 300 neurons. The output layer is
    implied. For a recipe this prints its settings as well.
    """
    is_recipe = network.endswith(".toml") or network in experiment.recipe_names()
    base = experiment.load_recipe(network) if is_recipe else Experiment("mnist", network)
    pads = None if padding is None else _integers("--padding", padding, ",")
    wanted = _changed(base, {"time_steps": time_steps, "padding": pads})
    shape, outputs = _input_shape(wanted, input_shape, classes)
    try:
        net = training.build_network(wanted, shape, outputs)
    except InvalidInput as error:
        hint = "" if is_recipe else nearest(network, experiment.recipe_names())
        raise InvalidInput(f"{error}{hint}") from error
    display.say(repr(net))
    if is_recipe:
        table = wanted.to_table()
        display.say(f"\n{table.pop('description').strip()}\n")
        for key, value in flat(table).items():
            display.say(f"{key} = {json.dumps(value, ensure_ascii=False)}")


def _changed(wanted: Experiment, changes: Mapping[str, Any]) -> Experiment:
    """Return the experiment with those changes that are not None."""
    given = {key: value for key, value in changes.items() if value is not None}
    return Experiment.from_table(wanted.to_table() | given)


def _open_run(folder: Path, wanted: Experiment, resume: bool, epochs: int | None) -> Run:
    """Make the run, or open it again where `resume` finds one of the same settings.

    A run that is opened again keeps its number of epochs unless `epochs` says another.
    """
    if not (folder / "config.toml").exists():
        return Run.create(folder, wanted)
    if not resume:
        raise RunError(
            f"{folder} holds a run already: continue it with --resume, or give another --out"
        )
    run = Run.open(folder)
    there, asked = flat(run.experiment.to_table()), flat(wanted.to_table())
    differences = [
        f"{key} is {there.get(key, 'unset')!r} there, {asked.get(key, 'unset')!r} here"
        for key in sorted(there | asked)
        if there.get(key) != asked.get(key) and key not in ("epochs", "description")
    ]
    if differences:
        raise RunError(
            f"{folder} holds a run of other settings ({'; '.join(differences)}): ask for the same, "
            "or give another --out"
        )
    run.record_resume()
    return run.extended(epochs) if epochs else run


def _fit_and_report(run: Run, data_set: DataSet, device: str, processes: Processes) -> None:
    if len(run.epochs()) >= run.experiment.epochs:
        display.say(
            f"{run.folder} has trained its {run.experiment.epochs} epochs; "
            "a larger --epochs trains it further"
        )
    _print_start(run, data_set, processes.count)
    observer = display.Display(run, _image_counts(run.experiment, data_set)["training"])
    try:
        with observer:
            training.fit(run, data_set, observer, device=device, processes=processes)
    except Diverged as error:
        has_kept = run.has_checkpoint("last")
        kept = f"; {run.folder} keeps the last good checkpoint" if has_kept else ""
        raise Diverged(f"{error}{kept}") from error
    except KeyboardInterrupt:
        display.complain(
            "stopped", f"the same command with --resume continues the run in {run.folder}"
        )
        raise typer.Exit(130) from None
    _print_results(run)
    _draw(run, data_set)


def _input_shape(
    wanted: Experiment, input_shape: str | None, classes: int | None
) -> tuple[tuple[int, ...], int]:
    """Shape of the images and number of classes, of the data where they are not given."""
    given = tuple(_integers("--input-shape", input_shape, "x")) if input_shape else None
    if wanted.data in data.SHAPES:
        return given or data.SHAPES[wanted.data], classes or data.CLASSES
    if given and classes:
        return given, classes
    data_set = data.load(wanted.data)
    return given or tuple(data_set.train_images.shape[1:]), classes or data_set.classes


def _measure(run: Run, name: str, data_set: DataSet) -> dict[str, Any]:
    """Accuracies of a checkpoint, with the keys of an epoch's record."""
    net = training.load(run.folder, name)
    _, state = run.load_checkpoint(name)
    _, validation, test = training.splits(run.experiment, data_set)
    steps = state.get("progress", {}).get("step", 0)  # of an epoch that was broken off
    record: dict[str, Any] = {
        "epoch": f"{state['epoch']} + {steps} steps" if steps else state["epoch"]
    }
    for split_name, split in (("validation", validation), ("test", test)):
        if split is not None:
            record[f"{split_name}_accuracy"] = training.evaluate(
                net, split, run.experiment.mean, run.experiment.std
            )[-1]
    return record | ({"note": data_set.note} if data_set.note else {})


def _image_counts(wanted: Experiment, data_set: DataSet) -> dict[str, int]:
    held_out = wanted.validation_images if wanted.protocol == "validated" else 0
    counts = {
        "training": len(data_set.train_labels) - held_out,
        "validation": held_out,
        "test": len(data_set.test_labels),
    }
    return {name: count for name, count in counts.items() if count}


def _print_start(run: Run, data_set: DataSet, processes: int) -> None:
    counts = _image_counts(run.experiment, data_set)
    done = len(run.epochs())
    display.say(f"network     {run.experiment.network}, T = {run.experiment.time_steps}")
    images = ", ".join(f"{count:,} {name}" for name, count in counts.items())
    display.say(f"images      {data_set.name}: {images}")
    display.print_note(data_set.note)
    if processes > 1:
        display.say(f"processes   {processes}")
    display.say(f"run folder  {run.folder}{f', resumed after epoch {done}' if done else ''}\n")


def _print_results(run: Run) -> None:
    epochs = run.epochs()
    if not epochs:
        raise RunError(f"{run.folder} holds no record of an epoch: was metrics.jsonl removed?")
    display.say()
    display.print_accuracies(measures(epochs))
    display.say(f"\ntraining time {display.duration(sum(record['seconds'] for record in epochs))}")


def _draw(run: Run, data_set: DataSet) -> None:
    """Draw a test image's spikes and the training curve into the run's folder."""
    net = training.load(run.folder)
    image = data_set.test_images[:1]
    pixels = data.normalise(image, run.experiment.mean, run.experiment.std)
    path = run.folder / "picture.png"
    try:
        figure = figures.run_picture(
            image[0].numpy(),
            int(data_set.test_labels[0]),
            int(predict(net(pixels).detach())),
            {name: trace.spikes.numpy() for name, trace in net.trace(pixels).items()},
            run.epochs(),
        )
        figure.savefig(path, dpi=120)
    except ImportError:
        display.say("no picture, because matplotlib is missing: pip install 'tsslbp[figures]'")
    except OSError as error:
        path.unlink(missing_ok=True)
        display.say(f"no picture, because {path} cannot be written: {error.strerror or error}")
    else:
        display.say(f"picture in {path}")


def _integers(name: str, text: str, separator: str) -> list[int]:
    try:
        return [int(part) for part in text.split(separator)]
    except ValueError:
        raise InvalidInput(
            f"{name} must be whole numbers joined by {separator!r}, got {text!r}"
        ) from None
