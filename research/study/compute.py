"""Compute of our runs, compared with the study's GPU hours, and the origin of each run."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median

from tsslbp import wording
from tsslbp.experiment import load_recipe
from tsslbp.report import tables
from tsslbp.report.blocks import Table
from tsslbp.run.results import Group, Result, group

from .records import Records, facts


def gpu_table(records: Records) -> Table:
    """Return a table of the study's compute, and of ours for the same recipes."""
    rows = []
    for one in facts()["gpu"]:
        groups = [group for recipe in one["recipes"] for group in records.full.get(recipe, [])]
        ours = [run for group in groups for run in group.results if not is_on_gpu(run)]
        if not one["recipes"]:
            ours = list(records.search)
        rows.append(
            (
                f"{one['what']}\n{one['card']}",
                str(one["runs"]),
                wording.duration(60 * one["minutes"]),
                hours(one["runs"] * one["minutes"] / 60),
                *_ours(ours),
            )
        )
    rows.append(("all of the study", "", "", hours(gpu_hours()), "", "", ""))
    head = ("", "runs", "one run", "total", "our runs", "one run on a CPU", "total")
    return Table("", head, tuple(rows))


def group_table(records: Records) -> Table:
    """Return a table of the compute of the runs of the published tables, by settings."""
    groups = [one for groups in records.full.values() for one in groups]
    return tables.compute_table(groups)


def totals(records: Records) -> list[tuple[str, int, float]]:
    """Return name, number of runs and seconds of training for each kind of run on a CPU."""
    full = {run.folder for run in full_runs(records)}
    others = [run for run in records.evidence.results if run.folder not in full]
    branches = [run for pair in records.pairs for run in (pair.control, *pair.others)]
    kinds: dict[str, Iterable[Result]] = {
        "with all settings of a published row": full_runs(records),
        "for the findings, and other small ones": others,
        "of the search": records.search,
        "that repeat a sudden drop": branches,
    }
    found = []
    for name, some in kinds.items():
        seconds = [run.seconds for run in some if not is_on_gpu(run)]
        found.append((name, len(seconds), sum(seconds)))
    return found


def full_runs(records: Records) -> list[Result]:
    """Return the runs with all settings of a published row."""
    return [run for groups in records.full.values() for one in groups for run in one.results]


def is_on_gpu(run: Result) -> bool:
    """Return whether a run was trained on a GPU."""
    return any("device_peak_memory" in one for one in run.epochs)


def on_gpu(records: Records) -> Table | None:
    """Return a table of compute and accuracy of our runs on a GPU, or None without any."""
    runs = [*records.gpu, *(run for run in records.evidence.results if is_on_gpu(run))]
    if not runs:
        return None
    rows = [_on_gpu(one) for one in group(runs)]
    head = ("settings", "epochs", "one epoch", "total", "memory", "last epoch", "best test epoch")
    return Table("", head, tuple(rows))


def cnn1_on_gpu(records: Records) -> dict[str, str]:
    """Return numbers of our first run of CNN1 on a GPU, in words; empty if there is none."""
    for run in records.gpu:
        if run.experiment.data.startswith("cifar10"):
            whole = load_recipe("cifar10-cnn1").epochs
            epoch = median(one["seconds"] + one["evaluation_seconds"] for one in run.epochs)
            study = next(one for one in facts()["gpu"] if "cifar10-cnn1" in one["recipes"])
            return {
                "epochs": f"{len(run.epochs)}",
                "of": f"{whole}",
                "minutes": f"{epoch * whole / 60:.1f}",
                "study": wording.duration(60 * study["minutes"]),
                "card": study["card"],
            }
    return {}


def gpu_hours() -> float:
    """Return the study's GPU hours in all."""
    return float(sum(one["runs"] * one["minutes"] for one in facts()["gpu"]) / 60)


def hours(value: float) -> str:
    """Return a duration in words, such as ``"206 h 30 min"``."""
    whole, minutes = divmod(round(3600 * value) // 60, 60)
    return f"{whole} h {minutes} min"


def origins(records: Records) -> Table:
    """Return a table of the commit and the machine of every run of a published row."""
    rows = [
        _origin(records, group, run)
        for groups in records.full.values()
        for group in groups
        for run in group.results
    ]
    head = ("record", "settings", "commit", "machine", "training time")
    return Table("", head, tuple(rows), text_columns=4)


def _ours(runs: list[Result]) -> tuple[str, str, str]:
    if not runs:
        return ("0", tables.NONE, tables.NONE)
    seconds = [run.seconds for run in runs]
    low, high = (wording.duration(value) for value in (min(seconds), max(seconds)))
    span = low if low == high else f"{low} to {high}"
    return (str(len(runs)), span, hours(sum(seconds) / 3600))


def _on_gpu(group: Group) -> tuple[str, ...]:
    """Return a row on a group's first run, with its median epoch and the GPU's peak memory."""
    run = group.results[0]
    epoch = median(one["seconds"] + one["evaluation_seconds"] for one in run.epochs)
    memory = max(one["device_peak_memory"] for one in run.epochs)
    return (
        f"{group.label}\n{run.environment['gpu']}",
        str(len(run.epochs)),
        f"{epoch:.2f} s",
        wording.duration(run.seconds),
        f"{memory / 1e9:.2f} GB",
        *(f"{100 * run.accuracy[measure]:.2f} %" for measure in ("last", "best-test")),
    )


def _origin(records: Records, group: Group, run: Result) -> tuple[str, ...]:
    environments = [run.environment, *run.environment.get("resumed", [])]
    commits = dict.fromkeys(str(one.get("commit"))[:7] for one in environments)
    name = run.folder.relative_to(records.root).as_posix()
    resumed = f"\nresumed {wording.count(len(environments) - 1, 'time')}"
    return (
        name,
        group.label,
        ", ".join(commits),
        tables.machine(run) + (resumed if len(environments) > 1 else ""),
        wording.duration(run.seconds),
    )
