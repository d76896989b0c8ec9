"""Connections, pooling and dropout over signals with and without time."""

import copy
import itertools
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tsslbp.errors import InvalidInput
from tsslbp.kernels import events
from tsslbp.network.layers import (
    DROPOUT,
    Conv,
    InitialWeights,
    Linear,
    NeuNorm,
    NeuronDropout,
    RowDropout,
    SumPool,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(kind: str = "uniform", scale: float = 1.0) -> InitialWeights:
    return InitialWeights(kind, scale, seeded())


def signal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=seeded(1), dtype=torch.float64)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (Conv(2, 3, 3, padding=1), (4, 2, 2, 5, 6)),
        (Linear(6, 3), (4, 2, 6)),
        (SumPool(2, 1.1), (4, 2, 2, 5, 6)),
    ],
    ids=["Conv", "Linear", "SumPool"],
)
def test_layers_work_step_by_step(layer: nn.Module, shape: tuple[int, ...]) -> None:
    """Each step on its own gives what the whole signal gives, and gradients are derivatives."""
    layer, x = layer.double(), signal(*shape)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), torch.stack([layer(x_t) for x_t in x]))
    assert torch.autograd.gradcheck(layer, (x[:2].requires_grad_(),))


def test_conv_is_a_convolution_without_bias() -> None:
    conv = Conv(2, 3, 3, padding=1).double()
    x = signal(4, 2, 5, 6)
    expected = functional.conv2d(x, conv.weight, padding=1)  # another order of memory and of sums
    torch.testing.assert_close(conv(x), expected, rtol=1e-12, atol=1e-12)
    assert [name for name, _ in conv.named_parameters()] == ["weight"]


def test_linear_is_a_product_without_bias() -> None:
    linear, x = Linear(6, 3).double(), signal(4, 6)
    torch.testing.assert_close(linear(x), x @ linear.weight.T)
    assert [name for name, _ in linear.named_parameters()] == ["weight"]


CONNECTIONS = {
    "conv2d": (Conv(3, 16, 3, padding=1), (4, 2, 3, 5, 6)),
    "linear": (Linear(30, 16), (4, 2, 30)),
}
connections = pytest.mark.parametrize("name", CONNECTIONS)


def spikes(*shape: int) -> Tensor:
    return (torch.rand(shape, generator=seeded(2)) < 0.2).float()


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the event-driven functions that were called."""
    names: list[str] = []

    def spied(name: str):
        function = getattr(events, name)

        def spy(*arguments):
            names.append(name)
            return function(*arguments)

        return spy

    for name in CONNECTIONS:
        monkeypatch.setattr(events, name, spied(name))
    return names


def dense(layer: nn.Module, x: Tensor) -> Tensor:
    """The connection by PyTorch's own functions."""
    if isinstance(layer, Linear):
        return functional.linear(x, layer.weight)
    out = functional.conv2d(x.flatten(0, 1), layer.weight, padding=layer.padding)
    return out.unflatten(0, x.shape[:2])


