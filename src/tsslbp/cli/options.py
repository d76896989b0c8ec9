"""What several commands share: options of the command line, and how they are read."""

from __future__ import annotations

import glob
import inspect
import os
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_type_hints

import typer

from .. import data, experiment, training
from ..errors import InvalidInput, printable
from . import printing

if TYPE_CHECKING:
    from torch import Tensor

    from ..data import DataSet
    from ..experiment import Experiment
    from ..run import Run

T = TypeVar("T")

OF_FOLDERS = ("config.toml", "recipe.toml")  # recipes that the program writes, of runs and studies


def option(metavar: str, text: str, *names: str, **more: Any) -> Any:
    """An option of the command line, by default named after its parameter, and its help.

    If the metavar is words joined by ``|``, these are its values, and are completed.
    """
    if "|" in metavar and metavar.islower():
        more["autocompletion"] = completing(lambda: metavar.split("|"))
    return typer.Option(*names, metavar=metavar, help=text, **more)


def argument(metavar: str, text: str, **more: Any) -> Any:
    """An argument of the command line, and its help."""
    return typer.Argument(metavar=metavar, help=text, **more)


def completing(known: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """Return a function that completes a word of the command line from the known ones."""

    def complete(incomplete: str) -> list[str]:
        return [word for word in known() if word.startswith(incomplete)]

    return complete


def complete_run(incomplete: str) -> list[str]:
    """Run folders with this prefix, down to two levels below, and pretrained networks."""
    begin = glob.escape(incomplete)
    found = (glob.glob(f"{begin}{below}/config.toml") for below in ("*", "*/*"))
    folders = {os.path.dirname(path) for paths in found for path in paths}
    names = (name for name in experiment.trained_names() if name.startswith(incomplete))
    found_names = folders.union(names)
    return sorted(path for path in found_names if path == printable(path))  # the shell prints them


complete_recipe = completing(lambda: experiment.recipe_names())
RunFolder = Annotated[
    Path,
    argument(
        "RUN",
        "A run folder, or the name of a pretrained network, such as mnist.",
        autocompletion=complete_run,
    ),
]
OwnRun = Annotated[Path, argument("RUN", "A run folder.", autocompletion=complete_run)]
Checkpoint = Annotated[
    str | None,
    option(
        "last|best-validation|best-test|averaged",
        "Weights to use; default: those chosen on validation images, or else the last.",
    ),
]
Settings = Annotated[
    list[str] | None, option("KEY=VALUE", "Change a key of the recipe. Repeatable.", "--set")
]
Epochs = Annotated[int | None, option("N", "Number of passes over the training images.")]
DataDir = Annotated[
    Path | None,
    option(
        "DIR",
        "Folder of the data sets (DIR/mnist/...). By default they are downloaded once.",
        envvar="TSSLBP_DATA",
    ),
]
Deterministic = Annotated[
    bool,
    typer.Option(
        "--deterministic",
        help="On a GPU, use slower algorithms that give bit-identical results.",
    ),
]
Formats = Annotated[
    list[str] | None,
    option("pdf|png", "Also write the figures as PDF or PNG. Repeatable.", "--format"),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Only list the planned runs, and estimate their time and disk space.",
    ),
]
TrustCode = Annotated[
    bool,
    typer.Option(
        "--trust-code",
        help="Execute network code from a run or study folder; use only if you trust the code.",
    ),
]


@dataclass(frozen=True)
class RecipeOptions:
    """Which experiment: a recipe and the changes to it."""

    recipe: Annotated[
        str,
        argument(
            "RECIPE", "Name of a shipped recipe, or a .toml file.", autocompletion=complete_recipe
        ),
    ]
    settings: Settings = None
    epochs: Epochs = None
    trust_code: TrustCode = False

    def experiment(self, **changes: Any) -> Experiment:
        """The recipe's experiment with the settings, and those changes that are not None.

        Its network may be run, if it is code.
        """
        changes |= {"epochs": self.epochs}
        return experiment_of(self.recipe, self.settings, changes, self.trust_code)

    def folder(self, out: Path | None, what: str) -> Path:
        """Where runs go: `out`, or by default a folder named after the recipe."""
        return out or Path("runs") / f"{Path(self.recipe).stem}-{what}"


