"""Tests of ONNX: onnxruntime agrees with the network, and the checker accepts the model."""

import copy
import sys
from collections.abc import Callable
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import tsslbp
from tsslbp import layers, models
from tsslbp.errors import InvalidInput
from tsslbp.export import to_onnx
from tsslbp.layers import LIF
from tsslbp.network import CustomNetwork

from .nets import CLASSES, constants, custom, images, network, normal, residual

Net = tsslbp.Network | CustomNetwork


def vgg() -> CustomNetwork:
    module = models.vgg((2, 8, 8), CLASSES, 3, channels=[(4,), (5,)], hidden=[6], dropout=0.3)
    return CustomNetwork(module, (2, 8, 8), CLASSES, 3).eval()


def neunorm() -> tsslbp.Network:
    net = network("4C3-P3-13", neunorm=True, padding=1, steps=3)
    (norm,) = (part for part in net.modules() if isinstance(part, layers.NeuNorm))
    norm.weight.data = 0.3 * normal(*norm.weight.shape)
    return net


NETWORKS: dict[str, Callable[[], Net]] = {
    "linear": lambda: network("13", input_shape=(1, 5, 3), steps=7),
    "one step": lambda: network(steps=1, weight_scale=9.0),
    "pooling": lambda: network("5C3-P2-4C2-P3-13", input_shape=(1, 16, 19)),
    "neunorm": neunorm,
    "constants": constants,
    "residual": residual,
    "vgg": vgg,
}


def outputs(model: onnx.ModelProto, x: Tensor) -> Tensor:
    """Return what onnxruntime computes, on one thread like everything in tests."""
    onnx.checker.check_model(model, full_check=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    content = model.SerializeToString()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["output"], {"images": x.numpy()})[0])


# A conversion takes some seconds.
SLOW = ("pooling", "one step", "neunorm", "constants", "residual", "vgg")


@pytest.mark.parametrize(
    "kind", [pytest.param(one, marks=[pytest.mark.slow] * (one in SLOW)) for one in NETWORKS]
)
def test_onnxruntime_computes_the_network(kind: str) -> None:
    """The model agrees with the network for batches of any size, even of one image."""
    net = NETWORKS[kind]()
    model = to_onnx(net)
    for count in (1, 7):
        x = images(net, count)
        expected = net(x).detach()
        assert count == 1 or expected.any()
        torch.testing.assert_close(outputs(model, x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_the_mnist_network_gives_the_same_numbers() -> None:
    net = tsslbp.Network("15C5-P2-40C5-P2-300", weight_scale=3.0).eval()
    pixels = torch.randint(0, 256, (64, 1, 28, 28), dtype=torch.uint8)
    model = to_onnx(net, pixels=torch.uint8, mean=0.1307, std=0.3081)
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    told = {one.key: one.value for one in model.metadata_props}["input"]
    assert told == "raw images [N, C, H, W] of type uint8, which the model normalises"
    expected = net(tsslbp.data.normalise(pixels, 0.1307, 0.3081)).detach()
    found = outputs(model, pixels)
    assert expected.any()
    assert (found == expected).float().mean() > 0.999  # a sum may be rounded differently
    assert torch.equal(tsslbp.predict(found), tsslbp.predict(expected))


@pytest.mark.slow
def test_frames_and_their_time() -> None:
    net = network(steps=4, input_shape=(2, 8, 7))
    model, x = to_onnx(net, frames=True), (normal(4, 5, 2, 8, 7) > 0).float()
    dimensions = model.graph.input[0].type.tensor_type.shape.dim
    sizes = [one.dim_param or one.dim_value for one in dimensions]
    assert sizes == [4, "batch", 2, 8, 7]
    torch.testing.assert_close(outputs(model, x), net(x).detach())
    with pytest.raises(InvalidInput, match="frames of events are not normalised"):
        to_onnx(net, frames=True, pixels=torch.uint8)


@pytest.mark.slow
def test_real_pixels_of_two_channels() -> None:
    net, mean, std = network(), (0.3, -0.2), (0.5, 1.5)
    model = to_onnx(net, pixels=torch.float32, mean=mean, std=std)
    x = normal(3, *net.input_shape)
    expected = net(tsslbp.data.normalise(x, mean, std)).detach()
    torch.testing.assert_close(outputs(model, x), expected)


@pytest.mark.slow
def test_what_a_model_says() -> None:
    model = to_onnx(network("13"), metadata={"mean": [0.1], "command": "tsslbp train mnist"})
    assert [(one.domain, one.version) for one in model.opset_import] == [("", 20)]
    assert [one.name for one in model.graph.input] == ["images"]
    assert [one.name for one in model.graph.output] == ["output"]
    found = {one.key: one.value for one in model.metadata_props}
    assert found["prediction"] == "the class with the largest output summed over time"
    assert (found["time_steps"], found["classes"], found["mean"]) == ("5", "3", "[0.1]")
    assert found["command"] == "tsslbp train mnist" and found["network"] == "13"
    assert found["input"] == "images [N, C, H, W], normalised as for training"
    text = model.SerializeToString()
    assert __file__.encode() not in text and b"site-packages" not in text and b".py" not in text


class Peeking(nn.Module):
    """Module without a graph, since its result depends on the input's values."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 3 else 2 * x


def test_a_module_that_cannot_be_traced_is_told_in_a_line() -> None:
    net = custom(
        *(nn.Flatten(-3), layers.Linear(198, CLASSES), LIF(time_steps=5), Peeking()),
        layers.Linear(CLASSES, CLASSES),
    )
    with pytest.raises(
        InvalidInput, match=r"torch\.export cannot trace the network: .* value"
    ) as e:
        to_onnx(net)
    assert "\n" not in str(e.value)


@pytest.mark.slow
def test_doubles_are_converted() -> None:
    """Weights are converted to one type, since a model of mixed types cannot be run."""
    net = network("13", input_shape=(1, 5, 3), steps=2)
    model, x = to_onnx(copy.deepcopy(net).double()), images(net, 3)
    assert net(x).any()
    torch.testing.assert_close(outputs(model, x), net(x).detach())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mean": 0.3}, "mean and std are only used with pixels"),
        ({"pixels": torch.int64}, "pixels must be torch.uint8 or torch.float32, got torch.int64"),
        ({"pixels": torch.uint8, "std": 0.0}, "std must be positive"),
        ({"metadata": {"classes": 99}}, "must not contain classes, which the export writes"),
        ({"metadata": {"labels": torch.ones(2)}}, "but labels is not: Object of type Tensor"),
    ],
)
def test_what_is_refused(options: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        to_onnx(network("13"), **options)
    with pytest.raises(InvalidInput, match="CustomNetwork, got Linear"):
        to_onnx(nn.Linear(3, 4), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("package", ["onnx", "onnxscript"])
def test_without_the_packages(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    message = rf"ONNX needs {package}, which is not installed: pip install 'tsslbp\[exchange\]'"
    with pytest.raises(InvalidInput, match=message):
        to_onnx(network())
