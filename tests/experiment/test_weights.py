"""Tests of trained weights, found by name, folder or file, and of the pretrained networks."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import tsslbp
from tsslbp import training
from tsslbp.data import catalogue
from tsslbp.errors import DataError, InvalidInput, RunError
from tsslbp.experiment import (
    Experiment,
    load_recipe,
    recipe_names,
    save,
    settings_table,
    trained_folder,
    trained_names,
    trained_record,
    with_settings,
)
from tsslbp.experiment.weights import SHIPPED, weights_file, weights_source
from tsslbp.run import Run

EXPERIMENT = Experiment(data="digits", network="16C3-P2-32C3-128", padding=(1, 1))


def test_what_ships() -> None:
    assert trained_names() == ["digits", "fashion-mnist-mlp", "mnist"]
    files = [path for path in SHIPPED.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 3_000_000
    assert {path.suffix for path in files} == {".toml", ".json", ".jsonl", ".safetensors"}


@pytest.mark.parametrize("name", trained_names())
def test_its_record_says_where_it_is_from(name: str) -> None:
    record, run = trained_record(name), Run.open(Path(name))
    assert run.is_shipped and record["recipe"] == name and name in recipe_names()
    (epoch,) = run.epochs()
    assert record["seed"] == run.experiment.seed and record["seed_chosen"]
    assert record["epoch"] == epoch["epoch"] and record["licence"] == "MIT"
    assert record["test_accuracy"] == epoch["test_accuracy"] == epoch["test_accuracy_by_step"][-1]
    assert len(record["commit"]) == 40 and record["commit"] == run.environment["commit"]
    assert record["data_licence"] == catalogue.find(run.experiment.data).licence
    checkpoint, _, why = record["checkpoint"].partition(": ")
    assert checkpoint == training.default_checkpoint(run)
    held_out = run.experiment.protocol == "validated"
    assert ("validation images" in why, "last epoch" in why) == (held_out, not held_out)
    recipe, kept = load_recipe(name), run.experiment
    assert replace(kept, seed=recipe.seed, description="") == replace(recipe, description="")


@pytest.mark.parametrize("name", trained_names())
def test_it_reaches_its_recorded_accuracy(name: str, request: pytest.FixtureRequest) -> None:
    """Five images may differ: other processors add in another order, which flips some spikes."""
    wanted, data_dir = Run.open(Path(name)).experiment, None
    if wanted.data != "digits":
        data_dir = request.getfixturevalue("data_dir")
    try:
        data = training.load_data(wanted, data_dir)
    except DataError as error:
        pytest.skip(str(error))
    net = tsslbp.load(name)
    assert all(value.dtype == torch.float32 for value in net.state_dict().values())
    _, _, test = training.splits(wanted, data)
    accuracy = training.evaluate(net, test, wanted.mean, wanted.std)[-1]
    record = trained_record(name)
    assert abs(accuracy - record["test_accuracy"]) <= 5 / len(test.labels)
    assert abs(record["test_accuracy"] - record["trained_accuracy"]) <= 0.001  # float16


def test_a_name_and_a_folder_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a folder that contains a run takes precedence, not, for example, a folder of data."""
    monkeypatch.chdir(tmp_path)
    Path("digits").mkdir()
    assert trained_folder("digits") == SHIPPED / "digits"
    assert tsslbp.load("digits").description == "16C3-P2-32C3-128"
    Run.create(Path("digits"), replace(EXPERIMENT, network="8", padding=0))
    assert trained_folder("digits") == Path("digits")
    with pytest.raises(RunError, match="digits has no checkpoint"):
        tsslbp.load("digits")
    with pytest.raises(RunError, match=r"does not exist \(did you mean 'digits'\?\)"):
        tsslbp.load("digit")
    with pytest.raises(InvalidInput, match=r"there is no trained network 'minst' .*'mnist'"):
        trained_record("minst")


def test_the_file_that_weights_mean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    best = SHIPPED / "digits" / "checkpoints" / "best-validation.safetensors"
    assert weights_file("digits") == weights_file(str(SHIPPED / "digits")) == best
    assert weights_file(str(best)) == best
    Path("empty").mkdir()
    with pytest.raises(InvalidInput, match="has no checkpoint best-validation or last"):
        weights_file("empty")
    with pytest.raises(InvalidInput, match=r"neither a run folder .* \(did you mean 'mnist'"):
        weights_file(str(tmp_path / "mnits"))


def test_a_configuration_holds_path_and_checksum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save_file({"conv1.weight": torch.ones(16, 1, 3, 3)}, "one.safetensors")
    wanted = with_settings(EXPERIMENT, ["weights=one.safetensors", "weights_partial=true"])
    assert wanted.weights == str(tmp_path / "one.safetensors") and not wanted.weights_checksum
    Path("there").mkdir()
    save(wanted, Path("there/config.toml"))
    kept = load_recipe("there/config.toml")
    assert kept.weights == wanted.weights and kept.weights_checksum
    assert settings_table(kept) == settings_table(wanted)  # whether or not the checksum is known
    assert settings_table(kept)["weights"] == f"one.safetensors ({kept.weights_checksum[:12]})"
    monkeypatch.chdir("/")
    assert with_settings(kept, ["epochs=3"]) == replace(kept, epochs=3)
    assert with_settings(kept, ["weights=digits"]).weights_checksum is None
    save_file({"conv1.weight": torch.zeros(16, 1, 3, 3)}, kept.weights)
    with pytest.raises(InvalidInput, match=r"one.safetensors has changed .* expected [0-9a-f]{12}"):
        weights_source(kept.weights, kept.weights_checksum)
    save(kept, tmp_path / "again.toml")  # this no longer needs the file


def test_relative_weights_start_from_the_recipe(tmp_path: Path) -> None:
    text = 'data = "digits"\nnetwork = "8"\nweights = "{}"\nfreeze = ["linear1"]\n'
    recipe = tmp_path / "mine.toml"
    recipe.write_text(text.format("../first"))
    assert load_recipe(recipe).weights == str(tmp_path.parent / "first")
    assert load_recipe(recipe).freeze == ("linear1",)
    recipe.write_text(text.format("mnist"))
    assert load_recipe(recipe).weights == "mnist"


def test_keys_that_nothing_reads() -> None:
    with pytest.raises(InvalidInput, match="weights_partial needs weights"):
        Experiment("digits", "8", weights_partial=True)
    assert {"weights", "freeze", "weights_checksum"}.isdisjoint(EXPERIMENT.to_table())
