"""The program: one function a verb. Errors are one line; `--traceback` shows where they come from.

What it prints, and how, is `tsslbp.display`'s.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import numpy as np
import typer

from . import (
    __version__,
    data,
    display,
    experiment,
    figures,
    inspection,
    parallel,
    published,
    space,
    study_figures,
    tracking,
    training,
)
from . import report as reports
from . import trials as study
from .data import DataSet
from .description import plan
from .device import configure, gpus
from .errors import Diverged, Error, InvalidInput, RunError, nearest
from .experiment import Experiment
from .jobs import Cluster, Engine, Job, Local, cores
from .jobs import run as run_jobs
from .losses import predict
from .network import Network
from .parallel import Processes
from .results import differences, flat, label, measures
from .run import CHECKPOINTS, Run
from .sweep import Outcome, Search, Sweep
from .trials import Trial

if TYPE_CHECKING:
    from matplotlib.figure import Figure

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)

# The base of the errors in the command line; typer does not export it itself.
UsageError: Any = typer.BadParameter.__base__

Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the recipe; repeatable."),
]
Epochs = Annotated[int | None, typer.Option(metavar="N", help="Passes over the training images.")]
Device = Annotated[
    str, typer.Option(metavar="cpu|cuda", help="Where to train; cuda is an NVIDIA GPU.")
]
Track = Annotated[
    list[str] | None,
    typer.Option(metavar="jsonl|tensorboard|wandb", help="Tell a tracker how it goes; repeatable."),
]
Workers = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        help="Runs at once; by default one a core or GPU, on a cluster all.",
    ),
]
ClusterKind = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        metavar="slurm|local",
        help="Run as jobs of a cluster, through submitit; local tries that on this machine.",
    ),
]
ClusterSettings = Annotated[
    list[str] | None,
    typer.Option(
        "--cluster-set",
        metavar="KEY=VALUE",
        help="Setting of the jobs, such as slurm_partition=gpu or cpus_per_task=8; repeatable.",
    ),
]
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
    settings: Settings = None,
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="Seed of weights, order, crops and dropout.")
    ] = None,
    epochs: Epochs = None,
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
    device: Device = "cpu",
    precision: Annotated[
        str | None,
        typer.Option(
            metavar="float32|tf32|bf16", help="Of matrix products; the last two need a GPU."
        ),
    ] = None,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="On a GPU: the same bits in every run, slower.")
    ] = False,
    track: Track = None,
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
        tracking.check(track or [])
        # Before the folder is made: what the user corrects now should not stand in the way then.
        with processes.first_of_machine_first():
            data_set = _check(wanted, data_dir)
        training.keep_freed_memory()
        if processes.is_first:
            folder = out or Path("runs") / f"{Path(recipe).stem}-seed{wanted.seed}"
            run = _open_run(folder, wanted, resume, epochs)
            _fit_and_report(run, data_set, device, processes, track or [])
        else:
            training.fit(None, data_set, device=device, processes=processes)


@app.command()
def trials(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="A shipped recipe's name, or a .toml file.")
    ],
    seeds: Annotated[int, typer.Option(metavar="N", min=1, help="Runs of each kind.")] = 5,
    settings: Settings = None,
    epochs: Epochs = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            metavar="published|validated|both", help="As for train; by default the recipe's."
        ),
    ] = None,
    data_dir: DataDir = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of the runs, by default runs/RECIPE-trials."),
    ] = None,
    workers: Workers = None,
    cluster: ClusterKind = None,
    cluster_settings: ClusterSettings = None,
    device: Device = "cpu",
    track: Track = None,
) -> None:
    """Train one recipe with several seeds, many runs at a time.

    \b
    Examples:
      tsslbp trials digits --seeds 5
      tsslbp trials mnist --protocol both --out runs/mnist
      tsslbp trials cifar10-cnn1 --cluster slurm --cluster-set slurm_partition=gpu

    Each run has a folder and a log of its own. The same command goes on where it was interrupted,
    and makes what failed again; more --seeds add runs. `tsslbp report DIR` puts them together.
    """  # noqa: D301
    wanted = _changed(
        experiment.with_settings(experiment.load_recipe(recipe), settings or []),
        {"epochs": epochs},
    )
    folder = out or Path("runs") / f"{Path(recipe).stem}-trials"
    options = _train_options(data_dir, device, track)
    _check(wanted, data_dir)
    planned = study.plan(wanted, seeds, _protocols(protocol, wanted), folder)
    engine = _engine(len(planned), workers, cluster, cluster_settings, device, folder)
    if failed := _run_trials(planned, engine, options):
        raise RunError(failed)


@app.command()
def reproduce(
    table: Annotated[
        str | None,
        typer.Argument(
            metavar="[TABLE]",
            help="Such as mnist or cifar10, or a row such as cifar10-cnn1; by default all.",
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(metavar="N", min=1, help="Runs of each recipe.")] = 5,
    settings: Settings = None,
    epochs: Epochs = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            metavar="published|validated|both", help="As for train; by default the recipes'."
        ),
    ] = None,
    data_dir: DataDir = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of runs and report, by default runs/reproduce."),
    ] = None,
    workers: Workers = None,
    cluster: ClusterKind = None,
    cluster_settings: ClusterSettings = None,
    device: Device = "cpu",
    track: Track = None,
) -> None:
    """Reproduce a published table: the trials of its recipes, then the report.

    First it says what that will cost on this machine, from a few training steps. Interrupted, the
    same command goes on.
    """
    options = _train_options(data_dir, device, track)
    rows = published.find(table)
    names = dict.fromkeys(name for row in rows for name in row.recipes)
    for row in rows:
        if not row.recipes:
            display.say(f"{row.title}, T = {row.time_steps}: left out, there is no recipe yet")
    folder = out or Path("runs") / "reproduce"
    planned: dict[str, list[Trial]] = {}
    data_sets = {}
    for name in names:
        shipped = experiment.with_settings(experiment.load_recipe(name), settings or [])
        wanted = _changed(shipped, {"epochs": epochs})
        data_sets[name] = _check(wanted, data_dir)
        planned[name] = study.plan(wanted, seeds, _protocols(protocol, wanted), folder / name)
    every = [trial for trials in planned.values() for trial in trials]
    engine = _engine(len(every), workers, cluster, cluster_settings, device, folder)
    with display.console.status("measuring what it will cost"):
        costs = {
            name: [study.estimate(trials[0].experiment, data_sets[name], engine.threads, device)]
            * len(study.missing(trials))
            for name, trials in planned.items()
        }
    display.print_costs(costs, engine.workers)
    failed = _run_trials(every, engine, options)
    report([folder], folder / "report.html")
    if failed:
        raise RunError(failed)


@app.command()
def sweep(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="A shipped recipe's name, or a .toml file.")
    ],
    space_name: Annotated[
        str,
        typer.Option(
            "--space",
            metavar="SPACE",
            help=f"What to search: {' or '.join(space.space_names())}, or a .toml file.",
        ),
    ],
    trials: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Trials in all; by default as the space says."),
    ] = None,
    settings: Settings = None,
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="Seed of the trials and of the search.")
    ] = None,
    objective: Annotated[
        str,
        typer.Option(metavar="validation|test", help="Accuracy to search for; test flatters."),
    ] = "validation",
    sampler: Annotated[
        str, typer.Option(metavar="gp|tpe|random", help="How to choose what to try.")
    ] = "gp",
    pruner: Annotated[
        str, typer.Option(metavar="none|median|halving", help="How to give up bad trials early.")
    ] = "none",
    data_dir: DataDir = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of the trials, by default runs/RECIPE-sweep."),
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(
            envvar="TSSLBP_STORAGE",
            metavar="URL|FILE",
            help="Database, or journal (.log), that many machines share; by default DIR/study.db.",
        ),
    ] = None,
    workers: Annotated[
        int,
        typer.Option(metavar="N", min=1, help="Trials at once; one: the sweep repeats exactly."),
    ] = 1,
    cluster: ClusterKind = None,
    cluster_settings: ClusterSettings = None,
    device: Device = "cpu",
) -> None:
    """Search good settings of a recipe, by Bayesian optimisation.

    \b
    Examples:
      tsslbp sweep digits --space digits
      tsslbp sweep mnist --space mine.toml --trials 50 --pruner median --workers 4
      tsslbp sweep mnist --space published --objective test

    The same command goes on with a sweep, or joins it from another process; more --trials take it
    further. Each trial is a run in a folder of its own.
    """  # noqa: D301
    wanted = _changed(
        experiment.with_settings(experiment.load_recipe(recipe), settings or []), {"seed": seed}
    )
    searched = space.load_space(space_name)
    count = trials or searched.trials
    if count is None:
        raise InvalidInput(f"{space_name} does not say how many trials to make: give --trials")
    folder = out or Path("runs") / f"{Path(recipe).stem}-sweep"
    planned = Sweep(wanted, searched, count, folder, objective, sampler, pruner, storage)
    data_set = data.load(wanted.data, data_dir)
    planned.check(data_set, device)
    search = Search(planned)
    _print_caution(planned, wanted)
    if workers == 1 and not cluster:
        _work(search, data_set, device)
    else:
        engine = _engine(count, workers, cluster, cluster_settings, device, folder)
        command = ["sweep", recipe, "--space", space_name, *_sweep_options(planned, settings or [])]
        _run_workers(search, engine, [*command, *_train_options(data_dir, device, None)])
    _print_sweep(search.outcomes(), planned, recipe, settings or [])


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
def draw(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")],
    image: Annotated[
        int, typer.Option(metavar="N", help="Test image to follow through the network, from 0.")
    ] = 0,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            metavar="|".join(CHECKPOINTS),
            help="Weights to look at, by default those chosen on validation images, or the last.",
        ),
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Draw what a run has learned into its folder, as figures/*.svg.

    How training accuracy, firing rates and warm-up went (training, layers), which test classes are
    taken for which (confusion), the spikes and membrane potentials that a test image causes
    (image-N), and the weights, with their gradients on a batch of training images (histograms).
    """
    run = Run.open(folder)
    _require_matplotlib()
    name = checkpoint or training.default_checkpoint(run)
    net = training.load(folder, name)
    data_set = data.load(run.experiment.data, data_dir)
    if not 0 <= image < len(data_set.test_labels):
        last = len(data_set.test_labels) - 1
        raise InvalidInput(f"--image must be between 0 and {last}, got {image}")
    epoch = _epoch(run.load_checkpoint(name)[1])
    run_name = folder.resolve().name
    with display.console.status("drawing"):
        of_run = _figures_of_run(run)
        of_net = _figures_of_network(run, net, data_set, image)
        for figure in of_run.values():
            study_figures.annotate(figure, f"{run_name}\n{data_set.note}".strip())
        for figure in of_net.values():
            heading = f"{run_name}, checkpoint {name}, epoch {epoch}\n{data_set.note}"
            study_figures.annotate(figure, heading.strip())
        _save_figures(folder / "figures", of_run | of_net)


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
        if network[:1].isalpha() and not is_recipe:
            hint += "; a recipe's name serves as well, `tsslbp recipes` lists them"
        raise InvalidInput(f"{error}{hint}") from error
    display.say(repr(net))
    if is_recipe:
        table = wanted.to_table()
        display.say(f"\n{table.pop('description').strip()}\n")
        for key, value in flat(table).items():
            display.say(f"{key} = {json.dumps(value, ensure_ascii=False)}")


