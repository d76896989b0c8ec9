"""Networks of spiking layers: ordinary PyTorch modules built from a description."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any, NamedTuple, final

import torch
from torch import Tensor, nn

from .. import neuron
from ..checked import as_number, check_number, check_whole
from ..errors import InvalidInput, nearest
from ..layers import Conv, InitialWeights, Linear, NeuNorm, SumPool
from ..layers.dropout import DROPOUT
from ..layers.normalisation import NORMS
from ..neuron import Neuron, NeuronLayer, reference
from ..neuron.reference import Mean, Shared, Trace
from ..neuron.settings import check_dense
from ..neuron.tracing import can_look_at
from ..rules import TSSLBP, Rule
from .description import LayerPlan, checked_shape, plan, summary

OLD_KEY = re.compile(r"layers\.(\d{1,9})\.(connection\.)?(\w+)")  # by number, in earlier versions


class Activity(NamedTuple):
    """What a layer did on a batch, as fractions between 0 and 1."""

    firing_rate: float  # spikes per neuron and step
    warm_up: float | None  # fraction of (neuron, step) pairs in warm-up; None if the rule has none


def activity_of(spikes: Tensor, neurons: NeuronLayer, mean: Mean) -> Activity:
    """Return a layer's activity from its `spikes` ``[T, N, ...]``; `mean` as in `Network`."""
    rule, tau_s = neurons.rule, neurons.neuron.tau_s
    exact = torch.promote_types(spikes.dtype, torch.float32)
    rate = mean(spikes.sum(dtype=exact), spikes.numel())
    if not isinstance(rule, TSSLBP):
        return Activity(rate.item(), None)
    psc = neuron.psc(spikes, tau_s, impl=neurons.impl)
    on_surrogate = reference.in_warm_up(rule, rate, psc, tau_s)
    warm_up = mean(on_surrogate.sum(dtype=torch.float64), on_surrogate.numel())
    return Activity(rate.item(), warm_up.item())


def check_images(
    x: Tensor,
    shape: Sequence[int],
    time_steps: int,
    dtype: torch.dtype,
    statistics: tuple[Sequence[float], Sequence[float]] | None = None,
) -> None:
    """Raise `InvalidInput` if `x` is not a batch of images of this shape, or of spike trains.

    `statistics` belong to the images that the network was trained on. The message about uint8
    quotes them.
    """
    check_dense("the input", x)
    images, trains = tuple(shape), (time_steps, *shape)
    if x.shape[1:] != images and (x.shape[:1] + x.shape[2:]) != trains:
        sizes = ", ".join(map(str, shape))
        raise InvalidInput(
            f"expected images [N, {sizes}] or spike trains [{time_steps}, N, {sizes}], "
            f"got shape {list(x.shape)}{_other_shape(x, images, time_steps)}"
        )
    if x.dtype == torch.uint8:
        words = [_numbers(one) for one in statistics] if statistics else ["mean", "std"]
        hint = "" if statistics else " with the recipe's mean and std"
        raise InvalidInput(
            f"the input is uint8, that is, pixel values that are not normalised: "
            f"use tsslbp.data.normalise(x, {', '.join(words)}){hint}"
        )
    if x.dtype != dtype:
        raise InvalidInput(
            f"expected an input of the weights' dtype {dtype}, got {x.dtype}; "
            f"convert it with x.to({dtype})"
        )
    if can_look_at(x) and not torch.isfinite(x).all():  # would wait for a GPU
        raise InvalidInput("the input contains NaN or infinity")
    if x.ndim == len(images) + 2 and len(x) == x.shape[1] == time_steps > 1:
        _warn_of_swapped(x)


def _numbers(values: Sequence[float]) -> str:
    """Return text such as ``"0.1307"`` or ``"[0.49, 0.48, 0.45]"``."""
    words = [f"{one:g}" for one in values]
    return words[0] if len(words) == 1 else f"[{', '.join(words)}]"


