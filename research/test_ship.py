"""Tests that a finished run becomes a pretrained network."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import ship
import tsslbp
from tsslbp import training
from tsslbp.data import DataSet, catalogue
from tsslbp.errors import InvalidInput
from tsslbp.experiment import Experiment, load_recipe
from tsslbp.experiment.weights import SHIPPED
from tsslbp.run import Run, results

WANTED = replace(load_recipe("digits"), network="8", padding=0, epochs=2, validation_images=20)


@pytest.fixture
def data(monkeypatch: pytest.MonkeyPatch) -> DataSet:
    every = tsslbp.data.load("digits")
    train, test = slice(200), slice(100)
    few = replace(
        every,
        train_images=every.train_images[train],
        train_labels=every.train_labels[train],
        test_images=every.test_images[test],
        test_labels=every.test_labels[test],
    )
    monkeypatch.setattr(training, "load_data", lambda *_: few)
    return few


def trained(folder: Path, wanted: Experiment, data: DataSet) -> Run:
    run = Run.create(folder, wanted)
    training.fit(run, data)
    return run


@pytest.mark.parametrize("protocol", ["validated", "published"])
def test_ship(tmp_path: Path, data: DataSet, protocol: str) -> None:
    wanted = Experiment.from_table(WANTED.to_table() | {"protocol": protocol})
    run = trained(tmp_path / "run", wanted, data)
    folder = ship.ship(run.folder, "mine", "why not", place=tmp_path / "shipped")
    files = {path.name for path in folder.rglob("*") if path.is_file()}
    name = {"validated": "best-validation", "published": "last"}[protocol]
    texts = {"config.toml", "environment.json", "metrics.jsonl", "trained.json"}
    assert files == texts | {f"{name}.safetensors"}
    tensors, _ = Run.open(folder).load_checkpoint(name)
    assert {value.dtype for value in tensors.values()} == {torch.float16}
    ours, theirs = tsslbp.load(folder), tsslbp.load(run.folder)
    for key, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[key], value.half().float())
    (epoch,) = Run.open(folder).epochs()
    _, _, test = training.splits(wanted, data)
    measured = training.evaluate(ours, test, wanted.mean, wanted.std)
    assert epoch["test_accuracy_by_step"] == measured and epoch["test_accuracy"] == measured[-1]
    facts = json.loads((folder / "trained.json").read_text())
    assert facts["test_accuracy"] == measured[-1] and facts["seed_chosen"] == "why not"
    chosen = results.measures(run.epochs())[name]
    assert facts["trained_accuracy"] == chosen["test_accuracy"]
    assert facts["data_licence"] == catalogue.find("digits").licence
    assert facts["recipe"].startswith("digits, ") and facts["checkpoint"].startswith(name)
    assert results.Result.read(folder).experiment == wanted


def test_what_does_not_ship(tmp_path: Path, data: DataSet, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trained(tmp_path / "run", WANTED, data)
    more = run.extended(3)
    with pytest.raises(InvalidInput, match="is not finished"):
        ship.ship(more.folder, "mine", place=tmp_path / "shipped")
    monkeypatch.setattr(ship, "LIMIT", 1000)
    training.fit(more, data)
    with pytest.raises(InvalidInput, match="more than 1,000"):
        ship.ship(run.folder, "mine", place=tmp_path / "shipped")


def test_those_that_ship_were_made_by_it() -> None:
    for folder in SHIPPED.iterdir():
        facts = json.loads((folder / "trained.json").read_text())
        assert facts["checkpoint"].partition(": ")[2] in ship.CHOICES.values()
