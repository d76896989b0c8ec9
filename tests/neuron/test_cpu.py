"""Properties of the CPU kernels only; test_neuron.py compares them with the reference."""

import math

import pytest
import torch
from torch import Tensor

import tsslbp
from tsslbp import NA, TSSLBP, EventProp, SpikeBP, Surrogate, neuron
from tsslbp.errors import InvalidInput
from tsslbp.neuron import cpu
from tsslbp.rules import Rule


def currents(*shape: int, seed: int = 0) -> Tensor:
    """Input currents that make about a fifth of the neurons fire."""
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return 0.35 + 0.6 * noise


def value_and_gradient(function, x: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    x = x.detach().requires_grad_()
    output = function(x)
    (gradient,) = torch.autograd.grad(output, x, grad)
    return output.detach(), gradient


@pytest.mark.parametrize(
    "rule",
    [
        TSSLBP(warm_up="never"),
        TSSLBP.published(),
        Surrogate(),
        Surrogate("triangle"),
        EventProp(),
        NA(normalise=False),
        SpikeBP(),
    ],
)
def test_a_potential_that_is_no_number_shows_in_the_gradient(rule: Rule) -> None:
    """A neuron with a NaN input has a NaN gradient: a diverged layer does not pass for silent."""
    x = currents(5, 70)
    x[2, 40] = math.nan
    _, gradient = value_and_gradient(
        lambda x: tsslbp.spikes(x, rule=rule, impl="cpu"), x, torch.ones(5, 70)
    )
    assert gradient[:, 40].isnan().any()
    assert gradient[:, :40].isfinite().all()


def test_what_the_kernels_cannot_read() -> None:
    x = currents(5, 64)
    with pytest.raises(InvalidInput, match="use impl='reference'"):
        tsslbp.lif(torch._efficientzerotensor((5, 4)), impl="cpu")
    assert torch.equal(tsslbp.lif(torch._neg_view(x), impl="cpu"), tsslbp.lif(-x, impl="cpu"))


def test_bits_do_not_depend_on_the_number_of_threads() -> None:
    x, grad = currents(5, 200_000), currents(5, 200_000, seed=1)
    before = torch.get_num_threads()
    results = []
    for threads in (1, 2, 1):
        torch.set_num_threads(threads)
        results.append(value_and_gradient(lambda x: tsslbp.lif(x, impl="cpu"), x, grad))
    torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(other, results[0], strict=True))


def test_equal_layers_share_their_constants() -> None:
    """The kernels' constants are computed once for equal settings, not at every call."""
    x = currents(5, 40)
    for _ in range(2):
        neuron.layer(x, neuron.NeuronLayer(neuron=tsslbp.Neuron(4, 2, 1), impl="cpu"))
        hits = cpu._constants.cache_info().hits
        neuron.layer(x, neuron.NeuronLayer(neuron=tsslbp.Neuron(4.0, 2.0, 1.0), impl="cpu"))
        assert cpu._constants.cache_info().hits == hits + 1
