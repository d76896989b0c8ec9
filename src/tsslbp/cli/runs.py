"""The commands about one run: train, resume, evaluate, draw, cost, recipes, info."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .. import analysis, data, experiment, figures, training, wording
from .. import network as networks
from .. import report as reports
from .. import run as run_folder
from ..errors import InvalidInput, RunError, nearest, require
from ..storage import writing
from ..toml_files import flat
from ..wording import duration
from . import drawing, options, printing
from .options import (
    Checkpoint,
    DataDir,
    Deterministic,
    Formats,
    MovedData,
    OwnRun,
    RecipeOptions,
    RunFolder,
    RunOptions,
    TrainingOptions,
    TrustCode,
    argument,
    complete_recipe,
    option,
)
from .trainings import open_run, train_run, with_kept_file

if TYPE_CHECKING:
    from ..analysis.operations import Cost
    from ..data import DataSet
    from ..experiment import Experiment
    from ..network import Model
    from ..run import Run
    from ..training import Training


@options.with_options
def train(
    what: RecipeOptions,
    *,
    protocol: Annotated[
        str | None,
        option(
            "published|validated",
            "Train on all training images, or hold some out for choosing the epoch.",
        ),
    ] = None,
    precision: Annotated[
        str | None,
        option("float32|tf32|bf16", "Precision of matrix products; the last two need a GPU."),
    ] = None,
    weights: Annotated[
        str | None,
        option(
            "RUN|FILE|NAME",
            "Start from the weights of a run, a file of tensors, or a pretrained network.",
            autocompletion=options.complete_run,
        ),
    ] = None,
    weights_partial: Annotated[
        bool,
        typer.Option("--weights-partial", help="Load only the weights that fit; list the others."),
    ] = False,
    deterministic: Deterministic = False,
    which: RunOptions,
    how: TrainingOptions,
) -> None:
    """Train a network from a recipe; results go to a run folder.

    \b
    Examples:
      tsslbp train digits
      tsslbp train mnist --epochs 5 --seed 1 --resume
      tsslbp train mnist --set learning_rate=0.001 --set rule.warm_up=always
      tsslbp train mine.toml --out runs/first
      tsslbp train digits --weights runs/first --set 'freeze=["conv1"]'
      torchrun --standalone --nproc-per-node 2 -m tsslbp train mnist --device cuda

    `tsslbp recipes RECIPE` shows the keys of a recipe and their values.
    """  # noqa: D301 (\b is the character after which lines stay as they are)
    wanted = what.experiment(
        seed=which.seed,
        protocol=protocol,
        precision=precision,
        weights=weights,
        weights_partial=weights_partial or None,
    )
    with training.parallel.join() as processes:
        device = processes.device(how.device)
        training.configure(device, wanted.precision, deterministic)
        training.trackers.check(how.track or [])
        # Before the folder is made: after an error, the corrected command finds no folder.
        with processes.first_of_machine_first():
            data_set = options.load_data(wanted, how.data_dir)
        folder = what.folder(which.out, f"seed{wanted.seed}")
        with run_folder.claim(folder) if processes.is_first else nullcontext():
            if processes.is_first:
                wanted = with_kept_file(folder, wanted, which.resume, what.epochs)
            resumed = processes.broadcast(which.resume and run_folder.has_begun(folder))
            ready = training.Training(
                wanted,
                data_set,
                device=device,
                processes=processes,
                trust_code=True,
                resumed=resumed,
            )
            if not processes.is_first:
                training.keep_freed_memory()
                ready.fit(None)
                return
            _train_to_end(open_run(folder, wanted, which.resume, what.epochs), ready, how.track)


@options.with_options
def resume(
    folder: OwnRun,
    *,
    epochs: Annotated[int | None, option("N", "New total number of epochs.")] = None,
    moved: MovedData,
    deterministic: Deterministic = False,
    how: TrainingOptions,
    trust_code: TrustCode = False,
) -> None:
    """Resume a run with the settings in its folder.

    \b
    Examples:
      tsslbp resume runs/first
      tsslbp resume runs/first --epochs 20
      tsslbp resume copied/first --set data=here/mine.npz

    A larger --epochs trains a finished run further. The folder and your own data may have been
    moved.
    """  # noqa: D301
    run = run_folder.Run.open(folder, trust_code)
    if run.experiment.activation:
        raise InvalidInput(
            f"{folder} is a run of tsslbp convert: give that command again, with --resume"
        )
    experiment.check_trust(run.experiment, trust_code)
    if run.is_shipped:
        with run.hold():  # says that it is never changed
            pass
    with training.parallel.join() as processes:
        device = processes.device(how.device)
        training.configure(device, run.experiment.precision, deterministic)
        training.trackers.check(how.track or [])
        with processes.first_of_machine_first():
            data_set = moved.load(run, how.data_dir)
        with run_folder.claim(folder) if processes.is_first else nullcontext():
            ready = training.Training(
                run.experiment,
                data_set,
                device=device,
                processes=processes,
                trust_code=True,
                resumed=processes.broadcast(run_folder.has_begun(folder)),
            )
            if not processes.is_first:
                training.keep_freed_memory()
                ready.fit(None)
                return
            reopened = run_folder.results.reopen(folder, run.experiment, epochs)
            _train_to_end(reopened, ready, how.track)


def _train_to_end(run: Run, ready: Training, track: Sequence[str] | None) -> None:
    """Train a run; print its accuracies, training time and cost."""
    train_run(ready, run, track)
    epochs = run_folder.read_epochs(run)
    if not epochs:
        raise RunError(f"{run.folder} holds no record of an epoch: was metrics.jsonl removed?")
    printing.say()
    printing.print_accuracies(run_folder.results.measures(epochs))
    evaluations = sum(one.get("evaluation_seconds", 0.0) for one in epochs)
    seconds = sum(one["seconds"] for one in epochs)
    printing.say(f"\ntraining time {duration(seconds)}, evaluations {duration(evaluations)}")
    _record_cost(run, ready)
    drawing.draw_picture(run, ready)


@options.with_options
def evaluate(
    folder: RunFolder,
    *,
    data_dir: DataDir = None,
    moved: MovedData,
    trust_code: TrustCode = False,
) -> None:
    """Re-evaluate a run and compare with its records.

    Computes all three from the weights in the run's checkpoints: the accuracy of the last epoch,
    of the epoch chosen on validation images, and of the best test epoch. For a run with averaged
    weights it also computes their accuracy. It reports differences from the run's records.
    """
    run = run_folder.Run.open(folder, trust_code)
    experiment.check_trust(run.experiment, trust_code)
    if not any(run.has_checkpoint(name) for name in run_folder.CHECKPOINTS):
        raise RunError(f"{folder} contains no checkpoint yet: train it with tsslbp resume {folder}")
    epochs = run_folder.read_epochs(run)
    data_set = moved.load(run, data_dir)
    rows = {}
    with printing.working("measuring"):
        for name in (name for name in run_folder.CHECKPOINTS if run.has_checkpoint(name)):
            rows[name] = _measure(run, name, data_set)
    printing.print_accuracies(rows)
    for name, row in rows.items():
        for difference in run_folder.results.differences(name, row, epochs):
            printing.complain("caution", f"checkpoint {name}: {difference}")


@options.with_options
def draw(
    folder: RunFolder,
    *,
    image: Annotated[int, option("N", "Test image whose spikes are drawn, counted from 0.")] = 0,
    checkpoint: Checkpoint = None,
    formats: Formats = None,
    data_dir: DataDir = None,
    moved: MovedData,
    trust_code: TrustCode = False,
) -> None:
    """Draw figures of a run and its trained network.

    The figures are SVG files in RUN/figures; --format writes them as PDF or PNG as well. For a
    pretrained network, such as mnist, they go to mnist-figures.

    training and layers show training accuracy, firing rates and the fraction in warm-up over
    training. confusion is the confusion matrix of the test images. image-N shows the spikes and
    membrane potentials for a test image. histograms shows the weights, and their gradients on a
    batch of training images.
    """
    suffixes = ["svg", *options.figure_formats(formats)]
    run = run_folder.Run.open(folder, trust_code)
    require("figures need", "figures", "matplotlib")
    name = checkpoint or training.default_checkpoint(run)
    net, state = training.read_network(run, name)
    data_set = moved.load(run, data_dir)
    place = Path(f"{folder}-figures") if run.is_shipped else folder / "figures"
    if not 0 <= image < len(data_set.test_labels):
        last = len(data_set.test_labels) - 1
        raise InvalidInput(f"--image must be between 0 and {last}, got {image}")
    epoch = epoch_of(state)
    run_name = folder.resolve().name
    with printing.working("drawing"):
        of_run = {} if run.is_shipped else drawing.figures_of_run(run)
        of_net = drawing.figures_of_network(run, net, data_set, image)
        for figure in of_run.values():
            figures.svg.annotate(figure, f"{run_name}\n{data_set.note}")
        for figure in of_net.values():
            heading = f"{run_name}, checkpoint {name}, epoch {epoch}"
            figures.svg.annotate(figure, f"{heading}\n{data_set.note}")
    drawn = of_run | of_net
    with writing(f"figures into {place}"):
        place.mkdir(exist_ok=True)
    names = [f"{title}.{suffix}" for title in drawn for suffix in suffixes]
    for title, figure in drawn.items():
        for suffix in suffixes:
            figures.svg.save(figure, place / f"{title}.{suffix}", title)
    printing.say(f"figures saved in {place}: {', '.join(names)}")


@options.with_options
def cost(
    folder: RunFolder,
    *,
    checkpoint: Checkpoint = None,
    images: Annotated[
        int | None, option("N", "Number of test images; default: 200, or fewer.", min=1)
    ] = None,
    numbers: Annotated[
        str, option("float32|float16|int8", "Number format for which the energies are given.")
    ] = "float32",
    memory: Annotated[
        str | None,
        option(
            "8KB|32KB|1MB|DRAM",
            "Add the energy of memory traffic, all of it to this memory.",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the whole record as JSON, with all energies.")
    ] = False,
    data_dir: DataDir = None,
    moved: MovedData,
    trust_code: TrustCode = False,
) -> None:
    """Count the operations and energy of a run's network per image.

    \b
    Examples:
      tsslbp cost runs/first
      tsslbp cost runs/first --numbers int8 --memory 32KB

    For each layer: neurons, parameters, multiplications of a dense pass, multiplications and
    additions of the spiking network, updates of membrane potentials, memory traffic, and energy.
    The record is saved in the run folder as cost.json, where `tsslbp report` finds it.
    """  # noqa: D301
    table = analysis.energy.table_of(numbers)
    analysis.energy.Operations().energy(table, memory)  # checked before anything is loaded
    run = run_folder.Run.open(folder, trust_code)
    name = checkpoint or training.default_checkpoint(run)
    net, state = training.read_network(run, name)
    data_set = moved.load(run, data_dir)
    counted = _count_cost(run, net, data_set, images)
    record = _write_cost(run, name, state["epoch"], counted)
    if as_json:
        printing.say(run_folder.to_json(record, indent=1))
        return
    printing.say(
        f"{folder}, checkpoint {name}, epoch {record['epoch']}: per image, the mean of "
        f"{counted.images:,} test images of {data_set.name}, T = {counted.time_steps}\n"
    )
    printing.print_cost(counted, table, memory)
    printing.print_note(data_set.note)


def recipes(
    recipe: Annotated[
        str | None,
        argument(
            "[RECIPE]",
            "A recipe to describe; by default all are listed.",
            autocompletion=complete_recipe,
        ),
    ] = None,
) -> None:
    """List the shipped recipes, or describe one of them.

    A description is a recipe itself: `tsslbp recipes RECIPE > mine.toml` begins one of your own.
    """
    if recipe is not None:
        wanted = experiment.load_recipe(recipe)
        network = experiment.network_name(wanted.network)
        printing.say(f"# {recipe}  {network}, T = {wanted.time_steps}\n", "bold")
        _print_promise(wanted, comment="# ")
        return
    loaded = {name: experiment.load_recipe(name) for name in experiment.recipe_names()}
    published = {name: reports.published.of_recipe(name) for name in loaded}
    printing.print_recipes(loaded, experiment.recorded(), published)
    trained = wording.joined(experiment.trained_names())
    printing.say(f"\npretrained networks: {trained}")
    printing.say("tsslbp recipes RECIPE describes one recipe.")


def info(
    network: Annotated[
        str,
        argument(
            "NETWORK",
            "Layers such as 15C5-P2-40C5-P2-300, vgg, sew_resnet, the name of a recipe, or the "
            "folder of a run.",
            autocompletion=complete_recipe,
        ),
    ],
    input_shape: Annotated[
        str | None,
        option(
            "CxHxW", "Channels, height and width of the images; default: the recipe's, or 1x28x28."
        ),
    ] = None,
    classes: Annotated[
        int | None, option("N", "Number of output neurons; default: the recipe's, or 10.", min=1)
    ] = None,
    time_steps: Annotated[int | None, option("T", "Number of time steps.")] = None,
    padding: Annotated[
        str | None, option("P", "Padding of the convolutions: 1, or one for each such as 1,0.")
    ] = None,
    trust_code: TrustCode = False,
) -> None:
    """Print a network's layers, shapes and parameters.

    A network is described by its layers, joined with "-": 15C5 is a convolution with 15 channels
    and 5 x 5 kernels, P2 is 2 x 2 sum pooling, 300 is a linear layer with 300 neurons. The output
    layer is added automatically. For vgg, sew_resnet, or a network of your own, the layers of
    neurons and their constants are printed.

    For a recipe or a run, its settings are printed as well; for a pretrained network, such as
    mnist, its origin is printed too.
    """
    if os.path.isfile(Path(network) / "config.toml"):
        _print_run(Path(network), trust_code)
        return
    names = experiment.recipe_names()
    is_recipe = network.endswith(".toml") or network in names
    base = experiment.load_recipe(network) if is_recipe else experiment.Experiment("mnist", network)
    pads = None if padding is None else options.numbers("--padding", padding, int)
    wanted = experiment.with_settings(base, [], {"time_steps": time_steps, "padding": pads})
    shape, outputs = _input_shape(wanted, input_shape, classes)
    try:
        printing.say(_summary(wanted, shape, outputs, trust_code))
    except InvalidInput as error:
        hint = "" if is_recipe else nearest(network, [*names, *experiment.networks.SHIPPED])
        if network[:1].isalpha() and experiment.is_described(network) and not is_recipe:
            hint += "; the name of a recipe is also accepted, `tsslbp recipes` lists them"
        raise InvalidInput(f"{error}{hint}") from error
    if is_recipe:
        printing.say()
        _print_promise(wanted)
    if network in experiment.trained_names():
        printing.print_trained(network, experiment.trained_record(network))


def _print_run(folder: Path, trust_code: bool) -> None:
    """Print the layers and the settings of a run's network."""
    run = run_folder.Run.open(folder, trust_code)
    net, _ = training.read_network(run, training.default_checkpoint(run))
    if isinstance(net, networks.CustomNetwork):
        printing.say(net.summary())
    else:
        printing.say(_summary(run.experiment, net.input_shape, net.classes, trust_code))
    printing.say()
    _print_promise(run.experiment)


