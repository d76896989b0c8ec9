"""A neuron's constants and a layer's settings as checked values."""

import math
from dataclasses import FrozenInstanceError, replace

import pytest
import torch

import tsslbp
from tsslbp import TSSLBP, Neuron
from tsslbp.errors import InvalidInput
from tsslbp.neuron import IMPLEMENTATIONS, NeuronLayer


def test_the_defaults_are_those_of_the_public_functions() -> None:
    assert Neuron() == Neuron(tau_m=5.0, tau_s=3.0, threshold=1.0)
    assert tsslbp.neuron.Neuron is Neuron
    for function in (tsslbp.spikes, tsslbp.lif):
        defaults = function.__kwdefaults__
        assert Neuron(defaults["tau_m"], defaults["tau_s"], defaults["threshold"]) == Neuron()


def test_whole_numbers_become_numbers() -> None:
    """A kernel that is compiled for constants must not be compiled twice for equal ones."""
    neuron = Neuron(4, 2, 1)
    assert neuron == Neuron(4.0, 2.0, 1.0) and hash(neuron) == hash(Neuron(4.0, 2.0, 1.0))
    assert all(type(value) is float for value in (neuron.tau_m, neuron.tau_s, neuron.threshold))


def test_values_do_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        Neuron().tau_m = 4.0  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        NeuronLayer().pool = 2  # type: ignore[misc]
    assert replace(Neuron(), tau_s=2.0) == Neuron(tau_s=2.0)


@pytest.mark.parametrize(
    ("constants", "words"),
    [
        ({"tau_m": 0.5}, "tau_m must be at least 1 time step .* got 0.5"),
        ({"tau_m": math.inf}, "tau_m must be finite, got inf .a neuron without leak."),
        ({"tau_s": 0.99}, "tau_s must be at least 1 time step .* got 0.99"),
        ({"tau_s": math.nan}, "tau_s must be at least 1 time step .* got nan"),
        ({"threshold": 0.0}, "threshold must be a positive number, got 0.0"),
        ({"threshold": -1.0}, "threshold must be a positive number, got -1.0"),
        ({"threshold": math.inf}, "threshold must be a positive number, got inf"),
    ],
    ids=str,
)
def test_constants_that_no_neuron_can_have(constants: dict[str, float], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        Neuron(**constants)
    with pytest.raises(InvalidInput, match=words):
        replace(Neuron(), **constants)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"neuron": 5.0}, "neuron must be constants such as tsslbp.Neuron"),
        ({"rule": TSSLBP}, "rule must be a learning rule such as tsslbp.TSSLBP"),
        ({"impl": "cdua"}, "unknown implementation 'cdua' .*did you mean 'cuda'"),
    ],
    ids=str,
)
def test_settings_of_no_layer(settings: dict, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        NeuronLayer(**settings)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_every_implementation_is_known(impl: str) -> None:
    assert NeuronLayer(impl=impl).impl == impl


def test_equal_settings_are_one_key() -> None:
    """Constants of the kernels are kept by settings; others must not be mistaken for them."""
    one = NeuronLayer(Neuron(4.0), TSSLBP.published(), pool=2)
    same = NeuronLayer(Neuron(4), TSSLBP.published(), pool=2)
    others = [
        replace(one, neuron=Neuron(4.0, threshold=0.5)),
        replace(one, rule=TSSLBP()),
        replace(one, impl="cpu"),
        replace(one, pool_scale=1.1),
        replace(one, output_psc=True),
    ]
    assert one == same and hash(one) == hash(same)
    assert len({one, same, *others}) == 6


def test_a_rule_that_cannot_be_a_key() -> None:
    with pytest.raises(InvalidInput, match=r"rule must be a learning rule .* got \{'name'"):
        tsslbp.spikes(torch.zeros(2, 3), rule={"name": "TSSLBP"})  # type: ignore[arg-type]
