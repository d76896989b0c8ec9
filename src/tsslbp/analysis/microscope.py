"""The gradient microscope compares learning rules' gradients with the effect of changing weights.

Spikes are step functions, so the loss L is a step function of the weights w and has no useful
derivative. The true gradient is defined here as that of the loss smoothed with Gaussian noise on
the weights, ``grad E[L(w + width unit e)]`` with ``e ~ N(0, 1)``. It is taken for each weight of a
layer in units of the layer's root mean square weight, so that a width means the same in every
layer. It is estimated by finite differences over antithetic pairs (Salimans et al. 2017), in
float64,

    ``x = (L(w + width unit e) - L(w - width unit e)) / (2 width) e``,

with the same e for all rules and widths. A round has as many vectors e as they have components, and
these are orthogonal to each other (Choromanski et al. 2018). Each of them is still Gaussian. The
linear part of the loss, which causes most of the noise from other weights, is then measured almost
exactly in every round.

The noise changes the weights of all layers at once, and the gradient is split by layer. Noise in
only one layer would smooth the loss differently for every layer. With noise in all layers, the
parts are one gradient of one loss, as the parts of a learning rule's gradient should be. This
requires a small network. Along a few random directions in each layer, any network can be examined:
the noise is then restricted to these directions, in one layer at a time, since noise of all other
weights would hide the effect. It is as long as noise in the whole layer would be.

In a custom network, the layers are the parameters of two or more dimensions, by name. Its neurons
and connections are computed in plain PyTorch while their weights are changed.

A rule's gradient g and the mean a of many x are both vectors. The noise in a makes it longer, and
its cosine with g smaller than that of the true gradient. `cosine` corrects this with two
independent halves of the rounds, as a correlation is corrected for attenuation (Spearman 1904).

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
from ..errors import Diverged, InvalidInput, shown
from ..experiment.seeding import generator
from ..layers import LIF, Conv, Linear
from ..losses import Loss
from ..network import CustomNetwork, Network, SpikingLayer
from ..neuron import Neuron, NeuronLayer, reference
from ..stats import Interval, t_interval
from . import inspection

LARGEST = 2_000  # weights of a network whose whole gradient is estimated
FEWEST_DIRECTIONS = 16  # for an interval
ROUNDS = 10
WIDTHS = (0.01, 0.03, 0.1, 0.3)
CONTROL_WIDTH = 0.01  # so narrow that the smooth network's loss is nearly linear within it
SOFTNESS = 0.2  # of the control's neurons, in units of the potential: that of TSSL-BP's surrogate
AGREEMENT = 0.99  # cosine that the control must reach
CLEAR = 3.0  # standard errors above zero at which the halves' product counts as positive
NUMBERS_AT_ONCE = 1_000_000  # spikes of the networks that are computed together

Sample = Literal["rounds", "directions"]  # the sample for an interval
Step = Callable[[Tensor], Tensor]  # spikes from the potential's distance above the threshold
AnyNetwork = Network | CustomNetwork
Probe = tuple[Callable[[Tensor], Tensor], float]  # a loss of coordinates, and a noise width


class Cosine(NamedTuple):
    """Cosine of a rule's gradient and the true gradient, or the reason why there is none.

    The correction makes it unbiased, so individual values can exceed 1.
    """

    value: float | None
    interval: Interval | None
    reason: str = ""


class Coordinates(NamedTuple):
    """Coordinates in which a layer's weights are changed and its gradients are measured.

    Attributes:
        weight: the weights at coordinates 0.
        unit: length of a unit step along a coordinate.
        directions: ``[coordinates, weights]``, orthonormal; None: each coordinate is a weight.
    """

    weight: Tensor
    unit: float
    directions: Tensor | None

    @property
    def number(self) -> int:
        """Number of coordinates."""
        return self.weight.numel() if self.directions is None else len(self.directions)

    def moved(self, place: Tensor) -> Tensor:
        """Return the weights at the coordinates `place`."""
        step = place if self.directions is None else place @ self.directions
        return self.weight + self.unit * step.view(self.weight.shape)

    def along(self, gradient: Tensor) -> Tensor:
        """Return the derivatives ``[coordinates]`` along the coordinates, per unit length."""
        flat = gradient.flatten()
        return flat if self.directions is None else self.directions @ flat


@dataclass(frozen=True)
class LayerCosines:
    """Cosines and other measurements of one layer.

    Attributes:
        name: as in `tsslbp.analysis.inspection.weights`.
        weights: number of weights.
        firing_rate: spikes per neuron and step on the images; None in a custom network, where it is
            not known which neurons the weights feed.
        truth: by rule, the cosine of its gradient with the true gradient at every noise width.
        between: ``[rules, rules]``, cosines between the rules' gradients; NaN if one is zero.
        control: like `truth`, for the exact gradient of the smooth network.
    """

    name: str
    weights: int
    firing_rate: float | None
    truth: dict[str, list[Cosine]]
    between: npt.NDArray[np.float64]
    control: Cosine

    def to_table(self) -> dict[str, Any]:
        """Return all values in lists and tables, for JSON, with None for NaN."""
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
    """Images on which the gradients are computed.

    Attributes:
        loss: takes the output PSC and the labels.
        images: normalised ``[N, C, H, W]``, or spike trains ``[T, N, C, H, W]``; float64.
        labels: ``[N]`` int64.
    """

    loss: Loss
    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Noise:
    """How the true gradient is estimated.

    Attributes:
        widths: widths of the noise, relative to a layer's root mean square weight.
        rounds: number of rounds, even; each evaluates two losses per coordinate and width.
        directions: number of random coordinates in each layer; None: all weights.
        seed: seed of the noise and the directions.

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
            raise InvalidInput(
                f"noise widths must be positive numbers, got {shown(list(self.widths))}"
            )
        rounds = as_whole(self.rounds) or 0
        if rounds < 4 or rounds % 2:
            raise InvalidInput(f"rounds must be an even number of at least 4, got {self.rounds}")
        object.__setattr__(self, "widths", widths)
        object.__setattr__(self, "rounds", rounds)
        if self.directions is not None:
            directions = check_whole("directions", self.directions, FEWEST_DIRECTIONS)
            object.__setattr__(self, "directions", directions)


