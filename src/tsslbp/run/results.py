"""Results of runs, read from their folders, and runs grouped by equal settings."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import Error, InvalidInput, RunError, printable
from ..experiment import Experiment, load_recipe, recipe_names, settings_table
from ..experiment.recipe import is_path
from ..reading import folders_with
from ..rules import RULES
from ..toml_files import flat
from ..wording import percent
from .records import is_amount, is_number, read_environment, read_epochs
from .run import AVERAGED, Run, claim

if TYPE_CHECKING:
    import pandas

    from ..stats import Array

MEASURES = {
    "last": "last epoch",
    "best-validation": "epoch chosen on validation images",
    "best-test": "best test epoch (published protocol)",
}
AVERAGED_MEASURES = {AVERAGED: "averaged weights, last epoch"}  # in addition, if a run has them
MAY_DIFFER = ("seed", "description")  # between runs of equal settings
STATES = ("running", "finished", "diverged", "interrupted")
ACCURACIES = ("last", "best_validation", "best_test")
NUMBERS = ("seed", "epochs", "of", *ACCURACIES, "seconds")  # columns that hold numbers
COLUMNS = ("run", "settings", "state", *NUMBERS)  # of a table of runs

_RUN_FILES = ("config.toml", "metrics.jsonl", "environment.json")
_AMOUNTS = {  # where cost.json has them
    "epoch": "epoch",
    "images": "images",
    "neurons": "total.neurons",
    "parameters": "total.parameters",
    "multiplications": "total.spiking.multiplications",
    "additions": "total.spiking.additions",
    "updates": "total.spiking.updates",
    "dense_multiplications": "total.dense_multiplications",
    "connection_energy": "energy.float32.spiking.connections",
    "neuron_energy": "energy.float32.spiking.neurons",
    "relu_energy": "energy.float32.relu.connections",
}


def measures(epochs: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the record that each way of reporting a run selects; the first epoch wins a tie.

    Args:
        epochs: the records of a run's epochs, in order, at least one.

    Returns:
        Records by the names of `MEASURES`; without ``"best-validation"`` if no images were held
        out. If weights were averaged, `AVERAGED` is the last epoch's record with the accuracies of
        the averaged weights instead of the others.
    """
    chosen = {"last": epochs[-1], "best-test": max(epochs, key=itemgetter("test_accuracy"))}
    if "validation_accuracy" in epochs[-1]:
        chosen["best-validation"] = max(epochs, key=itemgetter("validation_accuracy"))
    found = {name: chosen[name] for name in MEASURES if name in chosen}
    last, prefix = epochs[-1], "averaged_"
    averaged = {
        key.removeprefix(prefix): value for key, value in last.items() if key.startswith(prefix)
    }
    return found | ({AVERAGED: last | averaged} if averaged else {})


def differences(
    checkpoint: str, measured: Mapping[str, Any], epochs: Sequence[dict[str, Any]]
) -> list[str]:
    """Compare the measured accuracies of a checkpoint with the records.

    Args:
        checkpoint: its name.
        measured: has the keys of an epoch's record, including ``"epoch"``; an incomplete epoch has
            no record to compare with.
        epochs: the run's records.

    Returns:
        One line for each accuracy that differs.
    """
    records = {record["epoch"]: record for record in epochs}
    record = records.get(measured["epoch"], {})
    prefix = "averaged_" if checkpoint == AVERAGED else ""
    lines = []
    for split in ("validation", "test"):
        found, known = measured.get(f"{split}_accuracy"), record.get(f"{prefix}{split}_accuracy")
        if is_number(found) and is_number(known) and found != known:
            lines.append(
                f"{split} accuracy {percent(found)}, but the run recorded {percent(known)} "
                f"after epoch {measured['epoch']}: the data or the weights have changed, or "
                "another machine or version rounds differently"
            )
    return lines


