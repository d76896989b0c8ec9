"""One whole training on a GPU, in pieces: ``python benchmarks/gpu/train.py RECIPE --minutes 9``.

Calls ``tsslbp train --resume`` and stops it after so many minutes, so that the same command again
goes on where it was. Options behind ``--`` go to ``tsslbp train``. The record (configuration,
environment, metrics) is copied to a folder after every piece. Exit status: 0 the training is
finished, 75 it is not, others as the training's own.
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
PATIENCE = 60  # seconds that a stopped training has to end by itself


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
    parser.add_argument("--run", type=Path, required=True, metavar="DIR", help="the run's folder")
    parser.add_argument("--record", type=Path, metavar="DIR", help="where to copy the record")
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--device", default="cuda")
    given = sys.argv[1:]
    end = given.index("--") if "--" in given else len(given)
    return parser.parse_args(given[:end]), given[end + 1 :]


def _within(command: list[str], seconds: float) -> int:
    """Run a command, interrupted as by Ctrl-C when its time is over."""
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
