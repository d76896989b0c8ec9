"""Tests of NIR: spikes in three importers, exact round trips, files of other libraries, errors."""

import io
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from itertools import pairwise
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tsslbp import EventProp, Network, layers, models
from tsslbp.errors import DataError, InvalidInput
from tsslbp.export import from_nir, to_nir
from tsslbp.export.nir_reader import Branching
from tsslbp.layers import LIF
from tsslbp.network import CustomNetwork

from .nets import (
    CLASSES,
    SHAPE,
    constants,
    custom,
    images,
    network,
    normal,
    normalised,
    residual,
    shared,
)

Net = Network | CustomNetwork

NETWORKS: dict[str, Callable[[], Net]] = {
    "linear": lambda: network("13", steps=20),
    "two linear": lambda: network("33-7", input_shape=(1, 5, 3), steps=20),
    "one step": lambda: network(steps=1, weight_scale=9.0),
    "pooling": lambda: network("6C3-P2-32", steps=20),
    "ragged pooling": lambda: network("5C3-P2-4C2-P3-13", input_shape=(1, 16, 19)),
    "padded pooling": lambda: network("5C3-P2-4C3-13", input_shape=(1, 8, 6), padding=1),
    "ragged and padded": lambda: network("5C3-P2-4C3-13", input_shape=(1, 9, 7), padding=1),
    "pooling alone": lambda: network("5C2-P2-P2-13", pool_scale=0.7),
    "no filter": lambda: network(neuron=layers.lif.Neuron(2.0, 1.0, 0.7)),
    "constants": constants,
    "normalised": normalised,
    "shared": shared,
    "residual": residual,
}
CHAINS = [name for name in NETWORKS if name != "residual"]


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the peers, which print, log and use what they themselves call deprecated."""
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)


def norse(graph: Any) -> nn.Module:
    return pytest.importorskip("norse.torch", reason=MISSING).from_nir(graph, dt=1e-4)


def snntorch(graph: Any) -> nn.Module:
    return pytest.importorskip("snntorch.import_nir", reason=MISSING).import_from_nir(graph)


def spikingjelly(graph: Any) -> nn.Module:
    name = "spikingjelly.activation_based.nir_exchange"
    return pytest.importorskip(name, reason=MISSING).import_from_nir(graph)


MISSING = "the peer is not installed: make .venv/installed"
IMPORTERS = [norse, snntorch, spikingjelly]
READ_BY = [  # Norse's executor returns what an inner node sends, where a graph branches
    pytest.param(kind, importer, id=f"{kind}-{importer.__name__}")
    for kind in NETWORKS
    for importer in IMPORTERS
    if (kind, importer) != ("residual", norse)
]


def through_file(graph: Any, folder: Path) -> Any:
    """Return the graph as NIR reads it back from a file, with all shapes checked."""
    nir.write(folder / "net.nir", graph)
    return nir.read(folder / "net.nir")


def run(module: nn.Module, x: Tensor, steps: int) -> Tensor:
    """Return outputs `[T, N, ...]` of a peer's module, which takes one time step per call."""
    state, outputs = None, []
    with torch.no_grad():
        for _ in range(steps):
            result = module(x) if state is None else module(x, state)
            output, state = result if isinstance(result, tuple) else (result, None)
            outputs.append(output)
    return torch.stack(outputs)


def expected(net: Net, x: Tensor) -> Tensor:
    """Return the graph's output: spikes of the last neurons, or a connection's results."""
    last = [*net.modules()][-1]
    if isinstance(net, Network) or (isinstance(last, LIF) and last.start.output_psc):
        return list(net.trace(x).values())[-1].spikes
    return net(x).detach()


@pytest.mark.parametrize("fold", [True, False])
@pytest.mark.parametrize(("kind", "importer"), READ_BY)
def test_importers_give_the_same_spikes(
    kind: str, importer: Callable[[Any], nn.Module], fold: bool, tmp_path: Path
) -> None:
    net = NETWORKS[kind]()
    graph, x = through_file(to_nir(net, fold_pooling=fold), tmp_path), images(net)
    with quiet():
        module = importer(graph)
        outputs = run(module, x, net.time_steps)
    ours = expected(net, x)
    assert ours.any() and outputs.shape == ours.shape
    torch.testing.assert_close(outputs, ours, rtol=0, atol=1e-5)