@app.command()
def report(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUNS...", help="Folders of runs, or folders of those.")
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE", help="The HTML file to write.")
    ] = Path("report.html"),
) -> None:
    """Report on runs: one HTML file that fetches nothing, and the same in Markdown beside it.

    Published tables beside ours with intervals, verdicts on the paper's claims, comparisons over
    the same seeds, figures, compute. Reads records only: nothing is trained or measured again.
    """
    with display.console.status("reading the records"):
        problems = reports.write(runs, out)
    for problem in problems:
        display.complain("skipped", problem)
    display.say(f"report in {out} and {out.with_suffix('.md')}")


def _print_caution(planned: Sweep, recipe: Experiment) -> None:
    """Say what the objective means, where it is not the recipe's own way."""
    if planned.objective == "test":
        display.complain(
            "caution",
            "the settings are chosen on test images, as the published protocol does: the best "
            "trial's accuracy flatters, and is no estimate of what the settings do on other images",
        )
    elif recipe.protocol == "published":
        count = planned.experiment.validation_images
        display.say(f"note        {count:,} training images are held out to judge the trials on")


def _work(search: Search, data_set: DataSet, device: str) -> None:
    counts = _image_counts(search.sweep.experiment, data_set)
    watch = display.SweepDisplay(search.sweep.objective, counts["training"])
    training.keep_freed_memory()
    try:
        search.work(data_set, watch, device)
    except KeyboardInterrupt:
        display.complain("stopped", "the same command continues the sweep")
        raise typer.Exit(130) from None


