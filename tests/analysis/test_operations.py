"""Tests of the cost of a network against products counted one by one and closed forms."""

import itertools
import math
from dataclasses import FrozenInstanceError, asdict

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tsslbp import TSSLBP, Network, Neuron
from tsslbp.analysis import cost, energy
from tsslbp.analysis.operations import Cost, LayerCost
from tsslbp.errors import InvalidInput
from tsslbp.layers import (
    LIF,
    AvgPool,
    BatchNorm,
    Conv,
    Linear,
    MaxPool,
    NeuNorm,
    Residual,
    SumPool,
)
from tsslbp.models import sew_resnet
from tsslbp.network import CustomNetwork, Model


def products(connection: nn.Module, x: Tensor, dense: bool = False) -> int:
    """Return the sum of `x` over all pairs of an input `[..., C, H, W]` and a nonzero weight."""
    weight = connection.weight.detach().numpy()
    if weight.ndim == 2:
        total = 0
        for frame in x.reshape(-1, weight.shape[1]).round().long().tolist():
            for row in weight:
                total += sum(value for value, w in zip(frame, row, strict=True) if dense or w)
        return total
    stride, padding, dilation, groups = (
        value[0] if isinstance(value := getattr(connection, name), tuple) else value
        for name in ("stride", "padding", "dilation", "groups")
    )
    outputs, inputs, kernel, _ = weight.shape
    frames = x.reshape(-1, *x.shape[-3:]).round().long().numpy()
    _, _, height, width = frames.shape
    reach = dilation * (kernel - 1)
    rows = range(0, height + 2 * padding - reach, stride)
    columns = range(0, width + 2 * padding - reach, stride)
    total = 0
    for c, top, left, i, k, m in itertools.product(
        range(outputs), rows, columns, range(inputs), range(kernel), range(kernel)
    ):
        y, z = top + k * dilation - padding, left + m * dilation - padding
        if 0 <= y < height and 0 <= z < width and (dense or weight[c, i, k, m]):
            channel = c // (outputs // groups) * inputs + i
            total += int(frames[:, channel, y, z].sum())
    return total


