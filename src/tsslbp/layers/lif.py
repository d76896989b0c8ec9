"""`LIF`: spiking neurons as a module, whose constants may be trained."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import final

import torch
from torch import Tensor, nn

from .. import neuron
from ..checked import check_number, check_whole
from ..errors import InvalidInput, nearest
from ..neuron import Neuron, NeuronLayer, reference
from ..neuron.reference import Shared
from ..neuron.settings import check_dense
from ..neuron.tracing import is_exported, is_mapped
from ..rules import TSSLBP, Rule

CONSTANTS = ("tau_m", "tau_s", "threshold")

_SHARED: ContextVar[Shared | None] = ContextVar("shared", default=None)


@final
class LIF(nn.Module):
    """Leaky integrate-and-fire neurons behind a synaptic filter, one for each value of the input.

    From rest, with the weighted input ``x[t]``, what a connection returns,

    - ``I[t] = (1 - 1/tau_s) I[t-1] + x[t] / tau_s``, the input current,
    - ``u[t] = (1 - 1/tau_m) u[t-1] (1 - s[t-1]) + I[t]``, the membrane potential,
    - ``s[t] = 1 if u[t] > threshold else 0``, the spike, which is what the module returns.

    Backward, `rule` maps dL/ds to dL/dI. This is a layer of neurons as in `tsslbp.Network`, in the
    same kernel, and no state is kept between calls. ``tau_s = 1`` is no filter, and ``tau_m = 1``
    no memory.

    Learned constants are one number a layer each, trained as ``raw_tau_m``, ``raw_tau_s`` and
    ``raw_threshold``:

    - ``tau = 1 + exp(raw)``, so that ``1/tau`` is a logistic function of ``-raw`` as in PLIF, and
      tau stays above 1;
    - ``threshold = exp(raw)``.

    Their gradients follow from the rule's, ``d[t] = dL/dI[t]``, by the chain rule. A change of the
    leak acts on the potential as an added current does, one of `tau_s` on the current as an added
    input, and a higher threshold on the spike of its step as a lower potential does, but not on
    the potential that stays:

    - ``dL/dtau_m = 1/tau_m^2 sum_t d[t] u[t-1] (1 - s[t-1])``,
    - ``dL/dtau_s = - sum_t dL/dx[t] (I[t] - I[t-1])``,
    - ``dL/dthreshold = - sum_t k[t]``, where k[t] is the part of d[t] that the spike of step t
      carries. With ``decay = 1 - 1/tau_m`` it is ``d[t] - decay (1 - s[t]) d[t+1]`` for
      `Surrogate`, ``d[t] - decay d[t+1]`` for `SLAYER`, ``d[t] s[t]`` for `EventProp` and
      `SpikeBP`, the same or, in warm-up, d[t] for `TSSLBP`, and d[t] for `NA`.

    For `Surrogate` these are the derivatives that backpropagation through time with that surrogate
    gives. Derivation: ``neuron/README.md``, 24 to 27.

    Args:
        tau_m: membrane time constant in time steps, at least 1.
        tau_s: synaptic time constant in time steps, at least 1. The rule takes it for that of the
            filter behind the spikes, too, which is the next layer's.
        threshold: potential above which (strictly) a neuron fires; positive.
        rule: learning rule.
        learnable: which of ``"tau_m"``, ``"tau_s"`` and ``"threshold"`` are trained, starting from
            the values given; a learned time constant has to start above 1.
        impl: implementation, see `tsslbp.spikes`. The GPU's kernels cannot train constants: there
            ``"auto"`` takes plain PyTorch, and waits for the device at every call.
        time_steps: T, for the first neurons of a network that takes static images: an input
            without time is then the same at all T steps, and the connection before it is computed
            once, not T times.
        pool: side of the window of a sum pooling in the same kernel; 1: none.
        pool_scale: factor on the sum over a window.
        output_psc: whether a second filter follows, so that PSCs are returned, as the output layer
            of `tsslbp.Network` does.

    Attributes:
        start: what the layer computes, a `tsslbp.neuron.NeuronLayer`, with the constants given.
        neurons: the same with its constants as they are now.
        learnable: the names of those that are trained.

    Shape:
        In: ``[T, N, features]`` or ``[T, N, C, H, W]``; with `time_steps` also ``[N, features]``
        or ``[N, C, H, W]``. Out: ``[T, N, ...]``, pooled ``[T, N, C, H // pool, W // pool]``.

    Raises:
        InvalidInput: a setting or an input does not fit.

    Source: Zhang & Li (2020) for the neuron; Fang, Yu, Chen, Masquelier, Huang & Tian,
    "Incorporating learnable membrane time constant to enhance learning of spiking neural networks"
    (ICCV 2021), PLIF, for learned time constants.
    """

    def __init__(
        self,
        tau_m: float = 5.0,
        tau_s: float = 3.0,
        threshold: float = 1.0,
        rule: Rule = TSSLBP(),  # noqa: B008 (frozen)
        learnable: Sequence[str] = (),
        impl: str = "auto",
        *,
        time_steps: int | None = None,
        pool: int = 1,
        pool_scale: float = 1.0,
        output_psc: bool = False,
    ) -> None:
        super().__init__()
        if time_steps is not None:
            time_steps = check_whole("time_steps", time_steps)
        self.start = NeuronLayer(
            Neuron(tau_m, tau_s, threshold),
            rule,
            impl,
            pool=check_whole("pool", pool),
            pool_scale=check_number("pool_scale", pool_scale),
            output_psc=output_psc,
        )
        self.time_steps = time_steps
        self.learnable = _checked(learnable, self.start)
        for name in self.learnable:
            lowest = 0.0 if name == "threshold" else 1.0
            raw = math.log(getattr(self.start.neuron, name) - lowest)
            self.register_parameter(f"raw_{name}", nn.Parameter(torch.tensor(raw)))

    @property
    def neurons(self) -> NeuronLayer:
        if not self.learnable:
            return self.start
        return replace(self.start, neuron=Neuron(*self._constants().tolist()))

    def forward(self, x: Tensor) -> Tensor:
        check_dense("the input", x)
        time_steps, shared = self._steps_of_constant(x), _SHARED.get()
        if not self.learnable:
            return neuron.layer(x, self.start, time_steps, shared)
        if is_exported():
            raise InvalidInput(
                "a graph for other programs cannot hold constants that are learned; "
                "tsslbp.export.to_plain makes them numbers"
            )
        constants = self._constants()
        if is_mapped(x, constants):
            raise InvalidInput("torch.func.vmap cannot map neurons whose constants are learned")
        neurons = replace(self.start, neuron=Neuron(*constants.tolist()))
        return neuron.layer(x, neurons, time_steps, shared, constants=constants)

    def current(self, x: Tensor) -> Tensor:
        """Input current I ``[T, N, ...]`` that the input `x` becomes; not for training."""
        steps, neurons = self._steps_of_constant(x), self.neurons
        x = x if steps is None else x.expand(steps, *x.shape)
        return neuron.psc(x, neurons.neuron.tau_s, impl=neurons.impl)

    def spikes(self, x: Tensor) -> Tensor:
        """Spikes ``[T, N, ...]`` before pooling and filter; not for training."""
        plain = replace(self.neurons, pool=1, output_psc=False)
        return neuron.layer(x, plain, self._steps_of_constant(x))

    def _constants(self) -> Tensor:
        """`tau_m`, `tau_s` and `threshold` as they are now, float64 ``[3]``."""
        device, values = next(self.parameters()).device, []
        for name in CONSTANTS:
            value = torch.tensor(getattr(self.start.neuron, name), dtype=torch.float64)
            if name in self.learnable:
                raw: Tensor = getattr(self, f"raw_{name}")
                value = raw.double().exp() + (name != "threshold")
            values.append(value.to(device))
        return torch.stack(values)

    def _steps_of_constant(self, x: Tensor) -> int | None:
        """Return T where `x` has no time and stands for all steps; None where it has."""
        if x.ndim in (2, 4) and self.time_steps is not None:
            return self.time_steps
        if x.ndim not in (3, 5) or (self.time_steps is not None and len(x) != self.time_steps):
            hint = "; the first LIF of a network of static images takes time_steps"
            steps = self.time_steps or "T"
            raise InvalidInput(
                f"LIF expected a signal [{steps}, N, features] or [{steps}, N, C, H, W], got shape "
                f"{list(x.shape)}{'' if self.time_steps else hint}"
            )
        return None

    def extra_repr(self) -> str:
        constants = self.neurons.neuron
        parts = [f"{name}={getattr(constants, name):.6g}" for name in CONSTANTS]
        parts.append(f"rule={type(self.start.rule).__name__}")
        if self.learnable:
            parts.append(f"learnable={self.learnable}")
        if self.time_steps is not None:
            parts.append(f"time_steps={self.time_steps}")
        if self.start.pool > 1:
            parts.append(f"pool={self.start.pool}, pool_scale={self.start.pool_scale}")
        return ", ".join([*parts, *(["output_psc=True"] if self.start.output_psc else [])])


@contextmanager
def sharing(shared: Shared | None) -> Iterator[None]:
    """What all `LIF` share that are called within, see `tsslbp.neuron.reference.Shared`."""
    token = _SHARED.set(shared)
    try:
        yield
    finally:
        _SHARED.reset(token)


def _checked(learnable: Sequence[str], start: NeuronLayer) -> tuple[str, ...]:
    """Return what is learned, in the order of `CONSTANTS`.

    Raises:
        InvalidInput: there is no such constant, or it cannot be learned from there.
    """
    names = (learnable,) if isinstance(learnable, str) else tuple(learnable)
    for name in names:
        if name not in CONSTANTS:
            raise InvalidInput(
                f"learnable must hold names among {', '.join(CONSTANTS)}, got {name!r}"
                f"{nearest(str(name), CONSTANTS)}"
            )
        if name != "threshold" and getattr(start.neuron, name) == 1:
            raise InvalidInput(
                f"a learned {name} must start above 1, which 1 + exp(raw_{name}) only tends to"
            )
    if "threshold" in names and type(start.rule) not in reference.THROUGH_SPIKE:
        raise InvalidInput(
            f"the threshold cannot be learned by the rule {type(start.rule).__name__}: which part "
            "of its gradient a spike carries is for tsslbp.neuron.reference.THROUGH_SPIKE to say"
        )
    return tuple(name for name in CONSTANTS if name in names)
