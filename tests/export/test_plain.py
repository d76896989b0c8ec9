"""Tests of the plain network: the same outputs, PyTorch's own modules, and traceability."""

import copy

import pytest
import torch
from torch import nn

from tsslbp import layers, models
from tsslbp.export.plain import OverTime, SpikingNeurons, WindowSum, connection, to_plain
from tsslbp.layers import LIF, Conv, Linear
from tsslbp.network import CustomNetwork

from .nets import CLASSES, SHAPE, constants, custom, images, network, normal, normalised, residual

NETWORKS = {
    "linear": lambda: network("13"),
    "one step": lambda: network(steps=1, weight_scale=9.0),
    "pooling": lambda: network("5C3-P2-4C2-P3-13", input_shape=(1, 16, 19)),
    "pooling alone": lambda: network("5C2-P2-P2-13", pool_scale=0.7),
    "neunorm": lambda: network(neunorm=True, padding=1),
    "dropout": lambda: network(dropout=0.4),
    "constants": constants,
    "normalised": normalised,
    "residual": residual,
    "vgg": lambda: CustomNetwork(
        models.vgg((2, 8, 8), CLASSES, 5, channels=[(4,), (5,)], hidden=[6], dropout=0.3),
        (2, 8, 8),
        CLASSES,
        5,
    ).eval(),
}


@pytest.mark.parametrize("kind", NETWORKS)
def test_outputs_are_those_of_the_network(kind: str) -> None:
    net = NETWORKS[kind]()
    for part in net.modules():  # a weight that starts at zero would hide its layer
        if isinstance(part, layers.NeuNorm):
            part.weight.data = 0.3 * normal(*part.weight.shape)
    before = copy.deepcopy(net.state_dict())
    plain, x = to_plain(net), images(net)
    expected = net(x).detach()
    assert expected.any()
    torch.testing.assert_close(plain(x), expected, rtol=1e-5, atol=1e-5)
    trains = (normal(net.time_steps, *x.shape) > 0.5).float()
    torch.testing.assert_close(plain(trains), net(trains).detach(), rtol=1e-5, atol=1e-5)
    assert not any(isinstance(part, LIF | Conv | Linear) for part in plain.modules())
    assert not plain.training
    after = net.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    assert not {id(one) for one in plain.parameters()} & {id(one) for one in net.parameters()}


def test_each_layer_has_a_module_that_hooks_find() -> None:
    net = network("5C3-P2-4C2-13", steps=4)
    plain = to_plain(net)
    seen: list[tuple[str, tuple[int, ...]]] = []
    for part in plain.modules():
        if type(part) in (nn.Conv2d, nn.Linear, SpikingNeurons):
            part.register_forward_hook(
                lambda one, inputs, _: seen.append((type(one).__name__, tuple(inputs[0].shape)))
            )
    plain(images(net, 3))
    assert seen == [
        ("Conv2d", (3, 2, 9, 11)),  # once for a static image
        ("SpikingNeurons", (3, 5, 7, 9)),
        ("Conv2d", (4 * 3, 5, 3, 4)),
        ("SpikingNeurons", (4, 3, 4, 2, 3)),
        ("Linear", (4 * 3, 4 * 2 * 3)),
        ("SpikingNeurons", (4, 3, 13)),
        ("Linear", (4 * 3, 13)),
        ("SpikingNeurons", (4, 3, CLASSES)),
    ]


@pytest.mark.parametrize("frames", [False, True])
@pytest.mark.parametrize(
    "kind", ["pooling", "neunorm", "constants", pytest.param("residual", marks=pytest.mark.slow)]
)
def test_torch_export_takes_it(kind: str, frames: bool) -> None:
    """The batch may have any size, which the network itself does not allow."""
    net = NETWORKS[kind]()
    plain, x = to_plain(net), images(net, 2)
    if frames:
        x = x.expand(net.time_steps, *x.shape).contiguous()
    dynamic = ({1 if frames else 0: torch.export.Dim("batch")},)
    program = torch.export.export(plain, (x,), dynamic_shapes=dynamic).module()
    for count in (1, 3, 7):
        other = images(net, count)
        if frames:
            other = other.expand(net.time_steps, *other.shape).contiguous()
        torch.testing.assert_close(program(other), plain(other), rtol=0, atol=0)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_window_sums_are_those_of_the_pooling(size: int) -> None:
    x = (normal(4, 3, 2, 5, 7) > 0).float()
    expected = layers.SumPool(size, 1.1)(x)
    assert torch.equal(WindowSum(size, 1.1)(x), expected)


@pytest.mark.parametrize("groups", [1, 2])
def test_a_connection_keeps_its_settings(groups: int) -> None:
    conv = Conv(4, 6, 3, stride=2, padding=1, dilation=2, groups=groups, bias=True).double()
    x = normal(5, 4, 9, 11).double()
    torch.testing.assert_close(connection(conv)(x), conv(x))


def test_a_module_in_two_places_stays_one() -> None:
    shared = layers.Linear(4, 4)
    plain = to_plain(
        custom(
            nn.Flatten(-3),
            *(layers.Linear(2 * 9 * 11, 4), LIF(time_steps=5), shared, LIF(), shared, LIF()),
            layers.Linear(4, CLASSES),
        )
    )
    found = [part for part in plain.modules() if isinstance(part, OverTime)]
    assert len(found) == 3
    assert plain(normal(2, *SHAPE)).shape == (5, 2, CLASSES)