def _other_shape(x: Tensor, images: tuple[int, ...], time_steps: int) -> str:
    """Guess what an input of a wrong shape is, as the end of a message."""
    if x.shape == images:
        return "; make a batch of a single image with x[None]"
    if x.ndim == len(images) + 2 and x.shape[1:] == (time_steps, *images):
        return ", which looks like [N, T, ...]: put time first with x.transpose(0, 1)"
    if x.ndim == 2 and x.shape[1] == prod(images):
        sizes = ", ".join(map(str, images))
        return f"; turn rows of pixels into images with x.reshape(-1, {sizes})"
    return ""


def _warn_of_swapped(x: Tensor) -> None:
    """Warn, once per process, if N = T recordings seem to be ``[N, T, ...]``.

    Frames of one recording have events in the same places, so they are more similar than frames of
    different recordings at the same time step.
    """
    if x.device.type != "cpu" or torch.compiler.is_compiling() or _told_of_swapped:
        return
    active = (x.detach() != 0).flatten(2).to(torch.float32)
    if not 0 < active.mean() < 0.5:  # few pixels of event frames are active
        return
    over_first, over_second = (
        (active[1:] - active[:-1]).abs().mean(),
        (active[:, 1:] - active[:, :-1]).abs().mean(),
    )
    if over_second < 0.8 * over_first:
        _told_of_swapped.append(True)
        warnings.warn(
            f"the input {list(x.shape)} is interpreted as [T, N, ...] but looks like [N, T, ...], "
            "with the frames of a recording along axis 1: put time first with x.transpose(0, 1)",
            stacklevel=4,
        )


_told_of_swapped: list[bool] = []


@final
class SpikingLayer:
    """A connection, the neurons that it feeds, and sum pooling of their spikes.

    It maps spikes (or sums of spikes) ``[T, N, ...]`` to the same, or to the PSC if `neurons` say
    so. The synaptic filter follows the connection, with which it commutes. With ``time_steps`` the
    input is static, ``[N, ...]``, and the connection is computed only once.

    The network registers the connection as a module, under the layer's name.
    """

    def __init__(self, name: str, connection: Conv | Linear, neurons: NeuronLayer) -> None:
        self.name, self.connection, self.neurons = name, connection, neurons
        self.current_dtype: torch.dtype | None = None  # stored currents; None: not converted

    def __call__(
        self, x: Tensor, time_steps: int | None = None, shared: Shared | None = None
    ) -> Tensor:
        return neuron.layer(self._weighted(x), self.neurons, time_steps, shared)

    def current(self, x: Tensor, time_steps: int | None = None) -> Tensor:
        """Return the input current of the neurons, ``[T, N, ...]``."""
        weighted = self._weighted(x)
        if time_steps is not None:
            weighted = weighted.expand(time_steps, *weighted.shape)
        return neuron.psc(weighted, self.neurons.neuron.tau_s, impl=self.neurons.impl)

    def spikes(self, current: Tensor) -> Tensor:
        """Return the spikes before the pooling, ``[T, N, ...]`` like `current`."""
        alone = replace(self.neurons, filter_input=False, pool=1, output_psc=False)
        return neuron.layer(current, alone)

    def _weighted(self, x: Tensor) -> Tensor:
        current: Tensor = self.connection(x)
        return current if self.current_dtype is None else current.to(self.current_dtype)

    def passed_on(self, spikes: Tensor) -> Tensor:
        """Return what the next layer receives when the neurons emit `spikes`."""
        if self.neurons.pool == 1:
            return spikes
        return reference.sum_pool(spikes, self.neurons.pool, self.neurons.pool_scale)


