"""ANN-to-SNN conversion: a network trained with ReLU, run with integrate-and-fire neurons.

The ReLU twin of an experiment's network (`build_relu_network`) is trained under the experiment's
conditions (`relu_experiment`) by `tsslbp.training.fit`. `plain` converts it once for any number of
time steps: each layer's threshold is a high percentile of its activations on training images
(Rueckauer et al. 2017), and potentials start at zero. `calibrated` converts it for one T, also
without further training:

1. The threshold is the one at which T steps represent the layer's activations with the least mean
   squared error (Li et al. 2021).
2. Potentials start at half the threshold. Activations are then rounded to the nearest number of
   spikes in T steps, instead of down (Deng & Gu 2021).

Thresholds are merged into the weights (weight balancing, Diehl et al. 2015), so that all thresholds
and spikes are 1.

Sources: Diehl et al., "Fast-classifying, high-accuracy spiking deep networks through weight and
threshold balancing" (IJCNN 2015). Rueckauer et al., "Conversion of continuous-valued deep networks
to efficient event-driven networks for image classification" (Frontiers in Neuroscience 2017): the
percentile, reset by subtraction, the image as a constant current. Deng & Gu, "Optimal conversion of
conventional artificial neural networks to spiking neural networks" (ICLR 2021). Li et al., "A free
lunch from ANN: towards efficient, accurate spiking neural networks calibration" (ICML 2021).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, cast, final

import torch
from torch import Tensor, nn

from .. import losses
from ..data import DataSet, Frames, normalise, subset
from ..errors import InvalidInput
from ..experiment import Experiment, is_described, network_name
from ..layers import Conv, Linear, NeuNorm
from ..network import LayeredModel, Model, Network, SpikingLayer
from ..neuron.reference import sum_pool
from ..training import Split, build_network, evaluation_batches, splits

PERCENTILE = 99.9  # of a layer's activations, zeros included; within the range of Rueckauer et al.
CALIBRATION_IMAGES = 500  # training images that determine the thresholds
CANDIDATES = 100  # thresholds to try, at equal distances up to the largest activation
SPIKING_KEYS = (  # keys of an experiment that are meaningless for a ReLU network
    *("time_steps", "tau_m", "tau_s", "threshold", "rule"),
    *("target_filters", "desired_train", "desired_count", "undesired_count", "tet_weight"),
)
SAMPLE = 100_000  # activations of a layer on which thresholds are tried


@final
class ReLULayer:
    """A connection, ReLU, and sum pooling, on ``[..., C, H, W]`` or ``[..., features]``.

    The output layer has no ReLU.
    """

    def __init__(
        self, name: str, connection: Conv | Linear, pool: int, pool_scale: float, is_output: bool
    ) -> None:
        self.name, self.connection, self.is_output = name, connection, is_output
        self.pool, self.pool_scale = pool, pool_scale

    def __call__(self, x: Tensor) -> Tensor:
        return self.passed_on(self.activation(x))

    def activation(self, x: Tensor) -> Tensor:
        """Return the layer's activations before its pooling."""
        current: Tensor = self.connection(x)
        return current if self.is_output else current.relu()

    def passed_on(self, x: Tensor) -> Tensor:
        """Return what the next layer receives for given activations or spikes."""
        return x if self.pool == 1 else sum_pool(x, self.pool, self.pool_scale)


