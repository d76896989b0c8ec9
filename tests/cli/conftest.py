"""Fixtures for tests of the program, which runs in this process on a user's recipe and images."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tsslbp import cli
from tsslbp.run import Run, results

RECIPE = """
data = "mine.npz"
network = "4C3-P2-8"
time_steps = 3
validation_images = 12
epochs = 2
batch_size = 16
learning_rate = 0.01
"""


ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


TIMES = ("seconds", "evaluation_seconds", "images_per_second", "peak_memory")


Program = Callable[..., tuple[int, str, str]]


def arrays(count: int = 70) -> dict[str, np.ndarray]:
    """Return images of 8 x 8 pixels with a bright left or right half, and their two classes."""
    labels = np.arange(count) % 2
    images = np.random.RandomState(0).randint(0, 100, (count, 8, 8)).astype(np.uint8)
    images[labels == 0, :, :4] += 100
    images[labels == 1, :, 4:] += 100
    return {"images": images, "labels": labels}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the current folder, which contains a user's recipe and its images."""
    for variable in ("TSSLBP_DATA", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").write_text(RECIPE)
    np.savez(tmp_path / "mine.npz", **arrays())
    return tmp_path


@pytest.fixture
def program(capsys: pytest.CaptureFixture[str]) -> Program:
    """Return a function that runs the program and returns exit code, output and error output."""

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = cli.main(arguments)
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def refused(program: Program) -> Callable[..., str]:
    """Return a function that runs a command, which must fail with one line, and returns it."""

    def run(*arguments: str) -> str:
        code, _, error = program(*arguments)
        assert code == 2
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        assert "Traceback" not in error
        return error

    return run


def records(run: str | Path) -> list[dict[str, Any]]:
    """Return the records of a run's epochs without what differs between two equal runs."""
    epochs = Run.open(Path(run)).epochs()
    return [{key: value for key, value in one.items() if key not in TIMES} for one in epochs]


def accuracies(output: str) -> dict[str, list[str]]:
    """Return epoch, validation and test accuracy by row of the last table in `output`."""
    rows = {}
    for line in output.splitlines():
        title, *cells = re.split(r"  +", line.strip())
        if title in results.MEASURES.values():
            rows[title] = cells
    return rows
