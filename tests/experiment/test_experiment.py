"""Tests of experiments: construction, errors and tables."""

import pickle
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
from hypothesis import given

from tsslbp.errors import InvalidInput
from tsslbp.experiment import Experiment
from tsslbp.rules import TSSLBP

from .experiments import EXPERIMENTS, MINIMAL, assert_one_line


def test_the_defaults_are_the_revised_settings() -> None:
    experiment = Experiment.from_table(MINIMAL)
    assert (experiment.tau_m, experiment.tau_s, experiment.pool_scale) == (5.0, 3.0, 1.1)
    assert (experiment.conv_init, experiment.rule) == ("uniform", TSSLBP())
    assert (experiment.loss, experiment.target_filters) == ("kernel", 2)
    assert (experiment.epochs, experiment.batch_size) == (100, 50)
    assert (experiment.learning_rate, experiment.weight_decay) == (0.0005, 0.01)
    assert (experiment.gradient_clip, experiment.weight_limit) == (1.0, 4.0)
    assert (experiment.protocol, experiment.validation_images) == ("validated", 5000)
    assert experiment.patience is None


def test_values_are_brought_to_their_types() -> None:
    experiment = Experiment.from_table(
        MINIMAL
        | {"tau_m": 4, "mean": [0, 0.5, 1], "padding": [1, 0]}
        | {"weight_scale": {"conv": 5, "linear": 1.5}, "rule": "TSSLBP.published"}
    )
    assert experiment.tau_m == 4.0
    assert isinstance(experiment.tau_m, float)
    assert experiment.mean == (0.0, 0.5, 1.0)
    assert [type(mean) for mean in experiment.mean] == [float] * 3
    assert experiment.padding == (1, 0)
    assert experiment.weight_scale == {"conv": 5.0, "linear": 1.5}
    assert experiment.rule == TSSLBP.published()


def test_an_experiment_is_frozen_and_can_be_sent_to_another_process() -> None:
    experiment = Experiment.from_table(MINIMAL | {"weight_scale": {"conv": 5, "linear": 1}})
    with pytest.raises(FrozenInstanceError):
        experiment.epochs = 3  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(experiment)) == experiment


def test_an_experiment_does_not_follow_changes_of_the_table_it_was_made_from() -> None:
    scales = {"conv": 5.0, "linear": 1.0}
    experiment = Experiment(data="mnist", network="300", weight_scale=scales)
    scales["conv"] = 1.0
    assert experiment.weight_scale == {"conv": 5.0, "linear": 1.0}


