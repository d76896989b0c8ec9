"""What a network costs on an image: neurons, parameters, operations, energy, layer by layer.

`cost` counts them, and the same network's with ReLU in the place of the neurons.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any, TypeGuard, final

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.weak import WeakTensorKeyDictionary

from ..errors import InvalidInput
from ..layers import (
    LIF,
    AvgPool,
    BatchNorm,
    Conv,
    Linear,
    MaxPool,
    NeuNorm,
    NeuronDropout,
    RowDropout,
    SumPool,
    fold_batch_norms,
)
from ..network import CustomNetwork, Model, Network, SpikingLayer
from ..network.network import check_images
from ..neuron import NeuronLayer
from .energy import MEMORIES, SOURCE, TABLES, Operations

Connection = Conv | Linear | nn.Conv2d | nn.Linear
PASSING = (
    nn.Identity,
    nn.Flatten,
    nn.Dropout,
    MaxPool,
    NeuronDropout,
    RowDropout,
)  # a spike on as it is
LISTENED = (LIF, BatchNorm, NeuNorm, SumPool, AvgPool, *PASSING)
FRAMES = 200  # images times steps that are counted at once
ROUNDING = 1e-5  # relative, of a sum of scaled spikes in float32
ADDITION, MULTIPLICATION, STATE = 3, 2, 2  # accesses: weight, sum twice; two factors; read, write


@final
@dataclass(frozen=True)
class LayerCost:
    """What a layer costs: a connection, and what follows until the next one.

    Attributes:
        name: the connection's, as in the keys of the network's state; of all layers, ``"total"``.
        neurons: spiking ones.
        parameters: numbers that are trained, batch normalisation folded into its connection.
        bytes: that they take, as they are stored.
        dense_multiplications: multiply-adds of one pass, every input being taken for nonzero.
            Zeros of the padding are not multiplied.
        spikes: that its neurons emit on an image, over all steps.
        spiking: operations of the spiking network on an image, over all steps.
        relu: those of the same connection with ReLU behind it, on the image, once.
    """

    name: str
    neurons: int
    parameters: int
    bytes: int
    dense_multiplications: int
    spikes: float
    spiking: Operations
    relu: Operations

    def __add__(self, other: LayerCost) -> LayerCost:
        return LayerCost(
            self.name,
            self.neurons + other.neurons,
            self.parameters + other.parameters,
            self.bytes + other.bytes,
            self.dense_multiplications + other.dense_multiplications,
            self.spikes + other.spikes,
            self.spiking + other.spiking,
            self.relu + other.relu,
        )


@final
@dataclass(frozen=True)
class Cost:
    """What a network costs on an image, as the mean over `images`."""

    images: int
    time_steps: int
    layers: tuple[LayerCost, ...]  # in the order in which they are called

    @property
    def total(self) -> LayerCost:
        nothing = Operations()
        return sum(self.layers, LayerCost("total", 0, 0, 0, 0, 0.0, nothing, nothing))

    def to_table(self) -> dict[str, Any]:
        """All of it as JSON takes it, with the energies by table and memory, in picojoules.

        ``"energy"`` has for each of `tsslbp.analysis.energy.TABLES` the spiking network's and that
        with ReLU: ``"connections"``, ``"neurons"``, and under ``"memory"`` what accesses to each
        kind of memory take in addition.
        """
        total = self.total
        energy = {
            name: {
                kind: asdict(one.energy(table))
                | {"memory": {place: one.energy(table, place).memory for place in MEMORIES}}
                for kind, one in (("spiking", total.spiking), ("relu", total.relu))
            }
            for name, table in TABLES.items()
        }
        layers = [asdict(layer) for layer in self.layers]
        counted = {"images": self.images, "time_steps": self.time_steps}
        return (
            counted
            | {"layers": layers, "total": asdict(total), "energy": energy}
            | {"energy_source": SOURCE}
        )


@torch.no_grad()
def cost(net: Model, images: Tensor) -> Cost:
    """Count what a network's layers do on images, event by event.

    A layer is a connection with all that follows until the next one. By layer, summed over the T
    steps, and as the mean over the images:

    - A spike is added to each neuron that it reaches: ``additions = sum_i spikes_i fan_out_i``,
      where ``fan_out_i`` is the number of nonzero weights from input i to an output that exists. At
      the border of an image it is smaller; stride, dilation and groups count as they are.
    - A sum of n spikes, as sum pooling, average pooling and `tsslbp.layers.Residual` make it,
      counts as the n spikes that it stands for, since its factor can be part of the weights.
    - A static image is multiplied, once: ``multiplications = dense_multiplications``.
    - Other signals of real numbers, as NeuNorm makes them or recordings hold them, are multiplied
      at every step where they are not zero, by the same fan-out.
    - A bias is one addition an output and step. A `BatchNorm` behind a connection is folded into it
      (`tsslbp.layers.fold_batch_norms`); elsewhere it is one multiplication a value. NeuNorm adds
      every spike once and multiplies at each position once a map and once for its own decay.
    - A neuron is updated at every step, whether it receives spikes or not:
      ``updates = neurons T``, with a multiply-add for each decay that is not 0, those of the
      membrane (``tau_m > 1``), of the synapse (``tau_s > 1``), and of an output layer's PSC.
    - Memory is taken to be read at every use, without any cache: ``accesses`` is 1 for each spike
      that arrives, 3 an addition (the weight; the sum, read and written), 2 a multiplication, 1 for
      each output of multiplications, and 2 for each decaying state and update.

    The same network with ReLU takes ``dense_multiplications`` once, and its biases. Pooling, ReLU
    and comparisons with the threshold count as nothing.

    Not to be confused with `tsslbp.training.cost.estimate`, the time that a training takes.

    Args:
        net: a `tsslbp.Network` or `tsslbp.network.CustomNetwork`; it stays as it is. A module of
            one's own may hold what `tsslbp.layers` has, `nn.Linear` and `nn.Conv2d`.
        images: normalised ``[N, C, H, W]``, or spike trains ``[T, N, C, H, W]``, on its device.

    Raises:
        InvalidInput: there are no images, they do not fit, or a part of the network is unknown.

    Source: Yik et al., "The NeuroBench framework for benchmarking neuromorphic computing algorithms
    and systems" (Nature Communications 2025) for effective operations, which a test compares. It
    counts a pooled sum as a multiplication. Rueckauer et al. (Frontiers in Neuroscience 2017) for
    additions as spikes times fan-out.
    """
    if not isinstance(net, Network | CustomNetwork):
        raise InvalidInput(
            f"cost expected a tsslbp.Network or CustomNetwork, got {type(net).__name__}"
        )
    dtypes = (weight.dtype for weight in net.parameters())
    dtype = next(dtypes, torch.get_default_dtype())
    check_images(images, net.input_shape, net.time_steps, dtype)
    is_static = images.ndim == 4
    count = images.shape[0 if is_static else 1]
    if not count:
        raise InvalidInput("cost needs at least one image")
    inference = fold_batch_norms(net)
    tally = Tally()
    size = max(1, FRAMES // net.time_steps)
    for part in (slice(start, start + size) for start in range(0, count, size)):
        batch = images[part] if is_static else images[:, part]
        tally.begin(batch.shape[0 if is_static else 1])
        if isinstance(inference, Network):
            _walk(inference, batch, tally)
        elif isinstance(inference, CustomNetwork):
            _listen(inference, batch, tally)
    return Cost(count, net.time_steps, tuple(tally.layers()))


@final
class Tally:
    """Sums of what layers did on all images so far, by the layers' names."""

    def __init__(self) -> None:
        self.images = 0
        self._batch, self._has_fired = 0, False  # images under way, and whether any layer fired
        self._sums: dict[str, Counter[str]] = {}
        self._known: dict[str, set[nn.Module]] = {}  # whose parameters are counted
        self._name = ""

    def begin(self, images: int) -> None:
        """The next batch."""
        self.images += images
        self._batch, self._has_fired, self._name = images, False, ""

    def connect(self, name: str, connection: Connection, x: Tensor, unit: float | None) -> None:
        """A connection receives `x`, of which a spike is `unit`, or None where that is unknown.

        An image is the same at every step; behind neurons there is none. Time may be folded into
        the batch.
        """
        self._name = name
        self._own(connection)
        size = 1 if isinstance(connection, Linear | nn.Linear) else 3
        values = x.detach().reshape(-1, *x.shape[x.ndim - size :])
        is_image = len(values) == self._batch and x.ndim in (2, 4) and not self._has_fired
        images = self._batch
        dense, outputs = _dense(connection, values[:1].double())
        sums = self._sums[name]
        sums["dense"] += images * dense
        if is_image:
            sums["multiplications"] += images * dense
            sums["accesses"] += images * (MULTIPLICATION * dense + outputs)
        elif (spikes := _spikes(values, unit)) is not None:
            additions = _products(connection, spikes.sum(0, dtype=torch.float64))
            sums["additions"] += additions
            received = int(spikes.sum(dtype=torch.float64))
            sums["accesses"] += received + ADDITION * additions
        else:
            products = _products(connection, (values != 0).sum(0, dtype=torch.float64))
            sums["multiplications"] += products
            sums["accesses"] += MULTIPLICATION * products + len(values) * outputs
        biases = 0 if connection.bias is None else outputs
        sums["additions"] += len(values) * biases
        sums["accesses"] += len(values) * ADDITION * biases
        sums["relu_additions"] += images * biases
        sums["relu_accesses"] += images * (MULTIPLICATION * dense + outputs + ADDITION * biases)

    def fire(self, neurons: NeuronLayer, spikes: Tensor) -> None:
        """Neurons of the layer emit `spikes` ``[T, N, ...]``, before their pooling."""
        constants, sums, self._has_fired = neurons.neuron, self._sums[self._name], True
        filters = constants.tau_s > 1
        decays = (constants.tau_m > 1) + filters + (filters and neurons.output_psc)
        sums["neurons"] += spikes[0].numel()
        sums["updates"] += spikes.numel()
        sums["decays"] += decays * spikes.numel()
        sums["accesses"] += STATE * decays * spikes.numel()
        sums["spikes"] += int(spikes.sum(dtype=torch.float64))

    def normalise(self, name: str, norm: BatchNorm | NeuNorm, x: Tensor) -> None:
        """A normalisation that stays receives `x`; it belongs to the layer before it."""
        self._name = self._name or name
        self._own(norm)
        sums, products = self._sums[self._name], x.numel()
        if isinstance(norm, NeuNorm):
            products += x.numel() // x.shape[2]
            added = int((x != 0).sum())
            sums["additions"] += added
            sums["accesses"] += ADDITION * added
        sums["multiplications"] += products
        sums["accesses"] += MULTIPLICATION * products

    def own(self, name: str, module: nn.Module) -> None:
        """The parameters of a module belong to the layer under way, or else to its own."""
        self._name = self._name or name
        self._own(module)

    def layers(self) -> Iterator[LayerCost]:
        for name, sums in self._sums.items():
            each = {key: value / self.images for key, value in sums.items()}
            whole = {key: round(each.get(key, 0)) for key in ("neurons", "dense")}
            parameters = {one for module in self._known[name] for one in module.parameters()}
            yield LayerCost(
                name,
                whole["neurons"],
                sum(one.numel() for one in parameters),
                sum(one.numel() * one.element_size() for one in parameters),
                whole["dense"],
                each.get("spikes", 0.0),
                Operations(
                    each.get("multiplications", 0.0),
                    each.get("additions", 0.0),
                    each.get("updates", 0.0),
                    each.get("decays", 0.0),
                    each.get("accesses", 0.0),
                ),
                Operations(
                    multiplications=float(whole["dense"]),
                    additions=each.get("relu_additions", 0.0),
                    accesses=each.get("relu_accesses", 0.0),
                ),
            )

    def _own(self, module: nn.Module) -> None:
        self._sums.setdefault(self._name, Counter())
        self._known.setdefault(self._name, set()).add(module)