def examine(nets: Mapping[str, AnyNetwork], batch: Batch, noise: Noise) -> list[LayerCosines]:
    """Compare rules' gradients with the true gradient and with each other, layer by layer.

    A control is included: the same network with logistic functions instead of the spikes' steps,
    whose exact gradient autograd computes. The estimate must agree with it.

    Args:
        nets: by rule, networks that differ only in their rule; float64, in evaluation mode.
        batch: the images on which the gradients are computed.
        noise: how the true gradient is estimated.

    Returns:
        The layers from input to output.

    Raises:
        InvalidInput: the networks are invalid; or one has more than `LARGEST` weights and
            `directions` is None; or `torch.func.vmap` cannot map the code of a custom network.
        Diverged: a rule's gradient is not finite.
    """
    _check(nets, noise.directions)
    net = next(iter(nets.values()))
    gradients = {rule: inspection.gradients(one, *batch) for rule, one in nets.items()}
    for rule, layers in gradients.items():
        for name, gradient in layers.items():
            if not gradient.isfinite().all():
                raise Diverged(f"the gradient of layer {name} by {rule} contains NaN or infinity")
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
    """Return `estimates` by layer, at every noise width, then those of the smooth network."""
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
            f"{net.description} cannot be evaluated for many weights at once by torch.func.vmap, "
            f"which the microscope requires: {reason:.200}"
        ) from error
    return dict(zip(places, found.split(counts, 2), strict=True))


def step(distance: Tensor) -> Tensor:
    """Return the spike: 1 above the threshold, else 0."""
    return (distance > 0).to(distance.dtype)


def logistic(distance: Tensor) -> Tensor:
    """Return a smooth approximation of `step`."""
    return torch.sigmoid(distance / SOFTNESS)


