"""Tests of the estimate of a run's time, which adds up steps and evaluations."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from tsslbp.data import load
from tsslbp.experiment import load_recipe
from tsslbp.training import cost

from .toy import EXPERIMENT, toy


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return what was measured; a step takes 2 s, but the first one 8 s, and the evaluation 5 s."""
    measured: list[str] = []

    def seconds(work: Any) -> float:
        measured.append("evaluate" if work() else "step")
        return 5.0 if measured[-1] == "evaluate" else 8.0 if measured == ["step"] else 2.0

    monkeypatch.setattr(cost, "_seconds", seconds)
    monkeypatch.setattr(cost, "train_step", lambda *_: None)
    monkeypatch.setattr(cost, "evaluate", lambda *_: [1.0])
    return measured


def test_steps_and_evaluations_add_up(clock: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The estimate is for 3 epochs of 6 steps and 32 evaluated images, of which 20 are measured."""
    monkeypatch.setattr(cost, "MEASURED_SECONDS", 100.0)
    expected = 3 * (6 * 2.0 + (12 + 20) * 5.0 / 20)
    assert cost.estimate(EXPERIMENT, toy(), threads=1) == pytest.approx(expected)
    assert clock == [*["step"] * 5, "evaluate"]


def test_slow_steps_are_measured_less_often(clock: list[str]) -> None:
    published = replace(EXPERIMENT, protocol="published", epochs=1)
    assert cost.estimate(published, toy(), threads=1) == pytest.approx(8 * 5.0 + 20 * 5.0 / 20)
    assert clock == ["step", "step", "evaluate"]  # 8 s and 2 s: the median is 5 s


def test_real_steps_and_the_threads_that_were_there() -> None:
    """The estimate is plausible, grows with the epochs, and restores the number of threads."""
    experiment, data = replace(load_recipe("digits"), epochs=10), load("digits")
    threads = torch.get_num_threads()
    seconds = cost.estimate(experiment, data, 1)
    assert torch.get_num_threads() == threads
    assert 0.1 < seconds < 60
    assert cost.estimate(replace(experiment, epochs=1000), data, 1) > 10 * seconds
