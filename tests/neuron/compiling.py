"""Functions that compile the GPU kernels for a GPU that need not be present.

They run in the process of the fixture `compiler`, in which Triton compiles the kernels instead of
interpreting them.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from typing import Any

import pytest
import torch

import tsslbp
from tsslbp import TSSLBP
from tsslbp.rules import Rule

needs_compiler = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None or sys.platform != "linux",
    reason="no compiler: triton is not installed, or this is not Linux",
)


class _Hopper:
    """The driver's answers that Triton's compiler needs, for a GPU of compute capability 9.0."""

    def get_current_target(self):
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 99  # kernels compiled here are for no device of this machine

    def get_current_stream(self, device: int | None = None) -> int:
        return 0


def prepare(cache: str) -> None:
    """Set up this process to compile kernels, into a cache folder of its own."""
    os.environ.update(TRITON_INTERPRET="0", TRITON_CACHE_DIR=cache)


def _compile(
    settings: dict[str, Any],
    extent: tuple[int, ...],
    rule: Rule,
    real: torch.dtype = torch.float32,
    rate: torch.dtype = torch.int64,
) -> list:
    from triton.runtime import driver

    from tsslbp.neuron import cuda
    from tsslbp.neuron.cuda_kernels import LayerConstants, backward_kernel, forward_kernel

    driver._active = _Hopper()  # `set_active` would look for a GPU
    k = LayerConstants(tsslbp.Neuron(), filter_input=True, **settings)
    of = cuda.Extent(*extent)
    count, windows = torch.int64, of.neurons // k.pool**2
    forward = forward_kernel.warmup(
        *(real, real, count, of.steps, windows, of.row, of.inner),
        **{"k": k, "COUNT": rule.reads_rate, "grid": (1,)},
        **cuda._forward_settings(real.itemsize, of, k),
        **cuda.LAUNCH,
    )
    saved = torch.promote_types(real, torch.float32)
    backward = backward_kernel.warmup(
        *(real, real, real, rate, saved, torch.float64),
        *(*of, of.steps * of.neurons),
        **{"k": k, "grid": (1,)},
        **cuda._rule_settings(rule),
        **cuda._backward_settings(real.itemsize, of),
        **cuda.LAUNCH,
    )
    return [forward, backward]


def machine_code(
    steps: int,
    neurons: int,
    rule: Rule = TSSLBP(),  # noqa: B008
    settings: Any = (),
    **dtypes: torch.dtype,
) -> list[dict[str, str]]:
    """Return PTX and SASS of the forward and backward kernels as launched for a layer.

    The layer follows a connection. Of the `dtypes`, `real` is that of the values, and `rate` that
    of what the backward kernel receives about the layer's firing rate: an integer for a number of
    spikes, a float for the rate over several processes.
    """
    settings = dict(settings)
    extent = steps, neurons, 64 if settings.get("pool", 1) > 1 else 1
    kernels = _compile(settings, extent, rule, **dtypes)
    return [{form: kernel.asm[form] for form in ("ptx", "sass")} for kernel in kernels]


def variants(layers: list[tuple[int, int]]) -> list[int]:
    """Return the number of kernels compiled after each of the `layers` (steps, neurons)."""
    from tsslbp.neuron.cuda_kernels import backward_kernel, forward_kernel

    counts = []
    for layer in layers:
        _compile({}, layer, TSSLBP())
        kernels = forward_kernel, backward_kernel
        counts.append(sum(len(kernel.device_caches[99][0]) for kernel in kernels))
    return counts
