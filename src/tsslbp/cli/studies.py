"""The verbs about many runs: trials, reproduce, sweep, report."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from .. import experiment, training
from .. import report as reports
from ..errors import InvalidInput, RunError, require
from ..experiment import Experiment
from ..network.description import plan
from ..report import published
from ..studies import space
from ..studies import trials as study
from ..studies.jobs import Engine
from ..studies.trials import Trial
from ..training import cost
from ..training.device import configure
from . import printing, progress
from .options import (
    Epochs,
    JobOptions,
    RecipeOptions,
    Settings,
    TrainingOptions,
    experiment_of,
    load_checked,
    with_options,
)
from .trainings import describe_failures, engine_of, make, train_arguments

if TYPE_CHECKING:
    from ..studies.sweep import Outcome, Search, Sweep

Seeds = Annotated[int, typer.Option(metavar="N", min=1, help="Runs of each recipe.")]
Protocols = Annotated[
    str | None,
    typer.Option(metavar="published|validated|both", help="As for train; by default the recipe's."),
]


@dataclass(frozen=True)
class SearchOptions:
    """How a sweep searches, and where it remembers."""

    objective: Annotated[
        str,
        typer.Option(metavar="validation|test", help="Accuracy to search for; test flatters."),
    ] = "validation"
    sampler: Annotated[
        str, typer.Option(metavar="gp|tpe|random", help="How to choose what to try.")
    ] = "gp"
    pruner: Annotated[
        str, typer.Option(metavar="none|median|halving", help="How to give up bad trials early.")
    ] = "none"
    storage: Annotated[
        str | None,
        typer.Option(
            envvar="TSSLBP_STORAGE",
            metavar="URL|FILE",
            help="Database, or journal (.log), that many machines share; by default DIR/study.db.",
        ),
    ] = None


@dataclass(frozen=True)
class SweepJobOptions(JobOptions):
    """Where the trials of a sweep run."""

    workers: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Trials at once; one: the sweep repeats exactly."),
    ] = 1


@with_options
def trials(
    what: RecipeOptions,
    *,
    seeds: Seeds = 5,
    protocol: Protocols = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of the runs, by default runs/RECIPE-trials."),
    ] = None,
    options: TrainingOptions,
    where: JobOptions,
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
    wanted, folder = what.experiment(), what.folder(out, "trials")
    arguments = train_arguments(options)
    load_checked(wanted, options.data_dir)
    protocols = _protocols(protocol, wanted)
    engine = engine_of(seeds * len(protocols), where, options.device, folder, wanted)
    planned = study.plan(wanted, seeds, protocols, folder)
    if failed := _run_trials(planned, engine, arguments):
        raise RunError(failed)


@with_options
def reproduce(
    *,
    table: Annotated[
        str | None,
        typer.Argument(
            metavar="[TABLE]",
            help="Such as mnist or cifar10, or a row such as cifar10-cnn1; by default all.",
        ),
    ] = None,
    seeds: Seeds = 5,
    settings: Settings = None,
    epochs: Epochs = None,
    protocol: Protocols = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of runs and report, by default runs/reproduce."),
    ] = None,
    options: TrainingOptions,
    where: JobOptions,
) -> None:
    """Reproduce a published table: the trials of its recipes, then the report.

    First it says what that will cost on this machine, from a few training steps. Interrupted, the
    same command goes on.
    """
    arguments = train_arguments(options)
    rows = published.find(table)
    names = dict.fromkeys(name for row in rows for name in row.recipes)
    for row in rows:
        if not row.recipes:
            printing.say(f"{row.title}, T = {row.time_steps}: left out, there is no recipe yet")
    if not names:
        raise InvalidInput("nothing is left to reproduce")
    reports.check_packages()
    folder = out or Path("runs") / "reproduce"
    wanted = {name: experiment_of(name, settings, {"epochs": epochs}) for name in names}
    data_sets = {name: load_checked(one, options.data_dir) for name, one in wanted.items()}
    protocols = {name: _protocols(protocol, one) for name, one in wanted.items()}
    count = seeds * sum(map(len, protocols.values()))
    engine = engine_of(count, where, options.device, folder, *wanted.values())
    planned = {
        name: study.plan(one, seeds, protocols[name], folder / name) for name, one in wanted.items()
    }
    every = [trial for trials in planned.values() for trial in trials]
    with printing.console.status("measuring what it will cost"):
        costs = {
            name: [
                cost.estimate(trials[0].experiment, data_sets[name], engine.threads, options.device)
            ]
            * len(study.missing(trials))
            for name, trials in planned.items()
        }
    printing.print_costs(costs, engine.workers)
    failed = _run_trials(every, engine, arguments)
    if any(trial.result() for trial in every):
        report([folder], folder / "report.html")
    if failed:
        raise RunError(failed)


@with_options
def sweep(
    what: RecipeOptions,
    *,
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
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="Seed of the trials and of the search.")
    ] = None,
    search: SearchOptions,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of the trials, by default runs/RECIPE-sweep."),
    ] = None,
    options: TrainingOptions,
    where: SweepJobOptions,
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
    require("a sweep needs", "study", "optuna", "scipy")
    from ..studies.sweep import Search, Sweep

    wanted, arguments = what.experiment(seed=seed), train_arguments(options)
    searched = space.load_space(space_name)
    count = trials or searched.trials
    if count is None:
        raise InvalidInput(f"{space_name} does not say how many trials to make: give --trials")
    folder = what.folder(out, "sweep")
    planned = Sweep(wanted, searched, count, folder, **asdict(search))
    check = _checker(wanted, options.data_dir, None if where.cluster else options.device)
    for one in (planned.experiment, *planned.space.variants(planned.experiment)):
        check(one)
    engine = engine_of(count, where, options.device, folder, wanted)
    study = Search(planned)
    _print_caution(planned, wanted)
    _work(study, engine, check, arguments)
    given = [*(what.settings or []), *([f"epochs={what.epochs}"] if what.epochs else [])]
    _print_sweep(study.outcomes(), planned, what.recipe, given)


def report(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUNS...", help="Folders of runs, or folders of those.")
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE", help="The HTML file to write.")
    ] = Path("report.html"),
    against: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Compare all with the runs in here, instead of every two."
        ),
    ] = None,
) -> None:
    """Report on runs: one HTML file that fetches nothing, and the same in Markdown beside it.

    Published tables beside ours with intervals, verdicts on the paper's claims, comparisons over
    the same seeds, figures, compute. Reads records only: nothing is trained or measured again.
    """
    with printing.console.status("reading the records"):
        problems = reports.write(runs, out, against)
    for problem in problems:
        printing.complain("skipped", problem)
    printing.say(f"report in {out} and {out.with_suffix('.md')}")


def _protocols(name: str | None, wanted: Experiment) -> list[experiment.ProtocolName]:
    known: tuple[experiment.ProtocolName, ...] = get_args(experiment.ProtocolName)
    if name is None:
        return [wanted.protocol]
    if name not in (*known, "both"):
        raise InvalidInput(f"--protocol must be one of {', '.join(known)} or both, got {name!r}")
    return [one for one in known if name in (one, "both")]


def _run_trials(planned: Sequence[Trial], engine: Engine, options: Sequence[str]) -> str:
    """Make the runs that are not finished yet, and print what all have reached.

    Returns:
        A line about those that failed, or "".
    """
    failures = make(planned, engine, options)
    results = [done for trial in planned if (done := trial.result())]
    printing.print_trials([result for result in results if result.finished])
    return describe_failures(failures, len(planned))


def _print_caution(planned: Sweep, recipe: Experiment) -> None:
    """Say what the objective means, where it is not the recipe's own way."""
    if planned.objective == "test":
        printing.complain(
            "caution",
            "the settings are chosen on test images, as the published protocol does: the best "
            "trial's accuracy flatters, and is no estimate of what the settings do on other images",
        )
    elif recipe.protocol == "published":
        count = planned.experiment.validation_images
        printing.say(f"note        {count:,} training images are held out to judge the trials on")


