"""The neuron: leaky integrate-and-fire with a synaptic filter forward, a learning rule backward.

`spikes` is the primitive, `psc` is the synaptic filter, and `lif` applies both in one kernel.
Networks use `layer`, which also applies the filter before the neuron and the pooling after it.
README.md in this folder has the derivations, and reference.py is the specification.

An implementation is a module with `psc`, `layer`, and the table `BACKWARD` of the learning rules
that it supports. If a rule supports only a limited number of time steps, `MOST_STEPS` says so.
"""

from __future__ import annotations

import functools
import importlib.util
import math
import os
from types import ModuleType
from typing import Any, cast

import torch
from torch import Tensor

from ..checked import check_whole
from ..errors import InvalidInput
from ..rules import TSSLBP, Rule
from . import reference
from .reference import Shared as Shared
from .settings import COMPILES, check_dense, check_implementation, check_number, check_time_constant
from .settings import IMPLEMENTATIONS as IMPLEMENTATIONS
from .settings import Neuron as Neuron
from .settings import NeuronLayer as NeuronLayer
from .tracing import is_exported, is_mapped

DTYPES = {  # that the fused kernels support; an implementation is named after its device
    "cpu": (torch.float32, torch.float64),
    "cuda": (torch.float32, torch.float64, torch.bfloat16),
}
_HAS_TRITON = importlib.util.find_spec("triton") is not None


def psc(x: Tensor, tau_s: float = 3.0, *, impl: str = "auto") -> Tensor:
    """Synaptic filter ``a[t] = (1 - 1/tau_s) a[t-1] + x[t] / tau_s``, starting from rest.

    Args:
        x: ``[T, ...]``, a floating-point dtype, usually spikes.
        tau_s: synaptic time constant in time steps, at least 1.
        impl: as for `spikes`.

    Returns:
        The postsynaptic current (PSC) ``[T, ...]``. Its sum over time is not the spike count.

    Raises:
        InvalidInput: the input, a constant or the implementation is invalid.

    Source: Zhang & Li (2020), first-order synaptic model.
    """
    _check_input(x, "x")
    check_time_constant("tau_s", tau_s)
    check_implementation(impl)
    return cast(Tensor, _implementation(impl, x, None).psc(x, float(tau_s)))


def spikes(
    current: Tensor,
    *,
    tau_m: float = 5.0,
    tau_s: float = 3.0,
    threshold: float = 1.0,
    rule: Rule = TSSLBP(),  # noqa: B008 (frozen)
    impl: str = "auto",
    shared: Shared | None = None,
) -> Tensor:
    """Spike train of leaky integrate-and-fire neurons.

    Forward, starting from rest, ``u[t] = (1 - 1/tau_m) u[t-1] (1 - s[t-1]) + current[t]`` and
    ``s[t] = 1 if u[t] > threshold else 0``. Backward, `rule` maps dL/ds to dL/d(current). This is
    not the derivative of the forward pass, which is zero wherever it exists.

    Args:
        current: weighted input ``[T, ...]``, a floating-point dtype, one value per neuron and step.
        tau_m: membrane time constant in time steps, at least 1.
        tau_s: synaptic time constant in time steps, at least 1; used by the rule's backward pass.
        threshold: potential that a neuron must exceed (strictly) to fire; positive.
        rule: learning rule.
        impl: ``"reference"`` (plain PyTorch, any device), ``"cpu"`` (fused kernels for float32 and
            float64 on the CPU), ``"cuda"`` (fused kernels for float32, float64 and bfloat16 on a
            GPU; bfloat16 is computed in float32; needs Triton) or ``"auto"`` (fused kernels if they
            support the input and the rule, otherwise the reference).
        shared: what the layers of a network share, for rules that depend on other layers or other
            processes; by default `current` is taken to be the whole batch of a single layer.

    Returns:
        Spikes ``[T, ...]``, 0 or 1, in the dtype of `current`.

    Raises:
        InvalidInput: the input, a constant or the implementation is invalid.

    Source: Zhang & Li (2020) and its public code; docs/reproduction.md.
    """
    neurons = _checked_once(False, rule, impl, tau_m, tau_s, threshold)
    return layer(current, neurons, shared=shared, name="current")


