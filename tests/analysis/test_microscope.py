"""Tests that the microscope is right in cases with a known true gradient."""

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("scipy")

from tsslbp import TSSLBP, Network, Neuron, losses
from tsslbp.analysis import microscope
from tsslbp.analysis.microscope import (
    Batch,
    Cosine,
    LayerCosines,
    Noise,
    cosine,
    estimates,
    examine,
)
from tsslbp.errors import Diverged, InvalidInput
from tsslbp.layers import LIF, BatchNorm, Conv, Linear, MaxPool, Residual
from tsslbp.network import CustomNetwork
from tsslbp.rules import Rule

RULES = {
    "revised": TSSLBP(),
    "published": TSSLBP.published(),
    "surrogate": TSSLBP(warm_up="always"),
}


def network(description: str = "3C3-P2-6", **settings) -> Network:
    generator = torch.Generator().manual_seed(0)
    made = Network(
        description, (1, 6, 6), 3, 4, weight_scale=3.0, impl="reference", generator=generator
    )
    for layer in made.spiking_layers:
        layer.neurons = replace(layer.neurons, **settings)
    return made.double().eval()


def networks(description: str = "3C3-P2-6") -> dict[str, Network]:
    return {name: network(description, rule=rule) for name, rule in RULES.items()}


def batch(count: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(count, 1, 6, 6, dtype=torch.float64, generator=generator)
    return images, torch.arange(count) % 3


def look(nets: dict[str, Network], **noise) -> list[LayerCosines]:
    return examine(nets, Batch(losses.van_rossum, *batch()), Noise(**noise))


def directions_with(cosine_of_them: float, size: int, random: torch.Generator) -> list[Tensor]:
    """Return two vectors of length 1 with this cosine."""
    normal = torch.randn(size, 2, dtype=torch.float64, generator=random)
    first, other = torch.linalg.qr(normal).Q.T
    return [first, cosine_of_them * first + math.sqrt(1 - cosine_of_them**2) * other]


@pytest.mark.parametrize("description", ["3C3-P2-6", "3C3-P2-9C2", "P2-7-5", "5"])
def test_with_the_step_it_is_the_network(description: str) -> None:
    net, (images, _) = network(description), batch()
    weights = {layer.name: layer.connection.weight for layer in net.spiking_layers}
    seen = microscope.forward(net, weights, images, microscope.step)
    torch.testing.assert_close(seen, net(images))
    trains = (torch.rand(4, 6, 1, 6, 6, dtype=torch.float64) < 0.3).double()
    seen = microscope.forward(net, weights, trains, microscope.step)
    torch.testing.assert_close(seen, net(trains))
    assert net.trace(images)["output"].rate > 0


def twins(rule: Rule = TSSLBP()) -> tuple[Network, CustomNetwork]:  # noqa: B008
    """Return a network described by its layers, and the same network made of modules."""
    net = network("3C3-P2-6", rule=rule)
    constants: tuple[Any, ...] = 5.0, 3.0, 1.0, rule
    module = nn.Sequential(
        *(Conv(1, 3, 3), LIF(*constants, time_steps=4, pool=2, pool_scale=1.1), nn.Flatten(-3)),
        *(Linear(12, 6), LIF(*constants), Linear(6, 3), LIF(*constants, output_psc=True)),
    ).double()
    module.load_state_dict(dict(zip(module.state_dict(), net.state_dict().values(), strict=True)))
    return net, CustomNetwork(module, (1, 6, 6), 3, 4).eval()


def test_a_network_of_modules_is_seen_as_the_same_of_layers() -> None:
    """Forward passes, exact gradients and losses at many places agree for both networks."""
    net, custom = twins()
    one = Batch(losses.van_rossum, *batch())
    for spike in (microscope.step, microscope.logistic):
        seen = [microscope.forward(x, x.weights, one.images, spike) for x in (net, custom)]
        torch.testing.assert_close(*seen)
    torch.testing.assert_close(seen[1].shape, net(one.images).shape)
    assert torch.equal(custom(one.images), net(one.images))  # the neurons are restored
    exact = [list(microscope.smooth_gradients(x, one).values()) for x in (net, custom)]
    torch.testing.assert_close(*exact)
    places = [microscope.coordinates_of(x, None, 0) for x in (net, custom)]
    moves = 0.1 * torch.randn(5, sum(view.number for view in places[0].values())).double()
    found = [
        microscope.losses_around(x, views, one, microscope.step)(moves)
        for x, views in zip((net, custom), places, strict=True)
    ]
    torch.testing.assert_close(*found)
    assert list(places[1]) == ["0.weight", "3.weight", "5.weight"]


@pytest.mark.slow
def test_modules_of_all_kinds() -> None:
    """The control agrees for normalisation, residual blocks, learned constants and max pooling."""
    made = {name: (torch.manual_seed(0), residual(rule))[1] for name, rule in RULES.items()}
    images, labels = batch()
    found = examine(made, Batch(losses.softmax, images, labels), Noise((0.1,), 30))
    assert [layer.name for layer in found] == ["0.weight", "3.body.0.weight", "6.weight"]
    for layer in found:
        assert layer.firing_rate is None
        control = layer.control
        assert control.value is not None and control.value > 0.95
        assert control.interval.low < 1 < control.interval.high
    assert json.loads(json.dumps(found[0].to_table()))["firing_rate"] is None


def residual(rule: Rule) -> CustomNetwork:
    constants: tuple[Any, ...] = 2.0, 2.0, 0.5, rule, ("tau_m",)
    body = nn.Sequential(Conv(3, 3, 3, padding=1, groups=3), BatchNorm(3), LIF(*constants))
    module = nn.Sequential(
        *(Conv(1, 3, 3, bias=True), BatchNorm(3), LIF(*constants, time_steps=4)),
        *(Residual(body), MaxPool(2), nn.Flatten(-3), Linear(12, 3, bias=True)),
    )
    return CustomNetwork(module.double(), (1, 6, 6), 3, 4).eval()


def test_a_module_that_cannot_be_mapped() -> None:
    class Hasty(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            x = super().forward(x)
            return x if x.sum() > 0 else 0 * x

    net = CustomNetwork(
        Hasty(nn.Flatten(-3), Linear(36, 3), LIF(time_steps=4)).double(), (1, 6, 6), 3, 4
    ).eval()
    with pytest.raises(InvalidInput, match=r"the network cannot .* by torch.func.vmap") as raised:
        examine({"one": net}, Batch(losses.softmax, *batch()), Noise((0.1,), 4))
    assert "\n" not in str(raised.value)


def test_losses_of_many_weights_are_those_of_the_networks() -> None:
    net, (images, labels) = network(), batch()
    views = microscope.coordinates_of(net, None, 0)
    places = 0.1 * torch.randn(5, sum(view.number for view in views.values())).double()
    seen = Batch(losses.van_rossum, images, labels)
    around = microscope.losses_around(net, views, seen, microscope.step)
    with torch.no_grad():
        found = around(places)
        for place, value in zip(places, found, strict=True):
            moved = network()
            parts = place.split([view.number for view in views.values()])
            for layer, view, part in zip(moved.spiking_layers, views.values(), parts, strict=True):
                layer.connection.weight.copy_(view.moved(part))
            torch.testing.assert_close(value, losses.van_rossum(moved(images), labels))
    assert len(set(found.tolist())) > 1


@pytest.mark.parametrize(("directions", "rounds"), [(None, 6), (16, 20)])
def test_control_agrees_with_autograd(directions: int | None, rounds: int) -> None:
    nets = {"revised": network("2C3-P2-8")}
    layers = look(nets, widths=[0.1], rounds=rounds, directions=directions)
    assert [layer.name for layer in layers] == ["conv1", "linear2", "output"]
    for layer in layers:
        assert layer.control.value == pytest.approx(1, abs=1 - microscope.AGREEMENT)
        assert layer.control.interval.high - layer.control.interval.low < 0.02


def test_control_would_notice_a_wrong_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    right = microscope.smooth_gradients

    def wrong(*arguments) -> dict[str, Tensor]:
        gradients = right(*arguments)
        return gradients | {"output": gradients["output"] * torch.arange(6)}

    monkeypatch.setattr(microscope, "smooth_gradients", wrong)
    *_, output = look({"a": network()}, widths=[0.1], rounds=4)
    assert output.control.interval.high < microscope.AGREEMENT


def test_gradient_of_a_smoothed_step() -> None:
    """A step at distance d, smoothed by normal noise, has the normal density at d as gradient."""
    width, distance = 0.5, 0.4

    def steps(places: Tensor) -> Tensor:
        return (places[:, 0] > distance).double()

    (found,) = estimates([(steps, width)], count=2, rounds=4000, seed=0)
    density = math.exp(-0.5 * (distance / width) ** 2) / (width * math.sqrt(2 * math.pi))
    assert found[:, 0].mean().item() == pytest.approx(density, abs=0.03)
    assert found[:, 1].mean().item() == pytest.approx(0, abs=0.03)


def test_a_plane_is_seen_nearly_exactly_and_a_parabola_not_at_all() -> None:
    slope = torch.linspace(-1, 1, 100, dtype=torch.float64)
    plane, parabola = estimates(
        [(lambda x: x @ slope, 0.1), (lambda x: x.square().sum(1), 0.1)], 100, rounds=40, seed=0
    )
    errors = (plane - slope).square().sum(1) / slope.square().sum()
    assert errors.mean().item() == pytest.approx(2 / 100, rel=0.2)  # if independent: 101 / 100
    assert parabola.abs().max() < 1e-12


def test_noise_is_orthogonal_and_normal() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.stack([microscope.orthogonal_noise(20, generator) for _ in range(300)])
    products = noise @ noise.mT
    lengths = products.diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(products, torch.diag_embed(lengths), atol=1e-10, rtol=0)
    assert lengths.mean().item() == pytest.approx(20, abs=0.5)
    assert lengths.var().item() == pytest.approx(40, abs=4)  # chi-squared of 20


def test_cosine_is_right_where_the_plain_one_is_biased() -> None:
    random = torch.Generator().manual_seed(0)
    expected, size, rounds = 0.6, 300, 10
    found, plain, covered, below = [], [], 0, 0
    for _ in range(200):
        gradient, truth = directions_with(expected, size, random)
        noise = torch.randn(rounds, size, dtype=torch.float64, generator=random)
        estimates = truth + 3 * noise / math.sqrt(size)
        one = cosine(5 * gradient, estimates)
        found.append(one.value)
        covered += one.interval.low <= expected <= one.interval.high
        mean = estimates.mean(0)
        plain.append((gradient @ mean / mean.norm()).item())
        below += plain[-1] < one.interval.low
    assert np.mean(plain) < expected - 0.1
    assert below > 100
    assert np.mean(found) == pytest.approx(expected, abs=0.01)
    assert covered >= 186  # an exact interval covers about 190


def test_interval_along_directions_is_that_of_the_whole_layer() -> None:
    random = torch.Generator().manual_seed(0)
    expected, covered = 0.6, 0
    for _ in range(200):
        gradient, truth = directions_with(expected, 2000, random)
        chosen = torch.randperm(2000, generator=random)[:24]
        noise = torch.randn(6, 24, dtype=torch.float64, generator=random)
        one = cosine(gradient[chosen], truth[chosen] + 0.01 * noise, "directions")
        covered += one.interval.low <= expected <= one.interval.high
    assert covered >= 180


def test_no_cosine_without_a_gradient_or_in_noise() -> None:
    random = torch.Generator().manual_seed(0)
    noise = torch.randn(10, 50, dtype=torch.float64, generator=random)
    gradient = torch.ones(50, dtype=torch.float64)
    assert cosine(0 * gradient, gradient + noise) == Cosine(None, None, "no gradient")
    assert cosine(gradient, noise) == Cosine(None, None, "noise")
    assert cosine(gradient, 0 * noise) == Cosine(None, None, "noise")
    assert cosine(gradient, gradient + noise).value is not None
    opposed = cosine(-gradient, gradient + noise)
    assert opposed.value == -cosine(gradient, gradient + noise).value


def test_cosines_of_rules() -> None:
    gradients = [torch.tensor(x) for x in ([[3.0, 0.0]], [[3.0, 3.0]], [[-1.0, 0.0]], [[0.0, 0.0]])]
    found = microscope.between(gradients)
    half = math.sqrt(0.5)
    expected = [[1, half, -1], [half, 1, -half], [-1, -half, 1]]
    np.testing.assert_allclose(found[:3, :3], expected, rtol=1e-6)
    assert np.isnan(found[3]).all() and np.isnan(found[:, 3]).all()


def test_a_rule_is_seen_the_same_beside_others_and_at_other_widths() -> None:
    """All rules and widths use the same noise, which depends only on the seed."""
    nets, settings = networks(), {"rounds": 4, "widths": [0.1, 0.3]}
    together = look(nets, **settings)
    alone = look({"published": nets["published"]}, rounds=4, widths=[0.3])
    other = look(nets, **settings, seed=1)
    for one, single, changed in zip(together, alone, other, strict=True):
        assert one.truth["published"][1:] == single.truth["published"]
        assert one.control == single.control != changed.control
        np.testing.assert_array_equal(one.between, changed.between)
    assert together[-1].truth["published"] != other[-1].truth["published"]


def test_wide_noise_is_met_by_the_rules() -> None:
    """In the output layer, the rules' gradients agree with the true gradient."""
    *_, output = look(networks(), widths=[0.3], rounds=8)
    assert output.firing_rate > 0.05
    for (one,) in output.truth.values():
        assert one.interval.low > 0.5
    assert output.between.min() > 0.5


def test_layers_that_are_silent_say_so() -> None:
    nets = {
        name: network("6", rule=rule, neuron=Neuron(threshold=1e3)) for name, rule in RULES.items()
    }
    for layer in look(nets, widths=[0.1], rounds=4):
        assert layer.firing_rate == 0
        assert {row[0].reason for row in layer.truth.values()} <= {"noise", "no gradient"}
        assert json.dumps(layer.to_table(), allow_nan=False)


def refusals() -> list[tuple[str, dict]]:
    nets = {"a": network("5")}
    return [
        ("at least one", {"nets": {}}),
        ("noise widths must be positive", {"nets": nets, "widths": [0.1, 0]}),
        ("noise widths must be positive", {"nets": nets, "widths": []}),
        ("an even number of at least 4, got 5", {"nets": nets, "rounds": 5}),
        ("at least 16, got 15", {"nets": nets, "directions": 15}),
        ("at most 15, the number of weights of layer output", {"nets": nets, "directions": 20}),
        ("float64", {"nets": {"a": network("5").float()}}),
        ("evaluation mode", {"nets": {"a": network("5").train()}}),
        ("the same weights", {"nets": nets | {"b": network("6")}}),
        ("at most 2,000 weights, but the network has 2,028: .*directions", {"nets": {"a": wide()}}),
    ]


def wide() -> Network:
    return network("52")


@pytest.mark.parametrize(("message", "arguments"), refusals(), ids=lambda value: str(value)[:30])
def test_refuses(message: str, arguments: dict) -> None:
    with pytest.raises(InvalidInput, match=message):
        look(**arguments)


def test_wide_networks_along_directions() -> None:
    layers = look({"a": wide()}, widths=[0.3], rounds=4, directions=16)
    assert [layer.weights for layer in layers] == [36 * 52, 52 * 3]


def test_gradient_that_is_not_finite() -> None:
    def bad(psc: Tensor, labels: Tensor) -> Tensor:
        return psc.sum() * math.inf

    with pytest.raises(Diverged, match="the gradient of layer linear1 by a contains NaN"):
        examine({"a": network("5")}, Batch(bad, *batch()), Noise())