def _checker(
    wanted: Experiment, data_dir: Path | None, device: str | None
) -> Callable[[Experiment], None]:
    """What raises `InvalidInput` where the data, or the device if there is one, do not fit."""
    data_set = training.load_data(wanted, data_dir)

    def check(one: Experiment) -> None:
        if device:
            configure(device, one.precision)
        training.check_data(one, data_set)
        plan(one.network, data_set.input_shape, data_set.classes, one.padding)

    return check


def _work(
    search: Search, engine: Engine, check: Callable[[Experiment], None], options: Sequence[str]
) -> None:
    from ..studies.driver import Driver

    printing.say(f"{engine.workers} at a time, {engine.threads} threads each")
    try:
        with progress.SweepDisplay(search) as watch:
            Driver(search, engine, watch, check, options).work()
    except KeyboardInterrupt:
        printing.complain("stopped", "the same command continues the sweep")
        raise typer.Exit(130) from None


def _print_sweep(
    outcomes: Sequence[Outcome], planned: Sweep, recipe: str, given: Sequence[str]
) -> None:
    printing.say()
    printing.print_sweep(outcomes, planned.objective)
    ended = [outcome for outcome in outcomes if outcome.state != "running"]
    if len(ended) < planned.trials:
        printing.say(
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
    printing.say(f"\nbest settings, in {best.folder}; as a command:\n{shlex.join(words)}")
