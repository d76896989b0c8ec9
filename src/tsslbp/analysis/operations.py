"""The cost of a network per image: neurons, parameters, operations and energy, layer by layer.

`cost` counts them, also for the same network with ReLU instead of the neurons.
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
)  # pass a spike on unchanged
LISTENED = (LIF, BatchNorm, NeuNorm, SumPool, AvgPool, *PASSING)
FRAMES = 200  # images times steps that are counted at once
ROUNDING = 1e-5  # relative error of a sum of scaled spikes in float32
ADDITION, MULTIPLICATION, STATE = 3, 2, 2  # accesses: weight, sum twice; two factors; read, write


@final
@dataclass(frozen=True)
class LayerCost:
    """Cost of a layer: a connection and everything up to the next one.

    Attributes:
        name: name of the connection in the network's state; ``"total"`` for all layers together.
        neurons: number of spiking neurons.
        parameters: number of trained parameters; batch normalisation is folded into its connection.
        bytes: bytes of the parameters as stored.
        dense_multiplications: multiply-adds of one pass if every input is nonzero. Zeros of the
            padding are not multiplied.
        spikes: spikes that its neurons emit for an image, over all steps.
        spiking: operations of the spiking network for an image, over all steps.
        relu: operations of the same connection with ReLU after it, for one pass over the image.
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
    """Cost of a network per image, as the mean over `images`."""

    images: int
    time_steps: int
    layers: tuple[LayerCost, ...]  # in the order in which they are called

    @property
    def total(self) -> LayerCost:
        """The sums over all layers."""
        nothing = Operations()
        return sum(self.layers, LayerCost("total", 0, 0, 0, 0, 0.0, nothing, nothing))

    def to_table(self) -> dict[str, Any]:
        """Return all values for JSON, with the energies by table and memory, in picojoules.

        ``"energy"`` has, for each of `tsslbp.analysis.energy.TABLES`, the energy of the spiking
        network and of that with ReLU: ``"connections"``, ``"neurons"``, and in ``"memory"`` the
        additional energy of the accesses for each kind of memory.
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
    """Count the operations of a network's layers on images, event by event.

    A layer is a connection with everything up to the next one. Per layer, summed over the T steps
    and averaged over the images:

    - A spike is added to each neuron that it reaches: ``additions = sum_i spikes_i fan_out_i``,
      where ``fan_out_i`` is the number of nonzero weights from input i to existing outputs. It is
      smaller at the border of an image; stride, dilation and groups are taken into account.
    - A sum of n spikes, as produced by sum pooling, average pooling and `tsslbp.layers.Residual`,
      counts as n spikes, since its factor can be merged into the weights.
    - A static image is multiplied once: ``multiplications = dense_multiplications``.
    - Other real-valued signals, such as those of NeuNorm or of recordings, are multiplied at every
      step where they are not zero, with the same fan-out.
    - A bias is one addition per output and step. A `BatchNorm` after a connection is folded into it
      (`tsslbp.layers.fold_batch_norms`); elsewhere it is one multiplication per value. NeuNorm adds
      every spike once, and per position multiplies once per map and once for its own decay.
    - A neuron is updated at every step, even if it receives no spikes: ``updates = neurons T``,
      with a multiply-add for each decay that is not 0: those of the membrane (``tau_m > 1``), of
      the synapse (``tau_s > 1``), and of an output layer's PSC.
    - Every use of a number is assumed to access memory, without a cache: ``accesses`` is 1 per
      spike that arrives, 3 per addition (the weight; the sum, read and written), 2 per
      multiplication, 1 per output of multiplications, and 2 per decaying state and update.

    The same network with ReLU takes ``dense_multiplications`` once, and its biases. Pooling, ReLU
    and comparisons with the threshold are not counted.

    Not to be confused with `tsslbp.training.cost.estimate`, the time of a training.

    Args:
        net: a `tsslbp.Network` or `tsslbp.network.CustomNetwork`; it is not changed. A custom
            module may contain the modules of `tsslbp.layers`, `nn.Linear` and `nn.Conv2d`.
        images: normalised ``[N, C, H, W]``, or spike trains ``[T, N, C, H, W]``, on its device.

    Raises:
        InvalidInput: there are no images, they are invalid, or a part of the network is unknown.

    Source: Yik et al., "The NeuroBench framework for benchmarking neuromorphic computing algorithms
    and systems" (Nature Communications 2025) for effective operations, with which a test compares
    them; NeuroBench counts a pooled sum as a multiplication. Rueckauer et al. (Frontiers in
    Neuroscience 2017) for additions as spikes times fan-out.
    """
    if not isinstance(net, Network | CustomNetwork):
        raise InvalidInput(
            f"cost expects a tsslbp.Network or CustomNetwork, got {type(net).__name__}"
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
    """Sums of the layers' operations on all images so far, by layer name."""

    def __init__(self) -> None:
        self.images = 0
        self._batch, self._has_fired = 0, False  # images in this batch; whether a layer has fired
        self._sums: dict[str, Counter[str]] = {}
        self._known: dict[str, set[nn.Module]] = {}  # modules whose parameters are counted
        self._name = ""

    def begin(self, images: int) -> None:
        """Start the next batch."""
        self.images += images
        self._batch, self._has_fired, self._name = images, False, ""

    def connect(self, name: str, connection: Connection, x: Tensor, unit: float | None) -> None:
        """Count a connection that receives `x`, in which a spike has the value `unit`, if known.

        An image is the same at every step; after neurons there is none. Time may be folded into
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
        """Count neurons of the layer that emit `spikes` ``[T, N, ...]``, before their pooling."""
        constants, sums, self._has_fired = neurons.neuron, self._sums[self._name], True
        filters = constants.tau_s > 1
        decays = (constants.tau_m > 1) + filters + (filters and neurons.output_psc)
        sums["neurons"] += spikes[0].numel()
        sums["updates"] += spikes.numel()
        sums["decays"] += decays * spikes.numel()
        sums["accesses"] += STATE * decays * spikes.numel()
        sums["spikes"] += int(spikes.sum(dtype=torch.float64))

    def normalise(self, name: str, norm: BatchNorm | NeuNorm, x: Tensor) -> None:
        """Count a normalisation that is not folded; it belongs to the layer before it."""
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
        """Assign the parameters of a module to the current layer, or else to its own layer."""
        self._name = self._name or name
        self._own(module)

    def layers(self) -> Iterator[LayerCost]:
        """Yield every layer's cost per image, in the order in which they are first called."""
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
    """Count the operations of a network's layers on images `x`."""
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
    """Count the operations of a custom network's modules on images `x`."""
    units = WeakTensorKeyDictionary()  # by signal: the value of a spike
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
    """Raise `InvalidInput` if a module has parameters of its own but cannot be counted."""
    own = list(part.parameters(recurse=False))
    known = _is_connection(part) or isinstance(part, LIF | BatchNorm | NeuNorm)
    padded = getattr(part, "padding_mode", "zeros") != "zeros"
    if (own and not known) or padded:
        kind = f"{type(part).__name__} with non-zero padding mode" if padded else type(part)
        name = kind if isinstance(kind, str) else kind.__name__
        raise InvalidInput(
            f"cost cannot count the operations of {path or 'the network'}, a {name}: it supports "
            "the modules of tsslbp.layers, nn.Linear and nn.Conv2d"
        )


