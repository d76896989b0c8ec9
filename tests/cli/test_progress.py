"""Tests of how the progress of a training is shown."""

import io
import logging
import re
from typing import Any

import pytest
from rich.console import Console

from tsslbp.cli import printing, progress
from tsslbp.run import results

from .conftest import ANSI, Program, accuracies

pytestmark = pytest.mark.usefixtures("folder")


def test_output_into_a_file_is_plain_and_unbroken(program: Program) -> None:
    out = "/".join(["a-rather-long-name"] * 6)
    _, output, _ = program("train", "mine.toml", "--out", out)
    assert "\x1b" not in output and "\r" not in output
    assert f"run folder  {out}\n" in output
    epoch_lines = [line for line in output.splitlines() if "/2" in line]
    assert len(epoch_lines) == 2


def test_output_on_a_terminal_fits(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, width=80, highlight=False)
    monkeypatch.setattr(printing, "console", terminal)
    assert program("train", "mine.toml")[0] == 0
    output = ANSI.sub("", screen.getvalue())
    lines = re.split(r"[\r\n]+", output)
    assert max(map(len, lines)) <= 80
    assert any(line.startswith("starting") for line in lines)
    assert any("epoch 2/2 testing" in line for line in lines)
    assert accuracies(output).keys() == set(results.MEASURES.values())


def test_epoch_line_fits_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    record = {"epoch": 100, "loss": 1234.5678, "seconds": 3599.0, "images_per_second": 12345.6}
    splits = ("train", "validation", "test")
    record |= {f"{split}_accuracy": 1.0 for split in splits}
    shown = progress.Display(100)
    shown.on_epoch(record)
    shown.on_epoch(record)
    heading, *lines = capsys.readouterr().out.splitlines()
    assert heading.split() == ["epoch", "loss", *splits, "time", "images/s"]
    expected = "100/100 1234.5678 100.00 % 100.00 % 100.00 % 59 min 59 s 12,346"
    assert [" ".join(line.split()) for line in lines] == [expected] * 2
    assert all(len(line) <= 80 for line in (heading, *lines))


def test_what_the_library_logs_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("tsslbp")
    with printing.logging_shown():
        logger.info("compiling kernels")
    logger.info("no longer")
    assert capsys.readouterr().err == "compiling kernels\n"
    assert not logger.handlers


def test_running_accuracy_is_that_of_the_epoch(program: Program) -> None:
    """Batches count by their size: of 51 images in batches of 16, the last batch has only three."""
    seen = []

    class Spy(progress.Display):
        def on_epoch(self, record: dict[str, Any]) -> None:
            seen.append((self.correct / self.seen, record["train_accuracy"]))
            super().on_epoch(record)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress, "Display", Spy)
        assert program("train", "mine.toml")[0] == 0
    assert len(seen) == 2
    assert all(ours == pytest.approx(theirs) for ours, theirs in seen)
