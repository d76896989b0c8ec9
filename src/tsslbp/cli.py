"""The program: one function a verb. Errors are one line; `--traceback` shows where they come from.

Each verb imports what it needs when it runs, so that ``tsslbp --help`` is instant.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from .errors import Error, RunError

if TYPE_CHECKING:
    from .data import DataSet
    from .experiment import Experiment
    from .run import Run
    from .training import StepResult

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Train deep spiking neural networks in few time steps with TSSL-BP.",
)
console = Console(highlight=False)

DataDir = Annotated[
    Path | None,
    typer.Option(
        envvar="TSSLBP_DATA", help="Folder of the data sets; without one they are downloaded."
    ),
]

MEASURES = {
    "last": "last epoch",
    "best-validation": "epoch chosen on validation images",
    "best-test": "best test epoch (the published protocol)",
}


def main() -> None:
    """Run the program; what the user can correct ends it with one line and exit code 2."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--traceback"]
    traceback = len(arguments) < len(sys.argv) - 1
    try:
        app(arguments, prog_name="tsslbp")
    except Error as error:
        if traceback:
            raise
        Console(stderr=True, highlight=False, soft_wrap=True).print(
            f"[bold red]error:[/] {_plain(str(error))}"
        )
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe's name, or a .toml file.")],
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a recipe's key.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of weights, order and masks.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Number of epochs.")] = None,
    protocol: Annotated[
        str | None,
        typer.Option(help="'published' (all training images) or 'validated' (some held out)."),
    ] = None,
    data_dir: DataDir = None,
    out: Annotated[
        Path | None, typer.Option(help="Run folder; by default runs/RECIPE-seedN.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in --out where it was stopped.")
    ] = False,
) -> None:
    """Train a network by a recipe, into a run folder."""
    from . import data, experiment, training

    wanted = experiment.with_settings(experiment.load_recipe(recipe), settings or [])
    changes = {"seed": seed, "epochs": epochs, "protocol": protocol}
    changed = {key: value for key, value in changes.items() if value is not None}
    wanted = experiment.Experiment.from_table(wanted.to_table() | changed)
    folder = out or Path("runs") / f"{Path(recipe).stem}-seed{wanted.seed}"
    data_set = data.load(wanted.data, data_dir)
    run = _open_run(folder, wanted, resume)
    console.print(f"[bold]{Path(recipe).stem}[/] {run.experiment.network} -> {folder}")
    if data_set.note:
        console.print(f"note: {data_set.note}")
    training.keep_freed_memory()
    with _Display(run) as display:
        training.fit(run, data_set, display)
    _print_results(run)
    _draw(run, data_set)


@app.command()
def evaluate(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")],
    data_dir: DataDir = None,
) -> None:
    """Measure the accuracy of every checkpoint of a run."""
    from . import data, training
    from .run import CHECKPOINTS, Run

    run = Run.open(folder)
    data_set = data.load(run.experiment.data, data_dir)
    _, validation, test = training.splits(run.experiment, data_set)
    table = Table("checkpoint", "epoch", "validation accuracy", "test accuracy")
    for name in (name for name in CHECKPOINTS if run.has_checkpoint(name)):
        net = training.load(folder, name)
        _, state = run.load_checkpoint(name)
        cells = []
        for split in (validation, test):
            accuracy = split and training.evaluate(
                net, split, run.experiment.mean, run.experiment.std
            )
            cells.append("-" if accuracy is None else f"{100 * accuracy:.2f} %")
        table.add_row(name, str(state["epoch"]), *cells)
    if not table.row_count:
        raise RunError(f"{folder} holds no checkpoint yet; train it with --resume")
    console.print(table)


@app.command()
def recipes() -> None:
    """List the shipped recipes."""
    from . import experiment

    for name in experiment.recipe_names():
        one = experiment.load_recipe(name)
        console.print(f"[bold]{name}[/]  {one.network}, T = {one.time_steps}", soft_wrap=True)
        console.print(_indented(one.description), markup=False, soft_wrap=True)


@app.command()
def info(
    network: Annotated[str, typer.Argument(help="A description such as 15C5-P2-40C5-P2-300.")],
    input_shape: Annotated[str, typer.Option(help="Channels, height and width.")] = "1x28x28",
    classes: Annotated[int, typer.Option(help="Neurons of the output layer.")] = 10,
    time_steps: Annotated[int, typer.Option(help="Time steps T.")] = 5,
    padding: Annotated[str, typer.Option(help="Of the convolutions: 1, or 1,0 for each.")] = "0",
) -> None:
    """Print a network's layers, shapes and parameters."""
    from .network import Network

    pads = _integers("padding", padding, ",")
    shape = _integers("input-shape", input_shape, "x")
    pad = pads[0] if len(pads) == 1 else pads
    print(Network(network, shape, classes, time_steps, padding=pad))