def _walk(net: Network, x: Tensor, tally: Tally) -> None:
    """Count what the layers of a network do on images `x`."""
    time_steps = net.time_steps if x.ndim == 4 else None
    unit: float | None = None
    for name, layer in net.named_layers():
        if isinstance(layer, SpikingLayer):
            tally.connect(name, layer.connection, x, unit)
            spikes = layer.spikes(layer.current(x, time_steps))
            tally.fire(layer.neurons, spikes)
            x, time_steps = layer.passed_on(spikes), None
            unit = layer.neurons.pool_scale if layer.neurons.pool > 1 else 1.0
            continue
        if isinstance(layer, NeuNorm):
            tally.normalise(name, layer, x)
        unit = _unit_behind(layer, unit, x)
        x = layer(x)


def _listen(net: CustomNetwork, x: Tensor, tally: Tally) -> None:
    """Count what the modules of a network of one's own do on images `x`."""
    units = WeakTensorKeyDictionary()  # of signals: what a spike is
    with ExitStack() as stack:
        for path, part in net.module.named_modules():
            _check_known(path, part)

            def hook(part: Any, given: Any, named: Any, output: Any, path: str = path) -> None:
                x = (*given, *named.values())[0]
                unit = units.get(x, units.get(x._base) if x._base is not None else None)
                if _is_connection(part):
                    tally.connect(path, part, x, unit)
                elif isinstance(part, LIF):
                    tally.own(path, part)
                    tally.fire(part.neurons, part.spikes(x))
                    if not part.start.output_psc:
                        units[output] = part.start.pool_scale if part.start.pool > 1 else 1.0
                elif isinstance(part, BatchNorm | NeuNorm):
                    tally.normalise(path, part, x)
                elif output is not x and (behind := _unit_behind(part, unit, x)) is not None:
                    units[output] = behind

            if _is_connection(part) or isinstance(part, LISTENED):
                stack.callback(part.register_forward_hook(hook, with_kwargs=True).remove)
        net(x)


