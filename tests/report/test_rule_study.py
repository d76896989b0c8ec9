"""Tests that the section on learning rules agrees with the records and has only valid runs."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tsslbp import report
from tsslbp.run import Run
from tsslbp.studies import compare
from tsslbp.studies.compare import RuleStudy

RULES = ("TSSLBP", "TSSLBP(warm_up=always)")
RATES = (0.001, 0.002, 0.004)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, make_run: Callable, recipe: Callable) -> Path:
    """Folder of a comparison of two rules at two T.

    One pair chose a learning rate at the edge of the grid, and one diverged at every rate.
    """
    folder = tmp_path_factory.mktemp("study")
    base = recipe("digits", epochs=3, loss="softmax")
    planned = RuleStudy(base, RULES, (2, 5), RATES, 3)
    compare.prepare(planned, folder / "rules")
    reached = {  # test accuracies by seed at the chosen rate, which is the middle or the last one
        ("TSSLBP", 2): (0.002, 0.90, 0.91, 0.92),
        (RULES[1], 2): (0.004, 0.95, 0.96, 0.971),
        ("TSSLBP", 5): (0.002, 0.93, 0.94, 0.95),
    }
    for pair in planned.pairs:
        best, *accuracies = reached.get(pair, (None,))
        for rate in RATES:
            runs = planned.runs(folder / "rules", *pair, rate)
            if best is None:
                Run.create(runs[0].folder, runs[0].experiment).record_divergence("step 1: NaN")
            elif rate == best:
                for run, accuracy in zip(runs, accuracies, strict=True):
                    make_run(run.folder, run.experiment, accuracy)
            else:
                make_run(runs[0].folder, runs[0].experiment, 0.123)
    return folder


def write(folder: Path, out: Path) -> tuple[str, str, list[str]]:
    """Write a report on a folder, and return its HTML, its Markdown and its problems."""
    problems = report.write([folder], out / "report.html")
    return (out / "report.html").read_text(), (out / "report.md").read_text(), problems


@pytest.fixture(scope="module")
def written(study: Path) -> tuple[str, str, list[str]]:
    return write(study / "rules", study)


def part(markdown: str, title: str) -> str:
    """Return the section with that title."""
    return markdown.partition(f"## {title}")[2].partition("\n## ")[0]


def test_table(written: tuple[str, str, list[str]]) -> None:
    section = part(written[1], "Learning rules side by side: digits")
    assert "| TSSLBP | 0.002 | 3 | 91.00 ± 1.00<br>88.52 to 93.48 | 1,002 | 6.0 s |" in section
    assert "| TSSLBP(warm\\_up=always) | 0.004<br>edge of the grid | 3 | 96.03 ± 1.05" in section
    lost = "| TSSLBP(warm\\_up=always)<br>diverged at every learning rate | - | 0 | - | - | - |"
    assert lost in section
    assert section.index("**T = 2**") < section.index("**T = 5**") < section.index(lost)
    assert "is the lowest or highest of those tried" in section


def test_differences(written: tuple[str, str, list[str]]) -> None:
    html, markdown, _ = written
    section = part(markdown, "Learning rules side by side")
    (line,) = [line for line in section.splitlines() if "| higher | 2 | 3 | +5.03<br>" in line]
    assert "+4.89 to +5.18" in line
    assert "| undecided | 5 | 0 | - | - |" in section
    assert '<span class="badge undecided">' in html


def test_choice_of_the_learning_rate(written: tuple[str, str, list[str]]) -> None:
    section = part(written[1], "Learning rules side by side")
    assert "| TSSLBP, T = 2 | 12.30 | 90.00<br>chosen | 12.30 |" in section
    assert "| diverged | diverged | diverged |" in section
    assert (
        "15 runs took 1 min 30 s of training time in total. 6 of them (36.0 s) did not use"
        in section
    )


def test_runs_that_only_chose_a_rate_are_no_evidence(written: tuple[str, str, list[str]]) -> None:
    _, markdown, problems = written
    assert "9 finished runs of 3 settings on digits" in markdown
    assert "6 further runs served only to choose a learning rate." in markdown
    for title in ("Results", "Comparisons over the same seeds", "Figures: digits"):
        assert f"## {title}" not in markdown
    assert "lr-0.001/validated-seed0 |" in part(markdown, "Runs")
    assert "| all runs | 15 |" in part(markdown, "Compute")
    assert len(problems) == 3  # the runs that diverged before the end of an epoch
    assert all("diverged in its first epoch: step 1: NaN" in one for one in problems)


def test_figures(study: Path, written: tuple[str, str, list[str]]) -> None:
    for name in ("steps", "spikes", "seconds"):
        assert f"report_figures/rules-1-{name}.svg" in written[1]
        assert (study / "report_figures" / f"rules-1-{name}.svg").stat().st_size > 1000


def test_other_runs_beside_a_comparison(
    study: Path, tmp_path: Path, make_run: Callable, recipe: Callable
) -> None:
    shutil.copytree(study / "rules", tmp_path / "runs" / "rules")
    for seed in (0, 1):
        make_run(tmp_path / "runs" / f"other-{seed}", recipe("digits", seed), 0.9 + seed / 100)
    _, markdown, _ = write(tmp_path / "runs", tmp_path)
    assert "| digits | 2 |" in part(markdown, "Results")
    assert part(markdown, "Results").count("\n| digits") == 1
    assert "Learning rules side by side" in markdown and "## Figures: digits" in markdown


def test_a_comparison_that_cannot_be_read(study: Path, tmp_path: Path) -> None:
    """Its runs are reported like any others, and the problems say why the section is missing."""
    shutil.copytree(study / "rules", tmp_path / "rules")
    (tmp_path / "rules" / compare.FILE).write_text("{")
    _, markdown, problems = write(tmp_path / "rules", tmp_path)
    assert "cannot read the comparison" in problems[-1]
    assert "Learning rules side by side" not in markdown
    assert "## Results" in markdown
