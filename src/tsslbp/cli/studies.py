"""The commands about many runs: trials, reproduce, sweep, report."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from .. import experiment, training, wording
from .. import report as reports
from .. import studies as study
from ..errors import Diverged, InvalidInput, RunError, require
from ..storage import hold_folder
from . import options, printing, progress
from .options import (
    DryRun,
    Epochs,
    Formats,
    JobOptions,
    RecipeOptions,
    Settings,
    TableOptions,
    TrainingOptions,
    argument,
    completing,
    interruptible,
    option,
)
from .trainings import (
    check_failures,
    engine_of,
    make,
    say_plan,
    train_arguments,
)

if TYPE_CHECKING:
    from ..data import DataSet
    from ..experiment import Experiment
    from ..studies.jobs import Engine
    from ..studies.sweep import Outcome, Search, Sweep
    from ..studies.trials import Trial


def _tables() -> list[str]:
    """Names of the published tables and of their rows."""
    rows = (row.name for row in reports.published.rows())
    return list(dict.fromkeys([*reports.published.tables(), *rows]))


_complete_table = completing(_tables)
_complete_space = completing(lambda: study.space.space_names())


@dataclass(frozen=True)
class SeedOptions:
    """How many runs of a recipe to make."""

    seeds: Annotated[int, option("N", "Number of runs of each recipe.", min=1)] = 5
    protocol: Annotated[
        str | None, option("published|validated|both", "As for train; default: the recipe's.")
    ] = None

    def plan(self, wanted: Experiment, folder: Path, dry_run: bool = False) -> list[Trial]:
        """The runs of an experiment, whose recipe is written into their folder."""
        if not dry_run:
            wanted = study.trials.prepare(wanted, folder)
        return study.trials.planned(wanted, self.seeds, self.protocols(wanted), folder)

    def protocols(self, wanted: Experiment) -> list[experiment.ProtocolName]:
        known: tuple[experiment.ProtocolName, ...] = get_args(experiment.ProtocolName)
        if self.protocol is None:
            return [wanted.protocol]
        if self.protocol not in (*known, "both"):
            raise InvalidInput(
                f"--protocol must be one of {', '.join(known)} or both, got {self.protocol!r}"
            )
        return [one for one in known if self.protocol in (one, "both")]


@dataclass(frozen=True)
class SearchOptions:
    """What a sweep searches, how, and where it keeps its state."""

    space_name: Annotated[
        str,
        option(
            "SPACE",
            "Search space: digits or published, or a .toml file.",
            "--space",
            autocompletion=_complete_space,
        ),
    ]
    trials: Annotated[
        int | None, option("N", "Total number of trials; default: that of the space.", min=1)
    ] = None
    objective: Annotated[
        str, option("validation|test", "Accuracy to maximise; test is optimistically biased.")
    ] = "validation"
    sampler: Annotated[
        str, option("gp|tpe|random", "Sampler: Gaussian process, TPE or random search.")
    ] = "gp"
    pruner: Annotated[
        str, option("none|median|halving", "Method for stopping unpromising trials early.")
    ] = "none"
    storage: Annotated[
        str | None,
        option(
            "URL|FILE",
            "Database or journal file (.log) that machines share; default: DIR/study.db.",
            envvar="TSSLBP_STORAGE",
        ),
    ] = None


@options.with_options
def trials(
    what: RecipeOptions,
    *,
    count: SeedOptions,
    how: TrainingOptions,
    where: JobOptions,
) -> None:
    """Train a recipe with several seeds, several runs at once.

    \b
    Examples:
      tsslbp trials digits --seeds 5
      tsslbp trials mnist --protocol both --out runs/mnist
      tsslbp trials cifar10-cnn1 --cluster slurm --cluster-set slurm_partition=gpu

    Each run has its own folder and log. The same command continues after an interruption and
    repeats failed runs; a larger --seeds adds runs. `tsslbp report DIR` summarises them.
    """  # noqa: D301
    wanted, folder = what.experiment(), what.folder(where.out, "trials")
    arguments = train_arguments(how)
    options.load_checked(wanted, how.data_dir)
    runs = count.seeds * len(count.protocols(wanted))
    engine = engine_of(runs, where, how.device, folder, wanted)
    with hold_folder(folder):
        planned = count.plan(wanted, folder)
        check_failures(_run_trials(planned, engine, arguments), len(planned))


@options.with_options
def reproduce(
    *,
    table: Annotated[
        str | None,
        argument(
            "[TABLE]",
            "A table such as mnist, or a row such as cifar10-cnn1; by default all tables.",
            autocompletion=_complete_table,
        ),
    ] = None,
    count: SeedOptions,
    settings: Settings = None,
    epochs: Epochs = None,
    dry_run: DryRun = False,
    how: TrainingOptions,
    where: JobOptions,
) -> None:
    """Reproduce a published table: train its recipes and report.

    First it estimates the time on this machine from a few training steps. After an interruption,
    the same command continues.
    """
    arguments = train_arguments(how)
    rows = reports.published.find(table)
    names = dict.fromkeys(name for row in rows for name in row.recipes)
    for row in rows:
        if not row.recipes:
            printing.say(f"{row.title}, T = {row.time_steps}: omitted, there is no recipe yet")
    if not names:
        raise InvalidInput("nothing to reproduce: no row of the table has a recipe")
    reports.check_packages()
    folder = where.out or Path("runs") / "reproduce"
    wanted = {name: options.experiment_of(name, settings, {"epochs": epochs}) for name in names}
    data_sets = {name: options.load_checked(one, how.data_dir) for name, one in wanted.items()}
    runs = count.seeds * sum(len(count.protocols(one)) for one in wanted.values())
    engine = engine_of(runs, where, how.device, folder, *wanted.values())
    with nullcontext() if dry_run else hold_folder(folder):
        planned = {name: count.plan(one, folder / name, dry_run) for name, one in wanted.items()}
        _print_reproduction(planned, data_sets, engine, how.device, dry_run)
        every = [trial for trials in planned.values() for trial in trials]
        if dry_run:
            printing.print_plan([one.name for one in study.trials.missing(every)])
            return
        failures = _run_trials(every, engine, arguments)
        if any(trial.result() for trial in every):
            report([folder], folder / "report.html")
        check_failures(failures, len(every))


def _print_reproduction(
    planned: Mapping[str, Sequence[Trial]],
    data_sets: Mapping[str, DataSet],
    engine: Engine,
    device: str,
    dry_run: bool,
) -> None:
    """Print the estimated time of the remaining trials, by recipe."""
    with printing.working("estimating the time"):
        costs = {
            name: len(study.trials.missing(trials))
            * [
                training.cost.estimate(
                    trials[0].experiment, data_sets[name], engine.threads, device
                )
            ]
            for name, trials in planned.items()
        }
    printing.print_costs(costs, engine.workers)
    disk = sum(
        len(costs[name]) * training.cost.disk(trials[0].experiment, data_sets[name])
        for name, trials in planned.items()
    )
    seconds = [one for each in costs.values() for one in each]
    say_plan(study.trials.wall_clock(seconds, engine.workers), disk, dry_run)


@options.with_options
def sweep(
    what: RecipeOptions,
    *,
    by: SearchOptions,
    seed: Annotated[int | None, option("N", "Seed of the trials and of the search.")] = None,
    dry_run: DryRun = False,
    form: TableOptions,
    how: TrainingOptions,
    where: JobOptions,
) -> None:
    """Search for good hyperparameters, by Bayesian optimisation.

    \b
    Examples:
      tsslbp sweep digits --space digits
      tsslbp sweep mnist --space mine.toml --trials 50 --pruner median --workers 4
      tsslbp sweep mnist --space published --objective test

    The same command continues a sweep, or joins it from another process; a larger --trials extends
    it. Each trial is a run in its own folder. With one worker a sweep is exactly repeatable.
    """  # noqa: D301
    require("a sweep needs", "study", "optuna", "scipy")
    with form.alone():
        _sweep(what, by, seed, dry_run, form, how, where)


def _sweep(
    what: RecipeOptions,
    by: SearchOptions,
    seed: int | None,
    dry_run: bool,
    form: TableOptions,
    how: TrainingOptions,
    where: JobOptions,
) -> None:
    wanted, arguments = what.experiment(seed=seed), train_arguments(how)
    searched = study.space.load_space(by.space_name)
    if what.epochs is not None and "epochs" in searched.parameters:
        raise InvalidInput(
            f"--epochs has no effect because the space {by.space_name} searches epochs: omit it, "
            "or give --space FILE.toml without epochs"
        )
    count = by.trials or searched.trials
    if count is None:
        raise InvalidInput(f"{by.space_name} does not set the number of trials: give --trials")
    folder = what.folder(where.out, "sweep")
    planned = study.sweep.Sweep(
        wanted,
        searched,
        count,
        folder,
        objective=by.objective,
        sampler=by.sampler,
        pruner=by.pruner,
        storage=by.storage,
    )
    data_set = options.load_data(wanted, how.data_dir)

    def check_trial(one: Experiment) -> None:
        if not where.cluster:
            training.configure(how.device, one.precision)
        options.check(one, data_set)

    for one in (planned.experiment, *planned.space.variants(planned.experiment)):
        check_trial(one)
    engine = engine_of(1, where, how.device, folder, wanted)
    if dry_run:
        _plan_sweep(planned, data_set, engine, how.device)
        return
    search = study.sweep.Search(planned)
    if not where.cluster:  # whose machines this one knows nothing of
        _plan_sweep(planned, data_set, engine, how.device, search)
    _print_caution(planned, wanted)
    printing.say(f"{engine.workers} at a time, {wording.count(engine.threads, 'thread')} each")
    with (
        interruptible("the same command continues the sweep"),
        progress.SweepDisplay(search) as watch,
    ):
        study.driver.Driver(search, engine, watch, check_trial, arguments).work()
    _print_sweep(search.outcomes(), planned, what, form)


def _plan_sweep(
    planned: Sweep, data_set: DataSet, engine: Engine, device: str, search: Search | None = None
) -> None:
    """Print the estimated time of the remaining trials; without a `search`, of all trials.

    An estimate takes seconds of computing: if trials are under way, their number must do.
    """
    begun = search.outcomes() if search else []
    left = max(0, planned.trials - sum(one.state != "running" for one in begun))
    if not left or any(one.state == "running" for one in begun):
        printing.say(f"trials left: {left} of {planned.trials}")
        return
    try:
        with printing.working("estimating the cost"):
            each = training.cost.estimate(
                planned.experiment, data_set, engine.threads, device, trust_code=True
            )
    except Diverged as error:
        printing.complain("caution", f"no estimate, {error}")
        return
    disk = left * training.cost.disk(planned.experiment, data_set)
    total = study.trials.wall_clock([each] * left, engine.workers)
    say_plan(total, disk, search is None, wording.count(left, "trial"), each)


def report(
    runs: Annotated[list[Path], argument("RUNS...", "Run folders, or folders that contain them.")],
    out: Annotated[Path, option("FILE", "The HTML file to write.", "--out", "-o")] = Path(
        "report.html"
    ),
    against: Annotated[
        Path | None, option("FOLDER", "Compare all runs only with those in FOLDER.")
    ] = None,
    formats: Formats = None,
    as_csv: Annotated[
        bool, typer.Option("--csv", help="Also write each table as CSV, into FILE_tables/.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Also write each table as JSON.")] = False,
    as_latex: Annotated[
        bool, typer.Option("--latex", help="Also write each table as a LaTeX tabular (booktabs).")
    ] = False,
) -> None:
    """Write a report on runs, as one HTML file and as Markdown.

    It compares the results with published tables, with confidence intervals, gives verdicts on the
    paper's claims, compares settings over the same seeds, and shows figures and compute. It only
    reads records: nothing is trained or measured again.
    """
    asked = {"csv": as_csv, "json": as_json, "latex": as_latex}
    kinds = [kind for kind, is_asked in asked.items() if is_asked]
    suffixes = options.figure_formats(formats)
    with printing.working("reading the records"):
        problems = reports.write(runs, out, against, formats=suffixes, tables=kinds)
    for problem in problems:
        printing.complain("skipped", problem)
    printing.say(f"report saved in {out} and {out.with_suffix('.md')}")
    if kinds:
        printing.say(f"tables saved in {out.with_name(f'{out.stem}_tables')}")


def _sweep_table(
    outcomes: Sequence[Outcome], objective: str
) -> tuple[list[str], list[list[str]], list[dict[str, Any]]]:
    """Titles, formatted cells and values of a sweep's table."""
    keys = list(dict.fromkeys(key for one in outcomes for key in one.values))
    cells = [
        [
            printing.trial_name(one),
            one.state,
            wording.percent(one.accuracy),
            *(f"{value:.4g}" if isinstance(value, float) else str(value) for value in settings),
        ]
        for one in outcomes
        for settings in [[one.values.get(key, "-") for key in keys]]
    ]
    values = [
        {
            "trial": one.number,
            "state": one.state,
            f"{objective}_accuracy": one.accuracy,
            **{key: one.values.get(key) for key in keys},
            "seed": one.seed,
            "run": one.folder,
            "reason": one.reason or None,
        }
        for one in outcomes
    ]
    return ["trial", "state", objective, *keys], cells, values