WRONG: list[tuple[str, Any, list[str]]] = [
    ("optimizer", "adam", ["one of adamw, sgd", "did you mean 'adamw'?"]),
    ("schedule", "cosin", ["one of constant, cosine, step", "did you mean 'cosine'?"]),
    ("step_epochs", 0, ["whole number of at least 1", "list", "got 0"]),
    ("momentum", 1.0, ["number of at least 0 and below 1", "got 1.0"]),
    ("warm_up_epochs", -1, ["number of at least 0", "got -1"]),
    ("accumulate", 0, ["whole number of at least 1", "got 0"]),
    ("average_weights", 1, ["number of at least 0 and below 1", "got 1"]),
    ("cutout", 1.5, ["whole number of at least 0", "got 1.5"]),
    ("roll", -1, ["whole number of at least 0", "got -1"]),
    ("rotate", 181, ["number of degrees from 0 to 180", "got 181"]),
    ("translate", 1.0, ["number of at least 0 and below 1", "got 1.0"]),
    ("brightness", -0.1, ["number of at least 0 and below 1", "got -0.1"]),
    ("mixup", -1, ["number of at least 0", "got -1"]),
    ("tet_weight", 1.0, ["number of at least 0 and below 1", "got 1.0"]),
    ("data", 3, ["text", "got 3"]),
    ("network", "", ["text", "not empty", "got ''"]),
    ("network", 300, ["text", "got 300"]),
    ("description", ["a"], ["text", "got ['a']"]),
    ("betas", 0.5, ["list", "number", "got 0.5"]),
    ("mean", [], ["list (not empty)", "got []"]),
    ("mean", "0.5", ["list", "got '0.5'"]),
    ("mean", [float("nan")], ["finite number", "got [nan]"]),
    ("mean", [10**400], ["finite number"]),
    ("std", [0.3, 0.0], ["number above 0", "got [0.3, 0.0]"]),
    ("crop_padding", -1, ["whole number of at least 0", "got -1"]),
    ("crop_padding", 1.5, ["whole number of at least 0", "got 1.5"]),
    ("horizontal_flip", 1, ["true or false", "got 1"]),
    ("horizontal_flip", "yes", ["true or false", "got 'yes'"]),
    ("protocol", "publishd", ["one of published, validated", "did you mean 'published'?"]),
    ("protocol", 1, ["one of published, validated", "got 1"]),
    ("train_images", 0, ["whole number of at least 1", "got 0"]),
    ("validation_images", 0, ["whole number of at least 1", "got 0"]),
    ("padding", -1, ["whole number of at least 0", "got -1"]),
    ("padding", [0, -1], ["whole number of at least 0", "got [0, -1]"]),
    ("padding", 0.5, ["whole number", "list", "got 0.5"]),
    ("time_steps", 0, ["whole number of at least 1", "got 0"]),
    ("time_steps", 5.0, ["whole number of at least 1", "got 5.0"]),
    ("time_steps", True, ["whole number of at least 1", "got True"]),
    ("tau_m", 0.99, ["number of at least 1", "got 0.99"]),
    ("tau_s", 0, ["number of at least 1", "got 0"]),
    ("tau_s", float("inf"), ["number of at least 1", "got inf"]),
    ("threshold", 0.0, ["number above 0", "got 0.0"]),
    ("weight_scale", 0.0, ["number above 0", "table", "conv", "linear", "got 0.0"]),
    ("weight_scale", {"conv": 5.0}, ["conv and linear", "got {'conv': 5.0}"]),
    ("weight_scale", {"conv": 5.0, "linear": "1"}, ["conv and linear", "'1'"]),
    ("conv_init", "keiming", ["one of uniform, kaiming", "did you mean 'kaiming'?"]),
    ("pool_scale", 0, ["number above 0", "got 0"]),
    ("neunorm", 1, ["true or false", "got 1"]),
    ("dropout", 1.0, ["at least 0 and below 1", "got 1.0"]),
    ("dropout", -0.1, ["at least 0 and below 1", "got -0.1"]),
    ("dropout", False, ["at least 0 and below 1", "got False"]),
    ("dropout_kind", "neuron", ["one of rows, neurons", "did you mean 'neurons'?"]),
    ("rule", 3, ["a rule's name or table", "got 3"]),
    ("rule", "TSLBP", ["'TSLBP'", "did you mean 'TSSLBP'?"]),
    ("loss", "kernal", ["one of kernel, count, softmax", "did you mean 'kernel'?"]),
    ("target_filters", 0, ["whole number of at least 1", "got 0"]),
    ("desired_train", [0, 2, 1], ["0 or 1", "got [0, 2, 1]"]),
    ("desired_train", [0, True], ["0 or 1", "got [0, True]"]),
    ("desired_train", "01011", ["list", "0 or 1", "got '01011'"]),
    ("desired_train", [0, 0, 0], ["spike within time_steps = 5", "got [0, 0, 0]"]),
    ("desired_train", [0, 0, 0, 0, 0, 1], ["spike within time_steps = 5"]),
    ("desired_count", -1, ["number of at least 0", "got -1"]),
    ("epochs", 0, ["whole number of at least 1", "got 0"]),
    ("epochs", "fifty", ["whole number of at least 1", "got 'fifty'"]),
    ("batch_size", 0, ["whole number of at least 1", "got 0"]),
    ("learning_rate", 0, ["number above 0", "got 0"]),
    ("learning_rate", "fast", ["number above 0", "got 'fast'"]),
    ("weight_decay", -0.01, ["number of at least 0", "got -0.01"]),
    ("betas", [0.9], ["a list (of 2), each", "got [0.9]"]),
    ("betas", [0.9, 1], ["at least 0 and below 1", "got [0.9, 1]"]),
    ("gradient_clip", 0, ["number above 0", "got 0"]),
    ("weight_limit", -4, ["number above 0", "got -4"]),
    ("patience", 0, ["whole number of at least 1", "got 0"]),
    ("seed", -1, ["whole number from 0", "got -1"]),
    ("seed", 2**63, ["2^63"]),
]