def _sweep_options(planned: Sweep, given: Sequence[str]) -> list[str]:
    """Options with which another process joins a sweep; its storage is in the environment."""
    options = {
        "--trials": planned.trials,
        "--seed": planned.experiment.seed,
        "--objective": planned.objective,
        "--sampler": planned.sampler,
        "--pruner": planned.pruner,
        "--out": planned.folder,
        "--workers": 1,
    }
    pairs = [*options.items(), *(("--set", setting) for setting in given)]
    return [str(part) for pair in pairs for part in pair]


def _run_workers(search: Search, engine: Engine, command: Sequence[str]) -> None:
    """Make the trials in several processes; each is the same command with one worker."""
    if storage := search.sweep.storage:
        os.environ["TSSLBP_STORAGE"] = storage  # not an argument, which may be seen and recorded
    folder, count = search.folder, min(engine.workers, search.sweep.trials)
    names = [f"worker-{number}" for number in range(count)]
    jobs = [Job(name, tuple(command), folder / f"{name}.log") for name in names]
    display.say(f"{count} trials at a time, {engine.threads} threads each")
    try:
        with display.WorkersDisplay(search) as watch:
            run_jobs(jobs, engine, watch)
    except KeyboardInterrupt:
        display.complain("stopped", "the same command continues the sweep")
        raise typer.Exit(130) from None