@dataclass(frozen=True)
class Costs:
    """Cost of a run's network per image, over all layers, from the run's record."""

    test_accuracy: float  # 0 to 1, of the epoch whose weights were counted
    images: int  # number of images over which the means were taken
    neurons: int
    parameters: int
    multiplications: float
    additions: float
    updates: float
    dense_multiplications: int  # of the same network with ReLU
    energy: float  # picojoules of the operations, with 32-bit numbers
    connection_energy: float  # without the updates
    relu_energy: float

    @classmethod
    def read(cls, run: Run, epochs: Sequence[dict[str, Any]]) -> Costs | None:
        """Return the cost of a run; None if there is no record, or one of another epoch.

        Raises:
            RunError: the record is damaged.
        """
        record = run.cost()
        if record is None:
            return None
        values = {}
        for name, keys in _AMOUNTS.items():
            value: Any = record
            for key in keys.split("."):
                value = value.get(key) if isinstance(value, dict) else None
            if value is None:
                raise RunError(f"{run.folder}: cost.json is damaged: it has no {keys}")
            if not is_amount(value):
                raise RunError(f"{run.folder}: cost.json is damaged: {keys} is {value!r:.40}")
            values[name] = value
        values["energy"] = values["connection_energy"] + values.pop("neuron_energy")
        epoch = values.pop("epoch")
        accuracies = [one["test_accuracy"] for one in epochs if one["epoch"] == epoch]
        return cls(accuracies[0], **values) if accuracies else None


@dataclass(frozen=True)
class Result:
    """The content of one run folder."""

    folder: Path
    experiment: Experiment
    environment: Mapping[str, Any]  # as `tsslbp.run.Run.environment` has it
    epochs: Sequence[dict[str, Any]]  # records of epochs, at least one; see docs/guide/train.md
    cost: Costs | None = None  # of the trained network on an image, where it was recorded

    @classmethod
    def read(cls, folder: Path) -> Result:
        """Read a run folder.

        Raises:
            RunError: it is not a run, has not finished an epoch, or cannot be read.
        """
        run = Run.open(folder)
        epochs = read_epochs(run)
        if not epochs:
            why = "has not finished an epoch yet"
            if reason := run.divergence():
                why = f"diverged in its first epoch: {reason}"
            raise RunError(f"{folder} {why}")
        return cls(folder, run.experiment, read_environment(run), epochs, Costs.read(run, epochs))

    @cached_property
    def accuracy(self) -> dict[str, float]:
        """Test accuracy, 0 to 1, by measure, one of `MEASURES`."""
        chosen = measures(self.epochs)
        return {name: record["test_accuracy"] for name, record in chosen.items()}

    @property
    def seconds(self) -> float:
        """Time spent on training, without the evaluations."""
        return float(sum(record["seconds"] for record in self.epochs))

    @property
    def finished(self) -> bool:
        """Whether all epochs have been trained, or the experiment's patience has run out."""
        return is_finished(self.epochs, self.experiment)


def is_finished(epochs: Sequence[dict[str, Any]], experiment: Experiment) -> bool:
    """Whether a training with these records of its epochs, at least one, has ended."""
    last = epochs[-1]["epoch"]
    if last >= experiment.epochs:
        return True
    chosen = measures(epochs)
    best = {
        split: chosen[f"best-{split}"]["epoch"]
        for split in ("validation", "test")
        if f"best-{split}" in chosen
    }
    return runs_out_of_patience(experiment, last, best)


def runs_out_of_patience(experiment: Experiment, epoch: int, best_epoch: Mapping[str, int]) -> bool:
    """Whether a training ends after an epoch because the accuracy has stopped improving.

    Args:
        experiment: may have a `patience`.
        epoch: the last epoch.
        best_epoch: epoch of the best accuracy on ``"validation"`` images, which decides if some are
            held out, and on ``"test"`` images.
    """
    best = best_epoch.get("validation", best_epoch["test"])
    return experiment.patience is not None and epoch - best >= experiment.patience