@final
class ReLUNetwork(LayeredModel):
    """The twin of a spiking network, with ReLU instead of its neurons and without time.

    It has the connections, pooling and dropout of `net` and starts with a copy of its weights.
    There are no biases.

    Shape:
        Input: images ``[N, C, H, W]``. Output: ``[1, N, classes]``, a single time step, so that
        losses, `tsslbp.predict` and `tsslbp.training` handle it like that of a spiking network.

    Raises:
        InvalidInput: `net` has NeuNorm, whose state depends on time.
    """

    time_steps = 1

    def __init__(self, net: Network) -> None:
        super().__init__()
        if any(isinstance(layer, NeuNorm) for layer in net.layers):
            raise InvalidInput(
                "a ReLU network has no time steps, which NeuNorm needs: set neunorm=false"
            )
        self.input_shape, self.description = net.input_shape, f"{net.description} with ReLU"
        for name, layer in copy.deepcopy(net).named_layers():
            self.append(name, _twin(layer))

    @property
    def relu_layers(self) -> list[ReLULayer]:
        """The layers with ReLU, and the output layer, in their order."""
        return [layer for layer in self.layers if isinstance(layer, ReLULayer)]

    def forward(self, x: Tensor) -> Tensor:
        x = self.with_time(x)
        for layer in self.layers:
            x = layer(x)
        return x

    @torch.no_grad()
    def activations(self, x: Tensor) -> dict[str, Tensor]:
        """Return every layer's activations before its pooling, ``[N, ...]``, by name."""
        found, x = {}, self.with_time(x)
        for layer in self.layers:
            if isinstance(layer, ReLULayer):
                activation = layer.activation(x)
                found[layer.name] = activation[0]
                x = layer.passed_on(activation)
            else:
                x = layer(x)
        return found

    def with_time(self, x: Tensor) -> Tensor:
        """Return images ``[N, ...]`` as one time step, ``[1, N, ...]``.

        Raises:
            InvalidInput: the shape of an image is not `input_shape`.
        """
        if x.shape[1:] != self.input_shape:
            channels, height, width = self.input_shape
            raise InvalidInput(
                f"expected images [N, {channels}, {height}, {width}], got shape {list(x.shape)}; "
                "spike trains cannot be converted"
            )
        return x[None]


def _twin(layer: SpikingLayer | nn.Module) -> ReLULayer | nn.Module:
    if not isinstance(layer, SpikingLayer):
        return layer  # flattening, pooling, dropout
    neurons = layer.neurons
    return ReLULayer(
        layer.name, layer.connection, neurons.pool, neurons.pool_scale, neurons.output_psc
    )


def relu_experiment(experiment: Experiment) -> Experiment:
    """Return the experiment that trains the ReLU twin of an experiment's network.

    Initial weights, order, crops, dropout, optimiser, clipping, epochs and patience are those of
    the spiking network; the loss is the cross-entropy of the outputs. Keys without a meaning in a
    network without spikes have their defaults, so that runs that train alike have equal settings.
    """
    defaults: dict[str, Any] = {field.name: field.default for field in fields(Experiment)}
    without = {name: defaults[name] for name in SPIKING_KEYS}
    return replace(experiment, activation="relu", loss="softmax", **without)


def build_relu_network(experiment: Experiment, data: DataSet) -> ReLUNetwork:
    """Build the ReLU twin of an experiment's network, or of the result of `relu_experiment`.

    On a GPU, ``precision = "bf16"`` has the same effect as tf32.

    Raises:
        InvalidInput: the network cannot be converted, or the data are recordings.
    """
    if isinstance(data.train_images, Frames):
        raise InvalidInput(
            f"a ReLU network takes images, but {data.name} holds recordings of events"
        )
    if not is_described(experiment.network):
        raise InvalidInput(
            "conversion requires a network described by its layers, such as '16C3-P2-128', "
            f"got {network_name(experiment.network)!r}"
        )
    net = build_network(replace(experiment, activation=None), data.input_shape, data.classes)
    assert isinstance(net, Network)
    return ReLUNetwork(net)


@torch.no_grad()
def balanced(net: ReLUNetwork, scales: Mapping[str, float]) -> ReLUNetwork:
    """Divide every layer's activations by its scale; the network's function stays the same.

    Layer l's weights become ``W_l scale[l-1] / scale[l]``. Since ReLU commutes with positive
    factors, its activations become ``a_l / scale[l]``. The outputs are divided by their own scale.

    Args:
        net: the network; it is not changed.
        scales: positive, by layer name; 1 for missing names.

    Source: Diehl et al. (2015), weight normalisation.
    """
    twin, before = copy.deepcopy(net).eval(), 1.0
    for layer in twin.relu_layers:
        scale = scales.get(layer.name, 1.0)
        layer.connection.weight.mul_(before / scale)
        before = scale
    return twin


