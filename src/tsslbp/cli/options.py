"""What several verbs share: options of the command line, and how they are read."""

from __future__ import annotations

import glob
import inspect
import os
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
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

    Words joined by ``|`` are all that it takes, and completed.
    """
    if "|" in metavar and metavar.islower():
        more["autocompletion"] = completing(lambda: metavar.split("|"))
    return typer.Option(*names, metavar=metavar, help=text, **more)


def argument(metavar: str, text: str, **more: Any) -> Any:
    """An argument of the command line, and its help."""
    return typer.Argument(metavar=metavar, help=text, **more)


def completing(known: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """What completes a word of the command line, from those that are known."""

    def complete(incomplete: str) -> list[str]:
        return [word for word in known() if word.startswith(incomplete)]

    return complete


def complete_run(incomplete: str) -> list[str]:
    """Folders of runs whose paths begin so, down to two levels below, and networks that ship."""
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
        "A run's folder, or the name of a network that ships trained, such as mnist.",
        autocompletion=complete_run,
    ),
]
Checkpoint = Annotated[
    str | None,
    option(
        "last|best-validation|best-test|averaged",
        "Weights to take, by default those chosen on validation images, or the last.",
    ),
]
Settings = Annotated[
    list[str] | None, option("KEY=VALUE", "Change a key of the recipe; repeatable.", "--set")
]
Epochs = Annotated[int | None, option("N", "Passes over the training images.")]
DataDir = Annotated[
    Path | None,
    option(
        "DIR",
        "Folder of the data sets (DIR/mnist/...); without it they are downloaded once.",
        envvar="TSSLBP_DATA",
    ),
]
Deterministic = Annotated[
    bool, typer.Option("--deterministic", help="On a GPU: the same bits in every run, slower.")
]
Formats = Annotated[
    list[str] | None,
    option("pdf|png", "Also write the figures as PDF or PNG; repeatable.", "--format"),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Only say which runs there are to make, their cost and what disk they take.",
    ),
]
TrustCode = Annotated[
    bool,
    typer.Option(
        "--trust-code",
        help="Run the network's file that lies in the folder of a run or study: only one you know.",
    ),
]


@dataclass(frozen=True)
class RecipeOptions:
    """Which experiment: a recipe and what is changed in it."""

    recipe: Annotated[
        str,
        argument(
            "RECIPE", "A shipped recipe's name, or a .toml file.", autocompletion=complete_recipe
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
        Path | None, option("DIR", "The run's folder, by default one in runs, by recipe and seed.")
    ] = None
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue the run in its folder, or start it if none is."),
    ] = False


@dataclass(frozen=True)
class TrainingOptions:
    """How trainings go: their data, their device, and who is told."""

    data_dir: DataDir = None
    device: Annotated[str, option("cpu|cuda", "Where to train; cuda is an NVIDIA GPU.")] = "cpu"
    track: Annotated[
        list[str] | None,
        option("tensorboard|wandb|mlflow", "Tell a tracker how it goes; repeatable."),
    ] = None


@dataclass(frozen=True)
class JobOptions:
    """Where many trainings run at a time, and where they are kept."""

    out: Annotated[
        Path | None,
        option("DIR", "Folder of the runs, by default runs/RECIPE-COMMAND, or runs/reproduce."),
    ] = None
    workers: Annotated[
        int | None,
        option(
            "N",
            "Runs at once; by default one a core or GPU, on a cluster all, in a sweep one.",
            min=1,
        ),
    ] = None
    cluster: Annotated[
        str | None,
        option(
            "slurm|local",
            "Run as jobs of a cluster, through submitit; local tries that on this machine.",
        ),
    ] = None
    cluster_settings: Annotated[
        list[str] | None,
        option(
            "KEY=VALUE",
            "Setting of the jobs, such as slurm_partition=gpu or cpus_per_task=8; repeatable.",
            "--cluster-set",
        ),
    ] = None


@dataclass(frozen=True)
class TableOptions:
    """A table as text for another program, alone on the standard output."""

    as_csv: Annotated[
        bool, typer.Option("--csv", help="Print the table as CSV, and all else to standard error.")
    ] = False
    as_json: Annotated[bool, typer.Option("--json", help="The same as JSON.")] = False
    as_latex: Annotated[
        bool, typer.Option("--latex", help="The same as a LaTeX tabular, for the package booktabs.")
    ] = False

    @property
    def kind(self) -> str:
        """One of `tsslbp.report.formats.KINDS`; "" for none."""
        asked = {"csv": self.as_csv, "json": self.as_json, "latex": self.as_latex}
        kinds = [kind for kind, is_asked in asked.items() if is_asked]
        if len(kinds) > 1:
            raise InvalidInput(f"ask for one of --{' and --'.join(kinds)} at a time")
        return "".join(kinds)

    def alone(self) -> AbstractContextManager[None]:
        """Print all but the table to the standard error stream, where it is for a program."""
        return printing.to_stderr() if self.kind else nullcontext()

    def show(
        self,
        head: Sequence[str],
        rows: Sequence[Sequence[Any]],
        records: Sequence[Mapping[str, Any]] | None = None,
        text: Collection[int] = (0, 1, 2),
    ) -> None:
        """Print a table in the form that is asked for.

        Args:
            head: names of the columns.
            rows: cells for people, which LaTeX has, too.
            records: the same rows as values by names, for CSV and JSON; None: `rows` serve.
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


