"""Networks behave as a PyTorch user expects, and report correct values about themselves."""

import copy
import io
import re
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

import tsslbp
from tsslbp import TSSLBP, Network, Neuron, losses
from tsslbp.errors import InvalidInput
from tsslbp.layers import NeuNorm
from tsslbp.layers.dropout import DROPOUT
from tsslbp.neuron import reference
from tsslbp.rules import Rule

CNN1 = "96C3-256C3-P2-384C3-P2-384C3-256C3-1024-1024"
CNN2 = "128C3-256C3-P2-512C3-P2-1024C3-512C3-1024-512"
RULES = {"revised": TSSLBP(), "published": TSSLBP.published()}
NAMES = ["conv1", "conv2", "linear3", "output"]


def network(description: str = "4C3-P2-6C3-7", seed: int = 0, **settings) -> Network:
    """Return a small network whose neurons fire for the images below."""
    settings = {"input_shape": (2, 9, 8), "classes": 3, "padding": 1, "weight_scale": 4} | settings
    return Network(description, generator=torch.Generator().manual_seed(seed), **settings)


def images(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape or (6, 2, 9, 8), generator=generator, dtype=dtype)


def output_and_gradients(net: Network, x: Tensor) -> list[Tensor]:
    """Return the output, and the gradients of a loss with respect to the input and all weights."""
    x = x.detach().requires_grad_()
    psc = net(x)
    loss = losses.van_rossum(psc, torch.arange(psc.shape[1]) % 3)
    gradients = torch.autograd.grad(loss, [x, *net.parameters()])
    assert all(gradient.any() for gradient in gradients)
    return [psc.detach(), *gradients]


def assert_all_close(actual: list[Tensor], expected: list[Tensor]) -> None:
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


# Shapes, parameters and the table


@pytest.mark.parametrize(
    ("description", "settings", "parameters"),
    [
        ("15C5-P2-40C5-P2-300", {}, 210_375),
        (CNN1, {"input_shape": (3, 32, 32), "padding": 1}, 21_156_384),
        (CNN2, {"input_shape": (3, 32, 32), "padding": 1}, 44_999_040),
    ],
)
def test_parameters_as_published(description: str, settings: dict, parameters: int) -> None:
    with torch.device("meta"):  # shapes without memory
        net = Network(description, **settings)
    assert sum(weight.numel() for weight in net.parameters()) == parameters
    assert repr(net).splitlines()[-1].split() == ["total", f"{parameters:,}"]


def test_parameters_come_in_layer_order() -> None:
    shapes = [tuple(weight.shape) for weight in network().parameters()]
    assert shapes == [(4, 2, 3, 3), (6, 4, 3, 3), (7, 6 * 4 * 4), (3, 7)]


def test_repr_is_a_table() -> None:
    lines = repr(network("P2-4C3-P2-7", input_shape=(2, 16, 16), dropout=0.2)).splitlines()
    assert "'P2-4C3-P2-7'" in lines[0]
    table = [re.split(r"\s{2,}", line) for line in lines[1:]]
    assert table == [
        ["layer", "connection", "output", "parameters"],
        ["input", "2 x 16 x 16"],
        ["pool1", "sum pooling 2 x 2", "2 x 8 x 8", "0"],
        ["conv2", "convolution 3 x 3, padding 1, sum pooling 2 x 2", "4 x 4 x 4", "72"],
        ["linear3", "linear", "7", "448"],
        ["output", "linear", "3", "21"],
        ["total", "541"],
    ]
    assert len({len(line) for line in [lines[1], *lines[3:]]}) == 1  # numbers end in one column


@pytest.mark.parametrize("steps", [3, 5, 12])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_output_is_the_psc_over_time(steps: int, dtype: torch.dtype) -> None:
    net = network(time_steps=steps).to(dtype)
    psc = net(images(dtype=dtype))
    assert psc.shape == (steps, 6, 3) and psc.dtype == dtype
    assert psc.any() and psc.min() >= 0 and psc.max() < 1


# An ordinary PyTorch module