@pytest.mark.parametrize("fold", [True, False])
@pytest.mark.parametrize("kind", NETWORKS)
def test_a_network_comes_back_to_the_same_bits(kind: str, fold: bool, tmp_path: Path) -> None:
    net = NETWORKS[kind]()
    nir.write(tmp_path / "net.nir", to_nir(net, fold_pooling=fold))
    back, x = from_nir(tmp_path / "net.nir"), images(net)
    with torch.no_grad():
        original = layers.fold_batch_norms(net)
        assert torch.equal(back(x), original(x))
        trains = (normal(net.time_steps, *x.shape) > 0.5).float()
        assert torch.equal(back(trains), original(trains))
    if isinstance(net, Network):
        assert isinstance(back, Network) and repr(back) == repr(net)
        assert back.spiking_layers[0].neurons == net.spiking_layers[0].neurons
        states = net.state_dict(), back.state_dict()
        assert list(states[0]) == list(states[1])
        assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    else:
        assert isinstance(back, Branching if kind == "residual" else nn.Sequential)


@pytest.mark.parametrize("kind", CHAINS)
def test_what_came_back_can_be_written_again(kind: str) -> None:
    net = NETWORKS[kind]()
    graph = to_nir(net)
    back = from_nir(graph)
    if not isinstance(back, Network):
        back = CustomNetwork(back, net.input_shape, net.classes, net.time_steps)
    again = to_nir(back)
    for one, other in zip(graph.nodes.values(), again.nodes.values(), strict=True):
        assert type(one) is type(other)
        for key in ("weight", "bias", "tau_mem", "v_threshold"):
            np.testing.assert_array_equal(getattr(one, key, 0), getattr(other, key, 0))


def test_a_rule_of_the_file_and_another() -> None:
    graph = to_nir(network(rule=EventProp()))
    assert from_nir(graph).spiking_layers[0].neurons.rule == EventProp()
    net = from_nir(graph, rule=layers.lif.TSSLBP())
    assert net.spiking_layers[1].neurons.rule == layers.lif.TSSLBP()
    assert from_nir(graph, time_steps=9)(images(net)).shape == (9, 7, CLASSES)


def test_the_portable_form() -> None:
    """NIR's equations with forward Euler are ours, and `w_in` and `r` leave no factor behind."""
    net = network(neuron=layers.lif.Neuron(4.0, 2.5, 0.9))
    graph = to_nir(net)
    node = graph.nodes["conv1_neurons"]
    assert node.tau_syn.shape == (5, 7, 9)
    values = {"tau_syn": 2.5e-4, "tau_mem": 4e-4, "r": 4.0, "w_in": 2.5, "v_threshold": 0.9}
    for name, value in (values | {"v_leak": 0, "v_reset": 0}).items():
        np.testing.assert_allclose(getattr(node, name), value)
    weight = net.spiking_layers[0].connection.weight.detach().double().numpy()
    np.testing.assert_allclose(graph.nodes["conv1"].weight, weight / 2.5)
    assert graph.nodes["conv1"].weight.dtype == np.float64
    flatten = graph.nodes["flatten1"]
    assert (flatten.start_dim, flatten.end_dim) == (-3, -1)
    assert [name for name in graph.nodes if name in ("input", "output")] == ["input", "output"]