@dataclass(frozen=True)
class RunOptions:
    """Which run of an experiment."""

    seed: Annotated[int | None, option("N", "Seed of weights, order, crops and dropout.")] = None
    out: Annotated[
        Path | None, option("DIR", "The run folder. By default runs/ and a name with the seed.")
    ] = None
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Resume the run if the folder contains one, else start it."),
    ] = False


@dataclass(frozen=True)
class TrainingOptions:
    """How to train: data, device and trackers."""

    data_dir: DataDir = None
    device: Annotated[str, option("cpu|cuda", "Device; cuda is an NVIDIA GPU.")] = "cpu"
    track: Annotated[
        list[str] | None,
        option("tensorboard|wandb|mlflow", "Log metrics to a tracker. Repeatable."),
    ] = None


@dataclass(frozen=True)
class JobOptions:
    """Where several trainings run at once, and where their runs are kept."""

    out: Annotated[
        Path | None,
        option("DIR", "Folder for the runs; default: runs/RECIPE-COMMAND, or runs/reproduce."),
    ] = None
    workers: Annotated[
        int | None,
        option(
            "N",
            "Number of runs at once; default: one per core or GPU, all on a cluster, one in sweep.",
            min=1,
        ),
    ] = None
    cluster: Annotated[
        str | None,
        option(
            "slurm|local",
            "Submit the runs as jobs with submitit; local tests this without a cluster.",
        ),
    ] = None
    cluster_settings: Annotated[
        list[str] | None,
        option(
            "KEY=VALUE",
            "Setting for the jobs, e.g. slurm_partition=gpu or cpus_per_task=8. Repeatable.",
            "--cluster-set",
        ),
    ] = None


@dataclass(frozen=True)
class TableOptions:
    """A table as text for another program; nothing else goes to the standard output."""

    as_csv: Annotated[
        bool, typer.Option("--csv", help="Print the table as CSV; other output goes to stderr.")
    ] = False
    as_json: Annotated[bool, typer.Option("--json", help="Print the table as JSON.")] = False
    as_latex: Annotated[
        bool, typer.Option("--latex", help="Print the table as a LaTeX tabular (booktabs).")
    ] = False

    @property
    def kind(self) -> str:
        """One of `tsslbp.report.formats.KINDS`; "" for none."""
        asked = {"csv": self.as_csv, "json": self.as_json, "latex": self.as_latex}
        kinds = [kind for kind, is_asked in asked.items() if is_asked]
        if len(kinds) > 1:
            raise InvalidInput(f"give only one of --{' and --'.join(kinds)}")
        return "".join(kinds)

    def alone(self) -> AbstractContextManager[None]:
        """If the table is for a program, print everything else to the standard error stream."""
        return printing.to_stderr() if self.kind else nullcontext()

    def show(
        self,
        head: Sequence[str],
        rows: Sequence[Sequence[Any]],
        records: Sequence[Mapping[str, Any]] | None = None,
        text: Collection[int] = (0, 1, 2),
    ) -> None:
        """Print a table in the requested form.

        Args:
            head: names of the columns.
            rows: formatted cells, for the terminal and LaTeX.
            records: the same rows as values by name, for CSV and JSON; None: use `rows`.
            text: numbers of the columns that hold text, on a terminal.
        """
        if not self.kind:
            printing.print_table([head, *rows], text)
            return
        from ..report import formats

        if records and self.kind != "latex":
            head = list(dict.fromkeys(name for one in records for name in one))
            rows = [[_plain(one.get(name)) for name in head] for one in records]
        sys.stdout.write(formats.table_text(self.kind, head, rows))


def _plain(value: Any) -> Any:
    """A value of a setting as a cell: lists and tables become text."""
    return str(value) if isinstance(value, list | tuple | dict) else value


@contextmanager
def interruptible(advice: str) -> Iterator[None]:
    """End the program at an interrupt with the usual status, and say how to continue."""
    try:
        yield
    except KeyboardInterrupt:
        printing.complain("stopped", advice)
        raise typer.Exit(130) from None