def test_state_dict_round_trip() -> None:
    net, other, x = network(), network(seed=1), images(dtype=torch.float32)
    assert not torch.equal(net(x), other(x))
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(net(x), other(x))


@pytest.mark.parametrize("kind", [None, "rows"])
@pytest.mark.parametrize("neunorm", [False, True])
def test_keys_are_the_names_of_layers(kind: str | None, neunorm: bool) -> None:
    """Keys do not depend on modules in between, and numbered keys of earlier versions load."""
    settings = {"dropout": 0.3 if kind else 0.0, "neunorm": neunorm}
    net, other = network("P2-4C3-P2-6C2-7", **settings), network("P2-4C3-P2-6C2-7", neunorm=neunorm)
    assert [key for key in net.state_dict() if "neunorm" not in key] == [
        "conv2.weight",
        "conv3.weight",
        "linear4.weight",
        "output.weight",
    ]
    assert list(net.state_dict()) == [name for name, _ in net.named_parameters()]
    assert ("conv3_neunorm.weight" in net.state_dict()) == neunorm
    for weight in net.parameters():
        weight.data.normal_()
    keys = {}  # as a list of all modules numbers them
    for number, (name, layer) in enumerate(net.named_layers()):
        inner = "connection." if hasattr(layer, "connection") else ""
        keys[f"{name}.weight"] = f"layers.{number}.{inner}weight"
    state = {keys[key]: value for key, value in net.state_dict().items()}
    other.load_state_dict(state)
    surrounding = nn.Sequential(nn.Identity(), network("P2-4C3-P2-6C2-7", neunorm=neunorm))
    surrounding.load_state_dict({f"1.{key}": value for key, value in state.items()})
    for key, value in net.state_dict().items():
        assert torch.equal(other.state_dict()[key], value)
        assert torch.equal(surrounding.state_dict()[f"1.{key}"], value)
    assert next(iter(state)) in keys.values()  # the given state is not changed


def test_old_state_of_another_network_is_refused() -> None:
    state = {f"layers.{number}.connection.weight": torch.zeros(1) for number in range(9)}
    with pytest.raises(RuntimeError, match=r"Unexpected key.*layers\.8\.connection\.weight"):
        network().load_state_dict(state)


def test_deepcopy_is_independent() -> None:
    net, x = network(), images(dtype=torch.float32)
    before, twin = net(x), copy.deepcopy(net)
    assert torch.equal(twin(x), before)
    with torch.no_grad():
        for weight in twin.parameters():
            weight.zero_()
    assert not twin(x).any()
    assert torch.equal(net(x), before) and before.any()


def test_pickling_keeps_the_network() -> None:
    """Copying and worker processes need pickles; the files that tsslbp writes contain none."""
    net, x = network(rule=TSSLBP.published(), dropout=0.2).eval(), images(dtype=torch.float32)
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    again = torch.load(file, weights_only=False)
    assert torch.equal(again(x), net(x))
    assert repr(again) == repr(net)


def test_no_grad() -> None:
    net, x = network(), images(dtype=torch.float32)
    with torch.no_grad():
        psc = net(x)
    assert not psc.requires_grad
    assert net(x).requires_grad and torch.equal(net(x), psc)


def test_to_float64_and_back() -> None:
    net, x = network(), images()
    single = net(x.float())
    double = net.to(torch.float64)(x)
    assert single.dtype == torch.float32 and double.dtype == torch.float64
    assert torch.equal(net.to(torch.float32)(x.float()), single)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
def test_functional_call(rule: Rule) -> None:
    net, x, labels = network(rule=rule).double(), images(), torch.tensor([0, 1, 2, 0, 1, 2])

    def loss(weights: dict[str, Tensor]) -> Tensor:
        return losses.van_rossum(torch.func.functional_call(net, weights, (x,)), labels)

    weights = {name: 1.1 * weight.detach() for name, weight in net.named_parameters()}
    gradients = torch.func.grad(loss)(weights)
    twin = copy.deepcopy(net)
    twin.load_state_dict(weights)
    losses.van_rossum(twin(x), labels).backward()
    for name, weight in twin.named_parameters():
        assert torch.equal(gradients[name], weight.grad)
        assert weight.grad.any()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # the compiler's own
