"""Connections and residual blocks over signals with and without time."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tsslbp.errors import InvalidInput
from tsslbp.kernels import events
from tsslbp.layers import LIF, Conv, InitialWeights, Linear, Residual


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
        (Conv(2, 4, 3, stride=2, padding=1, dilation=2, groups=2, bias=True), (4, 2, 2, 5, 6)),
        (Linear(6, 3), (4, 2, 6)),
        (Linear(6, 3, bias=True), (4, 2, 6)),
        (Residual(Linear(6, 6, bias=True)), (4, 2, 6)),
        (Residual(Linear(6, 3), Linear(6, 3)), (4, 2, 6)),
    ],
    ids=["Conv", "Conv with all", "Linear", "Linear with bias", "Residual", "with a shortcut"],
)
def test_layers_work_step_by_step(layer: nn.Module, shape: tuple[int, ...]) -> None:
    """The layers treat each time step on its own, and their gradients are derivatives."""
    layer, x = layer.double(), signal(*shape)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), torch.stack([layer(x_t) for x_t in x]))
    assert torch.autograd.gradcheck(layer, (x[:2].requires_grad_(),))


def test_conv_is_a_convolution_without_bias() -> None:
    conv = Conv(2, 3, 3, padding=1).double()
    x = signal(4, 2, 5, 6)
    expected = functional.conv2d(x, conv.weight, padding=1)  # sums are in another order
    torch.testing.assert_close(conv(x), expected, rtol=1e-12, atol=1e-12)
    assert [name for name, _ in conv.named_parameters()] == ["weight"]


def test_linear_is_a_product_without_bias() -> None:
    linear, x = Linear(6, 3).double(), signal(4, 6)
    torch.testing.assert_close(linear(x), x @ linear.weight.T)
    assert [name for name, _ in linear.named_parameters()] == ["weight"]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    "settings",
    [
        {"stride": 2},
        {"stride": 3, "padding": 2},
        {"dilation": 2},
        {"groups": 3},
        {"stride": 2, "padding": 1, "dilation": 2, "groups": 3},
    ],
    ids=str,
)
def test_conv_is_pytorchs(settings: dict, bias: bool, used: list[str]) -> None:
    """`Conv` equals PyTorch's convolution; without dilation and groups, spikes go by events."""
    conv, x = Conv(3, 18, 3, bias=bias, **settings), spikes(4, 2, 3, 7, 8)
    expected = functional.conv2d(x.flatten(0, 1), conv.weight, conv.bias, **settings)
    torch.testing.assert_close(conv(x), expected.unflatten(0, (4, 2)))
    torch.testing.assert_close(conv(x[0]), expected[:2])
    assert used == ["conv2d"] * settings.keys().isdisjoint({"dilation", "groups"})


