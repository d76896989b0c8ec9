"""What the program prints: lines, tables, errors.

Lines are printed without extra line breaks; colours appear only on terminals.
"""

from __future__ import annotations

import logging
import textwrap
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from rich.console import Console
from rich.text import Text

from .. import analysis, studies, wording
from .. import run as run_folder
from ..wording import duration, percent, size
from . import output
from .output import plain

if TYPE_CHECKING:
    from ..analysis.energy import EnergyTable
    from ..analysis.microscope import Cosine, LayerCosines
    from ..analysis.operations import Cost
    from ..data.catalogue import Entry
    from ..experiment import Experiment, Recorded
    from ..report.published import Accuracy
    from ..run.comparison import Comparison
    from ..run.results import Result
    from ..studies.compare import RuleResult
    from ..studies.sweep import Outcome

console = Console(file=cast(IO[str], output.OUT), highlight=False)
_errors = Console(file=cast(IO[str], output.ERR), highlight=False)

SWEEP_ROW = "{:<11}{:<9}{:>10}  {}"


def print_costs(costs: Mapping[str, Sequence[float]], workers: int, title: str = "recipe") -> None:
    """The time of trainings: seconds per run, by recipe, with so many runs at once."""
    rows: list[Sequence[object]] = [(title, "runs to make", "per run", "in total")]
    for name, runs in costs.items():
        each = duration(runs[0]) if runs else "-"
        rows.append((name, len(runs), each, duration(studies.trials.wall_clock(runs, workers))))
    print_table(rows)
    every = [seconds for runs in costs.values() for seconds in runs]
    total = duration(studies.trials.wall_clock(every, workers))
    how = "estimated from a few training steps; each run also takes some seconds to start"
    say(f"about {total} in total, {workers} at a time, {how}\n")


def print_plan(names: Sequence[str]) -> None:
    """The runs that the command would make."""
    say("\nruns to make:" if names else "\nno runs are left to make")
    for name in names:
        say(f"  {name}")


def print_trials(results: Sequence[Result]) -> None:
    """Mean, standard deviation and best of each accuracy, for each group of equal settings."""
    for group_ in run_folder.results.group(results):
        seeds = ", ".join(map(str, group_.seeds))
        say(f"\n{group_.label}, seeds {seeds}", "bold")
        for name, title in _titles().items():
            values = group_.accuracies(name)
            if len(values):
                sd = 100 * values.std(ddof=1) if len(values) > 1 else None
                reached = wording.mean_and_deviation(100 * values.mean(), sd)
                say(f"{title:<38}{reached} %, best {percent(values.max())}")
    print_notes(result.epochs[-1] for result in results)


def print_rules(
    results: Sequence[RuleResult], comparisons: Sequence[Comparison[RuleResult]]
) -> None:
    """The results of learning rules in a table, and their differences from the first rule."""
    head, rows = rules_table(results)
    print_table([head, *rows])
    say()
    for pair in comparisons:
        say(f"{pair.first.name}, compared with {pair.second.rule}: {describe_comparison(pair)}")


def rules_table(results: Sequence[RuleResult]) -> tuple[list[str], list[list[object]]]:
    """Titles and cells of a table of learning rules."""
    titles = ("rate", "seeds", "test accuracy", "95 % interval", "spikes/image", "training")
    return ["rule", "T", *titles], [_rule_row(one) for one in results]


def describe_comparison(pair: Comparison[RuleResult]) -> str:
    """Such as ``"-0.52 points (95 % interval -0.90 to -0.14), p = 0.013: lower"``."""
    if pair.difference is None or pair.p is None:
        return f"{pair.verdict}, a test needs two seeds of each"
    points = wording.difference(pair.difference.mean, pair.difference.interval)
    p = wording.p_value(pair.p) if pair.p < 0.001 else f"= {wording.p_value(pair.p)}"
    diverged = ", a run diverged" if pair.diverged else ""
    return f"{points}, p {p}: {pair.verdict}{diverged}"


