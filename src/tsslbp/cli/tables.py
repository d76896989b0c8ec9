"""The commands that list and compare runs: runs, diff."""

from __future__ import annotations

import operator
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from .. import run as run_folder
from .. import toml_files
from ..errors import InvalidInput, RunError, nearest
from ..wording import count, duration, percent, size
from . import printing
from .options import OwnRun, TableOptions, argument, option, with_options

if TYPE_CHECKING:
    from ..run.results import Overview

TITLES = {"best_validation": "validation", "best_test": "best test", "seconds": "time"}
COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "!=": operator.ne,
    "==": operator.eq,
    "=": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
}


@with_options
def runs(
    folder: Annotated[
        Path, argument("[FOLDER]", "Folder that contains runs, at any depth.")
    ] = Path("runs"),
    *,
    where: Annotated[
        list[str] | None,
        option(
            "CONDITION",
            "List only runs that meet it: state=finished, last>0.98, or any setting, such as "
            "rule.warm_up=always. Repeatable.",
        ),
    ] = None,
    sort: Annotated[
        str | None,
        option("COLUMN", "Sort by a column or a setting; -COLUMN puts the largest first."),
    ] = None,
    form: TableOptions,
) -> None:
    """List all runs in a folder with their results.

    \b
    Examples:
      tsslbp runs
      tsslbp runs runs/digits --sort -best_validation
      tsslbp runs --where state=interrupted
      tsslbp runs --where "best_test>0.98" --csv > runs.csv

    Settings are the recipe and the changes to it. The columns are run, settings, state (running,
    finished, diverged or interrupted), seed, epochs, of (the number of epochs to train), last,
    best_validation, best_test (accuracies on test images, 0 to 1) and seconds. CSV and JSON also
    have every setting in which the runs differ.
    """  # noqa: D301
    with form.alone():
        if not os.path.isdir(folder):
            raise RunError(f"there is no folder {folder}: `tsslbp train RECIPE` makes the first")
        found, problems = run_folder.results.overviews([folder])
        for problem in problems:
            printing.complain("skipped", problem)
        if not found:
            return
        values = {id(one): _values(one) for one in found}
        chosen = [
            one for one in found if all(_holds(text, values[id(one)]) for text in where or [])
        ]
        if sort:
            chosen = _sorted(chosen, sort, values)
        if not chosen:
            printing.say(f"none of {count(len(found), 'run')} meets the conditions")
            return
        rows = run_folder.results.records(chosen) if form.kind else None
        form.show(_head(), [_cells(one) for one in chosen], rows)
        if not form.kind:
            printing.say(f"\n{count(len(chosen), 'run')}{_states(chosen)}")


@with_options
def diff(
    first: OwnRun,
    second: OwnRun,
    *,
    form: TableOptions,
) -> None:
    """Compare two runs: settings, environment and records.

    \b
    Examples:
      tsslbp diff runs/a runs/b
    """  # noqa: D301
    with form.alone():
        sides = [run_folder.results.overviews([one]) for one in (first, second)]
        for folder, (found, problems) in zip((first, second), sides, strict=True):
            if len(found) != 1:
                raise RunError(
                    problems[0]
                    if problems
                    else f"{folder} holds {count(len(found), 'run')}: name one of them"
                )
        pair = [found[0] for found, _ in sides]
        parts = {
            "settings": run_folder.results.changes(*map(_settings, pair)),
            "environment": run_folder.results.changes(*map(_environment, pair)),
            "records": _side_by_side(*map(_record, pair)),
        }
        titles = str(first), str(second)
        if form.kind:
            cells = [
                (part, key, *both) for part, table in parts.items() for key, both in table.items()
            ]
            form.show(("part", "key", *titles), cells)
            return
        for part, table in parts.items():
            rows = [(key, *(_word(key, value) for value in both)) for key, both in table.items()]
            if rows:
                printing.print_table([(part, *titles), *rows], text=(0, 1, 2))
            else:
                printing.say(f"the {part} do not differ" if part[-1] == "s" else f"the same {part}")
            printing.say()


def _values(one: Overview) -> dict[str, Any]:
    """The values of a run for filtering and sorting: its columns and all of its settings."""
    return {**_settings(one), **one.record}


def _settings(one: Overview) -> dict[str, Any]:
    return {**one.settings, "seed": one.experiment.seed}


def _environment(one: Overview) -> dict[str, Any]:
    table = run_folder.Run.open(one.folder).environment
    return {key: value for key, value in table.items() if key not in ("command", "resumed")}


