"""`to_nir`: converts a network to a graph of the Neuromorphic Intermediate Representation.

NIR's importers use forward Euler with a step dt. With it, NIR's CubaLIF

- ``tau_syn dI/dt = -I + w_in x`` and ``tau_mem dv/dt = (v_leak - v) + r I``

is our neuron if ``tau_syn = tau_s dt``, ``tau_mem = tau_m dt``, ``w_in = tau_s``, ``r = tau_m``,
``v_leak = v_reset = 0`` and the weights that make x are divided by `tau_s`. Then no factor remains
before x and I. SpikingJelly requires this, and snnTorch would merge a factor into the threshold.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import InvalidInput, require
from ..layers import (
    LIF,
    AvgPool,
    BatchNorm,
    Conv,
    Linear,
    MaxPool,
    NeuNorm,
    NeuronDropout,
    Residual,
    RowDropout,
    SumPool,
    fold_batch_norms,
)
from ..network import CustomNetwork, Network
from ..neuron import Neuron
from .facts import as_text, check_network, facts
from .plain import as_modules

if TYPE_CHECKING:
    from nir import NIRGraph, NIRNode

DT = 1e-4  # seconds; a constant in snnTorch
INPUT = "images, normalised as for training, the same at every step; or one frame of a recording"
NETWORK = "tsslbp_network"  # metadata: arguments of `Network`
POOL, POOL_SCALE, OUTPUT = "pool", "pool_scale", "output"  # metadata, see `to_nir`

Array = np.ndarray[Any, Any]
Named = tuple[str, nn.Module]


@dataclass(frozen=True)
class Signal:
    """The summed output of some nodes, and the operations that are still due, in this order."""

    nodes: tuple[str, ...]
    shape: tuple[int, ...]  # before these operations
    pool: int = 1
    scale: float = 1.0  # merged into the next connection's weights
    flatten: str = ""  # name of the future node


def to_nir(
    net: Network | CustomNetwork,
    *,
    fold_pooling: bool = True,
    metadata: Mapping[str, Any] | None = None,
) -> NIRGraph:
    """Convert a network to a NIR graph with time steps of 0.1 ms.

    Its nodes are Input, Conv2d, Linear or Affine, CubaLIF, SumPool2d, Flatten and Output. Static
    images are the same input at every step. Weights are float64, so that their division by `tau_s`
    can be undone exactly: `from_nir` returns bit-identical ones. `BatchNorm` is folded, dropout is
    left out, and learned constants have their present values. The outputs of two nodes that feed a
    third are added, as after a `Residual`.

    The graph's output is the last layer's spikes. A `Network` predicts by the sum over time of
    their PSC, not by counting spikes; the entry ``prediction`` of the graph's metadata says so.
    Other entries are T, classes, the version and those in `metadata`.

    Args:
        net: the network; the module of a `CustomNetwork` must consist of `tsslbp.layers`,
            `nn.Sequential`, `nn.Identity` and `nn.Flatten`.
        fold_pooling: merge sum and mean pooling into the next connection, exactly. A kernel and its
            stride are enlarged by the size of the pooling window; a linear layer repeats the
            weights of a window for each of its pixels. (Norse has no mean pooling, and no importer
            supports a factor.) If false, or if this would not be exact (padding around images that
            windows do not fill, dilation), pooling becomes a SumPool2d, and its factor is merged
            into the next connection.
        metadata: further entries: text, numbers and lists of numbers; other values become JSON.

    Returns:
        The graph; write it with ``nir.write("net.nir", graph)``.

    Raises:
        InvalidInput: the package ``nir`` is not installed, NIR cannot represent a part, which
            the message names, or `metadata` cannot be written.

    Source: Pedersen et al., "Neuromorphic intermediate representation" (Nature Communications,
    2024).
    """
    require("NIR needs", "exchange", "nir")
    check_network(net)
    writer = _Writer(fold_pooling)
    graph_input = Signal(("input",), tuple(net.input_shape))
    writer.nodes["input"] = writer.nir.Input({"input": np.array(net.input_shape)})
    parts = _flat("", fold_batch_norms(as_modules(net)))
    end = writer.write(parts, graph_input)
    prediction, output = "the class with the largest output summed over time", "as it is"
    if tau_s := _psc_at_end(parts):
        prediction, output = (
            (
                "the class with the largest sum over time of the PSC of its output spikes, "
                f"psc[t] = (1 - 1/tau_s) psc[t-1] + spikes[t] / tau_s with tau_s = {tau_s:g} time "
                "steps; not the class with the most spikes"
            ),
            "psc",
        )
    own = {"input": INPUT, "prediction": prediction, "dt": DT, OUTPUT: output}
    if isinstance(net, Network):
        own[NETWORK] = json.dumps(_arguments(net))
    known = facts(net, own, metadata)
    return writer.graph(end, {key: _entry(value) for key, value in known.items()})


class _Writer:
    """Collects nodes and edges."""

    def __init__(self, fold_pooling: bool) -> None:
        import nir

        self.nir, self.fold_pooling = nir, fold_pooling
        self.nodes: dict[str, NIRNode] = {}
        self.edges: list[tuple[str, str]] = []

    def graph(self, end: Signal, metadata: dict[str, Any]) -> NIRGraph:
        end = self._done(end, OUTPUT)
        if end.scale != 1:
            raise InvalidInput(
                f"NIR cannot represent the factor {end.scale:g} of the last pooling, because no "
                "connection follows that could include it"
            )
        self._add("output", self.nir.Output({"output": np.array(end.shape)}), end)
        try:
            return self.nir.NIRGraph(self.nodes, self.edges, metadata)
        except ValueError as error:
            raise InvalidInput(f"NIR rejects the network: {error}") from error

    def write(self, parts: list[Named], x: Signal) -> Signal:
        """Write parts one after the other; return the signal after the last one."""
        for index, (path, part) in enumerate(parts):
            following = parts[index + 1][1] if index + 1 < len(parts) else None
            before = parts[index - 1][1] if index else None
            if isinstance(part, Conv | Linear):
                neuron = following.neurons.neuron if isinstance(following, LIF) else None
                x = self._connection(path, part, x, neuron)
            elif isinstance(part, LIF):
                x = self._neurons(path, part, x, isinstance(before, Conv | Linear))
            elif isinstance(part, SumPool | AvgPool):
                x = self._pool(path, part, x)
            elif isinstance(part, nn.Flatten) and (part.start_dim, part.end_dim) == (-3, -1):
                x = replace(x, flatten=_name(path, part))
            elif isinstance(part, Residual):
                x = self._residual(path, part, x)
            else:
                raise InvalidInput(_refusal(path, part))
        return x

    def _connection(
        self, path: str, part: Conv | Linear, x: Signal, neuron: Neuron | None
    ) -> Signal:
        name, divisor = _name(path, part), 1.0 if neuron is None else neuron.tau_s
        weight, bias = _array(part.weight), None
        if part.bias is not None:
            bias = _array(part.bias) / divisor
        metadata: dict[str, Any] = {} if x.scale == 1 else {POOL_SCALE: x.scale}
        weight, pool = weight * (x.scale / divisor), x.pool
        if self.fold_pooling and _folds(part, x):
            metadata |= {POOL: pool} if pool > 1 else {}
            weight = _folded(weight, x) if pool > 1 else weight
            x = replace(x, pool=1)
        else:
            pool = 1
        x = self._done(x, name)
        if isinstance(part, Conv):
            if part.groups > 1:
                raise InvalidInput(
                    f"NIR supports only convolutions without groups, but module {path!r} has "
                    f"{part.groups} groups"
                )
            bias = np.zeros(len(weight)) if bias is None else bias
            padding, stride = part.padding * pool, part.stride * pool
            node: NIRNode = self.nir.Conv2d(
                (x.shape[1], x.shape[2]),
                weight,
                (stride, stride),
                (padding, padding),
                (part.dilation, part.dilation),
                1,
                bias,
            )
            kernel = part.dilation * (weight.shape[-1] - 1)
            sides = [(side + 2 * padding - kernel - 1) // stride + 1 for side in x.shape[1:]]
            shape: tuple[int, ...] = (len(weight), *sides)
        else:
            node = self.nir.Linear(weight) if bias is None else self.nir.Affine(weight, bias)
            shape = (len(weight),)
        node.metadata = metadata
        return self._add(name, node, x, shape)

    def _neurons(self, path: str, lif: LIF, x: Signal, behind_connection: bool) -> Signal:
        settings = lif.neurons
        neuron = settings.neuron
        if not behind_connection and (neuron.tau_s != 1 or x.scale != 1):
            raise InvalidInput(
                f"the neurons of module {path!r} must directly follow a connection, whose weights "
                "can include a factor that NIR's importers do not support"
            )
        x = self._done(x, _name(path, lif))
        constants = {
            "tau_syn": neuron.tau_s * DT,
            "tau_mem": neuron.tau_m * DT,
            "r": neuron.tau_m,
            "v_leak": 0.0,
            "v_threshold": neuron.threshold,
            "v_reset": 0.0,
            "w_in": neuron.tau_s,
        }
        arrays = {key: np.full(x.shape, value) for key, value in constants.items()}
        x = self._add(_name(path, lif), self.nir.CubaLIF(**arrays), x, x.shape)
        return replace(x, pool=settings.pool, scale=settings.pool_scale if settings.pool > 1 else 1)

    def _pool(self, path: str, part: SumPool | AvgPool, x: Signal) -> Signal:
        x = self._done(x, _name(path, part)) if x.pool > 1 else x
        if isinstance(part, SumPool):
            return replace(x, pool=part.size, scale=x.scale * part.scale)
        size = part.size
        if part.is_global:
            height, size = x.shape[1:]
            if height != size:
                raise InvalidInput(
                    f"module {path!r} takes the mean over images of {height} x {size}, which is "
                    "not a pooling over squares, as NIR requires"
                )
        return replace(x, pool=size, scale=x.scale / size**2)

    def _residual(self, path: str, part: Residual, x: Signal) -> Signal:
        """Write body and shortcut from the same nodes; the next part has an edge from each."""
        x = self._done(x, _name(path, part)) if x.flatten else x  # one Flatten for both branches
        ends = [
            self.write(_flat(f"{path}.{side}", module), x)
            for side, module in (("body", part.body), ("shortcut", part.shortcut))
        ]
        ends = [self._done(end, f"{_name(path, part)}_{side}") for side, end in enumerate(ends)]
        nodes = ends[0].nodes + ends[1].nodes
        if ends[0].scale != ends[1].scale or len(set(nodes)) < len(nodes):
            raise InvalidInput(
                "NIR adds the outputs of nodes, but cannot add the two branches of module "
                f"{path!r}: they share a node, or a pooling leaves a factor in one of them"
            )
        return replace(ends[0], nodes=nodes)

    def _done(self, x: Signal, before: str) -> Signal:
        """Write a signal's due pooling and flattening as separate nodes."""
        if x.pool > 1:
            pair = np.array([x.pool, x.pool])
            node = self.nir.SumPool2d(pair, pair, np.array([0, 0]))
            shape = (x.shape[0], *(side // x.pool for side in x.shape[1:]))
            added = self._add(f"{before}_pool", node, x, shape)
            x = replace(added, scale=x.scale, flatten=x.flatten)
        if x.flatten:
            node = self.nir.Flatten({"input": np.array(x.shape)}, -3, -1)
            added = self._add(x.flatten, node, x, (int(np.prod(x.shape)),))
            x = replace(added, scale=x.scale)
        return x

    def _add(
        self, name: str, node: NIRNode, x: Signal, shape: tuple[int, ...] | None = None
    ) -> Signal:
        if name in self.nodes:
            raise InvalidInput(f"two parts would have the node name {name!r}: rename one of them")
        self.nodes[name] = node
        self.edges += [(before, name) for before in x.nodes]
        return Signal((name,), shape or x.shape)


def _flat(path: str, module: nn.Module) -> list[Named]:
    """Return the parts of nested sequences in order, without those that inference ignores."""
    if isinstance(module, nn.Identity | NeuronDropout | RowDropout):
        return []
    if not isinstance(module, nn.Sequential):
        return [(path or type(module).__name__.lower(), module)]
    parts: list[Named] = []
    for name, child in module._modules.items():  # a module may occur in several places
        if child is not None:
            parts += _flat(f"{path}.{name}" if path else name, child)
    return parts


def _psc_at_end(parts: list[Named]) -> float | None:
    """Return `tau_s` of the PSC that a network returns; None if it returns something else.

    Raises:
        InvalidInput: neurons before the end of the network return PSCs instead of spikes.
    """
    for index, (path, part) in enumerate(parts):
        for lif in part.modules():
            if isinstance(lif, LIF) and lif.start.output_psc:
                if lif is part and index == len(parts) - 1:
                    return lif.neurons.neuron.tau_s
                raise InvalidInput(
                    f"NIR's neurons emit spikes, but neurons in module {path!r} return a PSC: only "
                    "the last layer may have output_psc=True"
                )
    return None


def _name(path: str, part: nn.Module) -> str:
    """Return the name of a part's node: a valid Python name that differs from NIR's own."""
    name = re.sub(r"\W", "_", path)
    if name[0].isdigit() or name in ("input", "output"):
        return f"{type(part).__name__.lower()}_{name}"
    return name


def _refusal(path: str, part: nn.Module) -> str:
    reasons: dict[type[nn.Module], str] = {
        NeuNorm: "NIR has no node for the neuron normalisation (NeuNorm)",
        MaxPool: "NIR has no node for maximum pooling (MaxPool)",
        BatchNorm: "BatchNorm can only be written where it follows a connection",
    }
    kind = type(part).__name__
    kind = f"torch.nn.{kind}" if type(part).__module__.startswith("torch.nn.") else kind
    other = (
        f"a module of type {kind} cannot be written as NIR, only tsslbp.layers, "
        "torch.nn.Sequential and torch.nn.Flatten(-3)"
    )
    return f"{reasons.get(type(part), other)}: module {path!r}"


def _folds(part: Conv | Linear, x: Signal) -> bool:
    """Whether the pooling before a connection can be merged into it exactly."""
    if isinstance(part, Linear):
        return True
    fills = all(side % x.pool == 0 for side in x.shape[1:])
    return x.pool == 1 or (part.dilation == part.groups == 1 and (fills or part.padding == 0))


def _folded(weight: Array, x: Signal) -> Array:
    """Return weights over pixels instead of windows; 0 for pixels outside all windows."""
    if weight.ndim == 4:
        return spread(weight, x.pool)
    channels, *sides = x.shape
    pooled = [side // x.pool for side in sides]
    windows = spread(weight.reshape(len(weight), channels, *pooled), x.pool)
    whole = np.zeros((len(weight), *x.shape))
    whole[..., : windows.shape[-2], : windows.shape[-1]] = windows
    return whole.reshape(len(weight), -1)


def spread(weight: Array, pool: int) -> Array:
    """Map ``[..., H, W]`` to ``[..., H pool, W pool]``, repeating each value over a window."""
    return weight.repeat(pool, -2).repeat(pool, -1)


@torch.no_grad()
def _array(weight: Tensor) -> Array:
    return weight.double().cpu().numpy()


def _arguments(net: Network) -> dict[str, Any]:
    """Return the arguments of `Network`, except weights and settings only used in training."""
    settings = [layer.neurons for layer in net.spiking_layers]
    scales = [layer.scale for layer in net.layers if isinstance(layer, SumPool)]
    scales += [one.pool_scale for one in settings if one.pool > 1]
    return {
        "description": net.description,
        "input_shape": net.input_shape,
        "classes": net.classes,
        "time_steps": net.time_steps,
        "padding": [layer.padding for layer in net.plan if layer.kind == "conv"],
        "pool_scale": scales[0] if scales else 1.0,
        "rule": settings[0].rule.to_table(),
    }


def _entry(value: Any) -> Any:
    """Return a value of the metadata in the form stored in the file."""
    if isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, list | tuple) and all(isinstance(one, int | float) for one in value):
        return np.array(value)
    return as_text(value)
