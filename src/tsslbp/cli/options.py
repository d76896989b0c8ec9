"""What several verbs share: options of the command line, and how they are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

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
    typer.Option(metavar="jsonl|tensorboard|wandb", help="Tell a tracker how it goes; repeatable."),
]
DataDir = Annotated[
    Path | None,
    typer.Option(
        envvar="TSSLBP_DATA",
        metavar="DIR",
        help="Folder of the data sets (DIR/mnist/...); without it they are downloaded once.",
    ),
]


def experiment_of(
    recipe: str, settings: Sequence[str] | None, changes: Mapping[str, Any]
) -> Experiment:
    """The experiment of a recipe, with ``key=value`` settings, and those changes not None."""
    shipped = experiment.load_recipe(recipe)
    return changed(experiment.with_settings(shipped, settings or []), changes)


def changed(wanted: Experiment, changes: Mapping[str, Any]) -> Experiment:
    """Return the experiment with those changes that are not None."""
    given = {key: value for key, value in changes.items() if value is not None}
    return Experiment.from_table(wanted.to_table() | given)


def load_checked(wanted: Experiment, data_dir: Path | None) -> DataSet:
    """Load the data of an experiment; raise what the user can correct before anything runs."""
    with printing.console.status(f"loading {wanted.data}"):
        data_set = training.load_data(wanted, data_dir)
    training.check_data(wanted, data_set)
    plan(wanted.network, data_set.input_shape, data_set.classes, wanted.padding)
    return data_set


def image_counts(wanted: Experiment, data_set: DataSet) -> dict[str, int]:
    """How many images of a data set an experiment trains, chooses and tests with."""
    held_out = wanted.validation_images if wanted.protocol == "validated" else 0
    counts = {
        "training": wanted.train_images or len(data_set.train_labels) - held_out,
        "validation": held_out,
        "test": len(data_set.test_labels),
    }
    return {name: count for name, count in counts.items() if count}


def numbers(option: str, text: str | None, kind: Callable[[str], T]) -> tuple[T, ...]:
    """The numbers of a list separated by commas; empty if there is no list."""
    if text is None:
        return ()
    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError:
        example = "1,2,5" if kind is int else "0.001,0.01"
        raise InvalidInput(f"{option} expects numbers such as {example}, got {text!r}") from None
