"""What the program prints: lines, the progress of a training, the table of accuracies.

Nothing has line breaks of its own within a line; colours and the progress bar appear on terminals
only.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from .history import StepResult
from .results import MEASURES
from .run import Run
from .space import as_text
from .sweep import Outcome

console = Console(highlight=False)

SWEEP_ROW = "{:<12}{:<10}{:>21}  {}"
EPOCH_ROW = "{:>9}{:>10}{:>11}{:>13}{:>11}{:>12}{:>10}"  # 76 characters


class Display:
    """Progress of a training: a bar on a terminal, a line an epoch everywhere.

    The bar and the time left are those of the whole run.

    Args:
        run: what is trained.
        images: that it trains on.
        lines: whether to print a line an epoch.
    """

    def __init__(self, run: Run, images: int, lines: bool = True) -> None:
        self.lines = lines
        self.epochs, self.batch_size = run.experiment.epochs, run.experiment.batch_size
        self.images = images
        self.seen = self.correct = 0  # in this epoch, by this process
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[train]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            expand=True,
            disable=not console.is_terminal,
            speed_estimate_period=300,
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


class SweepDisplay:
    """Progress of a sweep: a bar for each run on a terminal, a line a trial everywhere.

    Args:
        objective: what the accuracies are, in words.
        images: that a run trains on.
    """

    def __init__(self, objective: str, images: int) -> None:
        self.images = images
        say(SWEEP_ROW.format("trial", "state", objective, "settings"), "bold")

    def observe(self, run: Run) -> Display:
        return Display(run, self.images, lines=False)

    def ended(self, outcome: Outcome) -> None:
        say(_sweep_row(outcome))
        if outcome.reason:
            say(f"  {outcome.reason}")


def print_sweep(outcomes: Sequence[Outcome], objective: str) -> None:
    """All trials of a sweep, in the given order."""
    say(SWEEP_ROW.format("trial", "state", objective, "settings"), "bold")
    for outcome in outcomes:
        say(_sweep_row(outcome))


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


def print_note(note: str) -> None:
    """A caveat of the data, if there is one."""
    if note:
        say(f"note        {note}")


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
    """Return such as ``"9.3 s"``, ``"12 min 5 s"``, ``"1 h 3 min"``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def folded(line: str, indent: str = "") -> str:
    """Indent a line, and break it on a terminal that is too narrow for it."""
    width = console.width if console.is_terminal else len(indent) + len(line)
    return textwrap.fill(line, width, initial_indent=indent, subsequent_indent=indent + "  ")