def _is_connection(module: nn.Module) -> TypeGuard[Connection]:
    return isinstance(module, Connection)


def _check_known(path: str, part: nn.Module) -> None:
    """Raise `InvalidInput` where a module has parameters of its own and is none that is counted."""
    own = list(part.parameters(recurse=False))
    known = _is_connection(part) or isinstance(part, LIF | BatchNorm | NeuNorm)
    padded = getattr(part, "padding_mode", "zeros") != "zeros"
    if (own and not known) or padded:
        kind = f"{type(part).__name__} with other padding than zeros" if padded else type(part)
        name = kind if isinstance(kind, str) else kind.__name__
        raise InvalidInput(
            f"cost cannot count what {path or 'the network'} does, a {name}: it knows the modules "
            "of tsslbp.layers, nn.Linear and nn.Conv2d"
        )


def _unit_behind(module: nn.Module, unit: float | None, x: Tensor) -> float | None:
    """What a spike of `x` is behind a module without weights; None where that is unknown."""
    if unit is None:
        return None
    if isinstance(module, SumPool):
        return unit * module.scale
    if isinstance(module, AvgPool):
        window = math.prod(x.shape[-2:]) if module.is_global else module.size**2
        return unit / window
    return unit if isinstance(module, PASSING) else None


def _spikes(x: Tensor, unit: float | None) -> Tensor | None:
    """The number of spikes behind each value of a signal; None where they are real numbers.

    They are spikes where all are whole multiples of `unit`; by default of the smallest of them.
    """
    sizes = x.abs()
    if unit is None:
        nonzero = sizes[sizes > 0]
        unit = float(nonzero.min()) if len(nonzero) else 1.0
    counts = (sizes / unit).round()
    is_whole = (counts * unit).sub_(sizes).abs_() <= ROUNDING * sizes
    return counts if is_whole.all() else None


