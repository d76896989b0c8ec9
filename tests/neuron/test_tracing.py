"""Neurons and networks under `torch.func.vmap`, compared with a loop, and in traced graphs."""

import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap

import tsslbp
from tsslbp import NA, SLAYER, TSSLBP, EventProp, SpikeBP, Surrogate
from tsslbp.errors import InvalidInput
from tsslbp.layers import LIF, AvgPool, BatchNorm, Conv, Linear, MaxPool, Residual, SumPool
from tsslbp.rules import Rule

IMPLS = ("reference", "cpu")
RULES: list[Rule] = [
    TSSLBP(),
    TSSLBP(warm_up="never", intra_neuron="next-spike"),
    TSSLBP(warm_up="always"),
    Surrogate(),
    Surrogate("arctangent", through_reset=True),
    SLAYER(),
    EventProp(),
    NA(normalise=False),
    SpikeBP(),
]
WHOLE = {"firing rate": TSSLBP.published(), "mean gradient": NA()}  # rules that read a whole layer


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def assert_close(one: Any, other: Any) -> None:
    torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("shape", [(5, 3, 20), (4, 2, 3, 4, 4)], ids=["features", "images"])
def test_a_mapped_layer_is_a_loop(shape: tuple[int, ...], rule: Rule, impl: str) -> None:
    """Outputs and gradients equal those of a loop, whichever axis is mapped."""
    currents, weights = 1 + 2 * normal(6, *shape), normal(*shape, seed=1)
    neurons = LIF(rule=rule, impl=impl, output_psc=True)

    def gradient(x: Tensor) -> tuple[Tensor, Tensor]:
        def loss(x: Tensor) -> tuple[Tensor, Tensor]:
            out = neurons(x)
            return (weights * out).sum(), out

        return grad(loss, has_aux=True)(x)

    expected = [torch.stack(one) for one in zip(*map(gradient, currents), strict=True)]
    assert expected[0].any()
    for axis in (0, 1, currents.ndim - 1):
        mapped = vmap(gradient, in_dims=axis)(currents.movedim(0, axis))
        assert_close(list(mapped), expected)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("function", ["spikes", "psc", "lif"])
def test_mapped_functions(function: str, impl: str) -> None:
    def call(x: Tensor) -> Tensor:
        return cast(Tensor, getattr(tsslbp, function)(x, impl=impl))

    x = 1 + 2 * normal(5, 4, 2, 7)  # these functions take any shape [T, ...]
    assert_close(vmap(call, in_dims=1, out_dims=1)(x), call(x))
    assert_close(vmap(vmap(call, in_dims=1, out_dims=1), in_dims=1, out_dims=1)(x), call(x))
    one = vmap(vmap(vmap(call, -1, -1), 1, 1), 1, 1)  # one neuron at a time
    assert_close(one(x), call(x))


