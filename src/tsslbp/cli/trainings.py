"""What the verbs share that make many runs: where these go, and how they are made."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from .. import toml_files
from ..errors import InvalidInput
from ..experiment import Experiment
from ..studies import trials as study
from ..studies.jobs import Cluster, Engine, Local, cores
from ..studies.jobs import run as run_jobs
from ..studies.trials import Trial
from ..training import trackers as tracking
from ..training.device import configure, gpus
from . import printing, progress

Workers = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        help="Runs at once; by default one a core or GPU, on a cluster all.",
    ),
]
ClusterKind = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        metavar="slurm|local",
        help="Run as jobs of a cluster, through submitit; local tries that on this machine.",
    ),
]
ClusterSettings = Annotated[
    list[str] | None,
    typer.Option(
        "--cluster-set",
        metavar="KEY=VALUE",
        help="Setting of the jobs, such as slurm_partition=gpu or cpus_per_task=8; repeatable.",
    ),
]


def engine_of(
    jobs: int,
    workers: int | None,
    cluster: str | None,
    cluster_settings: Sequence[str] | None,
    device: str,
    folder: Path,
    *wanted: Experiment,
) -> Engine:
    """Where at most so many jobs that train `wanted` shall run, by the command line's options.

    Raises:
        InvalidInput: an option is not allowed, or there is no such cluster or device.
    """
    if cluster:
        for setting in cluster_settings or ():
            if "=" not in setting:
                raise InvalidInput(f"--cluster-set expects KEY=VALUE, got {setting!r}")
        pairs = (setting.partition("=") for setting in cluster_settings or ())
        values = {key.strip(): toml_files.parse_value(value) for key, _, value in pairs}
        return Cluster(workers or jobs, folder / ".cluster", cluster, values)
    if cluster_settings:
        raise InvalidInput("--cluster-set needs --cluster")
    for experiment_ in wanted:
        configure(device, experiment_.precision)
    devices = gpus() if device == "cuda" else []
    return Local(workers or min(jobs, len(devices) or cores()), devices=devices)


def train_options(data_dir: Path | None, device: str, track: Sequence[str] | None) -> list[str]:
    """Options that a command hands on to the trainings that it starts."""
    tracking.check(track or [])
    inherited = data_dir is None or str(data_dir) == os.environ.get("TSSLBP_DATA")
    options = [] if inherited else ["--data-dir", str(data_dir)]
    options += ["--device", device] if device != "cpu" else []
    return options + [part for name in track or [] for part in ("--track", name)]


def make(planned: Sequence[Trial], engine: Engine, options: Sequence[str]) -> dict[str, str]:
    """Make the runs that are not finished yet.

    Returns:
        One line of why by name for each run that failed.
    """
    missing = study.missing(planned)
    printing.say(
        f"{len(planned)} runs, {len(planned) - len(missing)} of them finished; "
        f"{engine.workers} at a time, {engine.threads} threads each"
    )
    try:
        with progress.TrialsDisplay(missing) as watch:
            return run_jobs([trial.job(options) for trial in missing], engine, watch)
    except KeyboardInterrupt:
        printing.complain("stopped", "the same command goes on with the runs")
        raise typer.Exit(130) from None


def describe_failures(failures: Mapping[str, str], runs: int) -> str:
    """A line about the runs that failed, or ""."""
    if not failures:
        return ""
    what = "; ".join(f"{name}: {reason}" for name, reason in failures.items())
    return f"{len(failures)} of {runs} runs failed ({what}); each has a log beside its folder"