class _Display:
    """Progress of a training: a bar on a terminal, a line an epoch everywhere."""

    def __init__(self, run: Run) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self.epochs = run.experiment.epochs
        self.progress = Progress(
            TextColumn("epoch {task.fields[epoch]}/{task.fields[epochs]}"),
            BarColumn(),
            TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
            TextColumn("loss {task.fields[loss]:.4f}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self.task = self.progress.add_task(
            "", total=None, epoch=0, epochs=self.epochs, loss=0.0, visible=False
        )

    def __enter__(self) -> _Display:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def on_step(self, epoch: int, step: int, steps: int, result: StepResult) -> None:
        self.progress.update(
            self.task, completed=step, total=steps, epoch=epoch, loss=result.loss, visible=True
        )

    def on_epoch(self, record: dict[str, Any]) -> None:
        parts = [f"epoch {record['epoch']:>3}/{self.epochs}", f"loss {record['loss']:.4f}"]
        for name in ("train", "validation", "test"):
            if f"{name}_accuracy" in record:
                parts.append(f"{name} {100 * record[f'{name}_accuracy']:.2f} %")
        parts.append(f"{record['images_per_second']:,.0f} images/s")
        self.progress.console.print("  ".join(parts))


def _open_run(folder: Path, wanted: Experiment, resume: bool) -> Run:
    """Make the run, or open it again where `resume` finds one of the same settings."""
    from .run import Run

    if not (resume and (folder / "config.toml").exists()):
        return Run.create(folder, wanted)
    run = Run.open(folder)
    found, asked = run.experiment.to_table(), wanted.to_table()
    keys = sorted(key for key in found | asked if found.get(key) != asked.get(key))
    changed = [key for key in keys if key not in ("epochs", "description")]
    if changed:
        differences = ", ".join(f"{key} = {found.get(key)} there" for key in changed)
        raise RunError(f"{folder} holds a run of other settings ({differences}); choose another")
    run.record_resume()
    return run.extended(wanted.epochs)


def _print_results(run: Run) -> None:
    epochs = run.epochs()
    table = Table("accuracy", "epoch", "validation", "test", title=str(run.folder))
    for checkpoint, record in measures(epochs).items():
        cells = (record.get("validation_accuracy"), record["test_accuracy"])
        texts = ["-" if cell is None else f"{100 * cell:.2f} %" for cell in cells]
        table.add_row(MEASURES[checkpoint], str(record["epoch"]), *texts)
    console.print(table)
    console.print(f"trained in {sum(record['seconds'] for record in epochs):,.0f} s")


def measures(epochs: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The records behind the ways of reporting a run; the first epoch wins a tie."""
    chosen = {"last": epochs[-1], "best-test": max(epochs, key=lambda one: one["test_accuracy"])}
    if "validation_accuracy" in epochs[-1]:
        chosen["best-validation"] = max(epochs, key=lambda one: one["validation_accuracy"])
    return {name: chosen[name] for name in MEASURES if name in chosen}


def _draw(run: Run, data_set: DataSet) -> None:
    """Draw a test image's spikes and the training curve into the run's folder."""
    from . import data, figures, training
    from .losses import predict

    try:
        import matplotlib  # noqa: F401
    except ImportError:
        console.print("no picture: pip install 'tsslbp[figures]' to have one")
        return
    net = training.load(run.folder)
    image = data_set.test_images[:1]
    pixels = data.normalise(image, run.experiment.mean, run.experiment.std)
    figure = figures.run_picture(
        image[0].numpy(),
        int(data_set.test_labels[0]),
        int(predict(net(pixels).detach())),
        {name: trace.spikes.numpy() for name, trace in net.trace(pixels).items()},
        run.epochs(),
    )
    path = run.folder / "picture.png"
    figure.savefig(path, dpi=120)
    console.print(f"picture: {path}")


def _integers(name: str, text: str, separator: str) -> list[int]:
    try:
        return [int(part) for part in text.split(separator)]
    except ValueError:
        raise typer.BadParameter(
            f"expected whole numbers joined by {separator!r}, got {text!r}", param_hint=name
        ) from None


def _indented(text: str) -> str:
    return "".join(f"  {line}\n" for line in text.strip().splitlines())


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)
