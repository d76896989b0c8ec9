"""The records behind the page, which are read once from results/."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from tsslbp.errors import RunError
from tsslbp.experiment import Experiment, load_recipe
from tsslbp.report.evidence import Evidence, gather
from tsslbp.report.verdicts import row_of
from tsslbp.run import Run
from tsslbp.run.results import Group, Result, group, read_all

SEARCH, DROPS, FINDINGS, GPU = "search", "drops", "findings", "gpu"  # folders of results/
REFERENCE = "revised"  # folder of a family's reference runs
PAIR, CONTROL, PLACEBO = "pair.toml", "as-recorded", "placebo"  # names in a pair's folder


@dataclass(frozen=True)
class Family:
    """A reference, and runs in which one setting at a time differs from it."""

    name: str  # of the folder
    reference: Group
    others: Sequence[Group]
    diverged: Sequence[Experiment]  # of runs that ended early because they diverged


@dataclass(frozen=True)
class Pair:
    """A sudden drop, repeated from the same state with one change at a time.

    Its folder contains ``pair.toml`` and run folders. ``as-recorded`` is the unchanged training.
    The others differ from it in some settings from the epoch after `from_epoch` on; if the name
    begins with ``placebo``, the change cannot be the cause.
    """

    name: str
    step: int  # of the drop
    from_epoch: int  # after which the runs part
    suspect: str  # in a few words
    command: str  # that made it
    control: Result
    others: Sequence[Result]


@dataclass(frozen=True)
class Records:
    """All records of the page."""

    root: Path  # results/
    evidence: Evidence  # on the runs outside of the search and the pairs
    search: Sequence[Result]
    gpu: Sequence[Result]  # runs on a GPU, in a folder of their own
    pairs: Sequence[Pair]
    families: Sequence[Family]

    @cached_property
    def full(self) -> dict[str, list[Group]]:
        """Groups with all settings of a recipe of a published table, by recipe, largest first."""
        found: dict[str, list[Group]] = {}
        for one in sorted(self.evidence.others, key=lambda one: -len(one.results)):
            if place := row_of(one):
                found.setdefault(place[1], []).append(one)
        return found

    def of_recipe(self, recipe: str, protocol: str) -> Group | None:
        """Return the largest group of a recipe's runs with a protocol, or None."""
        groups = self.full.get(recipe, [])
        return next((one for one in groups if one.experiment.protocol == protocol), None)


@cache
def facts() -> dict[str, Any]:
    """Return the study's published results and the runs that the page should have: facts.toml."""
    return tomllib.loads((Path(__file__).parent / "facts.toml").read_text(encoding="utf-8"))


def read(root: Path) -> Records:
    """Read all records of the study's data sets below `root`.

    Raises:
        RunError: there is none.
    """
    apart = (SEARCH, DROPS, GPU)
    folders = [one for one in sorted(root.iterdir()) if one.is_dir() and one.name not in apart]
    return Records(
        root=root,
        evidence=gather([one for one in folders if _is_of_study(one)]),
        search=_runs(root / SEARCH),
        gpu=_runs(root / GPU),
        pairs=[read_pair(file.parent) for file in sorted((root / DROPS).glob(f"*/{PAIR}"))],
        families=[
            family
            for folder in sorted((root / FINDINGS).glob(f"*/{REFERENCE}"))
            if (family := _read_family(folder.parent))
        ],
    )


def _is_of_study(folder: Path) -> bool:
    """Return whether the first run in a folder is on a data set of the study."""
    configs = sorted(folder.rglob("config.toml"))
    return bool(configs) and load_recipe(configs[0]).data in facts()["data"]


def _runs(folder: Path) -> list[Result]:
    """Return the finished runs at or below a folder, or none if it is missing."""
    if not folder.is_dir():
        return []
    results, _ = read_all([folder])
    return [one for one in results if one.finished]


def _read_family(folder: Path) -> Family | None:
    """Return the family in a folder, or None if its reference has no finished run yet."""
    references = group(_runs(folder / REFERENCE))
    if not references:
        return None
    if len(references) > 1:
        names = "; ".join(one.label for one in references)
        raise RunError(f"the runs in {folder / REFERENCE} have different settings: {names}")
    others = [
        one
        for path in sorted(folder.iterdir())
        if path.is_dir() and path.name != REFERENCE and any(path.rglob("config.toml"))
        for one in group(_runs(path))
    ]
    runs = [Run.open(file.parent) for file in sorted(folder.rglob("config.toml"))]
    diverged = [one.experiment for one in runs if one.divergence()]
    return Family(folder.name, references[0], others, diverged)


def read_pair(folder: Path) -> Pair:
    """Read what `study.repeat` has left in a folder."""
    table = tomllib.loads((folder / PAIR).read_text(encoding="utf-8"))
    runs = {path.parent.name: Result.read(path.parent) for path in folder.glob("*/config.toml")}
    control = runs.pop(CONTROL)
    others = [runs[name] for name in sorted(runs)]
    return Pair(folder.name, control=control, others=others, **table)
