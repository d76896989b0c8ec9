"""What the program prints: lines, the progress of a training, the table of accuracies.

Nothing has line breaks of its own within a line; colours and the progress bar appear on terminals
only.
"""

from __future__ import annotations

import math
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.filesize import decimal
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from . import stats
from .compare import Cell, Gap
from .data.catalogue import Entry
from .experiment import Experiment
from .history import StepResult
from .jobs import Job
from .microscope import AGREEMENT, Cosine, Layer
from .results import MEASURES, Result, group
from .run import Run, count_epochs
from .space import as_text
from .sweep import Outcome, Search
from .tracking import trackers
from .training import Observer
from .trials import Trial, wall_clock

console = Console(highlight=False)

TRIAL_ROW = "{:<{width}}{:>12}{:>12}{:>12}{:>13}"  # 79 characters, unless a name is longer
COST_ROW = "{:<{width}}{:>14}{:>14}{:>14}"
RULE_ROW = "{:<{width}}{:>4}{:>16}{:>7}{:>17}{:>18}{:>14}{:>14}"
EPOCH_ROW = "{:>9}{:>10}{:>11}{:>13}{:>11}{:>12}{:>10}"  # 76 characters
SWEEP_ROW = "{:<11}{:<9}{:>10}  {}"
CONVERSION_ROW = "{:>6}{:>14}{:>16}{:>14}{:>16}"  # 66 characters
DATA_ROW = "{:<19}{:>17}{:>15}{:>9}{:>12}  {:<14}{}"
SWEEP_SECONDS = 2.0  # between two looks at a sweep that other processes make


def _progress(seconds: float, *columns: ProgressColumn) -> Progress:
    """A bar that appears on terminals only; the time left follows the last `seconds`."""
    return Progress(
        *columns,
        console=console,
        transient=True,
        expand=True,
        disable=not console.is_terminal,
        speed_estimate_period=seconds,
    )


class Display:
    """Progress of a training: a bar on a terminal, a line an epoch everywhere.

    The bar and the time left are those of the whole run.

    Args:
        experiment: what is trained.
        images: that it trains on.
        lines: whether to print a line an epoch.
    """

    def __init__(self, experiment: Experiment, images: int, lines: bool = True) -> None:
        self.lines = lines
        self.epochs, self.batch_size = experiment.epochs, experiment.batch_size
        self.images = images
        self.seen = self.correct = 0  # in this epoch, by this process
        self.progress = _progress(
            300,
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[train]}"),
            TimeRemainingColumn(),
        )
        self.task = self.progress.add_task(
            "starting (first use compiles the kernels, once)", total=None, train=""
        )

    def __enter__(self) -> Display:
        if self.lines:
            titles = ("epoch", "loss", "train", "validation", "test", "time", "images/s")
            say(EPOCH_ROW.format(*titles), "bold")
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def on_step(self, epoch: int, step: int, steps: int, result: StepResult) -> None:
        self.seen += min(self.batch_size, self.images - (step - 1) * self.batch_size)
        self.correct += result.correct
        doing = f"step {step}/{steps}" if step < steps else "testing"
        self.progress.update(
            self.task,
            description=f"epoch {epoch}/{self.epochs} {doing}",
            completed=(epoch - 1) * steps + step,
            total=self.epochs * steps,
            train=f"train {percent(self.correct / self.seen)}",
        )

    def on_epoch(self, record: dict[str, Any]) -> None:
        self.seen = self.correct = 0
        if not self.lines:
            return
        splits = ("train", "validation", "test")
        say(
            EPOCH_ROW.format(
                f"{record['epoch']}/{self.epochs}",
                f"{record['loss']:.4f}",
                *(percent(record.get(f"{split}_accuracy")) for split in splits),
                duration(record["seconds"]),
                f"{record['images_per_second']:,.0f}",
            )
        )