@dataclass(frozen=True)
class Overview:
    """A run in a table of runs, including runs that have not finished an epoch."""

    folder: Path
    experiment: Experiment
    settings: Mapping[str, Any]  # see `settings_of`
    last: Mapping[str, Any]  # the record of the last epoch; empty before the first one has ended
    record: dict[str, Any]  # the run's row in a table with `COLUMNS`; None marks unknown values


def overviews(paths: Iterable[Path]) -> tuple[list[Overview], list[str]]:
    """Read an overview of every run in the folders, at any depth, sorted by path.

    Returns:
        The runs, and one line for each folder that could not be read.
    """
    found: list[tuple[Run, dict[str, Any], dict[str, Any]]] = []
    problems: list[str] = []

    def look(folder: Path) -> None:
        run = Run.open(folder)
        epochs = read_epochs(run)  # not kept: of a thousand runs they would fill the memory
        found.append((run, epochs[-1] if epochs else {}, _summary(run, epochs)))

    _each_run(paths, look, problems)
    experiments = [run.experiment for run, _, _ in found]
    tables = [settings_of(one) for one in experiments]
    runs = []
    for one, table, name in zip(found, tables, _labels(experiments, tables), strict=True):
        run, last, values = one
        row = {"run": str(run.folder), "settings": name} | values
        runs.append(Overview(run.folder, run.experiment, table, last, row))
    return runs, problems


