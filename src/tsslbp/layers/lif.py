"""`LIF`: spiking neurons as a module; their constants can be trained."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import Any, final

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
    """Leaky integrate-and-fire neurons after a synaptic filter, one for each value of the input.

    With the weighted input ``x[t]`` that a connection returns, starting from rest,

    - ``I[t] = (1 - 1/tau_s) I[t-1] + x[t] / tau_s`` is the input current,
    - ``u[t] = (1 - 1/tau_m) u[t-1] (1 - s[t-1]) + I[t]`` is the membrane potential,
    - ``s[t] = 1 if u[t] > threshold else 0`` is the spike, which the module returns.

    Backward, `rule` maps dL/ds to dL/dI. The layer runs in the same kernel as the neurons of
    `tsslbp.Network` and keeps no state between calls. With ``tau_s = 1`` there is no filter, and
    with ``tau_m = 1`` the membrane has no memory.

    Each learnable constant is one number per layer. It is trained as ``raw_tau_m``, ``raw_tau_s``
    or ``raw_threshold``:

    - ``tau = 1 + exp(raw)``, so that ``1/tau`` is a logistic function of ``-raw`` as in PLIF, and
      tau stays above 1;
    - ``threshold = exp(raw)``.

    The gradients of the constants follow from the rule's ``d[t] = dL/dI[t]`` by the chain rule. A
    change of the leak acts on the potential like an added current. A change of `tau_s` acts on the
    current like an added input. A higher threshold acts on the spike of its step like a lower
    potential, but it does not change the potential that remains:

    - ``dL/dtau_m = 1/tau_m^2 sum_t d[t] u[t-1] (1 - s[t-1])``,
    - ``dL/dtau_s = - sum_t dL/dx[t] (I[t] - I[t-1])``,
    - ``dL/dthreshold = - sum_t k[t]``, where k[t] is the part of d[t] that the spike of step t
      carries. With ``decay = 1 - 1/tau_m`` it is ``d[t] - decay (1 - s[t]) d[t+1]`` for
      `Surrogate`, ``d[t] - decay d[t+1]`` for `SLAYER`, ``d[t] s[t]`` for `EventProp` and
      `SpikeBP`, the same or, in warm-up, d[t] for `TSSLBP`, and d[t] for `NA`.

    For `Surrogate`, these are the derivatives that backpropagation through time gives with the same
    surrogate. Derivation: ``neuron/README.md``, 24 to 27.

    Args:
        tau_m: membrane time constant in time steps, at least 1.
        tau_s: synaptic time constant in time steps, at least 1. The rule also uses it as the time
            constant of the filter after the spikes, which belongs to the next layer.
        threshold: potential that a neuron must exceed (strictly) to fire; positive.
        rule: learning rule.
        learnable: which of ``"tau_m"``, ``"tau_s"`` and ``"threshold"`` are trained, starting from
            the given values; a learnable time constant must start above 1.
        impl: implementation, see `tsslbp.spikes`. The GPU kernels cannot train constants; on a GPU,
            ``"auto"`` then selects plain PyTorch, which waits for the device at every call.
        time_steps: T, for the first neurons of a network that takes static images. An input without
            time then stays the same for all T steps, and the connection before it is computed once
            instead of T times.
        pool: side of the window of a sum pooling in the same kernel; 1 means no pooling.
        pool_scale: factor on the sum over a window.
        output_psc: whether a second synaptic filter follows, so that the module returns PSCs, like
            the output layer of `tsslbp.Network`.

    Attributes:
        start: what the layer computes with its initial constants, a `tsslbp.neuron.NeuronLayer`.
        neurons: the same with the present constants.
        learnable: names of the constants that are trained.

    Shape:
        Input: ``[T, N, features]`` or ``[T, N, C, H, W]``; with `time_steps` also ``[N, features]``
        or ``[N, C, H, W]``. Output: ``[T, N, ...]``, pooled ``[T, N, C, H // pool, W // pool]``.

    Raises:
        InvalidInput: an argument or an input is invalid.

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
        """The neurons with their present constants, as plain numbers without gradients."""
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
                "an exported graph cannot contain learned constants: "
                "convert them to numbers with tsslbp.export.to_plain"
            )
        constants = self._constants()
        if is_mapped(x, constants):
            raise InvalidInput("torch.func.vmap cannot map neurons with learned constants")
        neurons = replace(self.start, neuron=Neuron(*constants.tolist()))
        return neuron.layer(x, neurons, time_steps, shared, constants=constants)

    def current(self, x: Tensor) -> Tensor:
        """Return the input current I ``[T, N, ...]`` for the input `x`; not for training."""
        steps, neurons = self._steps_of_constant(x), self.neurons
        x = x if steps is None else x.expand(steps, *x.shape)
        return neuron.psc(x, neurons.neuron.tau_s, impl=neurons.impl)

    def spikes(self, x: Tensor) -> Tensor:
        """Return the spikes ``[T, N, ...]`` before pooling and filter; not for training."""
        plain = replace(self.neurons, pool=1, output_psc=False)
        return neuron.layer(x, plain, self._steps_of_constant(x))

    def _constants(self) -> Tensor:
        """The present `tau_m`, `tau_s` and `threshold`, float64 ``[3]``."""
        device, values = next(self.parameters()).device, []
        for name in CONSTANTS:
            value = torch.tensor(getattr(self.start.neuron, name), dtype=torch.float64)
            if name in self.learnable:
                raw: Tensor = getattr(self, f"raw_{name}")
                value = raw.double().exp() + (name != "threshold")
            values.append(value.to(device))
        return torch.stack(values)

    def _steps_of_constant(self, x: Tensor) -> int | None:
        """Return T if `x` has no time axis and is the same at all steps, otherwise None."""
        if x.ndim in (2, 4) and self.time_steps is not None:
            return self.time_steps
        if x.ndim not in (3, 5) or (self.time_steps is not None and len(x) != self.time_steps):
            hint = "; give the first LIF of a network of static images time_steps"
            steps = self.time_steps or "T"
            raise InvalidInput(
                f"LIF expects a signal [{steps}, N, features] or [{steps}, N, C, H, W], got shape "
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
    """Share `shared` among all `LIF` called within; see `tsslbp.neuron.reference.Shared`."""
    token = _SHARED.set(shared)
    try:
        yield
    finally:
        _SHARED.reset(token)


def _checked(learnable: Sequence[str], start: NeuronLayer) -> tuple[str, ...]:
    """Return the learnable constants in the order of `CONSTANTS`.

    Raises:
        InvalidInput: a constant is unknown, or it cannot be learned from its initial value.
    """
    is_one = isinstance(learnable, str) or not isinstance(learnable, Iterable)
    names: tuple[Any, ...] = (learnable,) if is_one else tuple(learnable)
    for name in names:
        if name not in CONSTANTS:
            raise InvalidInput(
                f"learnable must contain names among {', '.join(CONSTANTS)}, got {name!r}"
                f"{nearest(str(name), CONSTANTS)}"
            )
        if name != "threshold" and getattr(start.neuron, name) == 1:
            raise InvalidInput(
                f"a learnable {name} must start above 1, because {name} = 1 + exp(raw_{name}), "
                "got 1"
            )
    if "threshold" in names and type(start.rule) not in reference.THROUGH_SPIKE:
        raise InvalidInput(
            f"the rule {type(start.rule).__name__} cannot train the threshold: register the part "
            "of its gradient that a spike carries in tsslbp.neuron.reference.THROUGH_SPIKE"
        )
    return tuple(name for name in CONSTANTS if name in names)
