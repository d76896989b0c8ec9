"""Sudden drops of the training accuracy: what changed at each, and the drops that were repeated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch

from tsslbp.figures.style import Array
from tsslbp.report.blocks import Table
from tsslbp.run import Run, read_steps
from tsslbp.run.results import Result, changes, settings_of
from tsslbp.training import build
from tsslbp.training.drops import AFTER, BEFORE, LEAD, Change, Drop

from .accuracy import Missing
from .records import PLACEBO, Pair, Records

WATCHED = "test_accuracy_by_step"  # in the records of versions that look for drops
SILENT = 0.1  # a layer that becomes silent keeps less than this share of its rate
SATURATED = 0.5  # a saturated layer has more spikes per neuron and step than this
RISE = 1.5  # and more than this many times its earlier firing rate
SWITCHED = 0.05  # share of neurons and steps that enter or leave warm-up
BURST = 3.0  # a gradient just before the drop exceeds the usual norm this many times
ALIKE = 1.5  # accuracy and loss give the same length of a silence within this factor
MUTE = 0.02  # the loss of a step with a silent output is off by less than this share
FLOOR = 1e-3  # smaller values count as this in a ratio
MARK = " (placebo)"  # marks the name of a placebo branch
CLASSES = 10  # of every data set of the study


def watched(one: Result) -> bool:
    """Return whether all of a run was trained by a version that looks for drops."""
    return all(WATCHED in epoch for epoch in one.epochs)


def of(one: Result) -> list[Drop]:
    """Return the drops in a run's records."""
    found = [drop for epoch in one.epochs for drop in epoch.get("drops", ())]
    return [Drop.from_table(dict(drop)) for drop in found]


