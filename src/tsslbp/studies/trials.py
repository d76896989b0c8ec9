"""One recipe over several seeds: which runs there are to make, and what each will take."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from .. import experiment as experiments
from ..errors import RunError
from ..experiment import Experiment, ProtocolName, network_file
from ..run import Run
from ..run.results import Result, check_settings
from ..storage import hold_folder
from .jobs import Job

RECIPE = "recipe.toml"


@dataclass(frozen=True)
class Trial:
    """One run of a study, made or still to be made."""

    recipe: Path  # file of the experiment, whose seed and protocol may differ
    folder: Path  # of the run
    experiment: Experiment  # what it trains
    base: Path | None = None  # the name is the folder's path below it; default: the second above
    settings: Sequence[str] = ()  # what differs from the recipe otherwise, as ``"key=value"``

    @property
    def name(self) -> str:
        return self.folder.relative_to(self.base or self.folder.parent.parent).as_posix()

    @property
    def log(self) -> Path:
        return self.folder.with_suffix(".log")

    def result(self) -> Result | None:
        """What the run has reached so far; None before its first epoch.

        Raises:
            RunError: the folder holds a run of other settings, or cannot be read.
        """
        if not os.path.lexists(self.folder / "config.toml"):
            return None
        run = Run.open(self.folder)
        what = f"{self.folder} holds a run"
        check_settings(what, run.experiment, self.experiment, ("epochs", "description"))
        result = Result.read(self.folder) if run.epochs() else None
        return result and replace(result, experiment=self.experiment)

    def is_finished(self) -> bool:
        """Whether the run is there with all its epochs; not where it cannot be read."""
        try:
            result = self.result()
        except RunError:
            return False
        return result is not None and result.finished

    def divergence(self) -> str | None:
        """Why the run diverged; None where it has not."""
        there = os.path.lexists(self.folder / "config.toml")
        return Run.open(self.folder).divergence() if there else None

    def job(self, options: Sequence[str] = ()) -> Job:
        """The command that makes the run, or goes on with it.

        Args:
            options: more options of ``tsslbp train``, such as ``("--device", "cuda")``.
        """
        experiment = self.experiment
        pairs: list[tuple[str, object]] = [("--set", setting) for setting in self.settings]
        pairs += [("--seed", experiment.seed), ("--protocol", experiment.protocol)]
        pairs += [("--epochs", experiment.epochs), ("--out", self.folder)]
        words = [str(part) for pair in pairs for part in pair]
        # The network's file lies beside the recipe, where whoever starts the command has put it.
        words += ["--trust-code"] * (network_file(experiment.network) is not None)
        return Job(self.name, ("train", str(self.recipe), *words, "--resume", *options), self.log)


def prepare(experiment: Experiment, folder: Path) -> Experiment:
    """Write the experiment into a folder of trials, with the network's file where it has one.

    Returns:
        The experiment, with that copy as its network.

    Raises:
        RunError: the folder holds trials of other settings, is in use, or cannot be written.
    """
    recipe = folder / RECIPE
    with hold_folder(folder):
        if recipe.exists():
            there = experiments.load_recipe(recipe)
            apart = ("seed", "protocol", "epochs", "description")
            check_settings(f"{folder} holds trials", there, experiment, apart)
        experiments.save(experiment, recipe)
        return with_copy(experiment, recipe)


def with_copy(experiment: Experiment, recipe: Path) -> Experiment:
    """The experiment with the network's file that was put beside its recipe, if it has one.

    So a study goes on with one file, whatever becomes of the user's.
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
    """The runs of an experiment over seeds, from its own upward, under each of the protocols.

    `base` is as a `Trial` has it. The disk is not looked at: `prepare` writes the recipe.
    """
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
    """Those that are not finished yet.

    Raises:
        RunError: a folder holds a run of other settings, or cannot be read.
    """
    results = ((trial, trial.result()) for trial in trials)
    return [trial for trial, result in results if not (result and result.finished)]


def wall_clock(seconds: Iterable[float], workers: int) -> float:
    """Time until all runs are done, each started as soon as one of `workers` is free."""
    free = [0.0] * workers
    for duration in seconds:
        free[free.index(min(free))] += duration
    return max(free)
