"""Tests that runs are read from their folders and grouped by their settings."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tsslbp import Network, Surrogate, analysis
from tsslbp.errors import RunError
from tsslbp.experiment import Experiment, load_recipe, trained_names
from tsslbp.experiment.weights import SHIPPED, trained_record
from tsslbp.run import Run, results


def make(folder: Path, experiment: Experiment, accuracies: list[float]) -> None:
    run = Run.create(folder, replace(experiment, epochs=len(accuracies) or 1))
    for epoch, accuracy in enumerate(accuracies, 1):
        values = {"train_accuracy": 0.5, "test_accuracy": accuracy, "seconds": 2.0}
        run.append_epoch({"epoch": epoch, "validation_accuracy": 1 - accuracy} | values)


def test_measures_choose_the_first_of_equal_epochs() -> None:
    shares = [(1, 0.5, 0.7), (2, 0.6, 0.9), (3, 0.6, 0.9), (4, 0.4, 0.2)]
    epochs = [
        {"epoch": epoch, "validation_accuracy": validation, "test_accuracy": test}
        for epoch, validation, test in shares
    ]
    chosen = results.measures(epochs)
    assert {name: one["epoch"] for name, one in chosen.items()} == {
        "last": 4,
        "best-validation": 2,
        "best-test": 2,
    }
    published = [{"epoch": 1, "test_accuracy": 0.5}]
    assert results.measures(published) == {"last": published[0], "best-test": published[0]}


def test_result(tmp_path: Path) -> None:
    make(tmp_path / "run", load_recipe("digits"), [0.5, 0.75, 0.25])
    result = results.Result.read(tmp_path / "run")
    assert result.accuracy == {"last": 0.25, "best-validation": 0.25, "best-test": 0.75}
    assert result.seconds == 6.0
    assert result.finished
    assert not replace(result, epochs=result.epochs[:2]).finished


def test_cost_of_a_result(tmp_path: Path) -> None:
    """The cost comes with the accuracy of the epoch whose weights were counted."""
    make(tmp_path / "run", load_recipe("digits"), [0.5, 0.75, 0.25])
    run = Run.open(tmp_path / "run")
    assert results.Result.read(run.folder).cost is None
    net = Network("6", (1, 3, 3), 4, 2)
    counted = analysis.cost(net, torch.ones(5, 1, 3, 3))
    run.record_cost({"epoch": 2, **counted.to_table()})
    found = results.Result.read(run.folder).cost
    assert found is not None
    assert (found.test_accuracy, found.images, found.neurons) == (0.75, 5, 10)
    assert found.parameters == found.dense_multiplications == 9 * 6 + 6 * 4
    assert found.multiplications == 54 and found.updates == 20
    assert found.additions == counted.total.spiking.additions
    assert found.energy == pytest.approx(counted.total.spiking.energy().total)
    assert found.connection_energy == pytest.approx(counted.total.spiking.energy().connections)
    assert found.relu_energy == pytest.approx(counted.total.relu.energy().total)
    run.record_cost({"epoch": 4, **counted.to_table()})  # of an epoch without a record
    assert results.Result.read(run.folder).cost is None


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        ({"epoch": None}, "it has no epoch"),
        ({"epoch": "1"}, "epoch is '1'"),
        ({"total": None}, "it has no total.neurons"),
        ({"total": {"neurons": 3}}, "it has no total.parameters"),
        ({"images": "many"}, "images is 'many'"),
        ({"images": True}, "images is True"),
        ({"images": 1e300}, "images is 1e\\+300"),
        ({"energy": {"float32": [1]}}, "it has no energy.float32.spiking.connections"),
        (
            {"energy": {"float32": {"spiking": {"connections": math.nan, "neurons": 1.0}}}},
            "it has no energy.float32.spiking.connections",
        ),
    ],
)
def test_damaged_cost_is_told(tmp_path: Path, damage: dict[str, object], what: str) -> None:
    make(tmp_path / "run", load_recipe("digits"), [0.5])
    run = Run.open(tmp_path / "run")
    counted = analysis.cost(Network("6", (1, 3, 3), 4, 2), torch.ones(5, 1, 3, 3))
    table = {"epoch": 1, **counted.to_table(), **damage}
    if damage == {"epoch": None}:
        del table["epoch"]
    run.record_cost(table)
    with pytest.raises(RunError, match=rf"run: cost\.json is damaged: {what}"):
        results.Result.read(run.folder)


def test_read_all_reports_what_is_no_run(tmp_path: Path) -> None:
    make(tmp_path / "a" / "good", load_recipe("digits"), [0.5])
    make(tmp_path / "a" / "begun", load_recipe("digits"), [])
    (tmp_path / "a" / "half").mkdir()
    (tmp_path / "a" / "half" / "metrics.jsonl").write_text("{")
    make(tmp_path / "a" / "damaged", load_recipe("digits"), [0.5])
    (tmp_path / "a" / "damaged" / "environment.json").write_text("")
    make(tmp_path / "a" / "foreign", load_recipe("digits"), [0.5])
    (tmp_path / "a" / "foreign" / "metrics.jsonl").write_text('{"epoch": 1}')
    for number, key in enumerate(("test_accuracy", "seconds", "validation_accuracy")):
        make(tmp_path / "a" / f"other{number}", load_recipe("digits"), [0.5, 0.5])
        path = tmp_path / "a" / f"other{number}" / "metrics.jsonl"
        first, last = map(json.loads, path.read_text().splitlines())
        path.write_text("\n".join(map(json.dumps, (first | {key: None}, last))) + "\n")
    (tmp_path / "empty").mkdir()
    paths = [tmp_path / "a", tmp_path / "empty", tmp_path / "none"]
    found, problems = results.read_all(paths)
    assert [result.folder.name for result in found] == ["good"]
    words = ["begun", "damaged", "foreign", "half", "other0", "other1"]
    words += ["the record of epoch 1 is damaged: validation_accuracy is None"]
    words += ["empty contains no run", "none is not a folder"]
    assert len(problems) == len(words)
    for word, problem in zip(words, problems, strict=True):
        assert word in problem


@pytest.mark.parametrize(("count", "damaged"), [(1, 1), (3, 1), (3, 2), (3, 3)])
def test_a_damaged_line_is_not_left_out_in_silence(
    tmp_path: Path, count: int, damaged: int
) -> None:
    """A torn last line may be left out, since the training had not finished that epoch."""
    make(tmp_path / "run", load_recipe("digits"), [0.5] * count)
    path = tmp_path / "run" / "metrics.jsonl"
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join(lines) + b'\n{"epoch": 4, "test')
    assert len(results.read_epochs(Run.open(tmp_path / "run"))) == count
    path.write_bytes(b"\n\n".join(lines) + b"\n \n")  # empty lines, as editors leave them
    assert len(results.read_epochs(Run.open(tmp_path / "run"))) == count
    lines[damaged - 1] = b"\0" * 20
    path.write_bytes(b"\n".join(lines) + b"\n")
    middle = f"holds no intact record of epoch {damaged}: was"
    last = "the last line is not the record of an epoch: was the file"
    with pytest.raises(RunError, match=last if damaged == count else middle):
        results.Result.read(tmp_path / "run")


@pytest.mark.parametrize("name", trained_names())
def test_a_pretrained_network_is_a_result_with_one_epoch(name: str) -> None:
    (record,) = results.Result.read(SHIPPED / name).epochs
    assert record["epoch"] == trained_record(name)["epoch"]


def test_a_run_without_an_epoch_is_no_result(tmp_path: Path) -> None:
    make(tmp_path / "run", load_recipe("digits"), [])
    with pytest.raises(RunError, match="has not finished an epoch"):
        results.Result.read(tmp_path / "run")


def test_groups_differ_in_the_seed_only(tmp_path: Path) -> None:
    digits = replace(load_recipe("digits"), epochs=1)
    always = replace(digits, rule={"name": "TSSLBP", "warm_up": "always"})
    for seed in (1, 0):
        make(tmp_path / f"b{seed}", replace(digits, seed=seed), [0.5 + seed / 4])
        make(tmp_path / f"a{seed}", replace(always, seed=seed), [0.25])
    found, problems = results.read_all([tmp_path])
    assert not problems
    first, second = results.group(found)
    assert first.label == "digits, epochs = 1, rule.warm_up = 'always'"
    assert second.label == "digits, epochs = 1"
    assert second.seeds == (0, 1)
    assert np.array_equal(second.accuracies("last"), [0.5, 0.75])
    assert second.accuracies("best-validation").shape == (2,)
    assert second.experiment.seed == 0


def test_of_different_rules_the_names_differ_and_no_field() -> None:
    digits = load_recipe("digits")
    surrogate, published = (
        replace(digits, rule=rule) for rule in ("Surrogate", "TSSLBP.published")
    )
    with pytest.raises(RunError) as caught:
        results.check_settings("here", surrogate, digits, ())
    assert str(caught.value).startswith(
        "here with other settings (rule.name is 'Surrogate' there, 'TSSLBP' here): ask for"
    )
    with pytest.raises(RunError, match=r"rule\.warm_up is 'layer' there, 'neuron' here"):
        results.check_settings("here", published, digits, ())


def test_settings_may_differ_in_some_keys_and_be_unset() -> None:
    digits = load_recipe("digits")
    other = replace(digits, patience=3, seed=5)
    results.check_settings("here", other, digits, ("patience", "seed"))
    with pytest.raises(RunError, match=r"\(patience is 3 there, unset here; seed is 5"):
        results.check_settings("here", other, digits, ())


def test_labels_of_shipped_recipes_are_their_names() -> None:
    from tsslbp.experiment import recipe_names

    for name in recipe_names():
        assert results.label(replace(load_recipe(name), seed=3)) == name
    other = results.label(replace(load_recipe("digits"), rule=Surrogate()))
    assert "rule = 'Surrogate'" in other and "None" not in other and "rule.width" not in other


def test_committed_records_can_be_read() -> None:
    found, problems = results.read_all([Path(__file__).resolve().parents[2] / "results"])
    assert not problems
    assert {result.folder.name for result in found} >= {"mnist-seed0", "digits-seed0"}
    assert all(json.dumps(dict(result.environment)) for result in found)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"test_accuracy": None}, "epoch 2 is damaged: test_accuracy is None"),
        ({"seconds": math.inf}, "epoch 2 is damaged: seconds is inf"),
        ({"test_accuracy_by_step": [0.5, "x"]}, "damaged: test_accuracy_by_step"),
        ({"images_per_second": "fast"}, "damaged: images_per_second"),
        ({"warm_up": 0.5}, "damaged: warm_up"),
        ({"drops": [{}]}, "damaged: drops"),
        ({"note": ["x"]}, "damaged: note"),
    ],
)
def test_a_damaged_record_is_no_result(
    tmp_path: Path, changes: dict[str, object], words: str
) -> None:
    make(tmp_path / "run", load_recipe("digits"), [0.5, 0.75, 0.25])
    path = tmp_path / "run" / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[1] |= changes
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(RunError, match=words):
        results.Result.read(tmp_path / "run")


@pytest.mark.parametrize("key", ["test_accuracy", "validation_accuracy"])
def test_an_epoch_without_its_accuracy_is_no_result(tmp_path: Path, key: str) -> None:
    make(tmp_path / "run", load_recipe("digits"), [0.5, 0.75])
    path = tmp_path / "run" / "metrics.jsonl"
    first, second = path.read_text().splitlines()
    shorter = {name: value for name, value in json.loads(first).items() if name != key}
    path.write_text(f"{json.dumps(shorter)}\n{second}\n")
    with pytest.raises(RunError, match=f"epoch 1 has no '{key}'"):
        results.Result.read(tmp_path / "run")


def test_averaged_weights_have_an_accuracy_of_their_own(tmp_path: Path) -> None:
    experiment = load_recipe("digits")
    make(tmp_path / "run", experiment, [0.5, 0.7])
    run = Run.open(tmp_path / "run")
    last = run.epochs()[-1]
    averaged = {"averaged_test_accuracy": 0.8, "averaged_validation_accuracy": 0.9}
    run.append_epoch(last | averaged)
    result = results.Result.read(run.folder)
    assert result.accuracy == {
        "last": 0.7,
        "best-validation": 0.5,
        "best-test": 0.7,
        "averaged": 0.8,
    }
    assert results.measures(result.epochs)["averaged"]["validation_accuracy"] == 0.9
    run.append_epoch(last | averaged | {"averaged_test_accuracy": None})
    with pytest.raises(RunError, match="averaged_test_accuracy is None"):
        results.Result.read(run.folder)


def test_patience_follows_validation_images(tmp_path: Path) -> None:
    """In the runs of `make`, validation accuracy falls while test accuracy rises."""
    patient = replace(load_recipe("digits"), patience=2)
    make(tmp_path / "run", patient, [0.5, 0.6, 0.7])
    epochs = Run.open(tmp_path / "run").epochs()
    longer = replace(patient, epochs=9)
    assert results.is_finished(epochs, longer)
    assert not results.is_finished(epochs[:2], longer)
    published = [{key: one[key] for key in one if "validation" not in key} for one in epochs]
    assert not results.is_finished(published, longer)
    for epoch, best, ends in ((5, {"test": 3}, True), (5, {"test": 3, "validation": 4}, False)):
        assert results.runs_out_of_patience(patient, epoch, best) == ends
    assert not results.runs_out_of_patience(replace(patient, patience=None), 99, {"test": 1})


def test_differences_from_the_record() -> None:
    epochs: list[dict[str, Any]] = [
        {"epoch": 1, "test_accuracy": 0.5, "validation_accuracy": 0.25},
        {"epoch": 2, "test_accuracy": 0.75, "averaged_test_accuracy": 0.8},
    ]
    same = {"epoch": 1, "test_accuracy": 0.5, "validation_accuracy": 0.25}
    assert results.differences("last", same, epochs) == []
    (line,) = results.differences("best-test", same | {"test_accuracy": 0.375}, epochs)
    assert line.startswith("test accuracy 37.50 %, but the run recorded 50.00 % after epoch 1: ")
    assert len(results.differences("last", {"epoch": 2, "test_accuracy": 0.8}, epochs)) == 1
    assert results.differences("averaged", {"epoch": 2, "test_accuracy": 0.8}, epochs) == []
    for epoch in (3, "1 + 5 steps"):  # epochs without a record
        assert results.differences("last", {"epoch": epoch, "test_accuracy": 0.1}, epochs) == []