def _summary(run: Run, epochs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return a run's values of `COLUMNS`, except for its name and its settings."""
    reached = measures(epochs) if epochs else {}
    accuracies = {
        name.replace("-", "_"): reached[name]["test_accuracy"] if name in reached else None
        for name in MEASURES
    }
    return {
        "state": state(run, epochs),
        "seed": run.experiment.seed,
        "epochs": len(epochs),
        "of": run.experiment.epochs,
        **accuracies,
        "seconds": float(sum(one["seconds"] for one in epochs)),
    }


def state(run: Run, epochs: Sequence[dict[str, Any]]) -> str:
    """Return the state of a run with these records, one of `STATES`."""
    if epochs and is_finished(epochs, run.experiment):
        return "finished"
    if run.is_training:
        return "running"
    return "interrupted" if run.divergence() is None else "diverged"


def table(folder: Path | str) -> pandas.DataFrame:
    """Return all runs at or below a folder as a pandas DataFrame.

    One row per run, with the columns `COLUMNS`; accuracies are those on test images, 0 to 1. Then
    follows one column for each key of the settings in which the runs differ, named after the key,
    such as ``learning_rate`` or ``rule.warm_up``. Missing values are None or NaN.

        runs = tsslbp.results.table("runs")
        runs.groupby("learning_rate")["best_validation"].agg(["mean", "std"])

    Raises:
        InvalidInput: pandas is not installed.
        RunError: there is no run. Runs that cannot be read are left out with a warning.
    """
    try:
        import pandas
    except ImportError:
        raise InvalidInput(
            "a DataFrame needs pandas, which is not installed: pip install pandas"
        ) from None
    found, problems = overviews([Path(folder)])
    for problem in problems if found else ():
        warnings.warn(problem, stacklevel=2)
    if not found:
        raise RunError(problems[0])
    return pandas.DataFrame(records(found))


def records(runs: Sequence[Overview]) -> list[dict[str, Any]]:
    """Return `Overview.record` of each run, followed by the settings in which they differ."""
    tables = [one.settings for one in runs]
    keys = [key for key in varying(tables) if key not in COLUMNS]
    return [
        one.record | {key: settings.get(key) for key in keys}
        for one, settings in zip(runs, tables, strict=True)
    ]


@dataclass(frozen=True)
class Group:
    """Runs of equal settings except for the seed."""

    label: str  # the nearest shipped recipe, and the keys in which the runs differ from it
    results: tuple[Result, ...]  # in the order of their seeds

    @property
    def experiment(self) -> Experiment:
        """The settings, with the seed of the first run."""
        return self.results[0].experiment

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The keys and values that the runs share, see `settings_of`."""
        return settings_of(self.experiment)

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seed of every run, in the order of `results`."""
        return tuple(result.experiment.seed for result in self.results)

    def accuracies(self, measure: str) -> Array:
        """Return the test accuracies, 0 to 1, of all runs ``[runs]``; empty without the measure."""
        import numpy as np

        values = [result.accuracy.get(measure) for result in self.results]
        return np.array([value for value in values if value is not None])


def read_all(paths: Iterable[Path]) -> tuple[list[Result], list[str]]:
    """Read every run in the folders, at any depth, sorted by path.

    Returns:
        The runs that could be read, and one line for each folder that could not, because it is
        empty, incomplete or damaged.
    """
    results: list[Result] = []
    problems: list[str] = []
    _each_run(paths, lambda folder: results.append(Result.read(folder)), problems)
    return results, problems


def _each_run(paths: Iterable[Path], read: Callable[[Path], None], problems: list[str]) -> None:
    """Call `read` for all run folders at or below paths; failures are added to the problems."""
    for path in paths:
        folders = _run_folders(path)
        if not folders:
            what = "contains no run" if os.path.isdir(path) else "is not a folder"
            problems.append(printable(f"{path} {what}"))
        for folder in folders:
            try:
                read(folder)
            except Error as error:
                problems.append(str(error))
            except OSError as error:  # for example a name that is too long
                problems.append(f"{folder} cannot be read: {printable(str(error))}")


def group(results: Iterable[Result]) -> list[Group]:
    """Group runs of equal settings, in the order of their first appearance."""
    by_settings: dict[str, list[Result]] = {}
    for result in results:
        key = json.dumps(settings_of(result.experiment), sort_keys=True)
        by_settings.setdefault(key, []).append(result)
    names = labels([members[0].experiment for members in by_settings.values()])
    return [
        Group(name, tuple(sorted(members, key=lambda one: one.experiment.seed)))
        for name, members in zip(names, by_settings.values(), strict=True)
    ]


def label(experiment: Experiment) -> str:
    """Name an experiment by its recipe and the changes from it.

    Such as ``"digits"`` or ``"digits, rule.warm_up = 'never'"``. The recipe is the experiment's
    `name`, or else the nearest one that ships.
    """
    table = settings_of(experiment)
    if experiment.name is not None:
        keys = [*(experiment.changed or ()), *["activation"] * bool(experiment.activation)]
        return _named(experiment.name, {key: table.get(key) for key in keys})
    candidates = {name: changes(table, base) for name, base in shipped().items()}
    name = min(candidates, key=lambda one: (len(candidates[one]), len(one), one))
    return _named(name, {key: value for key, (value, _) in candidates[name].items()})


def labels(experiments: Sequence[Experiment]) -> list[str]:
    """Return the `label` of each experiment; equal labels of different settings show them."""
    return _labels(experiments, [settings_of(one) for one in experiments])


def _labels(experiments: Sequence[Experiment], tables: Sequence[Mapping[str, Any]]) -> list[str]:
    keys = [json.dumps(table, sort_keys=True) for table in tables]
    found = {key: label(one) for key, one in dict(zip(keys, experiments, strict=True)).items()}
    alike: dict[str, dict[str, Mapping[str, Any]]] = {}
    for key, table in zip(keys, tables, strict=True):
        alike.setdefault(found[key], {})[key] = table
    for name, those in alike.items():
        for key, table in those.items() if len(those) > 1 else ():
            differ = varying(list(those.values()))
            found[key] = _named(name, {one: table.get(one) for one in differ})
    return [found[key] for key in keys]


def varying(tables: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the keys in which several tables differ, in the order of their first appearance."""
    keys = dict.fromkeys(key for table in tables for key in table)
    return [key for key in keys if len({str(table.get(key)) for table in tables}) > 1]


def _named(name: str, differing: Mapping[str, Any]) -> str:
    rule = RULES.get(differing.get("rule.name", ""))
    usual = {f"rule.{key}": value for key, value in vars(rule()).items()} if rule else {}
    shown = {  # of another rule, its name and what differs from its defaults
        "rule" if key == "rule.name" else key: one
        for key, one in differing.items()
        if not (rule and key.startswith("rule.") and one in (None, usual.get(key)))
    }
    return ", ".join([name, *(f"{key} = {_shown(key, one)}" for key, one in shown.items())])


def _shown(key: str, value: Any) -> str:
    """Return a setting's value for display; the user's own data are shown without the folder."""
    return repr(Path(value).name if key == "data" and is_path(value) else value)


def settings_of(experiment: Experiment) -> dict[str, Any]:
    """Return the keys and values of an experiment that runs of equal settings share."""
    table = flat(settings_table(experiment))
    return {key: value for key, value in table.items() if key not in MAY_DIFFER}


@cache
def shipped() -> dict[str, dict[str, Any]]:
    """Return `settings_of` for each shipped recipe, by name."""
    return {name: settings_of(load_recipe(name)) for name in recipe_names()}


def changes(table: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return both values of the keys in which two tables differ; None marks a missing key."""
    pairs = {key: (table.get(key), base.get(key)) for key in sorted(table.keys() | base.keys())}
    return {key: values for key, values in pairs.items() if values[0] != values[1]}


def table_differences(there: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """Describe the differences between two tables, one phrase per key."""
    words = {
        key: ["unset" if value is None else repr(value) for value in values]
        for key, values in changes(there, asked).items()
    }
    return [f"{key} is {old} there, {new} here" for key, (old, new) in words.items()]


def check_settings(
    what: str,
    there: Experiment,
    asked: Experiment,
    apart: Collection[str],
    advice: str = "ask for the same settings, or choose another --out",
) -> None:
    """Raise `RunError` if a folder has other settings than requested.

    If the learning rules differ, the message gives only their names, because their fields cannot be
    compared.

    Args:
        what: such as ``"runs/a holds a run"``.
        there, asked: the two experiments.
        apart: keys that may differ.
        advice: what to do.
    """
    tables = [settings_table(one) for one in (there, asked)]
    if type(there.rule) is not type(asked.rule):
        tables = [table | {"rule": {"name": table["rule"]["name"]}} for table in tables]
    kept = [
        {key: value for key, value in flat(table).items() if key not in apart} for table in tables
    ]
    if differences := table_differences(*kept):
        raise RunError(f"{what} with other settings ({'; '.join(differences)}): {advice}")


def reopen(
    folder: Path, wanted: Experiment, epochs: int | None = None, advice: str | None = None
) -> Run:
    """Open the run in a folder to resume it, and record this in its environment.

    Args:
        folder: the run folder.
        wanted: the experiment that it should train.
        epochs: number of epochs to train; None: as many as it has.
        advice: what to do if its settings differ.

    Raises:
        RunError: its settings differ, it cannot be read, it has more epochs already, or it is in
            use, or its records are damaged.
    """
    apart, more = ("epochs", "description"), {"advice": advice} if advice else {}
    with claim(folder):
        run = Run.open(folder)
        check_settings(f"{folder} holds a run", run.experiment, wanted, apart, **more)
        read_epochs(run)  # damage is refused before anything is written
        read_environment(run)
        run = run.extended(epochs) if epochs else run
        run.record_resume()
        return run


def _run_folders(path: Path) -> list[Path]:
    """Return the folders at or below `path` with a file that only a run folder has."""
    if any(os.path.isfile(path / name) for name in _RUN_FILES):
        return [path]
    return folders_with(path, _RUN_FILES)
