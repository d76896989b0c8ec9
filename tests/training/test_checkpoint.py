"""Checkpoints: loading a trained network, and those that do not fit."""

from dataclasses import replace
from pathlib import Path
from shutil import copytree

import pytest
import torch
from safetensors.torch import load_file, save_file

import tsslbp.data
from tsslbp import training
from tsslbp.errors import InvalidInput, RunError
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


def test_start_from_weights(tmp_path: Path) -> None:
    """Of a run, its file, or another program's file: before the first step they are the same."""
    run = trained(tmp_path / "run", replace(EXPERIMENT, epochs=1))
    expected = tsslbp.load(run.folder).state_dict()
    file = run.folder / "checkpoints" / "best-validation.safetensors"
    save_file(
        {key: value.clone() for key, value in expected.items()}, tmp_path / "plain.safetensors"
    )
    for weights in (run.folder, file, tmp_path / "plain.safetensors"):
        wanted = replace(EXPERIMENT, seed=5, weights=str(weights))
        ready = training.Training(wanted, toy())
        assert ready.start and set(ready.start.taken) == set(expected) and not ready.start.left
        for key, value in ready.net.state_dict().items():
            assert torch.equal(value, expected[key])
    assert training.Training(EXPERIMENT, toy()).start is None
    # A run that is gone on with does not need them any more.
    gone = replace(EXPERIMENT, weights=str(tmp_path / "gone"))
    with pytest.raises(InvalidInput, match="neither a run's folder nor a file"):
        training.Training(gone, toy())
    assert training.Training(gone, toy(), resumed=True).start is None


def test_averages_begin_at_the_weights(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", replace(EXPERIMENT, epochs=1))
    wanted = replace(EXPERIMENT, seed=5, weights=str(run.folder), average_weights=0.9)
    ready = training.Training(wanted, toy())
    assert ready.state.averaged
    for key, value in tsslbp.load(run.folder).state_dict().items():
        assert torch.equal(ready.state.averaged.values[key], value)


def test_weights_of_another_shape(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", replace(EXPERIMENT, epochs=1))
    theirs = tsslbp.load(run.folder).state_dict()
    wanted = replace(EXPERIMENT, seed=5, network="4C3-P2-13-9", weights=str(run.folder))
    message = (
        r"do not fit 4C3-P2-13-9: linear2.weight is 12 x 16 there and 13 x 16 here; linear3.weight "
        r"is missing there and 9 x 13 here; output.weight is 2 x 12 there and 2 x 9 here; weights_"
    )
    with pytest.raises(InvalidInput, match=message):
        training.Training(wanted, toy())
    fresh = training.build_network(wanted, (1, 6, 6), 2).state_dict()
    ready = training.Training(replace(wanted, weights_partial=True), toy())
    assert ready.start and ready.start.taken == ("conv1.weight",) and len(ready.start.left) == 3
    state = ready.net.state_dict()
    assert torch.equal(state.pop("conv1.weight"), theirs["conv1.weight"])
    assert all(torch.equal(value, fresh[key]) for key, value in state.items())
    save_file({"other": torch.ones(2)}, tmp_path / "other.safetensors")
    other = replace(wanted, weights=str(tmp_path / "other.safetensors"), weights_partial=True)
    with pytest.raises(InvalidInput, match="hold nothing that fits"):
        training.Training(other, toy())


def test_weights_that_cannot_be_read(tmp_path: Path) -> None:
    file = tmp_path / "bad.safetensors"
    torch.save({"a": torch.ones(1)}, file)
    with pytest.raises(RunError, match=r"looks like a file of torch\.save"):
        training.Training(replace(EXPERIMENT, weights=str(file)), toy())
    save_file({}, file)
    with pytest.raises(RunError, match="holds no tensors"):
        training.Training(replace(EXPERIMENT, weights=str(file)), toy())


def test_old_weights_and_those_of_a_module(tmp_path: Path) -> None:
    """Numbered keys of an earlier version; a module's own keys, without the wrapper's prefix."""
    old = Run.open(OLD).experiment
    ready = training.Training(replace(old, seed=7, weights=str(OLD)), toy())
    for key, value in tsslbp.load(OLD).state_dict().items():
        assert torch.equal(ready.net.state_dict()[key], value)
    module = torch.nn.Sequential(
        torch.nn.Flatten(-3), tsslbp.layers.Linear(36, 2), tsslbp.layers.LIF(time_steps=4)
    )
    save_file({"1.weight": torch.full((2, 36), 0.25)}, tmp_path / "m.safetensors")
    settings = {"epochs": 1, "validation_images": 12, "time_steps": 4, "learning_rate": 1e-9}
    net = tsslbp.fit(module, toy(), weights=str(tmp_path / "m.safetensors"), **settings)
    assert torch.allclose(net.module[1].weight, torch.tensor(0.25), atol=1e-6)
