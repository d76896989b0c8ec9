"""What the verbs share that train: how a run is opened and trained, and how many are made."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from .. import experiment as experiments
from .. import run as run_folder
from .. import studies, toml_files, training
from ..errors import Diverged, InvalidInput, RunError
from ..studies.jobs import Cluster, Engine, Local, cores
from ..studies.jobs import run as run_jobs
from . import printing, progress
from .options import JobOptions, TrainingOptions

if TYPE_CHECKING:
    from ..experiment import Experiment
    from ..run import Run
    from ..studies.trials import Trial
    from ..training import Training


def open_run(folder: Path, wanted: Experiment, resume: bool, epochs: int | None) -> Run:
    """Make the run, or open it again where `resume` finds one of the same settings.

    A run that is opened again keeps its number of epochs unless `epochs` says another.
    """
    if not (folder / "config.toml").exists():
        return run_folder.Run.create(folder, wanted)
    if not resume:
        raise RunError(
            f"{folder} holds a run already: continue it with --resume, or give another --out"
        )
    return run_folder.results.reopen(folder, wanted, epochs)


def with_kept_file(folder: Path, wanted: Experiment, resume: bool) -> Experiment:
    """What is trained where a run is resumed whose network is a file: the copy in its folder.

    It is run only if it has the checksum of the file that is wanted.

    Raises:
        RunError: the run has other settings, or another file.
    """
    file = experiments.network_file(wanted.network)
    if not (resume and file and (folder / "config.toml").exists()):
        return wanted
    checksum = experiments.networks.checksum_of(file.source(wanted.network_checksum))
    kept = run_folder.Run.open(folder).experiment
    what, apart = f"{folder} holds a run", ("epochs", "description")
    run_folder.results.check_settings(what, kept, wanted, apart)
    return replace(wanted, network=kept.network, network_checksum=checksum)


def train_run(trained: Training, run: Run, track: Sequence[str] | None) -> None:
    """Train a run to its end, and show how it goes.

    Raises:
        Diverged: as `Training.fit` does; it names the checkpoint that is kept.
        typer.Exit: the training was interrupted, and that has been told.
    """
    if len(run.epochs()) >= run.experiment.epochs:
        printing.say(
            f"{run.folder} has trained its {run.experiment.epochs} epochs; "
            "a larger --epochs trains it further"
        )
    _print_start(trained, run)
    training.keep_freed_memory()
    try:
        with (
            interruptible(f"the same command with --resume continues the run in {run.folder}"),
            progress.Display(run.experiment.epochs) as shown,
            training.trackers.trackers(
                track or [], run, trained.steps.per_epoch, shown
            ) as observer,
        ):
            trained.fit(run, observer)
    except Diverged as error:
        has_kept = run.has_checkpoint("last")
        kept = f"; {run.folder} keeps the last good checkpoint" if has_kept else ""
        raise Diverged(f"{error}{kept}") from error


@contextmanager
def interruptible(advice: str) -> Iterator[None]:
    """End the program at an interrupt with the status of one, and say how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        printing.complain("stopped", advice)
        raise typer.Exit(130) from None


def _print_start(trained: Training, run: Run) -> None:
    network, done = experiments.network_name(run.experiment.network), len(run.epochs())
    relu = run.experiment.activation == "relu"
    printing.say(
        f"network     {network}{' with ReLU' if relu else f', T = {run.experiment.time_steps}'}"
    )
    images = ", ".join(f"{count:,} {name}" for name, count in trained.image_counts.items())
    printing.say(f"images      {trained.data.name}: {images}")
    printing.print_note(trained.data.note)
    if trained.processes.count > 1:
        printing.say(f"processes   {trained.processes.count}")
    printing.say(f"run folder  {run.folder}{f', resumed after epoch {done}' if done else ''}\n")


def engine_of(
    jobs: int, where: JobOptions, device: str, folder: Path, *wanted: Experiment
) -> Engine:
    """Where so many jobs at once, at most, that train `wanted` run, by the command line's options.

    Raises:
        InvalidInput: an option is not allowed, or there is no such cluster or device.
    """
    settings = where.cluster_settings or []
    if where.cluster:
        for setting in settings:
            if "=" not in setting:
                raise InvalidInput(f"--cluster-set expects KEY=VALUE, got {setting!r}")
        pairs = (setting.partition("=") for setting in settings)
        values = {key.strip(): toml_files.parse_value(value) for key, _, value in pairs}
        return Cluster(where.workers or jobs, folder / ".cluster", where.cluster, values)
    if settings:
        raise InvalidInput("--cluster-set needs --cluster")
    for experiment_ in wanted:
        training.configure(device, experiment_.precision)
    devices = training.gpus() if device == "cuda" else []
    return Local(where.workers or min(jobs, len(devices) or cores()), devices=devices)


def train_arguments(options: TrainingOptions) -> list[str]:
    """Arguments that a command hands on to the trainings that it starts."""
    training.trackers.check(options.track or [])
    inherited = options.data_dir is None or str(options.data_dir) == os.environ.get("TSSLBP_DATA")
    arguments = [] if inherited else ["--data-dir", str(options.data_dir)]
    arguments += ["--device", options.device] if options.device != "cpu" else []
    return arguments + [part for name in options.track or [] for part in ("--track", name)]


def make(planned: Sequence[Trial], engine: Engine, options: Sequence[str]) -> dict[str, str]:
    """Make the runs that are not finished yet.

    Returns:
        One line of why by name for each run that failed.
    """
    missing = studies.trials.missing(planned)
    by_name = {trial.name: trial for trial in missing}
    printing.say(
        f"{len(planned)} runs, {len(planned) - len(missing)} of them finished; "
        f"{engine.workers} at a time, {engine.threads} threads each"
    )
    with (
        interruptible("the same command goes on with the runs"),
        progress.TrialsDisplay(missing) as watch,
    ):
        return run_jobs(
            [trial.job(options) for trial in missing],
            engine,
            watch,
            lambda job: by_name[job.name].is_finished(),
        )


def check_failures(failures: Mapping[str, str], runs: int) -> None:
    """Raise `RunError` where some of the runs have failed."""
    if failures:
        what = "; ".join(f"{name}: {reason}" for name, reason in failures.items())
        raise RunError(
            f"{len(failures)} of {runs} runs failed ({what}); each has a log beside its folder"
        )
