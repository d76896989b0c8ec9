"""The recipes that ship: complete, readable, and exactly the settings they claim."""

import tomllib
from dataclasses import fields
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from tsslbp.experiment import Experiment, load_recipe, recipe_names, save
from tsslbp.network import Network
from tsslbp.rules import TSSLBP

# What a recipe may leave unsaid: there is no number for "none".
OPTIONAL = {"desired_count", "undesired_count", "patience"}

COMMON: dict[str, Any] = {
    "mean": (0.1307,),
    "std": (0.3081,),
    "protocol": "published",
    "time_steps": 5,
    "threshold": 1.0,
    "weight_scale": 1.0,
    "pool_scale": 1.1,
    "dropout": 0.0,
    "epochs": 100,
    "weight_decay": 0.01,
    "betas": (0.9, 0.999),
    "gradient_clip": 1.0,
    "weight_limit": 4.0,
}
REVISED = COMMON | {
    "tau_m": 5.0,
    "tau_s": 3.0,
    "conv_init": "uniform",
    "rule": TSSLBP(),
    "loss": "kernel",
    "target_filters": 2,
    "desired_train": (0, 1, 1, 1, 1),
    "desired_count": None,
    "undesired_count": None,
    "patience": None,
}
PUBLISHED = COMMON | {
    "tau_m": 5.0,
    "tau_s": 2.0,
    "conv_init": "kaiming",
    "rule": TSSLBP.published(),
    "loss": "kernel",
    "target_filters": 1,
    "desired_train": (0, 1, 0, 1, 1),
    "desired_count": None,
    "undesired_count": None,
    "patience": 50,
}
MNIST = {"data": "mnist", "network": "15C5-P2-40C5-P2-300", "padding": (0, 0)}
FASHION_MLP = {"data": "fashion-mnist", "network": "400-400", "padding": 0}
FASHION_CNN = {"data": "fashion-mnist", "network": "32C5-P2-64C5-P2-1024", "padding": (2, 2)}

FACTS: dict[str, dict[str, Any]] = {
    "mnist": REVISED | MNIST | {"batch_size": 50, "learning_rate": 0.0005},
    "mnist-published": PUBLISHED | MNIST | {"batch_size": 100, "learning_rate": 0.0005},
    "fashion-mnist-mlp": REVISED | FASHION_MLP | {"batch_size": 100, "learning_rate": 0.0005},
    "fashion-mnist-mlp-published": PUBLISHED
    | FASHION_MLP
    | {"batch_size": 100, "learning_rate": 0.0002},
    "fashion-mnist-cnn": REVISED | FASHION_CNN | {"batch_size": 50, "learning_rate": 0.0005},
    "fashion-mnist-cnn-published": PUBLISHED
    | FASHION_CNN
    | {"batch_size": 50, "learning_rate": 0.0005, "tau_m": 4.0}
    | {"loss": "count", "desired_count": 4.0, "undesired_count": 1.0},
}

PROMISED = {  # mean, deviation and best, as published or, for `mnist`, as reproduced
    "mnist": ["99.40 +- 0.04", "99.47", "99.50 +- 0.02", "1 h 21 min"],
    "mnist-published": ["99.50 +- 0.02", "99.53", "5 runs"],
    "fashion-mnist-mlp-published": ["89.75 +- 0.03", "89.92"],
    "fashion-mnist-cnn-published": ["92.69 +- 0.09", "92.83"],
}


def test_names() -> None:
    assert recipe_names() == sorted([*FACTS, "digits"])


@pytest.mark.parametrize("name", FACTS)
def test_settings_are_those_of_the_original(name: str) -> None:
    experiment = load_recipe(name)
    free = {"description", "validation_images", "seed"}
    assert set(FACTS[name]) == {field.name for field in fields(Experiment)} - free
    assert {key: getattr(experiment, key) for key in FACTS[name]} == FACTS[name]


def test_digits_holds_images_out() -> None:
    experiment = load_recipe("digits")
    assert (experiment.data, experiment.protocol) == ("digits", "validated")
    assert experiment.validation_images == 150
    assert experiment.rule == TSSLBP()


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_says_everything(name: str) -> None:
    text = (resources.files("tsslbp") / "recipes" / f"{name}.toml").read_text(encoding="utf-8")
    assert set(tomllib.loads(text)) | OPTIONAL == {field.name for field in fields(Experiment)}


@pytest.mark.parametrize("name", recipe_names())
def test_the_description_is_a_promise(name: str) -> None:
    description = load_recipe(name).description
    assert f"Command: tsslbp train {name}\n" in description
    assert "Hardware and time: " in description
    assert "Expected accuracy: " in description
    for words in PROMISED.get(name, []):
        assert words in description


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_survives_saving(name: str, tmp_path: Path) -> None:
    experiment = load_recipe(name)
    save(experiment, tmp_path / "config.toml")
    assert load_recipe(tmp_path / "config.toml") == experiment


@pytest.mark.parametrize(
    ("name", "side", "parameters"),
    [
        ("mnist", 28, 210_375),
        ("fashion-mnist-mlp", 28, 784 * 400 + 400 * 400 + 400 * 10),
        ("fashion-mnist-cnn", 28, 32 * 25 + 64 * 32 * 25 + 64 * 49 * 1024 + 1024 * 10),
        ("digits", 8, 16 * 9 + 32 * 16 * 9 + 32 * 16 * 128 + 128 * 10),
    ],
)
def test_the_network_can_be_built(name: str, side: int, parameters: int) -> None:
    experiment = load_recipe(name)
    network = Network(experiment.network, (1, side, side), padding=experiment.padding)
    assert sum(weight.numel() for weight in network.parameters()) == parameters
