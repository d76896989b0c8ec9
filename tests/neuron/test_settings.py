"""Tests of the checks of a neuron's constants and a layer's settings."""

import math
from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import tsslbp
from tsslbp import TSSLBP, Neuron, data, layers, losses, neuron
from tsslbp.errors import InvalidInput
from tsslbp.experiment import Experiment
from tsslbp.layers import LIF, connections
from tsslbp.neuron import IMPLEMENTATIONS, NeuronLayer, reference


def test_the_defaults_are_those_of_the_public_functions() -> None:
    assert Neuron() == Neuron(tau_m=5.0, tau_s=3.0, threshold=1.0)
    assert tsslbp.neuron.Neuron is Neuron
    for function in (tsslbp.spikes, tsslbp.lif):
        defaults = function.__kwdefaults__
        assert Neuron(defaults["tau_m"], defaults["tau_s"], defaults["threshold"]) == Neuron()


def test_whole_numbers_become_numbers() -> None:
    """Integers become floats, so that no kernel is compiled twice for equal constants."""
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
        ({"tau_m": math.inf}, "tau_m must be finite, got inf; use 1e9"),
        ({"tau_s": math.inf}, "tau_s must be finite, got inf: such a synapse transmits nothing"),
        ({"tau_s": 0.99}, "tau_s must be at least 1 time step .* got 0.99"),
        ({"tau_s": math.nan}, "tau_s must be at least 1 time step .* got nan"),
        ({"threshold": 0.0}, "threshold must be a positive number, got 0.0"),
        ({"threshold": -1.0}, "threshold must be a positive number, got -1.0"),
        (
            {"threshold": 1e-310},
            r"must be from 1e-30 to 1e\+30, since float32",
        ),
        ({"threshold": 1e31}, r"must be from 1e-30 to 1e\+30, since float32"),
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
    """Kernels' constants are cached by settings: equal ones share an entry, others do not."""
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


NO_NUMBERS = {
    "a parameter": lambda: torch.nn.Parameter(torch.tensor(2.0)),
    "a tensor": lambda: torch.tensor(2.0),
    "one for each neuron": lambda: torch.full((3,), 2.0),
    "text": lambda: "2.0",
    "nothing": lambda: None,
    "a list": lambda: [2.0, 2.0, 2.0],
}
CONSTANTS = ("tau_m", "tau_s", "threshold")
X, LABELS = torch.rand(4, 2, 3), torch.tensor([0, 1])
PLACES = {  # where a constant of neurons, filters or kernels is given
    **{
        f"{function.__name__} {name}": (lambda value, f=function, n=name: f(X, **{n: value}))
        for function in (tsslbp.spikes, tsslbp.lif)
        for name in CONSTANTS
    },
    **{
        f"{kind.__name__} {name}": (lambda value, k=kind, n=name: k(**{n: value}))
        for kind in (Neuron, layers.LIF)
        for name in CONSTANTS
    },
    **{
        f"recipe {name}": (
            lambda value, n=name: Experiment.from_table(
                {"data": "digits", "network": "10", n: value}
            )
        )
        for name in CONSTANTS
    },
    "psc tau_s": lambda value: tsslbp.psc(X, value),
    "LIF pool_scale": lambda value: layers.LIF(pool=2, pool_scale=value),
    "NeuronLayer pool_scale": lambda value: NeuronLayer(pool=2, pool_scale=value),
    "BatchNorm threshold": lambda value: layers.BatchNorm(3, threshold=value),
    "BatchNorm alpha": lambda value: layers.BatchNorm(3, alpha=value),
    "van_rossum tau_s": lambda value: losses.van_rossum(X, LABELS, tau_s=value),
}


@pytest.mark.parametrize("kind", NO_NUMBERS)
@pytest.mark.parametrize("place", PLACES)
def test_a_constant_that_would_not_be_trained_is_refused(place: str, kind: str) -> None:
    """A value that is not a number is refused: a tensor's gradient would be silently lost."""
    if kind == "nothing" and place.startswith("recipe"):
        kind = "text"  # None would mean that the key is not set
    name = place.rpartition(" ")[2]
    with pytest.raises(InvalidInput, match=f"{name} must be ") as caught:
        PLACES[place](NO_NUMBERS[kind]())
    if name in CONSTANTS and place.split()[0] in ("spikes", "lif", "psc", "Neuron", "LIF"):
        assert "tsslbp.layers.LIF(learnable=...) trains constants" in str(caught.value)


@pytest.mark.parametrize("place", PLACES)
def test_a_constant_may_be_any_number(place: str) -> None:
    for value in (2, 2.0, np.float64(2.0)):
        PLACES[place](value)


@pytest.mark.parametrize("impl", ["auto", "reference", "cpu"])
def test_a_window_that_is_higher_than_the_picture(impl: str) -> None:
    with pytest.raises(InvalidInput, match=r"its window fit into images .* pool=3"):
        LIF(pool=3, impl=impl)(torch.ones(2, 1, 1, 2, 8))


SPARSE: list[Callable[[Tensor], object]] = [
    tsslbp.lif,
    tsslbp.spikes,
    tsslbp.psc,
    LIF(pool=2),
    layers.Conv(2, 3, 3),
    layers.Linear(8, 3),
    layers.BatchNorm(2),
    layers.NeuNorm((2, 8, 8)),
    layers.SumPool(2),
    layers.AvgPool(),
    layers.MaxPool(2),
    layers.RowDropout(0.5),
    tsslbp.Network("4", (2, 8, 8), 2, time_steps=3),
    lambda x: losses.softmax(x, torch.tensor([0])),
    lambda x: losses.as_labels(x),
    lambda x: data.DataSet("mine", x[:, 0], [0] * 3, x[:, 0], [0] * 3, 2),
    lambda x: data.normalise(x[:, 0], 0.5, 0.5),
]


@pytest.mark.parametrize("call", SPARSE)
def test_tensors_that_are_not_dense(call: Callable[[Tensor], object]) -> None:
    with pytest.raises(InvalidInput, match="must be a dense tensor, got layout sparse_coo"):
        call(torch.ones(3, 1, 2, 8, 8).to_sparse())


def test_numba_that_may_not_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    """With NUMBA_DISABLE_JIT=1, auto uses the reference; requesting the kernels is an error."""
    net, x = nn.Sequential(layers.Linear(8, 3), LIF()), torch.ones(2, 1, 8)
    expected = net(x)
    monkeypatch.setattr(neuron, "COMPILES", False)
    monkeypatch.setattr(connections, "COMPILES", False)
    monkeypatch.setattr(neuron, "_module", lambda name: {"reference": reference}[name])
    assert torch.equal(net(x), expected)
    with pytest.raises(InvalidInput, match=r"NUMBA_DISABLE_JIT.*impl='reference'"):
        LIF(impl="cpu")(x)