def lif(
    current: Tensor,
    *,
    tau_m: float = 5.0,
    tau_s: float = 3.0,
    threshold: float = 1.0,
    rule: Rule = TSSLBP(),  # noqa: B008 (frozen)
    impl: str = "auto",
    shared: Shared | None = None,
) -> Tensor:
    """``psc(spikes(current))`` in one kernel: the PSC ``[T, ...]`` of a layer of neurons.

    Arguments, errors and source are the same as for `spikes`.
    """
    neurons = _checked_once(True, rule, impl, tau_m, tau_s, threshold)
    return layer(current, neurons, shared=shared, name="current")


def layer(
    x: Tensor,
    neurons: NeuronLayer,
    time_steps: int | None = None,
    shared: Shared | None = None,
    *,
    constants: Tensor | None = None,
    name: str = "x",
) -> Tensor:
    """``spikes(psc(x))`` in one kernel, then sum pooling and a second `psc` if requested.

    The synaptic filter commutes with the linear connection before it. A network may therefore
    filter the connection's result and pass spikes from layer to layer.

    Args:
        x: ``[T, N, ...]``, or ``[N, ...]`` with `time_steps`: an input that is the same at every
            step, such as the connection's result for a static image. With pooling the shape ends
            in ``[C, H, W]``.
        neurons: what the layer computes, and with which implementation.
        time_steps: number of steps T of a constant input.
        shared: as for `spikes`.
        constants: `tau_m`, `tau_s` and `threshold` as a tensor ``[3]`` if they are trained. Its
            values equal those of `neurons`, and it receives their gradients (README.md, 24 to 27).
            This requires `filter_input` and is not supported by the GPU kernels.
        name: name of the input in error messages.

    Returns:
        ``[T, N, ...]``, or ``[T, N, C, H // pool, W // pool]``.

    Raises:
        InvalidInput: the input or the implementation is invalid.
    """
    if time_steps is not None and (type(time_steps) is not int or time_steps >= 2**63):
        time_steps = check_whole("time_steps", time_steps)
    if time_steps is not None and time_steps < 1:
        raise InvalidInput(f"time_steps must be at least 1, got {time_steps}")
    _check_input(x if time_steps is None else x[None], name)
    _check_shared(neurons.rule, shared)
    if constants is not None and is_mapped(x, constants):
        raise InvalidInput("torch.func.vmap cannot map neurons with learned constants")
    _check_pool(x.ndim + (time_steps is not None), x, neurons.pool)
    steps = time_steps or len(x)
    if constants is None:
        implementation = _implementation(neurons.impl, x, neurons.rule, steps)
        return cast(Tensor, implementation.layer(x, neurons, time_steps or 0, shared))
    if not neurons.filter_input:
        raise InvalidInput(
            "constants can be trained only if a synaptic filter precedes the neurons, "
            "got filter_input=False"
        )
    implementation = _implementation(_learning(neurons.impl, x), x, neurons.rule, steps)
    return cast(Tensor, implementation.layer(x, neurons, time_steps or 0, shared, constants))


def _checked_once(output_psc: bool, rule: Rule, impl: str, *constants: float) -> NeuronLayer:
    for name, value in zip(("tau_m", "tau_s", "threshold"), constants, strict=True):
        check_number(name, value)
    key: tuple[Any, ...] = output_psc, rule, impl, *map(float, constants)
    if torch.compiler.is_compiling():  # it cannot trace a cached function
        return _without_filter(*key)
    try:
        return _kept(*key)
    except TypeError:  # an argument that cannot be hashed, such as a rule with a list
        return _without_filter(*key)


def _without_filter(output_psc: bool, rule: Rule, impl: str, *constants: float) -> NeuronLayer:
    return NeuronLayer(Neuron(*constants), rule, impl, filter_input=False, output_psc=output_psc)


_kept = functools.lru_cache(maxsize=256)(_without_filter)  # checking takes 10 % of a small layer