def test_pooling_is_folded_where_that_is_exact() -> None:
    kinds = {}
    for kind in ("padded pooling", "ragged and padded", "ragged pooling"):
        for fold in (True, False):
            graph = to_nir(NETWORKS[kind](), fold_pooling=fold)
            kinds[kind, fold] = [type(one).__name__ for one in graph.nodes.values()]
    assert kinds["padded pooling", True].count("SumPool2d") == 0
    assert kinds["padded pooling", False].count("SumPool2d") == 1
    assert kinds["ragged and padded", True].count("SumPool2d") == 1  # or the border would count
    assert kinds["ragged pooling", True].count("SumPool2d") == 0
    conv = to_nir(NETWORKS["padded pooling"]()).nodes["conv2"]
    assert conv.weight.shape[-2:] == (6, 6)
    assert (conv.stride, conv.padding) == ((2, 2), (2, 2))


def test_metadata_say_how_to_read_the_output(tmp_path: Path) -> None:
    told = {"mean": (0.1, 0.2), "command": "tsslbp train mnist", "test_accuracy": 0.99}
    graph = through_file(to_nir(network(), metadata=told), tmp_path)
    found = graph.metadata
    assert found["time_steps"] == 5 and found["classes"] == CLASSES and found["dt"] == 1e-4
    assert "sum over time of the PSC" in found["prediction"]
    assert "tau_s = 3 time steps; not the class with the most spikes" in found["prediction"]
    assert found["mean"].tolist() == [0.1, 0.2] and found["test_accuracy"] == 0.99
    assert found["command"] == told["command"] and found["network"] == "5C3-P2-13"
    logits = to_nir(normalised()).metadata["prediction"]
    assert logits == "the class with the largest output summed over time"


def test_a_changed_file_comes_in_as_it_is_now() -> None:
    """The current values of an edited file count, not what its metadata say."""
    graph, x = to_nir(network()), images(network())
    before = from_nir(graph)(x)
    conv = graph.nodes["conv1_neurons"]
    conv.v_threshold = conv.v_threshold * 2
    module = from_nir(graph)
    assert isinstance(module, nn.Sequential) and not torch.equal(module(x), before)
    graph = to_nir(network())
    graph.nodes["linear2"].weight[0, 0] += 1  # one pixel of a window
    module = from_nir(graph)
    assert isinstance(module, nn.Sequential)
    assert module.linear2.weight.shape == (13, 5 * 7 * 9)


REFUSED = {
    "neuron normalisation.*: module 'neunorm1'": lambda: network(neunorm=True),
    "maximum pooling .MaxPool.: module '2'": lambda: custom(
        *(layers.Conv(2, 3, 3), LIF(time_steps=5), layers.MaxPool(2), nn.Flatten(-3)),
        layers.Linear(3 * 3 * 4, CLASSES),
    ),
    "BatchNorm can only .*: module '0'": lambda: custom(
        *(layers.BatchNorm(2), nn.Flatten(-3), layers.Linear(198, CLASSES), LIF(time_steps=5))
    ),
    "a module of type torch.nn.GELU .*: module '1.1'": lambda: custom(
        nn.Flatten(-3),
        nn.Sequential(layers.Linear(198, CLASSES), nn.GELU()),
        LIF(time_steps=5),
    ),
    "neurons of module '1' must directly follow a connection": lambda: custom(
        *(nn.Flatten(-3), LIF(time_steps=5), layers.Linear(198, CLASSES))
    ),
    "neurons in module '2' return a PSC": lambda: custom(
        *(nn.Flatten(-3), layers.Linear(198, 5), LIF(time_steps=5, output_psc=True)),
        layers.Linear(5, CLASSES),
    ),
    "without groups, but module '0' has 2": lambda: custom(
        *(layers.Conv(2, 4, 9, groups=2), LIF(time_steps=5), nn.Flatten(-3)),
        layers.Linear(4 * 3, CLASSES),
    ),
    "factor 0.0625 of the last pooling": lambda: custom(
        *(layers.Conv(2, 3, 6), LIF(time_steps=5), layers.AvgPool(4), nn.Flatten(-3))
    ),
    "module '2' takes the mean over images of 7 x 9": lambda: custom(
        *(layers.Conv(2, 4, 3), LIF(time_steps=5), layers.AvgPool(), nn.Flatten(-3)),
        layers.Linear(4, CLASSES),
    ),
    "the two branches of module '2'": lambda: custom(
        *(nn.Flatten(-3), layers.Linear(198, CLASSES), layers.Residual(nn.Identity())),
        *(layers.Linear(CLASSES, CLASSES), LIF(time_steps=5)),
    ),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_nir_cannot_hold_is_named(message: str) -> None:
    net = REFUSED[message]()
    with pytest.raises(InvalidInput, match=message) as caught:
        to_nir(net)
    assert "\n" not in str(caught.value)


def test_vgg_is_refused_by_its_pooling_alone() -> None:
    net = CustomNetwork(models.vgg((2, 8, 8), 3, 4, channels=[(4,)], hidden=[5]), (2, 8, 8), 3, 4)
    with pytest.raises(InvalidInput, match="maximum pooling"):
        to_nir(net)


def test_only_networks_have_a_graph() -> None:
    for other in (nn.Linear(3, 4), None):
        with pytest.raises(InvalidInput, match=f"CustomNetwork, got {type(other).__name__}"):
            to_nir(other)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"time_steps": 7}, "must not contain time_steps, which the export writes itself"),
        ({"dt": 1, "input": ""}, "must not contain dt, input"),
        ({"labels": torch.ones(2)}, "but labels is not: Object of type Tensor"),
        ({3: "three"}, "names in metadata must be text, got 3"),
    ],
)
def test_metadata_that_would_mislead(metadata: Any, message: str) -> None:
    """Metadata must be storable and must not replace entries that `from_nir` relies on."""
    with pytest.raises(InvalidInput, match=message):
        to_nir(network("13"), metadata=metadata)


