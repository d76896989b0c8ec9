"""What the commands that train share: opening and training one run, and making many runs."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from .. import experiment as experiments
from .. import network as networks
from .. import run as run_folder
from .. import studies, toml_files, training, wording
from ..errors import Diverged, InvalidInput, RunError
from ..studies.jobs import Cluster, Engine, Local, cores
from ..studies.jobs import run as run_jobs
from . import printing, progress
from .options import JobOptions, TrainingOptions, interruptible

if TYPE_CHECKING:
    from ..experiment import Experiment
    from ..run import Run
    from ..studies.trials import Trial
    from ..training import Training


def open_run(folder: Path, wanted: Experiment, resume: bool, epochs: int | None) -> Run:
    """Create the run, or with `resume` open an existing one with the same settings.

    An existing run keeps its number of epochs unless `epochs` is given.
    """
    if not os.path.exists(folder / "config.toml"):
        return run_folder.Run.create(folder, wanted)
    if not resume:
        raise RunError(
            f"{folder} already contains a run: continue it with --resume, or give another --out"
        )
    return run_folder.results.reopen(folder, wanted, epochs, _advice(folder, epochs))


def _advice(folder: Path, epochs: int | None) -> str:
    """What to do if a run to be resumed has other settings than those given."""
    words = ["tsslbp", "resume", str(folder), *(["--epochs", str(epochs)] if epochs else [])]
    return f"{shlex.join(words)} continues it with its own settings; or give another --out"


def with_kept_file(
    folder: Path, wanted: Experiment, resume: bool, epochs: int | None = None
) -> Experiment:
    """The experiment to train; a resumed run uses the copy of the network's file in its folder.

    The copy is run only if it has the checksum of the wanted file.

    Raises:
        RunError: the run has other settings, or another file.
    """
    file = experiments.network_file(wanted.network)
    if not (resume and file and os.path.exists(folder / "config.toml")):
        return wanted
    checksum = experiments.networks.checksum_of(file.source(wanted.network_checksum))
    kept = run_folder.Run.open(folder).experiment
    what, apart = f"{folder} contains a run", ("epochs", "description")
    run_folder.results.check_settings(what, kept, wanted, apart, _advice(folder, epochs))
    return replace(wanted, network=kept.network, network_checksum=checksum)


def train_run(trained: Training, run: Run, track: Sequence[str] | None) -> None:
    """Train a run to its end, and show the progress.

    Raises:
        Diverged: as `Training.fit` does; it names the checkpoint that is kept.
        typer.Exit: the training was interrupted; a message has been printed.
    """
    epochs = run_folder.read_epochs(run)
    done = len(epochs)
    if done >= run.experiment.epochs:
        printing.say(
            f"{run.folder} has finished its {wording.count(run.experiment.epochs, 'epoch')}; "
            "a larger --epochs trains it further"
        )
    elif epochs and run_folder.results.is_finished(epochs, run.experiment):
        printing.say(
            f"{run.folder} ended after epoch {done}, since its accuracy had not improved for "
            f"{wording.count(run.experiment.patience or 0, 'epoch')} (patience); it is not trained "
            "further"
        )
    _print_start(trained, run, done)
    training.keep_freed_memory()
    try:
        with (
            interruptible(f"{_resumed(run)} continues the run in {run.folder}"),
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


def _resumed(run: Run) -> str:
    """The command that continues a run."""
    if run.experiment.activation:  # only `convert` makes its network
        return "the same command with --resume"
    return shlex.join(["tsslbp", "resume", str(run.folder)])


def _print_start(trained: Training, run: Run, done: int) -> None:
    network = experiments.network_name(run.experiment.network)
    relu = run.experiment.activation == "relu"
    printing.say(
        f"network     {network}{' with ReLU' if relu else f', T = {run.experiment.time_steps}'}"
    )
    if experiments.is_described(network):
        printing.print_note(networks.note_on_output(network, trained.data.classes))
    images = ", ".join(f"{count:,} {name}" for name, count in trained.image_counts.items())
    printing.say(f"images      {trained.data.name}: {images}")
    printing.print_note(trained.data.note)
    if trained.processes.count > 1:
        printing.say(f"processes   {trained.processes.count}")
    if start := trained.start:
        taken = len(start.taken)
        printing.say(f"weights     {start.source}: {wording.count(taken, 'tensor')} loaded")
        for line in start.left:
            printing.say(f"            not loaded: {line}")
    if frozen := run.experiment.freeze:
        printing.say(f"frozen      {', '.join(frozen)}")
    printing.say(f"run folder  {run.folder}{f', resumed after epoch {done}' if done else ''}\n")


def engine_of(
    jobs: int, where: JobOptions, device: str, folder: Path, *wanted: Experiment
) -> Engine:
    """Where at most `jobs` trainings of `wanted` run at once, by the command line's options.

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
    """Arguments that a command passes to the trainings that it starts."""
    training.trackers.check(options.track or [])
    inherited = options.data_dir is None or str(options.data_dir) == os.environ.get("TSSLBP_DATA")
    arguments = [] if inherited else ["--data-dir", str(options.data_dir)]
    arguments += ["--device", options.device] if options.device != "cpu" else []
    return arguments + [part for name in options.track or [] for part in ("--track", name)]


def make(planned: Sequence[Trial], engine: Engine, options: Sequence[str]) -> dict[str, str]:
    """Make the runs that are not finished yet.

    Returns:
        The reason for each run that failed, one line, by name.
    """
    missing = studies.trials.missing(planned)
    by_name = {trial.name: trial for trial in missing}
    printing.say(
        f"{wording.count(len(planned), 'run')}, {len(planned) - len(missing)} of them finished; "
        f"{engine.workers} at a time, {wording.count(engine.threads, 'thread')} each"
    )
    with (
        interruptible("the same command continues the runs"),
        progress.TrialsDisplay(missing) as watch,
    ):
        return run_jobs(
            [trial.job(options) for trial in missing],
            engine,
            watch,
            lambda job: by_name[job.name].is_finished(),
        )


LONG = 3600.0  # seconds of a plan that says how to stop it


def say_plan(
    seconds: float, disk: int, dry_run: bool, what: str = "", each: float | None = None
) -> None:
    """Print the time and disk space that planned runs need, and how to stop a long plan.

    Args:
        seconds: of all runs together.
        disk: bytes of all runs together, about.
        dry_run: whether no run is made now.
        what: the runs, such as ``"16 trials"``; "": already printed.
        each: seconds of one run.
    """
    if what:
        one = f", {wording.duration(each)} each" if each is not None else ""
        printing.say(f"{what}{one}: about {wording.duration(seconds)} in total")
    printing.say(f"disk        about {wording.size(disk)}")
    if dry_run:
        printing.say("dry run: nothing is trained or written")
    elif seconds > LONG:
        printing.say(
            "Ctrl-C stops at any time, and the same command continues; smaller --seeds or --epochs "
            "take less time, and --dry-run only prints the plan"
        )


def check_failures(failures: Mapping[str, str], runs: int) -> None:
    """Raise `RunError` where some of the runs have failed."""
    if failures:
        what = "; ".join(f"{name}: {reason}" for name, reason in failures.items())
        raise RunError(
            f"{len(failures)} of {runs} runs failed ({what}); each has a log next to its folder"
        )
