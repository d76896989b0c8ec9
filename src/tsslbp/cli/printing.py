"""What the program prints: lines, tables, errors.

Nothing has line breaks of its own within a line; colours appear on terminals only.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from .. import stats, wording
from ..analysis.microscope import AGREEMENT, Cosine, LayerCosines
from ..data.catalogue import Entry
from ..run.comparison import Comparison
from ..run.results import MEASURES, Result, group
from ..studies.compare import RuleResult
from ..studies.space import as_text
from ..studies.trials import wall_clock
from ..wording import duration, percent, size

if TYPE_CHECKING:
    from ..studies.sweep import Outcome

console = Console(highlight=False)

COST_ROW = "{:<{width}}{:>14}{:>14}{:>14}"
RULE_ROW = "{:<{width}}{:>4}{:>16}{:>7}{:>17}{:>18}{:>14}{:>14}"
SWEEP_ROW = "{:<11}{:<9}{:>10}  {}"
CONVERSION_ROW = "{:>6}{:>14}{:>16}{:>14}{:>16}"  # 66 characters
DATA_ROW = "{:<19}{:>17}{:>15}{:>9}{:>12}  {:<14}{}"


def print_costs(costs: Mapping[str, Sequence[float]], workers: int, title: str = "recipe") -> None:
    """What trainings will take, in seconds a run by recipe, with so many runs at a time."""
    width = max(30, *map(len, costs))
    say(COST_ROW.format(title, "runs to make", "a run", "together", width=width), "bold")
    for name, runs in costs.items():
        each = duration(runs[0]) if runs else "-"
        together = duration(wall_clock(runs, workers))
        say(COST_ROW.format(name, len(runs), each, together, width=width))
    every = [seconds for runs in costs.values() for seconds in runs]
    total = duration(wall_clock(every, workers))
    say(f"about {total} for all, {workers} at a time; an estimate from a few steps\n")


def print_trials(results: Sequence[Result]) -> None:
    """Mean, standard deviation and best of each accuracy, for runs of equal settings together."""
    for group_ in group(results):
        seeds = ", ".join(map(str, group_.seeds))
        say(f"\n{group_.label}, seeds {seeds}", "bold")
        for name, title in MEASURES.items():
            values = group_.accuracies(name)
            if len(values):
                sd = 100 * values.std(ddof=1) if len(values) > 1 else None
                reached = wording.mean_and_deviation(100 * values.mean(), sd)
                say(f"{title:<38}{reached} %, best {percent(values.max())}")
    for note in dict.fromkeys(result.epochs[-1].get("note", "") for result in results):
        print_note(note)


def print_rules(
    results: Sequence[RuleResult], comparisons: Sequence[Comparison[RuleResult]]
) -> None:
    """What learning rules have reached side by side, and how far they lie from the first one."""
    width = max(20, *(len(one.rule) + 2 for one in results))
    titles = ("rate", "seeds", "test accuracy", "95 % interval", "spikes/image", "training")
    say(RULE_ROW.format("rule", "T", *titles, width=width), "bold")
    for one in results:
        rate = f"{one.rate:g}{' (edge)' if one.at_edge else ''}" if one.rate else "-"
        say(RULE_ROW.format(one.rule, one.time_steps, rate, *_reached(one), width=width))
    say()
    for pair in comparisons:
        say(f"{pair.first.name}, against {pair.second.rule}: {describe_comparison(pair)}")


def describe_comparison(pair: Comparison[RuleResult]) -> str:
    """Such as ``"-0.52 points (95 % interval -0.90 to -0.14), p = 0.013: lower"``."""
    if pair.difference is None or pair.p is None:
        return f"{pair.verdict}, a test needs two seeds of both"
    points = wording.difference(pair.difference.mean, pair.difference.interval)
    p = wording.p_value(pair.p) if pair.p < 0.001 else f"= {wording.p_value(pair.p)}"
    diverged = ", a run diverged" if pair.diverged else ""
    return f"{points}, p {p}: {pair.verdict}{diverged}"


def _reached(one: RuleResult) -> list[str]:
    """Runs, accuracy, its interval, spikes and seconds of a rule, as they are printed."""
    if not one.results:
        return ["0", "-", "-", "-", "-"]
    accuracy = stats.summary(100 * one.accuracies)
    return [
        str(len(one.results)),
        f"{wording.mean_and_deviation(accuracy.mean, accuracy.sd)} %",
        wording.interval(accuracy.interval) if accuracy.interval else "-",
        f"{one.spikes.mean():,.0f}" if len(one.spikes) else "-",
        duration(one.seconds.mean()),
    ]


def print_sweep(outcomes: Sequence[Outcome], objective: str) -> None:
    """All trials of a sweep, in the given order."""
    say(SWEEP_ROW.format("trial", "state", objective, "settings"), "bold")
    for outcome in outcomes:
        print_outcome(outcome)


def print_outcome(outcome: Outcome) -> None:
    say(_sweep_row(outcome))
    if outcome.reason:
        say(f"  {outcome.reason}")


def _sweep_row(outcome: Outcome) -> str:
    name = Path(outcome.folder).name or f"trial-{outcome.number:04d}"
    values = [f"{key} = {_short(value)}" for key, value in outcome.values.items()]
    values.append(f"seed = {outcome.seed}")
    return SWEEP_ROW.format(name, outcome.state, percent(outcome.accuracy), ", ".join(values))


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else as_text(value)


def print_accuracies(records: Mapping[str, Mapping[str, Any]]) -> None:
    """The three accuracies, always all three, with the caveats that the records carry.

    "-" stands for what the run does not have.
    """
    rows: list[tuple[str, ...]] = [("accuracy", "epoch", "validation", "test")]
    for name, title in MEASURES.items():
        record = records.get(name, {})
        shares = (percent(record.get(f"{split}_accuracy")) for split in ("validation", "test"))
        rows.append((title, str(record.get("epoch", "-")), *shares))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for index, (title, *cells) in enumerate(rows):
        numbers = [f"{cell:>{width}}" for cell, width in zip(cells, widths[1:], strict=True)]
        say("  ".join([f"{title:<{widths[0]}}", *numbers]), None if index else "bold")
    for note in dict.fromkeys(record.get("note", "") for record in records.values()):
        print_note(note)


def print_microscope(layers: Sequence[LayerCosines], widths: Sequence[float]) -> None:
    """Cosines of rules' gradients with the truth and with each other, a table for each layer.

    Where there is none, the reason stands in its place. A control further than 0.01 from 1 makes a
    caution.
    """
    width = max(26, *(len(rule) + 4 for rule in layers[0].truth))
    for layer in layers:
        rate = f"{layer.firing_rate:.3f} spikes per neuron and step"
        say(f"\n{layer.name}  {layer.weights:,} weights, {rate}", "bold")
        say(f"{'noise width':<{width}}" + "".join(f"{one:>16g}" for one in widths))
        for number, (rule, row) in enumerate(layer.truth.items(), 1):
            cells = "".join(f"{_cosine(one):>16}" for one in row)
            say(f"{f'{number}  {rule}':<{width}}{cells}")
        control = _cosine(layer.control, 4)
        say(f"{'control, smooth neurons':<{width}}{control:>16}")
        for number, cosines in enumerate(layer.between, 1):
            cells = "".join(f"{one:>8.3f}" for one in cosines)
            say(f"{f'{number}  with 1 to {len(cosines)}':<{width}}{cells}")
        value = layer.control.value
        if value is None or abs(value - 1) > 1 - AGREEMENT:  # noise takes it above 1 as well
            complain(
                "caution",
                f"the control of {layer.name} is {control}, it should reach {AGREEMENT}: "
                "take more rounds, or do not trust the numbers of this layer",
            )


def _cosine(one: Cosine, digits: int = 3) -> str:
    if one.value is None or one.interval is None:
        return one.reason
    half = (one.interval.high - one.interval.low) / 2
    return f"{one.value:.{digits}f} ± {half:.{digits}f}"


def print_conversion(record: Mapping[str, Any]) -> None:
    """A ReLU network's accuracy, then that of its conversions and their spikes, by time steps.

    Args:
        record: as ``tsslbp convert`` writes it.
    """
    relu, plain = record["relu"], record["plain"]
    how = MEASURES[relu["chosen"]]
    say(f"\nReLU network, {how} ({relu['epoch']}): test {percent(relu['test_accuracy'])}\n")
    titles = ("plain", "spikes/image", "calibrated", "spikes/image")
    say(CONVERSION_ROW.format("steps", *titles), "bold")
    for steps, calibrated in record["calibrated"].items():
        cells: list[str] = []
        for one in (plain, calibrated):
            cells.append(percent(one["test_accuracy_by_step"][int(steps) - 1]))
            cells.append(f"{one['spikes_per_image_by_step'][int(steps) - 1]:,.0f}")
        say(CONVERSION_ROW.format(steps, *cells))
    print_note(record.get("note", ""))


def print_note(note: str) -> None:
    """A caveat of the data, if there is one."""
    if note:
        say(f"note        {note}")


def print_data_sets(sets: Sequence[tuple[Entry, str]]) -> None:
    """A table of data sets, with where each has a local copy."""
    titles = ("data set", "train + test", "shape", "classes", "to download", "licence")
    say(DATA_ROW.format(*titles, "local copy"), "bold")
    for entry, copy in sets:
        row = (
            entry.name,
            f"{entry.train:,} + {entry.test:,}",
            " x ".join(map(str, entry.shape)),
            entry.classes,
            size(entry.download) if entry.download else "-",
            entry.licence or "see page",
        )
        say(DATA_ROW.format(*row, copy))


def print_data_set(entry: Entry) -> None:
    """What a data set is, and where it is from."""
    say(f"{entry.name}  {entry.title}", "bold")
    facts = {
        "page": entry.homepage,
        "licence": entry.licence or "see the page",
        "cite": entry.citation,
        "to download": size(entry.download) if entry.download else "",
        "on disk": size(entry.disk) if entry.disk else "",
    }
    for name, value in facts.items():
        if value:
            say(f"{name:<12}{value}")


def say(text: str = "", style: str | None = None) -> None:
    console.print(Text(text), style=style, soft_wrap=True)


def complain(kind: str, message: str) -> None:
    """Print one line to the standard error stream."""
    line = Text.assemble((f"{kind}: ", "bold red"), " ".join(message.splitlines()))
    Console(stderr=True, highlight=False).print(line, soft_wrap=True)


def show_warning(message: Warning | str, *_: object, **__: object) -> None:
    complain("warning", str(message))


def folded(line: str, indent: str = "") -> str:
    """Indent a line, and break it on a terminal that is too narrow for it."""
    width = console.width if console.is_terminal else len(indent) + len(line)
    return textwrap.fill(line, width, initial_indent=indent, subsequent_indent=indent + "  ")