def _print_sweep(
    outcomes: Sequence[Outcome], planned: Sweep, recipe: str, given: Sequence[str]
) -> None:
    display.say()
    display.print_sweep(outcomes, planned.objective)
    ended = [outcome for outcome in outcomes if outcome.state != "running"]
    if len(ended) < planned.trials:
        display.say(
            f"{len(ended)} of {planned.trials} trials have ended; where no process makes the "
            "others any more, the same command does"
        )
    if not ended or ended[0].state != "finished":
        why = ended[0].reason or ended[0].state if ended else "none has ended"
        raise RunError(f"no trial of {planned.folder} has finished: {why}")
    best = ended[0]
    words = ["tsslbp", "train", recipe]
    for setting in [*given, *space.settings(best.values)]:
        words += ["--set", setting]
    words += ["--protocol", planned.experiment.protocol, "--seed", str(best.seed)]
    display.say(f"\nbest settings, in {best.folder}; as a command:\n{shlex.join(words)}")


def _changed(wanted: Experiment, changes: Mapping[str, Any]) -> Experiment:
    """Return the experiment with those changes that are not None."""
    given = {key: value for key, value in changes.items() if value is not None}
    return Experiment.from_table(wanted.to_table() | given)


def _protocols(name: str | None, wanted: Experiment) -> list[experiment.Protocol]:
    known: tuple[experiment.Protocol, ...] = get_args(experiment.Protocol)
    if name is None:
        return [wanted.protocol]
    if name not in (*known, "both"):
        raise InvalidInput(f"--protocol must be one of {', '.join(known)} or both, got {name!r}")
    return [one for one in known if name in (one, "both")]


def _check(wanted: Experiment, data_dir: Path | None) -> DataSet:
    """Load the data of an experiment; raise what the user can correct before anything runs."""
    data_set = data.load(wanted.data, data_dir)
    training.check_data(wanted, data_set)
    plan(wanted.network, data_set.train_images.shape[1:], data_set.classes, wanted.padding)
    return data_set


def _engine(
    jobs: int,
    workers: int | None,
    cluster: str | None,
    cluster_settings: Sequence[str] | None,
    device: str,
    folder: Path,
) -> Engine:
    """Where at most so many jobs shall run, by the options of the command line."""
    if cluster:
        pairs = (setting.partition("=") for setting in cluster_settings or ())
        values = {key.strip(): experiment.parse_value(value) for key, _, value in pairs}
        return Cluster(workers or jobs, folder / ".cluster", cluster, values)
    if cluster_settings:
        raise InvalidInput("--cluster-set needs --cluster")
    devices = gpus() if device == "cuda" else []
    return Local(workers or min(jobs, len(devices) or cores()), devices=devices)


def _train_options(data_dir: Path | None, device: str, track: Sequence[str] | None) -> list[str]:
    """Options that a command hands on to the trainings that it starts."""
    tracking.check(track or [])
    options = ["--data-dir", str(data_dir)] if data_dir else []
    options += ["--device", device] if device != "cpu" else []
    return options + [part for name in track or [] for part in ("--track", name)]


def _run_trials(planned: Sequence[Trial], engine: Engine, options: Sequence[str]) -> str:
    """Make the runs that are not finished yet, and print what all have reached.

    Returns:
        A line about those that failed, or "".
    """
    missing = study.missing(planned)
    display.say(
        f"{len(planned)} runs, {len(planned) - len(missing)} of them finished; "
        f"{engine.workers} at a time, {engine.threads} threads each"
    )
    try:
        with display.TrialsDisplay(missing) as watch:
            failures = run_jobs([trial.job(options) for trial in missing], engine, watch)
    except KeyboardInterrupt:
        display.complain("stopped", "the same command goes on with the runs")
        raise typer.Exit(130) from None
    display.print_trials([done for trial in planned if (done := trial.result())])
    if not failures:
        return ""
    what = "; ".join(f"{name}: {reason}" for name, reason in failures.items())
    return (
        f"{len(failures)} of {len(planned)} runs failed ({what}); each has a log beside its folder"
    )


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
    other = differences(run.experiment, wanted, ("epochs", "description"))
    if other:
        raise RunError(
            f"{folder} holds a run of other settings ({'; '.join(other)}): ask for the same, "
            "or give another --out"
        )
    run.record_resume()
    return run.extended(epochs) if epochs else run