def _summary(wanted: Experiment, shape: tuple[int, ...], classes: int, trust_code: bool) -> str:
    """The layers of an experiment's network; a custom network must be built for that."""
    if experiment.is_described(wanted.network):
        layers = networks.plan(wanted.network, shape, classes, wanted.padding, wanted.neunorm)
        text = networks.summary(wanted.network, wanted.time_steps, layers, wanted.neunorm)
        note = networks.note_on_output(wanted.network, classes)
        return f"{text}\nnote        {note}" if note else text
    frames = data.holds_events(wanted.data)
    net = training.build_network(wanted, shape, classes, frames=frames, trust_code=trust_code)
    assert isinstance(net, networks.CustomNetwork)
    return net.summary()


def _print_promise(wanted: Experiment, comment: str = "") -> None:
    """Print the description of a recipe, each line after `comment`, and its settings."""
    table = wanted.to_table() | {"network": experiment.network_name(wanted.network)}
    for line in table.pop("description").strip().splitlines():
        printing.say(printing.folded(line, comment))
    printing.say()
    for key, value in flat(table).items():
        printing.say(f"{key} = {json.dumps(value, ensure_ascii=False)}")


def _input_shape(
    wanted: Experiment, input_shape: str | None, classes: int | None
) -> tuple[tuple[int, ...], int]:
    """Shape of the images and number of classes; those of the data unless they are given."""
    given = options.numbers("--input-shape", input_shape or None, int, "x")
    if known := data.known_shape(wanted.data, wanted.binning):
        return given or known[0], classes or known[1]
    if given and classes:
        return given, classes
    data_set = training.load_data(wanted)
    return given or data_set.input_shape, classes or data_set.classes


