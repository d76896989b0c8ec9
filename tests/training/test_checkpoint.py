"""Checkpoints: loading a trained network, and those that do not fit."""

from dataclasses import replace
from pathlib import Path
from shutil import copytree

import pytest
import torch
from safetensors.torch import load_file

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
    with pytest.raises(RunError, match=r"another network than '4C3-P2-13': linear2.*\(12, 16\)"):
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


OLD = Path(__file__).with_name("old_run")  # written when keys held the numbers of modules


@pytest.mark.parametrize("name", ["last", "best-validation", "best-test"])
def test_old_checkpoints_are_loaded(name: str) -> None:
    old = load_file(OLD / "checkpoints" / f"{name}.safetensors")
    weights = [old[key] for key in sorted(key for key in old if key.startswith("weights."))]
    assert list(old)[-1] == "weights.layers.9.connection.weight" and len(weights) == 6
    net = tsslbp.load(OLD, name)
    assert list(net.state_dict()) == [
        *("conv1.weight", "conv1_neunorm.weight", "conv2.weight", "conv2_neunorm.weight"),
        *("linear3.weight", "output.weight"),
    ]
    assert all(map(torch.equal, net.state_dict().values(), weights))


def test_old_run_is_resumed_as_if_it_were_new(tmp_path: Path) -> None:
    """Its optimiser's moments go to the same weights."""
    copytree(OLD, tmp_path / "old")
    old = Run.open(tmp_path / "old").extended(2)
    training.fit(old, toy())
    new = trained(tmp_path / "new", old.experiment)
    tensors, expected = old.load_checkpoint("last")[0], new.load_checkpoint("last")[0]
    assert tensors.keys() == expected.keys()
    for key, value in expected.items():
        if not key.startswith("history."):
            torch.testing.assert_close(tensors[key], value, rtol=1e-4, atol=1e-6)