def _unit_behind(module: nn.Module, unit: float | None, x: Tensor) -> float | None:
    """Return the value of a spike after a module without weights; None if unknown."""
    if unit is None:
        return None
    if isinstance(module, SumPool):
        return unit * module.scale
    if isinstance(module, AvgPool):
        window = math.prod(x.shape[-2:]) if module.is_global else module.size**2
        return unit / window
    return unit if isinstance(module, PASSING) else None


def _spikes(x: Tensor, unit: float | None) -> Tensor | None:
    """Return the number of spikes in each value of a signal; None if they are real numbers.

    They are spikes if all values are whole multiples of `unit`, by default of the smallest one.
    """
    sizes = x.abs()
    if unit is None:
        nonzero = sizes[sizes > 0]
        unit = float(nonzero.min()) if len(nonzero) else 1.0
    counts = (sizes / unit).round()
    is_whole = (counts * unit).sub_(sizes).abs_() <= ROUNDING * sizes
    return counts if is_whole.all() else None


def _products(connection: Connection, values: Tensor, dense: bool = False) -> int:
    """Return ``sum_i values_i fan_out_i``; whole values ``[C, H, W]`` or ``[features]``, float64.

    Weights that are zero are excluded, unless `dense`.
    """
    weight = connection.weight.detach()
    kept = (torch.ones_like(weight) if dense else weight != 0).double()
    if isinstance(connection, Linear | nn.Linear):
        return int(values @ kept.sum(0))
    # The sum over a window is the same for all outputs of a group, so one output represents them.
    groups = connection.groups
    window = kept.view(groups, -1, *kept.shape[1:]).sum(1)
    return int(_convolved(connection, values[None], window).sum())


def _dense(connection: Connection, one: Tensor) -> tuple[int, int]:
    """Return the multiply-adds for an input ``[1, ...]`` shaped like `one`, and its outputs."""
    products = _products(connection, torch.ones_like(one[0]), dense=True)
    if isinstance(connection, Linear | nn.Linear):
        return products, len(connection.weight)
    pixels = _convolved(connection, one, connection.weight.detach()[: connection.groups].double())
    return products, len(connection.weight) * math.prod(pixels.shape[-2:])


def _convolved(connection: Conv | nn.Conv2d, images: Tensor, weight: Tensor) -> Tensor:
    names = ("stride", "padding", "dilation", "groups")
    settings: list[Any] = [getattr(connection, name) for name in names]
    return functional.conv2d(images, weight, None, *settings)
