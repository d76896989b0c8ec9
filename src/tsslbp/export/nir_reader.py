"""`from_nir`: converts a graph of the Neuromorphic Intermediate Representation to a network."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
from torch import Tensor, nn

from ..checked import check_whole
from ..errors import DataError, Error, InvalidInput, require
from ..layers import LIF, AvgPool, Conv, Linear, SumPool
from ..network import Network, plan
from ..neuron import Neuron
from ..reading import check_claim, check_plain, parse_json
from ..rules import TSSLBP, Rule, from_config
from .nir_writer import DT, NETWORK, OUTPUT, POOL, POOL_SCALE, Array, spread

if TYPE_CHECKING:
    from nir import NIRGraph

CLOSE = 1e-5  # relative tolerance for constants that float32 has rounded
CONNECTIONS = ("Conv2d", "Linear", "Affine")
NEURONS = ("LIF", "CubaLIF")

Shape = tuple[int, ...] | None  # of one sample at one step; None: unknown


def from_nir(
    source: str | Path | NIRGraph,
    *,
    dt: float = DT,
    time_steps: int | None = None,
    rule: Rule | None = None,
) -> Network | nn.Module:
    """Read a network from a NIR file or graph, of this or another library, under forward Euler.

    A `Network` that `to_nir` wrote is returned as such, with weights that are identical to the last
    bit. Any other network becomes a module of `tsslbp.layers`: an `nn.Sequential` or, if the graph
    branches, a `Branching` module, which adds signals that meet. Nodes may be Affine, Linear,
    Conv2d, LIF, CubaLIF (with ``v_leak = v_reset = 0`` and the same constants for all neurons of a
    node), SumPool2d, AvgPool2d and Flatten. Factors that NIR has before the current, ``w_in`` and
    ``r dt / tau``, are merged into the weights before the neurons.

    Args:
        source: path of the file, or the graph.
        dt: seconds per time step, by which the graph's time constants are divided: 1e-4 for files
            of this library, snnTorch and SpikingJelly. For Norse it is the ``dt`` of the cells
            divided by that of the export, since its time constants are in that unit.
        time_steps: T, for static images; by default that of the file, if it has one. Otherwise the
            module accepts only signals with time.
        rule: learning rule of the neurons; by default that of the file, if it has one, or
            `TSSLBP`.

    Returns:
        A network that maps signals ``[T, N, ...]``, or static ones ``[N, ...]``, to spikes
        ``[T, N, ...]``; to PSCs, if `to_nir` wrote a network that ends in those; or to the outputs
        of the last connection.

    Raises:
        InvalidInput: the package ``nir`` is not installed, or `tsslbp.layers` cannot represent a
            node, which the message names.
        DataError: the file cannot be read.
    """
    require("NIR needs", "exchange", "nir")
    graph = _read(Path(source)) if isinstance(source, str | Path) else source
    if type(graph).__name__ != "NIRGraph":
        raise InvalidInput(
            f"expected the path of a NIR file or a nir.NIRGraph, got {type(graph).__name__}"
        )
    metadata = dict(graph.metadata)
    with _naming("the graph's metadata"):
        recorded = _recorded(metadata)
        if time_steps is None and "time_steps" in metadata:
            time_steps = check_whole("time_steps", metadata["time_steps"])
        if rule is None:
            rule = from_config(recorded["rule"]) if recorded else TSSLBP()
    with _naming("the graph"):
        reader = _Reader(graph, dt, time_steps, rule)
    for name in reader.order:
        with _naming(f"node {name!r}"):
            reader.read(name, metadata.get(OUTPUT) == "psc")
    with _naming("the graph's metadata"):
        net = reader.network(recorded) if recorded else None
    return net or reader.module()


@contextmanager
def _naming(what: str) -> Iterator[None]:
    """Raise `InvalidInput` that names a part of a graph if its values have unexpected types.

    A file may hold anything under any name.
    """
    try:
        yield
    except Error:
        raise
    except (ArithmeticError, AttributeError, LookupError, MemoryError) as error:
        raise InvalidInput(f"{what} cannot be read: {type(error).__name__}: {error}") from error
    except (RuntimeError, TypeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise InvalidInput(f"{what} cannot be read: {reason}") from error


def _recorded(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of `Network` that `to_nir` has written; empty for other graphs."""
    if NETWORK not in metadata:
        return {}
    text = metadata[NETWORK]
    recorded = parse_json(text if isinstance(text, bytes) else str(text).encode())
    if not isinstance(recorded, dict):
        raise ValueError(f"{NETWORK} is not a table")
    return recorded