class TrialsDisplay:
    """Progress of many runs: on a terminal a bar for all and for each, a line a run everywhere.

    How far a run is it reads from the run's folder, wherever that is written.
    """

    def __init__(self, trials: Sequence[Trial]) -> None:
        self.trials = {trial.name: trial for trial in trials}
        self.width = max(30, *map(len, self.trials)) if trials else 30
        self.progress = _progress(
            600,
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.completed}/{task.total} epochs"),
            TimeRemainingColumn(),
        )
        total = sum(trial.experiment.epochs for trial in trials)
        self.all = self.progress.add_task("all runs", total=total)
        self.done = {trial.name: count_epochs(trial.folder) for trial in trials}
        self.bars: dict[str, TaskID] = {}

    def __enter__(self) -> TrialsDisplay:
        if self.trials:
            titles = ("run", "last epoch", "validation", "best test", "time")
            say(TRIAL_ROW.format(*titles, width=self.width), "bold")
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def running(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            trial = self.trials[job.name]
            if job.name not in self.bars:
                total = trial.experiment.epochs
                self.bars[job.name] = self.progress.add_task(job.name, total=total)
            self.done[job.name] = count_epochs(trial.folder)
            self.progress.update(self.bars[job.name], completed=self.done[job.name])
        self.progress.update(self.all, completed=sum(self.done.values()))

    def ended(self, job: Job, failure: str | None) -> None:
        if job.name in self.bars:
            self.progress.remove_task(self.bars.pop(job.name))
        trial = self.trials[job.name]
        result = None if failure else trial.result()
        if result is None:
            complain("failed", f"{job.name}: {failure or 'no epoch was recorded'}")
            return
        shares = (percent(result.accuracy.get(name)) for name in MEASURES)
        seconds = duration(result.seconds)
        say(TRIAL_ROW.format(job.name, *shares, seconds, width=self.width))


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
                spread = f" ± {100 * values.std(ddof=1):.2f}" if len(values) > 1 else ""
                best = f"best {percent(values.max())}"
                say(f"{title:<38}{100 * values.mean():.2f}{spread} %, {best}")
    for note in dict.fromkeys(result.epochs[-1].get("note", "") for result in results):
        print_note(note)


def print_rules(cells: Sequence[Cell], gaps: Sequence[Gap]) -> None:
    """What learning rules have reached side by side, and how far they lie from the first one."""
    width = max(20, *(len(cell.rule) + 2 for cell in cells))
    titles = ("rate", "seeds", "test accuracy", "95 % interval", "spikes/image", "training")
    say(RULE_ROW.format("rule", "T", *titles, width=width), "bold")
    for cell in cells:
        row = [f"{cell.rate:g}{' (edge)' if cell.edge else ''}" if cell.rate else "-"]
        say(RULE_ROW.format(cell.rule, cell.time_steps, *row, *_reached(cell), width=width))
    say()
    for gap in gaps:
        say(f"{gap.rule}, T = {gap.time_steps}, against {gap.against}: {describe_gap(gap)}")


def describe_gap(gap: Gap) -> str:
    """Such as ``"-0.52 points (95 % interval -0.90 to -0.14), p = 0.013: lower"``."""
    if gap.difference is None or gap.p is None:
        return f"{gap.verdict}, a test needs two seeds of both"
    low, high = gap.difference.interval
    diverged = ", a run diverged" if gap.lost else ""
    return (
        f"{gap.difference.mean:+.2f} points (95 % interval {low:+.2f} to {high:+.2f}), "
        f"p = {gap.p:.3f}: {gap.verdict}{diverged}"
    )


def _reached(cell: Cell) -> list[str]:
    """Runs, accuracy, its interval, spikes and seconds of a cell, as they are printed."""
    if not cell.results:
        return ["0", "-", "-", "-", "-"]
    accuracy = stats.summary(100 * cell.accuracies)
    spread = f" ± {accuracy.sd:.2f}" if accuracy.sd is not None else ""
    interval = accuracy.interval
    return [
        str(len(cell.results)),
        f"{accuracy.mean:.2f}{spread} %",
        f"{interval.low:.2f} to {interval.high:.2f}" if interval else "-",
        f"{cell.spikes.mean():,.0f}" if len(cell.spikes) else "-",
        duration(cell.seconds.mean()),
    ]


class SweepDisplay:
    """Progress of a sweep: a bar for each run on a terminal, a line a trial everywhere.

    Args:
        objective: of the sweep.
        images: that a run trains on.
        track: names of trackers, see `tsslbp.tracking`.
    """

    def __init__(self, objective: str, images: int, track: Sequence[str] = ()) -> None:
        self.images, self.track = images, track
        say(SWEEP_ROW.format("trial", "state", objective, "settings"), "bold")

    @contextmanager
    def observe(self, run: Run) -> Iterator[Observer]:
        with (
            Display(run.experiment, self.images, lines=False) as shown,
            trackers(self.track, run, self.images, shown) as observer,
        ):
            yield observer or shown

    def ended(self, outcome: Outcome) -> None:
        _print_outcome(outcome)


class WorkersDisplay:
    """Progress of a sweep that other processes make: a bar on a terminal, a line a trial."""

    def __init__(self, search: Search) -> None:
        self.search, self.looked = search, -math.inf
        self.shown = {one.number for one in search.outcomes() if one.state != "running"}
        self.progress = _progress(
            600,
            TextColumn("{task.completed}/{task.total} trials"),
            BarColumn(bar_width=None),
            TimeRemainingColumn(),
        )
        self.task = self.progress.add_task("", total=search.sweep.trials)

    def __enter__(self) -> WorkersDisplay:
        objective = self.search.sweep.objective
        say(SWEEP_ROW.format("trial", "state", objective, "settings"), "bold")
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()
        self._look()

    def running(self, jobs: Sequence[Job]) -> None:
        if time.monotonic() - self.looked > SWEEP_SECONDS:
            self._look()

    def ended(self, job: Job, failure: str | None) -> None:
        if failure:
            complain("failed", f"{job.name}: {failure}; log in {job.log}")

    def _look(self) -> None:
        self.looked = time.monotonic()
        ended = [one for one in self.search.outcomes() if one.state != "running"]
        for outcome in sorted(ended, key=lambda one: one.number):
            if outcome.number not in self.shown:
                self.shown.add(outcome.number)
                _print_outcome(outcome)
        self.progress.update(self.task, completed=len(self.shown))


def print_sweep(outcomes: Sequence[Outcome], objective: str) -> None:
    """All trials of a sweep, in the given order."""
    say(SWEEP_ROW.format("trial", "state", objective, "settings"), "bold")
    for outcome in outcomes:
        _print_outcome(outcome)


def _print_outcome(outcome: Outcome) -> None:
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


def print_microscope(layers: Sequence[Layer], widths: Sequence[float]) -> None:
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


class Download:
    """A bar for the download of one file, on terminals only; see `tsslbp.data.files.Progress`."""

    def __init__(self, name: str) -> None:
        self.progress = _progress(
            30,
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            DownloadColumn(),
            TimeRemainingColumn(),
        )
        self.task = self.progress.add_task(name, total=None)
        self.total = 0

    def __enter__(self) -> Download:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def update(self, count: int) -> None:
        self.progress.update(self.task, total=self.total, advance=count)

    def reset(self) -> None:
        self.progress.reset(self.task)

    def close(self) -> None:
        pass


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


def size(count: int) -> str:
    """A number of bytes in words, such as 11.6 MB."""
    return decimal(count)


def say(text: str = "", style: str | None = None) -> None:
    console.print(Text(text), style=style, soft_wrap=True)


def complain(kind: str, message: str) -> None:
    """Print one line to the standard error stream."""
    line = Text.assemble((f"{kind}: ", "bold red"), " ".join(message.splitlines()))
    Console(stderr=True, highlight=False).print(line, soft_wrap=True)


def show_warning(message: Warning | str, *_: object, **__: object) -> None:
    complain("warning", str(message))


def percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f} %"


def duration(seconds: float) -> str:
    """Return such as ``"9.3 s"``, ``"12 min 5 s"``, ``"1 h 3 min"``, ``"2 d 5 h"``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"


def folded(line: str, indent: str = "") -> str:
    """Indent a line, and break it on a terminal that is too narrow for it."""
    width = console.width if console.is_terminal else len(indent) + len(line)
    return textwrap.fill(line, width, initial_indent=indent, subsequent_indent=indent + "  ")
