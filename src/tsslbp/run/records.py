"""Records of a run, checked before anything relies on them: they may come from anyone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

from ..errors import RunError
from .run import Run

if TYPE_CHECKING:
    from ..stats import Array

_NEEDED = ("test_accuracy", "train_accuracy", "seconds")  # in every epoch's record
_OF_STEPS = ("loss", "images", "correct")  # arrays in steps.npz on which readers rely
_MOST, _LONGEST = 10**15, 10_000  # largest number, and longest text, in a record


def read_epochs(run: Run) -> list[dict[str, Any]]:
    """Return the checked records of a run's epochs, possibly none.

    A pretrained network has one record, of its weights' epoch.

    Raises:
        RunError: a record is damaged, or that of an epoch before the last one is missing.
    """
    epochs = run.epochs()
    first = epochs[0]["epoch"] if epochs and run.is_shipped else 1
    for epoch, record in enumerate(epochs, first):
        if record["epoch"] != epoch:
            raise RunError(
                f"{run.folder}: metrics.jsonl holds no intact record of epoch {epoch}: was the "
                "file damaged or edited?"
            )
    needed = {*_NEEDED, *({"validation_accuracy"} & epochs[-1].keys() if epochs else ())}
    time_steps = 1 if run.experiment.activation else run.experiment.time_steps
    if not _fit(epochs, needed, time_steps):
        for record in epochs:
            _check(record, needed, time_steps, run)
    return epochs


def read_steps(run: Run) -> dict[str, Array]:
    """Return the arrays of a run's training steps; empty if they were not kept.

    Raises:
        RunError: an array is missing, or does not have one number per step.
    """
    import numpy as np

    arrays = run.steps()
    if not arrays:
        return {}
    nothing = np.empty(())
    steps = arrays.get("loss", nothing).shape[:1]
    for name in _OF_STEPS:
        array = arrays.get(name, nothing)
        if not steps or array.shape != steps or array.dtype.kind not in "iuf":
            raise RunError(
                f"{run.folder}: steps.npz is damaged: the array {name!r} is missing or does not "
                "hold one number per step"
            )
    if not (arrays["images"] > 0).all():
        raise RunError(f"{run.folder}: steps.npz is damaged: it has steps without images")
    return arrays


def read_environment(run: Run) -> dict[str, Any]:
    """Return the checked environment of a run: text, numbers, true, false or None."""
    table = run.environment
    resumed = table.get("resumed", [])
    for one in (table, *(resumed if isinstance(resumed, list) else [None])):
        if not isinstance(one, dict):
            raise RunError(
                f"{run.folder}: environment.json is damaged: resumed is not a list of tables"
            )
        for key, value in one.items():
            if key != "resumed" and not (_is_fact(value) and _is_text(key)):
                raise RunError(
                    f"{run.folder}: environment.json is damaged: {key!r:.40} is {value!r:.40}"
                )
    return table


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and type(value) is not bool and math.isfinite(value)


def is_amount(value: Any) -> bool:
    """Whether a value is a valid number of seconds, bytes, spikes or images."""
    return is_number(value) and 0 <= value <= _MOST


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= _LONGEST


def _is_fact(value: Any) -> bool:
    """Whether a value is allowed in the description of an environment."""
    return value is None or _is_text(value) or isinstance(value, bool) or is_number(value)


# Checks of the values of a key, in one record or in all records at once. A sum is finite if all
# numbers are, and needs no Python code per number.


def _are_numbers(values: Sequence[Any]) -> bool:
    return set(map(type, values)) <= {int, float} and math.isfinite(sum(values, 0.0))


def _are_shares(values: Sequence[Any]) -> bool:
    return not values or (_are_numbers(values) and min(values) >= 0 and max(values) <= 1)


def _are_amounts(values: Sequence[Any]) -> bool:
    return not values or (_are_numbers(values) and min(values) >= 0 and max(values) <= _MOST)


def _are_texts(values: Sequence[Any]) -> bool:
    return all(map(_is_text, values))


def _are_by_layer(values: Sequence[Any]) -> bool:
    if any(type(one) is not dict for one in values):
        return False
    numbers = chain.from_iterable(one.values() for one in values)
    return _are_numbers([one for one in numbers if one is not None])


def _are_lists(fit: Callable[[Sequence[Any]], bool], values: Sequence[Any]) -> bool:
    return all(type(one) is list for one in values) and fit(list(chain.from_iterable(values)))


def _are_drops(values: Sequence[Any]) -> bool:
    return all(isinstance(one, dict) and is_amount(one.get("step")) for one in values)


_FIT: dict[str, Callable[[Sequence[Any]], bool]] = {  # what readers of a record rely on
    "epoch": lambda values: not values or (min(values) >= 1 and max(values) <= 10**9),
    **dict.fromkeys(("test_accuracy", "train_accuracy", "validation_accuracy"), _are_shares),
    **dict.fromkeys(("averaged_test_accuracy", "averaged_validation_accuracy"), _are_shares),
    **dict.fromkeys(("seconds", "evaluation_seconds", "images_per_second"), _are_amounts),
    **dict.fromkeys(("peak_memory", "spikes_per_image"), _are_amounts),
    **dict.fromkeys(("firing_rate", "warm_up"), _are_by_layer),
    "test_accuracy_by_step": partial(_are_lists, _are_shares),
    "drops": partial(_are_lists, _are_drops),
    "warnings": partial(_are_lists, _are_texts),
    "note": _are_texts,
}


def _fit(records: Sequence[Mapping[str, Any]], needed: set[str], time_steps: int) -> bool:
    """Whether `_check` accepts all records, tested for all records at once."""
    return (
        all(needed <= record.keys() for record in records)
        and all(fit([one[key] for one in records if key in one]) for key, fit in _FIT.items())
        and all(len(one.get("test_accuracy_by_step", ())) in (0, time_steps) for one in records)
    )


def _check(record: Mapping[str, Any], needed: set[str], time_steps: int, run: Run) -> None:
    where = f"{run.folder}: the record of epoch {record['epoch']}"
    if missing := needed - record.keys():
        raise RunError(f"{where} has no {min(missing)!r}")
    for key, fit in _FIT.items():
        if key in record and not fit([record[key]]):
            raise RunError(f"{where} is damaged: {key} is {record[key]!r:.40}")
    steps = record.get("test_accuracy_by_step", ())
    if len(steps) not in (0, time_steps):
        raise RunError(
            f"{where} is damaged: test_accuracy_by_step has {len(steps)} numbers, but T is "
            f"{time_steps}"
        )