@final
class Branching(nn.Module):
    """Modules whose signals branch and meet again, where they are added.

    Args:
        parts: modules by name, each after all those from which it receives signals.
        sources: by name of a part, the names of these; ``""`` is the module's input.
        ends: names of the parts whose outputs are added to give the module's output.
    """

    def __init__(
        self,
        parts: Mapping[str, nn.Module],
        sources: Mapping[str, Sequence[str]],
        ends: Sequence[str],
    ) -> None:
        super().__init__()
        self.parts = nn.ModuleDict(dict(parts))
        self.sources = {name: tuple(names) for name, names in sources.items()}
        self.ends = tuple(ends)

    def forward(self, x: Tensor) -> Tensor:
        signals = {"": x}
        for name, part in self.parts.items():
            signals[name] = part(_sum([signals[one] for one in self.sources[name]]))
        return _sum([signals[one] for one in self.ends])


def _sum(signals: Sequence[Tensor]) -> Tensor:
    first, *others = signals
    for other in others:
        first = first + other
    return first


class _Reader:
    """Builds modules from a graph's nodes, each after those from which it receives signals."""

    def __init__(self, graph: NIRGraph, dt: float, time_steps: int | None, rule: Rule) -> None:
        if isinstance(dt, str) or not (math.isfinite(dt) and dt > 0):
            raise InvalidInput(f"dt must be a positive number of seconds, got {dt!r}")
        self.nodes: dict[str, Any] = graph.nodes
        self.dt, self.time_steps, self.rule = dt, time_steps, rule
        self.kinds = {name: type(node).__name__ for name, node in self.nodes.items()}
        self.before: dict[str, list[str]] = {name: [] for name in self.nodes}
        self.behind: dict[str, list[str]] = {name: [] for name in self.nodes}
        for one, other in dict.fromkeys(map(tuple, graph.edges)):
            if unknown := {one, other} - self.nodes.keys():
                raise InvalidInput(
                    f"the graph has an edge from {one!r} to {other!r}, but no node {min(unknown)!r}"
                )
            self.before[other].append(one)
            self.behind[one].append(other)
        self.input, self.output = self._only("Input"), self._only("Output")
        self.order = self._sorted()
        self.parts: dict[str, nn.Module] = {}
        self.connections: list[Conv | Linear] = []
        self.shapes: dict[str, Shape] = {self.input: _shape_of(self.nodes[self.input])}

    def read(self, name: str, ends_in_psc: bool) -> None:
        """Build the module of a node; those before it have been built."""
        node, kind = self.nodes[name], self.kinds[name]
        shape = self._received(name)
        if kind == "Conv2d":
            part, shape = self._conv(name, node, shape)
        elif kind in CONNECTIONS:
            part, shape = self._linear(name, node, shape), (len(node.weight),)
        elif kind in NEURONS:
            _check_neurons(name, node, shape)
            part = self._neurons(name, node, ends_in_psc and self.output in self.behind[name])
        elif kind in ("SumPool2d", "AvgPool2d"):
            part, shape = self._pool(name, node, kind, shape)
        elif kind == "Flatten":
            part, shape = _flatten(name, node, shape)
        else:
            raise InvalidInput(_refusal(name, kind))
        self.parts[name], self.shapes[name] = part, shape

    def module(self) -> nn.Module:
        """Return a sequence if each part takes the output of the one before, else `Branching`."""
        self._received(self.output)
        names = {name: _module_name(name) for name in self.order} | {self.input: ""}
        if len(set(names.values())) < len(names):
            raise InvalidInput(
                "two nodes of the graph would have the same name in a module, where dots become "
                "underscores: rename one of them"
            )
        parts = {names[name]: part for name, part in self.parts.items()}
        chain = [self.input, *self.order, self.output]
        if all(self.before[name] == [chain[i]] for i, name in enumerate(chain[1:])):
            sequence = nn.Sequential()
            for name, part in parts.items():
                sequence.add_module(name, part)
            return sequence.eval()
        sources = {names[name]: [names[one] for one in self.before[name]] for name in self.order}
        ends = [names[one] for one in self.before[self.output]]
        return Branching(parts, sources, ends).eval()

    def network(self, recorded: dict[str, Any]) -> Network | None:
        """Return the `Network` that was written; None if nodes have changed since."""
        neurons = {part.start.neuron for part in self.parts.values() if isinstance(part, LIF)}
        if len(neurons) != 1:
            return None
        changed = {"rule": self.rule, "time_steps": self.time_steps}
        layers = ("description", "input_shape", "classes", "padding")
        described = plan(**{key: recorded[key] for key in layers if key in recorded})
        if sum(one.parameters for one in described) > sum(
            one.weight.numel() for one in self.connections
        ):
            return None
        net = Network(**recorded | changed, neuron=neurons.pop())
        connections = [layer.connection for layer in net.spiking_layers]
        shapes = [[one.weight.shape for one in each] for each in (connections, self.connections)]
        if shapes[0] != shapes[1] or any(one.bias is not None for one in self.connections):
            return None
        for connection, found in zip(connections, self.connections, strict=True):
            connection.load_state_dict(found.state_dict())
        return net.eval()

    def _only(self, kind: str) -> str:
        found: list[str] = [name for name, one in self.kinds.items() if one == kind]
        if len(found) != 1:
            raise InvalidInput(f"expected a graph with one {kind} node, got {len(found)}")
        return found[0]

    def _received(self, name: str) -> Shape:
        """Return the shape of the signals that a node receives and adds; None if unknown."""
        shapes = {self.shapes[one] for one in self.before[name]} - {None}
        if len(shapes) > 1:
            texts = sorted(" x ".join(map(str, one or ())) for one in shapes)
            raise InvalidInput(
                f"node {name!r} adds signals of different shapes: {' and '.join(texts)}"
            )
        return shapes.pop() if shapes else None

    def _sorted(self) -> list[str]:
        """Return the nodes between Input and Output, each after those that feed it."""
        order, ends = [self.input], (self.input, self.output)
        left = [name for name in self.nodes if name not in ends]
        while left:
            ready = [name for name in left if set(self.before[name]) <= set(order)]
            if not ready:
                raise InvalidInput(
                    f"node {left[0]!r} is part of a recurrent connection, which a module of "
                    "tsslbp.layers cannot represent"
                )
            order.append(ready[0])
            left.remove(ready[0])
        for name in [*order[1:], self.output]:
            if not self.before[name]:
                raise InvalidInput(f"node {name!r} has no input")
        return order[1:]

    def _conv(self, name: str, node: Any, shape: Shape) -> tuple[nn.Module, Shape]:
        weight = _numbers(name, "weight", node.weight, 4)
        side, groups = weight.shape[-1], int(node.groups)
        if weight.shape[-2] != side:
            raise InvalidInput(
                f"node {name!r} must have a square kernel, got {weight.shape[-2]} x {side}"
            )
        stride, dilation = _one(name, "stride", node.stride), _one(name, "dilation", node.dilation)
        padding = _padding(name, node, stride, dilation, side)
        beyond = 2 * padding - dilation * (side - 1) - 1
        sides = [(one + beyond) // stride + 1 for one in (shape or ())[1:]]
        channels = weight.shape[1] * groups
        if shape is not None and len(shape) == 3 and (shape[0] != channels or min(sides) < 1):
            raise InvalidInput(
                f"node {name!r} has {channels} input channels and a kernel of {side} x {side}, but "
                f"receives images of shape {list(shape)}"
            )
        pool = int(node.metadata.get(POOL, 1))
        whole = not (side % pool or stride % pool or padding % pool)
        if pool > 1 and whole and np.array_equal(spread(weight[..., ::pool, ::pool], pool), weight):
            weight, stride, padding = weight[..., ::pool, ::pool], stride // pool, padding // pool
        else:
            pool = 1
        conv = Conv(
            *(channels, len(weight), weight.shape[-1]),
            **{"stride": stride, "padding": padding, "dilation": dilation, "groups": groups},
            bias=bool(np.any(np.asarray(node.bias))),
        )
        self._fill(name, node, conv, weight, pool)
        part = conv if pool == 1 else nn.Sequential(SumPool(pool, _scale(node)), conv)
        return part, None if shape is None else (len(weight), *sides)

    def _linear(self, name: str, node: Any, received: Shape) -> nn.Module:
        weight = _numbers(name, "weight", node.weight, 2)
        if received is not None and received[-1] != weight.shape[1]:
            raise InvalidInput(
                f"node {name!r} has {weight.shape[1]} inputs, but receives a signal of shape "
                f"{list(received)}"
            )
        pool, before = int(node.metadata.get(POOL, 1)), self.before[name][0]
        if pool > 1 and self.kinds[before] == "Flatten" and self.behind[before] == [name]:
            shape = self.shapes[self.before[before][0]]
            if shape is not None and (small := _unfolded(weight, shape, pool)) is not None:
                weight = small
                pooled = nn.Sequential(SumPool(pool, _scale(node)), nn.Flatten(-3))
                self.parts[before] = pooled
            else:
                pool = 1
        bias = getattr(node, "bias", None)
        linear = Linear(
            weight.shape[1], len(weight), bias=bias is not None and bool(np.any(np.asarray(bias)))
        )
        self._fill(name, node, linear, weight, pool)
        return linear

    def _fill(self, name: str, node: Any, part: Conv | Linear, weight: Array, pool: int) -> None:
        """Set a connection's weights, including the factors of the neurons that it feeds."""
        gain, scale = self._gain_behind(name), 1.0
        if pool > 1:
            scale = _scale(node)
        elif (before := self._pool_before(name)) is not None and POOL_SCALE in node.metadata:
            scale = before.scale = _scale(node)
        with torch.no_grad():
            part.weight.copy_(torch.from_numpy(weight * (gain / scale)))
            if part.bias is not None:
                bias = _numbers(name, "bias", node.bias, 1, len(weight))
                part.bias.copy_(torch.from_numpy(bias * gain))
        self.connections.append(part)

    def _pool_before(self, name: str) -> SumPool | None:
        """Return the sum pooling before a connection, possibly with a Flatten in between."""
        before = self.before[name][0]
        if self.kinds[before] == "Flatten":
            before = self.before[before][0]
        part = self.parts.get(before)
        return part if isinstance(part, SumPool) else None

    def _gain_behind(self, name: str) -> float:
        """Return the factor of the neurons that follow a node, if only they do."""
        behind = self.behind[name]
        if len(behind) == 1 and self.kinds[behind[0]] in NEURONS:
            return self._constants(behind[0])[1]
        return 1.0

    def _neurons(self, name: str, node: Any, output_psc: bool) -> LIF:
        neuron, gain = self._constants(name)
        fed = [one for one in self.before[name] if self.kinds[one] in CONNECTIONS]
        alone = all(self.behind[one] == [name] for one in fed)
        if gain != 1 and (fed != self.before[name] or not alone):
            raise InvalidInput(
                f"node {name!r} multiplies its input by {gain:g}, but no connection feeds only it, "
                "so no weights can include the factor"
            )
        constants = neuron.tau_m, neuron.tau_s, neuron.threshold
        steps = self.time_steps
        return LIF(*constants, rule=self.rule, time_steps=steps, output_psc=output_psc)

    def _constants(self, name: str) -> tuple[Neuron, float]:
        """Return the neuron of a node, and the factor on its input, which our neuron lacks."""
        node: Any = self.nodes[name]
        cuba = self.kinds[name] == "CubaLIF"
        for zero in ("v_leak", "v_reset"):
            if np.any(np.asarray(getattr(node, zero))):
                raise InvalidInput(f"node {name!r} must have {zero} = 0")
        r, threshold = _one(name, "r", node.r), _one(name, "v_threshold", node.v_threshold)
        tau_m = self._steps(
            _one(name, "tau_mem" if cuba else "tau", node.tau_mem if cuba else node.tau), r
        )
        tau_s, w_in = 1.0, 1.0
        if cuba:
            w_in = _one(name, "w_in", node.w_in)
            tau_s = self._steps(_one(name, "tau_syn", node.tau_syn), w_in)
        try:
            return Neuron(tau_m, tau_s, threshold), w_in * (r / tau_m)
        except InvalidInput as error:
            raise InvalidInput(f"node {name!r} with dt = {self.dt:g} s: {error}") from error

    def _steps(self, seconds: float, written: float) -> float:
        """Return a time constant in steps; `written`, to which most libraries set it, if close."""
        steps = seconds / self.dt
        return written if math.isclose(steps, written, rel_tol=CLOSE) else steps

    def _pool(self, name: str, node: Any, kind: str, shape: Shape) -> tuple[nn.Module, Shape]:
        size, stride = (
            _one(name, "kernel_size", node.kernel_size),
            _one(name, "stride", node.stride),
        )
        if size != stride or np.any(np.asarray(node.padding)):
            raise InvalidInput(
                f"node {name!r} must pool over adjacent windows: its windows overlap, leave gaps "
                "or are padded"
            )
        part = SumPool(size) if kind == "SumPool2d" else AvgPool(size)
        return part, shape and (shape[0], *(side // size for side in shape[1:]))


def _read(path: Path) -> NIRGraph:
    import nir

    try:
        check_plain(path)
        if os.path.isdir(path):
            raise IsADirectoryError("it is a folder")
        _check_size(path)
        graph = nir.read(path, type_check=False)  # files of other libraries may omit shapes
    except Exception as error:  # h5py and nir raise many types
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"cannot read {path} as a NIR file: {reason}") from error
    return graph


def _check_size(path: Path) -> None:
    """Raise `ValueError` if a file refers to others, or claims far more data than it has."""
    import h5py

    with h5py.File(path) as file:
        sizes: list[int] = []

        def visit(name: str, item: Any) -> None:
            if isinstance(item, h5py.Group):
                for key in item:
                    if not isinstance(item.get(key, getlink=True), h5py.HardLink):
                        raise ValueError(f"{name}/{key} is a link")
            elif item.external or item.is_virtual:
                raise ValueError(f"{name} is in another file")
            else:
                sizes.append(item.nbytes)

        visit("", file)
        file.visititems(visit)
        kind = file.get("node/type")
        if kind is not None and (text := bytes(kind[()]).decode()) != "NIRGraph":
            raise ValueError(f"it contains a single node of type {text}, not a graph")
    check_claim(sum(sizes), path.stat().st_size)


def _shape_of(node: Any) -> Shape:
    shape = node.input_type.get("input")
    return None if shape is None else tuple(int(side) for side in np.atleast_1d(shape))


def _module_name(name: str) -> str:
    """Return the name of a node's module: without dots, and not that of a method of modules."""
    text = name.replace(".", "_") or "node"
    taken = any(hasattr(kind(), text) for kind in (nn.Sequential, nn.ModuleDict))
    return f"{text}_" if taken else text


def _numbers(name: str, key: str, values: Any, dimensions: int, length: int = 0) -> Array:
    """Return weights as float64 after checking them; with `length`, a number is repeated."""
    found = np.asarray(values)
    if found.dtype.kind not in "biuf" or not np.isfinite(found).all():
        raise InvalidInput(f"node {name!r} must have finite real numbers as {key}")
    if length and found.size == 1:
        found = np.full(length, found.item())
    if found.ndim != dimensions or (length and len(found) != length):
        shape = f"[{length}]" if length else f"{dimensions} dimensions"
        raise InvalidInput(
            f"node {name!r} must have a {key} of {shape}, got shape {list(found.shape)}"
        )
    return found.astype(np.float64)


def _check_neurons(name: str, node: Any, shape: Shape) -> None:
    """Raise `InvalidInput` if a node has constants for another number of neurons than inputs."""
    given = np.shape(node.v_threshold)
    if shape is None or len(shape) not in (1, 3) or math.prod(given) in (1, math.prod(shape)):
        return
    try:
        fits = np.broadcast_shapes(given, shape) == tuple(shape)
    except ValueError:
        fits = False
    if not fits:
        raise InvalidInput(
            f"node {name!r} has constants of shape {list(given)}, but receives a signal of shape "
            f"{list(shape)}"
        )


def _one(name: str, key: str, values: Any) -> Any:
    """Return the only value of an array; int if its type is one of whole numbers."""
    found = np.unique(np.asarray(values))
    if len(found) != 1:
        raise InvalidInput(
            f"node {name!r} has several values of {key}; expected the same value for all"
        )
    return found[0].item()


def _padding(name: str, node: Any, stride: int, dilation: int, side: int) -> int:
    padding = node.padding
    if isinstance(padding, bytes | str):
        text = padding.decode() if isinstance(padding, bytes) else padding
        if text == "same" and (stride != 1 or dilation * (side - 1) % 2):
            raise InvalidInput(f"node {name!r} has padding 'same' that differs between the sides")
        return dilation * (side - 1) // 2 if text == "same" else 0
    return int(_one(name, "padding", padding))


def _scale(node: Any) -> float:
    return float(node.metadata.get(POOL_SCALE, 1.0))


def _unfolded(weight: Array, shape: tuple[int, ...], pool: int) -> Array | None:
    """Return weights over windows from those over pixels; None if they differ in a window."""
    channels, *sides = shape
    images = weight.reshape(len(weight), channels, *sides)
    height, width = (side // pool for side in sides)
    small = images[..., : height * pool : pool, : width * pool : pool]
    whole = np.zeros_like(images)
    whole[..., : height * pool, : width * pool] = spread(small, pool)
    return small.reshape(len(weight), -1) if np.array_equal(whole, images) else None


def _flatten(name: str, node: Any, shape: Shape) -> tuple[nn.Module, Shape]:
    """Flatten whole images; NIR counts dimensions without batch and time."""
    dimensions = 3 if shape is None else len(shape)
    start, end = (int(one) % dimensions for one in (node.start_dim, node.end_dim))
    if dimensions == 1:
        return nn.Identity(), shape
    if (start, end) != (0, dimensions - 1) or dimensions != 3:
        raise InvalidInput(
            f"node {name!r} flattens dimensions {start} to {end} of a signal with {dimensions} "
            "dimensions; expected all dimensions of images [C, H, W]"
        )
    return nn.Flatten(-3), None if shape is None else (math.prod(shape),)


def _refusal(name: str, kind: str) -> str:
    reasons = {
        "NIRGraph": "a graph within the graph, such as a recurrent layer",
        "IF": "neurons without a leak",
    }
    reason = f", {reasons[kind]}" if kind in reasons else ""
    return f"tsslbp.layers cannot represent node {name!r}: {kind}{reason}"
