"""Checkpoints: loading a trained network, and those that do not fit."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import tsslbp.data
from tsslbp import training
from tsslbp.errors import RunError
from tsslbp.run import Run

from .toy import EXPERIMENT, toy, trained


def test_load(tmp_path: Path) -> None:
    run = trained(tmp_path / "run")
    data = toy()
    for name, key in (("last", -1), ("best-test", None), ("best-validation", None)):
        net = tsslbp.load(run.folder, name)
        accuracy = training.evaluate(
            net, training.Split(data.test_images, data.test_labels), (0.0,), (1.0,)
        )[-1]
        _, state = run.load_checkpoint(name)
        assert accuracy == run.epochs()[state["epoch"] - 1]["test_accuracy"]
        assert key is None or state["epoch"] == 3
    chosen, default = tsslbp.load(run.folder, "best-validation"), tsslbp.load(str(run.folder))
    assert not default.training
    for first, second in zip(chosen.parameters(), default.parameters(), strict=True):
        assert torch.equal(first, second)


def test_checkpoint_of_another_network(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", replace(EXPERIMENT, epochs=1))
    config = run.folder / "config.toml"
    config.write_text(config.read_text().replace("4C3-P2-12", "4C3-P2-13"))
    with pytest.raises(RunError, match=r"another network than '4C3-P2-13': layers.3.*\(12, 16\)"):
        tsslbp.load(run.folder)
    with pytest.raises(RunError, match="another network"):
        training.fit(Run.open(run.folder), toy())


def test_checkpoint_under_another_name(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", replace(EXPERIMENT, epochs=1))
    folder = run.folder / "checkpoints"
    (folder / "last.safetensors").write_bytes((folder / "best-test.safetensors").read_bytes())
    with pytest.raises(RunError, match="holds no 'progress'"):
        training.fit(Run.open(run.folder), toy())
    run.save_checkpoint("last", {}, {})
    with pytest.raises(RunError, match="holds no 'input_shape'"):
        tsslbp.load(run.folder, "last")
