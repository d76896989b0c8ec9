"""Tests of output to full disks, closed pipes and terminals, and of control characters in it."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from tsslbp import cli
from tsslbp.cli import output, printing, progress
from tsslbp.errors import InvalidInput, printable
from tsslbp.run import Run

from .conftest import Program

OBEYED = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")  # by terminals
EVIL = "\x1b]0;title\x07\x1b[31m\x9b2J\u202e[/red][bold]$\\bad$"

needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is full")


@contextmanager
def stdout_to(monkeypatch: pytest.MonkeyPatch, stream: io.TextIOBase | None) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        yield


def full() -> io.TextIOBase:
    return open("/dev/full", "w")


def closed_pipe() -> io.TextIOBase:
    read, write = os.pipe()
    os.close(read)
    return os.fdopen(write, "w")


def closed_terminal() -> io.TextIOBase:
    pty = pytest.importorskip("pty")
    master, slave = pty.openpty()
    stream = os.fdopen(slave, "w")
    os.close(master)
    return stream


def closed_file() -> io.TextIOBase:
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.mark.parametrize(
    ("make", "said"),
    [
        pytest.param(full, "No space left on device", marks=needs_full),
        (closed_terminal, "Input/output error"),
    ],
)
def test_a_training_goes_on_where_nobody_takes_its_output(
    make: Callable[[], io.TextIOBase],
    said: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stream = make()
    with stdout_to(monkeypatch, stream):
        status = cli.main(["train", "mine.toml", "--out", "run"])
    if not stream.closed:
        stream.close()  # what it still holds is lost
    run, error = Run.open(folder / "run"), capsys.readouterr().err
    assert status == 1 and len(run.epochs()) == 2
    assert run.has_checkpoint("last") and run.cost() and (run.folder / "picture.png").is_file()
    assert error == f"error: the output could not be written ({said}); everything else was done\n"


@pytest.mark.parametrize(
    ("make", "said"), [(closed_pipe, ""), (closed_file, "I/O operation on closed file")]
)
def test_output_that_is_lost(
    make: Callable[[], io.TextIOBase],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Lost output gives exit code 1 and one line of error, but none for a closed pipe."""
    stream = make()
    with stdout_to(monkeypatch, stream):
        assert cli.main(["recipes", "digits"]) == 1
    if not stream.closed:
        stream.close()
    error = capsys.readouterr().err
    assert (said in error and error.count("\n") == 1) if said else not error


def test_without_any_output_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    with stdout_to(monkeypatch, None):
        assert cli.main(["recipes", "digits"]) == 0


def test_letters_that_a_terminal_does_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.BytesIO()
    stream = io.TextIOWrapper(screen, "ascii", write_through=True)
    with stdout_to(monkeypatch, stream):
        printing.say("4.81 µJ ± \udc80")
    assert screen.getvalue() == b"4.81 \\xb5J \\xb1 \\udc80\n"


@needs_full
def test_the_exit_status_tells_that_output_was_lost() -> None:
    command = [sys.executable, "-m", "tsslbp", "recipes", "digits"]
    with open("/dev/full", "w") as stream:
        done = subprocess.run(command, stdout=stream, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: the output could not be written (No space left")
    assert done.stderr.count("\n") == 1


def test_a_closed_terminal_under_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss of the terminal is noticed also while rich writes bars to it."""
    stream = closed_terminal()
    with stdout_to(monkeypatch, stream):
        output.begin()
        console = Console(file=output.OUT, force_terminal=True, highlight=False)  # type: ignore[arg-type]
        monkeypatch.setattr(printing, "console", console)
        with progress.Download("file") as bar:
            bar.update(1)
            printing.say("a line")
        assert output.loss() == "Input/output error"
    stream.close()


@given(st.text())
def test_what_is_printable_is_obeyed_by_no_terminal(text: str) -> None:
    found = printable(text)
    assert not OBEYED.search(found)
    found.encode()
    assert printable(found) == found
    assert str(InvalidInput(text)) == found.replace("\n", r"\n")
    if text.isprintable():
        assert found == text


def test_an_errors_text_has_an_end() -> None:
    assert len(str(InvalidInput("x" * 10**7))) < 2000


@pytest.fixture
def quiet(program: Program) -> Callable[..., str]:
    """Return a function that runs the program and checks that no terminal obeys its output."""

    def run(*arguments: str) -> str:
        _, out, error = program(*arguments)
        assert not OBEYED.search(out + error)
        assert out + error
        return out + error

    return run


def test_arguments_are_shown_as_text(folder: Path, quiet: Callable[..., str]) -> None:
    for arguments in (
        ["evaluate", EVIL],
        ["recipes", EVIL],
        ["info", EVIL],
        ["train", EVIL],
        ["train", "mine.toml", "--set", f"{EVIL}=1"],
        ["train", "mine.toml", "--set", f"data={EVIL}.npz"],
        ["data", "show", EVIL, "0"],
        ["sweep", "mine.toml", "--space", f"{EVIL}.toml"],
        ["report", EVIL],
        [EVIL],
        ["train", f"--{EVIL}"],
    ):
        assert "\\x1b" in quiet(*arguments), arguments


def test_files_are_shown_as_text(folder: Path, quiet: Callable[..., str]) -> None:
    name = "\x1b[31mevil[b]"
    (folder / name).mkdir()
    recipe = json.dumps({"description": EVIL})[1:-1].replace('"description":', "description =")
    text = (folder / "mine.toml").read_text()
    (folder / name / "evil.toml").write_text(f"{recipe}\n{text}".replace("\\\\", "\\\\"))
    np.savez(folder / name / "mine.npz", **dict(np.load(folder / "mine.npz")))
    assert "\\x1b" in quiet("recipes", f"{name}/evil.toml")
    assert "\\x1b" in quiet("train", f"{name}/evil.toml", "--out", f"{name}/run", "--epochs", "1")
    run = folder / name / "run"
    line = json.loads((run / "metrics.jsonl").read_text())
    (run / "metrics.jsonl").write_text(json.dumps(line | {"note": EVIL}) + "\n")
    environment = json.loads((run / "environment.json").read_text())
    hostile = environment | {"cpu": EVIL, "command": f"tsslbp\n```\n{EVIL}"}
    (run / "environment.json").write_text(json.dumps(hostile))
    (run / "diverged.json").write_text(json.dumps({"reason": EVIL}))
    quiet("evaluate", str(run))
    assert "\\x1b" in quiet("draw", str(run))
    pytest.importorskip("jinja2")
    quiet("report", name, "-o", "report.html")
    for written in ("report.html", "report.md"):
        assert not OBEYED.search((folder / written).read_text())


def test_warnings_and_logs_are_shown_as_text(quiet: Callable[..., str]) -> None:
    printing.show_warning(UserWarning(EVIL))
    with printing.logging_shown():
        printing.logging.getLogger("tsslbp").info(EVIL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert quiet("recipes", "digits")


def test_what_is_done_is_shown_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=200, color_system=None)
    monkeypatch.setattr(printing, "console", console)
    with printing.working(f"loading {EVIL}"):
        pass
    assert "[/red][bold]" in screen.getvalue() and "\x1b]0;" not in screen.getvalue()