def value_and_gradients(function, layer: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    x = x.clone().requires_grad_()
    out = function(x)
    grad = torch.randn(out.shape, generator=seeded(3))
    return out.detach(), *torch.autograd.grad(out, (x, layer.weight), grad)


@connections
def test_spikes_in_time_go_by_events(name: str, used: list[str]) -> None:
    layer, shape = CONNECTIONS[name]
    x = spikes(*shape)
    expected = value_and_gradients(lambda x: dense(layer, x), layer, x)
    for actual, plain in zip(value_and_gradients(layer, layer, x), expected, strict=True):
        torch.testing.assert_close(actual, plain, rtol=0, atol=1e-5 * plain.abs().max().item())
    assert used == [name]


@connections
def test_dense_signals_go_by_pytorch(name: str, used: list[str]) -> None:
    layer, shape = CONNECTIONS[name]
    x = torch.rand(shape, generator=seeded(2)) + 0.1
    torch.testing.assert_close(layer(x), dense(layer, x))
    assert used == []


@connections
def test_images_without_time_go_by_pytorch(name: str, used: list[str]) -> None:
    layer, shape = CONNECTIONS[name]
    x = spikes(*shape)
    torch.testing.assert_close(layer(x[0]), dense(layer, x)[0])
    assert used == []


@connections
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_short_floats_go_by_pytorch(name: str, dtype: torch.dtype, used: list[str]) -> None:
    layer, shape = CONNECTIONS[name]
    assert copy.deepcopy(layer).to(dtype)(spikes(*shape).to(dtype)).dtype == dtype
    assert used == []


@pytest.mark.parametrize(
    ("layer", "x"),
    [
        (Conv(3, 16, 3), spikes(2, 2, 2, 5, 5)),
        (Conv(3, 16, 3), spikes(2, 2, 4, 5, 5)),
        (Conv(3, 16, 6), spikes(2, 2, 3, 5, 5)),
        (Conv(3, 16, 7), spikes(2, 2, 3, 5, 5)),
        (Conv(3, 16, 3), spikes(2, 2, 3, 5, 5).double()),
        (Linear(30, 16), spikes(2, 2, 29)),
        (Linear(30, 16), spikes(2, 2, 31)),
        (Linear(30, 16), spikes(2, 2, 30).double()),
    ],
    ids=lambda one: str(tuple(one.shape)) if isinstance(one, Tensor) else type(one).__name__,
)
def test_connections_refuse_what_does_not_fit(layer: nn.Module, x: Tensor) -> None:
    """Sparse signals are refused as dense ones are."""
    for one in (torch.ones_like(x), x):
        with pytest.raises((InvalidInput, RuntimeError)):
            layer(one)


def test_uniform_convolution_weights() -> None:
    weight = Conv(16, 64, 5, initial=drawn()).weight.detach()
    bound = 1 / math.sqrt(16 * 5 * 5)
    assert weight.shape == (64, 16, 5, 5)
    assert 0.999 * bound < weight.abs().max() <= bound
    assert abs(weight.mean()) < 5 * bound / math.sqrt(3 * weight.numel())
    assert weight.var().item() == pytest.approx(bound**2 / 3, rel=0.03)


@pytest.mark.parametrize(
    ("weight", "fan_in"),
    [
        (Conv(16, 64, 5, initial=drawn("kaiming")).weight.detach(), 16 * 5 * 5),
        (Linear(400, 64, drawn("kaiming")).weight.detach(), 400),
    ],
    ids=["Conv", "Linear"],
)
def test_kaiming_weights(weight: Tensor, fan_in: int) -> None:
    scaled = weight.flatten() * math.sqrt(fan_in / 2)  # standard normal
    assert abs(scaled.mean()) < 5 / math.sqrt(len(scaled))
    assert scaled.var().item() == pytest.approx(1, abs=5 * math.sqrt(2 / len(scaled)))
    beyond_one = (scaled.abs() > 1).double().mean().item()
    assert beyond_one == pytest.approx(0.3173, abs=5 * math.sqrt(0.22 / len(scaled)))


@pytest.mark.parametrize("kind", ["uniform", "kaiming"])
def test_weight_scale_multiplies(kind: str) -> None:
    plain = Conv(2, 3, 3, initial=drawn(kind)).weight
    scaled = Conv(2, 3, 3, initial=drawn(kind, 5.0)).weight
    assert torch.equal(scaled, 5 * plain)
    linear = Linear(6, 3, drawn(kind, 5.0)).weight
    assert torch.equal(linear, 5 * Linear(6, 3, drawn(kind)).weight)


def test_sum_pool_by_hand() -> None:
    x = torch.arange(15, dtype=torch.float64).reshape(1, 1, 3, 5)
    # the third row and the fifth column are left out: 0 + 1 + 5 + 6 and 2 + 3 + 7 + 8
    assert SumPool(2, 1.1)(x).flatten().tolist() == pytest.approx([12 * 1.1, 20 * 1.1])


def neunorm(shape: tuple[int, ...], k: float = 0.9) -> NeuNorm:
    """A layer whose U is random, as after some training."""
    layer = NeuNorm(shape, k).double()
    with torch.no_grad():
        layer.weight.normal_(generator=seeded(2))
    return layer


def test_neunorm_by_hand() -> None:
    """Two maps, one position, two steps: v/F = (1 - 0.6)/4 = 0.1, so x = 0.2, then 0.12 + 0.1."""
    layer = NeuNorm((2, 1, 1), k=0.6).double()
    layer.weight.data = torch.tensor([2.0, -1.0]).double().view(2, 1, 1)
    spikes = torch.tensor([[1.0, 1.0], [0.0, 1.0]]).double().view(2, 1, 2, 1, 1)
    expected = torch.tensor([[1 - 0.4, 1 + 0.2], [0 - 0.44, 1 + 0.22]]).double()
    torch.testing.assert_close(layer(spikes).flatten(1), expected)


@pytest.mark.parametrize("k", [0.0, 0.9])
def test_neunorm_is_its_formula(k: float) -> None:
    steps, maps = 4, 3
    layer, x = neunorm((maps, 2, 5), k), signal(steps, 2, maps, 2, 5)
    out = layer(x)
    for n, row, column in itertools.product(range(2), range(2), range(5)):
        state = 0.0
        for t in range(steps):
            mine = x[t, n, :, row, column]
            state = k * state + (1 - k) / maps**2 * mine.sum()
            expected = mine - layer.weight[:, row, column] * state
            torch.testing.assert_close(out[t, n, :, row, column], expected)


def test_neunorm_gradients_are_derivatives() -> None:
    layer, x = neunorm((3, 2, 2)), signal(4, 2, 3, 2, 2).requires_grad_()

    def function(x: Tensor, weight: Tensor) -> Tensor:
        return torch.func.functional_call(layer, {"weight": weight}, x)

    assert torch.autograd.gradcheck(function, (x, layer.weight))
    layer(x).square().sum().backward()
    assert layer.weight.grad.all()


def test_neunorm_reads_time_forward_and_keeps_no_state() -> None:
    layer, x = neunorm((3, 2, 2)), signal(5, 2, 3, 2, 2)
    changed = x.clone()
    changed[3:] += 1
    before = layer(x)
    assert torch.equal(layer(changed)[:3], before[:3])
    assert torch.equal(layer(x), before)
    torch.testing.assert_close(layer(x[:, :1]), before[:, :1])  # nor mixes images


def test_neunorm_of_silence_is_silence_and_of_no_weights_nothing() -> None:
    layer, x = neunorm((3, 2, 2)), signal(5, 2, 3, 2, 2)
    assert not layer(torch.zeros_like(x)).any()
    assert torch.equal(NeuNorm((3, 2, 2)).double()(x), x)


@pytest.mark.parametrize("shape", [(2, 3, 2, 2), (5, 2, 4, 2, 2), (5, 2, 3, 2, 1)])
def test_neunorm_refuses_other_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidInput, match=r"expected a signal \[T, N, 3, 2, 2\], got shape"):
        neunorm((3, 2, 2))(signal(*shape))