def _rule_row(one: RuleResult) -> list[object]:
    rate = f"{one.rate:g}{' (edge)' if one.at_edge else ''}" if one.rate else "-"
    row = [one.rule, one.time_steps, rate, len(one.results)]
    if not one.results:
        return [*row, "-", "-", "-", "-"]
    from .. import stats

    accuracy = stats.summary(100 * one.accuracies)
    interval = stats.shown_interval(accuracy, 0.0, 100.0)
    return [
        *row,
        f"{wording.mean_and_deviation(accuracy.mean, accuracy.sd)} %",
        wording.interval(interval) if interval else "-",
        f"{one.spikes.mean():,.0f}" if len(one.spikes) else "-",
        duration(one.seconds.mean()),
    ]


def print_sweep(outcomes: Sequence[Outcome], objective: str) -> None:
    """All trials of a sweep, in the given order."""
    say(SWEEP_ROW.format("trial", "state", objective, "settings"), "bold")
    for outcome in outcomes:
        print_outcome(outcome)


def trial_name(outcome: Outcome) -> str:
    return Path(outcome.folder).name or f"trial-{outcome.number:04d}"


def print_outcome(outcome: Outcome) -> None:
    name = trial_name(outcome)
    values = [
        f"{key} = {f'{value:.4g}' if isinstance(value, float) else studies.space.as_text(value)}"
        for key, value in {**outcome.values, "seed": outcome.seed}.items()
    ]
    say(SWEEP_ROW.format(name, outcome.state, percent(outcome.accuracy), ", ".join(values)))
    if outcome.reason:
        say(f"  {outcome.reason}")


def print_accuracies(records: Mapping[str, Mapping[str, Any]]) -> None:
    """The three accuracies, always all three, with the caveats that the records carry.

    "-" marks accuracies that the run does not have. Those of averaged weights follow, if any.
    """
    rows: list[Sequence[object]] = [("accuracy", "epoch", "validation", "test")]
    for name, title in _titles().items():
        if name in run_folder.results.AVERAGED_MEASURES and name not in records:
            continue
        record = records.get(name, {})
        shares = (percent(record.get(f"{split}_accuracy")) for split in ("validation", "test"))
        rows.append((title, record.get("epoch", "-"), *shares))
    print_table(rows)
    print_notes(records.values())


def _titles() -> dict[str, str]:
    return run_folder.results.MEASURES | run_folder.results.AVERAGED_MEASURES


def print_microscope(layers: Sequence[LayerCosines], widths: Sequence[float]) -> None:
    """Cosines of rules' gradients with the true one and with each other, a table per layer.

    If a cosine cannot be given, the table shows the reason. A control further than 0.01 from 1 is a
    caution.
    """
    width = max(26, *(len(rule) + 4 for rule in layers[0].truth))
    for layer in layers:
        rate = layer.firing_rate
        spikes = "" if rate is None else f", {rate:.3f} spikes per neuron and step"
        say(f"\n{layer.name}  {layer.weights:,} weights{spikes}", "bold")
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
        agreement = analysis.microscope.AGREEMENT
        if value is None or abs(value - 1) > 1 - agreement:  # noise can take it above 1 as well
            complain(
                "caution",
                f"the control of {layer.name} is {control}, not within {1 - agreement:.2g} of 1: "
                "use more --rounds; until then the numbers of this layer are unreliable",
            )


def _cosine(one: Cosine, digits: int = 3) -> str:
    if one.value is None or one.interval is None:
        return one.reason
    half = (one.interval.high - one.interval.low) / 2
    return f"{one.value:.{digits}f} ± {half:.{digits}f}"