def pooled(spikes: Tensor, size: int) -> Tensor:
    """Return the number of spikes in each whole window."""
    height, width = (side // size for side in spikes.shape[-2:])
    cut = spikes[..., : height * size, : width * size]
    return cut.unflatten(-1, (width, size)).unflatten(-3, (height, size)).sum((-3, -1))


def images(*shape: int, seed: int = 0) -> Tensor:
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pruned(net: nn.Module) -> None:
    """Set some weights to zero: they are not multiplied."""
    generator = torch.Generator().manual_seed(1)
    for weight in net.parameters():
        if weight.ndim > 1:
            weight.data[torch.rand(weight.shape, generator=generator) < 0.3] = 0


def made(description: str, shape: tuple[int, ...], steps: int, **more: object) -> Network:
    generator = torch.Generator().manual_seed(0)
    return Network(description, shape, 3, steps, generator=generator, **more).eval()


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("padding", [(0, 0), (1, 0), (2, 1)])
def test_additions_are_the_products_of_spikes(steps: int, padding: tuple[int, int]) -> None:
    sensitive = Neuron(threshold=0.2)
    more = {"padding": padding, "neuron": sensitive, "weight_scale": 2.0}
    net = made("3C3-P2-4C2-5", (2, 7, 6), steps, **more)
    x = images(3, 2, 7, 6)
    pruned(net)
    found = cost(net, x)
    trains = {name: trace.spikes for name, trace in net.trace(x).items()}
    received = [x[:1], pooled(trains["conv1"], 2), trains["conv2"], trains["linear3"]]
    assert steps < 5 or all(spikes.any() for spikes in trains.values())
    connections = [layer.connection for layer in net.spiking_layers]
    parts = zip(found.layers, connections, received, net.neuron_counts.items(), strict=True)
    for index, (layer, connection, spikes, (name, neurons)) in enumerate(parts):
        ones = torch.ones_like(spikes.reshape(-1, *spikes.shape[2 - (index == 0) :])[:1])
        assert layer.name == name and layer.neurons == neurons
        assert layer.parameters == connection.weight.numel()
        assert layer.bytes == 4 * layer.parameters
        assert layer.dense_multiplications == products(connection, ones, dense=True)
        assert layer.spikes == pytest.approx(trains[name].sum().item() / 3)
        assert layer.spiking.updates == steps * neurons
        assert layer.spiking.update_multiplications == (2 + (name == "output")) * steps * neurons
        if index:
            assert layer.spiking.additions == pytest.approx(products(connection, spikes) / 3)
            assert layer.spiking.multiplications == 0
        else:
            assert layer.spiking.additions == 0
            assert layer.spiking.multiplications == layer.dense_multiplications


@pytest.mark.parametrize(
    ("stride", "padding", "dilation", "groups"),
    [(1, 0, 1, 1), (2, 1, 1, 1), (1, 2, 2, 1), (2, 3, 2, 3), (3, 4, 1, 3), (2, 0, 3, 1)],
)
@pytest.mark.parametrize("kind", ["ours", "torch"])
def test_border_effects_are_exact(
    stride: int, padding: int, dilation: int, groups: int, kind: str
) -> None:
    settings = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    connection: nn.Module
    if kind == "ours":
        connection = Conv(3, 6, 3, bias=True, **settings)
    else:
        connection = nn.Conv2d(3, 6, 3, **settings)

    class Folded(nn.Module):
        """Module that moves time into the batch, since `nn.Conv2d` has no dimension for time."""

        def __init__(self) -> None:
            super().__init__()
            self.connection = connection
            self.first, self.lif = LIF(threshold=0.3, time_steps=4), LIF()

        def forward(self, x: Tensor) -> Tensor:
            spikes = self.first(x)
            out = self.connection(spikes.flatten(0, 1)).unflatten(0, (4, -1))
            return self.lif(out).flatten(2)

    module, x = Folded(), images(2, 3, 7, 9).abs()
    pruned(module)
    outputs = module(x).shape[-1]
    net = CustomNetwork(module, (3, 7, 9), outputs, 4)
    spikes = module.first(x)
    _, layer = cost(net, x).layers
    assert layer.name == "connection" and layer.neurons == outputs
    expected = products(connection, spikes) / 2 + 4 * outputs  # and the biases
    assert layer.spiking.additions == pytest.approx(expected)
    dense = products(connection, torch.ones(1, 3, 7, 9), dense=True)
    assert layer.dense_multiplications == dense == layer.relu.multiplications
    assert layer.relu.additions == outputs


def test_sums_count_by_spikes() -> None:
    """Spikes that are pooled, added or flattened in any way still need no multiplication."""

    class Twice(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(-3)  # a view that no module makes

    def body() -> nn.Sequential:
        return nn.Sequential(Conv(4, 4, 3, padding=1), LIF(threshold=0.2))

    residual = Residual(body())
    parts = {
        "first": nn.Sequential(Conv(1, 4, 3), LIF(threshold=0.2, time_steps=3)),
        "residual": residual,
        "sum": nn.Sequential(SumPool(2, 1.1), Conv(4, 4, 2), LIF(threshold=0.2)),
        "average": nn.Sequential(AvgPool(2), Conv(4, 4, 2), LIF(threshold=0.2)),
        "inside": nn.Sequential(
            Conv(4, 4, 1), LIF(threshold=0.2, pool=2, pool_scale=0.7), Conv(4, 4, 1), LIF()
        ),
    }
    module = nn.Sequential(*parts.values(), nn.Flatten(-3), Linear(4, 3))
    net, x = CustomNetwork(module, (1, 16, 16), 3, 3), 3 * images(2, 1, 16, 16)
    seen: dict[str, tuple[nn.Module, Tensor]] = {}
    for path, part in module.named_modules():
        if isinstance(part, Conv | Linear):
            part.weight.data.abs_()

            def hook(module: nn.Module, given: tuple[Tensor, ...], _: object, path=path) -> None:
                seen[path] = module, given[0]

            part.register_forward_hook(hook)
    module(x)
    units = {"2.1": 1.1, "3.1": 0.25, "4.2": 0.7}
    layers = {layer.name: layer for layer in cost(net, x).layers}
    assert layers.keys() == seen.keys()
    for path, (connection, given) in list(seen.items())[1:]:
        spikes = given / units.get(path, 1.0)
        assert torch.allclose(spikes, spikes.round(), atol=1e-4) and spikes.any(), path
        assert layers[path].spiking.multiplications == 0
        assert layers[path].spiking.additions == pytest.approx(products(connection, spikes) / 2)
    assert seen["2.1"][1].max() > 1.2 and seen["1.body.0"][1].max() == 1
    assert (seen["2.1"][1] / 1.1).max() > 1.5  # windows with several spikes
    flat = nn.Sequential(nn.Flatten(-3), Linear(36, 4), LIF(0.9 + 1, time_steps=3), Linear(4, 3))
    assert len(cost(CustomNetwork(flat, (1, 6, 6), 3, 3), images(2, 1, 6, 6)).layers) == 2
    viewed = nn.Sequential(
        Conv(1, 4, 3),
        LIF(threshold=0.2, time_steps=3, pool=2, pool_scale=1.1),
        Twice(),
        Linear(196, 3),
    )
    _, last = cost(CustomNetwork(viewed, (1, 16, 16), 3, 3), x).layers
    assert last.spiking.multiplications == 0 and last.spiking.additions > 0


def test_saturated_windows_count_all_their_spikes() -> None:
    """All spikes count even if every window holds four, so that none shows a single spike."""
    net, x = made("2C1-P2-3", (1, 4, 4), 3, neuron=Neuron(threshold=0.1)), torch.ones(1, 1, 4, 4)
    net.spiking_layers[0].connection.weight.data.fill_(5.0)
    found = cost(net, x)
    assert found.layers[0].spikes == 3 * 32
    assert found.layers[1].spiking.additions == 3 * 32 * 3


def test_recordings_are_added_or_multiplied() -> None:
    """Events and their counts are spikes; other numbers are multiplied where they are not zero."""
    net = made("4C3-5", (2, 5, 5), 4)
    connection = net.spiking_layers[0].connection
    counts = torch.randint(0, 3, (4, 3, 2, 5, 5), generator=torch.Generator().manual_seed(0))
    first = cost(net, counts.float()).layers[0].spiking
    assert first.additions == pytest.approx(products(connection, counts.float()) / 3)
    assert first.multiplications == 0
    real = counts * torch.rand(4, 3, 2, 5, 5)
    first = cost(net, real).layers[0].spiking
    assert first.additions == 0
    expected = products(connection, (real != 0).float()) / 3
    assert first.multiplications == pytest.approx(expected)


def test_neunorm_makes_real_numbers() -> None:
    net, x = made("4C3-5", (1, 6, 6), 5, neunorm=True), images(2, 1, 6, 6)
    norm = next(layer for layer in net.layers if isinstance(layer, NeuNorm))
    silent = cost(net, x)  # its weights are zero: spikes pass as they are
    norm.weight.data.fill_(0.3)
    conv, linear, _ = cost(net, x).layers
    spikes = net.trace(x)["conv1"].spikes
    assert conv.parameters == 36 + 64
    assert conv.spiking.additions == spikes.sum().item() / 2
    assert conv.spiking.multiplications == conv.dense_multiplications + 5 * (64 + 16)
    assert linear.spiking.additions == 0
    with torch.no_grad():
        signal = norm(spikes).flatten(-3)
    expected = int((signal != 0).sum()) * 5 / 2
    assert linear.spiking.multiplications == expected
    assert silent.layers[1].spiking.multiplications == 0 != silent.layers[1].spiking.additions


def test_batch_normalisation_is_folded() -> None:
    module = sew_resnet((1, 8, 8), 3, 2, channels=(4, 6), blocks=1)
    net, x = CustomNetwork(module, (1, 8, 8), 3, 2), images(4, 1, 8, 8)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    found = cost(net.train(), x)
    assert net.training and all(torch.equal(before[key], net.state_dict()[key]) for key in before)
    assert [layer.name for layer in found.layers] == [
        *("0", "3.body.0", "3.body.3", "4.body.0", "4.body.3", "4.shortcut.0", "7")
    ]
    assert found.layers[0].parameters == 4 * 9 + 4  # 4 biases from the folded normalisation
    assert found.layers[0].spiking.additions == 4 * 64  # biases are added once for a static image
    assert found.layers[0].spiking.multiplications == found.layers[0].dense_multiplications
    alone = nn.Sequential(BatchNorm(1), Conv(1, 3, 3), LIF(time_steps=2), nn.Flatten(-3))
    first, conv = cost(CustomNetwork(alone, (1, 4, 4), 12, 2), images(3, 1, 4, 4)).layers
    assert (first.name, first.spiking.multiplications, first.parameters) == ("0", 16, 2)
    assert conv.neurons == 12


def test_learned_constants_and_arguments_by_name() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.connection = Linear(9, 4)
            self.lif = LIF(5.0, 1.5, 0.1, learnable=["tau_m", "tau_s"], time_steps=3)

        def forward(self, images: Tensor) -> Tensor:
            return self.lif(self.connection(x=images.flatten(1)))

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Named()

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(images=x)

    (layer,) = cost(CustomNetwork(Outer(), (1, 3, 3), 4, 3), images(2, 1, 3, 3)).layers
    assert (layer.name, layer.parameters, layer.neurons) == ("inner.connection", 36 + 2, 4)
    assert layer.spiking.update_multiplications == 2 * 3 * 4 and layer.spikes > 0


def test_maximum_of_spikes_is_a_spike() -> None:
    module = nn.Sequential(
        Conv(1, 2, 1), LIF(threshold=0.1, time_steps=2), MaxPool(2), Conv(2, 3, 1), nn.Flatten(-3)
    )
    module[0].weight.data.fill_(5.0)
    _, last = cost(CustomNetwork(module, (1, 4, 4), 12, 2), torch.ones(1, 1, 4, 4)).layers
    assert last.spiking.additions == 2 * 2 * 4 * 3


def test_decays_of_the_neurons() -> None:
    for constants, hidden, output in [
        (Neuron(5.0, 3.0), 2, 3),
        (Neuron(5.0, 1.0), 1, 1),
        (Neuron(1.0, 3.0), 1, 2),
        (Neuron(1.0, 1.0), 0, 0),
    ]:
        net = made("7", (1, 4, 4), 3, neuron=constants, rule=TSSLBP())
        first, last = cost(net, images(2, 1, 4, 4)).layers
        assert first.spiking.update_multiplications == hidden * 3 * 7
        assert last.spiking.update_multiplications == output * 3 * 3
        assert first.spiking.updates == 3 * 7


def test_silence_costs_the_updates_alone() -> None:
    net = made("5-4", (1, 3, 3), 6)
    found = cost(net, torch.zeros(2, 1, 3, 3))
    total = found.total
    assert total.spikes == 0 == total.spiking.additions
    assert total.spiking.multiplications == 45 and total.spiking.updates == 6 * 12
    assert total.spiking.accesses == 2 * 45 + 5 + 2 * (2 * 6 * 9 + 3 * 6 * 3)


def test_accesses_and_energy() -> None:
    net, x = made("6-4", (1, 3, 3), 5), 3 * images(2, 1, 3, 3)
    found = cost(net, x)
    first, second, _ = found.layers
    assert second.spiking.accesses == pytest.approx(
        first.spikes + 3 * 4 * first.spikes + 2 * 2 * second.spiking.updates
    )
    assert first.spikes > 0 and second.relu.accesses == 2 * 24 + 4
    done = found.total.spiking
    one = done.energy()
    assert one.connections == pytest.approx(4.6 * done.multiplications + 0.9 * done.additions)
    assert one.neurons == pytest.approx(4.6 * done.update_multiplications)
    assert one.memory == 0 and one.total == one.connections + one.neurons
    int8 = energy.TABLES["int8"]
    far = done.energy(int8, "DRAM")
    assert far.memory == pytest.approx(1300 * done.accesses / 8)
    assert far.connections == pytest.approx(0.23 * done.multiplications + 0.03 * done.additions)
    assert done.traffic(int8) == done.accesses and done.traffic() == 4 * done.accesses
    half = energy.table_of("float16")
    assert (half.multiply_add, half.add, half.bits) == (1.5, 0.4, 16)
    relu = found.total.relu
    assert relu.energy().total == pytest.approx(4.6 * (9 * 6 + 6 * 4 + 4 * 3))


def test_total_and_table() -> None:
    found = cost(made("6-4", (1, 3, 3), 5), images(7, 1, 3, 3))
    assert isinstance(found, Cost) and isinstance(found.total, LayerCost)
    assert (found.images, found.time_steps, found.total.name) == (7, 5, "total")
    for key in ("neurons", "parameters", "bytes", "dense_multiplications", "spikes"):
        assert getattr(found.total, key) == sum(getattr(one, key) for one in found.layers)
    table = found.to_table()
    assert table["total"] == asdict(found.total) and len(table["layers"]) == 3
    spiking = table["energy"]["float32"]["spiking"]
    energies = found.total.spiking.energy(memory="8KB")
    assert spiking["connections"] == energies.connections
    assert spiking["memory"]["8KB"] == energies.memory
    assert table["energy"].keys() == energy.TABLES.keys()
    with pytest.raises(FrozenInstanceError):
        found.images = 1  # type: ignore[misc]


def test_mean_over_batches() -> None:
    """With more images than one batch, each image has the same weight."""
    net, x = made("6-4", (1, 3, 3), 100), 3 * images(23, 1, 3, 3)
    whole = cost(net, x)
    parts = [cost(net, one[None]) for one in x]
    for key in ("additions", "accesses", "updates"):
        mean = np.mean([getattr(one.total.spiking, key) for one in parts])
        assert getattr(whole.total.spiking, key) == pytest.approx(mean)
    assert whole.total.neurons == parts[0].total.neurons
    assert math.isclose(whole.total.spikes, sum(one.total.spikes for one in parts) / 23)


def test_a_connection_that_is_called_twice_has_its_parameters_once() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.connection, self.neurons = Linear(9, 9), LIF(threshold=0.2, time_steps=3)
            self.output = Linear(9, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.neurons(self.connection(x.flatten(1)))
            return self.output(self.neurons(self.connection(x)))

    layer, _ = cost(CustomNetwork(Twice(), (1, 3, 3), 2, 3), images(2, 1, 3, 3)).layers
    assert (layer.parameters, layer.neurons, layer.dense_multiplications) == (81, 18, 162)


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (nn.LayerNorm(9), "cost cannot count the operations of 1, a LayerNorm"),
        (nn.Sequential(nn.Unflatten(-1, (1, 3, 3)), nn.Flatten(-3), nn.PReLU()), "a PReLU"),
    ],
)
def test_unknown_parts_are_named(module: nn.Module, words: str) -> None:
    net = nn.Sequential(nn.Flatten(-3), module, LIF(time_steps=2), Linear(9, 2))
    with pytest.raises(InvalidInput, match=words):
        cost(CustomNetwork(net, (1, 3, 3), 2, 2), images(2, 1, 3, 3))


def test_what_cannot_be_counted() -> None:
    net = made("5", (1, 3, 3), 2)
    with pytest.raises(InvalidInput, match="Network or CustomNetwork, got Model"):
        cost(Model(), images(2, 1, 3, 3))
    with pytest.raises(InvalidInput, match="at least one image"):
        cost(net, images(0, 1, 3, 3))
    with pytest.raises(InvalidInput, match=r"expected images \[N, 1, 3, 3\]"):
        cost(net, images(2, 1, 3, 4))
    with pytest.raises(InvalidInput, match=r"got 'DRAN' .did you mean 'DRAM'"):
        cost(net, images(2, 1, 3, 3)).total.spiking.energy(memory="DRAN")
    with pytest.raises(InvalidInput, match=r"got 'float23' .did you mean 'float32'"):
        energy.table_of("float23")
    circular = nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular")
    module = nn.Sequential(circular, LIF(time_steps=2), nn.Flatten(-3))
    with pytest.raises(InvalidInput, match="non-zero padding mode"):
        cost(CustomNetwork(module, (1, 3, 3), 18, 2), images(2, 1, 3, 3))
