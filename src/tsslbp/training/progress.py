"""Progress of a training in a terminal or notebook: one bar for the run, one line per epoch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from ..wording import duration, percent

if TYPE_CHECKING:
    from rich.console import Console

    from .history import StepResult
    from .loop import Observer

EPOCH_ROW = "{:>9}{:>10}{:>11}{:>13}{:>11}{:>12}{:>10}"  # 76 characters


class Bars:
    """A heading and progress bars in a terminal or notebook.

    Args:
        seconds: length of the recent period from which the remaining time is estimated.
        text: text after a bar; by default the amount downloaded.
        heading: line above the bars.
        console: console that shows them; None: the default one.
    """

    def __init__(
        self, seconds: float, text: str = "", heading: str = "", console: Console | None = None
    ) -> None:
        from rich import progress as bars
        from rich.console import Console

        self.heading, self.console = heading, console or Console(highlight=False)
        self.progress = bars.Progress(
            bars.TextColumn("{task.description}"),
            bars.BarColumn(bar_width=None),
            bars.TextColumn(text) if text else bars.DownloadColumn(),
            bars.TimeRemainingColumn(),
            console=self.console,
            transient=True,
            expand=True,
            disable=not (self.console.is_terminal or self.console.is_jupyter),
            speed_estimate_period=seconds,
        )

    def __enter__(self) -> Self:
        if self.heading:
            self.say(self.heading, "bold")
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def say(self, text: str, style: str | None = None) -> None:
        """Print a line above the bars."""
        from rich.text import Text

        self.console.print(Text(text), style=style, soft_wrap=True)


class Display(Bars):
    """Progress of a training of `epochs` epochs, an `Observer` that also calls another one."""

    def __init__(
        self, epochs: int, console: Console | None = None, then: Observer | None = None
    ) -> None:
        super().__init__(300, "{task.fields[train]}", console=console)
        titles = ("epoch", "loss", "train", "validation", "test", "time", "images/s")
        self.titles = EPOCH_ROW.format(*titles)  # until the first step: a run may be refused
        self.epochs, self.then = epochs, then
        self.seen = self.correct = 0  # in this epoch, by this process
        self.task = self.progress.add_task("starting", total=None, train="")

    def on_step(self, epoch: int, step: int, steps: int, result: StepResult) -> None:
        """Advance the bar, and show the training accuracy of the epoch so far."""
        self._say_titles()
        self.seen += result.images
        self.correct += result.correct
        doing = f"step {step}/{steps}" if step < steps else "testing"
        self.progress.update(
            self.task,
            description=f"epoch {epoch}/{self.epochs} {doing}",
            completed=(epoch - 1) * steps + step,
            total=self.epochs * steps,
            train=f"train {percent(self.correct / self.seen)}",
        )
        if self.then:
            self.then.on_step(epoch, step, steps, result)

    def on_epoch(self, record: dict[str, Any]) -> None:
        """Print the line of an epoch: its loss, accuracies, time and images per second."""
        self._say_titles()
        self.seen = self.correct = 0
        splits = ("train", "validation", "test")
        self.say(
            EPOCH_ROW.format(
                f"{record['epoch']}/{self.epochs}",
                f"{record['loss']:.4f}",
                *(percent(record.get(f"{split}_accuracy")) for split in splits),
                duration(record["seconds"]),
                f"{record['images_per_second']:,.0f}",
            )
        )
        if self.then:
            self.then.on_epoch(record)

    def _say_titles(self) -> None:
        """Print the table's heading, once."""
        if self.titles:
            self.say(self.titles, "bold")
            self.titles = ""
