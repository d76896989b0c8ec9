"""Batch normalisation and its folding; neuron normalisation."""

import copy
import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from tsslbp.errors import InvalidInput
from tsslbp.layers import LIF, BatchNorm, Conv, Linear, NeuNorm, Residual, fold_batch_norms


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def signal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=seeded(1), dtype=torch.float64)


def trained(norm: BatchNorm) -> BatchNorm:
    """Return the layer with parameters and statistics as after some training."""
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2, generator=seeded(3))
        norm.bias.normal_(0.2, 0.3, generator=seeded(4))
        norm.running_mean.normal_(0, 0.3, generator=seeded(5))
        norm.running_var.uniform_(0.2, 3, generator=seeded(6))
    return norm


@pytest.mark.parametrize("shape", [(4, 6, 3, 2, 5), (4, 6, 3), (6, 3, 2, 5), (6, 3)], ids=str)
def test_batch_norm_is_its_formula(shape: tuple[int, ...]) -> None:
    """Training uses the statistics over time, batch and image; evaluation uses the kept ones."""
    norm, x = trained(BatchNorm(3, threshold=0.7, alpha=0.5)).double(), 3 * signal(*shape) + 1
    before = norm.running_mean.clone(), norm.running_var.clone()
    channel = 1 + (len(shape) in (3, 5))
    rows = x.movedim(channel, 0).flatten(1)
    mean, variance = rows.mean(1), rows.var(1, unbiased=False)

    def formula(mean: Tensor, variance: Tensor) -> Tensor:
        scale = 0.5 * 0.7 * norm.weight / (variance + 1e-5).sqrt()
        rows = scale[:, None] * (x.movedim(channel, 0).flatten(1) - mean[:, None])
        rows = rows + norm.bias[:, None]
        return rows.view(3, *x.movedim(channel, 0).shape[1:]).movedim(0, channel)

    torch.testing.assert_close(norm(x), formula(mean, variance))
    torch.testing.assert_close(norm.running_mean, 0.9 * before[0] + 0.1 * mean)
    torch.testing.assert_close(norm.running_var, 0.9 * before[1] + 0.1 * rows.var(1))
    kept = norm.running_mean.clone(), norm.running_var.clone()
    torch.testing.assert_close(norm.eval()(x), formula(*kept))
    assert torch.equal(norm.running_mean, kept[0])  # evaluation does not change them
    factor, summand = norm.affine()
    sides = (-1, *(1,) * (len(shape) - channel - 1))
    torch.testing.assert_close(norm(x), factor.view(sides) * x + summand.view(sides))


def test_batch_norm_starts_with_a_deviation_of_the_threshold() -> None:
    out = BatchNorm(3, threshold=0.7)(5 * signal(4, 60, 3, 6, 6).float() - 2)
    assert out.std().item() == pytest.approx(0.7, rel=1e-3)
    assert out.mean().item() == pytest.approx(0, abs=1e-4)


def test_batch_norm_of_an_image_is_that_of_its_repetition() -> None:
    norm, x = BatchNorm(3).double(), signal(6, 3, 2, 5)
    torch.testing.assert_close(norm(x).expand(4, *x.shape), norm(x.expand(4, *x.shape)))


