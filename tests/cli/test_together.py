"""Two commands started at the same time for one folder: exactly one of them gets it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import tsslbp
from tsslbp.experiment import load_recipe
from tsslbp.run import Run

ROUNDS = int(os.environ.get("TSSLBP_ROUNDS", "2"))  # of every command
HEAD_START = 0.05  # seconds in which both read their command before they begin

pytestmark = pytest.mark.slow

CHILD = """
import contextlib, io, json, sys, time
import torch
from tsslbp import cli, storage
from tsslbp.figures import svg
from tsslbp.studies import jobs

torch.set_num_threads(1)

class Done:
    def __init__(self, job):
        job.log.parent.mkdir(parents=True, exist_ok=True)
        self.status = cli.main(job.arguments)
    def poll(self):
        return self.status
    def terminate(self):
        pass

svg.save_png = lambda figure, path, dpi: storage.write_file(path, b"")  # it takes long
jobs.POLL_SECONDS = 0.0
jobs.Local.start = lambda local, job: Done(job)
print("ready", file=sys.__stdout__, flush=True)
for line in sys.stdin:
    start, arguments = json.loads(line)
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        while time.time() < start:
            pass
        code = cli.main(arguments)
    print(json.dumps([code, errors.getvalue()]), file=sys.__stdout__, flush=True)
"""

Together = Callable[[list[str], list[str]], list[tuple[int, str]]]


@pytest.fixture(scope="module")
def children() -> Iterator[list[subprocess.Popen[str]]]:
    """Yield two processes that have loaded the program."""
    source = str(Path(tsslbp.__file__).parents[1])
    environment = {key: value for key, value in os.environ.items() if key != "TSSLBP_DATA"}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment | {"PYTHONPATH": source, "OMP_NUM_THREADS": "1"},
        )
        for _ in range(2)
    ]
    for child in started:
        assert child.stdout is not None and child.stdout.readline() == "ready\n"
    yield started
    for child in started:
        child.kill()
        child.communicate()


@pytest.fixture
def together(children: list[subprocess.Popen[str]]) -> Together:
    """Return a function that runs two commands at once and returns exit codes and errors."""

    def run(*commands: list[str]) -> list[tuple[int, str]]:
        start = time.time() + HEAD_START
        for child, arguments in zip(children, commands, strict=True):
            assert child.stdin is not None
            child.stdin.write(json.dumps([start, arguments]) + "\n")
            child.stdin.flush()
        answers: list[Any] = []
        for child in children:
            assert child.stdout is not None
            answers.append(tuple(json.loads(child.stdout.readline())))
        return answers

    return run


def winner(answers: list[tuple[int, str]], reasons: tuple[str, ...]) -> int:
    """Return which of two commands succeeded; the other must have been refused with one line."""
    codes = [code for code, _ in answers]
    assert sorted(codes) == [0, 2], answers
    won = codes.index(0)
    line = answers[1 - won][1].strip().splitlines()[-1]
    assert line.startswith("error: ") and any(reason in line for reason in reasons), answers
    return won


IN_USE = ("is in use by another process",)
WRITERS = {  # by command: more of its arguments, where it keeps the recipe, why one is refused
    "train": ([], "config.toml", (*IN_USE, "already contains a run", "holds a run already")),
    "convert": (["--time-steps", "2"], "config.toml", (*IN_USE, "already")),
    "trials": (["--seeds", "1"], "recipe.toml", (*IN_USE, "with other settings")),
    "compare": (
        ["--rules", "TSSLBP", "--learning-rates", "0.01", "--seeds", "1"],
        "recipe.toml",
        (*IN_USE, "with other settings"),
    ),
    "sweep": (["--space", "space.toml"], "recipe.toml", (*IN_USE, "with other settings")),
}


@pytest.mark.parametrize("command", WRITERS)
def test_one_of_two_has_a_new_folder(folder: Path, together: Together, command: str) -> None:
    """One of two commands gets the folder, which contains the configuration of that one."""
    Path("space.toml").write_text("trials = 1\n[parameters]\nlearning_rate = [0.01, 0.02]\n")
    more, recipe, reasons = WRITERS[command]
    for number in range(ROUNDS):
        out = folder / "runs" / str(number)
        common = [command, str(folder / "mine.toml"), "--epochs", "1", *more, "--out", str(out)]
        common = [str(folder / one) if one == "space.toml" else one for one in common]
        answers = together(*([*common, "--set", f"batch_size={size}"] for size in (16, 20)))
        won = winner(answers, reasons)
        assert load_recipe(out / recipe).batch_size == (16, 20)[won]
        runs = [Run.open(path.parent) for path in out.rglob("config.toml")]
        assert [run.experiment.batch_size for run in runs] == [(16, 20)[won]]
        assert [len(run.epochs()) for run in runs] == [1]


def test_one_of_two_resumes(folder: Path, together: Together) -> None:
    """The refused command changes neither the configuration nor the list of resumes.

    On a busy machine the second may start after the first has ended; then both succeed.
    """
    for number in range(ROUNDS):
        out = folder / "runs" / str(number)
        common = ["train", str(folder / "mine.toml"), "--out", str(out), "--resume", "--epochs"]
        assert [code for code, _ in together([*common, "1"], ["recipes"])] == [0, 0]
        answers = together([*common, "2"], [*common, "3"])
        run = Run.open(out)
        if [code for code, _ in answers] == [0, 0]:
            assert run.experiment.epochs == len(run.epochs()) == 3
            assert len(run.environment["resumed"]) == 2
            continue
        won = winner(answers, (*IN_USE, "has 3 epochs already"))
        assert run.experiment.epochs == len(run.epochs()) == (2, 3)[won]
        (resumed,) = run.environment["resumed"]
        assert resumed["processes"] == 1


def test_refused_before_anything_changes(folder: Path, together: Together) -> None:
    """While a run is held, other commands for its folder are refused and change no file."""
    out = folder / "run"
    common = ["train", str(folder / "mine.toml"), "--out", str(out), "--resume", "--epochs"]
    assert [code for code, _ in together([*common, "1"], ["recipes"])] == [0, 0]
    run = Run.open(out)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with run.hold():
        for code, error in together([*common, "9"], ["convert", *common[1:], "9"]):
            assert code == 2 and "is in use by another process" in error
        assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
