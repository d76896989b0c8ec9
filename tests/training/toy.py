"""A small training for the tests of this folder, and the comparison of two runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from tsslbp import training
from tsslbp.data import DataSet
from tsslbp.experiment import Experiment
from tsslbp.run import Run

if TYPE_CHECKING:
    import pytest

EXPERIMENT = Experiment(
    data="toy",
    network="4C3-P2-12",
    time_steps=4,
    dropout=0.2,
    validation_images=12,
    epochs=3,
    batch_size=8,
    learning_rate=0.01,
)


TIMES = ("seconds", "evaluation_seconds", "images_per_second", "peak_memory")


def toy(train: int = 60, test: int = 20) -> DataSet:
    """Return noisy images with a bright left or right half, which a small network can classify."""
    random = np.random.RandomState(0)
    labels = torch.from_numpy(np.arange(train + test) % 2)
    images = torch.from_numpy(random.rand(train + test, 1, 6, 6).astype(np.float32))
    images[labels == 0, :, :, :3] += 2
    images[labels == 1, :, :, 3:] += 2
    return DataSet("toy", images[:train], labels[:train], images[train:], labels[train:], 2)


def trained(folder: Path, experiment: Experiment = EXPERIMENT, impl: str = "auto") -> Run:
    run = Run.create(folder, experiment)
    net = training.build_network(experiment, (1, 6, 6), 2, impl)
    training.fit(run, toy(), net=net)
    return run


def seen(monkeypatch: pytest.MonkeyPatch, stop: int = 0) -> list[torch.Tensor]:
    """Return a list that collects the images of every step; step `stop` is interrupted."""
    original, images = training.step.train_step, []

    def spy(net, optimizer, loss, batch, labels, **options):
        if len(images) + 1 == stop:
            raise KeyboardInterrupt
        images.append(batch)
        return original(net, optimizer, loss, batch, labels, **options)

    monkeypatch.setattr(training.step, "train_step", spy)
    return images


def without_times(epochs: list[dict]) -> list[dict]:
    return [{key: value for key, value in record.items() if key not in TIMES} for record in epochs]


def assert_same_run(actual: Run, expected: Run) -> None:
    """Check that two runs are equal bit for bit, except for times and memory."""
    assert without_times(actual.epochs()) == without_times(expected.epochs())
    for name in ("last", "best-validation", "best-test"):
        ours, state = actual.load_checkpoint(name)
        theirs, expected_state = expected.load_checkpoint(name)
        assert ours.keys() == theirs.keys()
        for key in ours:
            # NaN stands for "does not apply" in the history of the warm-up.
            assert torch.equal(ours[key].nan_to_num(-1), theirs[key].nan_to_num(-1)), key
        assert state == expected_state
    for key, array in actual.steps().items():
        np.testing.assert_array_equal(array, expected.steps()[key])
