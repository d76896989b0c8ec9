"""Tests of the queue of GPU measurements: the programs accept all of its commands."""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys
from pathlib import Path

import pytest
import torch

from tsslbp import cli

ROOT = Path(__file__).resolve().parents[1]
GPU = ROOT / "benchmarks" / "gpu"
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (GPU / "QUEUE.md").read_text().splitlines()
    if re.match(r"\| \d+ \|", line)
]
COMMANDS = [(row[0], row[2].partition("`")[2].partition("`")[0]) for row in ROWS if row[2]]


def trainings() -> list[tuple[str, list[str]]]:
    """Return every call of train.py; of each loop, only the first value is used."""
    found = []
    for number, command in COMMANDS:
        call = re.search(r"python benchmarks/gpu/train\.py ([^;&`]*)", command)
        if call:
            text = call[1].replace("$OUT", "out").replace("/tmp/", "scratch/")
            for name, value in re.findall(r"for (\w) in (\w+)", command):
                text = text.replace(f"${name}", value)
            found.append((number, shlex.split(text)))
    return found


def test_rows() -> None:
    """Entries are numbered in order, take at most 30 minutes, and name the files they produce."""
    assert [int(row[0]) for row in ROWS] == list(range(1, len(ROWS) + 1))
    assert len(trainings()) >= 7
    for row in ROWS:
        assert len(row) == 5 and row[1] and row[4]
        assert max(map(int, re.findall(r"\d+", row[3]))) <= 30 and row[3].endswith(" min")
    for number, command in COMMANDS:
        for name in re.findall(r"[\w/]+\.py", command):
            assert (ROOT / name).is_file(), (number, name)


@pytest.mark.skipif(torch.cuda.is_available(), reason="it would train: there is a GPU")
@pytest.mark.parametrize(("number", "arguments"), trainings())
def test_training(
    number: str,
    arguments: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    """The recipe and the options of every training are valid: only the GPU is missing."""
    spec = importlib.util.spec_from_file_location("gpu_train", GPU / "train.py")
    assert spec and spec.loader
    train = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(train)
    commands = []
    monkeypatch.setattr(train, "_within", lambda command, seconds: commands.append(command) or 0)
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
    monkeypatch.chdir(tmp_path)
    assert train.main() == 0
    assert cli.main(commands[0][3:]) == 2
    assert "no device 'cuda': PyTorch finds 0 GPUs" in " ".join(capsys.readouterr().err.split())