def _implementation(impl: str, x: Tensor, rule: Rule | None, steps: int = 1) -> ModuleType:
    """Choose the implementation; an error names one that supports the input and the rule."""
    able = "reference" if is_exported() else _fitting(x)
    name = able if impl == "auto" else impl
    if name != "reference" and not _fits(name, x):
        *most, last = (str(dtype).removeprefix("torch.") for dtype in DTYPES[name])
        raise InvalidInput(
            f"impl={name!r} supports {', '.join(most)} or {last} on device {name}, "
            f"got {x.dtype} on {x.device}; use impl={able!r}"
        )
    if name == "cuda" and is_mapped(x):
        raise InvalidInput("torch.func.vmap cannot map impl='cuda'; use impl='reference'")
    if name != "reference" and is_exported():
        raise InvalidInput(
            f"impl={name!r} cannot be exported, since its kernels exist only in tsslbp; use "
            "impl='auto', which selects plain PyTorch for an export"
        )
    if name == "cuda" and not _HAS_TRITON:
        raise InvalidInput(
            "impl='cuda' needs the package triton, which is not installed; "
            f"install it with pip install 'tsslbp[gpu]', or use impl={able!r}"
        )
    if name == "cpu" and not COMPILES:
        raise InvalidInput(
            "impl='cpu' needs Numba's compiler, which NUMBA_DISABLE_JIT turns off: unset it, or "
            f"use impl={able!r}"
        )
    module = _module(name)
    if rule is None or steps <= _most_steps(module, rule):
        return module
    if impl == "auto" and type(rule) in reference.BACKWARD:
        return reference
    if impl == "auto":
        raise InvalidInput(
            f"no implementation supports the learning rule {type(rule).__name__}: "
            "register its function in tsslbp.neuron.reference.BACKWARD, see docs/rules.md"
        )
    known = ", ".join(known.__name__ for known in module.BACKWARD)
    elsewhere = module is not reference and type(rule) in reference.BACKWARD
    hint = "; impl='reference' supports it" if elsewhere else ""
    many = f" for {steps} time steps" if type(rule) in module.BACKWARD else ""
    raise InvalidInput(
        f"impl={name!r} does not support the learning rule {type(rule).__name__}{many}; "
        f"it supports: {known}{hint}"
    )


def _module(name: str) -> ModuleType:
    """Import an implementation on first use, since importing kernels takes time.

    It uses import statements, which torch.compile executes; it would trace import_module.
    """
    if name == "cpu":
        from . import cpu

        return cpu
    if name == "cuda":
        from . import cuda

        return cuda
    return reference


def _learning(impl: str, x: Tensor) -> str:
    """Return the implementation that `impl` selects if constants are trained."""
    if impl == "cuda":
        raise InvalidInput(
            "impl='cuda' compiles a neuron's constants into its kernels and cannot train them; "
            "use impl='auto', which selects plain PyTorch on a GPU"
        )
    return "reference" if impl == "auto" and _fitting(x) == "cuda" else impl


def _most_steps(module: ModuleType, rule: Rule) -> float:
    """How many time steps an implementation supports with a rule; 0 if it lacks the rule."""
    if type(rule) not in module.BACKWARD:
        return 0
    limits: dict[type[Rule], int] = getattr(module, "MOST_STEPS", {})
    return limits.get(type(rule), math.inf)


def _check_shared(rule: Rule, shared: Shared | None) -> None:
    if rule.is_normalised and shared and shared.mean:
        raise InvalidInput(
            f"{type(rule).__name__} scales gradients by means over the whole batch, which cannot "
            "be split over processes; train in one process, or with normalise=False"
        )


def _fitting(x: Tensor) -> str:
    """Return the fastest installed implementation for `x`; `vmap` cannot map the GPU's."""
    can_run = {"cpu": COMPILES, "cuda": _HAS_TRITON and not is_mapped(x)}
    return next((name for name in DTYPES if can_run[name] and _fits(name, x)), "reference")


def _fits(name: str, x: Tensor) -> bool:
    devices = [name]
    if name == "cuda" and os.environ.get("TRITON_INTERPRET") == "1":  # Triton runs it on the CPU
        devices.append("cpu")
    return x.device.type in devices and x.dtype in DTYPES[name]


def _check_pool(dimensions: int, x: Tensor, pool: int) -> None:
    if pool < 1 or (pool > 1 and (dimensions != 5 or pool > min(x.shape[-2:]))):
        raise InvalidInput(
            f"pool must be at least 1 and its window fit into images [T, N, C, H, W], "
            f"got pool={pool} for an input of shape {tuple(x.shape)}"
        )


def _check_input(x: Tensor, name: str) -> None:
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.dtype.itemsize < 2:
        got = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise InvalidInput(
            f"{name} must be a floating-point tensor [T, ...] of at least 16 bits, got {got}"
        )
    check_dense(name, x)
    if x.ndim == 0 or len(x) == 0:
        raise InvalidInput(
            f"{name} must be [T, ...] with at least one time step, got shape {tuple(x.shape)}"
        )
