"""Tests that layers which learn nothing are reported once, and that sound trainings are not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some

from tsslbp import rules, training
from tsslbp.experiment import Experiment
from tsslbp.run import Run
from tsslbp.training import loop, symptoms
from tsslbp.training.history import History

from .toy import EXPERIMENT as SHORT
from .toy import assert_same_run, seen, toy, trained

EXPERIMENT = replace(SHORT, batch_size=2, epochs=2)  # 24 steps an epoch
LONG = replace(EXPERIMENT, batch_size=1)  # 48 steps an epoch
SILENT = replace(LONG, weight_scale=1e-6, learning_rate=1e-9)
BLIND = replace(SILENT, rule=rules.EventProp())  # without spikes there is no gradient either


def told(run: Run) -> list[list[str]]:
    """Return the first words of each epoch's warnings."""
    lines = [record.get("warnings", []) for record in run.epochs()]
    assert all(line.count("\n") == 0 for one in lines for line in one)
    return [[line.partition(":")[0] for line in one] for one in lines]


def test_a_sound_training_is_left_in_peace(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = trained(tmp_path / "run", EXPERIMENT)
    assert told(run) == [[]] * 2
    assert not any("warnings" in record for record in run.epochs())
    assert not caplog.messages
    progress = run.load_checkpoint("last")[1]["progress"]
    assert progress.keys().isdisjoint({"told", "still"})


def test_silent_layers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Silent layers are reported in the first epoch only, with advice that usually helps."""
    run = trained(tmp_path / "run", SILENT)
    assert told(run) == [["conv1, linear2 and output have not fired"], []]
    (line,) = run.epochs()[0]["warnings"]
    assert "larger weights (weight_scale)" in line
    assert caplog.messages == [f"epoch 1: {line}"]


def test_layers_without_a_gradient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights without a gradient are reported once, unless silent layers are the reason."""
    flat = [True]

    def build(experiment: Experiment):
        return lambda psc, labels: psc.square().sum() * (0.0 if flat[0] else 1e-3)

    monkeypatch.setattr(training.step, "build_loss", build)
    experiment = replace(LONG, learning_rate=1e-9, weight_scale=3.0)
    first, *later = told(trained(tmp_path / "run", experiment))
    assert first == ["conv1.weight, linear2.weight and output.weight have no gradient"]
    assert later == [[]]
    flat[0] = False
    assert told(trained(tmp_path / "sound", replace(experiment, epochs=1))) == [[]]


def test_a_gradient_that_stays_away_explains_itself(tmp_path: Path) -> None:
    """If silent layers have no gradient by the rule, only their silence is reported."""
    assert told(trained(tmp_path / "run", BLIND))[0] == ["conv1, linear2 and output have not fired"]


def test_saturated_layers(tmp_path: Path) -> None:
    experiment = replace(LONG, dropout=0.0, learning_rate=1e-9, weight_limit=1e4)
    net = training.build_network(experiment, (1, 6, 6), 2)
    with torch.no_grad():
        for name in ("conv1.weight", "linear2.weight"):
            net.get_parameter(name).abs_().mul_(1e3)
    run = Run.create(tmp_path / "run", experiment)
    training.fit(run, toy(), net=net)
    assert told(run)[0][0] == "conv1 and linear2 fire at every step"
    assert told(run)[1] == []


def test_data_of_one_class(tmp_path: Path) -> None:
    data = toy()
    data = replace(data, train_labels=torch.zeros_like(data.train_labels))
    run = Run.create(tmp_path / "run", replace(EXPERIMENT, epochs=2))
    training.fit(run, data)
    first, second = told(run)
    assert first == ["all 48 training images are of class 0, so there is nothing to classify"]
    assert second == []


def test_short_epochs_are_looked_at_together(tmp_path: Path) -> None:
    """Nothing is said before 25 steps, however many short epochs they take."""
    run = trained(tmp_path / "run", replace(SILENT, batch_size=8, epochs=6))  # 6 steps an epoch
    assert [len(lines) for lines in told(run)] == [0, 0, 0, 0, 1, 0]


def test_a_layer_that_is_silent_at_measured_steps_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(History, "add_activity", _silent_output)
    experiment = replace(LONG, weight_scale=3.0, learning_rate=1e-9, epochs=1)
    assert told(trained(tmp_path / "run", experiment)) == [[]]


def _silent_output(self: History, activity) -> None:
    self.rows["activity_step"].append(len(self.rows["loss"]))
    self.rows["firing_rate"].append([0.5, 0.5, 0.0])
    self.rows["warm_up"].append([0.5] * 3)


@pytest.mark.parametrize(("experiment", "stop"), [(SILENT, 30), (BLIND, 48)])
def test_a_resumed_run_tells_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, experiment: Experiment, stop: int
) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)  # a checkpoint after every step
    expected = trained(tmp_path / "whole", experiment)
    with monkeypatch.context() as patch:
        seen(patch, stop=stop)
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path / "parts", experiment)
    run = Run.open(tmp_path / "parts")
    training.fit(run, toy())
    assert_same_run(run, expected)
    assert [len(lines) for lines in told(run)] == [1, 0]


RATES = some.sampled_from([0.0, 1.0, 0.25])


@given(some.lists(some.lists(RATES, min_size=3, max_size=3), min_size=1, max_size=4))
def test_suspects_are_those_that_were_so_all_the_time(rates: list[list[float]]) -> None:
    count, every = len(rates), symptoms.LEAST_STEPS
    history, names = History(), ("a", "b", "c")
    history.rows["epoch"] = [1] * count * every + [2] * count * every
    history.rows["activity_step"] = list(range(0, 2 * count * every, every))
    history.rows["firing_rate"] = [[0.5] * 3] * count + rates
    assert symptoms.suspects(history, 1, names) == {}
    found = symptoms.suspects(history, 2, names)
    for column, name in enumerate(names):
        values = {row[column] for row in rates}
        expected = {0.0: "silent", 1.0: "saturated"} if len(values) == 1 else {}
        assert found.get(name) == expected.get(values.pop())
    known: list[str] = []
    assert symptoms.is_new(found, known) == bool(found)
    lines = symptoms.warnings(found, ["w"], known)
    assert len(lines) == len({*found.values()}) + ("silent" not in found.values())
    assert symptoms.warnings(found, ["w"], known) == []
    assert not symptoms.is_new(found, known)