def test_names_that_a_file_cannot_hold(tmp_path: Path) -> None:
    """Names lose slashes, which are folders in HDF5, and avoid NIR's own `input` and `output`."""
    parts = {"in/out": nn.Flatten(-3), "output": layers.Linear(198, 4), "b c": LIF(time_steps=5)}
    module = nn.Sequential()
    for name, part in (parts | {"forward_": layers.Linear(4, CLASSES)}).items():
        module.add_module(name, part)
    net = CustomNetwork(module, SHAPE, CLASSES, 5).eval()
    graph = through_file(to_nir(net), tmp_path)
    assert {"in_out", "linear_output", "b_c", "forward_"} < set(graph.nodes)
    x = images(net)
    assert net(x).any() and torch.equal(from_nir(graph)(x), net(x))


@pytest.mark.parametrize("fold", [True, False])
def test_branches_behind_one_flatten(fold: bool, tmp_path: Path) -> None:
    """Both branches share the nodes of pooling and Flatten, and each applies the factor."""

    def branch(tau_s: float) -> nn.Module:
        return nn.Sequential(layers.Linear(3 * 3 * 4, 5), LIF(2.0, tau_s, 0.4))

    net = custom(
        *(layers.Conv(2, 3, 3), LIF(2.0, 2.0, 0.5, time_steps=5, pool=2, pool_scale=1.1)),
        *(nn.Flatten(-3), layers.Residual(branch(2.0), branch(1.0)), layers.Linear(5, CLASSES)),
    )
    graph, x = through_file(to_nir(net, fold_pooling=fold), tmp_path), images(net)
    kinds = [type(one).__name__ for one in graph.nodes.values()]
    assert kinds.count("Flatten") == kinds.count("SumPool2d") == 1
    assert net(x).any() and torch.equal(from_nir(graph)(x), net(x))
    with quiet():
        torch.testing.assert_close(run(snntorch(graph), x, 5), net(x), rtol=0, atol=1e-5)


# Files of peers