@final
class ConvertedNetwork(Model):
    """A ReLU network whose activations are represented by firing rates; for inference only.

    The neurons integrate and fire without leak, with reset by subtraction:
    ``u[t] = u[t-1] + I[t]``, ``s[t] = 1`` where ``u[t] >= 1``, then ``u[t] -= s[t]``. I is the
    connection's result for the spikes that arrive in the same step or, in the first layer, for the
    image at every step. The output layer does not spike: its outputs are its currents. A constant
    current x between 0 and 1 gives ``floor(x T + u[-1])`` spikes in T steps, so the spikes per step
    approach the activations if these are at most 1.

    Not to be confused with `tsslbp.Network`, whose neurons leak, filter their input, are reset to
    zero, and spike strictly above the threshold.

    Args:
        relu: a network whose activations are in units of the thresholds (`balanced`); it is used,
            not copied.
        time_steps: T.
        initial: potential before the first step, in thresholds.

    Shape:
        Input: images ``[N, C, H, W]``. Output: ``[T, N, classes]``, for `tsslbp.predict`; the mean
        over time approaches the ReLU network's outputs. No state is kept between calls.
    """

    def __init__(self, relu: ReLUNetwork, time_steps: int, initial: float = 0.0) -> None:
        super().__init__()
        if time_steps < 1:
            raise InvalidInput(f"time_steps must be at least 1, got {time_steps}")
        self.relu = relu.eval().requires_grad_(False)
        self.time_steps, self.initial = time_steps, initial

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([list(emitted.values())[-1] for emitted in self.simulate(x)])

    def simulate(self, x: Tensor) -> Iterator[dict[str, Tensor]]:
        """Run the T time steps.

        Yields:
            For each step, by the layers' names, the spikes of the hidden layers, ``[1, N, ...]``,
            and the outputs, ``[1, N, classes]``.
        """
        potentials: dict[str, Tensor] = {}
        image = self.relu.with_time(x)
        for _ in range(self.time_steps):
            x, emitted = image, dict[str, Tensor]()
            for layer in self.relu.layers:
                if not isinstance(layer, ReLULayer):
                    x = layer(x)
                    continue
                current = layer.connection(x)
                if not layer.is_output:
                    potential = potentials.get(layer.name, self.initial) + current
                    current = (potential >= 1).to(x.dtype)
                    potentials[layer.name] = potential - current
                emitted[layer.name] = current
                x = layer.passed_on(current)
            yield emitted


def plain(
    net: ReLUNetwork, images: Tensor, time_steps: int, percentile: float = PERCENTILE
) -> ConvertedNetwork:
    """Convert without calibration, in the same way for every T.

    Args:
        net: in evaluation mode; it is not changed.
        images: normalised ``[N, C, H, W]``, training images.
        time_steps: number of time steps T.
        percentile: a layer's threshold is its smallest activation that this percentage of its
            activations does not exceed; 100 is the largest activation.

    Raises:
        InvalidInput: `percentile` is not above 0 and at most 100, or another argument is invalid.
    """
    if not 0 < percentile <= 100:
        raise InvalidInput(f"percentile must be above 0 and at most 100, got {percentile}")
    thresholds = _thresholds(net, images, lambda found: _percentile(found, percentile))
    return ConvertedNetwork(balanced(net, thresholds), time_steps)


def calibrated(net: ReLUNetwork, images: Tensor, time_steps: int) -> ConvertedNetwork:
    """Convert for `time_steps`, as described at the beginning of this module.

    Other numbers of steps would need other thresholds.

    Args:
        net: in evaluation mode; it is not changed.
        images: normalised ``[N, C, H, W]``, training images.
        time_steps: T.
    """
    thresholds = _thresholds(net, images, lambda found: least_error_threshold(found, time_steps))
    return ConvertedNetwork(balanced(net, thresholds), time_steps, initial=0.5)