@pytest.mark.parametrize("k", [1.0, -0.1, float("nan")])
def test_neunorm_refuses_a_decay_out_of_range(k: float) -> None:
    with pytest.raises(InvalidInput, match="k must be at least 0 and below 1"):
        NeuNorm((3, 2, 2), k)


def test_dropout_shares_its_mask_over_width_and_time() -> None:
    dropped = RowDropout(0.5)(torch.ones(5, 24, 25, 26, 3))
    rows = dropped[0, ..., 0]
    assert torch.equal(dropped, rows[None, ..., None].expand_as(dropped))
    assert rows.unique().tolist() == [0, 2]
    for dim in range(3):  # samples, channels and rows differ from each other
        assert rows.any(dim).all() and not rows.all(dim).any()


def test_dropout_of_neurons_shares_its_mask_over_time_alone() -> None:
    dropped = NeuronDropout(0.2)(torch.ones(5, 12, 13, 14, 15))
    assert torch.equal(dropped, dropped[:1].expand_as(dropped))
    assert dropped.unique().tolist() == pytest.approx([0, 1.25])
    kept = dropped[0] > 0
    share = kept.double().mean().item()
    assert share == pytest.approx(0.8, abs=5 * math.sqrt(0.16 / kept.numel()))
    for dim in range(4):  # samples, channels, rows and columns differ from each other
        assert (kept.any(dim) & ~kept.all(dim)).any()