def _fit_and_report(
    run: Run, data_set: DataSet, device: str, processes: Processes, track: Sequence[str]
) -> None:
    if len(run.epochs()) >= run.experiment.epochs:
        display.say(
            f"{run.folder} has trained its {run.experiment.epochs} epochs; "
            "a larger --epochs trains it further"
        )
    _print_start(run, data_set, processes.count)
    images = _image_counts(run.experiment, data_set)["training"]
    try:
        with (
            display.Display(run, images) as shown,
            tracking.trackers(track, run, images, shown) as observer,
        ):
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
    record: dict[str, Any] = {"epoch": _epoch(state)}
    for split_name, split in (("validation", validation), ("test", test)):
        if split is not None:
            record[f"{split_name}_accuracy"] = training.evaluate(
                net, split, run.experiment.mean, run.experiment.std
            )[-1]
    return record | ({"note": data_set.note} if data_set.note else {})


def _epoch(state: Mapping[str, Any]) -> int | str:
    """How far a checkpoint was trained; with the steps of an epoch that was broken off."""
    epoch: int = state["epoch"]
    steps = state.get("progress", {}).get("step", 0)
    return f"{epoch} + {steps} steps" if steps else epoch


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


def _require_matplotlib() -> None:
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise InvalidInput(
            "figures need matplotlib, which is missing: pip install 'tsslbp[figures]'"
        ) from None


def _figures_of_run(run: Run) -> dict[str, Figure]:
    """Figures of the run's records, by name; of an epoch that was broken off there are none."""
    drawn: dict[str, Figure] = {}
    if steps := run.steps():
        accuracies = steps["correct"] / steps["images"]
        name = f"{label(run.experiment)}, seed {run.experiment.seed}"
        curve = np.arange(1, len(accuracies) + 1), accuracies
        drops = [drop["step"] + 1 for one in run.epochs() for drop in one.get("drops", ())]
        drawn["training"] = study_figures.training_curves({name: curve}, {name: drops})
    if epochs := run.epochs():
        drawn["layers"] = study_figures.layers_over_training(epochs)
    return drawn


def _figures_of_network(
    run: Run, net: Network, data_set: DataSet, number: int
) -> dict[str, Figure]:
    """Figures of a checkpoint's weights, by name; one follows the test image of this number."""
    wanted = run.experiment
    train, _, test = training.splits(wanted, data_set)
    matrix = inspection.confusion_matrix(net, test, wanted.mean, wanted.std)
    batch = slice(wanted.batch_size)
    gradients = inspection.gradients(
        net,
        training.build_loss(wanted),
        data.normalise(train.images[batch], wanted.mean, wanted.std),
        train.labels[batch],
    )
    image = test.images[number : number + 1]
    pixels = data.normalise(image, wanted.mean, wanted.std)
    traces = net.trace(pixels)
    return {
        "confusion": study_figures.confusion(matrix.numpy()),
        f"image-{number}": study_figures.image_trace(
            image[0].numpy(),
            int(test.labels[number]),
            int(predict(net(pixels).detach())),
            {name: trace.spikes[:, 0].numpy() for name, trace in traces.items()},
            {name: trace.potential[:, 0].numpy() for name, trace in traces.items()},
            wanted.threshold,
        ),
        "histograms": study_figures.histograms(
            {name: one.numpy() for name, one in inspection.weights(net).items()},
            {name: one.numpy() for name, one in gradients.items()},
        ),
    }


def _save_figures(folder: Path, drawn: Mapping[str, Figure]) -> None:
    try:
        folder.mkdir(exist_ok=True)
        for name, figure in drawn.items():
            study_figures.save_svg(figure, folder / f"{name}.svg", name)
    except OSError as error:
        raise RunError(f"cannot write figures into {folder}: {error.strerror or error}") from error
    display.say(f"figures in {folder}: {', '.join(f'{name}.svg' for name in drawn)}")


def _integers(name: str, text: str, separator: str) -> list[int]:
    try:
        return [int(part) for part in text.split(separator)]
    except ValueError:
        raise InvalidInput(
            f"{name} must be whole numbers joined by {separator!r}, got {text!r}"
        ) from None