def steps_per_epoch(one: Result) -> int:
    """Return the number of training steps in an epoch."""
    last = one.epochs[-1]
    images: int = round(last["images_per_second"] * last["seconds"])
    return -(-images // one.experiment.batch_size)


def curve(one: Result) -> tuple[Array, Array]:
    """Return the steps done at the end of every epoch, and its mean training accuracy."""
    epochs = np.array([epoch["epoch"] for epoch in one.epochs])
    accuracies = np.array([epoch["train_accuracy"] for epoch in one.epochs])
    return steps_per_epoch(one) * epochs, accuracies


def depths(one: Result) -> list[tuple[float, float]]:
    """Return the step and the lowest mean accuracy of each drop."""
    return [(drop.step, drop.accuracy.after) for drop in of(one)]


def suspects(one: Result, drop: Drop) -> list[str]:
    """Return what changed at a drop, by this module's thresholds; empty if nothing is recorded."""
    found = measured(drop)
    if steps := silence(one, drop):
        share = 100 * steps / AFTER
        found.append(f"consistent with a silent output for {share:.0f} % of the images")
    return found


def measured(drop: Drop) -> list[str]:
    """Return what changed in the gradients and in the layers, which are measured every 25 steps."""
    found = []
    for layer, rate in drop.firing_rate.items():
        if rate.after < SILENT * rate.before:
            found.append(f"{layer} becomes silent")
        if rate.after > SATURATED and rate.after > RISE * rate.before:
            found.append(f"{layer} saturates")
    for layer, share in drop.warm_up.items():
        if abs(share.after - share.before) > SWITCHED:
            found.append(f"warm-up changes in {layer}")
    if drop.preceding_norm.after > BURST * drop.preceding_norm.before:
        found.append(f"a gradient {_ratio(drop.preceding_norm):,.3g} times as large just before")
    return found


def silent_loss(one: Result) -> float:
    """Return the loss per image of an output layer without a spike."""
    psc = torch.zeros(one.experiment.time_steps, 1, CLASSES)
    loss = build.build_loss(one.experiment)(psc, torch.zeros(1, dtype=torch.int64))
    return float(loss)


def silence(one: Result, drop: Drop) -> float | None:
    """Return the number of steps with a silent output that would explain the drop, or None.

    With a silent output every image is assigned to the lowest class, and the loss is `silent_loss`.
    The means over `AFTER` steps then give the number of such steps twice, from the decrease of the
    accuracy and from the increase of the loss; they have to agree within `ALIKE`. Means do not tell
    some steps with a wholly silent output from more steps in which it is silent for some images.
    """
    lost, most = drop.accuracy.before - drop.accuracy.after, drop.accuracy.before - 1 / CLASSES
    added, most_added = drop.loss.after - drop.loss.before, silent_loss(one) - drop.loss.before
    if most <= 0 or most_added <= 0 or added <= 0:
        return None
    by_accuracy, by_loss = AFTER * lost / most, AFTER * added / most_added
    if not 1 / ALIKE < by_accuracy / by_loss < ALIKE:
        return None
    return float(np.sqrt(by_accuracy * by_loss))


def silent_steps(one: Result, since: int = 0, until: int | None = None) -> int | None:
    """Return the number of steps from `since` on, before `until`, with a silent output's loss.

    It is None if the losses of the steps were not kept.
    """
    arrays = read_steps(Run.open(one.folder))
    if not arrays:
        return None
    loss = silent_loss(one)
    return int((np.abs(arrays["loss"][since:until] - loss) < MUTE * loss).sum())


def wholly_silent(one: Result, drop: Drop) -> bool | None:
    """Return whether the output was silent for all images of a step of a drop.

    It is None if the losses of the steps were not kept.
    """
    steps = silent_steps(one, drop.step, drop.step + AFTER)
    return None if steps is None else steps > 0


def table(found: Sequence[tuple[str, Result, Drop]]) -> Table:
    """Return a table of every drop, with what changed."""
    rows = [
        (
            f"{name}\nlearning rate {one.experiment.learning_rate:g}",
            "; ".join(suspects(one, drop)) or "nothing recorded",
            f"{drop.step:,}\nepoch {drop.epoch}",
            f"{100 * drop.accuracy.before:.1f} to {100 * drop.accuracy.after:.1f}",
            "not recorded" if drop.recovery is None else str(drop.recovery - drop.step),
            f"{_ratio(drop.preceding_norm):.2g}",
            _largest(drop.firing_rate),
            _points(drop.warm_up),
        )
        for name, one, drop in found
    ]
    head = (
        "run",
        "what changed",
        "step",
        "training accuracy (%)",
        "recovery after (steps)",
        f"largest gradient of {LEAD} steps before (relative to the usual)",
        "firing rate, largest change",
        "warm-up, largest change (points)",
    )
    return Table("", head, tuple(rows), text_columns=2)


def by_rate(runs: Iterable[Result]) -> Table:
    """Return a table of the frequency of drops by learning rate."""
    counts: dict[float, list[int]] = {}
    for one in runs:
        place = counts.setdefault(one.experiment.learning_rate, [0, 0, 0])
        for index, value in enumerate((1, steps_per_epoch(one) * len(one.epochs), len(of(one)))):
            place[index] += value
    rows = [
        (f"{rate:g}", *(f"{value:,}" for value in values), f"{1e5 * values[2] / values[1]:.1f}")
        for rate, values in sorted(counts.items())
    ]
    head = ("learning rate", "runs", "steps", "drops", "drops per 100,000 steps")
    return Table("", head, tuple(rows), text_columns=0)


def in_all(records: Records) -> list[tuple[str, Result, Drop]]:
    """Return every drop of the watched runs, after the name of its run's folder and the run."""
    return [
        (one.folder.relative_to(records.root).as_posix(), one, drop)
        for one in every_run(records)
        if watched(one)
        for drop in of(one)
    ]


def every_run(records: Records) -> list[Result]:
    """Return the runs that are checked for drops: all except those of the pairs."""
    return [*records.evidence.results, *records.search]


def missing() -> Missing:
    """Return the repetition of a drop as a missing run, with an example of its command."""
    command = (
        "PYTHONPATH=research python -m study.repeat silent-output --recipe mnist --seed 4 --set "
        'train_images=10000 --set protocol=validated --set "desired_train=[0,1,0,1,1]" '
        '--from-epoch 3 --epochs 5 --change rule.warm_up=always --change "betas=[0.9,0.95]" '
        '--placebo weight_decay=0.0101 --suspect "the timing part of the rule"'
    )
    why = "an example; the steps of drops depend on the processor's rounding"
    return Missing("A sudden drop with its suspected cause removed", why, (command,))


def pair_table(pair: Pair) -> Table:
    """Return a table of the drop in the branches of a pair."""
    rows = [_branch(pair, one) for one in (pair.control, *pair.others)]
    head = (
        "branch",
        f"at step {pair.step}",
        "drops after the branching",
        "steps with a silent output after the branching",
        "training accuracy (%)",
        "test accuracy (%)",
    )
    return Table("", head, tuple(rows), text_columns=2)


def conclusion(pair: Pair) -> str:
    """Return, in words, whether the drop disappears with its suspected cause."""
    if not near(pair, pair.control):
        return "The drop did not recur in the repetition, so the pair is not conclusive."
    causes = [one for one in pair.others if not _is_placebo(one)]
    placebos = [one for one in pair.others if _is_placebo(one)]
    stay = [one for one in causes if near(pair, one)]
    gone = [one for one in causes if not since(pair, one)]
    moved = [one for one in causes if one not in stay and one not in gone]
    parts = []
    if gone:
        parts.append(f"With {_named(pair, gone)} the drop disappears, and no other occurs.")
    if moved:
        parts.append(f"With {_named(pair, moved)} drops occur at other steps.")
    if stay:
        parts.append(f"With {_named(pair, stay)} the drop still occurs.")
    if avoided := [one for one in placebos if not near(pair, one)]:
        parts.append(
            f"But with {_named(pair, avoided)}, which cannot be its cause, it disappears as well: "
            "any small perturbation prevents it, and the pair does not identify a cause."
        )
    elif placebos:
        parts.append(
            f"With {_named(pair, placebos)}, which cannot be its cause, it still occurs: a small "
            "perturbation alone does not prevent it."
        )
    return " ".join(parts)


def since(pair: Pair, one: Result) -> list[Drop]:
    """Return the drops of a branch after the epoch at which the branches separate."""
    return [drop for drop in of(one) if drop.epoch > pair.from_epoch]


def changed(pair: Pair) -> list[str]:
    """Return the settings in which the branches differ from the control."""
    base = settings_of(pair.control.experiment)
    keys = [key for one in pair.others for key in changes(settings_of(one.experiment), base)]
    return list(dict.fromkeys(keys))


def near(pair: Pair, one: Result) -> list[Drop]:
    """Return the drops of a branch within `BEFORE` steps of the pair's."""
    return [drop for drop in of(one) if abs(drop.step - pair.step) <= BEFORE]


def windows(pair: Pair, around: int = BEFORE) -> dict[str, tuple[Array, Array]]:
    """Return the training accuracy around the drop, for each branch whose steps were kept."""
    found = {}
    for one in (pair.control, *pair.others):
        arrays = read_steps(Run.open(one.folder))
        if not arrays:
            continue
        part = slice(max(0, pair.step - around), pair.step + around)
        accuracy = arrays["correct"][part] / arrays["images"][part]
        found[branch(pair, one)] = np.arange(part.start, part.start + len(accuracy)), accuracy
    return found


def branch(pair: Pair, one: Result) -> str:
    """Return the name of a branch, made of its changes, such as ``"betas = [0.9, 0.95]"``."""
    if one is pair.control:
        return "as recorded"
    found = changes(settings_of(one.experiment), settings_of(pair.control.experiment))
    text = ", ".join(f"{key} = {value!r}" for key, (value, _) in found.items() if key != "epochs")
    return f"{text}{MARK}" if _is_placebo(one) else text


def _branch(pair: Pair, one: Result) -> tuple[str, ...]:
    text = ", ".join(
        f"{100 * x.accuracy.before:.1f} to {100 * x.accuracy.after:.1f} % at step {x.step}"
        for x in near(pair, one)
    )
    first = pair.from_epoch * steps_per_epoch(one)
    silent = silent_steps(one, first)
    last = one.epochs[-1]
    return (
        branch(pair, one),
        text or "no drop",
        str(len(since(pair, one))),
        "-" if silent is None else str(silent),
        f"{100 * last['train_accuracy']:.2f}",
        f"{100 * last['test_accuracy']:.2f}",
    )


def _named(pair: Pair, some: Sequence[Result]) -> str:
    *others, last = [f"`{branch(pair, one).removesuffix(MARK)}`" for one in some]
    return f"{', '.join(others)} or {last}" if others else last


def _is_placebo(one: Result) -> bool:
    return one.folder.name.startswith(PLACEBO)


def _ratio(change: Change) -> float:
    return max(change.after, FLOOR) / max(change.before, FLOOR)


def _largest(rates: Mapping[str, Change]) -> str:
    if not rates:
        return "-"
    layer, change = max(rates.items(), key=lambda item: abs(np.log(_ratio(item[1]))))
    return f"{layer} x {_ratio(change):.2f}"


def _points(shares: Mapping[str, Change]) -> str:
    if not shares:
        return "-"
    layer, change = max(shares.items(), key=lambda item: abs(item[1].after - item[1].before))
    return f"{layer} {100 * (change.after - change.before):+.1f}"
