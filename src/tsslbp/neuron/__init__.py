"""The neuron: leaky integrate-and-fire with a synaptic filter forward, a learning rule backward.

`spikes` is the primitive, `psc` the synaptic filter, `lif` the one after the other in one kernel.
`layer`, which networks use, also takes the filter before the neuron and the pooling after it. The
derivations are in README.md beside this file, the specification in reference.py.

An implementation is a module with `psc`, `layer`, and the table `BACKWARD` of the learning rules
that it has, with `MOST_STEPS` where a rule takes a limited number of time steps.
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

DTYPES = {  # of the fused kernels, by implementation, which has the name of its device
    "cpu": (torch.float32, torch.float64),
    "cuda": (torch.float32, torch.float64, torch.bfloat16),
}
_HAS_TRITON = importlib.util.find_spec("triton") is not None


def psc(x: Tensor, tau_s: float = 3.0, *, impl: str = "auto") -> Tensor:
    """Synaptic filter ``a[t] = (1 - 1/tau_s) a[t-1] + x[t] / tau_s``, from rest.

    Args:
        x: ``[T, ...]``, a floating-point dtype, usually spikes.
        tau_s: synaptic time constant in time steps, at least 1.
        impl: as for `spikes`.

    Returns:
        The postsynaptic current (PSC) ``[T, ...]``. Its sum over time is not a spike count.

    Raises:
        InvalidInput: the input, a constant or the implementation does not fit.

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

    Forward, from rest, ``u[t] = (1 - 1/tau_m) u[t-1] (1 - s[t-1]) + current[t]`` and
    ``s[t] = 1 if u[t] > threshold else 0``. Backward, `rule` maps dL/ds to dL/d(current); that is
    not the derivative of the forward pass, which has none.

    Args:
        current: weighted input ``[T, ...]``, a floating-point dtype, one entry a neuron.
        tau_m: membrane time constant in time steps, at least 1.
        tau_s: synaptic time constant in time steps, at least 1; the rule's backward pass reads it.
        threshold: potential above which (strictly) a neuron fires; positive.
        rule: learning rule.
        impl: ``"reference"`` (plain PyTorch, any device), ``"cpu"`` (fused kernels for float32 and
            float64 on the CPU), ``"cuda"`` (fused kernels for float32, float64 and bfloat16 on a
            GPU; bfloat16 is computed with in float32; needs Triton) or ``"auto"`` (the fused
            kernels that take the input and the rule, otherwise the reference).
        shared: what the layers of a network share, for rules that look beyond one layer or
            process; by default `current` is all there is.

    Returns:
        Spikes ``[T, ...]``, 0 or 1, in the dtype of `current`.

    Raises:
        InvalidInput: the input, a constant or the implementation does not fit.

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

    Arguments, errors and source are those of `spikes`.
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
    """``spikes(psc(x))`` in one kernel, then sum pooling and a second `psc` where asked for.

    The synaptic filter commutes with the linear connection before it, so a network may filter the
    connection's result and pass spikes from layer to layer.

    Args:
        x: ``[T, N, ...]``, or ``[N, ...]`` with `time_steps`: an input that is the same at every
            step, as the connection's result for a static image is. With pooling it ends in
            ``[C, H, W]``.
        neurons: what the layer computes, and how.
        time_steps: number of steps T of a constant input.
        shared: as for `spikes`.
        constants: `tau_m`, `tau_s` and `threshold` as a tensor ``[3]`` where they are trained; its
            values are those of `neurons`, and it receives their gradients (README.md, 24 to 27).
            It takes `filter_input`; the kernels of the GPU do without it.
        name: what an error calls the input.

    Returns:
        ``[T, N, ...]``, or ``[T, N, C, H // pool, W // pool]``.

    Raises:
        InvalidInput: the input or the implementation does not fit.
    """
    if time_steps is not None and type(time_steps) is not int:
        time_steps = check_whole("time_steps", time_steps)
    if time_steps is not None and time_steps < 1:
        raise InvalidInput(f"time_steps must be at least 1, got {time_steps}")
    _check_input(x if time_steps is None else x[None], name)
    _check_shared(neurons.rule, shared)
    if constants is not None and is_mapped(x, constants):
        raise InvalidInput("torch.func.vmap cannot map neurons whose constants are learned")
    _check_pool(x.ndim + (time_steps is not None), x, neurons.pool)
    steps = time_steps or len(x)
    if constants is None:
        implementation = _implementation(neurons.impl, x, neurons.rule, steps)
        return cast(Tensor, implementation.layer(x, neurons, time_steps or 0, shared))
    if not neurons.filter_input:
        raise InvalidInput("constants are trained of neurons behind a filter; tau_s = 1 is none")
    implementation = _implementation(_learning(neurons.impl, x), x, neurons.rule, steps)
    return cast(Tensor, implementation.layer(x, neurons, time_steps or 0, shared, constants))