def print_cost(cost: Cost, table: EnergyTable, memory: str | None) -> None:
    """What the layers of a network cost, and the energy with and without spikes.

    Args:
        cost: what `tsslbp.analysis.cost` counted.
        table: of the energies.
        memory: to which all accesses go; None: their energy is left out.
    """
    titles = ("neurons", "parameters", "dense mult.", "multiplied", "added", "updates", "traffic")
    rows: list[Sequence[object]] = [("layer", *titles, "energy", "with ReLU")]
    for layer in (*cost.layers, cost.total):
        done = layer.spiking
        numbers = layer.neurons, layer.parameters, layer.dense_multiplications
        counts = (*numbers, done.multiplications, done.additions, done.updates)
        energies = (one.energy(table, memory).total for one in (done, layer.relu))
        words = (size(round(done.traffic(table))), *map(wording.energy, energies))
        rows.append((layer.name, *(f"{number:,.0f}" for number in counts), *words))
    print_table(rows)
    total = cost.total
    spiking, relu = (one.energy(table, memory) for one in (total.spiking, total.relu))
    word, memories = analysis.energy.WORD, analysis.energy.MEMORIES
    access = f", {memories[memory]:g} pJ per {word}-bit access" if memory else ""
    parts = {"connections": spiking.connections, "neurons": spiking.neurons, memory: spiking.memory}
    shares = ", ".join(f"{name} {wording.energy(one)}" for name, one in parts.items() if name)
    say(f"\nspikes      {total.spikes:,.0f}; size of the parameters {size(total.bytes)}")
    say(f"energy      {wording.energy(spiking.total)} ({shares})")
    ratio = f"{spiking.total / relu.total:.2f}"
    say(f"with ReLU   {wording.energy(relu.total)}; the spiking network needs {ratio} times that")
    say(
        f"table       {table.name}: {table.multiply_add:g} pJ per multiply-add, {table.add:g} pJ "
        f"per addition{access}; {table.source}"
    )


def print_conversion(record: Mapping[str, Any]) -> None:
    """Accuracy of a ReLU network, then accuracy and spikes of its conversions, by time steps.

    Args:
        record: as ``tsslbp convert`` writes it.
    """
    relu, plain = record["relu"], record["plain"]
    how = run_folder.results.MEASURES[relu["chosen"]]
    say(f"\nReLU network, {how} ({relu['epoch']}): test {percent(relu['test_accuracy'])}\n")
    rows = [["steps", "plain", "spikes/image", "calibrated", "spikes/image"]]
    for steps, calibrated in record["calibrated"].items():
        row = [steps]
        for one in (plain, calibrated):
            row.append(percent(one["test_accuracy_by_step"][int(steps) - 1]))
            row.append(f"{one['spikes_per_image_by_step'][int(steps) - 1]:,.0f}")
        rows.append(row)
    print_table(rows)
    print_note(record.get("note", ""))


def print_notes(records: Iterable[Mapping[str, Any]]) -> None:
    """The different caveats of the data that records carry."""
    for note in dict.fromkeys(record.get("note", "") for record in records):
        print_note(note)


def print_note(note: str) -> None:
    """A caveat of the data, if there is one."""
    if note:
        say(f"note        {note}")


def print_recipes(
    recipes: Mapping[str, Experiment],
    recorded: Mapping[str, Recorded],
    published: Mapping[str, Accuracy | None],
) -> None:
    """A table of recipes by name, with recorded and published accuracies where there are any."""
    rows: list[Sequence[object]] = [("recipe", "data", "network", "T", "on a CPU", "accuracy, %")]
    for name, one in recipes.items():
        ours, theirs = recorded.get(name), published[name]
        seconds = duration(ours.seconds) if ours else "not measured"
        reached = f"{ours.accuracy:.2f}" if ours else "-"
        accuracy = f"{reached:>5} / {f'{theirs.mean:.2f}' if theirs else '-':<5}"
        rows.append((name, one.data, _shortened(one.network), one.time_steps, seconds, accuracy))
    print_table(rows, text=(0, 1, 2))
    held_out = [name for name, one in recipes.items() if one.protocol == "validated"]
    words = (
        "accuracy on test images, ours / published with these settings, at the best test epoch; "
        f"at the epoch chosen on validation images for {wording.joined(held_out)}"
    )
    say("\n" + textwrap.fill(words, 100, break_on_hyphens=False))


def _shortened(network: str, width: int = 22) -> str:
    """A network's first layers, if the description is too long for a column."""
    if len(network) <= width:
        return network
    return network[: width - len("...")].rpartition("-")[0] + "-..."


def print_trained(name: str, record: Mapping[str, Any]) -> None:
    """A pretrained network: accuracy, origin and licence."""
    checkpoint, _, why = record["checkpoint"].partition(": ")
    data_set = record["data"].partition(":")[0]
    facts = {
        "test": f"{percent(record['test_accuracy'])} with the weights as shipped "
        f"({record['stored']}), {percent(record['trained_accuracy'])} as trained",
        "epoch": f"{record['epoch']}, checkpoint {checkpoint}: {why}",
        "seed": f"{record['seed']}, {record['seed_chosen']}",
        "command": f"{record['command']}, commit {record['commit'][:12]}",
        "licence": f"{record['licence']}; trained on {data_set}, whose images are under "
        f"{record['data_licence']}",
    }
    say(f'\ntrained     tsslbp.load("{name}"), tsslbp predict {name} IMAGE', "bold")
    for fact, text in facts.items():
        say(f"{fact:<12}{text}")