def _measure(run: Run, name: str, data_set: DataSet) -> dict[str, Any]:
    """Accuracies of a checkpoint, by the keys of an epoch's record."""
    net, state = training.read_network(run, name)
    _, validation, test = training.splits(run.experiment, data_set)
    record: dict[str, Any] = {"epoch": epoch_of(state)}
    for split_name, split in (("validation", validation), ("test", test)):
        if split is not None:
            record[f"{split_name}_accuracy"] = training.evaluate(
                net, split, run.experiment.mean, run.experiment.std
            )[-1]
    return record | ({"note": data_set.note} if data_set.note else {})


def epoch_of(state: Mapping[str, Any]) -> int | str:
    """The epoch of a checkpoint, and the steps of an interrupted epoch after it."""
    epoch: int = state["epoch"]
    steps = state.get("progress", {}).get("step", 0)
    return f"{epoch} + {steps} steps" if steps else epoch


def _count_cost(run: Run, net: Model, data_set: DataSet, images: int | None) -> Cost:
    """Count on the first test images, by default one evaluation batch, on the net's device."""
    _, _, test = training.splits(run.experiment, data_set)
    (first, *_) = training.evaluation_batches(len(test.labels), net.time_steps)
    chosen = test.images[first if images is None else slice(images)]
    with printing.working("counting"):
        pixels = data.normalise(chosen, run.experiment.mean, run.experiment.std)
        return analysis.cost(net, pixels.to(training.device_of(net)))


def _record_cost(run: Run, trained: Training) -> None:
    """Record the cost of the network at the end of a training."""
    net = trained.net
    net.set_precision("float32")
    name = training.default_checkpoint(run)
    try:
        counted = _count_cost(run, net, trained.data, None)
    except InvalidInput as error:  # a custom module whose operations are not known
        printing.complain("caution", f"the cost of the network is not recorded: {error}")
        return
    _write_cost(run, name, run.checkpoint_state(name)["epoch"], counted)
    total = counted.total
    spiking, relu = (wording.energy(one.energy().total) for one in (total.spiking, total.relu))
    printing.say(f"energy        {spiking} per image, {relu} with ReLU (details: tsslbp cost)")


def _write_cost(run: Run, checkpoint: str, epoch: int, cost: Cost) -> dict[str, Any]:
    """Save a record in the run folder, if that can be written, and return it."""
    record = {"checkpoint": checkpoint, "epoch": epoch, **cost.to_table()}
    if run.is_shipped:
        return record
    try:
        run.record_cost(record)
    except RunError as error:
        printing.complain("caution", f"{error}; reports will not include the cost")
    return record
