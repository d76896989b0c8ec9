"""The section on learning rules side by side: what `tsslbp compare` made, read from its folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .. import stats
from ..errors import Error
from ..figures import study as study_figures
from ..figures.study import Point
from ..run.results import Result
from ..studies import compare
from ..studies.compare import Cell, Comparison, Gap
from ..wording import duration
from .blocks import Block, Figure, Lines, Section, Table, Text
from .tables import NONE, mean_and_deviation, p_value

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

CAPTION = (
    "Test accuracy (%) at the epoch chosen on validation images: mean ± standard deviation of the "
    "seeds, in small print the 95 % interval of the mean. Spikes an image causes at the same "
    "epoch, in all layers and time steps; time spent on training one run, without evaluations."
)
Array = npt.NDArray[Any]
Cost = Callable[[Cell], Array]


@dataclass(frozen=True)
class Found:
    """A comparison and what its runs have reached.

    Attributes:
        folder: of the comparison.
        comparison: what is compared.
        cells: every rule at every T.
    """

    folder: Path
    comparison: Comparison
    cells: Sequence[Cell]

    def holds(self, result: Result) -> bool:
        """Whether a run belongs to the comparison."""
        return result.folder.resolve().is_relative_to(self.folder.resolve())

    def counts(self, result: Result) -> bool:
        """Whether a run is one of those at the chosen learning rates."""
        return result.folder.resolve() in self._counted

    @cached_property
    def _counted(self) -> set[Path]:
        return {one.folder.resolve() for cell in self.cells for one in cell.results}


def find(paths: Iterable[Path]) -> tuple[list[Found], list[str]]:
    """Comparisons at or below `paths`, and a line for each that could not be read."""
    folders = {
        file.parent.resolve(): file.parent
        for path in paths
        for file in sorted(path.rglob(compare.FILE))
    }
    found, problems = [], []
    for folder in folders.values():
        try:
            comparison = compare.read(folder)
            found.append(Found(folder, comparison, compare.outcomes(comparison, folder)))
        except Error as error:
            problems.append(str(error))
    return found, problems


def section(number: int, found: Found, results: Sequence[Result]) -> Section:
    """What a comparison says.

    Args:
        number: of the comparison in the report.
        found: the comparison.
        results: all runs of the report, for the time that was spent.
    """
    comparison, cells = found.comparison, found.cells
    blocks: list[Block] = [Text(_conditions(comparison))]
    if lines := compare.cautions(comparison, cells):
        blocks.append(Lines(tuple(lines)))
    blocks.append(_table(cells))
    if gaps := compare.gaps(cells):
        blocks.append(_gap_table(gaps))
    blocks += [_rate_table(comparison, cells), Text(_spent(found, results))]
    blocks += _figures(f"rules-{number}", comparison, cells)
    title = f"Learning rules side by side: {comparison.experiment.data}"
    return Section(f"rules-{number}", title, blocks)


def _conditions(comparison: Comparison) -> str:
    experiment = comparison.experiment
    rates = ", ".join(f"{rate:g}" for rate in comparison.learning_rates)
    images = f"{experiment.train_images:,}" if experiment.train_images else "all other"
    return (
        f"The runs differ in learning rule, time steps T, learning rate and seed alone: equal "
        f"initial weights, order of images, optimiser and {experiment.epochs} epochs; network "
        f"{experiment.network}, loss {experiment.loss}, {images} training images, "
        f"{experiment.validation_images:,} held out for validation. For each rule and T, of the "
        f"learning rates {rates}, the one with the best accuracy on these was chosen by runs with "
        f"seed {experiment.seed}, which counts as a result too; the other seeds were run at that "
        f"rate. Test images chose nothing."
    )


def _table(cells: Sequence[Cell]) -> Table:
    rows: list[tuple[str, ...]] = []
    for steps in dict.fromkeys(cell.time_steps for cell in cells):
        rows += [(f"T = {steps}",), *(_row(cell) for cell in cells if cell.time_steps == steps)]
    head = ("rule", "learning rate", "seeds", "test accuracy", "spikes per image", "training time")
    return Table(CAPTION, head, tuple(rows))


def _row(cell: Cell) -> tuple[str, ...]:
    name = f"{cell.rule}\n{cell.state}" if cell.state else cell.rule
    rate = NONE if cell.rate is None else f"{cell.rate:g}"
    if cell.edge:
        rate += "\nedge of the grid"
    if not cell.results:
        return (name, rate, "0", NONE, NONE, NONE)
    return (
        name,
        rate,
        str(len(cell.results)),
        mean_and_deviation(stats.summary(100 * cell.accuracies)),
        f"{cell.spikes.mean():,.0f}" if len(cell.spikes) else NONE,
        duration(cell.seconds.mean()),
    )


def _gap_table(gaps: Sequence[Gap]) -> Table:
    rows = []
    for gap in gaps:
        cells = (NONE, NONE)
        if gap.difference and gap.p is not None:
            low, high = gap.difference.interval
            cells = (f"{gap.difference.mean:+.2f}\n{low:+.2f} to {high:+.2f}", p_value(gap.p))
        rows.append((gap.rule, gap.verdict, str(gap.time_steps), str(gap.seeds), *cells))
    caption = (
        f"Rules against the first, {gaps[0].against}: difference in percentage points of test "
        "accuracy, paired by seed, with the 95 % interval; p of the paired t test after Holm's "
        "correction over this table. Undecided: the interval contains zero, p is above "
        f"{stats.LEVEL:g} after the correction, or fewer than two seeds allow no test."
    )
    head = ("rule", "it is", "T", "seeds", "difference", "p")
    return Table(caption, head, tuple(rows), text_columns=2)


def _rate_table(comparison: Comparison, cells: Sequence[Cell]) -> Table:
    rows = [
        (cell.name, *(_tried(cell, rate) for rate in comparison.learning_rates)) for cell in cells
    ]
    caption = (
        "Choice of the learning rate: best accuracy (%) on validation images of the run with seed "
        f"{comparison.experiment.seed} at each rate."
    )
    head = ("rule", *(f"{rate:g}" for rate in comparison.learning_rates))
    return Table(caption, head, tuple(rows), folded=True)


def _tried(cell: Cell, rate: float) -> str:
    if rate in cell.lost:
        return "diverged"
    if rate not in cell.validation:
        return NONE
    return f"{100 * cell.validation[rate]:.2f}" + ("\nchosen" if rate == cell.rate else "")


def _spent(found: Found, results: Sequence[Result]) -> str:
    mine = [one for one in results if found.holds(one)]
    tuning = [one for one in mine if not found.counts(one)]
    total, rest = (sum(one.seconds for one in some) for some in (mine, tuning))
    return (
        f"{len(mine)} runs, {duration(total)} of training in all; {len(tuning)} of them, "
        f"{duration(rest)}, are not at a chosen learning rate, and count nowhere else."
    )


def _figures(prefix: str, comparison: Comparison, cells: Sequence[Cell]) -> list[Block]:
    if not any(cell.results for cell in cells):
        return []
    costs: dict[str, tuple[str, str, Cost]] = {
        "spikes": ("spikes per image", "spikes per image", lambda cell: cell.spikes),
        "seconds": ("training time", "training time of a run (s)", lambda cell: cell.seconds),
    }
    drawing = study_figures.accuracy_against_time_steps(_curves(comparison, cells))
    figures: list[Block] = [_figure(f"{prefix}-steps", "Accuracy against time steps", drawing)]
    for name, (title, axis, cost) in costs.items():
        drawing = study_figures.accuracy_against_cost(_curves(comparison, cells, cost), axis)
        figures.append(_figure(f"{prefix}-{name}", f"Accuracy against {title}", drawing))
    return figures


def _figure(name: str, title: str, drawing: Drawing) -> Figure:
    caption = "Mean of the seeds at the chosen learning rates, and its 95 % interval."
    return Figure(name, title, caption, svg=study_figures.svg_text(drawing, name, title))


def _curves(
    comparison: Comparison, cells: Sequence[Cell], cost: Cost | None = None
) -> dict[str, list[Point]]:
    """The points of every rule, in the order of T."""
    return {
        rule: [_point(cell, cost) for cell in cells if cell.rule == rule and cell.results]
        for rule in comparison.rules
    }


def _point(cell: Cell, cost: Cost | None) -> Point:
    accuracy = stats.summary(cell.accuracies)
    values = cost(cell) if cost else np.array([])
    if not len(values):
        return Point(cell.time_steps, accuracy.mean, accuracy.interval)
    spent = stats.summary(values)
    return Point(cell.time_steps, accuracy.mean, accuracy.interval, spent.mean, spent.interval)
