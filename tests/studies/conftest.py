"""Fixtures that the tests of sweeps share: a recipe with its images, a space, and sweeps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.cli.conftest import RECIPE, arrays

from tsslbp.experiment import load_recipe
from tsslbp.studies.space import load_space
from tsslbp.studies.sweep import Sweep

SPACE = """
trials = 4
[parameters]
learning_rate = { low = 0.001, high = 0.1, log = true }
time_steps = [2, 3, 5]
rule.warm_up = ["neuron", "always"]
"""


@pytest.fixture
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Sweep]:
    """Return a function that plans a sweep in the current folder.

    The folder holds the recipe `mine.toml` and the space `space.toml`.
    """
    for variable in ("TSSLBP_DATA", "TSSLBP_STORAGE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.chdir(tmp_path)
    np.savez("mine.npz", **arrays())
    Path("mine.toml").write_text(RECIPE)
    Path("space.toml").write_text(SPACE)

    def plan(out: str = "out", trials: int = 4, **options: Any) -> Sweep:
        options = {
            "space": load_space("space.toml"),
            "experiment": load_recipe("mine.toml"),
        } | options
        return Sweep(trials=trials, folder=Path(out), **options)

    return plan