class Model(nn.Module):
    """What `tsslbp.training` requires of a network: it maps images to ``[T, N, classes]``.

    The predicted class has the largest output summed over time (`tsslbp.predict`). If several
    processes train the network, `forward` receives a second argument, see `Network.forward`.

    Attributes:
        time_steps: T.
        description: name of the network in messages.
        waits_for_device: whether a forward pass on a GPU reads values on the host, which a CUDA
            graph cannot capture.
        statistics: mean and standard deviation that normalise its images, as in the recipe, if
            they are known. Messages quote them.
    """

    time_steps: int
    description: str = "a network"
    waits_for_device: bool = False
    statistics: tuple[Sequence[float], Sequence[float]] | None = None

    @property
    def neuron_counts(self) -> dict[str, int]:
        """Number of neurons of every spiking layer, by name and in order; empty by default."""
        return {}

    def activity(self, x: Tensor, mean: Mean = torch.div) -> dict[str, Activity]:
        """Return the activity of the layers in `neuron_counts`, see `Network.activity`."""
        return {}

    def first_nonfinite(self, x: Tensor) -> str | None:
        """Name the first layer with a weight or current that is NaN or infinite, if known."""
        return None

    def connection_weights(self) -> list[Tensor]:
        """Return the trained weights of connections, which weight decay and `weight_limit` concern.

        These are all parameters of two or more dimensions, except those of norms. Biases and
        constants of neurons have fewer dimensions.
        """
        norms = {
            weight
            for part in self.modules()
            if isinstance(part, NORMS)
            for weight in part.parameters(recurse=False)
        }
        return [
            weight
            for weight in self.parameters()
            if weight.dim() > 1 and weight.requires_grad and weight not in norms
        ]

    def set_precision(self, precision: str) -> None:
        """Choose how a GPU computes products; by default PyTorch's own settings apply."""

    def with_present_keys(self, state: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return a state of an earlier version with the present keys; unchanged by default."""
        return state


class LayeredModel(Model):
    """A model of consecutive layers, whose names are the keys of its state.

    A layer with a connection gives the connection its name, so that its weights are
    ``"conv1.weight"`` regardless of other layers. States of earlier versions, whose keys are layer
    numbers (``"layers.0.connection.weight"``), can be loaded as well.

    Attributes:
        layers: all layers in order, including those without weights.
    """

    layers: list[Any]

    def __init__(self) -> None:
        super().__init__()
        self.layers = []

    def append(self, name: str, layer: Any) -> None:
        """Add a module, or a layer with a connection, under its own name."""
        self.add_module(name, getattr(layer, "connection", layer))
        self.layers.append(layer)

    def named_layers(self) -> Iterator[tuple[str, Any]]:
        """Return the layers with their names, in order."""
        return zip(self._modules, self.layers, strict=True)

    def with_present_keys(self, state: Mapping[str, Any], prefix: str = "") -> Mapping[str, Any]:
        """Return a state with the keys of `state_dict`, renaming those of an earlier version.

        The n-th connection of the state is the n-th connection here, and a `NeuNorm` belongs to the
        connection before it. Unknown keys are kept unchanged.
        """
        matches = {key: OLD_KEY.fullmatch(key.removeprefix(prefix)) for key in state}
        numbered = {key: (int(found[1]), found) for key, found in matches.items() if found}
        connections = sorted({number for number, found in numbered.values() if found[2]})
        names = [layer.name for layer in self.layers if hasattr(layer, "connection")]

        def present(key: str) -> str:
            if key not in numbered:
                return key
            number, found = numbered[key]
            before = sum(other <= number for other in connections)
            if not 0 < before <= len(names):
                return key
            name = names[before - 1] if found[2] else f"{names[before - 1]}_neunorm"
            return f"{prefix}{name}.{found[3]}"

        return {present(key): value for key, value in state.items()}

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *more: Any) -> None:
        present = self.with_present_keys(state_dict, prefix)
        state_dict.clear()
        state_dict.update(present)
        super()._load_from_state_dict(state_dict, prefix, *more)


class Network(LayeredModel):
    """A feed-forward spiking network trained by a learning rule.

    Args:
        description: layers joined by ``-``, see `tsslbp.network.description`; the output layer is
            added automatically.
        input_shape: ``(C, H, W)`` of an image.
        classes: number of neurons of the output layer.
        time_steps: T, at least 1.
        neuron: constants shared by all neurons.
        padding: padding of the convolutions: one number, or one for each.
        weight_scale: factor on the initial weights: one number, or
            ``{"conv": ..., "linear": ...}``.
        conv_init: ``"uniform"`` or ``"kaiming"``, see `tsslbp.layers.InitialWeights`.
        dropout: probability of dropout after every hidden layer and its pooling.
        dropout_kind: ``"rows"`` for `tsslbp.layers.RowDropout`, as in the original code, or
            ``"neurons"`` for `tsslbp.layers.NeuronDropout`.
        pool_scale: factor on the sums of the pooling, 1.1 in the original code.
        neunorm: whether a `tsslbp.layers.NeuNorm` follows every convolution's neurons and their
            pooling.
        rule: learning rule.
        impl: implementation of the neurons (`tsslbp.spikes`) and of the connections
            (`tsslbp.layers.Conv`).
        generator: random number generator for the initial weights, by default PyTorch's global one.
            Parameters are drawn in the order of the layers.

    Shape:
        Input: static images ``[N, C, H, W]``, presented at every step, or spike trains
        ``[T, N, C, H, W]``. Output: the output layer's PSC ``[T, N, classes]``, for
        `tsslbp.losses` and `tsslbp.predict`. No state is kept between calls.

    Raises:
        InvalidInput: the description, an argument or an input is invalid.

    Source: Zhang & Li (2020); the defaults are the public code's, see docs/reproduction.md.
    """

    has_output_layer = True  # one output neuron per class

    def __init__(
        self,
        description: str,
        input_shape: Sequence[int] = (1, 28, 28),
        classes: int = 10,
        time_steps: int = 5,
        neuron: Neuron = Neuron(),  # noqa: B008 (frozen)
        padding: int | Sequence[int] = 0,
        weight_scale: float | Mapping[str, float] = 1.0,
        conv_init: str = "uniform",
        dropout: float = 0.0,
        dropout_kind: str = "rows",
        pool_scale: float = 1.1,
        neunorm: bool = False,
        rule: Rule = TSSLBP(),  # noqa: B008 (frozen)
        impl: str = "auto",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(description, str):
            raise InvalidInput(
                f"a network's description must be text such as '300', got {description!r}"
            )
        pool_scale = check_number("pool_scale", pool_scale)
        if dropout_kind not in DROPOUT:
            raise InvalidInput(
                f"dropout_kind must be one of {', '.join(DROPOUT)}, got {dropout_kind!r}"
                f"{nearest(str(dropout_kind), DROPOUT)}"
            )
        hidden = NeuronLayer(neuron, rule, impl)
        output = replace(hidden, output_psc=True)
        self.description, self.input_shape = description, checked_shape(input_shape)
        self.classes, self.neunorm = check_whole("classes", classes), neunorm
        self.time_steps = check_whole("time_steps", time_steps)
        self.plan = plan(description, self.input_shape, classes, padding, neunorm)
        weights = _initial_weights(weight_scale, conv_init, generator)
        for part in self.plan:
            if part.kind == "pool":
                self.append(part.name, SumPool(part.pool, pool_scale))
                continue
            if part.kind == "linear" and len(part.in_shape) > 1:
                self.append(f"{part.name}_flatten", nn.Flatten(-3))
            is_output = part is self.plan[-1]
            neurons = output if is_output else hidden
            if part.pool > 1:
                neurons = replace(neurons, pool=part.pool, pool_scale=pool_scale)
            connection = _connection(part, weights[part.kind], impl)
            self.append(part.name, SpikingLayer(part.name, connection, neurons))
            if neunorm and part.kind == "conv":
                self.append(f"{part.name}_neunorm", NeuNorm(part.out_shape))
            if dropout and not is_output:
                self.append(f"{part.name}_dropout", DROPOUT[dropout_kind](dropout))

    @property
    def spiking_layers(self) -> list[SpikingLayer]:
        """The layers with neurons, in their order; others, such as pooling, are left out."""
        return [layer for layer in self.layers if isinstance(layer, SpikingLayer)]

    @property
    def neuron_counts(self) -> dict[str, int]:
        return {layer.name: layer.neurons for layer in self.plan if layer.neurons}

    @property
    def neurons(self) -> dict[str, Neuron]:
        """The constants of every spiking layer, by layer name."""
        return {layer.name: layer.neurons.neuron for layer in self.spiking_layers}

    @property
    def weights(self) -> dict[str, nn.Parameter]:
        """The weights of all connections, by layer name."""
        return {layer.name: layer.connection.weight for layer in self.spiking_layers}

    def set_precision(self, precision: str) -> None:
        """Choose how a GPU computes products and stores currents; weights stay float32.

        With ``"bf16"``, products take bfloat16 and accumulate in float32, except in the first
        layer, whose inputs are images. Currents and their gradients are stored in bfloat16, except
        those of the output layer, which are stored in float32 after its product. Neurons compute in
        float32. ``"float32"`` and ``"tf32"`` differ only in a setting of the process
        (`tsslbp.training.device.configure`).
        """
        low = torch.bfloat16 if precision == "bf16" else None
        for index, layer in enumerate(self.spiking_layers):
            layer.connection.dtype = low if index else None
            layer.current_dtype = low
        if low:
            self.spiking_layers[-1].current_dtype = torch.float32

    def forward(self, x: Tensor, mean: Mean | None = None) -> Tensor:
        """Return the output PSC; with `mean`, `x` is part of a batch (see `neuron.Shared`)."""
        time_steps, shared = self._constant_steps(x), Shared(mean)
        for layer in self.layers:
            if isinstance(layer, SpikingLayer):
                x = layer(x, time_steps, shared)
                time_steps = None
            else:
                x = layer(x)
        return x

    @torch.no_grad()
    def trace(self, x: Tensor) -> dict[str, Trace]:
        """Return potential, increment, spikes, PSC ``[T, N, ...]`` and rate of every layer.

        The keys are the layers' names in order: ``"conv1"``, ``"conv2"``, ``"linear3"``,
        ``"output"``.
        """
        return {
            layer.name: reference.simulate(current, layer.neurons.neuron)
            for layer, current, _ in self._walk(x)
        }

    @torch.no_grad()
    def activity(self, x: Tensor, mean: Mean = torch.div) -> dict[str, Activity]:
        """Return firing rate and fraction in warm-up of every layer; costs about a forward pass.

        If `x` is a part of a batch, `mean` averages over all processes, see `neuron.Shared`.
        """
        return {
            layer.name: activity_of(spikes, layer.neurons, mean)
            for layer, _, spikes in self._walk(x)
        }

    @torch.no_grad()
    def first_nonfinite(self, x: Tensor) -> str | None:
        for layer, current, _ in self._walk(x):
            if not torch.isfinite(layer.connection.weight).all():
                return f"the weights of layer {layer.name}"
            if not torch.isfinite(current).all():
                return f"the input current of layer {layer.name}"
        return None

    def _walk(self, x: Tensor) -> Iterator[tuple[SpikingLayer, Tensor, Tensor]]:
        """Yield each spiking layer with its input current and spikes, from input to output."""
        time_steps = self._constant_steps(x)
        for layer in self.layers:
            if isinstance(layer, SpikingLayer):
                current = layer.current(x, time_steps)
                spikes = layer.spikes(current)
                yield layer, current, spikes
                x = layer.passed_on(spikes)
                time_steps = None
            else:
                x = layer(x)

    def _constant_steps(self, x: Tensor) -> int | None:
        """Return T for static images, None for spike trains."""
        dtype = next(self.parameters()).dtype
        check_images(x, self.input_shape, self.time_steps, dtype, self.statistics)
        return self.time_steps if x.ndim == 4 else None

    def __repr__(self) -> str:
        return summary(self.description, self.time_steps, self.plan, self.neunorm)


def _connection(part: LayerPlan, initial: InitialWeights, impl: str) -> Conv | Linear:
    if part.kind == "conv":
        channels, padding = part.in_shape[0], part.padding
        return Conv(channels, part.units, part.kernel, padding=padding, initial=initial, impl=impl)
    return Linear(part.parameters // part.units, part.units, initial, impl=impl)


def _initial_weights(
    weight_scale: float | Mapping[str, float], conv_init: str, generator: torch.Generator | None
) -> dict[str, InitialWeights]:
    """By kind of layer."""
    scales = weight_scale
    if not isinstance(scales, Mapping):
        scales = {"conv": scales, "linear": scales}
    numbers = {name: as_number(scale) for name, scale in scales.items()}
    conv, linear = numbers.get("conv"), numbers.get("linear")
    if len(numbers) != 2 or conv is None or linear is None:
        raise InvalidInput(
            "weight_scale must be a finite number or {'conv': ..., 'linear': ...}, "
            f"got {weight_scale}"
        )
    return {
        "conv": InitialWeights(conv_init, conv, generator),
        "linear": InitialWeights("kaiming", linear, generator),
    }
