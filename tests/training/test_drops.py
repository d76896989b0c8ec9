"""Tests of sudden drops of the accuracy, which are found where they are and nowhere else."""

import itertools
import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tsslbp.data
from tsslbp import training
from tsslbp.experiment import load_recipe
from tsslbp.run import Run
from tsslbp.training import drops
from tsslbp.training.drops import Change, Drop

Arrays = dict[str, np.ndarray]
EPOCH = 60  # steps


def history(accuracy: np.ndarray, batch: int = 50, seed: int = 0) -> Arrays:
    """Return steps with these probabilities of a correct image ``[steps]``, all else constant."""
    random = np.random.RandomState(seed)
    steps = len(accuracy)
    measured = np.arange(0, steps, 25)
    return {
        "epoch": np.arange(steps) // EPOCH + 1,
        "images": np.full(steps, batch),
        "correct": random.binomial(batch, accuracy),
        "loss": np.full(steps, 0.5),
        "gradient_norm": np.full(steps, 10.0),
        "activity_step": measured,
        "firing_rate": np.tile([0.2, 0.1], (len(measured), 1)),
        "warm_up": np.tile([0.5, math.nan], (len(measured), 1)),
    }


def fallen(at: int, length: int, before: float, after: float, steps: int = 300) -> np.ndarray:
    accuracy = np.full(steps, before)
    accuracy[at : at + length] = after
    return accuracy


def test_a_drop_and_what_changed() -> None:
    arrays = history(fallen(at=157, length=40, before=0.99, after=0.6))
    arrays["gradient_norm"][154] = 500.0
    arrays["gradient_norm"][157:197] = 30.0
    arrays["loss"][157:197] = 2.0
    arrays["firing_rate"][7:, 1] = 0.001  # from step 175 on
    [drop] = drops.find(arrays, ["conv", "linear"])
    assert (drop.step, drop.epoch) == (157, 3)
    assert drop.accuracy.before == pytest.approx(0.99, abs=0.01)
    assert drop.accuracy.after == pytest.approx(0.6, abs=0.08)
    assert drop.loss == Change(0.5, 2.0)
    assert drop.gradient_norm == Change(10.0, 30.0)
    assert drop.preceding_norm == Change(10.0, 500.0)
    assert drop.firing_rate == {"conv": Change(0.2, 0.2), "linear": Change(0.1, 0.001)}
    assert drop.warm_up == {"conv": Change(0.5, 0.5)}
    assert drop.recovery is not None and 190 <= drop.recovery <= 200
    line = drops.describe(drop)
    assert line.startswith("step 157 (epoch 3): training accuracy 9")
    assert line.endswith("firing rate of linear x 0.01 (0.1 to 0.001)")
    assert f"back at step {drop.recovery}" in line and "\n" not in line


def test_what_has_not_been_seen_is_not_said() -> None:
    """Recovery and activity are left out if they were not measured; unnamed layers get numbers."""
    arrays = history(fallen(at=151, length=99, before=0.99, after=0.6, steps=171))
    [drop] = drops.find(arrays)
    assert (drop.recovery, drop.firing_rate, drop.warm_up) == (None, {}, {})
    assert "not recovered yet" in drops.describe(drop)
    [drop] = drops.find(history(fallen(at=151, length=99, before=0.99, after=0.6)))
    assert list(drop.firing_rate) == ["layer 1", "layer 2"]


def test_the_loss_is_not_named_as_a_cause() -> None:
    arrays = history(fallen(at=150, length=40, before=0.99, after=0.6))
    arrays["loss"][150:] = 1e6
    arrays["gradient_norm"][148] = 100.0
    [drop] = drops.find(arrays)
    line = drops.describe(drop)
    assert "largest gradient norm of the 3 steps before x 10 (10 to 100)" in line


def test_a_drop_travels_as_json() -> None:
    [drop] = drops.find(history(fallen(at=150, length=40, before=0.99, after=0.6)))
    table = json.loads(json.dumps(asdict(drop), allow_nan=False))
    assert Drop.from_table(table) == drop


@pytest.mark.parametrize("seed", range(20))
def test_small_drops_are_found_near_their_step(seed: int) -> None:
    """A drop of nine points, in batches of 50, is located to within three steps."""
    found = drops.find(history(fallen(150, 100, 0.99, 0.9), seed=seed))
    assert len(found) == 1
    assert abs(found[0].step - 150) <= 3


def test_each_of_two_drops_is_found() -> None:
    accuracy = np.minimum(fallen(100, 20, 0.98, 0.7), fallen(220, 20, 0.98, 0.6))
    assert [drop.step for drop in drops.find(history(accuracy))] == [100, 220]


@pytest.mark.parametrize("level", [0.1, 0.5, 0.9, 0.99, 0.999])
def test_false_alarms_at_a_constant_accuracy(level: float) -> None:
    """No alarm in 500,000 steps over all levels: fewer than 6 per million (95 % confidence)."""
    assert not drops.find(history(np.full(100_000, level)))


def test_false_alarms_over_a_whole_run() -> None:
    """There is no alarm in ten runs as long as the published ones, with a noisy start."""
    steps = np.arange(120_000)
    accuracy = 0.999 - 0.9 * np.exp(-steps / 150) - 0.02 * np.exp(-steps / 20_000)
    for seed in range(10):
        random = np.random.RandomState(seed)
        noisy = accuracy - 0.1 * np.exp(-steps / 150) * random.rand(len(steps))
        assert not drops.find(history(noisy.clip(0, 1), seed=seed))


def test_batches_that_scatter_more_than_sampling_do_not_alarm() -> None:
    """Jumps of the accuracy between batches are noise, even if they exceed binomial errors."""
    for seed in range(20):
        random = np.random.RandomState(seed)
        accuracy = random.choice([0.5, 0.9], size=5000)
        assert not drops.find(history(accuracy, batch=200, seed=seed))


def test_a_slow_decline_is_no_sudden_drop() -> None:
    assert not drops.find(history(np.linspace(0.99, 0.8, 3000)))


@given(st.sets(st.integers(1, 399), max_size=12), st.integers(0, 3))
def test_epoch_by_epoch_the_same_drops_are_found(cuts: set, seed: int) -> None:
    """Wherever the epochs end, each drop is found once, even if it crosses a boundary."""
    accuracy = np.minimum(fallen(100, 30, 0.98, 0.8, 400), fallen(250, 90, 0.98, 0.6, 400))
    arrays = history(accuracy, seed=seed)
    ends = [0, *sorted(cuts), 400]
    found: list[int] = []
    for since, end in itertools.pairwise(ends):
        known = {name: values[:end] for name, values in arrays.items()}
        count = math.ceil(end / 25)
        known |= {
            name: arrays[name][:count] for name in ("activity_step", "firing_rate", "warm_up")
        }
        found += [drop.step for drop in drops.find(known, since=since)]
    assert found == [drop.step for drop in drops.find(arrays)]
    assert len(found) == 2


@pytest.mark.parametrize("steps", [0, 1, 50, 68])
def test_too_few_steps_are_not_judged(steps: int) -> None:
    assert drops.find(history(fallen(at=50, length=99, before=1, after=0, steps=steps))) == []
    assert drops.find({}) == []


def test_no_drop_in_an_ordinary_training(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", replace(load_recipe("digits"), epochs=4))
    training.fit(run, tsslbp.data.load("digits"))
    assert not any("drops" in record for record in run.epochs())
    assert len(run.steps()["loss"]) > 100
