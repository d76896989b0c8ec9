"""One whole training on a GPU, in pieces: ``python benchmarks/gpu/train.py RECIPE --minutes 9``.

It calls ``tsslbp train --resume`` and stops it after the given minutes, so that the same command
continues it later. Options after ``--`` are passed to ``tsslbp train``. The record (configuration,
environment, metrics) is copied to a folder after every piece. The exit status is 0 if the training
is finished, 75 if it is not, and otherwise that of the training.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import subprocess
import sys
from pathlib import Path

RECORD = ("config.toml", "environment.json", "metrics.jsonl")
UNFINISHED = 75  # EX_TEMPFAIL
PATIENCE = 60  # seconds in which a stopped training must end by itself


def main() -> int:
    arguments, others = _arguments()
    command = [sys.executable, "-m", "tsslbp", "train", arguments.recipe, "--resume"]
    command += ["--out", str(arguments.run), "--device", arguments.device, *others]
    status = _within(command, 60 * arguments.minutes)
    if arguments.record:
        arguments.record.mkdir(parents=True, exist_ok=True)
        for name in RECORD:
            if (arguments.run / name).exists():
                shutil.copy(arguments.run / name, arguments.record / name)
    return status


def _arguments() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(description="Train on a GPU, a few minutes at a time.")
    parser.add_argument("recipe")
    parser.add_argument("--run", type=Path, required=True, metavar="DIR", help="the run folder")
    parser.add_argument("--record", type=Path, metavar="DIR", help="folder for the record")
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--device", default="cuda")
    given = sys.argv[1:]
    end = given.index("--") if "--" in given else len(given)
    return parser.parse_args(given[:end]), given[end + 1 :]


def _within(command: list[str], seconds: float) -> int:
    """Run a command, and interrupt it like Ctrl-C when its time is over."""
    process = subprocess.Popen(command)
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
    return UNFINISHED


if __name__ == "__main__":
    sys.exit(main())