def print_data_sets(sets: Sequence[tuple[Entry, str]]) -> None:
    """A table of data sets, with the paths of local copies."""
    titles = ("data set", "train + test", "shape", "classes", "to download")
    rows = [
        (
            entry.name,
            f"{entry.train:,} + {entry.test:,}",
            " x ".join(map(str, entry.shape)),
            entry.classes,
            size(entry.download) if entry.download else "-",
            entry.licence or "see page",
            copy,
        )
        for entry, copy in sets
    ]
    print_table([(*titles, "licence", "local copy"), *rows], text=(0, 5, 6))


def print_data_set(entry: Entry) -> None:
    """Facts about a data set and its origin."""
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


def print_table(rows: Sequence[Sequence[object]], text: Collection[int] = (0,)) -> None:
    """Rows in columns, the titles first; columns of `text`, by number, are aligned left.

    On a terminal that is too narrow, the columns of text are folded.
    """
    widths = [max(len(str(cell)) for cell in column) for column in zip(*rows, strict=True)]
    if console.is_terminal and sum(widths) + 2 * (len(widths) - 1) > console.width:
        _print_folded(rows, text)
        return
    lines = [
        "  ".join(
            str(cell).ljust(width) if column in text else str(cell).rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    say(lines[0], "bold")
    if lines[1:]:
        say("\n".join(lines[1:]))


def _print_folded(rows: Sequence[Sequence[object]], text: Collection[int]) -> None:
    from rich.table import Table

    titles, *others = ([plain(str(cell)) for cell in row] for row in rows)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column, title in enumerate(titles):
        if column in text:
            table.add_column(title, overflow="fold")
        else:
            table.add_column(title, justify="right", no_wrap=True)
    for row in others:
        table.add_row(*row)
    console.print(table)


@contextmanager
def to_stderr() -> Iterator[None]:
    """While this lasts, `say` prints to the standard error stream."""
    before, console.file = console.file, cast(IO[str], output.ERR)
    try:
        yield
    finally:
        console.file = before


def say(text: str = "", style: str | None = None) -> None:
    """Print text to the standard output stream, without breaking long lines."""
    console.print(plain(text), style=style, soft_wrap=True)


def complain(kind: str, message: str) -> None:
    """Print one line to the standard error stream."""
    line = " ".join(message.splitlines())
    _errors.print(Text.assemble((f"{kind}: ", "bold red"), plain(line)), soft_wrap=True)


def finished(status: int) -> int:
    """Return the exit status of a command that ends with `status`: 1 if output was lost.

    The lost output may have been the purpose of the command. A closed pipe is not reported, because
    the reader closed it; any other loss is.
    """
    if (loss := output.loss()) is None or status:
        return status
    if loss:
        complain("error", f"the output could not be written ({loss}); everything else was done")
    return 1


class Log(logging.Handler):
    """Prints what the library logs to the standard error stream."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING:
            complain("caution", record.getMessage())
            return
        _errors.print(plain(record.getMessage()), soft_wrap=True)


@contextmanager
def logging_shown() -> Iterator[None]:
    """While this lasts, print the library's log messages, such as that it compiles kernels."""
    logger, log = logging.getLogger("tsslbp"), Log()
    level = logger.level
    logger.addHandler(log)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(log)
        logger.setLevel(level)


def working(on: str) -> AbstractContextManager[object]:
    """Show on a terminal what is being done, until the context ends."""
    return console.status(plain(on))


def show_warning(message: Warning | str, *_: object, **__: object) -> None:
    complain("warning", str(message))


def folded(line: str, indent: str = "") -> str:
    """Indent a line, and break it on a terminal that is too narrow for it."""
    width = console.width if console.is_terminal else len(indent) + len(line)
    return textwrap.fill(line, width, initial_indent=indent, subsequent_indent=indent + "  ")
