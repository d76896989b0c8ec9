"""Repeat a sudden drop with its suspected cause removed: ``python -m study.repeat NAME ...``.

This trains a recipe up to an epoch before a drop, and then continues from that state several times:
once unchanged, and each time with one setting changed, by ``--change`` (a suspected cause is
removed) or by ``--placebo`` (a change that cannot be the cause). The records go to
``results/drops/NAME``, with the numbers of every step and without checkpoints. After an
interruption, the same command continues.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import tomli_w

from tsslbp.errors import RunError
from tsslbp.experiment import save, with_settings
from tsslbp.run import Run
from tsslbp.run.results import Result

from . import drops
from .records import CONTROL, DROPS, PAIR, PLACEBO

RESULTS = Path(__file__).resolve().parents[2] / "results"
KEPT = ("config.toml", "environment.json", "metrics.jsonl", "steps.npz")


def main(arguments: list[str] | None = None, results: Path = RESULTS) -> None:
    given = parser().parse_args(arguments)
    runs, start = given.out / given.name, given.out / given.name / "start"
    training = [given.recipe, *(part for one in given.set for part in ("--set", one))]
    training += ["--seed", str(given.seed)]
    _train([*training, "--epochs", str(given.from_epoch)], start)
    branches = {CONTROL: ""}
    for word, settings in (("change", given.change), (PLACEBO, given.placebo)):
        branches |= {f"{word}-{number}": one for number, one in enumerate(settings, 1)}
    for name, setting in branches.items():
        _branch(start, runs / name, setting)
        changed = ["--set", setting] if setting else []
        _train([*training, *changed, "--epochs", str(given.epochs)], runs / name)
    found = [
        drop for drop in drops.of(Result.read(runs / CONTROL)) if drop.epoch > given.from_epoch
    ]
    if not found:
        raise RunError(f"{runs / CONTROL} has no sudden drop after epoch {given.from_epoch}")
    _keep(runs, results / DROPS / given.name, list(branches))
    words = ["python", "-m", "study.repeat", *(sys.argv[1:] if arguments is None else arguments)]
    table = {
        "step": found[0].step,
        "from_epoch": given.from_epoch,
        "suspect": given.suspect,
        "command": f"PYTHONPATH=research {shlex.join(words)}",
    }
    (results / DROPS / given.name / PAIR).write_text(tomli_w.dumps(table), encoding="utf-8")


def _branch(start: Path, folder: Path, setting: str) -> None:
    """Copy a run, and change one of its settings from then on."""
    if folder.exists():
        return
    half = folder.with_name(f"{folder.name}-half")
    shutil.rmtree(half, ignore_errors=True)
    shutil.copytree(start, half)
    if setting:
        save(with_settings(Run.open(half).experiment, [setting]), half / "config.toml")
    half.rename(folder)


def _train(options: list[str], folder: Path) -> None:
    command = [sys.executable, "-m", "tsslbp", "train", *options, "--out", str(folder), "--resume"]
    _run(command)


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True)


def _keep(runs: Path, record: Path, names: list[str]) -> None:
    for name in names:
        (record / name).mkdir(parents=True, exist_ok=True)
        for file in KEPT:
            shutil.copy(runs / name / file, record / name / file)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m study.repeat", description=__doc__)
    parser.add_argument("name", help="of the record")
    parser.add_argument("--recipe", required=True)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--from-epoch", type=int, required=True, help="after which runs part")
    parser.add_argument("--epochs", type=int, required=True, help="to which each trains on")
    parser.add_argument("--change", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--placebo", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--suspect", required=True, help="the suspected cause, in a few words")
    parser.add_argument("--out", type=Path, default=Path("runs") / "drops", metavar="DIR")
    return parser


if __name__ == "__main__":
    main()
