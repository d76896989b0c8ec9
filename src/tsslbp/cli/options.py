"""What several verbs share: options of the command line, and how they are read."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import typer

from .. import experiment, training
from ..data import DataSet
from ..errors import InvalidInput
from ..experiment import Experiment
from ..network.description import plan
from . import printing

T = TypeVar("T")

Recipe = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A shipped recipe's name, or a .toml file.")
]
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
    typer.Option(metavar="tensorboard|wandb", help="Tell a tracker how it goes; repeatable."),
]
DataDir = Annotated[
    Path | None,
    typer.Option(
        envvar="TSSLBP_DATA",
        metavar="DIR",
        help="Folder of the data sets (DIR/mnist/...); without it they are downloaded once.",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        metavar="N", min=1, help="Runs at once; by default one a core or GPU, on a cluster all."
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


@dataclass(frozen=True)
class RecipeOptions:
    """Which experiment: a recipe and what is changed in it."""

    recipe: Recipe
    settings: Settings = None
    epochs: Epochs = None

    def experiment(self, **changes: Any) -> Experiment:
        """The recipe's experiment with the settings, and those changes that are not None."""
        return experiment_of(self.recipe, self.settings, {"epochs": self.epochs, **changes})

    def folder(self, out: Path | None, what: str) -> Path:
        """Where runs go: `out`, or by default a folder named after the recipe."""
        return out or Path("runs") / f"{Path(self.recipe).stem}-{what}"


@dataclass(frozen=True)
class RunOptions:
    """Which run of an experiment."""

    seed: Annotated[
        int | None, typer.Option(metavar="N", help="Seed of weights, order, crops and dropout.")
    ] = None
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="The run's folder, by default one in runs, by recipe and seed."
        ),
    ] = None
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue the run in its folder, or start it if none is."),
    ] = False


@dataclass(frozen=True)
class TrainingOptions:
    """How trainings go: their data, their device, and who is told."""

    data_dir: DataDir = None
    device: Device = "cpu"
    track: Track = None


@dataclass(frozen=True)
class JobOptions:
    """Where many trainings run at a time."""

    workers: Workers = None
    cluster: ClusterKind = None
    cluster_settings: ClusterSettings = None


def with_options(verb: Callable[..., None]) -> Callable[..., None]:
    """Show typer the fields of a verb's option classes as options of the verb itself."""
    signature = inspect.signature(verb, eval_str=True)
    classes: dict[str, Any] = {
        name: parameter.annotation
        for name, parameter in signature.parameters.items()
        if is_dataclass(parameter.annotation)
    }

    keyword = inspect.Parameter.KEYWORD_ONLY

    def shown(name: str, parameter: inspect.Parameter) -> list[inspect.Parameter]:
        if name in classes:
            hints = get_type_hints(classes[name], include_extras=True)
            options = inspect.signature(classes[name]).parameters.values()
            return [one.replace(kind=keyword, annotation=hints[one.name]) for one in options]
        return [parameter.replace(kind=keyword)]

    @wraps(verb)
    def command(**given: Any) -> None:
        for name, kind in classes.items():
            given[name] = kind(**{field.name: given.pop(field.name) for field in fields(kind)})
        verb(**given)

    parameters = [one for item in signature.parameters.items() for one in shown(*item)]
    vars(command)["__signature__"] = signature.replace(parameters=parameters)
    return command


def experiment_of(
    recipe: str, settings: Sequence[str] | None, changes: Mapping[str, Any]
) -> Experiment:
    """The experiment of a recipe, with ``key=value`` settings, and those changes not None."""
    return experiment.with_settings(experiment.load_recipe(recipe), settings or [], changes)


def load_data(wanted: Experiment, data_dir: Path | None) -> DataSet:
    """Load the data of an experiment; a terminal shows that."""
    with printing.console.status(f"loading {wanted.data}"):
        return training.load_data(wanted, data_dir)


def load_checked(wanted: Experiment, data_dir: Path | None) -> DataSet:
    """Load the data of an experiment; raise what the user can correct before anything runs."""
    data_set = load_data(wanted, data_dir)
    training.check_data(wanted, data_set)
    plan(wanted.network, data_set.input_shape, data_set.classes, wanted.padding)
    return data_set


def numbers(option: str, text: str | None, kind: Callable[[str], T]) -> tuple[T, ...]:
    """The numbers of a list separated by commas; empty if there is no list."""
    if text is None:
        return ()
    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError:
        example = "1,2,5" if kind is int else "0.001,0.01"
        raise InvalidInput(f"{option} expects numbers such as {example}, got {text!r}") from None