@pytest.mark.parametrize("event_driven", [True, False])
@pytest.mark.parametrize("kind", ["conv2d", "linear"])
def test_bias(kind: str, event_driven: bool, used: list[str]) -> None:
    impl = "auto" if event_driven else "reference"
    if kind == "conv2d":
        layer, x = Conv(3, 16, 3, padding=1, bias=True, impl=impl), spikes(4, 2, 3, 5, 6)
        weight = layer.weight
        plain = functional.conv2d(x.flatten(0, 1), weight, layer.bias, padding=1)
        plain = plain.unflatten(0, (4, 2))
    else:
        layer, x = Linear(30, 16, bias=True, impl=impl), spikes(4, 2, 30)
        plain = functional.linear(x, layer.weight, layer.bias)
    grad = torch.randn(plain.shape, generator=seeded(3))
    out = layer(x)
    torch.testing.assert_close(out, plain)
    wanted = layer.weight, layer.bias
    for one, other in zip(
        torch.autograd.grad(out, wanted, grad),
        torch.autograd.grad(plain, wanted, grad),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    assert used == [kind] * event_driven
    assert list(layer.state_dict()) == ["weight", "bias"]


def test_a_bias_is_drawn_within_its_bound() -> None:
    bias = Conv(16, 4000, 5, bias=True, initial=drawn()).bias
    assert bias is not None
    bound = 1 / math.sqrt(16 * 5 * 5)
    assert 0.99 * bound < bias.abs().max() <= bound
    again = Conv(16, 4000, 5, bias=True, initial=drawn()).bias
    assert again is not None and torch.equal(bias, again)


def test_residual_adds_spikes_and_passes_them_on() -> None:
    """With a silent body the block is the identity; with one that fires, outputs are 0, 1 or 2."""
    x = spikes(4, 2, 30)
    silent = nn.Sequential(Linear(30, 30, InitialWeights("kaiming", 0.0)), LIF())
    assert torch.equal(Residual(silent)(x), x)
    firing = nn.Sequential(Linear(30, 30, InitialWeights("kaiming", 5.0, seeded())), LIF())
    out = Residual(firing)(x)
    assert torch.equal(out, firing(x) + x)
    assert out.unique().tolist() == [0, 1, 2]
    halved = Residual(nn.Sequential(Linear(30, 7), LIF()), nn.Sequential(Linear(30, 7), LIF()))
    assert halved(x).shape == (4, 2, 7)


def test_residual_refuses_other_shapes() -> None:
    with pytest.raises(InvalidInput, match=r"\[4, 2, 7\] to its shortcut.s output"):
        Residual(Linear(30, 7))(spikes(4, 2, 30))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Conv(3, 16, 0), "kernel must be a whole number of at least 1, got 0"),
        (lambda: Conv(3, 16, 3, stride=0), "stride must be a whole number of at least 1, got 0"),
        (lambda: Conv(3, 16, 3, padding=-1), "padding must be a whole number of at least 0"),
        (
            lambda: Conv(3, 16, 3, groups=2),
            "groups must divide both numbers of channels, got groups=2",
        ),
        (lambda: Linear(3.0, 16), r"in_features must be a whole number of at least 1, got 3\.0"),
        (lambda: Conv(3, 16, 3)(spikes(3, 5, 5)), r"Conv expects a signal \[T, N, 3, H, W\] or"),
        (lambda: Linear(75, 9)(spikes(4, 2, 3, 5, 5)), r"got shape \[4, 2, 3, 5, 5\]; put nn.Fla"),
        (lambda: Linear(30, 9)(spikes(4, 2, 29)), r"expects a signal \[T, N, 30\], got shape"),
    ],
)
def test_what_does_not_fit_is_told_in_one_line(make, words: str) -> None:
    with pytest.raises(InvalidInput, match=words) as raised:
        make()
    assert "\n" not in str(raised.value)


def test_printed_connections() -> None:
    assert repr(Conv(3, 16, 5)) == "Conv(3, 16, 5)"
    conv = Conv(4, 16, 3, stride=2, padding=1, groups=2, bias=True)
    assert repr(conv) == "Conv(4, 16, 3, stride=2, padding=1, groups=2, bias=True)"
    assert repr(Linear(3, 4)) == "Linear(3, 4)"
    assert repr(Linear(3, 4, bias=True)) == "Linear(3, 4, bias=True)"


CONNECTIONS = {
    "conv2d": (Conv(3, 16, 3, padding=1), (4, 2, 3, 5, 6)),
    "linear": (Linear(30, 16), (4, 2, 30)),
}
connections = pytest.mark.parametrize("name", CONNECTIONS)


def spikes(*shape: int) -> Tensor:
    return (torch.rand(shape, generator=seeded(2)) < 0.2).float()


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list of the event-driven functions called, with the same crossover everywhere."""
    monkeypatch.setattr(events, "crossover", lambda weight: 0.5)
    monkeypatch.setattr(events, "SMALLEST_LINEAR", 0)
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
    """Return the connection's output computed by PyTorch's own functions."""
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
    """Sparse signals that do not fit are refused, as dense ones are."""
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


def test_an_unknown_initialisation_is_refused() -> None:
    with pytest.raises(InvalidInput, match="'uniform' or 'kaiming', got 'normal'"):
        InitialWeights("normal")
