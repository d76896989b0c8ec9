"""Tests of the page: its first screen, its sections, and what they leave out."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tsslbp.report import sections
from tsslbp.report.blocks import Lines, Page, Table
from tsslbp.report.evidence import gather


def compose(folder: Path) -> Page:
    return sections.compose(gather([folder]), "tsslbp report runs")


@pytest.fixture
def page(tmp_path: Path, make_run: Callable, recipe: Callable) -> Page:
    """Page on three seeds of MNIST, two of digits, and one unfinished run."""
    for seed in range(3):
        make_run(tmp_path / f"mnist-{seed}", recipe("mnist", seed), 0.994 + seed / 10_000)
    for seed in range(2):
        make_run(tmp_path / f"digits-{seed}", recipe("digits", seed), 0.9 + seed / 100)
    make_run(tmp_path / "unfinished", recipe("digits", 7), 0.5, epochs=3)
    return compose(tmp_path)


def test_first_screen(page: Page) -> None:
    assert page.title == "TSSL-BP: 6 runs"
    assert page.lead.startswith("5 finished runs of 2 settings on digits and mnist, trained in ")
    assert page.lead.endswith(" on Test CPU. Excluded from all statistics: 1 unfinished run.")
    assert dict(page.tallies)["seeds"] == "4"
    (digits, reached), (mnist, _) = page.results
    assert (digits, mnist) == ("digits", "mnist")
    assert reached.startswith("90.") and "(2 runs; " in reached
    assert all(count.endswith(" of the paper") for _, count, _ in page.verdicts)
    assert "for lack of runs" not in str(page.verdicts)


def test_sections_without_content_are_left_out(page: Page) -> None:
    assert [section.name for section in page.sections] == [
        *("groups", "published", "figures-1", "figures-2", "claims"),
        *("compute", "runs", "environment", "repeat"),
    ]
    names = [figure.name for figure in page.figures]
    assert len(set(names)) == len(names)


def test_how_to_repeat_ends_with_the_reports_command(page: Page) -> None:
    *_, commands, text, command = page.sections[-1].blocks
    assert isinstance(commands, Lines) and commands.kind == "code"
    assert "tsslbp train mnist --seed 2" in commands.lines
    assert (
        isinstance(text, Lines)
        and text.kind == "paragraph"
        and command == Lines("code", ("tsslbp report runs",))
    )


def test_runs_of_no_published_row(tmp_path: Path, make_run: Callable, recipe: Callable) -> None:
    """The published tables and the paper's claims are omitted."""
    make_run(tmp_path / "run", recipe("digits"), 0.9)
    page = compose(tmp_path)
    names = [one.name for one in page.sections]
    assert names[0] == "groups" and not {"published", "claims"} & set(names)
    assert not page.verdicts and len(page.results) == 1


def test_comparisons_and_caveats(tmp_path: Path, make_run: Callable, recipe: Callable) -> None:
    for seed in range(2):
        for tau in (2.0, 3.0):
            experiment = recipe("digits", seed, tau_s=tau)
            make_run(tmp_path / f"{tau}-{seed}", experiment, 0.9 + seed / 100, note="a caveat")
    found = {section.name: section for section in compose(tmp_path).sections}
    (table,) = found["comparisons"].blocks
    assert isinstance(table, Table) and len(table.rows) == 1
    assert found["caveats"].blocks == [
        Lines("list", ("a caveat: all accuracies of 4 runs (digits)",))
    ]


def test_long_lists_are_cut(tmp_path: Path, make_run: Callable, recipe: Callable) -> None:
    drops = [{"step": step} for step in range(50)]  # as another version records them
    make_run(tmp_path / "run", recipe("digits"), 0.9, drops=drops)
    (section,) = [one for one in compose(tmp_path).sections if one.name == "drops"]
    lines, rest = section.blocks
    assert isinstance(lines, Lines) and len(lines.lines) == sections.SHOWN_LINES
    assert lines.lines[3] == "run, epoch 30: a drop of the training accuracy at step 3"
    assert rest == Lines("paragraph", ("And 10 more.",))