@pytest.mark.parametrize("kind", DROPOUT)
def test_dropout_of_linear_layers_is_per_neuron(kind: str) -> None:
    dropped = DROPOUT[kind](0.2)(torch.ones(5, 400, 100))
    assert torch.equal(dropped, dropped[:1].expand_as(dropped))
    assert dropped.unique().tolist() == pytest.approx([0, 1.25])
    kept = (dropped[0] > 0).double()
    assert kept.mean().item() == pytest.approx(0.8, abs=5 * math.sqrt(0.16 / kept.numel()))
    assert 0 < kept.mean(0).min() < kept.mean(0).max() < 1
    assert 0 < kept.mean(1).min() < kept.mean(1).max() < 1


@pytest.mark.parametrize(
    ("kind", "shape", "mask_shape"),
    [
        (RowDropout, (5, 2, 3, 4, 6), (2, 3, 4, 1)),
        (RowDropout, (5, 2, 7), (2, 7)),
        (NeuronDropout, (5, 2, 3, 4, 6), (2, 3, 4, 6)),
        (NeuronDropout, (5, 2, 7), (2, 7)),
    ],
)
def test_dropout_mask_comes_from_the_cpu_generator(
    kind: type[nn.Module], shape: tuple[int, ...], mask_shape: tuple[int, ...]
) -> None:
    x = signal(*shape)
    torch.manual_seed(7)
    expected = x * (torch.rand(mask_shape) >= 0.3) / 0.7
    torch.manual_seed(7)
    dropped = kind(0.3)(x)
    torch.testing.assert_close(dropped, expected)
    assert not torch.equal(kind(0.3)(x) == 0, dropped == 0)  # a fresh mask each time


def test_dropout_gradient_takes_the_same_mask() -> None:
    x = torch.ones(5, 2, 3, 4, 6, requires_grad=True)
    dropped = RowDropout(0.5)(x)
    dropped.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, dropped)


@pytest.mark.parametrize("kind", DROPOUT)
@pytest.mark.parametrize("why", ["eval", "p=0"])
def test_dropout_that_does_nothing_draws_nothing(kind: str, why: str) -> None:
    dropout = DROPOUT[kind](0.9).eval() if why == "eval" else DROPOUT[kind](0.0)
    x, state = signal(5, 2, 7), torch.get_rng_state()
    assert torch.equal(dropout(x), x)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("p", [1.0, -0.1, float("nan")])
def test_dropout_refuses(p: float) -> None:
    for kind in DROPOUT.values():
        with pytest.raises(InvalidInput, match=f"dropout must be at least 0 and below 1, got {p}"):
            kind(p)


def test_an_unknown_initialisation_is_refused() -> None:
    with pytest.raises(InvalidInput, match="'uniform' or 'kaiming', got 'normal'"):
        InitialWeights("normal")


def test_names_in_the_printed_module() -> None:
    assert repr(SumPool(2, 1.1)) == "SumPool(2, scale=1.1)"
    assert repr(RowDropout(0.2)) == "RowDropout(p=0.2)"
    assert repr(NeuronDropout(0.2)) == "NeuronDropout(p=0.2)"