def _run_trials(planned: Sequence[Trial], engine: Engine, options: Sequence[str]) -> dict[str, str]:
    """Make the runs that are not finished, and print the results of all; returns failures."""
    failures = make(planned, engine, options)
    results = [done for trial in planned if (done := trial.result())]
    printing.print_trials([result for result in results if result.finished])
    return failures


def _print_caution(planned: Sweep, recipe: Experiment) -> None:
    """Explain the objective if it differs from the recipe's protocol."""
    if planned.objective == "test":
        printing.complain(
            "caution",
            "the settings are chosen on test images, as in the published protocol: the accuracy of "
            "the best trial is optimistically biased, and too high as an estimate for new images",
        )
    elif recipe.protocol == "published":
        count = planned.experiment.validation_images
        printing.say(f"note        {count:,} training images are held out to rank the trials")


def _print_sweep(
    outcomes: Sequence[Outcome], planned: Sweep, what: RecipeOptions, form: TableOptions
) -> None:
    """Print all trials, the best first, and the command that trains with its settings."""
    printing.say()
    if form.kind:
        form.show(*_sweep_table(outcomes, planned.objective))
    else:
        printing.print_sweep(outcomes, planned.objective)
    ended = [outcome for outcome in outcomes if outcome.state != "running"]
    if len(ended) < planned.trials:
        printing.say(
            f"{len(ended)} of {planned.trials} trials have ended; if no process is working on the "
            "others, the same command continues them"
        )
    if not ended or ended[0].state != "finished":
        why = ended[0].reason or ended[0].state if ended else "none has ended"
        raise RunError(f"no trial of {planned.folder} has finished: {why}")
    best = ended[0]
    words = ["tsslbp", "train", what.recipe]
    epochs = [f"epochs={what.epochs}"] if what.epochs else []
    for setting in [*(what.settings or []), *epochs, *study.space.settings(best.values)]:
        words += ["--set", setting]
    words += ["--protocol", planned.experiment.protocol, "--seed", str(best.seed)]
    printing.say(f"\nbest trial: {best.folder}; command with its settings:\n{shlex.join(words)}")
