"""What the tests of sweeps share: a recipe with its images, a space, and sweeps of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tsslbp.experiment import load_recipe
from tsslbp.studies.space import load_space
from tsslbp.studies.sweep import Sweep

RECIPE = """
data = "mine.npz"
network = "4C3-P2-8"
time_steps = 3
validation_images = 12
epochs = 2
batch_size = 16
learning_rate = 0.01
"""
SPACE = """
trials = 4
[parameters]
learning_rate = { low = 0.001, high = 0.1, log = true }
time_steps = [2, 3, 5]
rule.warm_up = ["neuron", "always"]
"""


@pytest.fixture
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Sweep]:
    """Make sweeps in the current folder, which holds ``mine.toml`` and ``space.toml``."""
    for variable in ("TSSLBP_DATA", "TSSLBP_STORAGE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.chdir(tmp_path)
    labels = np.arange(70) % 2
    images = np.random.RandomState(0).randint(0, 100, (70, 8, 8)).astype(np.uint8)
    images[labels == 0, :, :4] += 100
    images[labels == 1, :, 4:] += 100
    np.savez("mine.npz", images=images, labels=labels)
    Path("mine.toml").write_text(RECIPE)
    Path("space.toml").write_text(SPACE)

    def plan(out: str = "out", trials: int = 4, **options: Any) -> Sweep:
        options = {
            "space": load_space("space.toml"),
            "experiment": load_recipe("mine.toml"),
        } | options
        return Sweep(trials=trials, folder=Path(out), **options)

    return plan
