"""Tests of checkpoints: loading a trained network, and refusing checkpoints that do not fit."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from shutil import copytree
from typing import Any

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
    with pytest.raises(RunError, match="has no 'progress'"):
        training.fit(Run.open(run.folder), toy())
    run.save_checkpoint("last", {}, {})
    with pytest.raises(RunError, match="has no 'input_shape'"):
        tsslbp.load(run.folder, "last")


OLD = Path(__file__).with_name("old_run")  # its keys contain the numbers of modules


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
    """The optimiser's moments of an old checkpoint are assigned to the right weights."""
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
    """Weights of a run, its checkpoint or another program's file are loaded unchanged."""
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
    # A resumed run does not need them any more.
    gone = replace(EXPERIMENT, weights=str(tmp_path / "gone"))
    with pytest.raises(InvalidInput, match="neither a run folder nor a file"):
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
    with pytest.raises(InvalidInput, match="contain nothing that fits"):
        training.Training(other, toy())


def test_weights_that_cannot_be_read(tmp_path: Path) -> None:
    file = tmp_path / "bad.safetensors"
    torch.save({"a": torch.ones(1)}, file)
    with pytest.raises(RunError, match=r"looks like a file of torch\.save"):
        training.Training(replace(EXPERIMENT, weights=str(file)), toy())
    save_file({}, file)
    with pytest.raises(RunError, match="contains no tensors"):
        training.Training(replace(EXPERIMENT, weights=str(file)), toy())
    run = trained(tmp_path / "run", replace(EXPERIMENT, epochs=1))
    content = bytearray((run.folder / "checkpoints" / "last.safetensors").read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(RunError, match="its tensors have another digest than when they were"):
        training.Training(replace(EXPERIMENT, weights=str(file)), toy())
    broken = tsslbp.load(run.folder).state_dict()
    broken["conv1.weight"][0, 0, 0, 0] = math.nan
    save_file({key: value.clone() for key, value in broken.items()}, file)
    with pytest.raises(RunError, match=r"conv1\.weight contains NaN or infinity"):
        training.Training(replace(EXPERIMENT, weights=str(file)), toy())


def test_old_weights_and_those_of_a_module(tmp_path: Path) -> None:
    """Numbered keys of an earlier version and a module's own keys without prefix are accepted."""
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


AVERAGED = replace(EXPERIMENT, epochs=1, average_weights=0.9, protocol="published")
Tensors = dict[str, torch.Tensor]


def shifted(values: torch.Tensor) -> torch.Tensor:
    """Return the values with NaN at the end, or converted to int16 if they cannot hold NaN."""
    if not values.is_floating_point() or not values.numel():
        return values.to(torch.int16)
    changed = values.clone()
    changed.view(-1)[-1] = float("nan")
    return changed


CHANGES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "longer": lambda values: torch.cat([values.flatten(), values.flatten()[:1]]),
    "a dimension more": lambda values: values[None],
    "flat": lambda values: values.flatten() if values.ndim != 1 else values[:, None],
    "half": lambda values: values.half(),
    "double": lambda values: values.float() if values.dtype == torch.float64 else values.double(),
    "whole": lambda values: values.to(torch.int32),
    "no number": shifted,
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Tensors, dict[str, Any]]:
    """Train a run whose checkpoint has every possible part; return the run and those parts."""
    run = trained(tmp_path_factory.mktemp("whole") / "run", AVERAGED)
    return run, *run.load_checkpoint("last")


def resume(tensors: Tensors, state: Mapping[str, Any]) -> training.Training:
    """Restore a checkpoint in a new training, which must stay unchanged if it is refused."""
    ready = training.Training(AVERAGED, toy())
    before = {key: value.clone() for key, value in ready.net.state_dict().items()}
    try:
        ready.state.restore(tensors, state, "checkpoint 'last'")
    except RunError:
        after = ready.net.state_dict()
        assert all(torch.equal(after[key], before[key]) for key in before)
        assert ready.state.optimizer.state_dict()["state"] == {}
        assert ready.state.progress == training.Progress()
        raise
    return ready


@pytest.mark.parametrize("change", CHANGES)
def test_no_tensor_of_another_shape_or_type_is_taken(
    whole: tuple[Run, Tensors, dict[str, Any]], change: str
) -> None:
    """Weights, averaged weights, the optimiser's moments and the history are all checked."""
    _, tensors, state = whole
    assert resume(tensors, state).state.progress.epochs == 1
    assert {key.partition(".")[0] for key in tensors} == {
        *("weights", "averaged", "optimizer", "history")
    }
    for key, values in tensors.items():
        if change == "no number" and key.startswith("history.") and values.is_floating_point():
            continue  # there, NaN stands for "does not apply"
        with pytest.raises(RunError) as caught:
            resume(tensors | {key: CHANGES[change](values)}, state)
        name = key.removeprefix("weights.").removeprefix("averaged.")
        assert "\n" not in str(caught.value)
        assert name in str(caught.value) or "history." in str(caught.value)