def test_compile_of_a_surrounding_module() -> None:
    class Surrounding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network().double()

        def forward(self, x: Tensor) -> Tensor:
            return self.network(0.5 * x + 0.1).sum(0)

    module, x = Surrounding(), images()
    weights = list(module.parameters())
    expected = torch.autograd.grad(module(x).square().sum(), weights)
    compiled = torch.compile(module, backend="aot_eager")(x)
    assert torch.equal(compiled, module(x))
    actual = torch.autograd.grad(compiled.square().sum(), weights)
    assert_all_close(list(actual), list(expected))
    assert all(gradient.any() for gradient in actual)


def test_dropout_in_training_alone() -> None:
    net, x = network(dropout=0.5), images(dtype=torch.float32)
    plain = network()
    assert not torch.equal(net(x), net(x))
    net.eval()
    assert torch.equal(net(x), net(x))
    assert torch.equal(net(x), plain(x))
    torch.manual_seed(3)
    once = net.train()(x)
    torch.manual_seed(3)
    assert torch.equal(net(x), once)


@pytest.mark.parametrize(("kind", "expected"), DROPOUT.items())
def test_dropout_stands_behind_every_hidden_layer(kind: str, expected: type) -> None:
    layers = list(network("4C3-P2-7-5", dropout=0.3, dropout_kind=kind).layers)
    spiking = [index for index, layer in enumerate(layers) if hasattr(layer, "connection")]
    assert [type(layers[index + 1]) for index in spiking[:-1]] == [expected] * 3
    assert spiking[-1] == len(layers) - 1


def test_neunorm_stands_behind_every_convolution() -> None:
    net = network("4C3-P2-6C3-7-5", neunorm=True, dropout=0.3)
    kinds = [type(layer).__name__ for layer in net.layers]
    assert kinds[:6] == ["SpikingLayer", "NeuNorm", "RowDropout"] * 2
    assert "NeuNorm" not in kinds[6:]
    assert [tuple(layer.weight.shape) for layer in net.layers[1:5:3]] == [(4, 4, 4), (6, 4, 4)]
    total = sum(weight.numel() for weight in net.parameters())
    assert repr(net).splitlines()[-1].split() == ["total", f"{total:,}"]


def test_neunorm_needs_a_convolution() -> None:
    with pytest.raises(InvalidInput, match="neunorm follows convolutions, and '7-5' has none"):
        network("7-5", neunorm=True)


def test_neunorm_starts_as_nothing_and_then_matters() -> None:
    """New layers change nothing, trained ones do, and the implementations agree on them.

    The second convolution is wide enough for the event-driven kernels.
    """
    plain, x = network("32C3-P2-32C3-7").double(), images()
    pscs = []
    for impl in ("cpu", "reference"):
        net = network("32C3-P2-32C3-7", neunorm=True, impl=impl).double()
        torch.testing.assert_close(net(x), plain(x))
        for layer in net.layers:
            if isinstance(layer, NeuNorm):
                layer.weight.data.normal_(generator=torch.Generator().manual_seed(0)).mul_(100)
        pscs.append(net(x))
        assert set(net.trace(x)) == set(net.activity(x))
    torch.testing.assert_close(*pscs)
    assert not torch.equal(pscs[0], plain(x))


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
def test_neunorm_trains(rule: Rule) -> None:
    net = network(neunorm=True, rule=rule)
    x, labels = images(dtype=torch.float32), torch.arange(6) % 3
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    values = []
    for _ in range(10):
        optimizer.zero_grad()
        loss = losses.van_rossum(net(x), labels)
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    assert values[-1] < 0.8 * values[0]
    assert all(layer.weight.any() for layer in net.layers if isinstance(layer, NeuNorm))


def test_rules_and_implementations_see_the_same_masks() -> None:
    pscs = []
    for rule in RULES.values():
        for impl in ("cpu", "reference"):
            torch.manual_seed(3)
            pscs.append(network(rule=rule, impl=impl, dropout=0.3).double()(images()))
    for psc in pscs[1:]:
        torch.testing.assert_close(psc, pscs[0])