@pytest.mark.parametrize(("key", "value", "words"), WRONG)
def test_a_wrong_value_is_one_clear_line(key: str, value: Any, words: list[str]) -> None:
    with pytest.raises(InvalidInput) as caught:
        Experiment.from_table(MINIMAL | {key: value})
    named = [] if key == "rule" and isinstance(value, str) else [key]
    assert_one_line(caught.value, named + words)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mean": [0.1, 0.2], "std": [1.0, 1.0, 1.0]}, ["mean and std", "channel", "2 and 3"]),
        ({"time_steps": 1}, ["desired_train", "time_steps = 1", "default"]),
        ({"loss": "count"}, ["'desired_count'", "loss = 'count'"]),
        ({"loss": "count", "desired_count": 4}, ["'undesired_count'", "loss = 'count'"]),
        (
            {"loss": "count", "desired_count": 1, "undesired_count": 4},
            ["desired_count must be above undesired_count", "1.0 and 4.0"],
        ),
        ({"learning_rat": 0.1}, ["unknown key 'learning_rat'", "did you mean 'learning_rate'?"]),
        ({"Epochs": 3}, ["unknown key 'Epochs'", "did you mean 'epochs'?"]),
        ({"rule": {"name": "TSSLBP", "warmup": 1}}, ["'warmup'", "did you mean 'warm_up'?"]),
    ],
)
def test_settings_that_do_not_fit(changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(InvalidInput) as caught:
        Experiment.from_table(MINIMAL | changes)
    assert_one_line(caught.value, words)


@pytest.mark.parametrize("key", MINIMAL)
def test_a_missing_key_is_named(key: str) -> None:
    table = {name: value for name, value in MINIMAL.items() if name != key}
    with pytest.raises(InvalidInput, match=f"missing key '{key}'"):
        Experiment.from_table(table)


@pytest.mark.parametrize(
    "changes",
    [
        {"mean": [0.4914, 0.4822, 0.4465], "std": [0.25]},
        {"time_steps": 1, "loss": "softmax"},
        {"time_steps": 1, "desired_train": [1]},
        {"time_steps": 2},
        {"desired_train": [0, 0, 0], "loss": "softmax"},
        {"loss": "count", "desired_count": 4, "undesired_count": 0},
        {"tau_m": 1, "tau_s": 1, "dropout": 0, "weight_decay": 0, "betas": [0, 0]},
    ],
)
def test_limits_are_allowed(changes: dict[str, Any]) -> None:
    found = Experiment.from_table(MINIMAL | changes)
    assert found.to_table().items() >= changes.items()
    assert Experiment.from_table(found.to_table()) == found


@given(EXPERIMENTS)
def test_an_experiment_survives_its_table(experiment: Experiment) -> None:
    assert Experiment.from_table(experiment.to_table()) == experiment


def test_what_is_not_set_is_not_in_the_table() -> None:
    table = Experiment.from_table(MINIMAL).to_table()
    assert not {"patience", "desired_train", "desired_count", "undesired_count"} & set(table)
    assert table["mean"] == [0.0]
    assert table["rule"]["name"] == "TSSLBP"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"label_smoothing": 0.1},
            "label_smoothing applies only with loss = 'softmax' or 'tet', got loss = 'kernel'",
        ),
        (
            {"tet_weight": 0.1, "loss": "softmax"},
            "tet_weight applies only with loss = 'tet', got loss = ",
        ),
        (
            {"momentum": 0.5},
            "momentum applies only with optimizer = 'sgd', got optimizer = 'adamw'",
        ),
        (
            {"final_learning_rate": 1e-5},
            "final_learning_rate applies only with schedule = 'cosine', got",
        ),
        (
            {"step_factor": 0.5},
            "step_factor applies only with schedule = 'step', got schedule = 'constant'",
        ),
        (
            {"step_epochs": 5, "schedule": "cosine"},
            "step_epochs applies only with schedule = 'step', got",
        ),
        ({"schedule": "step", "step_epochs": [3, 2]}, "step_epochs must increase, got [3, 2]"),
        ({"schedule": "step"}, "missing key 'step_epochs', which schedule = 'step' requires"),
    ],
)
def test_keys_that_nothing_would_read(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput) as error:
        Experiment.from_table(MINIMAL | changes)
    assert_one_line(error.value, [message])


def test_keys_of_a_recipe_of_today() -> None:
    table = MINIMAL | {
        **{"optimizer": "sgd", "momentum": 0, "schedule": "step", "step_epochs": [5, 8]},
        **{"step_factor": 0.5, "warm_up_epochs": 1, "loss": "tet", "label_smoothing": 0.05},
        **{"tet_weight": 0, "average_weights": 0.999, "accumulate": 2, "cutout": 8, "mixup": 0.2},
        **{"rotate": 10, "translate": 0.1, "brightness": 0.2, "roll": 4},
    }
    experiment = Experiment.from_table(table)
    assert experiment.step_epochs == (5, 8) and experiment.warm_up_epochs == 1.0
    assert Experiment.from_table(experiment.to_table()) == experiment
    assert experiment.to_table().items() >= table.items()