def _thresholds(
    net: ReLUNetwork, images: Tensor, choose: Callable[[Tensor], float]
) -> dict[str, float]:
    *hidden, _ = net.activations(images).items()
    return {name: choose(activation) for name, activation in hidden}


def _percentile(activation: Tensor, percentile: float) -> float:
    """Return the percentile of the activations; instead of 0 the largest activation, or 1."""
    values = activation.flatten()
    rank = math.ceil(len(values) * percentile / 100)
    return values.kthvalue(rank).values.item() or values.max().item() or 1.0


def expressible(activation: Tensor, threshold: float | Tensor, time_steps: int) -> Tensor:
    """Return the nearest activation that T steps can represent: n threshold / T, n from 0 to T.

    ``threshold/T clamp(floor(T a/threshold + 1/2), 0, T)``: the output of a neuron with a constant
    current whose potential starts at half the threshold.
    """
    spikes = (activation * (time_steps / threshold) + 0.5).floor().clamp(0, time_steps)
    return spikes * (threshold / time_steps)


def least_error_threshold(activation: Tensor, time_steps: int) -> float:
    """Return the threshold, of `CANDIDATES`, with the least squared error of `expressible`, or 1.

    Source: Li et al. (2021), on the choice of the threshold.
    """
    values = activation[activation > 0]  # zero can always be represented
    if not len(values):
        return 1.0
    values = values[:: len(values) // SAMPLE + 1]
    largest = values.max().item()
    thresholds = [largest * (number + 1) / CANDIDATES for number in range(CANDIDATES)]

    def error(threshold: float) -> float:
        return (expressible(values, threshold, time_steps) - values).square().mean().item()

    return min(thresholds, key=error)


@torch.no_grad()
def measure(
    net: ConvertedNetwork, split: Split, mean: Sequence[float], std: Sequence[float]
) -> dict[str, list[float]]:
    """Return the accuracy of `net` on a split when it stops after 1, 2, ..., T steps.

    Returns:
        ``"test_accuracy_by_step"``, between 0 and 1, and ``"spikes_per_image_by_step"``, the spikes
        of all hidden neurons up to that step.
    """
    correct = torch.zeros(net.time_steps, dtype=torch.int64, device=split.labels.device)
    spikes = torch.zeros(net.time_steps, dtype=torch.float64, device=split.labels.device)
    for part in evaluation_batches(len(split.labels), net.time_steps):
        images, labels = split.images[part], split.labels[part]
        outputs = cast(Tensor, 0)
        for step, emitted in enumerate(net.simulate(normalise(images, mean, std))):
            *hidden, output = emitted.values()
            outputs = outputs + output
            correct[step] += (losses.predict(outputs) == labels).sum()
            spikes[step] += sum(layer.sum(dtype=torch.float64) for layer in hidden)
    count = len(split.labels)
    return {
        "test_accuracy_by_step": (correct.double() / count).tolist(),
        "spikes_per_image_by_step": (spikes.cumsum(0) / count).tolist(),
    }


def by_steps(
    experiment: Experiment, data: DataSet, net: ReLUNetwork, time_steps: Sequence[int]
) -> dict[str, Any]:
    """Return test accuracy and spikes of `net`, converted plainly and calibrated, by step.

    Args:
        experiment: determines the training images and their normalisation.
        data: data of the experiment.
        net: its trained ReLU network.
        time_steps: numbers of steps. The plain network runs once, for the largest number, and is
            read after each number; calibration is repeated for each number.

    Returns:
        JSON values: ``"plain"``, and ``"calibrated"`` by T, each as returned by `measure`.
    """
    device = str(next(net.parameters()).device)
    statistics = experiment.mean, experiment.std
    train_split, _, test = splits(experiment, data)
    test = test.to(device)
    chosen = subset(len(train_split.labels), min(CALIBRATION_IMAGES, len(train_split.labels)))
    images = normalise(train_split.images[chosen].to(device), *statistics)

    return {
        "plain": measure(plain(net, images, max(time_steps)), test, *statistics),
        "calibrated": {
            str(steps): measure(calibrated(net, images, steps), test, *statistics)
            for steps in sorted(time_steps)
        },
    }