def forward(net: AnyNetwork, weights: Mapping[str, Tensor], images: Tensor, spike: Step) -> Tensor:
    """Return the output PSC ``[T, N, classes]`` of `net` with other weights and another `spike`.

    With `step` it equals the output of the network itself. `torch.func` can map it over weights.
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
    """Compute a network's neurons with another `spike`, using only what `torch.func` can map."""
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
    """Apply a connection, optionally with another weight, in operations `torch.func` can map."""
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
    """Return the gradients by layer of the network with `logistic` neurons, by autograd."""
    weights = {name: one.requires_grad_() for name, one in inspection.weights(net).items()}
    value = batch.loss(forward(net, weights, batch.images, logistic), batch.labels)
    parts = torch.autograd.grad(value, list(weights.values()))
    return dict(zip(weights, parts, strict=True))


def coordinates_of(net: AnyNetwork, directions: int | None, seed: int) -> dict[str, Coordinates]:
    """Return the coordinates of every layer: all weights, or a number of random directions.

    Standard normal coordinates change a layer by its root mean square weight.

    Raises:
        InvalidInput: a layer has fewer weights than `directions`.
    """
    views = {}
    for name, weight in inspection.weights(net).items():
        axes = None
        if directions is not None:
            if directions > weight.numel():
                raise InvalidInput(
                    f"directions must be at most {weight.numel()}, the number of weights of layer "
                    f"{name}, got {directions}"
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
    """Return the loss as a function of coordinates: ``[places, coordinates]`` to ``[places]``.

    The coordinates are those of all `views`, one after the other; other layers are not changed.
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
        count: number of coordinates, and of antithetic pairs per round.
        rounds: number of independent estimates.
        seed, purpose: determine the noise.

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
    """Return ``[count, count]``: rows that are each standard normal and mutually orthogonal.

    The sign of a row is not random; the antithetic pairs use both signs.
    """
    normal = torch.randn(count, count, dtype=torch.float64, generator=random)
    columns: Tensor = torch.linalg.qr(normal).Q * normal.norm(dim=0)
    return columns.T


def cosine(gradient: Tensor, estimates: Tensor, sample: Sample = "rounds") -> Cosine:
    """Return the corrected cosine of a gradient and the mean of noisy estimates.

    Let a and b be the means of the first and second half of the estimates, and g the gradient. The
    cosine is ``(<g, a> + <g, b>) / 2 / (|g| sqrt(<a, b>))``. The errors of a and b are independent,
    so the expectation of ``<a, b>`` is the squared length of the true gradient, whereas that of
    ``<a, a>`` is larger.

    The 95 % interval uses Student's t and the jackknife's standard error (Efron & Tibshirani 1993).
    In simulations with normal numbers, such intervals covered the truth in 94 % to 99 % of the
    cases. The coverage is higher for large noise, because the jackknife then counts the joint
    effect of both halves' errors twice. Along 16 or 24 directions it was about 91 %, along 64
    directions 95 %. If the true gradient rarely exceeds the noise, for example in 1 of 10 cases,
    the cosine is too small in those cases, since ``<a, b>`` was large by selection.

    Args:
        gradient: ``[coordinates]``.
        estimates: ``[rounds, coordinates]``, independent; an even number of at least 4 rounds.
        sample: what the jackknife leaves out: a round, if the coordinates are all weights, or a
            coordinate, if they are random directions that represent all others.

    Returns:
        The cosine. It is None if the gradient is zero (``"no gradient"``), or if ``<a, b>`` is less
        than `CLEAR` standard errors above zero, so that the true gradient cannot be distinguished
        from noise (``"noise"``).
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
    """Return the cosines between gradients of one layer, ``[n, n]``; NaN if one is zero."""
    flat = torch.stack([one.flatten() for one in gradients])
    unit = flat / flat.norm(dim=1, keepdim=True)
    cosines: npt.NDArray[np.float64] = (unit @ unit.T).clamp(-1, 1).numpy()
    return cosines


def _products(g: Tensor, estimates: Tensor, sample: Sample) -> tuple[Tensor, list[Tensor]]:
    """Return ``(<g, a> + <g, b>) / 2``, ``<a, b>`` and ``<g, g>``, also with one left out.

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
    """Return the jackknife's standard error from the values with one left out of each part."""
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
            f"the whole gradient can be estimated for at most {LARGEST:,} weights, but the network "
            f"has {count:,}: use a smaller network, or random directions in each layer "
            "(directions=16, on the command line --directions 16)"
        )