def snntorch_net(conv: bool) -> nn.Module:
    """Return a snnTorch network, with constants in the neurons' shape, as its export requires."""
    snn = pytest.importorskip("snntorch", reason=MISSING)

    def constants(*shape: int, **values: float) -> dict[str, Any]:
        settings = {"init_hidden": True, "reset_mechanism": "zero", "reset_delay": False}
        return settings | {name: torch.full(shape, value) for name, value in values.items()}

    shape = (4, 5, 6) if conv else (17,)
    first = snn.Synaptic(**constants(*shape, alpha=0.6, beta=0.75, threshold=0.4))
    last = snn.Leaky(**constants(5, beta=0.9, threshold=0.7))
    if not conv:
        return nn.Sequential(nn.Linear(13, 17), first, nn.Linear(17, 5, bias=False), last)
    return nn.Sequential(
        *(nn.Conv2d(2, 4, 3, stride=2, padding=1), first, nn.AvgPool2d(2)),
        *(nn.Flatten(), nn.Linear(4 * 2 * 3, 5), last),
    )


@pytest.mark.parametrize("conv", [False, True])
def test_a_file_of_snntorch(conv: bool, tmp_path: Path) -> None:
    net = snntorch_net(conv)
    export = pytest.importorskip("snntorch.export_nir", reason=MISSING).export_to_nir
    x = 2 * (normal(4, *SHAPE) if conv else normal(4, 13))
    with quiet():
        nir.write(tmp_path / "peer.nir", export(net, x[:1], ignore_dims=[0]))
        theirs = run(net, x, 20)
    module = from_nir(tmp_path / "peer.nir", time_steps=20)
    assert isinstance(module, nn.Sequential)
    assert theirs.any() and torch.equal(module(x), theirs)
    assert torch.equal(from_nir(tmp_path / "peer.nir")(x.expand(20, *x.shape)), theirs)


def test_a_file_of_norse(tmp_path: Path) -> None:
    peer = pytest.importorskip("norse.torch", reason=MISSING)

    def neurons(tau_m: float, threshold: float) -> nn.Module:
        rate, level = torch.tensor(1 / tau_m), torch.tensor(threshold)
        return peer.LIFBoxCell(peer.LIFBoxParameters(tau_mem_inv=rate, v_th=level), dt=1.0)

    parts = [nn.Linear(13, 17), neurons(5.0, 0.2), nn.Linear(17, 5, bias=False), neurons(2.0, 0.1)]
    net, x = peer.SequentialState(*parts), 2 * normal(4, 13)
    with quiet():
        graph = peer.to_nir(net, x, dt=0.001)
        nir.write(tmp_path / "peer.nir", graph, compression=None)  # scalars cannot be compressed
        theirs = run(net, x, 20)
    for source in (tmp_path / "peer.nir", graph):  # the graph itself holds tensors
        module = from_nir(source, dt=0.001, time_steps=20)
        assert theirs.any() and torch.equal(module(x), theirs)


def test_a_file_of_spikingjelly(tmp_path: Path) -> None:
    peer = "spikingjelly.activation_based"
    exchange = pytest.importorskip(f"{peer}.nir_exchange", reason=MISSING)
    neuron = pytest.importorskip(f"{peer}.neuron", reason=MISSING)
    layer = pytest.importorskip(f"{peer}.layer", reason=MISSING)
    net = nn.Sequential(
        *(layer.Linear(13, 17), neuron.LIFNode(tau=4.0, decay_input=False)),
        *(layer.Linear(17, 5), neuron.LIFNode(tau=2.0, v_threshold=0.5)),
    )
    x = 3 * normal(4, 13)
    with quiet():
        exchange.export_to_nir(net, x[:1], save_path=str(tmp_path / "peer.nir"))
        theirs = run(net, x, 20)
    module = from_nir(tmp_path / "peer.nir", time_steps=20)
    assert theirs.any() and torch.equal(module(x), theirs)


def test_a_recurrent_file_of_snntorch_is_refused(tmp_path: Path) -> None:
    snn = pytest.importorskip("snntorch", reason=MISSING)
    export = pytest.importorskip("snntorch.export_nir", reason=MISSING).export_to_nir
    net = nn.Sequential(nn.Linear(3, 4), snn.RLeaky(beta=0.9, linear_features=4, init_hidden=True))
    with quiet():
        nir.write(tmp_path / "peer.nir", export(net, torch.zeros(1, 3), ignore_dims=[0]))
    with pytest.raises(InvalidInput, match=r"'1.lif' is part of a recurrent"):
        from_nir(tmp_path / "peer.nir")