def test_no_tensor_may_be_missing_or_unknown(whole: tuple[Run, Tensors, dict[str, Any]]) -> None:
    _, tensors, state = whole
    for key in tensors:
        less = {name: values for name, values in tensors.items() if name != key}
        first = {"history.loss", "history.activity_step"}  # they determine the others' lengths
        if key.startswith("history.") and key not in first:
            continue  # checkpoints of earlier versions may lack it
        with pytest.raises(RunError):
            resume(less, state)
        with pytest.raises(RunError):
            resume(less | {f"{key}s": tensors[key]}, state)
    without = {key: one for key, one in tensors.items() if not key.startswith("optimizer.")}
    with pytest.raises(RunError, match="lacks moments of the optimiser"):
        resume(without, state)
    of_one = {key: one for key, one in tensors.items() if not key.startswith("optimizer.0.")}
    with pytest.raises(RunError, match="lacks moments of the optimiser"):
        resume(of_one, state)
    for name in ("optimizer.7.step", "optimizer.-1.step", "optimizer.x.step", "optimizer.0"):
        with pytest.raises(RunError, match=r"belongs to no parameter|holds an unknown"):
            resume(tensors | {name: torch.zeros(())}, state)


@pytest.mark.parametrize(
    "changes",
    [
        *({"epochs": value} for value in (-1, 1.0, "1", None, True, [1])),
        *({"step": value} for value in (-1, "0")),
        {"seconds": -1.0},
        {"best": [0.5]},
        {"best": {"test": "0.5"}},
        {"best_epoch": {"test": 1.5}},
        {"finished": 0},
        {"more": 1},
    ],
)
def test_progress_that_cannot_be(
    whole: tuple[Run, Tensors, dict[str, Any]], changes: dict[str, Any]
) -> None:
    _, tensors, state = whole
    with pytest.raises(RunError, match="checkpoint 'last' is damaged: progress: "):
        resume(tensors, state | {"progress": state["progress"] | changes})
    (key,) = changes
    less = {name: value for name, value in state["progress"].items() if name != key}
    if less != state["progress"]:
        with pytest.raises(RunError, match=f"missing key '{key}'"):
            resume(tensors, state | {"progress": less})
    with pytest.raises(RunError, match="is damaged"):
        resume(tensors, state | {"progress": [1]})


@pytest.mark.parametrize(
    "changes",
    [
        *({"input_shape": value} for value in (None, [1, 6], [1, 6, 0], [1, 6, 6.0], "166", {})),
        *({"classes": value} for value in (0, "2", 2.0, True, None)),
        *({"epoch": value} for value in (-1, "1", None)),
    ],
)
def test_a_state_that_cannot_be(
    whole: tuple[Run, Tensors, dict[str, Any]], tmp_path: Path, changes: dict[str, Any]
) -> None:
    """An impossible state is refused in files without digests, which anybody may have written."""
    run, tensors, state = whole
    copytree(run.folder, tmp_path / "run")
    text = json.dumps(state | changes)
    save_file(tensors, tmp_path / "run" / "checkpoints" / "last.safetensors", {"state": text})
    with pytest.raises(RunError, match=f"is damaged: {next(iter(changes))} is "):
        tsslbp.load(tmp_path / "run")


def test_moments_of_every_optimiser_are_those_that_it_keeps(tmp_path: Path) -> None:
    """A checkpoint is accepted by its own optimiser, with or without momentum, and by no other."""
    kinds = {"adamw": {}, "sgd": {"momentum": 0.9}, "plain": {"momentum": 0.0}}
    found = {}
    for name, settings in kinds.items():
        optimizer = "adamw" if name == "adamw" else "sgd"
        one = replace(EXPERIMENT, epochs=1, optimizer=optimizer, **settings)
        run = trained(tmp_path / name, one)
        found[name] = one, *run.load_checkpoint("last")
        training.fit(run.extended(2), toy())
    for name, (one, _, _) in found.items():
        for other, (_, tensors, state) in found.items():
            ready = training.Training(one, toy())
            if name == other:
                ready.state.restore(tensors, state, "it")
                continue
            with pytest.raises(RunError, match=r"it (holds|lacks)"):
                ready.state.restore(tensors, state, "it")