def _record(one: Overview) -> dict[str, Any]:
    """The numbers of a run: its accuracies and time, and those of its last epoch."""
    own = {key: value for key, value in one.record.items() if key not in ("run", "seed")}
    last = toml_files.flat(one.last)
    known = ("epoch", "seconds", "test_accuracy", "test_accuracy_by_step", "drops", "note")
    return own | {f"{key} (last epoch)": one for key, one in last.items() if key not in known}


def _side_by_side(
    first: Mapping[str, Any], second: Mapping[str, Any]
) -> dict[str, tuple[Any, Any]]:
    return {key: (first.get(key), second.get(key)) for key in dict.fromkeys((*first, *second))}


def _word(key: str, value: Any) -> str:
    if value is None:
        return "-"
    if "peak_memory" in key and isinstance(value, int):
        return size(value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _holds(condition: str, values: Mapping[str, Any]) -> bool:
    """Whether a run's values meet a condition such as ``"last>0.9"``."""
    parts = re.fullmatch(r"\s*([\w.]+)\s*(<=|>=|!=|==|=|<|>)\s*([^\s=<>].*)", condition)
    if parts is None:
        raise InvalidInput(
            f"--where expects a condition such as state=finished or last>0.98, got {condition!r}"
        )
    key, sign, text = parts.groups()
    value, wanted = _value(key, values), _wanted(key, text)
    if isinstance(value, str):
        wanted = text.strip().strip("\"'")
    if isinstance(value, tuple | list):
        value, wanted = list(value), list(wanted) if isinstance(wanted, list) else [wanted]
    try:
        return COMPARE[sign](value, wanted)
    except TypeError:  # one of them is None, or of another type
        return False


def _wanted(key: str, text: str) -> Any:
    """The value that a condition compares with; accuracies may be written in percent."""
    if key in run_folder.results.ACCURACIES and (share := re.fullmatch(r"(.*\d)\s*%\s*", text)):
        wanted = toml_files.parse_value(share[1])
        return wanted / 100 if isinstance(wanted, int | float) else wanted
    wanted = toml_files.parse_value(text)
    if key in run_folder.results.NUMBERS and not isinstance(wanted, int | float):
        raise InvalidInput(f"--where: {key} is a number, got {text.strip()!r}")
    if key in run_folder.results.ACCURACIES and wanted > 1:
        raise InvalidInput(f"--where: {key} is between 0 and 1, got {wanted}: write 0.98 or 98%")
    if key == "state" and wanted not in run_folder.results.STATES:
        known = ", ".join(run_folder.results.STATES)
        hint = nearest(str(wanted), run_folder.results.STATES)
        raise InvalidInput(f"--where: state is one of {known}, got {text.strip()!r}{hint}")
    return wanted


def _value(key: str, values: Mapping[str, Any]) -> Any:
    """A run's value for a key; None if only other runs have it."""
    key = {"rule": "rule.name", **{title: name for name, title in TITLES.items()}}.get(key, key)
    if key not in values and key not in _known():
        raise InvalidInput(f"unknown column or setting {key!r}{nearest(key, [*values, *_known()])}")
    return values.get(key)


def _known() -> list[str]:
    from ..checked import type_hints
    from ..experiment import Experiment

    return [*type_hints(Experiment)]


def _sorted(
    found: Sequence[Overview], order: str, values: Mapping[int, Mapping[str, Any]]
) -> list[Overview]:
    """The runs in the order of a column; those without a value last."""
    key = order.removeprefix("-")
    keyed = [(_value(key, values[id(one)]), one) for one in found]
    some = [pair for pair in keyed if pair[0] is not None]
    are_numbers = all(isinstance(value, int | float) for value, _ in some)
    some.sort(key=lambda pair: pair[0] if are_numbers else str(pair[0]), reverse=order != key)
    return [one for _, one in some] + [one for value, one in keyed if value is None]


def _head() -> list[str]:
    columns = [name for name in run_folder.results.COLUMNS if name != "of"]
    return [TITLES.get(name, name) for name in columns]


def _cells(one: Overview) -> list[str]:
    record = one.record
    shares = (percent(record[name]) for name in ("last", "best_validation", "best_test"))
    epochs = f"{record['epochs']}/{record['of']}"
    own = (record["run"], record["settings"], record["state"], str(record["seed"]), epochs)
    return [*own, *shares, duration(record["seconds"])]


def _states(found: Sequence[Overview]) -> str:
    """The number of runs in each state, unless all are finished."""
    states = [one.record["state"] for one in found]
    counts = {name: states.count(name) for name in run_folder.results.STATES}
    words = [f"{number} {name}" for name, number in counts.items() if number]
    return f": {', '.join(words)}" if counts["finished"] < len(found) else ""
