"""One recipe over several seeds: the runs to make, and their expected time."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from .. import experiment as experiments
from ..checked import check_whole
from ..errors import RunError
from ..experiment import Experiment, ProtocolName, network_file
from ..run import Run
from ..run.results import Result, check_settings
from ..storage import hold_folder
from .jobs import Job

RECIPE = "recipe.toml"
MOST_SEEDS = 10_000


@dataclass(frozen=True)
class Trial:
    """One run of a study, finished or still to be made."""

    recipe: Path  # file of the experiment; seed and protocol may differ
    folder: Path  # of the run
    experiment: Experiment  # what the run trains
    base: Path | None = None  # the name is the path relative to it; default: two folders above
    settings: Sequence[str] = ()  # other differences from the recipe, as ``"key=value"``

    @property
    def name(self) -> str:
        """The path of the run relative to `base`, by which messages name the trial."""
        return self.folder.relative_to(self.base or self.folder.parent.parent).as_posix()

    @property
    def log(self) -> Path:
        """File of what the command of this trial prints; it lies beside the folder."""
        return self.folder.with_suffix(".log")

    def result(self) -> Result | None:
        """Return the result of the run so far; None before its first epoch.

        Raises:
            RunError: the folder contains a run with other settings, or cannot be read.
        """
        if not os.path.lexists(self.folder / "config.toml"):
            return None
        run = Run.open(self.folder)
        what = f"{self.folder} holds a run"
        check_settings(what, run.experiment, self.experiment, ("epochs", "description"))
        result = Result.read(self.folder) if run.epochs() else None
        return result and replace(result, experiment=self.experiment)

    def is_finished(self) -> bool:
        """Whether the run exists with all its epochs; false if it cannot be read."""
        try:
            result = self.result()
        except RunError:
            return False
        return result is not None and result.finished

    def divergence(self) -> str | None:
        """Return why the run diverged; None if it has not."""
        there = os.path.lexists(self.folder / "config.toml")
        return Run.open(self.folder).divergence() if there else None

    def job(self, options: Sequence[str] = ()) -> Job:
        """Return the command that makes the run, or resumes it.

        Args:
            options: further options of ``tsslbp train``, such as ``("--device", "cuda")``.
        """
        experiment = self.experiment
        pairs: list[tuple[str, object]] = [("--set", setting) for setting in self.settings]
        pairs += [("--seed", experiment.seed), ("--protocol", experiment.protocol)]
        pairs += [("--epochs", experiment.epochs), ("--out", self.folder)]
        words = [str(part) for pair in pairs for part in pair]
        # The network's file is next to the recipe, where the caller has put it.
        words += ["--trust-code"] * (network_file(experiment.network) is not None)
        return Job(self.name, ("train", str(self.recipe), *words, "--resume", *options), self.log)


def prepare(experiment: Experiment, folder: Path) -> Experiment:
    """Write the experiment, and its network's file if any, into a folder of trials.

    Returns:
        The experiment, with that copy as its network.

    Raises:
        RunError: the folder contains trials with other settings, is in use, or cannot be written.
    """
    recipe = folder / RECIPE
    with hold_folder(folder):
        if os.path.exists(recipe):
            there = experiments.load_recipe(recipe)
            apart = ("seed", "protocol", "epochs", "description")
            check_settings(f"{folder} holds trials", there, experiment, apart)
        experiments.save(experiment, recipe)
        return with_copy(experiment, recipe)


def with_copy(experiment: Experiment, recipe: Path) -> Experiment:
    """Return the experiment with the copy of the network's file next to its recipe, if any.

    A study therefore always uses the same file, even if the user's original changes.
    """
    if network_file(experiment.network) is None:
        return experiment
    copy = experiments.load_recipe(recipe)
    return replace(experiment, network=copy.network, network_checksum=copy.network_checksum)


def planned(
    experiment: Experiment,
    seeds: int,
    protocols: Iterable[ProtocolName],
    folder: Path,
    base: Path | None = None,
) -> list[Trial]:
    """Return the runs of an experiment over seeds, from its own upward, for each protocol.

    `base` is that of `Trial`. Nothing is read from the disk or written: `prepare` writes the
    recipe.

    Raises:
        InvalidInput: there are more than `MOST_SEEDS` seeds.
    """
    check_whole("seeds", seeds, most=MOST_SEEDS)
    return [
        Trial(
            folder / RECIPE,
            folder / f"{protocol}-seed{seed}",
            replace(experiment, seed=seed, protocol=protocol),
            base,
        )
        for protocol in protocols
        for seed in range(experiment.seed, experiment.seed + seeds)
    ]


def missing(trials: Iterable[Trial]) -> list[Trial]:
    """Return the trials that are not finished yet.

    Raises:
        RunError: a folder contains a run with other settings, or cannot be read.
    """
    results = ((trial, trial.result()) for trial in trials)
    return [trial for trial, result in results if not (result and result.finished)]


def wall_clock(seconds: Iterable[float], workers: int) -> float:
    """Return the time until all runs are done, if each starts when one of `workers` is free."""
    free = [0.0] * workers
    for duration in seconds:
        free[free.index(min(free))] += duration
    return max(free)
