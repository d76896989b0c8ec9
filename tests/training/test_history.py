"""Tests of the numbers of every step, as arrays and in the summary of an epoch."""

import math

import numpy as np
import pytest

from tsslbp.network import Activity
from tsslbp.training.history import History, StepResult


def history() -> History:
    """Return two epochs of two steps, each with a smaller last batch; three measure activity."""
    made = History()
    for epoch, first_rate in ((1, 0.1), (2, 0.3)):
        made.add_activity({"conv1": Activity(first_rate, 0.5), "output": Activity(0.2, None)})
        made.add_step(epoch, 4.0, StepResult(32.0, 4, 2.0, 8))
        if epoch == 2:
            made.add_activity({"conv1": Activity(0.5, 0.7), "output": Activity(0.4, None)})
        made.add_step(epoch, 1.0, StepResult(2.0, 2, 4.0, 2))
    return made


def test_arrays_come_back() -> None:
    arrays = history().arrays()
    assert arrays["epoch"].tolist() == [1, 1, 2, 2]
    assert arrays["images"].tolist() == [8, 2, 8, 2]
    assert arrays["activity_step"].tolist() == [0, 2, 3]
    assert arrays["firing_rate"].tolist() == [[0.1, 0.2], [0.3, 0.2], [0.5, 0.4]]
    assert np.isnan(arrays["warm_up"][:, 1]).all()  # a rule without warm-up
    again = History(arrays).arrays()
    for name, array in arrays.items():
        assert again[name].dtype == array.dtype
        np.testing.assert_array_equal(again[name], array)


def test_means_are_by_image_or_by_measurement() -> None:
    summary = history().epoch_summary(2, {"conv1": 10, "output": 3}, time_steps=5)
    assert list(summary) == [
        *("loss", "train_accuracy", "firing_rate", "spikes_per_image", "warm_up", "gradient_norm"),
    ]
    assert summary["loss"] == pytest.approx((8 * 4 + 2 * 1) / 10)
    assert summary["train_accuracy"] == 0.6
    assert summary["gradient_norm"] == 3.0
    assert summary["firing_rate"] == {"conv1": pytest.approx(0.4), "output": pytest.approx(0.3)}
    assert summary["spikes_per_image"] == pytest.approx(5 * (10 * 0.4 + 3 * 0.3))
    assert summary["warm_up"]["conv1"] == pytest.approx(0.6)
    assert math.isnan(summary["warm_up"]["output"])


def test_a_network_without_spikes() -> None:
    made = History()
    made.add_activity({})
    made.add_step(1, 0.5, StepResult(0.5, 3, 1.0, 4))
    assert made.epoch_summary(1, {}, 1) == {
        "loss": 0.5,
        "train_accuracy": 0.75,
        "gradient_norm": 1.0,
    }
    assert len(made.arrays()["activity_step"]) == len(made.arrays()["firing_rate"]) == 0


@pytest.mark.parametrize(
    ("loss", "norm", "finite"),
    [(1.0, 2.0, True), (math.nan, 2.0, False), (1.0, math.inf, False)],
)
def test_a_step_is_finite_where_both_numbers_are(loss: float, norm: float, finite: bool) -> None:
    result = StepResult(loss, 1, norm, 2)
    assert result.finite is finite
    assert f"the loss is {loss}, the gradient norm {norm}" in result.divergence