def modules(impl: str) -> dict[str, tuple[nn.Module, tuple[int, ...]]]:
    """Return networks by name, each with the shape of one sample as a batch of one."""
    settings: dict[str, Any] = {"impl": impl}
    return {
        "linear": (
            nn.Sequential(Linear(12, 9, **settings), LIF(impl=impl), Linear(9, 3, **settings)),
            (5, 1, 12),
        ),
        "static": (
            nn.Sequential(
                Conv(2, 3, 3, padding=1, **settings),
                LIF(time_steps=4, pool=2, impl=impl),
                Residual(Conv(3, 3, 3, padding=1, **settings), LIF(impl=impl)),
                MaxPool(2),
                nn.Flatten(2),
                Linear(12, 4, **settings),
                LIF(output_psc=True, impl=impl),
            ),
            (1, 2, 8, 8),
        ),
        "normalised": (
            nn.Sequential(
                Conv(2, 3, 3, **settings),
                BatchNorm(3).eval(),
                LIF(impl=impl, rule=Surrogate()),
                SumPool(2),
                AvgPool(),
                nn.Flatten(2),
                Linear(3, 4, bias=True, **settings),
                LIF(impl=impl),
            ),
            (4, 1, 2, 8, 8),
        ),
        "network": (
            tsslbp.Network("4C3-P2-6", (2, 8, 8), 3, time_steps=4, impl=impl),
            (1, 2, 8, 8),
        ),
    }


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("name", modules("cpu"))
def test_gradients_of_samples(name: str, impl: str) -> None:
    """Per-sample gradients, written as in the example of `torch.func`, equal those of a loop."""
    net, shape = modules(impl)[name]
    net = scaled(net)
    x = 2 * normal(6, *shape).abs()

    def loss(weights: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(net, (weights, dict(net.named_buffers())), (x,)).square().sum()

    weights = {key: one.detach() for key, one in net.named_parameters()}
    mapped = vmap(grad(loss), in_dims=(None, 0))(weights, x)
    looped = [grad(loss)(weights, one) for one in x]
    for key, found in mapped.items():
        assert found.any()
        assert_close(found, torch.stack([one[key] for one in looped]))


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("name", modules("cpu"))
@pytest.mark.parametrize("each", [True, False], ids=["own batches", "one batch"])
def test_ensembles(each: bool, name: str, impl: str) -> None:
    """Each stacked network has the gradient it has alone, on a shared batch or one of its own."""
    nets = [scaled(modules(impl)[name][0], seed) for seed in range(3)]
    shape = modules(impl)[name][1]
    x = 2 * normal(3, *shape).abs()
    weights, buffers = stack_module_state(nets)

    def loss(weights: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(nets[0], (weights, buffers), (x,)).square().sum()

    in_dims = (0, 0, 0 if each else None)
    gradients = vmap(grad(loss), in_dims=in_dims)(weights, buffers, x if each else x[0])
    for number, net in enumerate(nets):
        net.zero_grad()
        net(x[number if each else 0]).square().sum().backward()
        for key, weight in net.named_parameters():
            assert_close(gradients[key][number], weight.grad)
    samples = vmap(vmap(grad(loss), in_dims=(None, None, 0)), in_dims=(0, 0, None))
    for key, found in samples(weights, buffers, x).items() if each else ():
        assert_close(found[range(3), range(3)], gradients[key])


def scaled(net: nn.Module, seed: int = 0) -> nn.Module:
    """Return the network in float64, with weights by the seed that make all layers fire."""
    with torch.no_grad():
        for number, weight in enumerate(net.double().parameters()):
            weight.copy_(normal(*weight.shape, seed=10 * seed + number))
    return net


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("what", WHOLE)
def test_rules_that_read_the_whole_layer(what: str, impl: str) -> None:
    """The forward pass is mapped; the gradient is refused, as it depends on the whole batch."""
    neurons, x = LIF(rule=WHOLE[what], impl=impl), 1 + normal(3, 5, 1, 8)
    assert_close(vmap(neurons)(x), torch.stack([neurons(one) for one in x]))
    with pytest.raises(InvalidInput, match=f"vmap cannot map the gradient of .* {what}"):
        vmap(grad(lambda x: neurons(x).sum()))(x)


@pytest.mark.parametrize(
    ("net", "words"),
    [
        (BatchNorm(4), "BatchNorm in training"),
        (LIF(learnable=("tau_m",)), "with learned constants"),
    ],
)
def test_what_cannot_be_mapped(net: nn.Module, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        vmap(net.double())(normal(3, 5, 2, 4))


def test_the_check_of_input_looks_at_values_where_it_can() -> None:
    net, x = tsslbp.Network("6", (1, 2, 2), 2, time_steps=2).double(), normal(3, 1, 1, 2, 2)
    x[0, 0, 0, 0, 0] = torch.nan
    with pytest.raises(InvalidInput, match="NaN"):
        net(x[0])
    assert vmap(net)(x).shape == (3, 2, 1, 2)


@pytest.mark.parametrize("name", modules("cpu"))
@pytest.mark.parametrize("how", ["export", "jit"])
def test_graphs_for_other_programs(how: str, name: str) -> None:
    """Graphs do not branch on data: one traced with zeros is right for other inputs."""
    net, shape = modules("auto")[name]
    net = scaled(net).eval()
    x = 2 * normal(*shape).abs()
    program: Callable[[Tensor], Tensor]
    if how == "export":
        program = torch.export.export(net, (torch.zeros_like(x),)).module()
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # jit.trace is deprecated and fixes shapes
            program = torch.jit.trace(net, (torch.zeros_like(x),))  # type: ignore[no-untyped-call]
    assert net(x).any()
    assert_close(program(x), net(x))


def test_learned_constants_in_a_graph() -> None:
    net = LIF(learnable=("tau_m",))
    with pytest.raises(InvalidInput, match="cannot contain learned constants"):
        torch.export.export(net, (torch.zeros(2, 1, 3),))


COMPILED = """
import sys
import warnings
import torch
import torch._dynamo.utils
import tsslbp

net, x = tsslbp.Network("2C3-P2-4", (1, 6, 6), 2, time_steps=2), torch.rand(3, 1, 6, 6)
assert "numba" not in sys.modules
with warnings.catch_warnings(record=True) as told, torch.no_grad():
    warnings.simplefilter("always")
    warnings.filterwarnings("ignore", "Guards may run slower on Python 3.13.0")
    compiled = torch.compile(net, backend="eager")
    found = compiled(x)
assert "numba" in sys.modules and not told
assert torch.equal(found, net(x))
print(torch._dynamo.utils.counters["frames"]["total"])
"""


COMPILED_LATER = """
import sys
import torch
import tsslbp

net, x = tsslbp.Network("2C3-P2-4", (1, 6, 6), 2, time_steps=2), torch.rand(3, 1, 6, 6)
net(x)
assert "numba" in sys.modules and "torch._dynamo" not in sys.modules
compiled = torch.compile(net, backend="eager")
for module in (net.train(), net.eval()):
    compiled(x).sum().backward()
    with torch.no_grad():
        assert torch.equal(compiled(x), net(x))
print(torch._dynamo.utils.counters["frames"]["total"])
"""


@pytest.mark.slow
@pytest.mark.parametrize("program", [COMPILED, COMPILED_LATER], ids=["first", "later"])
def test_a_network_is_compiled(program: str) -> None:
    """The compiler neither traces what is not for it, nor compiles one function again and again.

    With Numba's import in the graph, it would compile 2,256 frames.
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 100
    assert not done.stderr