# What the output does and does not depend on


@pytest.mark.parametrize("impl", ["cpu", "reference"])
def test_static_images_are_spike_trains_that_repeat(impl: str) -> None:
    net, x = network(impl=impl).double(), images()
    repeated = x.expand(5, *x.shape).clone()
    static, train = output_and_gradients(net, x), output_and_gradients(net, repeated)
    train[1] = train[1].sum(0)  # each step holds a copy of the image
    assert_all_close(train, static)


def test_spike_trains_are_read_in_time() -> None:
    net, train = network().double(), images(5, 6, 2, 9, 8)
    changed = train.clone()
    changed[2:] *= 3
    psc, other = net(train), net(changed)
    assert torch.equal(other[:2], psc[:2])
    assert not torch.equal(other[2:], psc[2:])


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"description": "12-9"},
        {"description": "P2-4C3-P2-P2-5", "pool_scale": 0.7, "conv_init": "kaiming"},
        {"neuron": Neuron(4.0, 2.0, 0.8), "time_steps": 12, "padding": (0, 2)},
    ],
    ids=str,
)
def test_fused_equals_reference(settings: dict, rule: Rule) -> None:
    fused, plain = (
        output_and_gradients(network(impl=impl, rule=rule, **settings).double(), images())
        for impl in ("cpu", "reference")
    )
    assert fused[0].any()
    assert_all_close(fused, plain)


def test_order_of_the_batch_does_not_matter() -> None:
    net, x = network().double(), images()
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    torch.testing.assert_close(net(x[order]), net(x)[:, order])
    torch.testing.assert_close(net(x[2:3]), net(x)[:, 2:3])


def test_no_state_between_calls() -> None:
    net, x = network(), images(dtype=torch.float32)
    first = output_and_gradients(net, x)
    output_and_gradients(net, images(4, 2, 9, 8, dtype=torch.float32, seed=2))
    for one, other in zip(output_and_gradients(net, x), first, strict=True):
        assert torch.equal(one, other)


def test_silent_input_gives_silence() -> None:
    assert not network()(torch.zeros(6, 2, 9, 8)).any()


def test_rule_does_not_touch_the_forward_pass() -> None:
    x = images(dtype=torch.float32)
    revised, published = (network(rule=rule) for rule in RULES.values())
    results = [output_and_gradients(net, x) for net in (revised, published)]
    assert torch.equal(results[0][0], results[1][0])
    assert not torch.equal(results[0][2], results[1][2])


# Initial weights