def _products(connection: Connection, values: Tensor, dense: bool = False) -> int:
    """``sum_i values_i fan_out_i`` of values ``[C, H, W]`` or ``[features]``, float64, whole.

    Without the weights that are zero, unless `dense`.
    """
    weight = connection.weight.detach()
    kept = (torch.ones_like(weight) if dense else weight != 0).double()
    if isinstance(connection, Linear | nn.Linear):
        return int(values @ kept.sum(0))
    # A window adds up to the same over all outputs of a group: one output stands for them.
    groups = connection.groups
    window = kept.view(groups, -1, *kept.shape[1:]).sum(1)
    return int(_convolved(connection, values[None], window).sum())


def _dense(connection: Connection, one: Tensor) -> tuple[int, int]:
    """Multiply-adds for an input of the shape ``[1, ...]`` of `one`, and its outputs."""
    products = _products(connection, torch.ones_like(one[0]), dense=True)
    if isinstance(connection, Linear | nn.Linear):
        return products, len(connection.weight)
    pixels = _convolved(connection, one, connection.weight.detach()[: connection.groups].double())
    return products, len(connection.weight) * math.prod(pixels.shape[-2:])


def _convolved(connection: Conv | nn.Conv2d, images: Tensor, weight: Tensor) -> Tensor:
    names = ("stride", "padding", "dilation", "groups")
    settings: list[Any] = [getattr(connection, name) for name in names]
    return functional.conv2d(images, weight, None, *settings)
