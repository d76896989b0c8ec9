"""What a layer of neurons computes, as data: `Neuron`, and `NeuronLayer`, which contains one."""

from __future__ import annotations

import math
import os
import sys
from dataclasses import dataclass
from numbers import Real

import torch
from torch import Tensor

from ..errors import InvalidInput, nearest
from ..rules import TSSLBP, Rule, from_config

LEAST_THRESHOLD = 1e-30  # half of it and its reciprocal are normal numbers in float32
IMPLEMENTATIONS = ("auto", "reference", "cpu", "cuda")
COMPILES = os.environ.get("NUMBA_DISABLE_JIT", "0") in ("", "0")  # whether Numba may compile


def check_implementation(impl: str) -> None:
    """Raise `InvalidInput` if the implementation is unknown."""
    if impl not in IMPLEMENTATIONS:
        known = ", ".join(IMPLEMENTATIONS)
        hint = nearest(str(impl), IMPLEMENTATIONS)
        raise InvalidInput(f"unknown implementation {impl!r}{hint}; known: {known}")


def check_dense(name: str, x: Tensor) -> None:
    """Raise `InvalidInput` if `x` is no tensor, or sparse, nested, or in an unknown layout."""
    if not isinstance(x, Tensor):
        raise InvalidInput(
            f"{name} must be a tensor, got {type(x).__name__}: convert it with torch.as_tensor(x)"
        )
    if x.is_nested or x.layout is not torch.strided:
        layout = "nested" if x.is_nested else str(x.layout).removeprefix("torch.")
        raise InvalidInput(
            f"{name} must be a dense tensor, got layout {layout}: convert it with x.to_dense()"
        )


def check_number(name: str, value: object) -> None:
    """Raise `InvalidInput` for a constant that is not a number.

    Above all a tensor is rejected, because its gradient would be silently lost.
    """
    if type(value) is not float and (isinstance(value, bool) or not isinstance(value, Real)):
        trained = name in ("tau_m", "tau_s", "threshold")
        hint = "; tsslbp.layers.LIF(learnable=...) trains constants" if trained else ""
        raise InvalidInput(f"{name} must be a number, got {type(value).__name__}{hint}")
    try:
        float(value)
    except OverflowError:
        largest = f"{sys.float_info.max:.1e}"
        raise InvalidInput(f"{name} must be at most {largest}, got a larger number") from None


def check_time_constant(name: str, value: float) -> None:
    """Raise `InvalidInput` for an invalid time constant."""
    check_number(name, value)
    if value == math.inf:
        why = {
            "tau_m": "; use 1e9, at which the leak is negligible in float32",
            "tau_s": ": such a synapse transmits nothing",
        }
        raise InvalidInput(f"{name} must be finite, got inf{why.get(name, '')}")
    if not value >= 1:
        raise InvalidInput(
            f"{name} must be at least 1 time step (below 1 the filter would overshoot), got {value}"
        )


@dataclass(frozen=True)
class Neuron:
    """Constants of a leaky integrate-and-fire neuron after a first-order synapse.

    With the weighted input ``x[t]``, starting from rest,

    - ``I[t] = (1 - 1/tau_s) I[t-1] + x[t] / tau_s`` is the input current;
    - ``u[t] = (1 - 1/tau_m) u[t-1] (1 - s[t-1]) + I[t]`` is the membrane potential, which a spike
      resets to 0;
    - ``s[t] = 1 if u[t] > threshold else 0`` is the spike.

    Attributes:
        tau_m: membrane time constant in time steps, at least 1.
        tau_s: synaptic time constant in time steps, at least 1.
        threshold: potential that the neuron must exceed (strictly) to fire, in units of the input
            current; from `LEAST_THRESHOLD` to its reciprocal, 1e30.

    Raises:
        InvalidInput: a constant is outside its range.

    Source: Zhang & Li (2020); the defaults are those of its public code, see docs/reproduction.md.
    """

    tau_m: float = 5.0
    tau_s: float = 3.0
    threshold: float = 1.0

    def __post_init__(self) -> None:
        check_time_constant("tau_m", self.tau_m)
        check_time_constant("tau_s", self.tau_s)
        check_number("threshold", self.threshold)
        if not (math.isfinite(self.threshold) and self.threshold > 0):
            raise InvalidInput(f"threshold must be a positive number, got {self.threshold}")
        if not LEAST_THRESHOLD <= float(self.threshold) <= 1 / LEAST_THRESHOLD:
            raise InvalidInput(
                f"threshold must be from {LEAST_THRESHOLD:g} to {1 / LEAST_THRESHOLD:g}, since "
                f"float32 computes reliably only there, got {float(self.threshold):g}"
            )
        for name in ("tau_m", "tau_s", "threshold"):
            value = getattr(self, name)
            if type(value) is not float:
                object.__setattr__(self, name, float(value))


@dataclass(frozen=True)
class NeuronLayer:
    """What a layer of neurons computes, and how; see `tsslbp.neuron.layer`.

    Attributes:
        neuron: constants shared by all neurons.
        rule: learning rule, or its name as in a recipe, such as ``"SLAYER"``.
        impl: implementation, see `tsslbp.spikes`.
        filter_input: whether a synaptic filter precedes the neurons.
        pool: side of the window of the sum pooling after the neurons; 1 means no pooling.
        pool_scale: factor on the sum over a window.
        output_psc: whether a second synaptic filter follows, so that the layer returns a PSC.

    Raises:
        InvalidInput: `neuron`, `rule` or `pool_scale` has the wrong type, or the implementation is
            unknown.
    """

    neuron: Neuron = Neuron()
    rule: Rule = TSSLBP()  # noqa: RUF009 (frozen)
    impl: str = "auto"
    filter_input: bool = True
    pool: int = 1
    pool_scale: float = 1.0
    output_psc: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.neuron, Neuron):
            raise InvalidInput(
                f"neuron must be constants such as tsslbp.Neuron(tau_m=5.0), got {self.neuron!r}"
            )
        if isinstance(self.rule, str):
            object.__setattr__(self, "rule", from_config(self.rule))
        if not isinstance(self.rule, Rule):
            raise InvalidInput(
                "rule must be a learning rule such as tsslbp.TSSLBP(), or the name of one, "
                f"got {self.rule!r}"
            )
        check_number("pool_scale", self.pool_scale)
        check_implementation(self.impl)

    def __hash__(self) -> int:
        """Hash only what differs within a network: every call of a kernel computes the hash."""
        return hash((self.neuron.tau_m, self.filter_input, self.pool, self.output_psc))