def _checked_once(output_psc: bool, rule: Rule, impl: str, *constants: float) -> NeuronLayer:
    for name, value in zip(("tau_m", "tau_s", "threshold"), constants, strict=True):
        check_number(name, value)
    key: tuple[Any, ...] = output_psc, rule, impl, *map(float, constants)
    if torch.compiler.is_compiling():  # it cannot look into what is kept
        return _without_filter(*key)
    try:
        return _kept(*key)
    except TypeError:  # something that cannot be a key, a rule with a list for example
        return _without_filter(*key)


def _without_filter(output_psc: bool, rule: Rule, impl: str, *constants: float) -> NeuronLayer:
    return NeuronLayer(Neuron(*constants), rule, impl, filter_input=False, output_psc=output_psc)


_kept = functools.lru_cache(maxsize=256)(_without_filter)  # the checks cost a small layer a tenth


def _implementation(impl: str, x: Tensor, rule: Rule | None, steps: int = 1) -> ModuleType:
    """Choose the implementation once; what it cannot do is an error that names one that can."""
    able = "reference" if is_exported() else _fitting(x)
    name = able if impl == "auto" else impl
    if name != "reference" and not _fits(name, x):
        *most, last = (str(dtype).removeprefix("torch.") for dtype in DTYPES[name])
        raise InvalidInput(
            f"impl={name!r} takes {', '.join(most)} or {last} on device {name}, "
            f"got {x.dtype} on {x.device}; impl={able!r} takes it"
        )
    if name == "cuda" and is_mapped(x):
        raise InvalidInput("torch.func.vmap cannot map impl='cuda'; impl='reference' it can")
    if name != "reference" and is_exported():
        raise InvalidInput(
            f"a graph of impl={name!r} holds kernels that no other program has; impl='auto' takes "
            "plain PyTorch while it is traced"
        )
    if name == "cuda" and not _HAS_TRITON:
        raise InvalidInput(
            "impl='cuda' needs the package triton, which is not installed; "
            f"pip install 'tsslbp[gpu]' brings it, impl={able!r} does without"
        )
    if name == "cpu" and not COMPILES:
        raise InvalidInput(
            "impl='cpu' needs Numba's compiler, which NUMBA_DISABLE_JIT turns off; "
            f"impl={able!r} does without"
        )
    module = _module(name)
    if rule is None or steps <= _most_steps(module, rule):
        return module
    if impl == "auto" and type(rule) in reference.BACKWARD:
        return reference
    if impl == "auto":
        raise InvalidInput(
            f"no implementation has the learning rule {type(rule).__name__}: "
            "enter its function into tsslbp.neuron.reference.BACKWARD, see docs/rules.md"
        )
    known = ", ".join(known.__name__ for known in module.BACKWARD)
    elsewhere = module is not reference and type(rule) in reference.BACKWARD
    hint = "; impl='reference' has it" if elsewhere else ""
    many = f" in {steps} time steps" if type(rule) in module.BACKWARD else ""
    raise InvalidInput(
        f"impl={name!r} has no learning rule {type(rule).__name__}{many}; it has: {known}{hint}"
    )


def _module(name: str) -> ModuleType:
    """Import an implementation, which takes a moment: only when used.

    By statements, which torch.compile carries out; it would trace what import_module does.
    """
    if name == "cpu":
        from . import cpu

        return cpu
    if name == "cuda":
        from . import cuda

        return cuda
    return reference


def _learning(impl: str, x: Tensor) -> str:
    """The implementation that `impl` means where constants are trained."""
    if impl == "cuda":
        raise InvalidInput(
            "impl='cuda' compiles a neuron's constants into its kernels and cannot train them; "
            "impl='auto' takes plain PyTorch on a GPU"
        )
    return "reference" if impl == "auto" and _fitting(x) == "cuda" else impl


def _most_steps(module: ModuleType, rule: Rule) -> float:
    """For how many time steps an implementation has a rule; 0 where it has none."""
    if type(rule) not in module.BACKWARD:
        return 0
    limits: dict[type[Rule], int] = getattr(module, "MOST_STEPS", {})
    return limits.get(type(rule), math.inf)


def _check_shared(rule: Rule, shared: Shared | None) -> None:
    if rule.is_normalised and shared and shared.mean:
        raise InvalidInput(
            f"{type(rule).__name__} scales gradients by means over the whole batch, which several "
            "processes do not share; train in one process, or with normalise=False"
        )


def _fitting(x: Tensor) -> str:
    """The fastest implementation that takes `x` and is installed; the GPU's cannot be mapped."""
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
