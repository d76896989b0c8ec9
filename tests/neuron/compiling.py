"""The GPU kernels, compiled for a GPU that need not be there."""

from __future__ import annotations

import importlib.util
import sys

import pytest
import torch

import tsslbp
from tsslbp import TSSLBP
from tsslbp.rules import Rule

needs_compiler = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None or sys.platform != "linux",
    reason="no compiler: triton is not installed, or this is not Linux",
)


def constants(**settings):
    """Of a layer behind a connection."""
    from tsslbp.neuron.cuda_kernels import LayerConstants

    return LayerConstants(tsslbp.Neuron(), filter_input=True, **settings)


def compiled(
    extent,
    k,
    rule: Rule = TSSLBP(),  # noqa: B008
    real=torch.float32,
    rate=torch.int64,
) -> list:
    """The forward and the backward kernel as they are launched for a layer of such an extent.

    `rate` is the dtype of what says the layer's: a count, or the rate of several processes.
    """
    from tsslbp.neuron import cuda
    from tsslbp.neuron.cuda_kernels import backward_kernel, forward_kernel

    count, windows = torch.int64, extent.neurons // k.pool**2
    counts = rule.reads_rate
    forward = forward_kernel.warmup(
        *(real, real, count, extent.steps, windows, extent.row, extent.inner),
        **{"k": k, "COUNT": counts, "grid": (1,)},
        **cuda._forward_settings(real.itemsize, extent, k),
        **cuda.LAUNCH,
    )
    saved = torch.promote_types(real, torch.float32)
    backward = backward_kernel.warmup(
        *(real, real, real, rate, saved, torch.float64),
        *(*extent, extent.steps * extent.neurons),
        **{"k": k, "grid": (1,)},
        **cuda._rule_settings(rule),
        **cuda._backward_settings(real.itemsize, extent),
        **cuda.LAUNCH,
    )
    return [forward, backward]
