"""HM2-BP and ST-RSBP: learning rules that define errors for whole spike trains and single synapses.

This is a readable reference in plain PyTorch, for fully connected networks of up to about 100 time
steps. The rules of `tsslbp.rules`, which `tsslbp.spikes` runs, are of another kind: they map one
gradient for every neuron and step to another. The rules here have one error for a neuron's whole
spike train, and propagate it with a separate factor for each synapse. Autograd cannot express this.

Symbols, for one sample and the synapses between two layers:

============  ==============  =====================================================
``o_j, o_i``  inputs, counts  spike counts of input j and of neuron i
``e_i|j``     effect          S-PSP, the spike-train-level postsynaptic potential
``w_ij``      weight          weight from j to i
``a_i``                       T-PSP, the total: ``a_i = sum_j w_ij e_i|j``
``nu``        threshold       threshold; the rules take ``o_i = a_i / nu``
============  ==============  =====================================================

The S-PSP (`s_psp`) is the contribution of input j to the potential of neuron i at its spikes,
summed over these. ``a_i`` is therefore exactly the sum of the potentials at the spikes. In discrete
time, each of these potentials exceeds the threshold by some amount, which the reset to 0 discards,
so ``a_i`` exceeds ``nu o_i``. Hence ``o_i = a_i / nu`` is an approximation even without a leak.

Both rules share three steps (`gradients`):

- at the output, ``dE/do_i = o_i - y_i`` (`CountLoss`), and everywhere ``dE/da_i = dE/do_i / nu``;
- ``dE/dw_ij = dE/da_i da_i/dw_ij``;
- ``dE/do_j = sum_i dE/da_i da_i/do_j``, one layer down.

They differ in the two derivatives of ``a_i``, since ``e_i|j`` changes with both counts: `HM2BP`
and `STRSBP`.

The forward pass uses the neuron of this package (`tsslbp.neuron.reference`). The authors' equations
are the same, except for a delay of one step from layer to layer and a refractory period of two
steps, which are omitted here. Lateral inhibition at the output, recurrent connections, weight
regularisation and the weighting of samples are also omitted. Times are in steps; the papers
simulate 400 steps of 1 ms (`papers_neuron`).

Sources: Jin, Zhang & Li, "Hybrid macro/micro level backpropagation for training deep spiking neural
networks", NeurIPS 2018, with the code jinyyy666/mm-bp-snn; Zhang & Li, "Spike-train level
backpropagation for training deep recurrent spiking neural networks", NeurIPS 2019, with the code
stonezwr/ST-RSBP. The formulas are those that the code computes.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tsslbp import Neuron
from tsslbp.errors import InvalidInput
from tsslbp.neuron.reference import psc, simulate

PAPER_STEPS, PAPER_TAU_M, PAPER_TAU_S = 400, 64.0, 8.0  # of 1 ms, MNIST; both papers' code


def papers_neuron(time_steps: int) -> Neuron:
    """Return the papers' neuron if `time_steps` steps represent their 400 steps of 1 ms.

    tau_m = 64 ms and tau_s = 8 ms become 16 and 2 steps at T = 100, and 8 and 1 steps at T = 50,
    the smallest possible T. Spike counts are not scaled. The papers have a threshold for each
    layer; here it is 1, which sets the unit of the weights.
    """
    scale = time_steps / PAPER_STEPS
    return Neuron(PAPER_TAU_M * scale, PAPER_TAU_S * scale)


def s_psp(inputs: Tensor, spikes: Tensor, neuron: Neuron) -> Tensor:
    """Return the spike-train-level postsynaptic potentials ``e_i|j``.

    With the inputs' postsynaptic currents ``p_j``, the contribution of input j to the potential of
    neuron i is ``q[t] = (1 - 1/tau_m) (1 - s_i[t-1]) q[t-1] + p_j[t]``, and
    ``e_i|j = sum_t s_i[t] q[t]``. The reset ends the effect of earlier currents on the potential,
    but not the currents themselves. The computation runs backward in time:
    ``c_i[t] = s_i[t] + (1 - s_i[t]) (1 - 1/tau_m) c_i[t+1]`` is the fraction of a current of step t
    that remains at the neuron's next spike, and ``e_i|j = sum_t c_i[t] p_j[t]``. For fixed spike
    times this is the derivative of ``a_i`` with respect to ``w_ij``.

    Args:
        inputs: ``[T, N, in]``, spikes, or real values at every step.
        spikes: the neurons' spikes ``[T, N, out]``.
        neuron: constants of the neurons.

    Returns:
        ``[N, out, in]``, the potential for a weight of 1.

    Raises:
        InvalidInput: the two are not ``[T, N, ...]`` with the same T and N.

    Source: both papers' definition of the S-PSP, and ST-RSBP's code, which simulates it step by
    step; HM2-BP's code sums the same kernel in continuous time.
    """
    if inputs.dim() != 3 or spikes.dim() != 3 or inputs.shape[:2] != spikes.shape[:2]:
        raise InvalidInput(
            "inputs and spikes must be [T, N, in] and [T, N, out], "
            f"got {list(inputs.shape)} and {list(spikes.shape)}"
        )
    remains = torch.zeros_like(spikes[0])
    credit = torch.empty_like(spikes)
    for t in reversed(range(len(spikes))):
        remains = spikes[t] + (1 - spikes[t]) * (1 - 1 / neuron.tau_m) * remains
        credit[t] = remains
    return torch.einsum("tno,tni->noi", credit, psc(inputs, neuron.tau_s))


class MeanEffect(NamedTuple):
    """The mean S-PSP of one input spike, and its slope, over spike trains with given counts."""

    value: Tensor
    slope: Tensor  # with respect to the count


def mean_effect(counts: Tensor, time_steps: int, neuron: Neuron) -> MeanEffect:
    """Return the mean of ``e_i|j / o_j`` over random spike trains, a function ``h`` of ``o_i``.

    An input spike is equally likely at every step, and neuron i fires at each step with probability
    ``p = o_i / T``. The mean contribution to the potential is then
    ``q[t] = (1 - 1/tau_m) (1 - p) q[t-1] + p_j[t]``, where ``p_j`` is the synaptic filter's
    response to ``1 / T`` at every step, and ``h(o_i) = p sum_t q[t]``. ``h`` rises from 0, and
    saturates if neuron i fires again before its membrane potential has decayed.

    Args:
        counts: ``o_i``, 0..T, any shape.
        time_steps: T.
        neuron: constants of the neurons.

    Source: ST-RSBP's code samples 1,000 pairs of trains for each pair of counts, and fits a
    polynomial of fourth degree in ``o_i`` for each ``o_j``; the mean is linear in ``o_j``. Its
    trains have exactly ``o_i`` spikes, which makes ``h`` larger by 10 % at two spikes and by 2 % at
    ten. Its refractory period flattens ``h`` above 20 spikes in 400 steps.
    """
    p = counts / time_steps
    q, q_slope, total, slope = (torch.zeros_like(p) for _ in range(4))
    decay = 1 - 1 / neuron.tau_m
    for current in psc(torch.full((time_steps, 1), 1 / time_steps).to(p), neuron.tau_s):
        q_slope = decay * ((1 - p) * q_slope - q)
        q = decay * (1 - p) * q + current
        total, slope = total + q, slope + q_slope
    return MeanEffect(p * total, (total + p * slope) / time_steps)


class Connection(NamedTuple):
    """The values from which a rule computes the gradients of the synapses between two layers."""

    weight: Tensor  # [out, in]
    effect: Tensor  # e: [N, out, in]
    inputs: Tensor  # o_j: [N, in]
    counts: Tensor  # o_i: [N, out]
    time_steps: int
    neuron: Neuron


def connect(weight: Tensor, inputs: Tensor, spikes: Tensor, neuron: Neuron) -> Connection:
    """Describe synapses of `weight` ``[out, in]`` between spike trains, shaped as in `s_psp`."""
    effect = s_psp(inputs, spikes, neuron)
    return Connection(weight, effect, inputs.sum(0), spikes.sum(0), len(spikes), neuron)


@dataclass(frozen=True)
class SpikeTrainRule(ABC):
    """Base of both rules: the derivatives of the T-PSP ``a_i = sum_j w_ij e_i|j``."""

    @abstractmethod
    def by_weight(self, synapses: Connection) -> Tensor:
        """Return ``da_i/dw_ij``, ``[N, out, in]``."""

    @abstractmethod
    def by_count(self, synapses: Connection) -> Tensor:
        """Return ``da_i/do_j``, ``[N, out, in]``."""


@dataclass(frozen=True)
class HM2BP(SpikeTrainRule):
    """Hybrid macro/micro level backpropagation (Jin, Zhang & Li, NeurIPS 2018).

    The S-PSP is assumed to be decoupled, ``e_i|j = alpha_ij o_i o_j``, where ``alpha_ij`` depends
    on the spike times and is held constant. Then ``de_i|j/do_j = e_i|j / o_j``,
    ``de_i|j/do_i = e_i|j / o_i`` and

    - ``da_i/do_j = w_ij e_i|j / o_j``;
    - ``da_i/dw_ij = e_i|j (1 + (1 / nu) sum_l w_il e_i|l / o_i)``: a change of the weight changes
      the neuron's own count by ``e_i|j / nu``, and thereby all of its S-PSPs. The effect of these
      on the count is ignored. The factor is ``1 + a_i / (nu o_i)``, above 2 for every neuron that
      fired.

    For a silent neuron the formulas give 0 or 0 / 0, and the constants below replace them. If all
    of these are 0, a silent neuron has no gradient and propagates none.

    Attributes:
        silent_effect: ``e_i|j`` of a silent neuron i and an input j that spiked, in
            ``da_i/dw_ij``.
        silent_own: ``e_i|j / o_i`` of a silent neuron i.
        silent_ratio: ``e_i|j / o_j`` if neuron i or input j is silent.

    Raises:
        InvalidInput: a field is negative or not finite.

    Source: HM2-BP's decoupled model of the S-PSP and the gradient that follows from it; the three
    constants are those of its code.
    """

    silent_effect: float = 0.1
    silent_own: float = 0.5
    silent_ratio: float = 1.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not _is_finite(value) or value < 0:
                raise InvalidInput(f"HM2BP: {field.name} must not be negative, got {value!r}")

    def by_weight(self, synapses: Connection) -> Tensor:
        silent = (synapses.counts == 0).unsqueeze(-1)  # [N, out, 1]
        own = _ratio(synapses.effect, synapses.counts.unsqueeze(-1), self.silent_own)
        gain = 1 + (synapses.weight * own).sum(-1, keepdim=True) / synapses.neuron.threshold
        stand_in = self.silent_effect * (synapses.inputs > 0).to(own).unsqueeze(1)  # [N, 1, in]
        return torch.where(silent, stand_in, synapses.effect) * gain

    def by_count(self, synapses: Connection) -> Tensor:
        silent = (synapses.counts == 0).unsqueeze(-1)
        ratio = _ratio(synapses.effect, synapses.inputs.unsqueeze(1), self.silent_ratio)
        return synapses.weight * torch.where(silent, self.silent_ratio, ratio)


@dataclass(frozen=True)
class STRSBP(SpikeTrainRule):
    """Spike-train level backpropagation (Zhang & Li, NeurIPS 2019), feedforward connections.

    The S-PSP is linear in the input's count, ``de_i|j/do_j = e_i|j / o_j``. It grows with the
    neuron's own count like its mean over random spike trains, ``de_i|j/do_i = o_j h'(o_i)``
    (`mean_effect`). The effect of the neuron's count on itself is a geometric series, which is
    summed completely:

    - ``S_i = 1 - (1 / nu) h'(o_i) sum_l w_il o_l``;
    - ``da_i/dw_ij = e_i|j / S_i``;
    - ``da_i/do_j = w_ij e_i|j / (o_j S_i)``.

    With HM2-BP's estimate of ``de_i|j/do_i`` instead of ``o_j h'``, ``S_i`` would be
    ``1 - a_i / (nu o_i)``, which is negative. With ``h'``, ``S_i`` is positive where ``h``
    saturates: the rule is designed for long membrane time constants and many spikes. If the
    membrane has no memory, ``h`` is linear, and ``S_i`` crosses 0 when the mean current crosses the
    threshold. Neither this code nor the authors' bounds it. A silent neuron has no gradient and
    propagates none.

    Source: ST-RSBP's backpropagated error of a hidden feedforward layer, and its code.
    """

    def by_weight(self, synapses: Connection) -> Tensor:
        return synapses.effect / self.feedback(synapses).unsqueeze(-1)

    def by_count(self, synapses: Connection) -> Tensor:
        ratio = _ratio(synapses.effect, synapses.inputs.unsqueeze(1), 0.0)
        return synapses.weight * ratio / self.feedback(synapses).unsqueeze(-1)

    def feedback(self, synapses: Connection) -> Tensor:
        """Return ``S_i``, ``[N, out]``."""
        counts = torch.arange(synapses.time_steps + 1).to(synapses.counts)
        slope = mean_effect(counts, synapses.time_steps, synapses.neuron).slope
        drive = synapses.inputs @ synapses.weight.T  # sum_l w_il o_l
        return 1 - drive * slope[synapses.counts.long()] / synapses.neuron.threshold


RULES: dict[str, type[SpikeTrainRule]] = {"HM2BP": HM2BP, "STRSBP": STRSBP}


def gradients(rule: SpikeTrainRule, network: Sequence[Connection], error: Tensor) -> list[Tensor]:
    """Return the gradients ``dE/dw``, ``[out, in]`` each, summed over the batch.

    They are linear in `error`.

    Args:
        rule: `HM2BP` or `STRSBP`.
        network: the synapses from the first layer to the last.
        error: ``dE/do`` of the output neurons ``[N, out]``.
    """
    found: list[Tensor] = []
    for synapses in reversed(network):
        delta = error / synapses.neuron.threshold  # dE/da
        found.append(torch.einsum("no,noi->oi", delta, rule.by_weight(synapses)))
        error = torch.einsum("no,noi->ni", delta, rule.by_count(synapses))
    return found[::-1]


@dataclass(frozen=True)
class CountLoss:
    """``E = 1/2 sum_i (o_i - y_i)^2`` over the neurons whose count is not within a margin.

    Attributes:
        desired, undesired: the desired spike counts y_i of the label's neuron and of the others.
        margin: a count within this distance of y_i has no error.

    Raises:
        InvalidInput: `desired` is not positive, or another field is negative.

    Source: both papers' loss; the counts and the margin are those of their code for MNIST.
    """

    desired: int = 35
    undesired: int = 5
    margin: int = 5

    def __post_init__(self) -> None:
        if self.desired < 1 or min(self.undesired, self.margin) < 0:
            raise InvalidInput(
                "CountLoss: desired must be at least 1, undesired and margin at least 0, "
                f"got {self.desired}, {self.undesired} and {self.margin}"
            )

    def error(self, counts: Tensor, labels: Tensor) -> Tensor:
        """Return ``dE/do``, ``[N, classes]``: ``o_i - y_i``, or 0 within the margin."""
        desired = torch.full_like(counts, self.undesired)
        desired.scatter_(1, labels.unsqueeze(1), self.desired)
        difference = counts - desired
        return difference * (difference.abs() > self.margin)


def teach(spikes: Tensor, labels: Tensor, desired: int) -> Tensor:
    """If the label's neuron is silent, let it spike every ``T // desired`` steps.

    A silent neuron has no S-PSP and could not learn to fire. The error is still that of a silent
    neuron.

    Args:
        spikes: spikes of the output neurons, ``[T, N, classes]``; they are not changed.
        labels: ``[N]``.
        desired: the desired count of `CountLoss`.

    Source: both papers' code.
    """
    teacher = torch.zeros_like(spikes[:, 0, 0]).view(-1, 1, 1)  # [T, 1, 1]
    period = max(len(spikes) // desired, 1)
    teacher[period::period] = 1
    classes = torch.arange(spikes.shape[2], device=labels.device)
    silent = (labels.unsqueeze(1) == classes) & (spikes.sum(0) == 0)  # [N, classes]
    return torch.where(silent, teacher, spikes)


class SpikeTrainNetwork(nn.Module):
    """A fully connected network of spiking neurons, without biases.

    Weights are uniform, with mean 0 and standard deviation ``threshold / sqrt(in)``.

    Args:
        sizes: numbers of inputs, hidden neurons of each layer, and classes, such as (64, 100, 10).
        neuron: the neurons' constants.
        generator: random number generator for the weights.

    Raises:
        InvalidInput: fewer than two sizes, or one below 1.
    """

    def __init__(
        self, sizes: Sequence[int], neuron: Neuron, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        if len(sizes) < 2 or min(sizes) < 1:
            raise InvalidInput(
                f"sizes must be two or more numbers of at least 1, such as (64, 100, 10), "
                f"got {tuple(sizes)}"
            )
        self.neuron = neuron
        self.weights = nn.ParameterList()
        for fan_in, fan_out in pairwise(sizes):
            weight = 2 * torch.rand(fan_out, fan_in, generator=generator) - 1
            self.weights.append(nn.Parameter(weight * neuron.threshold * math.sqrt(3 / fan_in)))

    @torch.no_grad()
    def forward(self, inputs: Tensor) -> list[Tensor]:
        """Return the spike trains of all layers, ``[T, N, size]`` each, beginning with `inputs`.

        Raises:
            InvalidInput: `inputs` are not ``[T, N, sizes[0]]``.
        """
        if inputs.dim() != 3 or inputs.shape[2] != self.weights[0].shape[1]:
            raise InvalidInput(
                f"inputs must be [T, N, {self.weights[0].shape[1]}], got {list(inputs.shape)}"
            )
        trains = [inputs]
        for weight in self.weights:
            current = psc(trains[-1], self.neuron.tau_s) @ weight.T
            trains.append(simulate(current, self.neuron).spikes)
        return trains

    def connections(self, trains: Sequence[Tensor]) -> list[Connection]:
        """Return the connections of all layers, from the `trains` that `forward` returned."""
        return [
            connect(weight.detach(), before, after, self.neuron)
            for weight, (before, after) in zip(self.weights, pairwise(trains), strict=True)
        ]

    def predict(self, inputs: Tensor) -> Tensor:
        """Return classes ``[N]``: the neuron with the most spikes, or the first of several."""
        output: Tensor = self(inputs)[-1]
        return output.sum(0).argmax(1)


@torch.no_grad()
def train_step(
    net: SpikeTrainNetwork,
    rule: SpikeTrainRule,
    loss: CountLoss,
    optimizer: torch.optim.Optimizer,
    inputs: Tensor,
    labels: Tensor,
) -> float:
    """Update the weights by the mean gradient of a batch; return the mean loss before the update.

    Args:
        net: the network.
        rule: `HM2BP` or `STRSBP`.
        loss: the loss with the desired counts.
        optimizer: optimiser of the network's parameters.
        inputs: ``[T, N, in]``.
        labels: ``[N]``.
    """
    trains = net(inputs)
    error = loss.error(trains[-1].sum(0), labels)
    trains[-1] = teach(trains[-1], labels, loss.desired)
    found = gradients(rule, net.connections(trains), error / len(labels))
    for weight, gradient in zip(net.weights, found, strict=True):
        weight.grad = gradient
    optimizer.step()
    return error.square().sum(1).mean().item() / 2


def _ratio(effect: Tensor, counts: Tensor, silent: float) -> Tensor:
    """Return ``effect / counts``, or `silent` where the count is 0."""
    fired = counts > 0
    return torch.where(fired, effect / torch.where(fired, counts, 1), silent)


def _is_finite(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