# Foreign graphs


def lif(count: int = 4, **changed: float) -> Any:
    values = {"tau": 5e-4, "r": 5.0, "v_leak": 0.0, "v_threshold": 1.0, "v_reset": 0.0} | changed
    return nir.LIF(**{key: np.full(count, value) for key, value in values.items()})


def graph_of(*nodes: Any, inputs: tuple[int, ...] = (3,)) -> Any:
    names = ["input", *(f"node{index}" for index in range(len(nodes))), "output"]
    ends = nir.Input({"input": np.array(inputs)}), nir.Output({"output": np.array([1])})
    every = dict(zip(names, [ends[0], *nodes, ends[1]], strict=True))
    return nir.NIRGraph(every, list(pairwise(names)), type_check=False)


LINEAR = nir.Linear(np.ones((4, 3)))


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([nir.IF(np.ones(3), np.ones(3))], "node0': IF, neurons without a leak"),
        ([nir.Delay(np.ones(3))], "cannot represent node 'node0': Delay"),
        ([graph_of(LINEAR)], "'node0': NIRGraph, a graph within the graph"),
        ([LINEAR, lif(v_leak=0.1)], "'node1' must have v_leak = 0"),
        ([LINEAR, lif(v_reset=-0.1)], "'node1' must have v_reset = 0"),
        ([LINEAR, lif(tau=5e-5)], "'node1' with dt = 0.0001 s: tau_m must be at least 1"),
        ([lif(3, r=1.0)], "'node0' multiplies its input by 0.2, but no connection"),
        (
            [nir.Conv2d((4, 4), np.ones((1, 1, 2, 3)), 1, 0, 1, 1, np.zeros(1))],
            "'node0' must have a square kernel, got 2 x 3",
        ),
        ([nir.AvgPool2d(np.array([2, 2]), np.array([1, 1]), np.array([0, 0]))], "windows overlap"),
        ([nir.SumPool2d(np.array([2, 3]), np.array([2, 3]), np.array([0, 0]))], "several values"),
        ([nir.Flatten({"input": None}, 1, -1)], "'node0' flattens dimensions 1 to 2"),
        ([nir.Linear(np.ones((4, 7)))], "'node0' has 7 inputs, but receives .* shape .3."),
        ([nir.Linear(np.full((4, 3), np.nan))], "'node0' must have finite real numbers as weight"),
        ([nir.Linear(np.full((4, 3), 1j))], "'node0' must have finite real numbers as weight"),
        ([nir.Affine(np.ones((4, 3)), np.ones(5))], "'node0' must have a bias of .4., got .* .5."),
        ([LINEAR, lif(5)], "'node1' has constants of shape .5., but receives .* shape .4."),
        (
            [nir.Conv2d((4, 4), np.ones((2, 3, 3, 3)), 1, 0, 1, 1, np.zeros(2))],
            "'node0' has 3 input channels .* images of shape .1, 4, 4.",
        ),
        (
            [nir.Conv2d((4, 4), np.ones((2, 1, 5, 5)), 1, 0, 1, 1, np.zeros(2))],
            "a kernel of 5 x 5, but receives images of shape .1, 4, 4.",
        ),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)
def test_what_layers_cannot_hold_is_named(nodes: list[Any], message: str) -> None:
    flat = isinstance(nodes[0], nir.Linear | nir.Affine | nir.LIF)
    shape = (3,) if flat else (1, 4, 4)
    with pytest.raises(InvalidInput, match=message) as caught:
        from_nir(graph_of(*nodes, inputs=shape))
    assert "\n" not in str(caught.value)


def test_neurons_of_several_thresholds_are_refused() -> None:
    node = lif()
    node.v_threshold[1] = 2
    with pytest.raises(InvalidInput, match="'node1' has several values of v_threshold"):
        from_nir(graph_of(LINEAR, node))