@pytest.mark.parametrize(
    "settings",
    [
        {"rule": TSSLBP.published()},
        {"time_steps": 30},
        {"impl": "reference"},
        {"neuron": Neuron(tau_s=2.0)},
        {"dropout": 0.3},
    ],
    ids=str,
)
def test_initial_weights_depend_on_the_generator_alone(settings: dict) -> None:
    state = torch.get_rng_state()
    for one, other in zip(network().parameters(), network(**settings).parameters(), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(*(next(network(seed=seed).parameters()) for seed in (0, 1)))


def test_initial_weights_are_drawn_in_layer_order() -> None:
    short, long = list(network("4C3-7").parameters()), list(network("4C3-7-9").parameters())
    assert all(torch.equal(one, other) for one, other in zip(short[:2], long[:2], strict=True))


def test_initial_weights_come_from_the_global_generator_by_default() -> None:
    weights = []
    for _ in range(2):
        torch.manual_seed(0)
        weights.append(next(Network("4C3", (1, 5, 5)).parameters()))
    assert torch.equal(*weights)
    assert torch.equal(
        weights[0], next(network("4C3", 0, input_shape=(1, 5, 5), weight_scale=1).parameters())
    )


def test_weight_scale_for_convolutions_and_linear_layers() -> None:
    plain = network(weight_scale=1.0)
    scaled = network(weight_scale={"conv": 5.0, "linear": 0.5})
    for weight, other in zip(plain.parameters(), scaled.parameters(), strict=True):
        assert torch.equal(other, weight * (5.0 if weight.ndim == 4 else 0.5))
    for weight, other in zip(plain.parameters(), network(weight_scale=3).parameters(), strict=True):
        assert torch.equal(other, 3 * weight)


def test_conv_init_changes_convolutions() -> None:
    uniform, kaiming = (
        network("40C5", weight_scale=1),
        network("40C5", weight_scale=1, conv_init="kaiming"),
    )
    bound = (2 * 5 * 5) ** -0.5
    assert next(uniform.parameters()).abs().max() <= bound
    assert next(kaiming.parameters()).abs().max() > 3 * bound


# Trace, activity and the search for NaN


def test_trace_of_every_layer() -> None:
    net, x = network().double(), images()
    traces = net.trace(x)
    assert list(traces) == NAMES
    shapes = [(4, 9, 8), (6, 4, 4), (7,), (3,)]  # of the neurons, before the pooling
    for trace, shape in zip(traces.values(), shapes, strict=True):
        for part in trace:
            assert part.shape == (5, 6, *shape) and not part.requires_grad
        assert torch.equal(trace.spikes, (trace.potential > 1).double())
        assert 0 < trace.rate < 1
        assert trace.rate == trace.spikes.sum().item() / trace.spikes.numel()
        torch.testing.assert_close(trace.psc, tsslbp.psc(trace.spikes))
    torch.testing.assert_close(traces["output"].psc, net(x))


def test_trace_of_spike_trains() -> None:
    net, train = network("P2-4C3-P2-5").double(), images(5, 6, 2, 9, 8)
    traces = net.trace(train)
    assert list(traces) == ["conv2", "linear3", "output"]
    torch.testing.assert_close(traces["output"].psc, net(train))


def test_trace_uses_the_network_s_constants() -> None:
    net, x = network(neuron=Neuron(4.0, 2.0, 0.7), time_steps=8).double(), images()
    traces = net.trace(x)
    for trace in traces.values():
        assert torch.equal(trace.spikes, (trace.potential > 0.7).double())
        torch.testing.assert_close(trace.psc, tsslbp.psc(trace.spikes, 2.0))
    torch.testing.assert_close(traces["output"].psc, net(x))


def test_activity_agrees_with_the_trace() -> None:
    net, x = network().double(), images()
    traces, activities = net.trace(x), net.activity(x)
    assert list(activities) == NAMES
    for name, activity in activities.items():
        assert activity.firing_rate == traces[name].rate
        below = (traces[name].psc < 1 / (4 * 3)).sum().item() / traces[name].psc.numel()
        assert activity.warm_up == pytest.approx(below, abs=1e-6)
        assert 0 < below < 1


def test_activity_of_a_rule_that_warms_up_by_layer() -> None:
    rates = {name: trace.rate for name, trace in network().double().trace(images()).items()}
    middle = sorted(rates.values())[1]
    net = network(rule=TSSLBP.published(rate_threshold=middle)).double()
    warm_up = {name: activity.warm_up for name, activity in net.activity(images()).items()}
    assert warm_up == {name: float(rate <= middle) for name, rate in rates.items()}
    assert sorted(warm_up.values()) == [0.0, 0.0, 1.0, 1.0]


def test_activity_of_a_rule_without_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass(frozen=True)
    class Straight(Rule):
        pass

    monkeypatch.setitem(
        reference.BACKWARD, Straight, lambda rule, trace, grad_spikes, *_: grad_spikes
    )
    net, x = network(rule=Straight(), impl="reference").double(), images()
    assert [activity.warm_up for activity in net.activity(x).values()] == [None] * 4
    assert net.activity(x)["conv1"].firing_rate == net.trace(x)["conv1"].rate


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("index", range(4))
def test_first_nonfinite_weight(index: int, value: float) -> None:
    net, x = network(), images(dtype=torch.float32)
    assert net.first_nonfinite(x) is None
    with torch.no_grad():
        for weight in list(net.parameters())[index:]:  # the layers behind it as well
            weight.view(-1)[-1] = value
    assert net.first_nonfinite(x) == f"the weights of layer {NAMES[index]}"


def test_first_nonfinite_current() -> None:
    net, x = network(), images(dtype=torch.float32)
    with torch.no_grad():
        list(net.parameters())[2].fill_(3e38)  # finite, but the sum of two is not
    assert net.first_nonfinite(x) == "the input current of layer linear3"


# Bad input


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"description": "15C5-P2-4OC5"}, "cannot read '4OC5' at character 9"),
        ({"description": ""}, "cannot read ''"),
        ({"description": "300-15C5"}, "only a linear layer can follow .* '15C5' at character 5"),
        ({"description": "4C3-"}, "cannot read '' at character 5"),
        ({"input_shape": (2, 1, 1), "padding": 0}, "images are too small"),
        ({"input_shape": (9, 8)}, r"input_shape must be \(C, H, W\), .*, got \(9, 8\)"),
        ({"input_shape": (0, 9, 8)}, "input_shape must be"),
        ({"padding": [1]}, "each of the 2 convolutions, got 1"),
        ({"padding": [1, 1, 1]}, "each of the 2 convolutions, got 3"),
        ({"padding": -1}, "padding must be a whole number of at least 0, got -1"),
        ({"classes": 0}, "classes must be a whole number of at least 1, got 0"),
        ({"time_steps": 0}, "time_steps must be a whole number of at least 1, got 0"),
        ({"neuron": 5.0}, r"neuron must be constants such as tsslbp.Neuron\(.*got 5.0"),
        ({"rule": 1}, "rule must be a learning rule such as .*got 1"),
        ({"impl": "gpu"}, "unknown implementation 'gpu'"),
        ({"conv_init": "kaimin"}, "'uniform' or 'kaiming', got 'kaimin'"),
        (
            {"weight_scale": {"conv": 5.0}},
            "weight_scale must be a finite .* got {'conv': 5.0}",
        ),
        ({"weight_scale": {"conv": 5.0, "lin": 1.0}}, "weight_scale must be .*'lin'"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1, got 1.0"),
        ({"dropout": -0.1}, "dropout must be at least 0 and below 1"),
        ({"dropout_kind": "row"}, r"one of rows, neurons, got 'row' \(did you mean 'rows'\?\)"),
    ],
    ids=str,
)
def test_settings_that_do_not_fit(settings: dict, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        network(**settings)


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (torch.zeros(2, 9, 8), r"images \[N, 2, 9, 8\] or spike trains \[5, N, 2, 9, 8\], got"),
        (torch.zeros(1, 5, 6, 2, 9, 8), r"got shape \[1, 5, 6, 2, 9, 8\]"),
        (torch.zeros(()), r"got shape \[\]"),
        (torch.zeros(4, 6, 2, 9, 8), r"spike trains \[5, .* got shape \[4, 6, 2, 9, 8\]"),
        (torch.zeros(6, 3, 9, 8), r"got shape \[6, 3, 9, 8\]"),
        (torch.zeros(6, 2, 8, 9), r"got shape \[6, 2, 8, 9\]"),
        (torch.zeros(6, 2, 9, 8).double(), r"dtype torch.float32, got torch.float64; convert"),
        (torch.zeros(6, 2, 9, 8).byte(), "pixel values that are not normalised"),
        (torch.full((6, 2, 9, 8), float("nan")), "NaN or infinity"),
        (torch.full((6, 2, 9, 8), float("-inf")), "NaN or infinity"),
    ],
    ids=lambda value: f"{list(value.shape)} {value.dtype}" if isinstance(value, Tensor) else "",
)
@pytest.mark.parametrize("method", [Network.__call__, Network.trace, Network.activity])
def test_input_that_does_not_fit(method: Callable, x: Tensor, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        method(network(), x)


def test_one_nan_among_many_values() -> None:
    x = images(dtype=torch.float32)
    x[4, 1, 2, 3] = float("nan")
    with pytest.raises(InvalidInput, match="NaN or infinity"):
        network()(x)