def with_options(verb: Callable[..., None]) -> Callable[..., None]:
    """Show typer the fields of a verb's option classes as options of the verb itself."""
    signature = inspect.signature(verb, eval_str=True)
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

    @wraps(verb)
    def command(**given: Any) -> None:
        for name, kind in classes.items():
            given[name] = kind(**{field.name: given.pop(field.name) for field in fields(kind)})
        verb(**given)

    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [one.replace(kind=keyword) for one in shown]
    vars(command)["__signature__"] = signature.replace(parameters=parameters)
    return command


def figure_formats(asked: Sequence[str] | None) -> list[str]:
    """The formats of figures beside SVG that are asked for.

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
    """The experiment of a recipe, with ``key=value`` settings, and those changes not None.

    Raises:
        InvalidInput: it cannot be read, or its network is code that may not be run.
    """
    base = experiment.load_recipe(recipe)
    if recipe.endswith(".toml") and base.name is None and Path(recipe).name not in OF_FOLDERS:
        base = replace(base, name=Path(recipe).stem)
    wanted = experiment.with_settings(base, settings or [], changes)
    experiment.check_trust(wanted, trust_code)
    return wanted


def load_data(wanted: Experiment, data_dir: Path | None) -> DataSet:
    """Load the data of an experiment; a terminal shows that."""
    with printing.working(f"loading {wanted.data}"):
        return training.load_data(wanted, data_dir)


def load_checked(wanted: Experiment, data_dir: Path | None) -> DataSet:
    """Load the data of an experiment; raise what the user can correct before anything runs."""
    data_set = load_data(wanted, data_dir)
    check(wanted, data_set)
    return data_set


def check(wanted: Experiment, data_set: DataSet) -> None:
    """Raise `InvalidInput` where data and network of an experiment do not go together.

    Its network may be run, if it is code: `experiment_of` has seen to that.
    """
    training.check_data(wanted, data_set)
    training.check_network(wanted, data_set, trust_code=True)


@dataclass(frozen=True)
class MovedData:
    """Where data of one's own lie, of a run that was made elsewhere."""

    settings: Annotated[
        list[str] | None,
        option(
            "data=PATH",
            "Where data of your own are now; without it they are looked for where they were, in "
            "--data-dir, and beside the run.",
            "--set",
        ),
    ] = None

    def load(self, run: Run, data_dir: Path | None) -> DataSet:
        """The data of a run; a terminal shows that they are loaded."""
        at = None
        for setting in self.settings or ():
            key, _, at = (part.strip() for part in setting.partition("="))
            if key != "data" or not at:
                raise InvalidInput(
                    f"--set takes data=PATH here, got {setting!r}: a run keeps its settings, and "
                    f"tsslbp train {run.folder / 'config.toml'} --set ... trains another one"
                )
        with printing.working(f"loading {run.experiment.data}"):
            return training.load_run_data(run, data_dir, at)


def first_batch(wanted: Experiment, data_set: DataSet) -> tuple[Tensor, Tensor]:
    """The first training images, normalised, as many as a batch holds, and their labels."""
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
