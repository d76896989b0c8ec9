"""Fixtures for the tests of the report: run folders with made-up records, without training."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tsslbp.experiment import Experiment, load_recipe, save
from tsslbp.run import results
from tsslbp.run.results import Group


@pytest.fixture(autouse=True, scope="session")
def _needs() -> None:
    for name in ("jinja2", "matplotlib", "scipy"):
        pytest.importorskip(name)


@pytest.fixture(scope="session")
def make_run() -> Callable[..., None]:
    """Return `make`, which writes a run folder."""
    return make


@pytest.fixture(scope="session")
def recipe() -> Callable[..., Experiment]:
    """Return a function that changes a shipped recipe: `recipe("digits", seed, key=value)`."""
    return lambda name, seed=0, **changes: replace(load_recipe(name), seed=seed, **changes)


@pytest.fixture
def groups(tmp_path: Path, make_run: Callable, recipe: Callable) -> Callable[..., list[Group]]:
    """Return a function that makes runs with given best test accuracies, and groups them.

    Accuracies are in percent, by recipe and settings.
    """

    def read(*wanted: tuple[str, dict[str, Any], Sequence[float]]) -> list[Group]:
        for number, (name, changes, accuracies) in enumerate(wanted):
            for seed, accuracy in enumerate(accuracies):
                experiment = recipe(name, seed, **changes)
                make_run(tmp_path / f"{number}-{seed}", experiment, accuracy / 100)
        found, problems = results.read_all([tmp_path])
        assert not problems
        return results.group(found)

    return read


LAYERS = {"conv1": 0.1, "conv2": 0.2, "output": 0.05}
STEPS = 26  # training steps in an epoch


ENVIRONMENT = {
    "tsslbp": "0.1.0",
    "commit": "0123abc",
    "python": "3.11.7",
    "cpu": "Test CPU",
    "cores": 4,
    "threads": 2,
}


def make(
    folder: Path, experiment: Experiment, best: float, epochs: int | None = None, **extra: Any
) -> None:
    """Make a run whose test accuracy rises to `best`, and falls a little in the last epoch.

    Args:
        folder: folder of the run.
        experiment: the experiment in its configuration.
        best: largest test accuracy, from 0 to 1.
        epochs: number of epochs with a record, by default all.
        extra: further keys of the last record.
    """
    count = epochs or experiment.epochs
    lines = [record(experiment, epoch, best) for epoch in range(1, count + 1)]
    if count > 1:
        lines[-1]["test_accuracy"] -= 0.001
    lines[-1] |= extra
    folder.mkdir(parents=True)
    save(experiment, folder / "config.toml")
    command = f"tsslbp train {experiment.data} --seed {experiment.seed}"
    (folder / "environment.json").write_text(json.dumps(ENVIRONMENT | {"command": command}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def cost(epoch: int, energy: float) -> dict[str, Any]:
    """Return a record of a network's cost per image: `energy` in picojoules, and 1000 with ReLU."""
    done = {"multiplications": 100.0, "additions": 2000.5, "updates": 50.0}
    total = {"neurons": 10, "parameters": 1234, "dense_multiplications": 500, "spiking": done}
    parts = {"spiking": {"connections": 0.75 * energy, "neurons": 0.25 * energy}}
    parts["relu"] = {"connections": 1000.0, "neurons": 0.0}
    return {"epoch": epoch, "images": 20, "total": total, "energy": {"float32": parts}}


def record(experiment: Experiment, epoch: int, best: float) -> dict[str, Any]:
    reached = best * (1 - math.exp(-epoch)) if epoch < experiment.epochs - 1 else best
    steps = experiment.time_steps
    values: dict[str, Any] = {
        "epoch": epoch,
        "loss": 1 / epoch,
        "train_accuracy": min(1.0, reached + 0.002),
        "test_accuracy": reached,
        "test_accuracy_by_step": [reached * step / steps for step in range(1, steps + 1)],
        "firing_rate": LAYERS,
        "warm_up": {name: 1 - rate for name, rate in LAYERS.items()},
        "spikes_per_image": 1000.0 + epoch,
        "gradient_norm": 10.0,
        "seconds": 2.0,
        "evaluation_seconds": 0.5,
        "images_per_second": STEPS * experiment.batch_size / 2.0,
        "peak_memory": 2**30,
    }
    if experiment.protocol == "validated":
        values["validation_accuracy"] = reached
    return values