def with_options(function: Callable[..., None]) -> Callable[..., None]:
    """Present the fields of a command's option classes to typer as options of the command."""
    signature = inspect.signature(function, eval_str=True)
    classes: dict[str, Any] = {}
    shown: list[inspect.Parameter] = []
    for name, parameter in signature.parameters.items():
        if is_dataclass(kind := parameter.annotation):
            classes[name] = kind
            hints = get_type_hints(kind, include_extras=True)
            options = inspect.signature(classes[name]).parameters.values()
            shown += [one.replace(annotation=hints[one.name]) for one in options]
        else:
            shown.append(parameter)

    @wraps(function)
    def command(**given: Any) -> None:
        for name, kind in classes.items():
            given[name] = kind(**{field.name: given.pop(field.name) for field in fields(kind)})
        function(**given)

    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [one.replace(kind=keyword) for one in shown]
    vars(command)["__signature__"] = signature.replace(parameters=parameters)
    return command


def figure_formats(asked: Sequence[str] | None) -> list[str]:
    """The requested formats of figures in addition to SVG.

    Raises:
        InvalidInput: there is no such format.
    """
    for one in asked or ():
        if one not in ("svg", "pdf", "png"):
            raise InvalidInput(f"--format must be pdf or png, got {one!r}")
    return [one for one in dict.fromkeys(asked or ()) if one != "svg"]


def experiment_of(
    recipe: str,
    settings: Sequence[str] | None,
    changes: Mapping[str, Any],
    trust_code: bool = False,
) -> Experiment:
    """The experiment of a recipe, with ``key=value`` settings and the changes that are not None.

    Raises:
        InvalidInput: it cannot be read, or its network is code that must not be run.
    """
    base = experiment.load_recipe(recipe)
    if recipe.endswith(".toml") and base.name is None and Path(recipe).name not in OF_FOLDERS:
        base = replace(base, name=Path(recipe).stem)
    wanted = experiment.with_settings(base, settings or [], changes)
    experiment.check_trust(wanted, trust_code)
    return wanted


def load_data(wanted: Experiment, data_dir: Path | None) -> DataSet:
    """Load the data of an experiment, with a message on a terminal."""
    with printing.working(f"loading {wanted.data}"):
        return training.load_data(wanted, data_dir)


def load_checked(wanted: Experiment, data_dir: Path | None) -> DataSet:
    """Load and check the data of an experiment; raise the user's errors before anything runs."""
    data_set = load_data(wanted, data_dir)
    check(wanted, data_set)
    return data_set


def check(wanted: Experiment, data_set: DataSet) -> None:
    """Raise `InvalidInput` if data and network of an experiment do not fit together.

    If the network is code, it may be run: `experiment_of` has checked that.
    """
    training.check_data(wanted, data_set)
    training.check_network(wanted, data_set, trust_code=True)


@dataclass(frozen=True)
class MovedData:
    """Where the user's own data are now, for a run that was made elsewhere."""

    settings: Annotated[
        list[str] | None,
        option(
            "data=PATH",
            "Where your own data are now. Default: the original path, --data-dir, or next to the "
            "run.",
            "--set",
        ),
    ] = None

    def load(self, run: Run, data_dir: Path | None) -> DataSet:
        """Load the data of a run, with a message on a terminal."""
        at = None
        for setting in self.settings or ():
            key, _, at = (part.strip() for part in setting.partition("="))
            if key != "data" or not at:
                raise InvalidInput(
                    f"--set takes only data=PATH here, got {setting!r}: a run keeps its settings; "
                    f"tsslbp train {run.folder / 'config.toml'} --set ... trains a new run"
                )
        with printing.working(f"loading {run.experiment.data}"):
            return training.load_run_data(run, data_dir, at)


def first_batch(wanted: Experiment, data_set: DataSet) -> tuple[Tensor, Tensor]:
    """The first batch of training images, normalised, and their labels."""
    train, _, _ = training.splits(wanted, data_set)
    first = slice(wanted.batch_size)
    return data.normalise(train.images[first], wanted.mean, wanted.std), train.labels[first]


def numbers(
    option: str, text: str | None, kind: Callable[[str], T], separator: str = ","
) -> tuple[T, ...]:
    """The numbers of a list; empty if there is no list."""
    if text is None:
        return ()
    try:
        return tuple(kind(part) for part in text.split(separator))
    except ValueError:
        lists = "1,2,5" if kind is int else "0.001,0.01"
        example = "1x28x28" if separator == "x" else lists
        raise InvalidInput(f"{option} expects numbers such as {example}, got {text!r}") from None
