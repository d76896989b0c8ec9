"""The gradient microscope: learning rules' gradients beside the true effect of moving the weights.

Spikes are steps, so the loss L is a step function of the weights w and has no useful derivative.
Here the truth is the gradient of the loss smoothed with Gaussian noise on the weights,
``grad E[L(w + width unit e)]`` with ``e ~ N(0, 1)``, for each weight of a layer in units of the
layer's root mean square weight, so that a width means the same in every layer. It is estimated by
finite differences over antithetic pairs (Salimans et al. 2017), in float64,

    ``x = (L(w + width unit e) - L(w - width unit e)) / (2 width) e``,

with the same e for all rules and widths. The e of a round are as many as they have components, and
orthogonal to each other (Choromanski et al. 2018): each of them is Gaussian as before, and the
linear part of the loss, most of the noise of other weights, is met nearly exactly in every round.

The noise moves the weights of all layers at once, and the gradient is split by layer. Noise in one
layer alone would smooth the loss differently for every layer; with noise in all of them, the parts
are one gradient, of one loss, as those of a learning rule are meant to be. That takes a small
network. Along a few random directions in a layer any network will do: then the noise stays within
them, one layer at a time, since that of all other weights would drown it, and is as long as noise
in the whole layer would be.

In a network of one's own the layers are the parameters of two or more dimensions, by their names.
Its neurons and connections are computed in plain PyTorch while their weights are moved.

A rule's gradient g and the mean a of many x are both vectors; the noise in a makes it longer, and
so their cosine smaller than that of the truth. `cosine` corrects it with two independent halves of
the rounds, as a correlation is corrected for attenuation (Spearman 1904).

Source: Salimans, Ho, Chen, Sidor & Sutskever, arXiv 1703.03864 (2017); Choromanski, Rowland,
Sindhwani, Turner & Weller, ICML (2018), Gaussian orthogonal directions; Spearman, American Journal
of Psychology 15 (1904).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.func import functional_call, vmap
from torch.nn import functional

from ..checked import as_number, as_whole, check_whole
from ..errors import Diverged, InvalidInput
from ..experiment.seeding import generator
from ..layers import LIF, Conv, Linear
from ..losses import Loss
from ..network import CustomNetwork, Network, SpikingLayer
from ..neuron import Neuron, NeuronLayer, reference
from ..stats import Interval, t_interval
from . import inspection

LARGEST = 2_000  # weights of a network whose whole gradient is estimated
FEWEST_DIRECTIONS = 16  # from which an interval can be told
ROUNDS = 10
WIDTHS = (0.01, 0.03, 0.1, 0.3)
CONTROL_WIDTH = 0.01  # so narrow that the smooth network's loss is straight within it
SOFTNESS = 0.2  # of the control's neurons, in units of the potential: that of TSSL-BP's surrogate
AGREEMENT = 0.99  # cosine that the control has to reach
CLEAR = 3.0  # standard errors above zero from which the halves' product counts as positive
NUMBERS_AT_ONCE = 1_000_000  # spikes of the networks that are computed together

Sample = Literal["rounds", "directions"]  # what an interval is drawn from
Step = Callable[[Tensor], Tensor]  # spikes, of the potential's distance above the threshold
AnyNetwork = Network | CustomNetwork
Probe = tuple[Callable[[Tensor], Tensor], float]  # a loss by coordinates, and a noise width


class Cosine(NamedTuple):
    """Cosine of a rule's gradient and the truth, or the reason why there is none.

    The correction makes it right on average, so single ones can lie above 1.
    """

    value: float | None
    interval: Interval | None
    reason: str = ""


class Coordinates(NamedTuple):
    """Coordinates in which a layer's weights are moved and its gradients are seen.

    Attributes:
        weight: where the coordinates are 0.
        unit: length of a coordinate's step.
        directions: ``[coordinates, weights]``, orthonormal; None: a coordinate is a weight.
    """

    weight: Tensor
    unit: float
    directions: Tensor | None

    @property
    def number(self) -> int:
        return self.weight.numel() if self.directions is None else len(self.directions)

    def moved(self, place: Tensor) -> Tensor:
        """The weights at the coordinates `place`."""
        step = place if self.directions is None else place @ self.directions
        return self.weight + self.unit * step.view(self.weight.shape)

    def along(self, gradient: Tensor) -> Tensor:
        """Derivatives ``[coordinates]`` along the coordinates, per length."""
        flat = gradient.flatten()
        return flat if self.directions is None else self.directions @ flat


@dataclass(frozen=True)
class LayerCosines:
    """What was seen of one layer.

    Attributes:
        name: as in `tsslbp.analysis.inspection.weights`.
        weights: their number.
        firing_rate: spikes per neuron and step on the images; None of a network of one's own,
            where nothing says which neurons the weights are of.
        truth: by rule, its gradient's cosine with the truth at every noise width.
        between: ``[rules, rules]``, cosines of the rules' whole gradients; NaN where one is zero.
        control: the same as `truth` for the exact gradient of the smooth network.
    """

    name: str
    weights: int
    firing_rate: float | None
    truth: dict[str, list[Cosine]]
    between: npt.NDArray[np.float64]
    control: Cosine

    def to_table(self) -> dict[str, Any]:
        """All of it in lists and tables, for JSON, with None for NaN."""
        between = [[None if math.isnan(x) else x for x in row] for row in self.between.tolist()]
        return {
            "name": self.name,
            "weights": self.weights,
            "firing_rate": self.firing_rate,
            "truth": {rule: [one._asdict() for one in row] for rule, row in self.truth.items()},
            "between": between,
            "control": self.control._asdict(),
        }


class Batch(NamedTuple):
    """Images that the gradients are taken on.

    Attributes:
        loss: of the output PSC and the labels.
        images: normalised ``[N, C, H, W]``, or spike trains ``[T, N, C, H, W]``; float64.
        labels: ``[N]`` int64.
    """

    loss: Loss
    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Noise:
    """How the truth is estimated.

    Attributes:
        widths: of the noise, relative to a layer's root mean square weight.
        rounds: an even number; each takes two losses for every coordinate, at every width.
        directions: coordinates in each layer, at random; None: all weights.
        seed: of the noise and the directions.

    Raises:
        InvalidInput: a value is not allowed.
    """

    widths: Sequence[float] = WIDTHS
    rounds: int = ROUNDS
    directions: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        widths = tuple(as_number(one) or 0.0 for one in self.widths)
        if not widths or min(widths) <= 0:
            raise InvalidInput(f"noise widths must be positive numbers, got {list(self.widths)}")
        rounds = as_whole(self.rounds) or 0
        if rounds < 4 or rounds % 2:
            raise InvalidInput(f"rounds must be an even number of at least 4, got {self.rounds}")
        object.__setattr__(self, "widths", widths)
        object.__setattr__(self, "rounds", rounds)
        if self.directions is not None:
            directions = check_whole("directions", self.directions, FEWEST_DIRECTIONS)
            object.__setattr__(self, "directions", directions)


def examine(nets: Mapping[str, AnyNetwork], batch: Batch, noise: Noise) -> list[LayerCosines]:
    """Compare rules' gradients with the truth and with each other, layer by layer.

    Beside them stands a control: the same network with logistic functions in the place of the
    spikes' steps, whose true gradient autograd knows. The estimate has to agree with it.

    Args:
        nets: by rule, networks that differ in their rule only; float64, in evaluation mode.
        batch: what the gradients are taken on.
        noise: how the truth is estimated.

    Returns:
        The layers from input to output.

    Raises:
        InvalidInput: the networks do not fit; one of over `LARGEST` weights without directions; or
            one of one's own whose code `torch.func.vmap` cannot map.
        Diverged: a rule's gradient is not finite.
    """
    _check(nets, noise.directions)
    net = next(iter(nets.values()))
    gradients = {rule: inspection.gradients(one, *batch) for rule, one in nets.items()}
    for rule, layers in gradients.items():
        for name, gradient in layers.items():
            if not gradient.isfinite().all():
                raise Diverged(f"the gradient of layer {name} by {rule} holds NaN or infinity")
    exact = smooth_gradients(net, batch)
    rates = net.activity(batch.images)
    places = coordinates_of(net, noise.directions, noise.seed)
    sample: Sample = "rounds" if noise.directions is None else "directions"
    together = [places] if sample == "rounds" else [{name: one} for name, one in places.items()]
    found = []
    for group in together:
        for name, part in _estimates_around(net, group, batch, noise).items():
            view, own = places[name], {rule: one[name] for rule, one in gradients.items()}
            truth = {
                rule: [cosine(view.along(one), x, sample) for x in part[:-1]]
                for rule, one in own.items()
            }
            control = cosine(view.along(exact[name]), part[-1], sample)
            size, rate = view.weight.numel(), rates[name].firing_rate if name in rates else None
            found.append(
                LayerCosines(name, size, rate, truth, between(list(own.values())), control)
            )
    return found


def _estimates_around(
    net: AnyNetwork, places: Mapping[str, Coordinates], batch: Batch, noise: Noise
) -> dict[str, Tensor]:
    """`estimates` by layer: at every noise width, then those of the smooth network."""
    spiking = losses_around(net, places, batch, step)
    smooth = losses_around(net, places, batch, logistic)
    probes = [*((spiking, width) for width in noise.widths), (smooth, CONTROL_WIDTH)]
    counts = [view.number for view in places.values()]
    purpose = f"noise of {' '.join(places)}"
    try:
        found = estimates(probes, sum(counts), noise.rounds, noise.seed, purpose)
    except (RuntimeError, ValueError, TypeError) as error:
        if isinstance(net, Network):
            raise
        reason = " ".join(str(error).split())
        raise InvalidInput(
            f"{net.description} cannot be computed for many weights at once by torch.func.vmap, as "
            f"the microscope has to: {reason:.200}"
        ) from error
    return dict(zip(places, found.split(counts, 2), strict=True))


def step(distance: Tensor) -> Tensor:
    """The spike: 1 above the threshold, else 0."""
    return (distance > 0).to(distance.dtype)


def logistic(distance: Tensor) -> Tensor:
    """A smooth function in the place of `step`."""
    return torch.sigmoid(distance / SOFTNESS)


def forward(net: AnyNetwork, weights: Mapping[str, Tensor], images: Tensor, spike: Step) -> Tensor:
    """Output PSC ``[T, N, classes]`` of `net` with other weights, by layer, and another `spike`.

    With `step` it is that of the network itself. It may be mapped over weights by `torch.func`.
    """
    if isinstance(net, CustomNetwork):
        with _plain(net, spike):
            output: Tensor = functional_call(net.module, dict(weights), (images,))
        return output
    x, time_steps = images, net.time_steps if images.ndim == 4 else None
    for layer in net.layers:
        if not isinstance(layer, SpikingLayer):
            x = layer(x)
            continue
        x = _connected(layer.connection, x, weights[layer.name])
        if time_steps is not None:
            x, time_steps = x.expand(time_steps, *x.shape), None
        x = _layer(x, layer.neurons, spike)
    return x


@contextmanager
def _plain(net: CustomNetwork, spike: Step) -> Iterator[None]:
    """Compute the neurons of a network with another `spike`, and all that `torch.func` can map."""
    changed = [one for one in net.modules() if isinstance(one, (LIF, Conv, Linear))]
    for one in changed:
        plain = partial(_neurons, one, spike) if isinstance(one, LIF) else partial(_connected, one)
        vars(one)["forward"] = plain
    try:
        yield
    finally:
        for one in changed:
            del vars(one)["forward"]


def _neurons(lif: LIF, spike: Step, x: Tensor) -> Tensor:
    if lif.time_steps is not None and x.ndim in (2, 4):
        x = x.expand(lif.time_steps, *x.shape)
    return _layer(x, lif.neurons, spike)


def _layer(x: Tensor, neurons: NeuronLayer, spike: Step) -> Tensor:
    """`tsslbp.neuron.layer` with another `spike`, forward only."""
    neuron = neurons.neuron
    x = _spikes(reference.psc(x, neuron.tau_s), neuron, spike)
    if neurons.pool > 1:
        x = reference.sum_pool(x, neurons.pool, neurons.pool_scale)
    return reference.psc(x, neuron.tau_s) if neurons.output_psc else x


def _connected(connection: Conv | Linear, x: Tensor, weight: Tensor | None = None) -> Tensor:
    """A connection, perhaps with another weight, without what `torch.func` cannot map."""
    weight = connection.weight if weight is None else weight
    if isinstance(connection, Linear):
        return functional.linear(x, weight, connection.bias)
    one = connection
    settings = one.bias, one.stride, one.padding, one.dilation, one.groups
    out = functional.conv2d(x.flatten(0, -4), weight, *settings)
    return out.reshape(*x.shape[:-3], *out.shape[1:])


def _spikes(current: Tensor, neuron: Neuron, spike: Step) -> Tensor:
    """`reference.simulate` with another `spike`."""
    rest = torch.zeros_like(current[0])
    train = []
    for current_t in current:
        potential = (1 - 1 / neuron.tau_m) * rest + current_t
        train.append(spike(potential - neuron.threshold))
        rest = potential * (1 - train[-1])
    return torch.stack(train)


def smooth_gradients(net: AnyNetwork, batch: Batch) -> dict[str, Tensor]:
    """Gradients by layer of the network whose neurons are `logistic`, by autograd."""
    weights = {name: one.requires_grad_() for name, one in inspection.weights(net).items()}
    value = batch.loss(forward(net, weights, batch.images, logistic), batch.labels)
    parts = torch.autograd.grad(value, list(weights.values()))
    return dict(zip(weights, parts, strict=True))


def coordinates_of(net: AnyNetwork, directions: int | None, seed: int) -> dict[str, Coordinates]:
    """The coordinates of every layer: all weights, or so many random directions.

    Standard normal coordinates move a layer by the length of its weights, in root mean square.

    Raises:
        InvalidInput: a layer has fewer weights than `directions`.
    """
    views = {}
    for name, weight in inspection.weights(net).items():
        axes = None
        if directions is not None:
            if directions > weight.numel():
                raise InvalidInput(
                    f"directions must be at most {weight.numel()}, the weights of layer {name}, "
                    f"got {directions}"
                )
            draw = generator(seed, f"directions of {name}")
            normal = torch.randn(weight.numel(), directions, dtype=torch.float64, generator=draw)
            axes = torch.linalg.qr(normal).Q.T
        count = directions or weight.numel()
        views[name] = Coordinates(weight, weight.norm().item() / math.sqrt(count), axes)
    return views


def losses_around(
    net: AnyNetwork, views: Mapping[str, Coordinates], batch: Batch, spike: Step
) -> Callable[[Tensor], Tensor]:
    """The loss as a function of coordinates: from ``[places, coordinates]`` to ``[places]``.

    The coordinates are those of all `views`, one after the other; other layers stay as they are.
    """
    weights = inspection.weights(net)
    counts = [view.number for view in views.values()]

    def one(place: Tensor) -> Tensor:
        parts = zip(views.items(), place.split(counts), strict=True)
        moved = weights | {name: view.moved(part) for (name, view), part in parts}
        return batch.loss(forward(net, moved, batch.images, spike), batch.labels)

    outputs = (
        sum(net.neuron_counts.values())
        if isinstance(net, CustomNetwork)
        else sum(math.prod(part.out_shape) for part in net.plan)
    )
    numbers = net.time_steps * len(batch.labels) * outputs
    mapped: Callable[[Tensor], Tensor] = vmap(one, chunk_size=1 + NUMBERS_AT_ONCE // (1 + numbers))
    return mapped


@torch.no_grad()
def estimates(
    probes: Sequence[Probe], count: int, rounds: int, seed: int, purpose: str = "noise"
) -> Tensor:
    """Estimate gradients at 0 of functions smoothed with Gaussian noise, all with the same noise.

    Args:
        probes: functions from ``[places, count]`` to ``[places]``, each with a noise width.
        count: number of coordinates, and of the antithetic pairs of a round.
        rounds: independent estimates.
        seed, purpose: of the noise.

    Returns:
        ``[probes, rounds, count]`` float64.
    """
    found = torch.empty(len(probes), rounds, count, dtype=torch.float64)
    for number in range(rounds):
        noise = orthogonal_noise(count, generator(seed, purpose, step=number))
        for index, (function, width) in enumerate(probes):
            change = (function(width * noise) - function(-width * noise)) / (2 * width)
            found[index, number] = change @ noise / count
    return found


def orthogonal_noise(count: int, random: torch.Generator) -> Tensor:
    """``[count, count]``: rows that are standard normal each, and orthogonal to each other.

    The sign of a row is not random, which the pairs make up for.
    """
    normal = torch.randn(count, count, dtype=torch.float64, generator=random)
    columns: Tensor = torch.linalg.qr(normal).Q * normal.norm(dim=0)
    return columns.T


def cosine(gradient: Tensor, estimates: Tensor, sample: Sample = "rounds") -> Cosine:
    """Cosine of a gradient and the truth that noisy estimates have as their mean, corrected.

    With a and b the means of the first and second half of the estimates, and g the gradient, it is
    ``(<g, a> + <g, b>) / 2 / (|g| sqrt(<a, b>))``: the errors of a and b are independent, so
    ``<a, b>`` is on average the truth's squared length, where ``<a, a>`` would be longer.

    The 95 % interval is Student's, with the jackknife's standard error (Efron & Tibshirani 1993).
    Drawn from normal numbers, such intervals held the truth in 94 % to 99 % of the cases, more
    where the noise is large, since the jackknife counts twice what the errors of both halves do
    together; along 16 or 24 directions in about 91 %, along 64 in 95 %. Where the truth is rarely
    clear of the noise, as 1 in 10, the cosine is too small when it is: ``<a, b>`` had to be large.

    Args:
        gradient: ``[coordinates]``.
        estimates: ``[rounds, coordinates]``, independent; an even number of at least 4 rounds.
        sample: what the jackknife leaves out: a round, where the coordinates are all there are, or
            a coordinate, where they are random directions that stand for all the others.

    Returns:
        The cosine; none where the gradient is zero (``"no gradient"``), or where ``<a, b>`` is not
        `CLEAR` standard errors above zero, so that the truth cannot be told from noise
        (``"noise"``).
    """
    if not gradient.any():
        return Cosine(None, None, "no gradient")
    unit = gradient / gradient.norm()
    whole, left_out = _products(unit, estimates, "rounds")
    if whole[1] <= CLEAR * _error(part[:, 1] for part in left_out):
        return Cosine(None, None, "noise")
    if sample == "directions":
        whole, left_out = _products(unit, estimates, sample)
    if any(bool((part[:, 1] <= 0).any()) for part in left_out):
        return Cosine(None, None, "noise")
    value = _corrected(whole).item()
    freedom = sum(len(part) - 1 for part in left_out)
    spread = _error(map(_corrected, left_out)) * math.sqrt(freedom + 1)  # t_interval divides
    return Cosine(value, t_interval(value, spread, freedom + 1))


def between(gradients: Sequence[Tensor]) -> npt.NDArray[np.float64]:
    """Cosines of gradients of one layer, ``[n, n]``; NaN where one is zero."""
    flat = torch.stack([one.flatten() for one in gradients])
    unit = flat / flat.norm(dim=1, keepdim=True)
    cosines: npt.NDArray[np.float64] = (unit @ unit.T).clamp(-1, 1).numpy()
    return cosines


def _products(g: Tensor, estimates: Tensor, sample: Sample) -> tuple[Tensor, list[Tensor]]:
    """``(<g, a> + <g, b>) / 2``, ``<a, b>`` and ``<g, g>``: of all, and with one left out.

    Returns:
        ``[3]``, and for each of the independent parts of the sample ``[left out, 3]``.
    """
    half = len(estimates) // 2
    a, b = estimates[:half].mean(0), estimates[half:].mean(0)
    terms = torch.stack([g * (a + b) / 2, a * b, g * g], 1)  # [coordinates, 3]
    whole = terms.sum(0)
    if sample == "directions":
        return whole, [whole - terms]
    parts = []
    for mean, other, part in ((a, b, estimates[:half]), (b, a, estimates[half:])):
        fewer = (half * mean - part) / (half - 1)  # [half, coordinates]
        products = [(fewer + other) @ g / 2, fewer @ other, whole[2].expand(half)]
        parts.append(torch.stack(products, 1))
    return whole, parts


def _corrected(products: Tensor) -> Tensor:
    linear, truth, gradient = products.unbind(-1)
    return linear / (truth * gradient).sqrt()


def _error(left_out: Iterable[Tensor]) -> float:
    """The jackknife's standard error, from what remained with one left out of each part."""
    squares = [(len(x) - 1) * x.var(correction=0).item() for x in left_out]
    return math.sqrt(sum(squares))


def _check(nets: Mapping[str, AnyNetwork], directions: int | None) -> None:
    if not nets:
        raise InvalidInput("expected at least one rule's network, got none")
    first, *others = (list(net.parameters()) for net in nets.values())
    if any(net.training for net in nets.values()) or first[0].dtype != torch.float64:
        raise InvalidInput("expected float64 networks in evaluation mode: net.double().eval()")
    for weights in others:
        if len(weights) != len(first) or not all(map(torch.equal, first, weights)):
            raise InvalidInput("the rules' networks must have the same weights")
    count = sum(weight.numel() for weight in next(iter(nets.values())).weights.values())
    if directions is None and count > LARGEST:
        raise InvalidInput(
            f"the whole gradient can be estimated for at most {LARGEST:,} weights, the network "
            f"has {count:,}: take a smaller network, or a few random directions in each layer "
            "(directions=16, on the command line --directions 16)"
        )