def test_signals_that_cannot_be_added_and_edges_from_nowhere() -> None:
    graph = graph_of(LINEAR, nir.Linear(np.ones((5, 3))), lif())
    graph.edges[:] = [("input", "node0"), ("input", "node1"), ("node2", "output")]
    graph.edges += [("node0", "node2"), ("node1", "node2")]
    with pytest.raises(InvalidInput, match="'node2' adds signals of different shapes: 4 and 5"):
        from_nir(graph)
    graph.edges.append(("node9", "node2"))
    with pytest.raises(InvalidInput, match="from 'node9' to 'node2', but no node 'node9'"):
        from_nir(graph)


def test_groups_come_in() -> None:
    weight, x = normal(4, 1, 3, 3), normal(5, 2, 2, 4, 4)
    node = nir.Conv2d((4, 4), weight.numpy(), 1, 1, 1, 2, np.zeros(4))
    expected = nn.functional.conv2d(x.flatten(0, 1), weight, padding=1, groups=2)
    module = from_nir(graph_of(node, inputs=(2, 4, 4)))
    torch.testing.assert_close(module(x).flatten(0, 1), expected)


def test_nodes_called_like_methods_of_modules() -> None:
    for names in (["forward", "keys"], ["training", "a.b"]):
        ends = nir.Input({"input": np.array([3])}), nir.Output({"output": np.array([4])})
        every = dict(
            zip(["input", *names, "output"], [ends[0], LINEAR, lif(), ends[1]], strict=True)
        )
        chain = nir.NIRGraph(every, list(pairwise(every)), type_check=False)
        assert from_nir(chain)(torch.ones(5, 2, 3)).any()
        chain.edges.append((names[0], "output"))
        assert isinstance(from_nir(chain), Branching)


def test_a_cycle_is_refused() -> None:
    graph = graph_of(LINEAR, lif(), nir.Linear(np.ones((4, 4))))
    graph.edges.append(("node2", "node1"))
    with pytest.raises(InvalidInput, match="'node1' is part of a recurrent connection"):
        from_nir(graph)


def test_paddings_by_name() -> None:
    for padding, sides in {"same": 6, "valid": 2}.items():
        node = nir.Conv2d((6, 6), np.ones((1, 1, 3, 3)), 1, padding, 2, 1, np.zeros(1))
        module = from_nir(graph_of(node, inputs=(1, 6, 6)))
        assert module(torch.ones(2, 1, 1, 6, 6)).shape[-2:] == (sides, sides)


@pytest.mark.parametrize("dt", [0.0, -1.0, float("nan"), "1e-4"])
def test_dt_is_checked(dt: float) -> None:
    with pytest.raises(InvalidInput, match="dt must be a positive"):
        from_nir(graph_of(LINEAR), dt=dt)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*missing.nir"):
        from_nir(tmp_path / "missing.nir")
    with pytest.raises(DataError, match="as a NIR file: it is a folder"):
        from_nir(tmp_path)
    nir.write(tmp_path / "node.nir", LINEAR)
    with pytest.raises(DataError, match="a single node of type Linear, not a graph"):
        from_nir(tmp_path / "node.nir")
    with pytest.raises(InvalidInput, match=r"path of a NIR file or a nir\.NIRGraph, got Linear"):
        from_nir(LINEAR)
    graph = graph_of(LINEAR)
    graph.metadata["time_steps"] = 2.5
    with pytest.raises(InvalidInput, match=r"time_steps must be a whole number .* got 2\.5"):
        from_nir(graph)
    (tmp_path / "text.nir").write_text("no HDF5")
    with pytest.raises(DataError, match=r"cannot read .*text.nir as a NIR file"):
        from_nir(tmp_path / "text.nir")


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "nir", None)
    for call in (lambda: to_nir(network()), lambda: from_nir("net.nir")):
        with pytest.raises(
            InvalidInput,
            match=r"NIR needs nir, which is not installed: pip install 'tsslbp\[exchange\]'",
        ):
            call()