def test_batch_norm_gradients_are_derivatives() -> None:
    norm = trained(BatchNorm(2, 0.7)).double()
    x = signal(2, 2, 2, 1, 2).requires_grad_()

    def function(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return torch.func.functional_call(norm, {"weight": weight, "bias": bias}, x)

    assert torch.autograd.gradcheck(function, (x, norm.weight, norm.bias))


def test_batch_norm_in_the_state() -> None:
    norm = trained(BatchNorm(3, 0.7))
    assert list(norm.state_dict()) == ["weight", "bias", "running_mean", "running_var"]
    other = BatchNorm(3, 0.7)
    other.load_state_dict(norm.state_dict())
    x = signal(2, 2, 3).float()
    assert torch.equal(norm.eval()(x), other.eval()(x))
    assert torch.equal(copy.deepcopy(norm)(x), norm(x))
    assert repr(norm) == "BatchNorm(3, threshold=0.7, alpha=1.0)"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: BatchNorm(0), "channels must be a whole number of at least 1, got 0"),
        (lambda: BatchNorm(3, 0.0), r"threshold must be a positive number, got 0\.0"),
        (lambda: BatchNorm(3, alpha=math.inf), "alpha must be a positive number, got inf"),
        (lambda: BatchNorm(3, momentum=2.0), r"momentum must be from 0 to 1, got 2\.0"),
        (lambda: BatchNorm(3)(torch.zeros(2, 2, 4)), r"\[T, N, 3, ...\], got shape \[2, 2, 4\]"),
        (lambda: BatchNorm(3)(torch.zeros(1, 1, 3)), "more than one value per channel in training"),
    ],
)
def test_batch_norm_refuses(make, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        make()


def folding(bias: bool) -> nn.Sequential:
    """Return a network with a norm behind each kind of connection, and one behind a block."""
    grouped = Conv(8, 8, 3, padding=1, groups=2, bias=bias)
    body = nn.Sequential(grouped, BatchNorm(8), LIF(2, 1))
    shortcut = nn.Sequential(Conv(8, 8, 1, bias=bias), BatchNorm(8), LIF(2, 1))
    return nn.Sequential(
        *(Conv(2, 8, 3, stride=2, bias=bias), BatchNorm(8, 0.5), LIF(2, 1, 0.5, time_steps=4)),
        *(Residual(body, shortcut), BatchNorm(8), nn.Flatten(-3)),
        *(Linear(8 * 9, 20, bias=bias), BatchNorm(20), LIF(2, 1), Linear(20, 3)),
    )


def with_spikes(net: nn.Module, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Return the network's output, and the spikes of all neurons."""
    spikes: list[Tensor] = []
    for part in net.modules():
        if isinstance(part, LIF):
            part.register_forward_hook(lambda lif, inputs, output: spikes.append(output))
    return net(x), spikes


@pytest.mark.parametrize("bias", [False, True])
def test_folding_leaves_what_a_network_computes(bias: bool) -> None:
    net, x = folding(bias).double(), signal(5, 2, 7, 8)
    for part in net.modules():
        if isinstance(part, BatchNorm):
            trained(part)
    folded = fold_batch_norms(net)
    assert net.training and not folded.training
    assert sum(isinstance(part, BatchNorm) for part in folded.modules()) == 1  # behind the block
    assert sum(isinstance(part, BatchNorm) for part in net.modules()) == 5
    (expected, spikes), (out, same_spikes) = (with_spikes(one, x) for one in (net.eval(), folded))
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)
    assert len(spikes) == 4 and all(0.05 < one.mean() < 0.95 for one in spikes)
    assert all(map(torch.equal, spikes, same_spikes))
    assert {key for key in folded.state_dict() if "weight" in key} <= set(net.state_dict())


def test_folding_a_connection_that_stands_in_two_places() -> None:
    shared = Linear(4, 4)
    net = nn.Sequential(shared, trained(BatchNorm(4)), shared, BatchNorm(4)).double().eval()
    x = signal(3, 2, 4)
    torch.testing.assert_close(fold_batch_norms(net)(x), net(x))


def neunorm(shape: tuple[int, ...], k: float = 0.9) -> NeuNorm:
    """Return a layer whose weights U are random, as after some training."""
    layer = NeuNorm(shape, k).double()
    with torch.no_grad():
        layer.weight.normal_(generator=seeded(2))
    return layer


def test_neunorm_by_hand() -> None:
    """For two maps, v / F = (1 - 0.6) / 4 = 0.1, so the state is 0.2, and then 0.12 + 0.1."""
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
    torch.testing.assert_close(layer(x[:, :1]), before[:, :1])  # nor does it mix images


def test_neunorm_of_silence_is_silence_and_of_no_weights_nothing() -> None:
    layer, x = neunorm((3, 2, 2)), signal(5, 2, 3, 2, 2)
    assert not layer(torch.zeros_like(x)).any()
    assert torch.equal(NeuNorm((3, 2, 2)).double()(x), x)


@pytest.mark.parametrize("shape", [(2, 3, 2, 2), (5, 2, 4, 2, 2), (5, 2, 3, 2, 1)])
def test_neunorm_refuses_other_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidInput, match=r"expects a signal \[T, N, 3, 2, 2\], got shape"):
        neunorm((3, 2, 2))(signal(*shape))


@pytest.mark.parametrize("k", [1.0, -0.1, float("nan")])
def test_neunorm_refuses_a_decay_out_of_range(k: float) -> None:
    with pytest.raises(InvalidInput, match="k must be at least 0 and below 1"):
        NeuNorm((3, 2, 2), k)
