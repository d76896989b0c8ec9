"""Tests of runs that are created, opened again and trained."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tsslbp import training
from tsslbp.run import Run

from .conftest import Program, accuracies, records

pytestmark = pytest.mark.usefixtures("folder")


def test_resume_to_more_epochs_equals_one_run(program: Program) -> None:
    program("train", "mine.toml", "--epochs", "3", "--out", "whole")
    program("train", "mine.toml", "--epochs", "1", "--out", "parts")
    code, output, _ = program("train", "mine.toml", "--epochs", "3", "--out", "parts", "--resume")
    assert code == 0
    assert "resumed after epoch 1" in output
    assert records("parts") == records("whole")
    assert len(Run.open(Path("parts")).environment["resumed"]) == 1


def test_resume_starts_a_run_that_is_not_there(program: Program) -> None:
    code, output, _ = program("train", "mine.toml", "--epochs", "1", "--resume")
    assert code == 0
    assert "resumed" not in output
    assert len(records("runs/mine-seed0")) == 1


def test_a_finished_run_resumed_reports_again(program: Program) -> None:
    _, first, _ = program("train", "mine.toml")
    code, again, _ = program("train", "mine.toml", "--resume")
    assert code == 0
    assert accuracies(again) == accuracies(first)
    assert len(records("runs/mine-seed0")) == 2


def test_an_existing_run_is_not_overwritten(program: Program, refused: Callable[..., str]) -> None:
    program("train", "mine.toml", "--epochs", "1")
    before = records("runs/mine-seed0")
    error = refused("train", "mine.toml", "--epochs", "1")
    assert "runs/mine-seed0 already contains a run" in error and "--resume" in error
    assert records("runs/mine-seed0") == before


def test_resume_with_other_settings_names_them(
    program: Program, refused: Callable[..., str]
) -> None:
    program("train", "mine.toml", "--epochs", "1")
    error = refused(
        *("train", "mine.toml", "--resume", "--set", "learning_rate=0.5"),
        *("--set", "rule.warm_up=never"),
    )
    assert "learning_rate is 0.01 there, 0.5 here" in error
    assert "rule.warm_up is 'neuron' there, 'never' here" in error
    assert "tau_m" not in error


def poison(monkeypatch: pytest.MonkeyPatch, call: int, act: Callable[[Any], None]) -> None:
    """Call `act` on the network before the training step number `call`."""
    original, calls = training.step.train_step, []

    def wrapper(net: Any, *arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == call:
            act(net)
        return original(net, *arguments, **options)

    monkeypatch.setattr(training.step, "train_step", wrapper)


@torch.no_grad()
def _nan_weight(net: Any) -> None:
    net.get_parameter("linear2.weight")[0, 0] = math.nan


def test_divergence_names_the_layer_and_the_checkpoint(
    program: Program, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        poison(patch, 6, _nan_weight)  # 4 steps an epoch
        error = refused("train", "mine.toml", "--epochs", "3", "--out", "run")
    assert "epoch 2, step 2: training diverged" in error
    assert "the weights of layer linear2" in error
    assert "run keeps the last good checkpoint" in error
    tensors, state = Run.open(Path("run")).load_checkpoint("last")
    assert state["epoch"] == 1
    assert all(value.isfinite().all() for key, value in tensors.items() if "weights" in key)
    assert "epoch 2, step 2: training diverged" in str(Run.open(Path("run")).divergence())
    code, output, _ = program("evaluate", "run")
    assert code == 0
    assert accuracies(output)["last epoch"][0] == "1"
    assert program("train", "mine.toml", "--epochs", "3", "--out", "run", "--resume")[0] == 0
    assert Run.open(Path("run")).divergence() is None


def _interrupt(net: Any) -> None:
    raise KeyboardInterrupt


def test_interrupt_says_how_to_continue(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    program("train", "mine.toml", "--out", "whole")
    with monkeypatch.context() as patch:
        patch.setattr(training.loop, "CHECKPOINT_SECONDS", 0.0)  # a checkpoint after every step
        poison(patch, 7, _interrupt)
        code, _, error = program("train", "mine.toml", "--out", "run")
    assert code == 130
    assert error == "stopped: tsslbp resume run continues the run in run\n"
    # Weights from within an epoch are labelled as such.
    assert accuracies(program("evaluate", "run")[1])["last epoch"][0] == "1 + 2 steps"
    assert program("train", "mine.toml", "--out", "run", "--resume")[0] == 0
    assert records("run") == records("whole")


def test_records_that_were_removed(program: Program, refused: Callable[..., str]) -> None:
    program("train", "mine.toml", "--epochs", "1", "--out", "run")
    Path("run/metrics.jsonl").unlink()
    resume = ("train", "mine.toml", "--epochs", "1", "--out", "run", "--resume")
    assert "run holds no record of an epoch" in refused(*resume)
